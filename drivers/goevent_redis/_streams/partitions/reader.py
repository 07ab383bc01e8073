"""The reader of partitions: takes entries off those streams that this bus has a lease of.

A blocking XREADGROUP would be answered, whenever something arrives, also if its lease is over by
then: the entry would be in the hands of a bus that is frozen, and the next owner would pass it by.
So there are two steps. A plain XREAD waits for news of all streams at once, and gives nothing out.
Then a script reads each stream with news, if the fence is still ours and the group is where we
think it is. While there is much to read, nothing waits: reads follow each other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import trio

from ..._link.connection import RedisConnection
from ..keys import HEIR
from ..reader import BLOCK, PAUSE, Reader
from ..scripts import Call, call_many
from ..stream import Entry, Feed, Fields, Window, largest, place, text
from .lease import Lease, Reading
from .scripts import READ, TAKE, fenced, fenced_by

GRACE = 0.02  # seconds without news, at most, while a stream is full that gets on

Read = tuple[Feed, Lease, Reading]


class PartitionReader(Reader):
    """The reader of one open bus whose names have partitions."""

    _full: Mapping[Feed, int] = MappingProxyType({})  # what has news and no room, and how full
    _flows: bool = False  # there is going to be room soon
    _quota: int = 1  # how many entries may be held of each stream

    def freed(self) -> None:
        """Take note that an entry is held no more: there may be room for what was full."""
        if self._full and any(self._has_room(feed) for feed in self._full):
            self.change()

    def readable(self) -> list[Feed]:
        """Return the feeds that can be read at the moment: those with a lease."""
        return [feed for feed in super().readable() if feed.lease is not None and feed.lease.open]

    async def _read_on(self, connection: RedisConnection) -> None:
        client = await connection.call("CLIENT", "ID")
        while not self._stopped and self.readable():
            self._stale = False
            if await self._draw():
                continue
            watched = {
                feed.key.encode(): feed
                for feed in self.readable()
                if feed.lease is not None and not feed.lease.reading(feed).news
            }
            if self._stopped or self._stale:
                continue
            if self._flows:
                await self._until_changed(GRACE)
                continue
            self.blocked = client
            if watched:
                await self._watch(connection, watched)
            else:
                await self._until_changed(BLOCK)
            self.blocked = None
            self._end()

    async def _until_changed(self, seconds: float) -> None:
        self._woken = trio.Event()
        with trio.move_on_after(seconds):
            await self._woken.wait()

    async def _watch(self, connection: RedisConnection, feeds: dict[bytes, Feed]) -> None:
        """Wait until there is news of streams that have none."""
        readings = {
            key: feed.lease.reading(feed) for key, feed in feeds.items() if feed.lease is not None
        }
        command: list[Any] = ["XREAD", "COUNT", 1, "BLOCK", round(BLOCK * 1000), "STREAMS"]
        command += [*readings, *(reading.after for reading in readings.values())]
        timeout = BLOCK + connection.config.read_timeout
        reply = await connection.call(*command, timeout=timeout)
        for key in reply or ():
            readings[key].news = True

    # -- reading

    def _has_room(self, feed: Feed) -> bool:
        return self._quota - len(feed.held) >= max(1, self._quota // 4)

    async def _draw(self) -> bool:
        """Read what is new; return False if there was nothing that could be read."""
        reads: list[Read] = []
        calls: list[Call] = []
        full: dict[Feed, int] = {}
        feeds = self.readable()
        self._quota = max(1, self._window.limit // max(1, len(feeds)))
        for feed in feeds:
            lease = feed.lease
            if lease is None or not (reading := lease.reading(feed)).news:
                continue
            if not self._has_room(feed):
                full[feed] = len(feed.held)
                continue
            make = self._taking if reading.behind else self._reading
            calls.append(fenced(make(feed, reading, self._quota - len(feed.held)), lease))
            reads.append((feed, lease, reading))
        # To end a read that waits takes long, beside what it takes until there is room.
        self._flows = any(self._full.get(feed) != held for feed, held in full.items())
        self._full = full
        if not calls:
            return False
        replies = await call_many(self._link, calls)
        for (feed, lease, reading), reply in zip(reads, replies, strict=True):
            if isinstance(reply, Exception):
                await self._refused_read(feed, lease, reply)
            elif reading.behind:
                self._took(feed, lease, reading, *reply)
            else:
                self._have_read(feed, lease, reading, *reply)
        return True

    def _taking(self, feed: Feed, reading: Reading, room: int) -> Call:
        args = (self._keys.group, self._consumer, HEIR, reading.behind, room, *self._limits)
        return TAKE, (feed.key,), (*args, *feed.held)

    def _reading(self, feed: Feed, reading: Reading, room: int) -> Call:
        args = (self._keys.group, self._consumer, reading.after, room, *self._limits)
        return READ, (feed.key,), args

    @property
    def _limits(self) -> tuple[int, int]:
        """Of a reply, and of an entry, in bytes."""
        config = self._link.config
        return config.max_reply_size // 2, largest(config)

    def _took(
        self,
        feed: Feed,
        lease: Lease,
        reading: Reading,
        taken: list[tuple[bytes, list[bytes], int, bytes]],
        gone: list[bytes],
        rest: bytes,
        last: bytes,
    ) -> None:
        """Take in what was pending, in the order of the stream."""
        self._troubles.trimmed(feed, gone)
        reading.behind = rest
        if lease.lost:
            return
        for entry_id, fields, deliveries, owner in taken:
            ours = not reading.fresh and text(owner) == self._consumer
            entry = self.intake(feed, entry_id, list(fields), int(deliveries))
            if entry is None:
                continue
            # Of our own, the reply to the read was lost: unless we have seen it, it is new.
            left = text(owner) != HEIR and not ours
            if ours and place(entry_id) <= reading.seen:
                entry.redelivered = max(2, entry.deliveries)
            reading.seen = max(reading.seen, place(entry_id))
            self._take([entry], left)
        if not rest:
            reading.after, reading.fresh, reading.news = last, False, True

    def _have_read(
        self,
        feed: Feed,
        lease: Lease,
        reading: Reading,
        last: bytes,
        found: list[tuple[bytes, Fields]] | None = None,
    ) -> None:
        if lease.lost:
            return
        if found is None:  # more or less was handed out than we know of
            reading.behind = b"-"
            return
        self._troubles.works()
        reading.news = bool(found)
        entries: list[Entry] = []
        for entry_id, fields in found:
            entry = self.intake(feed, entry_id, fields, 1)
            if entry is not None:
                if place(entry_id) <= reading.seen:  # the group was made anew
                    entry.redelivered = 2
                entries.append(entry)
        if found:
            reading.after = found[-1][0]
            reading.seen = max(reading.seen, place(reading.after))
        self._take(entries, False)

    async def _refused_read(self, feed: Feed, lease: Lease, error: Exception) -> None:
        if fenced_by(error) is not None:
            lease.until = -math.inf  # the keeper will notice, and report it
        elif self._troubles.is_gone(error):
            await self._troubles.mend(feed)
            await trio.sleep(PAUSE)
        else:
            raise error


class PartitionWindow(Window):
    """How much of the prefetch is in use, for those who wait for a part of it."""

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self.told: list[Callable[[], None]] = []

    def give(self, count: int) -> None:
        """Take note that entries are held no more."""
        super().give(count)
        for tell in self.told:
            tell()
