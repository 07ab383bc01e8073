"""The deliverer: brings entries to the bus, batch by batch.

An actor of the driver. The reader and the claimer enqueue entries. An entry whose previous consumer
died runs isolated, while no other entry runs: it may have killed that consumer, and must not end
the runs of other entries again. An entry whose listener merely failed runs beside the others.
"""

from __future__ import annotations

import math
from collections import deque
from time import perf_counter

import trio
from msgspec.structs import replace
from trio.lowlevel import current_task

from goevent import DecodeError, Envelope
from goevent.drivers import EXHAUSTED, undecodable

from .acknowledger import Acknowledger
from .context import ConsumerContext
from .deduplicator import Deduplicator
from .order import DeliveryOrder
from .stream import Entry, as_text

MAX_BATCH_ENTRIES = 250
WORK_SECONDS_PER_YIELD = 0.0005
ISOLATION_WAIT_SECONDS = 1.0
"""How long an isolated entry that waits for the running ones holds up other entries."""

ISOLATION_REST_SECONDS = 5.0
"""How long other entries then run before an isolated one may hold them up again."""

CERTAIN_SECONDS = 0.05
"""How long the server's answer about finished events is trusted."""

DUPLICATE_PAUSE_SECONDS = 0.05
"""The pause before an entry is delivered again if its event runs from another entry."""

RETRIED_HEADER = "goevent-retried"
REPLAYED_HEADER = "goevent-replayed"


