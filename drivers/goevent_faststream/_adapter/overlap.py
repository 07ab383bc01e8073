"""One delivery for a message that comes once for each of several overlapping subscriptions.

Theory of operation
-------------------

Some brokers send a message once for each subscription of a connection that matches it. The copies
have no common id, they come in any order, and a publisher may send two equal messages. But one
subscription never brings the same message twice.

So `OverlapFilter` counts equal messages by the subscription that brought them. A subscription that
has brought n of them proves that n were sent. If n is larger than every count before, the message
is new; otherwise it is a copy of one that another subscription has brought already. The first copy
is delivered, no matter which subscription brought it, and even if that one ends before the bus has
it: the other copies count no more. When a single subscription is left, copies of messages that
others have brought may still be on their way, so the messages that are remembered count on.
"""

from __future__ import annotations

from collections import OrderedDict

from .subscribed_names import SubscribedNames

MAX_REMEMBERED_MESSAGES = 10_000  # whose copies may still come


class OverlapFilter:
    """The subscriptions of one connection, and the copies that have come."""

    def __init__(self) -> None:
        self._subscribed = SubscribedNames()
        self._seen: OrderedDict[int, dict[str, int]] = OrderedDict()

    def add(self, pattern: str) -> None:
        """Add a name or pattern. Call it before subscribing, or the first messages come twice."""
        self._subscribed.add(pattern)

    def remove(self, pattern: str) -> None:
        """Remove a name or pattern."""
        self._subscribed.remove(pattern)

    def __contains__(self, pattern: object) -> bool:
        return pattern in self._subscribed

    def is_first(self, pattern: str, name: str, body: bytes) -> bool:
        """Return True if a message matches its subscription and is not a copy, so that it counts.

        Args:
            pattern: The name or pattern of the subscription that brought the message.
            name: The event name of the message.
        """
        matching = self._subscribed.matching(name)
        if pattern not in matching:
            return False
        if len(matching) < 2 and not self._seen:
            return True
        key = hash((name, body))
        if len(matching) < 2 and key not in self._seen:
            return True
        counts = self._seen.setdefault(key, {})
        most = max(counts.values(), default=0)
        counts[pattern] = count = counts.get(pattern, 0) + 1
        if len(self._seen) > MAX_REMEMBERED_MESSAGES:
            self._seen.popitem(last=False)
        return count > most
