"""Turns: of all events with the same name and key, one is at the listeners at a time.

It stands between the reader and the hands. An event whose key is free goes on at once; the others
wait behind it, in the order of their stream, until it is done or a dead letter. One that fails
rests until it is tried again, and keeps its turn meanwhile. Those without a key wait for nobody.
Its `run` is an actor of the driver, and ends those rests.

So whoever works on the events of a key begins with the oldest that is not acknowledged, and goes
on one by one. That holds for a bus that has lost its lease without knowing, too: what it still does
are repeats, and no event is done for the first time before those that stand before it.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable

import trio

from goevent.drivers import Inbox

from ..._link.errors import RedisLinkError
from ..._link.link import Link
from ..._link.resp import Encodable
from ..faults import Lost, Troubles
from ..scripts import Call, call_many
from ..stream import Entry, Feed, Turn, text
from .lease import Lease, Partition
from .scripts import RETRY, fenced, fenced_by

PAUSE = 0.2  # seconds until what Redis has refused is told again

Take = Callable[[list[Entry], bool], None]
Forget = Callable[[Entry], None]


class Turns:
    """The turns of one open bus."""

    def __init__(
        self,
        link: Link,
        inbox: Inbox,
        take: Take,
        forget: Forget,
        group: str,
        consumer: str,
        troubles: Troubles,
    ) -> None:
        self._link = link
        self._inbox = inbox
        self._take = take
        self._forget = forget
        self._group = group
        self._consumer = consumer
        self._troubles = troubles
        self._lines: dict[Turn, deque[Entry]] = {}
        self._parked: dict[Entry, None] = {}  # the first of their lines, with a lease that is shut
        self._rests: list[tuple[float, int, Entry]] = []
        self._rested = 0
        self._wake = trio.Event()

    # -- what others tell

    def enter(self, entries: list[Entry], alone: bool) -> None:
        """Take entries in the order of their stream."""
        ready: list[Entry] = []
        for entry in entries:
            entry.alone = alone
            key = entry.field(b"k")
            if key is None:
                ready.append(entry)
                continue
            entry.turn = turn = (entry.feed.name, key)
            line = self._lines.get(turn)
            if line is None:
                self._lines[turn] = deque((entry,))
                ready.append(entry)
            else:
                line.append(entry)
        self._take(ready, alone)

    def ended(self, entry: Entry) -> None:
        """Take note that an entry is done, or given up: the next one has its turn."""
        entry.resting = False
        turn = entry.turn
        line = None if turn is None else self._lines.get(turn)
        if turn is None or not line or line[0] is not entry:
            return
        line.popleft()
        while line and (line[0].lease is None or line[0].lease.lost):
            line.popleft()
        if not line:
            del self._lines[turn]
        elif line[0].alone and line[0].deliveries == 1:
            # Whoever had it was at the one in front of it, so it need not run alone. Not counted
            # yet, as others that were taken over.
            self._rest(line[0], 0.0)
        else:
            self._take([line[0]], line[0].alone)

    def again(self, entry: Entry, pause: float) -> None:
        """Try an entry again after a pause; it keeps its turn."""
        entry.alone = False
        self._rest(entry, pause)

    def _rest(self, entry: Entry, pause: float) -> None:
        entry.resting = True
        self._rested += 1
        heapq.heappush(self._rests, (trio.current_time() + pause, self._rested, entry))
        self._wake.set()

    def refuse(self, entry: Entry) -> None:
        """Have an entry wait that must not be begun with now."""
        if entry.lease is None or entry.lease.lost:
            self.ended(entry)
        else:
            entry.resting = True
            self._parked[entry] = None

    def resume(self, partition: Partition) -> None:
        """Go on with a partition, after a renewal that came late."""
        for entry in [each for each in self._parked if each.feed.partition is partition]:
            del self._parked[entry]
            entry.resting = False
            self._take([entry], entry.alone)

    def lose(self, lease: Lease) -> None:
        """Forget what was not begun with under a lease that is over, or is to be tried again."""
        for entry in [each for each in self._parked if each.lease is lease]:
            del self._parked[entry]
            self.ended(entry)
        gone = [entry for _, _, entry in self._rests if entry.lease is lease]
        self._rests = [each for each in self._rests if each[2].lease is not lease]
        heapq.heapify(self._rests)
        for entry in gone:
            self.ended(entry)

    async def counted(self, entry: Entry) -> bool:
        """Have Redis note that an entry runs alone now; return False if it is not to run."""
        while True:
            if entry.lease is None or not entry.lease.open:
                self.refuse(entry)
                return False
            args = (self._group, self._consumer, entry.id, entry.deliveries + 1)
            call = fenced((RETRY, (entry.feed.key,), args), entry.lease)
            try:
                (reply,) = await call_many(self._link, [call])
            except RedisLinkError:
                await self._link.ready()
                continue
            if isinstance(reply, Exception):
                await self._refused(entry.feed, [entry], reply)
                return False
            return self._counts(entry, {entry_id: text(owner) for entry_id, owner in reply})

    # -- the rests

    async def run(self) -> None:
        """Have entries tried again when their rest is over, until cancelled."""
        while True:
            self._wake = trio.Event()
            due: list[Entry] = []
            while self._rests and self._rests[0][0] <= trio.current_time():
                due.append(heapq.heappop(self._rests)[2])
            if due:
                await self._retry(due)
            with trio.move_on_at(self._rests[0][0] if self._rests else math.inf):
                await self._wake.wait()

    async def _retry(self, due: list[Entry]) -> None:
        parts: dict[tuple[Feed, Lease | None], list[Entry]] = {}
        for entry in due:
            parts.setdefault((entry.feed, entry.lease), []).append(entry)
        calls: list[Call] = []
        for (feed, lease), part in parts.items():
            args: list[Encodable] = [self._group, self._consumer]
            for entry in part:
                args += [entry.id, entry.deliveries + 1]
            calls.append(fenced((RETRY, (feed.key,), args), lease))
        try:
            replies = await call_many(self._link, calls)
        except RedisLinkError:
            for entry in due:
                self._rest_on(entry, 0.0)
            await self._link.ready()
            return
        for (feed, _), part, reply in zip(parts, parts.values(), replies, strict=True):
            if isinstance(reply, Exception):
                await self._refused(feed, part, reply)
            else:
                self._go_on(part, {entry_id: text(owner) for entry_id, owner in reply})

    def _go_on(self, part: list[Entry], lost: dict[bytes, str]) -> None:
        for entry in part:
            if self._counts(entry, lost):
                entry.resting = entry.alone = False
                self._take([entry], False)

    def _counts(self, entry: Entry, lost: dict[bytes, str]) -> bool:
        if entry.lease is None or entry.lease.lost:
            self.ended(entry)
            return False
        if entry.id in lost:
            self._forget(entry)
            self.ended(entry)
            error = Lost(entry.feed.name, text(entry.id), lost[entry.id])
            self._inbox.report(error, entry.feed.name)
            return False
        entry.deliveries += 1
        entry.redelivered = entry.deliveries
        return True

    async def _refused(self, feed: Feed, part: list[Entry], error: Exception) -> None:
        if self._troubles.is_gone(error):
            for entry in part:  # it comes again, with the group
                self._forget(entry)
                self.ended(entry)
            await self._troubles.mend(feed)
            return
        for entry in part:
            self._rest_on(entry, PAUSE)
        if fenced_by(error) is None:  # that is noticed, and reported, when the lease is renewed
            self._troubles.refused(error, f"deliver events of {feed.name!r} again")

    def _rest_on(self, entry: Entry, pause: float) -> None:
        if entry.lease is None or entry.lease.lost:
            self.ended(entry)
        else:
            self._rest(entry, pause)
