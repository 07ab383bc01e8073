"""Feeds: one member of a consumer group each, which reads the topic of one event name.

A feed owns three tasks: one reads, and goes on asking the client while there is no room, with
partitions paused, as who does not ask is thrown out of the group; one hands over; one commits.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Collection, Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any

from goevent import DriverConnectionError, DriverError
from goevent.drivers import Backlog

from .._adapter.contract import AdapterHost, Arrival
from .._config import BrokerConfig
from .client import KafkaClient, KafkaConsumer
from .flow_control import Brake
from .middlewares import Gate
from .offsets import Place, Record, State, Window, backlog_of
from .topics import consumer_group

BATCH = 250  # messages in one read
POLL = 0.25  # seconds that a read may wait
PAUSE = 0.5  # seconds until a read that has failed is tried again, and a full bus is let rest
COMMIT = 0.1  # seconds between two commits; doubles while the group refuses them
LONGEST = 3.0
GRACE = 0.5  # seconds for listeners to end with events of a partition that is given up
FAREWELL = 0.5  # seconds for the last commit
JOIN = 8.0  # seconds to wait for a place in the group
TRIES = 10  # to become a member, at first
AGAIN = 0.1  # seconds until an event comes again that was given back while the feed goes on


class Feed:
    """One member of one consumer group.

    Attributes:
        name: the event's name.
        topic: its topic.
        group: the consumer group.
        vias: the names and patterns that it was subscribed to by.
    """

    def __init__(
        self,
        broker: Any,
        client: KafkaClient,
        host: AdapterHost,
        config: BrokerConfig,
        name: str,
        topic: str,
        start: str | datetime,
    ) -> None:
        self.name, self.topic = name, topic
        self.vias: dict[str, None] = {}
        self._host, self._config, self._start = host, config, start
        # More than the bus holds, as one that hangs must not keep the others from running.
        self._brake = Brake(max(1000, 4 * config.prefetch))
        self._windows: dict[int, Window] = {}
        self._limbo: dict[int, Window] = {}
        self._ready: deque[Record] = deque()
        self._filled, self._drained = asyncio.Event(), asyncio.Event()
        self._dirty = asyncio.Event()
        self._joined, self._settled = asyncio.Event(), asyncio.Event()
        self._committing = asyncio.Lock()
        self._closed = self._stopping = False
        self._refused = 0.0  # seconds to wait, as the group takes no commits now
        self._lag = 0
        self._tasks: list[asyncio.Task[None]] = []
        self.group = consumer_group(config.group or "", topic)
        self._gate = Gate(broker, topic, self.group, self._arrive)
        self._client = client
        self._consumer = self._member()
        self._failure: DriverError | None = None

    # -- its life

    def _member(self) -> KafkaConsumer:
        return self._client.consumer(self.topic, self.group, self._config.claim_idle, self)

    async def start(self) -> None:
        """Join the group; returns when there are partitions, or the group takes its time.

        Raises:
            DriverError: the group does not take us in.
        """
        create = asyncio.get_running_loop().create_task
        self._tasks = [create(self._take_part()), create(self._hand_over()), create(self._tell())]
        # Another member may keep the group waiting, and asking again would only prolong it.
        with suppress(TimeoutError):
            async with asyncio.timeout(JOIN):
                await self._joined.wait()
        if self._failure is not None:
            await self.stop(lost=True)
            raise self._failure

    def halt(self) -> None:
        """Hand nothing over any more; what listeners have is still committed when they are done."""
        self._stopping = True
        self._ready.clear()
        self._drained.set()

    async def stop(self, *, lost: bool = False, wait: bool = True) -> None:
        """Commit what is settled and leave the group.

        Args:
            lost: there is no connection, so nothing can be committed.
            wait: listeners may end with what they have, which takes a moment.
        """
        if self._closed:
            return
        self.halt()
        cut = self._committing.locked()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        windows = [*self._windows.values()]
        for window in windows if cut else ():
            window.committed = Place(-1)  # what is told of it may be old by now
        if not lost:
            if wait:
                await self._calm(windows)
            try:
                async with asyncio.timeout(FAREWELL):
                    # The group may be sharing out anew, and nobody tells of the end of that.
                    while not await self._commit(windows):  # noqa: ASYNC110
                        await asyncio.sleep(COMMIT / 2)
            except (TimeoutError, DriverError) as error:
                why = str(error) or f"no answer within {FAREWELL:g} s"
                untold = DriverError(f"the end of some events could not be told: {why}")
                self._host.report(untold, self.name)
        self._closed = True
        for window in windows:
            window.live = False
        await self._consumer.stop()

    # -- partitions, as told by the client

    async def assigned(self, places: Mapping[int, Place | None]) -> Mapping[int, int]:
        """Take partitions over."""
        fresh = [partition for partition, place in places.items() if place is None]
        starts: Mapping[int, int] = {}
        if fresh:
            starts = await self._consumer.find(fresh, self._start)
        begin: dict[int, int] = {}
        for partition, committed in places.items():
            place = committed or Place(starts[partition])
            window = self._limbo.pop(partition, None)
            if window is None or window.committed != place:
                window = Window(partition, place)
                if committed is None:  # or who comes next would begin elsewhere
                    window.committed = Place(-1)
            # Else nobody has gone on with it since it was given up: what listeners have is theirs.
            window.live = True
            self._windows[partition] = window
            self._brake.release(partition)
            self._ready.extend(window.waiting())
            begin[partition] = window.position
        self._limbo.clear()
        self._filled.set()
        self._dirty.set()
        self._joined.set()
        return begin

    async def revoked(self, partitions: Collection[int]) -> None:
        """Give partitions up: wait a little for listeners, and commit the settled prefix."""
        windows = [self._windows[each] for each in partitions if each in self._windows]
        for window in windows:
            window.live = False
        if self._closed or not windows:
            return
        try:
            await self._calm(windows)
            await self._commit(windows)
        except DriverError as error:
            self._host.report(error, self.name)
        finally:
            self.lost(partitions)

    def lost(self, partitions: Collection[int]) -> None:
        """Forget partitions; what listeners say of their events later is not told any more."""
        for partition in partitions:
            window = self._windows.pop(partition, None)
            if window is not None:
                window.live = False
                self._limbo[partition] = window
        self._drained.set()

    async def _calm(self, windows: Collection[Window]) -> None:
        """Wait a little until listeners are done with what they have; the rest comes again."""
        with suppress(TimeoutError):
            async with asyncio.timeout(GRACE):
                while any(window.handed() for window in windows):
                    self._settled.clear()
                    await self._settled.wait()

    # -- from the broker

    async def _take_part(self) -> None:
        """Be a member of the group, and become one again when the client has given up."""
        failures = 0
        while True:
            try:
                await self._consumer.start()
                await self._read()
            except DriverError as error:
                failures += 1
                if self._joined.is_set():
                    self._host.report(error, self.name)
                elif failures == TRIES:
                    self._failure = error
                    self._joined.set()
                    return
            self.lost([*self._windows])
            await self._consumer.stop()
            await asyncio.sleep(PAUSE / 5)
            self._consumer = self._member()

    async def _read(self) -> None:
        while True:
            try:
                if self._stopping or not await self._has_room():
                    await self._rest()
                    continue
                self._brake.fit(self._consumer, self._windows)
                for record in await self._consumer.read(BATCH, POLL):
                    self._admit(record)
                if self._ready:
                    self._filled.set()
            except DriverConnectionError:
                await asyncio.sleep(PAUSE)  # the link tells of it

    def _admit(self, record: Record) -> None:
        window = self._windows.get(record.partition)
        if window is None:
            return
        if record.offset < window.base:
            text = f"the partition {self.topic}-{record.partition} has begun anew"
            self._host.report(DriverError(text), self.name)
            window.live = False
            window = Window(record.partition, Place(record.offset))
            self._windows[record.partition] = window
        if window.admit(record):
            self._ready.append(record)

    async def _has_room(self) -> bool:
        """Return whether more may be read, after waiting a little if not."""
        if len(self._ready) < BATCH:
            return True
        self._drained.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(PAUSE):
                await self._drained.wait()
        return self._drained.is_set()

    async def _rest(self) -> None:
        """Go on asking the client, for the sake of the group, while nothing may come."""
        self._brake.pause(self._consumer, {*self._windows})
        for record in await self._consumer.read(1, POLL):
            self._admit(record)  # it was on its way

    # -- to the bus

    async def _hand_over(self) -> None:
        ready, host = self._ready, self._host
        while True:
            self._filled.clear()
            while ready:
                if host.capacity() <= 0:
                    await host.wait_for_capacity()  # meanwhile a partition may go
                    if not ready:
                        break
                record = ready.popleft()
                if len(ready) < BATCH:
                    self._drained.set()
                if not record.window.live or record.state is not State.WAITING:
                    continue
                record.state = State.HANDED
                record.deliveries += 1
                if self._gate.is_open:
                    await self._arrive(record)
                elif not await self._gate.passes(record):
                    self._kept(record)
            self._dirty.set()
            await self._filled.wait()

    async def _arrive(self, record: Record) -> None:
        await self._host.deliver(
            Arrival(
                self.name,
                next(iter(self.vias), self.name),
                record.value,
                record.headers,
                record.deliveries,
                f"{self.topic}-{record.partition}@{record.offset}",
                (self, record),
            )
        )

    def _kept(self, record: Record) -> None:
        """Try a message again that the middlewares of the broker keep, and give it up at last."""
        if record.deliveries < self._config.max_deliveries:
            self.again(record, self._config.pause(record.deliveries))
            return
        text = f"the middlewares of the broker keep the event {record.offset} of {self.name!r}"
        self._host.report(DriverError(text), self.name)
        self.settle(record)

    # -- what becomes of it

    def settle(self, record: Record) -> None:
        """Take note that the bus is done with a message."""
        following = record.window.settle(record)
        if following is not None:
            self._put(following)
        self._dirty.set()
        self._settled.set()

    def again(self, record: Record, pause: float) -> None:
        """Have a message come again after a pause."""
        record.state = State.RESTING
        self._dirty.set()
        self._settled.set()
        asyncio.get_running_loop().call_later(pause, self._wake, record)

    def back(self, record: Record, *, begun: bool) -> None:
        """Take a message back; if nobody has begun with it, it does not count as handed out."""
        record.deliveries -= int(not begun)
        self.again(record, AGAIN)

    def _wake(self, record: Record) -> None:
        if record.state is State.RESTING:
            record.state = State.WAITING
            self._put(record)

    def _put(self, record: Record) -> None:
        if record.window.live and not self._stopping:
            self._ready.append(record)
            self._filled.set()

    # -- to the broker

    async def _tell(self) -> None:
        """Commit what has changed, but not too often.

        A group that shares out anew refuses commits, and a client that is refused joins it again,
        which makes the others do so, too. Insisting on it could keep a group from ever being done.
        """
        while True:
            await self._dirty.wait()
            await asyncio.sleep(self._refused)
            self._dirty.clear()
            try:
                if not await self._commit([*self._windows.values()]):
                    self._dirty.set()
            except DriverError as error:
                self._dirty.set()
                if not isinstance(error, DriverConnectionError):
                    self._host.report(error, self.name)
                await asyncio.sleep(PAUSE)
            await asyncio.sleep(COMMIT)

    async def _commit(self, windows: Collection[Window]) -> bool:
        """Commit what has changed; return False if the group does not take it now."""
        async with self._committing:
            places = {window: window.place() for window in windows}
            changed = {w: place for w, place in places.items() if w.committed != place}
            told = {w.partition: place for w, place in changed.items()}
            if told:
                if not await self._consumer.commit(told):
                    self._refused = min(max(COMMIT, 2 * self._refused), LONGEST)
                    return False
                self._refused = 0.0
            for window, place in changed.items():
                window.committed = place
            return True

    # -- what there is to do

    async def look(self) -> None:
        """See how much there is to do."""
        windows = {**self._windows}
        ends = await self._consumer.ends([*windows])
        self._lag = sum(max(0, end - windows[p].position) for p, end in ends.items())

    def backlog(self) -> Backlog:
        """Return what is to be done with the partitions that this bus has, as last seen."""
        return backlog_of(self.name, self._lag, [*self._windows.values()])
