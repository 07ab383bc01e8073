"""Feeds and entries: the streams that are read, and what this bus holds of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

from goevent.drivers import Backlog, Settlement

from .._link.config import RedisConfig

if TYPE_CHECKING:
    from .acknowledger import Desk
    from .partitions.lease import Lease, Partition

Turn = tuple[str, bytes]
"""What events have in common of which one runs at a time: their name and their key."""

MARGIN = 4096  # bytes in an entry beside its event

Fields = list[bytes]
Place = tuple[int, int]


class Feed:
    """A stream that is read.

    Attributes:
        key: its name in Redis.
        name: the name of its events.
        again: it holds what this group only is to get once more; its entries go when they are done.
        active: it is subscribed to.
        barred: Redis refuses to let it be read, as far as known; the others go on without it.
        fresh: what an earlier bus of the same name has left was not looked for yet.
        held: what this bus has of it, by entry id.
        finished: ids of entries that were done when the group was gone, so that nothing could be
            acknowledged.
        high: the highest id that the group was ever seen to have handed out.
        partition: of which it is a stream, if the name has partitions.
        lease: by which this bus may read it, if it is one of a partition.
    """

    def __init__(self, key: str, name: str, *, again: bool = False) -> None:
        self.key = key
        self.name = name
        self.again = again
        self.active = True
        self.barred = False
        self.fresh = True
        self.held: dict[bytes, Entry] = {}
        self.finished: set[bytes] = set()
        self.high: Place = (0, 0)
        self.backlog: Backlog | None = None
        self.warned = False
        self.partition: Partition | None = None
        self.lease: Lease | None = None

    def __repr__(self) -> str:
        return f"<Feed {self.key}, {len(self.held)} held>"


class Entry:
    """One entry that this bus holds.

    Attributes:
        deliveries: how often it was handed out, this time included.
        redelivered: what the listeners are told instead of that; the same, or 2 for an entry that
            may have been handed out before the group was lost.
        started: a listener may have begun with it.
        handle_id: by which its end is remembered, if it is.
        retold: nobody can tell any more whether it was acknowledged already.
        lease: under which it was read, if it is of a partition.
        turn: what it has in common with those that must not overtake it, if it has a key.
        alone: it is to run alone.
        resting: it waits for its turn to be tried again.
    """

    __slots__ = (
        "alone",
        "deliveries",
        "desk",
        "feed",
        "fields",
        "handle_id",
        "id",
        "lease",
        "redelivered",
        "resting",
        "retold",
        "started",
        "turn",
    )

    def __init__(
        self, desk: Desk, feed: Feed, entry_id: bytes, fields: Fields, deliveries: int
    ) -> None:
        self.desk = desk
        self.feed = feed
        self.id = entry_id
        self.fields = fields
        self.deliveries = deliveries
        self.redelivered = deliveries
        self.started = False
        self.handle_id = ""
        self.retold = False
        self.lease = feed.lease
        self.turn: Turn | None = None
        self.alone = False
        self.resting = False

    @property
    def oversized(self) -> bool:
        """True if it is too large to be shown to anybody."""
        return not self.fields

    @property
    def data(self) -> bytes | None:
        """The bytes of the event; None if the entry has none."""
        return self.field(b"e")

    def field(self, name: bytes) -> bytes | None:
        """Return a field of the entry."""
        fields = self.fields
        for at in range(0, len(fields) - 1, 2):
            if fields[at] == name:
                return fields[at + 1]
        return None

    def settle(self, end: Settlement) -> None:
        """Take note that the listeners are done with it."""
        self.desk.settled(self, end)


class Window:
    """How much of the prefetch is in use."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.load = 0
        self._freed = trio.Event()

    @property
    def room(self) -> int:
        """How many more entries may be read."""
        return self.limit - self.load

    def give(self, count: int) -> None:
        """Take note that entries are held no more."""
        self.load -= count
        self._freed.set()

    async def wait(self, room: int) -> None:
        """Wait until there is so much room."""
        while self.room < room:
            self._freed = trio.Event()
            await self._freed.wait()


def largest(config: RedisConfig) -> int:
    """Return the bytes above which an entry holds no event that anybody could have sent."""
    return config.max_event_size + MARGIN


def place(entry_id: bytes | str) -> Place:
    """Return an id as two numbers, which can be compared."""
    ms, _, seq = (entry_id.decode() if isinstance(entry_id, bytes) else entry_id).partition("-")
    return int(ms), int(seq or 0)


def text(value: Any) -> str:
    """Return what a reply holds as text."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
