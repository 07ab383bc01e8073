"""Channels: the channel or glob of each event name or pattern, and which messages count.

The driver keeps the subscriptions that it wants, and the receiver those that the server has
confirmed. Redis knows exact channels and glob patterns, and sends a message
once for each subscription that matches. The `*` of a glob also matches dots, so a glob matches more
than a pattern of goevent. A message counts once: from the exact subscription if there is one,
otherwise from the first glob with a pattern that matches. Nothing here does I/O.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from goevent import compile_pattern

MAX_CACHED_NAMES = 10_000
"""The number of event names in each cache, which is emptied when it is full."""

_SPECIAL = re.compile(r"([*?\[\]\\])")


class Channels:
    """Subscriptions by event name and pattern.

    Args:
        prefix: Precedes the event name in each channel.

    Attributes:
        version: Another number after each change.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._escaped_prefix = _SPECIAL.sub(r"\\\1", prefix)
        self._names: dict[str, None] = {}
        # For each glob, its patterns; the globs are in the order of confirmation.
        self._globs: dict[str, dict[str, None]] = {}
        self._matchers: dict[str, Callable[[str], object]] = {}
        self._first_globs: dict[str, str | None] = {}
        self._matching: dict[str, int] = {}
        self.version = 0

    def channel(self, name: str) -> str:
        """Return the channel of an event name."""
        return self._prefix + name

    def glob(self, pattern: str) -> str:
        """Return the glob that matches the channels of all events that a pattern matches."""
        return self._escaped_prefix + pattern.replace("**", "*")

    def name(self, channel: str) -> str | None:
        """Return the event name of a channel; None if the channel has another prefix."""
        return channel.removeprefix(self._prefix) if channel.startswith(self._prefix) else None

    # -- subscriptions

    def add(self, names: Iterable[str]) -> None:
        """Add names and patterns."""
        self._changed()
        for name in names:
            if "*" in name:
                self._globs.setdefault(self.glob(name), {})[name] = None
            else:
                self._names[name] = None

    def remove(self, names: Iterable[str]) -> None:
        """Remove names and patterns."""
        self._changed()
        for name in names:
            if "*" not in name:
                self._names.pop(name, None)
                continue
            patterns = self._globs.get(self.glob(name), {})
            patterns.pop(name, None)
            if not patterns:
                self._globs.pop(self.glob(name), None)

    def set_glob(self, glob: str, patterns: Iterable[str] | None) -> None:
        """Set the patterns of a glob; None if the glob is not subscribed to any more."""
        self._changed()
        if patterns is None:
            self._globs.pop(glob, None)
        else:
            self._globs[glob] = dict.fromkeys(patterns)

    def clear(self) -> None:
        """Remove all subscriptions."""
        self._changed()
        self._names.clear()
        self._globs.clear()

    def patterns(self, glob: str) -> list[str]:
        """Return the patterns of a glob."""
        return list(self._globs.get(glob, ()))

    def split(self, names: Iterable[str]) -> tuple[list[str], list[str]]:
        """Return the channels and the globs for names and patterns, once each."""
        chosen = list(names)
        channels = [self.channel(name) for name in chosen if "*" not in name]
        globs = [self.glob(name) for name in chosen if "*" in name]
        return list(dict.fromkeys(channels)), list(dict.fromkeys(globs))

    def all(self) -> tuple[list[str], list[str]]:
        """Return all channels and all globs."""
        return [self.channel(name) for name in self._names], list(self._globs)

    # -- which messages count

    def counts(self, name: str, glob: str | None) -> bool:
        """Return True if a message counts that came by a glob; None stands for its channel."""
        if glob is None:
            return name in self._names
        return name not in self._names and glob == self._first_glob(name)

    def covers(self, name: str) -> bool:
        """Return True if any subscription is for an event name."""
        return name in self._names or self._first_glob(name) is not None

    def matching_subscriptions(self, name: str) -> int:
        """Return the number of subscriptions of this connection that match a name."""
        try:
            return self._matching[name]
        except KeyError:
            if len(self._matching) >= MAX_CACHED_NAMES:
                self._matching.clear()
            channel = self.channel(name)
            by_globs = sum(1 for glob in self._globs if _glob_matches(glob, channel))
            self._matching[name] = count = by_globs + (name in self._names)
            return count

    def _changed(self) -> None:
        self.version += 1
        if self._first_globs:
            self._first_globs.clear()
        if self._matching:
            self._matching.clear()

    def _first_glob(self, name: str) -> str | None:
        """Return the glob from which messages of a name count, if not from their channel."""
        try:
            return self._first_globs[name]
        except KeyError:
            if len(self._first_globs) >= MAX_CACHED_NAMES:
                self._first_globs.clear()
            self._first_globs[name] = first = self._find_first_glob(name)
            return first

    def _find_first_glob(self, name: str) -> str | None:
        for glob, patterns in self._globs.items():
            if any(self._matcher(pattern)(name) for pattern in patterns):
                return glob
        return None

    def _matcher(self, pattern: str) -> Callable[[str], object]:
        try:
            return self._matchers[pattern]
        except KeyError:
            if len(self._matchers) >= MAX_CACHED_NAMES:
                self._matchers.clear()
            self._matchers[pattern] = matcher = compile_pattern(pattern)
            return matcher


def _glob_matches(glob: str, channel: str) -> bool:
    """Match as Redis does; of its syntax, the globs here only have escapes and `*`."""
    parts = re.split(r"(\\.|\*)", glob)
    regex = "".join(
        ".*" if part == "*" else re.escape(part[1:] if part.startswith("\\") else part)
        for part in parts
    )
    return re.fullmatch(regex, channel, re.DOTALL) is not None
