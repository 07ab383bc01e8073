"""Copies: of a message that comes once for each subscription that matches it, one is let through.

Brokers send a message once for each matching subscription of a connection, or once for all of them,
and the copies come by several ways at several speeds. Whichever comes first is let through, and the
next from each other way is the same message again: so many equal messages are let through as the
way has brought that brought the most. That holds while subscriptions come and go, and needs no id.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from goevent import compile_pattern

REMEMBERED = 10_000  # messages of which copies may still come


class OverlapFilter:
    """What is subscribed to on one connection, and which copies have come."""

    def __init__(self) -> None:
        self._tests: dict[str, Callable[[str], object]] = {}
        self._ways: dict[str, int] = {}
        self._seen: OrderedDict[int, dict[str, int]] = OrderedDict()

    def add(self, via: str) -> None:
        """Add a name or pattern; before the broker is asked, or its first messages come twice."""
        self._tests[via] = compile_pattern(via)
        self._ways.clear()

    def remove(self, via: str) -> None:
        """Remove a name or pattern."""
        self._tests.pop(via, None)
        self._ways.clear()

    def is_first(self, via: str, name: str, body: bytes) -> bool:
        """Tell whether a message that has come by a subscription belongs to it, and is no copy."""
        test = self._tests.get(via)
        if test is None or not test(name):
            return False
        if self._count(name) < 2:
            return True
        key = hash((name, body))
        seen = self._seen.setdefault(key, {})
        most = max(seen.values(), default=0)
        seen[via] = came = seen.get(via, 0) + 1
        if len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)
        return came > most

    def _count(self, name: str) -> int:
        count = self._ways.get(name)
        if count is None:
            if len(self._ways) > REMEMBERED:
                self._ways.clear()
            count = self._ways[name] = sum(bool(test(name)) for test in self._tests.values())
        return count
