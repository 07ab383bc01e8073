"""The hands: bring entries to the bus, batch by batch.

An actor of the driver. What was in the hands of a consumer that died runs alone: perhaps it was
what has killed it, and it must not take its neighbours with it again and again. What a listener
has merely failed on is known not to kill, and runs beside the others.
"""

from __future__ import annotations

import math
from collections import deque
from time import perf_counter

import trio
from msgspec.structs import replace
from redis import exceptions as redis_errors
from trio.lowlevel import current_task

from goevent import DecodeError, Envelope
from goevent.drivers import Inbox

from .._link.errors import RedisLinkError
from .._link.link import Link
from .acknowledger import Desk
from .config import StreamsConfig
from .keys import Keys
from .stream import Entry, text

SLICE = 0.0005  # seconds of work between two yields to Trio
BATCH = 250
HOLD = 1.0  # seconds that others are held up by one that is to run alone, and waits for its turn
RESPITE = 5.0  # seconds until they are held up again
CERTAIN = 0.05  # seconds for which it is taken for granted that no event was finished elsewhere
WAIT = 0.05  # seconds until an event is looked at again whose twin is being worked on
RETRIED = "goevent-retried"
REPLAYED = "goevent-replayed"


class Hands:
    """The hands of one open bus."""

    def __init__(
        self, link: Link, inbox: Inbox, desk: Desk, keys: Keys, config: StreamsConfig
    ) -> None:
        self._link = link
        self._inbox = inbox
        self._desk = desk
        self._keys = keys
        self._config = config
        self._fresh: deque[Entry] = deque()
        self._suspects: deque[Entry] = deque()
        self._batch: deque[Entry] = deque()  # what is being handed over
        self._news = trio.Event()
        self._stopped = False
        self._busy = False
        self._ended = trio.Event()
        self._hold_at = -math.inf

    def take(self, entries: list[Entry], alone: bool) -> None:
        """Take entries, to be handed over soon."""
        if not entries:
            return
        if self._stopped or not entries[0].feed.active:
            for entry in entries:
                self._desk.give_back(entry)
            return
        (self._suspects if alone else self._fresh).extend(entries)
        self._news.set()

    @property
    def has_suspects(self) -> bool:
        """True while something is to run alone."""
        return bool(self._suspects)

    async def stop(self) -> None:
        """Hand over no more; returns when nobody else gets anything."""
        self._stopped = True
        for queue in (self._batch, self._fresh, self._suspects):
            while queue:
                self._desk.give_back(queue.popleft())
        self._news.set()
        while self._busy:
            self._ended = trio.Event()
            await self._ended.wait()

    def drop_inactive(self) -> None:
        """Give back what is not subscribed to any more."""
        for queue in (self._batch, self._fresh, self._suspects):
            gone = [entry for entry in queue if not entry.feed.active]
            kept = [entry for entry in queue if entry.feed.active]
            queue.clear()
            queue.extend(kept)
            for entry in gone:
                self._desk.give_back(entry)

    async def run(self) -> None:
        """Hand over what comes, until cancelled."""
        while True:
            self._news = trio.Event()
            while (self._fresh or self._suspects) and not self._stopped:
                self._busy = True
                try:
                    while self._suspects and await self._hand_over_alone():
                        pass
                    if self._fresh:
                        await self._hand_over_batch()
                finally:
                    self._busy = False
                    self._ended.set()
            await self._news.wait()

    async def _hand_over_alone(self) -> bool:
        """Hand over one when nothing else is worked on; False if others are to go on meanwhile."""
        if not await self._calmed():
            return False
        if not self._suspects:
            return True
        entry = self._suspects.popleft()
        # Those of a partition are not counted before it is their turn.
        deliveries = entry.deliveries if entry.lease is None else entry.deliveries + 1
        if deliveries > self._config.max_deliveries:
            reason = "its consumers have ended while they worked on it, or were too slow"
            self._desk.bury(entry, reason)
            return True
        if entry.lease is not None and not await entry.lease.turns.counted(entry):
            return True
        await self._hand_over([entry])
        await self._desk.calm()
        return True

    async def _calmed(self) -> bool:
        """Wait until nothing is worked on, but not long if others wait, too."""
        if self._fresh and trio.current_time() < self._hold_at:
            return False
        with trio.move_on_after(HOLD) as hold:
            await self._desk.calm()
        if hold.cancelled_caught:
            self._hold_at = trio.current_time() + RESPITE
        return not hold.cancelled_caught

    async def _hand_over_batch(self) -> None:
        fresh = self._fresh
        batch = [fresh.popleft() for _ in range(min(BATCH, len(fresh)))]
        await self._hand_over(batch)

    async def _hand_over(self, batch: list[Entry]) -> None:
        desk, task = self._desk, current_task()
        deliver, deliver_nowait = self._inbox.deliver, self._inbox.deliver_nowait
        left = self._batch
        left.extend(batch)
        known = await self._known(batch) if self._config.deduplicate else None
        asked = perf_counter()
        slice_end = asked + SLICE
        try:
            while left:
                if known is not None and perf_counter() - asked > CERTAIN:
                    known = await self._known(list(left))  # the listeners were slow
                    asked = perf_counter()
                    continue
                entry = left.popleft()
                if entry.lease is not None and not entry.lease.open:
                    entry.lease.turns.refuse(entry)
                    continue
                envelope = self._decoded(entry)
                if envelope is None or not self._is_wanted(entry, envelope, known):
                    continue
                desk.running += 1
                desk.batcher = task if left else None
                entry.started = True
                times = entry.redelivered
                if not deliver_nowait(envelope, entry.settle, deliveries=times):
                    await deliver(envelope, entry.settle, deliveries=times)
                if perf_counter() > slice_end:
                    desk.stir()
                    await trio.lowlevel.checkpoint()
                    slice_end = perf_counter() + SLICE
        finally:
            desk.batcher = None
            desk.stir()

    def _decoded(self, entry: Entry) -> Envelope | None:
        """Return the event in an entry; one that holds none becomes a dead letter."""
        name = entry.feed.name
        fields = entry.fields
        data = fields[1] if fields and fields[0] == b"e" else entry.data
        try:
            if entry.oversized:
                raise DecodeError(name, "the entry is larger than an event may be")
            if data is None:
                raise DecodeError(name, "the entry has no field 'e'", excerpt=repr(fields)[:100])
            envelope = self._inbox.decode(name, data)
        except DecodeError as error:
            self._inbox.report(error, name)
            self._desk.bury(entry, str(error), reported=True)
            return None
        if len(fields) == 2 or (len(fields) == 4 and fields[2] == b"k"):
            return envelope
        headers = dict(envelope.headers)
        if entry.field(b"r") is not None:
            headers[RETRIED] = "1"
        if (origin := entry.field(b"o")) is not None:
            headers[REPLAYED] = text(origin)
        return replace(envelope, headers=headers)

    # -- what was done already

    async def _known(self, batch: list[Entry]) -> set[str]:
        """Return the handle ids of the batch whose events are done already."""
        ids: list[str] = []
        for entry in batch:
            data = entry.data
            if data is None or entry.field(b"o") is not None:
                continue
            try:
                handle_id = self._inbox.decode(entry.feed.name, data).handle_id
            except DecodeError:
                continue  # that is reported when it is handed over
            if handle_id:
                entry.handle_id = handle_id
                ids.append(handle_id)
        while ids:
            done = self._keys.done()
            try:
                found = await self._link.execute("MGET", *(done + each for each in ids))
            except RedisLinkError:
                await self._link.ready()
                continue
            except redis_errors.RedisError:
                break  # what is to be done twice then is flagged by its publisher
            return {each for each, value in zip(ids, found, strict=True) if value is not None}
        return set()

    def _is_wanted(self, entry: Entry, envelope: Envelope, known: set[str] | None) -> bool:
        """Tell whether an event is to be handed over; it may have been finished before."""
        if not entry.handle_id or known is None:
            return True
        if entry.handle_id in known or self._desk.was_done(entry.handle_id):
            self._desk.done(entry)
            return False
        if self._desk.underway.setdefault(entry.handle_id, entry) is not entry:
            self._desk.give_back(entry, free_in=WAIT)
            return False
        return True
