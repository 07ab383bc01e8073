"""The key order: of all events with the same name and key, one runs at a time.

It stands between the reader and the deliverer, and is the `DeliveryOrder` of partitions. Its `run`
is an actor of the driver, which delivers failed entries again.

Theory of operation
-------------------

Each key has a queue, in the order of the stream. Only the first entry of a queue may be at the
deliverer or at the listeners. It leaves the queue when it is done, or when it is a dead letter at
the server; then the next one goes to the deliverer. An entry that fails waits for its next delivery
as the first of its queue, so it holds up its key and nothing else. Entries without a key have no
queue.

A bus that takes a partition over reads its pending entries in the order of the stream. So every bus
begins with the oldest entry of a key that is not acknowledged, and goes on one by one. That holds
for a bus that has lost its lease and does not know it, too: it can only repeat events. No event is
done for the first time before the events in front of it.

An entry of a partition is never released to Redis while this bus has the lease, because no other
bus could take it. If its lease is closed (it is drained, or its renewal is late), the entry is
parked. `resume` delivers the parked entries when the lease is open again; `drop` forgets them when
it is lost.

The delivery of a taken-over entry is counted when the entry begins, with PARTITION_COUNT_DELIVERY.
Each delivery after a pause is counted by the same script.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence

import trio

from goevent.drivers import KeyedFifo

from ..._link.errors import RedisLinkError
from ..._link.resp import Encodable
from ..context import ConsumerContext
from ..faults import Lost
from ..lease import Lease, fenced, fenced_by
from ..order import ReleasedEntry
from ..reader import Enqueue
from ..scripts import PARTITION_COUNT_DELIVERY, ScriptCall, call_many
from ..stream import Entry, OrderKey, Stream, as_text

REFUSED_DELIVERY_PAUSE_SECONDS = 0.2
"""The pause before Redis is asked again to count a delivery that it has refused to count."""


class KeyOrder:
    """The order of one open bus whose names have partitions.

    Attributes:
        deliver: Takes the entries that may run now; set by the consumer.
    """

    uncounted = 1

    def __init__(self, context: ConsumerContext) -> None:
        self.deliver: Enqueue
        self._link = context.link
        self._inbox = context.inbox
        self._held = context.held
        self._group = context.keys.group
        self._consumer = context.consumer
        self._faults = context.faults
        self._queues: KeyedFifo[OrderKey, Entry] = KeyedFifo()
        # The first entries of their queues, under a lease that is not open.
        self._parked: dict[Entry, None] = {}
        # Entries by the time of their next delivery; the number keeps the order of equal times.
        self._retries: list[tuple[float, int, Entry]] = []
        self._retry_count = 0
        self._wake = trio.Event()

    # -- from the reader

    def enqueue(self, entries: list[Entry], isolated: bool) -> None:
        """Take entries in the order of their stream."""
        ready: list[Entry] = []
        for entry in entries:
            entry.isolated = isolated
            key = entry.field(b"k")
            if key is None:
                ready.append(entry)
                continue
            entry.order_key = order_key = (entry.stream.name, key)
            if self._queues.add(order_key, entry):
                ready.append(entry)
        self.deliver(ready, isolated)

    # -- as the DeliveryOrder

    def may_start(self, entry: Entry) -> bool:
        """Tell whether the lease of an entry is open; park the entry if not."""
        lease = entry.lease
        if lease is not None and lease.open:
            return True
        self._park(entry)
        return False

    async def may_start_isolated(self, entry: Entry) -> bool:
        """Count the delivery of an isolated entry; return False if it must not begin."""
        while self.may_start(entry):
            args = (self._group, self._consumer, entry.id, entry.deliveries + 1)
            counting = PARTITION_COUNT_DELIVERY, (entry.stream.key,), args
            try:
                (reply,) = await call_many(self._link, [fenced(counting, entry.lease)])
            except RedisLinkError:
                await self._link.ready()
                continue
            if isinstance(reply, Exception):
                await self._refused(entry.stream, [entry], reply)
                return False
            return self._counted(entry, {entry_id: as_text(owner) for entry_id, owner in reply})
        return False

    def finished(self, entry: Entry) -> None:
        """Note that an entry is done, or given up: the next one of its key may run."""
        entry.waiting = False
        order_key = entry.order_key
        if order_key is None or self._queues.first(order_key) is not entry:
            return
        following = self._queues.pop(order_key)
        # Entries of a lost lease belong to another bus.
        while following is not None and _is_lost(following):
            following = self._queues.pop(order_key)
        if following is None:
            return
        if following.isolated and following.deliveries == 1:
            # Its previous consumer was still at the entry in front of it, so this one has not
            # killed it and need not run isolated. Its delivery is not counted yet, like
            # every first delivery of a taken-over entry: a retry without a pause counts it.
            self._retry_at(following, 0.0)
        else:
            self.deliver([following], following.isolated)

    def retry(self, entry: Entry, after: float) -> ReleasedEntry | None:
        """Deliver a failed entry again after a pause; it holds up its key meanwhile."""
        entry.isolated = False
        self._retry_at(entry, after)
        return None

    def release(self, entry: Entry, after: float = 0.0) -> ReleasedEntry | None:
        """Keep an entry with which no listener began, parked or until a retry."""
        if after:
            self.retry(entry, after)
        else:
            self._park(entry)
        return None

    def fenced(self, call: ScriptCall, lease: Lease | None) -> ScriptCall:
        """Return a call that takes effect only while the lease of the partition counts."""
        return fenced(call, lease)

    def _park(self, entry: Entry) -> None:
        if _is_lost(entry):
            self.finished(entry)
        else:
            entry.waiting = True
            self._parked[entry] = None

    # -- from the lease keeper

    def resume(self, lease: Lease) -> None:
        """Deliver the parked entries of a lease, which is open again."""
        for entry in [each for each in self._parked if each.lease is lease]:
            del self._parked[entry]
            entry.waiting = False
            self.deliver([entry], entry.isolated)

    def drop(self, lease: Lease) -> None:
        """Forget the entries of a lost lease that are parked, or wait for a retry."""
        for entry in [each for each in self._parked if each.lease is lease]:
            del self._parked[entry]
            self.finished(entry)
        gone = [entry for _, _, entry in self._retries if entry.lease is lease]
        self._retries = [each for each in self._retries if each[2].lease is not lease]
        heapq.heapify(self._retries)
        for entry in gone:
            self.finished(entry)

    # -- retries

    async def run(self) -> None:
        """Deliver entries again when their pause is over, until cancelled."""
        while True:
            self._wake = trio.Event()
            due: list[Entry] = []
            while self._retries and self._retries[0][0] <= trio.current_time():
                due.append(heapq.heappop(self._retries)[2])
            if due:
                await self._deliver_again(due)
            with trio.move_on_at(self._retries[0][0] if self._retries else math.inf):
                await self._wake.wait()

    async def _deliver_again(self, due: list[Entry]) -> None:
        parts: dict[tuple[Stream, Lease | None], list[Entry]] = {}
        for entry in due:
            parts.setdefault((entry.stream, entry.lease), []).append(entry)
        calls: list[ScriptCall] = []
        for (stream, lease), part in parts.items():
            args: list[Encodable] = [self._group, self._consumer]
            for entry in part:
                args += [entry.id, entry.deliveries + 1]
            calls.append(fenced((PARTITION_COUNT_DELIVERY, (stream.key,), args), lease))
        try:
            replies = await call_many(self._link, calls)
        except RedisLinkError:
            for entry in due:
                self._retry_unless_lost(entry, 0.0)
            await self._link.ready()
            return
        for (stream, _), part, reply in zip(parts, parts.values(), replies, strict=True):
            if isinstance(reply, Exception):
                await self._refused(stream, part, reply)
                continue
            lost = {entry_id: as_text(owner) for entry_id, owner in reply}
            for entry in part:
                if self._counted(entry, lost):
                    entry.waiting = entry.isolated = False
                    self.deliver([entry], False)

    def _counted(self, entry: Entry, lost: dict[bytes, str]) -> bool:
        """Note the new delivery of an entry; return False if another bus owns the entry."""
        if _is_lost(entry):
            self.finished(entry)
            return False
        if entry.id in lost:
            self._held.forget(entry)
            self.finished(entry)
            name = entry.stream.name
            self._inbox.report(Lost(name, as_text(entry.id), lost[entry.id]), name)
            return False
        entry.deliveries += 1
        entry.shown_deliveries = entry.deliveries
        return True

    async def _refused(self, stream: Stream, part: Sequence[Entry], error: Exception) -> None:
        if self._faults.is_gone(error):
            for entry in part:
                # The new group delivers it again.
                self._held.forget(entry)
                self.finished(entry)
            await self._faults.mend(stream)
            return
        for entry in part:
            self._retry_unless_lost(entry, REFUSED_DELIVERY_PAUSE_SECONDS)
        if fenced_by(error) is None:
            # A lost lease is noticed and reported when it is renewed.
            self._faults.refused(error, f"deliver events of {stream.name!r} again")

    def _retry_unless_lost(self, entry: Entry, after: float) -> None:
        if _is_lost(entry):
            self.finished(entry)
        else:
            self._retry_at(entry, after)

    def _retry_at(self, entry: Entry, after: float) -> None:
        entry.waiting = True
        self._retry_count += 1
        at = trio.current_time() + after
        heapq.heappush(self._retries, (at, self._retry_count, entry))
        self._wake.set()


def _is_lost(entry: Entry) -> bool:
    return entry.lease is None or entry.lease.lost
