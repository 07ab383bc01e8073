"""The names and patterns that a bus subscribed to, where one queue serves several of them.

The adapters for RabbitMQ and MQTT ask `SubscribedNames` which of them a message matches: the broker
does not tell, and it may send messages that match none, since its own patterns are wider.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from goevent import compile_pattern


class SubscribedNames:
    """Names and patterns, in the order of their subscription."""

    def __init__(self) -> None:
        self._matchers: dict[str, Callable[[str], object]] = {}

    def add(self, pattern: str) -> None:
        """Add a name or pattern."""
        self._matchers[pattern] = compile_pattern(pattern)

    def remove(self, pattern: str) -> bool:
        """Remove a name or pattern; return False if it is unknown."""
        return self._matchers.pop(pattern, None) is not None

    def clear(self) -> None:
        """Remove all names and patterns."""
        self._matchers.clear()

    def match(self, name: str) -> str | None:
        """Return the first name or pattern that an event name matches; None if there is none."""
        for pattern, matches in self._matchers.items():
            if matches(name):
                return pattern
        return None

    def __contains__(self, pattern: str) -> bool:
        return pattern in self._matchers

    def __iter__(self) -> Iterator[str]:
        return iter(self._matchers)
