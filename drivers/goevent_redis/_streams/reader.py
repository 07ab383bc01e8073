"""The reader: takes entries off the streams, in batches, on a connection of its own.

An actor of the driver. A blocking read that is cancelled would swallow the next entry: the server
gives it out, and nobody hears of it. So a read is ended by the server, which `CLIENT UNBLOCK` asks
for; and whenever a connection was lost, our own pending entries are looked through for those that
were given out to it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import trio
from redis import exceptions as redis_errors

from .._link.connection import RedisConnection
from .._link.errors import RedisLinkError
from .._link.link import Link
from .._link.pool import Pool
from .._link.resp import Encodable
from .acknowledger import Desk
from .claim_scripts import RECOVER
from .faults import Troubles
from .keys import Keys
from .partitions.lease import Partition
from .scripts import call
from .stream import Entry, Feed, Fields, Window, largest, place

BLOCK = 2.0  # seconds that a read waits at the server
PAUSE = 0.05  # seconds until a read is tried again after an error; doubles
LONGEST = 1.0
NUDGE = 0.01  # seconds between two attempts to end a read

Take = Callable[[list[Entry], bool], None]


class Reader:
    """The reader of one open bus.

    Attributes:
        feeds: what it reads, by key.
        ever: all that it has read at some time, by key.
        blocked: the client id of the connection that a read may wait on.
    """

    def __init__(
        self,
        link: Link,
        pool: Pool,
        desk: Desk,
        keys: Keys,
        consumer: str,
        window: Window,
        troubles: Troubles,
        take: Take,
    ) -> None:
        self.feeds: dict[bytes, Feed] = {}
        self.ever: dict[bytes, Feed] = {}
        self._link = link
        self._pool = pool
        self._desk = desk
        self._keys = keys
        self._consumer = consumer
        self._window = window
        self._troubles = troubles
        self._take = take
        self._stopped = False
        self._stale = False  # what is read has changed since the read began
        self.blocked: int | None = None  # the client id of the connection that waits
        self._changed = trio.Event()
        self._woken = trio.Event()
        self._looked = trio.Event()  # the current round has ended
        self._recover_at = -math.inf
        self._weight = 0  # bytes of the larger ones among the entries that came lately

    # -- what others tell

    def add(
        self, key: str, name: str, *, again: bool = False, partition: Partition | None = None
    ) -> Feed:
        """Read a stream, too, from now on."""
        feed = self.ever.setdefault(key.encode(), Feed(key, name, again=again))
        feed.active = True
        self.feeds[key.encode()] = feed
        if partition is not None:
            partition.take_in(feed)
        self.change()
        return feed

    async def drop(self, feeds: list[Feed]) -> None:
        """Read these no more; returns when nothing of them can come any more."""
        for feed in feeds:
            feed.active = False
        await self._end_round()
        for feed in feeds:
            self.feeds.pop(feed.key.encode(), None)

    async def stop(self) -> None:
        """Read no more; returns when nothing can come any more."""
        self._stopped = True
        await self._end_round()

    def change(self) -> None:
        """Look anew at what is to be read."""
        self._stale = True
        self._changed.set()
        self._woken.set()

    async def _end_round(self) -> None:
        self.change()
        looked = self._looked
        if self.blocked is not None:
            await looked.wait()

    async def nudge(self) -> None:
        """End reads that are out of date, until cancelled: a task of its own."""
        while True:
            await self._changed.wait()
            self._changed = trio.Event()
            while self._stale and self.blocked is not None:
                try:
                    await self._link.execute("CLIENT", "UNBLOCK", self.blocked)
                except RedisLinkError:
                    await self._link.ready()
                except redis_errors.RedisError:
                    break  # it is forbidden: the read ends by itself
                # The read may not have reached the server yet.
                await trio.sleep(NUDGE)

    # -- reading

    async def run(self) -> None:
        """Read until stopped or cancelled."""
        pause = PAUSE
        while not self._stopped:
            if not self.readable():
                await self._idle()
                continue
            began = trio.current_time()
            try:
                await self._link.ready()
                async with self._pool.connection() as connection:
                    try:
                        await self._read_on(connection)
                    except redis_errors.ResponseError:
                        await connection.aclose()  # perhaps the address leads elsewhere by now
                        raise
                continue
            except RedisLinkError:
                # The link has met with the same, and reports it; or the reply was too large, and
                # what is ours now is looked through in smaller pieces.
                pass
            except redis_errors.RedisError as error:
                self._troubles.refused(error, "read events")
            # Not when cancelled: who hands back what is ours has to know of the read.
            self.blocked = None
            self._end()
            pause = PAUSE if trio.current_time() - began > 2 * LONGEST else min(2 * pause, LONGEST)
            await trio.sleep(pause)

    async def _idle(self) -> None:
        self._end()
        self._woken = trio.Event()
        await self._woken.wait()

    def readable(self) -> list[Feed]:
        """Return the feeds that can be read at the moment."""
        return [feed for feed in self.feeds.values() if feed.active and not feed.barred]

    def unbar(self, feed: Feed) -> None:
        """Read a feed again that Redis has let nobody read."""
        feed.barred = False
        self.change()

    def _end(self) -> None:
        looked, self._looked = self._looked, trio.Event()
        looked.set()

    async def _read_on(self, connection: RedisConnection) -> None:
        """Read over one connection, until there is nothing to read."""
        client = await connection.call("CLIENT", "ID")
        # The server may not know yet that an earlier connection is gone, and give out to it.
        await self._recover()
        self._recover_at = trio.current_time() + BLOCK + 0.5
        while not self._stopped and self.readable():
            await self._window.wait(max(1, self._window.limit // 4))
            if trio.current_time() > self._recover_at:
                await self._recover()
            self._stale = False
            await self._recover_new()
            feeds = self.readable()
            if self._stopped or not feeds or self._stale:
                continue
            self.blocked = client
            await self._read(connection, {feed.key.encode(): feed for feed in feeds})
            self.blocked = None
            self._end()

    async def _read(self, connection: RedisConnection, feeds: dict[bytes, Feed]) -> None:
        room = min(self._window.room, connection.config.max_reply_size // 2 // (self._weight + 1))
        count = max(1, room // len(feeds))
        command: list[Any] = ["XREADGROUP", "GROUP", self._keys.group, self._consumer]
        command += ["COUNT", count, "BLOCK", round(BLOCK * 1000), "STREAMS", *feeds]
        command += [">"] * len(feeds)
        timeout = BLOCK + connection.config.read_timeout
        try:
            reply = await connection.call(*command, timeout=timeout)
        except redis_errors.ResponseError as error:
            if not self._troubles.is_gone(error):
                raise
            for feed in list(feeds.values()):
                await self._troubles.mend(feed)
            await trio.sleep(PAUSE)  # if that was not to be mended
            return
        if reply:
            if not any(feed.barred for feed in self.feeds.values()):
                self._troubles.works()
            for key, found in reply.items():
                self._arrived(feeds[key], found)

    def _arrived(self, feed: Feed, found: list[tuple[bytes, Fields]]) -> None:
        if not found:
            return  # what has woken the read was trimmed before it was read
        first, last = place(found[0][0]), place(found[-1][0])
        self._weigh(found[0][1], found[-1][1])
        # The group hands out what is behind its last one only: it was created anew.
        repeats = first <= feed.high
        feed.high = max(feed.high, last)
        entries: list[Entry] = []
        for entry_id, fields in found:
            entry = self.intake(feed, entry_id, fields, 1)
            if entry is not None:
                if repeats:
                    entry.redelivered = 2
                entries.append(entry)
        self._take(entries, False)

    def _weigh(self, *entries: Fields) -> None:
        """Take note of how large entries are; all of them are not worth looking at."""
        for fields in entries:
            if fields:
                self._weight = max(self._weight * 15 // 16, len(fields[-1]))

    @property
    def stopped(self) -> bool:
        """True once nothing more is to be handed over."""
        return self._stopped

    def intake(self, feed: Feed, entry_id: bytes, fields: Fields, deliveries: int) -> Entry | None:
        """Return an entry to hold from now on; None if it is held already, or finished."""
        if entry_id in feed.held:
            return None
        entry = Entry(self._desk, feed, entry_id, fields, deliveries)
        feed.held[entry_id] = entry
        self._window.load += 1
        if entry_id in feed.finished:
            feed.finished.discard(entry_id)
            self._desk.done(entry)
            return None
        return entry

    async def _recover(self) -> None:
        """Look through our own pending entries for those that we do not hold."""
        self._recover_at = math.inf
        for feed in self.readable():
            await self._recover_one(feed)

    async def _recover_new(self) -> None:
        for feed in self.readable():
            if feed.fresh:
                await self._recover_one(feed)

    async def _recover_one(self, feed: Feed) -> None:
        # What a bus of the same name has left when it died, it may have begun with.
        again, more = feed.fresh, 1
        config = self._link.config
        most, top = config.max_reply_size // 2, largest(config)
        while more:
            args: list[Encodable] = [self._keys.group, self._consumer, most, top, int(again)]
            try:
                taken, gone, more = await call(self._link, RECOVER, (feed.key,), *args, *feed.held)
            except redis_errors.ResponseError as error:
                if not self._troubles.is_gone(error):
                    raise
                await self._troubles.mend(feed)
                return
            self._troubles.trimmed(feed, gone)
            self._weigh(*(each[1] for each in taken))
            entries = [self.intake(feed, each[0], each[1], each[2]) for each in taken]
            self._take([entry for entry in entries if entry is not None], again)
        feed.fresh = False
