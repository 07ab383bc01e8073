"""The room of a bus for events of JetStream, and its division among the pull consumers.

The adapter owns one `PullBudget`; each pull consumer asks it how much its next pull may bring, and
tells it of the events that the bus holds.

Theory of operation: A pull names the largest number of events and of bytes. The bytes of all pulls
under way are reserved, so that they and the held events stay within `prefetch_bytes`. A pull
reserves at most half of the free bytes, and the next one half of the rest; but never less than a
small share, or an idle consumer would wait for the others. An event that is larger than the bytes
of its pull is pulled alone, for one consumer at a time.

Each pull costs the server and the client some work when it expires without an event. So pulls last
longer if there are many consumers.
"""

from __future__ import annotations

import asyncio

from goevent.drivers import jittered

from .._adapter.contract import AdapterHost

MAX_PULL_EVENTS = 250
MIN_PULL_SECONDS = 10.0  # the server ends a pull that it could not fill in this time
MAX_PULL_SECONDS = 60.0
IDLE_PULLS_PER_SECOND = 16  # of all consumers together, above which pulls last longer
MIN_PULL_BYTES = 4096


class PullBudget:
    """The room for events, shared by the consumers of one bus.

    Args:
        prefetch_bytes: The largest size of the events that the bus holds.

    Attributes:
        consumers: The number of consumers.
        large_event: Held while an event is pulled that is larger than the bytes of a usual pull.
    """

    def __init__(self, prefetch_bytes: int) -> None:
        self._prefetch_bytes = prefetch_bytes
        self.open(None)

    def open(self, host: AdapterHost | None) -> None:
        """Begin without consumers and events; each opening of a bus has a loop of its own."""
        self._host = host
        self._free_bytes = self._prefetch_bytes
        self.consumers = 0
        self.large_event = asyncio.Lock()

    @property
    def has_room(self) -> bool:
        """True if the bus has room for one more event."""
        return self._host is not None and self._host.capacity() > 0

    async def wait_for_room(self) -> None:
        """Wait until the bus has room for one more event."""
        if self._host is not None:
            await self._host.wait_for_capacity()

    def events(self) -> int:
        """Return how many events the next pull may bring."""
        capacity = self._host.capacity() if self._host is not None else 0
        return min(MAX_PULL_EVENTS, max(1, capacity // max(1, self.consumers)))

    def bytes(self) -> int:
        """Return how many bytes the next pull may bring."""
        share = self._prefetch_bytes // (8 * max(1, self.consumers))
        return max(MIN_PULL_BYTES, share, self._free_bytes // 2)

    def seconds(self, *, is_first: bool) -> float:
        """Return how long the next pull may last.

        Args:
            is_first: It is the first one of its consumer. The first pulls end at different times,
                and so do all that follow.
        """
        seconds = min(MAX_PULL_SECONDS, self.consumers / IDLE_PULLS_PER_SECOND)
        if seconds <= MIN_PULL_SECONDS:
            return MIN_PULL_SECONDS
        return jittered(seconds) if is_first else seconds

    def take(self, size: int) -> None:
        """Reserve bytes for a pull, or count those of an event that the bus holds."""
        self._free_bytes -= size

    def give_back(self, size: int) -> None:
        """Free the bytes of a pull that has ended, or of a settled event."""
        self._free_bytes += size
