"""Channels: which of them stand for which events, and which messages count.

Redis knows exact channels and glob patterns, and sends a message once for each subscription that
matches. Its `*` also matches dots, so its patterns match more than ours. A message counts once:
from its exact subscription if there is one, else from the first glob under which one of our
patterns matches. Nothing in here does I/O.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from goevent import compile_pattern

CACHED = 10_000  # event names of which something is remembered

_SPECIAL = re.compile(r"([*?\[\]\\])")


class Channels:
    """Subscriptions by event name and pattern: those that are wanted, confirmed, or count.

    Args:
        prefix: what stands before the event name in each channel.

    Attributes:
        edition: another number after each change.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._escaped = _SPECIAL.sub(r"\\\1", prefix)
        self._names: dict[str, None] = {}
        # Of each glob, our patterns that it stands for; they are in the order of confirmation.
        self._globs: dict[str, dict[str, None]] = {}
        self._tests: dict[str, Callable[[str], object]] = {}
        self._firsts: dict[str, str | None] = {}
        self._copies: dict[str, int] = {}
        self.edition = 0

    def channel(self, name: str) -> str:
        """Return the channel of an event name."""
        return self._prefix + name

    def glob(self, pattern: str) -> str:
        """Return the glob that matches the channels of all events that a pattern matches."""
        return self._escaped + pattern.replace("**", "*")

    def name(self, channel: str) -> str | None:
        """Return the event name of a channel; None if it is not one of ours."""
        return channel.removeprefix(self._prefix) if channel.startswith(self._prefix) else None

    # -- what is subscribed

    def add(self, names: Iterable[str]) -> None:
        """Take note of names and patterns."""
        self._changed()
        for name in names:
            if "*" in name:
                self._globs.setdefault(self.glob(name), {})[name] = None
            else:
                self._names[name] = None

    def remove(self, names: Iterable[str]) -> None:
        """Forget names and patterns."""
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
        """Take note which patterns a glob stands for; None if it is not subscribed to any more."""
        self._changed()
        if patterns is None:
            self._globs.pop(glob, None)
        else:
            self._globs[glob] = dict.fromkeys(patterns)

    def clear(self) -> None:
        """Forget everything."""
        self._changed()
        self._names.clear()
        self._globs.clear()

    def patterns(self, glob: str) -> list[str]:
        """Return the patterns that a glob stands for."""
        return list(self._globs.get(glob, ()))

    def split(self, names: Iterable[str]) -> tuple[list[str], list[str]]:
        """Return the channels and the globs for names and patterns, once each."""
        chosen = list(names)
        channels = [self.channel(name) for name in chosen if "*" not in name]
        globs = [self.glob(name) for name in chosen if "*" in name]
        return list(dict.fromkeys(channels)), list(dict.fromkeys(globs))

    def all(self) -> tuple[list[str], list[str]]:
        """Return all channels and globs."""
        return [self.channel(name) for name in self._names], list(self._globs)

    # -- which messages count

    def counts(self, name: str, glob: str | None) -> bool:
        """Tell whether a message counts that came by a glob, or by its channel (None)."""
        if glob is None:
            return name in self._names
        return name not in self._names and glob == self._first(name)

    def covers(self, name: str) -> bool:
        """Tell whether any subscription is for an event name."""
        return name in self._names or self._first(name) is not None

    def copies(self, name: str) -> int:
        """Return how often Redis sends a message of this name to our connection."""
        try:
            return self._copies[name]
        except KeyError:
            if len(self._copies) >= CACHED:
                self._copies.clear()
            channel = self.channel(name)
            by_globs = sum(1 for glob in self._globs if _matches(glob, channel))
            self._copies[name] = count = by_globs + (name in self._names)
            return count

    def _changed(self) -> None:
        self.edition += 1
        if self._firsts:
            self._firsts.clear()
        if self._copies:
            self._copies.clear()

    def _first(self, name: str) -> str | None:
        """Return the glob by which messages of a name count, if not by their channel."""
        try:
            return self._firsts[name]
        except KeyError:
            if len(self._firsts) >= CACHED:
                self._firsts.clear()
            self._firsts[name] = first = self._find(name)
            return first

    def _find(self, name: str) -> str | None:
        for glob, patterns in self._globs.items():
            if any(self._test(pattern)(name) for pattern in patterns):
                return glob
        return None

    def _test(self, pattern: str) -> Callable[[str], object]:
        try:
            return self._tests[pattern]
        except KeyError:
            if len(self._tests) >= CACHED:
                self._tests.clear()
            self._tests[pattern] = test = compile_pattern(pattern)
            return test


def _matches(glob: str, channel: str) -> bool:
    """Tell whether Redis would match; of its syntax our globs have escapes and `*` only."""
    parts = re.split(r"(\\.|\*)", glob)
    regex = "".join(
        ".*" if part == "*" else re.escape(part[1:] if part.startswith("\\") else part)
        for part in parts
    )
    return re.fullmatch(regex, channel, re.DOTALL) is not None