class Deliverer:
    """The deliverer of one open bus."""

    def __init__(
        self,
        context: ConsumerContext,
        acknowledger: Acknowledger,
        order: DeliveryOrder,
        deduplicator: Deduplicator,
    ) -> None:
        self._inbox = context.inbox
        self._config = context.config
        self._acknowledger = acknowledger
        self._order = order
        self._deduplicator = deduplicator
        self._entries: deque[Entry] = deque()
        self._isolated: deque[Entry] = deque()
        self._batch: deque[Entry] = deque()
        self._enqueued = trio.Event()
        self._stopped = False
        self._busy = False
        self._ended = trio.Event()
        self._hold_up_at = -math.inf

    def enqueue(self, entries: list[Entry], isolated: bool) -> None:
        """Deliver entries soon."""
        if not entries:
            return
        if self._stopped or not entries[0].stream.active:
            for entry in entries:
                self._acknowledger.release(entry)
            return
        # All entries of one call are of one stream, and of one kind.
        (self._isolated if isolated else self._entries).extend(entries)
        self._enqueued.set()

    @property
    def has_isolated(self) -> bool:
        """True while an entry waits to run isolated."""
        return bool(self._isolated)

    async def stop(self) -> None:
        """Deliver no more; returns when no listener gets another entry."""
        self._stopped = True
        for queue in (self._batch, self._entries, self._isolated):
            while queue:
                self._acknowledger.release(queue.popleft())
        self._enqueued.set()
        while self._busy:
            self._ended = trio.Event()
            await self._ended.wait()

    def release_inactive(self) -> None:
        """Release the entries of streams that are no longer subscribed to."""
        for queue in (self._batch, self._entries, self._isolated):
            inactive = [entry for entry in queue if not entry.stream.active]
            active = [entry for entry in queue if entry.stream.active]
            queue.clear()
            queue.extend(active)
            for entry in inactive:
                self._acknowledger.release(entry)

    async def run(self) -> None:
        """Deliver the enqueued entries, until cancelled."""
        while True:
            self._enqueued = trio.Event()
            while (self._entries or self._isolated) and not self._stopped:
                self._busy = True
                try:
                    while self._isolated and await self._deliver_isolated():
                        pass
                    if self._entries:
                        await self._deliver_batch()
                finally:
                    self._busy = False
                    self._ended.set()
            await self._enqueued.wait()

    async def _deliver_isolated(self) -> bool:
        """Deliver one entry while no other runs; return False to let others run first."""
        if not await self._all_idle():
            return False
        if not self._isolated:
            # A stop or an unsubscription has released it meanwhile.
            return True
        entry = self._isolated.popleft()
        if entry.deliveries + self._order.uncounted > self._config.max_deliveries:
            self._acknowledger.dead_letter(entry, EXHAUSTED)
            return True
        if not await self._order.may_start_isolated(entry):
            return True
        await self._deliver([entry])
        await self._acknowledger.wait_until_idle()
        return True

    async def _all_idle(self) -> bool:
        """Wait until no entry runs; return False if that takes long, or took long just before."""
        if self._entries and trio.current_time() < self._hold_up_at:
            return False
        with trio.move_on_after(ISOLATION_WAIT_SECONDS) as hold:
            await self._acknowledger.wait_until_idle()
        if hold.cancelled_caught:
            self._hold_up_at = trio.current_time() + ISOLATION_REST_SECONDS
        return not hold.cancelled_caught

    async def _deliver_batch(self) -> None:
        entries = self._entries
        batch = [entries.popleft() for _ in range(min(MAX_BATCH_ENTRIES, len(entries)))]
        await self._deliver(batch)

    async def _deliver(self, batch: list[Entry]) -> None:
        acknowledger, task = self._acknowledger, current_task()
        deliver, deliver_nowait = self._inbox.deliver, self._inbox.deliver_nowait
        may_start = self._order.may_start
        # The batch is an attribute, since `stop` and `release_inactive` take entries out of it.
        left = self._batch
        left.extend(batch)
        deduplicator = self._deduplicator
        finished = await deduplicator.finished_among(batch) if deduplicator.enabled else None
        asked_at = perf_counter()
        yield_at = asked_at + WORK_SECONDS_PER_YIELD
        try:
            while left:
                if finished is not None and perf_counter() - asked_at > CERTAIN_SECONDS:
                    # The listeners were slow: other buses may have finished events meanwhile.
                    finished = await deduplicator.finished_among(list(left))
                    asked_at = perf_counter()
                    continue
                entry = left.popleft()
                if not may_start(entry):
                    continue
                envelope = self._decoded(entry)
                if envelope is None or (finished is not None and self._is_done(entry, finished)):
                    continue
                acknowledger.running += 1
                acknowledger.delivering_task = task if left else None
                # Before the delivery: if it is cancelled on the way, a listener may have begun.
                entry.started = True
                times = entry.shown_deliveries
                if not deliver_nowait(envelope, entry.settle, deliveries=times):
                    await deliver(envelope, entry.settle, deliveries=times)
                # A delivery that needs no waiting does not yield; other tasks must run, too.
                if perf_counter() > yield_at:
                    acknowledger.wake()
                    await trio.lowlevel.checkpoint()
                    yield_at = perf_counter() + WORK_SECONDS_PER_YIELD
        finally:
            acknowledger.delivering_task = None
            acknowledger.wake()

    def _decoded(self, entry: Entry) -> Envelope | None:
        """Return the event in an entry; make an entry without one a dead letter."""
        name = entry.stream.name
        fields = entry.fields
        # The field "e" is the first one, unless other programs write into the stream.
        data = fields[1] if fields and fields[0] == b"e" else entry.data
        try:
            if entry.oversized:
                raise DecodeError(name, "the entry is larger than an event may be")
            if data is None:
                raise DecodeError(name, "the entry has no field 'e'", excerpt=repr(fields)[:100])
            envelope = self._inbox.decode(name, data)
        except DecodeError as error:
            self._inbox.report(error, name)
            self._acknowledger.dead_letter(entry, undecodable(error))
            return None
        if len(fields) == 2 or (len(fields) == 4 and fields[2] == b"k"):
            return envelope
        headers = dict(envelope.headers)
        if entry.field(b"r") is not None:
            headers[RETRIED_HEADER] = "1"
        if (origin := entry.field(b"o")) is not None:
            headers[REPLAYED_HEADER] = as_text(origin)
        return replace(envelope, headers=headers)

    def _is_done(self, entry: Entry, finished: set[str]) -> bool:
        """Tell whether another entry with the same event is done or runs; settle this one if so."""
        if not entry.handle_id:
            return False
        if self._deduplicator.is_finished(entry, finished):
            self._acknowledger.acknowledge(entry)
            return True
        if self._deduplicator.is_running(entry):
            self._acknowledger.release(entry, after=DUPLICATE_PAUSE_SECONDS)
            return True
        return False
