"""The names and patterns that a bus subscribed to, and the search for those that a name matches.

The adapters for RabbitMQ and MQTT ask `SubscribedNames` which of them a message matches: the broker
does not tell, and it may send messages that match none, since its own patterns are wider.
`OverlapFilter` asks for all of them. Both ask once for each message, and a bus may have many
thousands of names, so names are found in a dict and patterns in a trie.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from goevent import compile_pattern
from goevent.drivers import PatternTrie

MAX_REMEMBERED_NAMES = 10_000  # whose matches are kept


class SubscribedNames:
    """Names and patterns, in the order of their subscription."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Remove all names and patterns."""
        self._added = 0
        # Each with its number in the order of subscription.
        self._numbers: dict[str, int] = {}
        self._patterns: PatternTrie[str] = PatternTrie()
        self._found: dict[str, Sequence[str]] = {}

    def add(self, pattern: str) -> None:
        """Add a name or pattern."""
        if pattern not in self._numbers:
            self._added += 1
            self._numbers[pattern] = self._added
            self._found.clear()
            if "*" in pattern:
                self._patterns.add(pattern, pattern)

    def remove(self, pattern: str) -> bool:
        """Remove a name or pattern; return False if it is unknown."""
        is_known = self._numbers.pop(pattern, None) is not None
        self._found.clear()
        if is_known and "*" in pattern:
            self._patterns.remove(pattern, pattern)
        return is_known

    def match(self, name: str) -> str | None:
        """Return the first name or pattern that an event name matches; None if there is none."""
        found = self.matching(name)
        return found[0] if found else None

    def matching(self, name: str) -> Sequence[str]:
        """Return the names and patterns that an event name matches, in order."""
        found = self._found.get(name)
        if found is None:
            if len(self._found) >= MAX_REMEMBERED_NAMES:
                self._found.clear()
            found = self._found[name] = self._search(name)
        return found

    def _search(self, name: str) -> Sequence[str]:
        found: list[str] = []
        if self._patterns:
            found = self._patterns.match(name)
            # A broker's own name may have empty segments, and `*` stands for none of them.
            if found and "" in name.split("."):
                found = [pattern for pattern in found if compile_pattern(pattern)(name)]
        if name in self._numbers and name not in found:
            found.append(name)
        if len(found) > 1:
            found.sort(key=self._numbers.__getitem__)
        return found

    def __contains__(self, pattern: object) -> bool:
        return pattern in self._numbers

    def __iter__(self) -> Iterator[str]:
        return iter(self._numbers)
