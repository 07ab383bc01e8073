"""The consumer of one event name: a member of the consumer group that reads its topic.

`KafkaAdapter` owns one consumer for each event name, and `settler` settles its records.

Theory of operation
-------------------

A consumer runs three tasks. One reads: it asks the group member for records and adds them to the
offsets of their partition. One delivers: it takes ready records and hands them to the host, which
waits while the bus is full. One commits, when something has changed.

*Flow control.* Kafka removes a member from its group that does not ask for records in time. So the
reading task never waits for the bus. When enough records are ready, it pauses all partitions and
goes on asking, and single partitions are paused when too many of their records are unsettled. That
limit is a multiple of `prefetch`: one record that hangs holds its partition's offset back, but must
not keep the others of the bus from running.

*Rebalances.* When members come and go, the client assigns and revokes partitions, and waits for
each of these calls. A revoked partition gets a moment for its listeners to end, and a last commit;
then it belongs to another member, and later verdicts on its records are ignored by the commit. Its
offsets are kept until the next assignment: if the partition returns with the commit point that this
member has written, no other member has read on, and the records that listeners still have remain
valid.

*Commit back-off.* A group that rebalances refuses commits, and a client that is refused joins the
group again, which starts one more rebalance. Members that commit again at once can keep a group
from ever becoming stable. So the pause before the next commit doubles with each refusal, up to
`MAX_COMMIT_PAUSE_SECONDS`.

When the consumer stops it may interrupt a commit, whose result is then unknown. In that case the
last commit writes all partitions again, and not only those that changed.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from goevent import DriverConnectionError, DriverError
from goevent.drivers import Backlog, jittered

from .._adapter.contract import AdapterHost, Arrival
from .._adapter.dead_letters import address_of
from .._config import BrokerConfig
from .client import GroupMember, KafkaClient, start_offsets
from .flow_control import PartitionFlow, WaitingBytes
from .history import PartitionHistory
from .middlewares import KafkaMiddlewares
from .offsets import (
    NOTHING_COMMITTED,
    CommitPoint,
    KafkaRecord,
    PartitionOffsets,
    RecordState,
    backlog_of,
)
from .reading import ReadingWatch
from .refusals import FETCH, LIST_OFFSETS, Membership, ReadRefusedError, Refusal
from .topics import consumer_group

MAX_RECORDS_PER_READ = 250
READ_WAIT_SECONDS = 0.25
READ_RETRY_SECONDS = 0.5
COMMIT_PAUSE_SECONDS = 0.1
MAX_COMMIT_PAUSE_SECONDS = 3.0
LISTENERS_GRACE_SECONDS = 0.5
LAST_COMMIT_SECONDS = 0.5
JOIN_WAIT_SECONDS = 8.0
JOIN_ATTEMPTS = 10
JOIN_RETRY_SECONDS = 0.1
# The longest pause before a member that was refused joins again; a right may be granted meanwhile.
MAX_REJOIN_PAUSE_SECONDS = 5.0
RELEASED_PAUSE_SECONDS = 0.1
MIN_UNSETTLED_RECORDS = 1000


@dataclass(frozen=True, slots=True)
class EventTopic:
    """The topic of one event name.

    Attributes:
        name: The event name.
        topic: The topic.
        start: Where a new group begins.
    """

    name: str
    topic: str
    start: str | datetime


class KafkaConsumer:
    """The consumer of one event name.

    Attributes:
        name: The event name.
        topic: Its topic.
        subscribed_names: The names and patterns that the bus subscribed to and that match `name`.
    """

    def __init__(
        self,
        broker: Any,
        client: KafkaClient,
        host: AdapterHost,
        config: BrokerConfig,
        source: EventTopic,
        waiting: WaitingBytes,
    ) -> None:
        self.name, self.topic = source.name, source.topic
        self.subscribed_names: dict[str, None] = {}
        self._client, self._host, self._config = client, host, config
        self._start = source.start
        group = consumer_group(config.group or "", source.topic)
        self._membership = Membership(source.topic, group, config.claim_idle, config.prefetch_bytes)
        self._watch = ReadingWatch(self._membership, self._report)
        self._middlewares = KafkaMiddlewares(broker, source.topic, group, self._deliver)
        self._flow = PartitionFlow(max(MIN_UNSETTLED_RECORDS, 4 * config.prefetch))
        self._waiting = waiting
        # The part of this consumer in `_waiting`.
        self._waiting_bytes = 0
        self._partitions: dict[int, PartitionOffsets] = {}
        self._given_up: dict[int, PartitionOffsets] = {}
        # Whether members have lost partitions without a last commit. The others of the group have
        # probably done so, too, and records that any of them had look new.
        self._is_interrupted = False
        self._histories: defaultdict[int, PartitionHistory] = defaultdict(PartitionHistory)
        self._ready: deque[KafkaRecord] = deque()
        # Set when records are ready; set when there is room for more of them.
        self._has_ready, self._has_room = asyncio.Event(), asyncio.Event()
        self._has_changed = asyncio.Event()
        self._has_joined, self._has_settled = asyncio.Event(), asyncio.Event()
        self._committing = asyncio.Lock()
        self._commit_backoff = 0.0
        # The refusal of commits that was reported, until they work again.
        self._commit_refusal = ""
        self._rejoin_pause = JOIN_RETRY_SECONDS
        self._is_delivering, self._is_stopped = True, False
        self._unread = 0
        # The positions at the last look.
        self._looked_at: dict[int, int] = {}
        # The highest number of a partition with a commit point of the group, as far as known.
        self._highest_committed = -1
        self._tasks: list[asyncio.Task[None]] = []
        # The last failure to join, which `start` raises; later ones are reported.
        self._failure: DriverError | None = None
        self._is_starting = True
        self._member = self._new_member()

    def _new_member(self) -> GroupMember:
        return self._client.join(self._membership, self)

    def _report(self, error: DriverError) -> None:
        self._host.report(error, self.name)

    # -- start and stop

    async def start(self) -> None:
        """Join the group; returns when it has assigned partitions, or after a time limit.

        Raises:
            DriverError: The group refuses this member.
        """
        create = asyncio.get_running_loop().create_task
        self._tasks = [
            create(self._stay_member()),
            create(self._deliver_ready()),
            create(self._commit_changes()),
        ]
        for task in self._tasks:
            task.add_done_callback(self._task_done)
        # Another member may keep the group waiting; asking again would only prolong the wait.
        with suppress(TimeoutError):
            async with asyncio.timeout(JOIN_WAIT_SECONDS):
                await self._has_joined.wait()
        self._is_starting = False
        if self._failure is not None:
            await self.stop(lost=True)
            raise self._failure

    def _task_done(self, task: asyncio.Task[None]) -> None:
        """Close the bus if a task has failed: it would get no events, and report nothing."""
        if not task.cancelled() and (error := task.exception()) is not None:
            failure = DriverError(f"the consumer of {self.name!r} has failed: {error!r}")
            failure.__cause__ = error
            self._host.fail(failure)

    def stop_delivering(self) -> None:
        """Deliver no more. Records that listeners have are still committed when they end."""
        self._is_delivering = False
        self._ready.clear()
        self._has_room.set()

    async def stop(self, *, lost: bool = False, wait: bool = True) -> None:
        """Commit the settled records and leave the group.

        Args:
            lost: There is no connection, so nothing can be committed.
            wait: Give listeners a moment to end.
        """
        if self._is_stopped:
            return
        self.stop_delivering()
        was_committing = self._committing.locked()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        partitions = [*self._partitions.values()]
        if was_committing:
            for partition in partitions:
                partition.committed = NOTHING_COMMITTED
        if not lost:
            if wait:
                await self._wait_for_listeners(partitions)
            await self._commit_at_last(partitions)
        self._is_stopped = True
        self._waiting.total -= self._waiting_bytes
        self._waiting_bytes = 0
        for partition in partitions:
            partition.is_assigned = False
        await self._member.stop()

    async def _commit_at_last(self, partitions: Collection[PartitionOffsets]) -> None:
        try:
            async with asyncio.timeout(LAST_COMMIT_SECONDS):
                # The group may be rebalancing, and no callback reports the end of that.
                while not await self._commit(partitions):  # noqa: ASYNC110
                    await asyncio.sleep(COMMIT_PAUSE_SECONDS / 2)
        except (TimeoutError, DriverError) as error:
            why = str(error) or f"no answer within {LAST_COMMIT_SECONDS:g} s"
            self._host.report(
                DriverError(f"the end of some events could not be committed: {why}"), self.name
            )

    # -- rebalances; called by the group member

    async def assigned(self, points: Mapping[int, CommitPoint | None]) -> Mapping[int, int]:
        """Take partitions with their commit points; return the offsets to read from."""
        new = [partition for partition, point in points.items() if point is None]
        starts: Mapping[int, int] = {}
        known = points.keys() - {*new}
        self._highest_committed = max(self._highest_committed, *known, -1)
        if new:
            starts = await self._new_starts(new)
        firsts: Mapping[int, int] = {}
        if known:
            firsts = await self._member.first_offsets(known)
        repeats: Mapping[int, int] = {}
        if self._is_interrupted and points:
            repeats = await self._member.end_offsets([*points])
        begin: dict[int, int] = {}
        for number, committed in points.items():
            point = committed or CommitPoint(starts[number])
            partition = self._given_up.pop(number, None)
            # Only an unchanged commit point proves that no other member has read on.
            if partition is None or partition.committed != point:
                partition = PartitionOffsets(number, point, self._histories[number])
                partition.repeats_until = repeats.get(number, 0)
                if committed is None:
                    # Commit the start itself, or the next member would begin elsewhere.
                    partition.committed = NOTHING_COMMITTED
            partition.is_assigned = True
            self._partitions[number] = partition
            self._add_waiting(partition.waiting_bytes)
            self._flow.assigned(number)
            self._ready.extend(partition.ready())
            begin[number] = partition.position
        self._given_up.clear()
        self._is_interrupted = False
        self._report_deleted(begin, firsts)
        self._looked_at.clear()
        self._failure = None
        self._watch.joined(points)
        self._has_ready.set()
        self._has_changed.set()
        self._has_joined.set()
        return begin

    async def _new_starts(self, partitions: Collection[int]) -> Mapping[int, int]:
        """Return where the group begins in partitions without a commit point.

        `start` is for a new group. A partition that was added to the topic of an older group is
        read from its first record: it may have records from before the group knew of it.
        """
        starts = await self._kept_starts(partitions)
        highest = self._highest_committed
        added = [each for each in partitions if -1 < highest < each and each not in starts]
        others = [each for each in partitions if each not in added and each not in starts]
        if added:
            starts.update(await start_offsets(self._member, added, "earliest"))
        if others:
            starts.update(await start_offsets(self._member, others, self._start))
        return starts

    async def _kept_starts(self, partitions: Collection[int]) -> dict[int, int]:
        """Return where this bus was in partitions whose commit points the broker has forgotten.

        A group that begins at the first record reads all again, and `history` knows the repeats.
        """
        if self._start == "earliest":
            return {}
        kept = {each: self._given_up[each].base for each in partitions if each in self._given_up}
        if not kept:
            return {}
        ends = await self._member.end_offsets([*kept])
        # A topic that was created again is shorter.
        return {each: base for each, base in kept.items() if base <= ends[each]}

    def _report_deleted(self, begin: Mapping[int, int], firsts: Mapping[int, int]) -> None:
        """Report records that the topic has deleted before the group read them.

        The client would skip them in silence.

        Args:
            begin: Where the group reads on in each partition.
            firsts: The first record of each partition that the group has read before.
        """
        for number, first in firsts.items():
            deleted = first - begin[number]
            if deleted > 0:
                text = (
                    f"Kafka: {deleted} records of {self.topic}-{number} were deleted before the "
                    "group had read them: the topic keeps records for too short a time"
                )
                self._host.report(DriverError(text), self.name)

    async def revoked(self, partitions: Collection[int]) -> None:
        """Give partitions up: wait a little for listeners, and commit."""
        owned = [self._partitions[each] for each in partitions if each in self._partitions]
        for partition in owned:
            partition.is_assigned = False
        if self._is_stopped or not owned:
            return
        try:
            await self._wait_for_listeners(owned)
            self._is_interrupted |= not await self._commit(owned)
        except DriverError as error:
            self._is_interrupted = True
            self._host.report(error, self.name)
        finally:
            self._give_up(partitions)

    def lost(self, partitions: Collection[int]) -> None:
        """Forget partitions; later verdicts on their records are not committed."""
        self._is_interrupted |= bool(partitions)
        self._give_up(partitions)

    def _give_up(self, partitions: Collection[int]) -> None:
        for number in partitions:
            partition = self._partitions.pop(number, None)
            if partition is not None:
                self._add_waiting(-partition.waiting_bytes)
                partition.is_assigned = False
                self._given_up[number] = partition
        if not self._partitions:
            self._watch.joining()
        self._has_room.set()

    def refused(self, refusal: Refusal) -> None:
        """Take note of a refusal that the member does not raise."""
        if self._is_starting:
            # `start` raises it.
            self._watch.note(refusal)
        else:
            self._watch.refused(refusal)

    def works(self, request: str) -> None:
        """Take note that the broker has answered a request without an error."""
        self._watch.works(request)

    async def _wait_for_listeners(self, partitions: Collection[PartitionOffsets]) -> None:
        """Wait a little until listeners have ended; records of the others come again."""
        with suppress(TimeoutError):
            async with asyncio.timeout(LISTENERS_GRACE_SECONDS):
                while any(partition.delivered_count() for partition in partitions):
                    self._has_settled.clear()
                    await self._has_settled.wait()

    # -- reading

    async def _stay_member(self) -> None:
        """Read as a member of the group, and join again after a failure."""
        failures = 0
        while True:
            self._watch.joining()
            try:
                await self._member.start()
                await self._read()
            except DriverError as error:
                refusal = error.refusal if isinstance(error, ReadRefusedError) else None
                if refusal is not None and (refusal.passes or not self._is_starting):
                    self._watch.refused(refusal)
                elif self._is_starting:
                    failures += 1
                    if not isinstance(error, DriverConnectionError) or failures == JOIN_ATTEMPTS:
                        self._failure = error
                    if failures == JOIN_ATTEMPTS:
                        self._has_joined.set()
                        return
                else:
                    self._watch.failed("a new member", error)
                if not self._is_starting:
                    self._rejoin_pause = min(2 * self._rejoin_pause, MAX_REJOIN_PAUSE_SECONDS)
            self.lost([*self._partitions])
            await self._member.stop()
            # The member may have taken partitions over until it had stopped.
            self.lost([*self._partitions])
            await asyncio.sleep(jittered(self._rejoin_pause))
            self._member = self._new_member()

    async def _read(self) -> None:
        """Read until the member has failed, and raise its failure."""
        while self._member.failure is None:
            try:
                if not self._is_delivering or not await self._wait_for_room():
                    await self._read_nothing()
                    continue
                self._flow.adjust(self._member, self._partitions)
                records = await self._member.read(MAX_RECORDS_PER_READ, READ_WAIT_SECONDS)
                for record in records:
                    self._add(record)
                if records:
                    self._watch.read()
                    self._rejoin_pause = JOIN_RETRY_SECONDS
                if self._ready:
                    self._has_ready.set()
            except DriverConnectionError:
                # `connection` reports it.
                await asyncio.sleep(READ_RETRY_SECONDS)
            except ReadRefusedError as error:
                if error.refusal.request != FETCH:
                    raise
                # The member has told it when it came. The client fetches again by itself.
                await asyncio.sleep(READ_RETRY_SECONDS)
        raise self._member.failure

    def _add(self, record: KafkaRecord) -> None:
        partition = self._partitions.get(record.partition)
        if partition is None:
            return
        if record.offset < partition.base:
            # The topic was deleted and created again.
            text = f"the partition {self.topic}-{record.partition} has begun anew"
            self._host.report(DriverError(text), self.name)
            partition.is_assigned = False
            self._add_waiting(-partition.waiting_bytes)
            history = self._histories[record.partition]
            partition = PartitionOffsets(record.partition, CommitPoint(record.offset), history)
            self._partitions[record.partition] = partition
        is_new, is_ready = record.offset >= partition.position, partition.add(record)
        if is_new:
            self._count(record, len(record.value))
        if is_ready:
            self._ready.append(record)
        elif record.state is RecordState.SETTLED:
            self._has_changed.set()

    def _count(self, record: KafkaRecord, body_bytes: int) -> None:
        """Count the body of a record among those that wait for the bus, or no more."""
        partition = record.offsets
        partition.waiting_bytes += body_bytes
        # The partition may have gone to another member.
        if self._partitions.get(record.partition) is partition:
            self._add_waiting(body_bytes)

    def _add_waiting(self, body_bytes: int) -> None:
        self._waiting_bytes += body_bytes
        self._waiting.total += body_bytes

    def _may_read(self) -> bool:
        if len(self._ready) >= MAX_RECORDS_PER_READ:
            return False
        return not self._waiting_bytes or self._waiting.total < self._waiting.max_bytes

    async def _wait_for_room(self) -> bool:
        """Return whether more may be read, after a short wait if not."""
        if self._may_read():
            return True
        self._has_room.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(READ_RETRY_SECONDS):
                await self._has_room.wait()
        return self._has_room.is_set()

    async def _read_nothing(self) -> None:
        """Ask the client for records, so that the group keeps this member, with all paused."""
        self._flow.pause(self._member, {*self._partitions})
        for record in await self._member.read(1, READ_WAIT_SECONDS):
            # It was fetched before the pause.
            self._add(record)

    # -- delivering

    async def _deliver_ready(self) -> None:
        ready, host = self._ready, self._host
        runs_middlewares = self._middlewares.is_active
        while True:
            self._has_ready.clear()
            while ready:
                if host.capacity() <= 0:
                    await host.wait_for_capacity()
                    # `stop_delivering` may have cleared the records during this wait.
                    if not ready:
                        break
                record = ready.popleft()
                # Its partition may have been revoked while it was ready.
                if not record.offsets.is_assigned or record.state is not RecordState.READY:
                    continue
                self._count(record, -len(record.value))
                if self._may_read():
                    self._has_room.set()
                if record.headers and address_of(record.headers) not in ("", self._config.group):
                    # A dead letter of another group, which was copied back to the topic.
                    self.settle(record)
                    continue
                record.state = RecordState.DELIVERED
                record.deliveries += 1
                if not runs_middlewares:
                    await self._deliver(record)
                elif not await self._middlewares.run(record):
                    self._not_passed_on(record)
            # The number of deliveries is part of the commit point.
            self._has_changed.set()
            await self._has_ready.wait()

    async def _deliver(self, record: KafkaRecord) -> None:
        await self._host.deliver(
            Arrival(
                self.name,
                next(iter(self.subscribed_names), self.name),
                record.value,
                record.headers,
                record.deliveries,
                f"{self.topic}-{record.partition}@{record.offset}",
                (self, record),
                record.is_repeat,
            )
        )

    def _not_passed_on(self, record: KafkaRecord) -> None:
        """Retry a record that a middleware has not passed on; settle it after `max_deliveries`."""
        if record.deliveries < self._config.max_deliveries:
            self.retry(record, self._config.pause(record.deliveries))
            return
        text = f"the middlewares of the broker keep the event {record.offset} of {self.name!r}"
        self._host.report(DriverError(text), self.name)
        self.settle(record)

    # -- verdicts; called by the settler

    def settle(self, record: KafkaRecord) -> None:
        """Mark a record as done."""
        following = record.offsets.settle(record)
        if following is not None:
            self._make_ready(following)
        self._has_changed.set()
        self._has_settled.set()

    def retry(self, record: KafkaRecord, pause: float) -> None:
        """Deliver a record again after a pause."""
        record.state = RecordState.PAUSED
        self._count(record, len(record.value))
        self._has_changed.set()
        self._has_settled.set()
        asyncio.get_running_loop().call_later(pause, self._end_pause, record)

    def release(self, record: KafkaRecord, *, started: bool) -> None:
        """Take a record back.

        Args:
            started: A listener has begun, so that the delivery counts.
        """
        record.deliveries -= int(not started)
        # The pause keeps a record from coming back at once while the bus releases everything.
        self.retry(record, RELEASED_PAUSE_SECONDS)

    def _end_pause(self, record: KafkaRecord) -> None:
        if record.state is RecordState.PAUSED:
            record.state = RecordState.READY
            self._make_ready(record)

    def _make_ready(self, record: KafkaRecord) -> None:
        if record.offsets.is_assigned and self._is_delivering:
            self._ready.append(record)
            self._has_ready.set()

    # -- committing

    async def _commit_changes(self) -> None:
        while True:
            await self._has_changed.wait()
            await asyncio.sleep(self._commit_backoff)
            self._has_changed.clear()
            try:
                if not await self._commit([*self._partitions.values()]):
                    self._has_changed.set()
            except DriverError as error:
                self._has_changed.set()
                if not isinstance(error, DriverConnectionError):
                    backoff = max(READ_RETRY_SECONDS, 2 * self._commit_backoff)
                    self._commit_backoff = min(backoff, MAX_COMMIT_PAUSE_SECONDS)
                    if self._commit_refusal != str(error):
                        self._commit_refusal = str(error)
                        self._host.report(error, self.name)
                await asyncio.sleep(READ_RETRY_SECONDS)
            await asyncio.sleep(COMMIT_PAUSE_SECONDS)

    async def _commit(self, partitions: Collection[PartitionOffsets]) -> bool:
        """Commit the changed partitions; return False if the group refuses it now."""
        async with self._committing:
            points = {each: each.commit_point() for each in partitions}
            changed = {each: point for each, point in points.items() if each.committed != point}
            if changed:
                by_number = {each.partition: point for each, point in changed.items()}
                if not await self._member.commit(by_number):
                    backoff = max(COMMIT_PAUSE_SECONDS, 2 * self._commit_backoff)
                    self._commit_backoff = min(backoff, MAX_COMMIT_PAUSE_SECONDS)
                    return False
                self._commit_backoff, self._commit_refusal = 0.0, ""
            for each, point in changed.items():
                each.committed = point
                self._highest_committed = max(self._highest_committed, each.partition)
            return True

    # -- the work of the group

    async def look(self) -> None:
        """Measure the unread records, and report what keeps this member from reading them."""
        if not self._is_delivering:
            return
        partitions = {**self._partitions}
        ends: Mapping[int, int] = {}
        try:
            ends = await self._member.end_offsets([*partitions])
        except DriverConnectionError:
            # `connection` reports it.
            return
        except DriverError as error:
            self._watch.failed(LIST_OFFSETS, error)
        else:
            if ends:
                self._watch.works(LIST_OFFSETS)
        unread, is_stuck = 0, False
        for number, end in ends.items():
            position = partitions[number].position
            behind = max(0, end - max(position, self._member.reached(number)))
            unread += behind
            if behind and self._looked_at.get(number) == position:
                is_stuck = is_stuck or not self._flow.is_paused(number)
            self._looked_at[number] = position
        self._unread = unread
        self._watch.look(is_stuck=is_stuck)

    def pause_watch(self) -> None:
        """Report no silence for now: there is no connection, which is reported already."""
        self._watch.pause()

    def backlog(self) -> Backlog:
        """Return the work in this member's partitions, as last seen."""
        return backlog_of(self.name, self._unread, [*self._partitions.values()])
