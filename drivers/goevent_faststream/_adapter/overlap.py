"""One delivery for a message that comes once for each of several overlapping subscriptions.

Theory of operation
-------------------

Some brokers send a message once for each subscription of a connection that matches it. The copies
have no common id, they come in any order, and a publisher may send two equal messages. But one
subscription never brings the same message twice.

So `OverlapFilter` counts equal messages by the subscription that brought them. A subscription that
has brought n of them proves that n were sent. If n is larger than every count before, the message
is new; otherwise it is a copy of one that another subscription has brought already. The first copy
is delivered, no matter which subscription brought it. This holds while subscriptions come and go.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from goevent import compile_pattern

# The messages whose copies may still come, and the event names whose matches are kept.
MAX_REMEMBERED_MESSAGES = 10_000
MAX_REMEMBERED_NAMES = 10_000


class OverlapFilter:
    """The subscriptions of one connection, and the copies that have come."""

    def __init__(self) -> None:
        self._tests: dict[str, Callable[[str], object]] = {}
        self._match_counts: dict[str, int] = {}
        self._seen: OrderedDict[int, dict[str, int]] = OrderedDict()

    def add(self, pattern: str) -> None:
        """Add a name or pattern. Call it before subscribing, or the first messages come twice."""
        self._tests[pattern] = compile_pattern(pattern)
        self._match_counts.clear()

    def remove(self, pattern: str) -> None:
        """Remove a name or pattern."""
        self._tests.pop(pattern, None)
        self._match_counts.clear()

    def is_first(self, pattern: str, name: str, body: bytes) -> bool:
        """Return True if a message matches its subscription and is not a copy, so that it counts.

        Args:
            pattern: The name or pattern of the subscription that brought the message.
            name: The event name of the message.
        """
        test = self._tests.get(pattern)
        if test is None or not test(name):
            return False
        if self._count_matches(name) < 2:
            return True
        key = hash((name, body))
        counts = self._seen.setdefault(key, {})
        most = max(counts.values(), default=0)
        counts[pattern] = count = counts.get(pattern, 0) + 1
        if len(self._seen) > MAX_REMEMBERED_MESSAGES:
            self._seen.popitem(last=False)
        return count > most

    def _count_matches(self, name: str) -> int:
        count = self._match_counts.get(name)
        if count is None:
            if len(self._match_counts) > MAX_REMEMBERED_NAMES:
                self._match_counts.clear()
            count = sum(bool(test(name)) for test in self._tests.values())
            self._match_counts[name] = count
        return count
