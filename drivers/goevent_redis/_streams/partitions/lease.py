"""Leases: by which one bus of a group has a partition of an event name, for a while.

A lease is a record in Redis with an owner, a time at which it ends by the server's clock, and a
fence: a text that begins with a number which grows with each owner, and that no two leases have in
common. Whatever a bus does to a partition, the server does only if the fence is still the one of
its lease: a bus that was frozen, and has lost it meanwhile, can neither read nor acknowledge.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from ..stream import Feed, Place

if TYPE_CHECKING:
    from .key_order import Turns


class Reading:
    """How far a bus is with one stream of a partition, under one lease.

    Attributes:
        behind: from where the pending entries of others are still to be taken over; empty once
            there are none any more. Until then nothing new is read.
        fresh: what is pending was read by somebody before this lease.
        after: the last entry that the group has handed out, as far as we know.
        news: there may be entries behind it.
        seen: the highest id that is known to have been handed out.
    """

    __slots__ = ("after", "behind", "fresh", "news", "seen")

    def __init__(self, seen: Place) -> None:
        self.behind = b"-"
        self.fresh = True
        self.after = b"0-0"
        self.news = True
        self.seen = seen


class Lease:
    """A partition in the hands of this bus, from when it was granted until it is lost or left.

    Attributes:
        fence: what the record in Redis has to hold for this lease to be the one that counts.
        until: up to when nobody else can have it, by the clock of Trio. Counted from before the
            server was asked, so that it ends here first.
        draining: nothing more is begun with, as another bus is to have the partition.
        leaving: Redis was told to give it away.
        lost: it is over.
    """

    __slots__ = (
        "draining",
        "fence",
        "leaving",
        "lost",
        "partition",
        "readings",
        "turns",
        "until",
    )

    def __init__(self, partition: Partition, fence: bytes, until: float, turns: Turns) -> None:
        self.partition = partition
        self.fence = fence
        self.until = until
        self.turns = turns
        self.draining = False
        self.leaving = False
        self.lost = False
        self.readings: dict[Feed, Reading] = {}

    @property
    def open(self) -> bool:
        """True while events of the partition may be begun with."""
        return not (self.lost or self.draining) and trio.current_time() < self.until

    def reading(self, feed: Feed) -> Reading:
        """Return how far this bus is with a stream."""
        reading = self.readings.get(feed)
        if reading is None:
            reading = self.readings[feed] = Reading(feed.high)
        return reading

    @property
    def drained(self) -> bool:
        """True once no listener has any of its events, and Redis knows of all that are done."""
        return not any(
            entry.started and not entry.resting and entry.lease is self
            for feed in self.partition.feeds
            for entry in feed.held.values()
        )


class Partition:
    """A partition of an event name, whoever has it.

    Attributes:
        key: the hash of the leases of its name.
        feeds: its streams: that of the events, and that of those that come once more.
    """

    __slots__ = ("feeds", "key", "lease", "name", "number")

    def __init__(self, key: str, name: str, number: int) -> None:
        self.key = key
        self.name = name
        self.number = number
        self.feeds: list[Feed] = []
        self.lease: Lease | None = None

    def take_in(self, feed: Feed) -> None:
        """Take note that a stream belongs to it."""
        if feed not in self.feeds:
            self.feeds.append(feed)
        feed.partition, feed.lease = self, self.lease

    def held_by(self, lease: Lease | None) -> None:
        """Take note that this bus has it, or has it no more."""
        self.lease = lease
        for feed in self.feeds:
            feed.lease = lease

    def __repr__(self) -> str:
        return f"<Partition {self.number} of {self.name!r}>"
