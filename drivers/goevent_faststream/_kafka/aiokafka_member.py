"""A member of a consumer group, through aiokafka."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

from aiokafka import (  # type: ignore[import-untyped]
    ConsumerRebalanceListener,
    OffsetAndMetadata,
    TopicPartition,
    errors,
)

from goevent import DriverConnectionError, DriverError

from .aiokafka_requests import CLIENT_ERRORS, AiokafkaRequests, to_driver_error
from .client import REQUEST_SECONDS, RebalanceListener, take_over
from .offsets import CommitPoint, KafkaRecord, end_metadata, note_of
from .refusals import (
    FETCH,
    FIND_COORDINATOR,
    HEARTBEAT,
    JOIN_GROUP,
    LIST_OFFSETS,
    OFFSET_FETCH,
    SYNC_GROUP,
    TOPIC_FORBIDDEN,
    Membership,
    ReadRefusedError,
    Refusal,
)

T = TypeVar("T")

AIOKAFKA_LEAVE_SECONDS = 0.4
JOIN_SECONDS = 30.0
COMMIT_REFUSALS = (
    errors.CommitFailedError,
    errors.IllegalStateError,
    errors.RebalanceInProgressError,
)
# The requests of a member by their API keys.
_REQUESTS = {
    1: FETCH,
    2: LIST_OFFSETS,
    9: OFFSET_FETCH,
    10: FIND_COORDINATOR,
    11: JOIN_GROUP,
    12: HEARTBEAT,
    14: SYNC_GROUP,
}


class AiokafkaMember(ConsumerRebalanceListener):  # type: ignore[misc]
    """A member of a group.

    aiokafka only logs many refusals, and raises others without their codes. So the member reads the
    error codes in the broker's answers itself.

    Args:
        consumer: The client's consumer, made by FastStream.

    Attributes:
        failure: Why the member reads nothing more; None while it can.
    """

    def __init__(self, consumer: Any, membership: Membership, listener: RebalanceListener) -> None:
        self._consumer = consumer
        self._membership = membership
        self._topic = membership.topic
        self._listener = listener
        self._requests = AiokafkaRequests()
        self._is_stopping = False
        self.failure: DriverError | None = None
        # The last refusal of each request that has not succeeded since.
        self._refusals: dict[str, Refusal] = {}
        self._send = consumer._client.send
        consumer._client.send = self._send_watched

    def _topic_partitions(self, partitions: Collection[int]) -> list[TopicPartition]:
        return [TopicPartition(self._topic, each) for each in partitions]

    async def start(self) -> None:
        """Join the group."""
        self._consumer.subscribe([self._topic], listener=self)
        # The client's start waits until the member has its partitions.
        await self._run(self._consumer.start(), JOIN_SECONDS)

    async def stop(self) -> None:
        """Leave the group."""
        # The client ends a join that is under way first, and may assign partitions meanwhile.
        self._is_stopping = True
        await self._requests.close(AIOKAFKA_LEAVE_SECONDS / 2)
        await stop_consumer(self._consumer)

    # -- answers of the broker

    async def _send_watched(self, node: int, request: Any, **options: Any) -> Any:
        response = await self._send(node, request, **options)
        name = _REQUESTS.get(response.API_KEY)
        if name is not None:
            self._take_codes(name, [*_error_codes(name, response)])
        if name in (HEARTBEAT, FIND_COORDINATOR):
            # The client may drop a heartbeat task that has failed, and asyncio would report it.
            heartbeats = self._consumer._coordinator._heartbeat_task
            if heartbeats is not None:
                heartbeats.remove_done_callback(_retrieve)
                heartbeats.add_done_callback(_retrieve)
        return response

    def _take_codes(self, name: str, codes: list[int]) -> None:
        refused = next(filter(None, codes), 0)
        if refused:
            refusal = Refusal(name, refused, errors.for_code(refused).__name__)
            self._refusals[name] = refusal
            self._listener.refused(refusal)
        elif codes and name in self._refusals:
            del self._refusals[name]
            self._listener.works(name)

    async def _run(self, work: Coroutine[Any, Any, T], seconds: float = REQUEST_SECONDS) -> T:
        """Return the result of a request.

        Raises:
            DriverError: It has failed, or was not answered in time.
        """
        try:
            return await self._requests.run(work, seconds)
        except DriverError as error:
            raise self._explained(error) from error.__cause__

    def _explained(self, error: DriverError) -> DriverError:
        """Return the refusal that has caused an error, if there was one, or the error itself."""
        cause = error.__cause__
        if isinstance(error, ReadRefusedError) or isinstance(cause, errors.KafkaConnectionError):
            return error
        refusals = [*self._refusals.values()]
        # aiokafka repeats requests whose refusal passes, until there is no more time.
        lasting = [each for each in refusals if not each.passes]
        if not lasting and not isinstance(error, DriverConnectionError):
            return error
        return next(
            (ReadRefusedError(each, self._membership) for each in lasting or refusals), error
        )

    def _check_tasks(self) -> None:
        """Raise the error of a task of the client without which it does not read.

        Raises:
            DriverError: It has ended, and the client does not start it again.
        """
        consumer = self._consumer
        for task in (
            consumer._fetcher._fetch_task,
            consumer._coordinator._coordination_task,
            consumer._client._sync_task,
        ):
            if task is not None and task.done():
                reason = None if task.cancelled() else task.exception()
                raise DriverError(
                    f"Kafka: a task of the client has ended: {reason!r}; the group is joined again"
                ) from reason

    # -- rebalances; called by aiokafka

    async def on_partitions_revoked(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, revoked: set[Any]
    ) -> None:
        """Give partitions up."""
        if self._is_stopping:
            return
        await self._listener.revoked([each.partition for each in revoked])

    async def on_partitions_assigned(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, assigned: set[Any]
    ) -> None:
        """Take partitions, and read on from their commit points."""
        # The listener must get nothing from a member that has stopped. `stop` cancels a take-over
        # that has begun; a later one would have nobody who does.
        if self._is_stopping:
            return
        parts = sorted(assigned)
        try:
            await self._requests.run(self._take_over(parts), None)
        except (DriverError, *CLIENT_ERRORS) as error:
            # aiokafka would only log an exception, and read from a position of its own choice.
            mapped = error if isinstance(error, DriverError) else to_driver_error(error)
            explained = self._explained(mapped)
            if not isinstance(explained, ReadRefusedError):
                text = f"Kafka: partitions could not be taken over: {explained}"
                explained = type(explained)(text)
            explained.__cause__ = error
            self.failure = explained

    async def _take_over(self, parts: Sequence[Any]) -> None:
        committed = partial(self._committed, parts)
        begin = await take_over(committed, self._listener, self._membership)
        # In the same step of the loop: the client reads from a position of its own choice until
        # then, and the listener would take its records for those of a new topic.
        for partition, offset in begin.items():
            self._consumer.seek(TopicPartition(self._topic, partition), offset)

    async def _committed(self, parts: Sequence[Any]) -> Mapping[int, CommitPoint | None]:
        points: dict[int, CommitPoint | None] = dict.fromkeys(each.partition for each in parts)
        try:
            # The public `committed` does not return the metadata.
            found = await self._consumer._coordinator.fetch_committed_offsets(parts)
        except CLIENT_ERRORS as error:
            raise self._explained(to_driver_error(error)) from error
        for part, at in found.items():
            points[part.partition] = CommitPoint(at.offset, note_of(at.metadata))
        return points

    # -- called by the consumer

    async def read(self, count: int, seconds: float) -> Sequence[KafkaRecord]:
        """Return up to `count` records; waits `seconds` for the first one."""
        self._check_tasks()
        try:
            found = await self._consumer.getmany(timeout_ms=seconds * 1000, max_records=count)
        except errors.TopicAuthorizationFailedError as error:
            refusal = Refusal(FETCH, TOPIC_FORBIDDEN)
            raise ReadRefusedError(refusal, self._membership) from error
        except Exception as error:
            # Not only its own errors: the client reads a broker's bytes without checks, such as the
            # assignment that another member of the group has made.
            raise self._explained(to_driver_error(error)) from error
        return [kafka_record(raw) for records in found.values() for raw in records]

    def reached(self, partition: int) -> int:
        """Return the offset up to which a partition is read, as far as known."""
        subscription = self._consumer._subscription.subscription
        assignment = subscription and subscription.assignment
        state = assignment and assignment.state_value(TopicPartition(self._topic, partition))
        return state.position if state and state.has_valid_position else 0

    async def commit(self, points: Mapping[int, CommitPoint]) -> bool:
        """Commit; return False if the group refuses it."""
        offsets = {
            TopicPartition(self._topic, partition): OffsetAndMetadata(
                point.offset, end_metadata(point.note)
            )
            for partition, point in points.items()
        }
        try:
            await self._requests.run(self._consumer.commit(offsets))
        except DriverError as error:
            if not isinstance(error.__cause__, COMMIT_REFUSALS):
                raise
            return False
        return True

    async def first_offsets(self, partitions: Collection[int]) -> dict[int, int]:
        """Return the offsets of the first records that partitions hold."""
        return await self._list_offsets(partitions, self._consumer.beginning_offsets)

    async def end_offsets(self, partitions: Collection[int]) -> dict[int, int]:
        """Return the offsets behind the last records of partitions."""
        return await self._list_offsets(partitions, self._consumer.end_offsets)

    async def _list_offsets(
        self, partitions: Collection[int], ask: Callable[[list[TopicPartition]], Any]
    ) -> dict[int, int]:
        if not partitions:
            # A member without partitions may not have started, and the client could not ask yet.
            return {}
        found = await self._run(ask(self._topic_partitions(partitions)))
        return {part.partition: offset for part, offset in found.items()}

    async def offsets_at(self, partitions: Collection[int], time: datetime) -> dict[int, int]:
        """Return the offsets of the first records since a time."""
        if not partitions:
            return {}
        times = dict.fromkeys(self._topic_partitions(partitions), int(time.timestamp() * 1000))
        found = await self._run(self._consumer.offsets_for_times(times))
        return {part.partition: at.offset for part, at in found.items() if at}

    def pause(self, partitions: Collection[int]) -> None:
        """Read no more of partitions."""
        # A partition may have gone to another member meanwhile.
        with suppress(errors.IllegalStateError):
            self._consumer.pause(*self._topic_partitions(partitions))

    def resume(self, partitions: Collection[int]) -> None:
        """Read partitions again."""
        with suppress(errors.IllegalStateError):
            self._consumer.resume(*self._topic_partitions(partitions))


async def stop_consumer(consumer: Any) -> None:
    """Leave the group, if there is one, and disconnect within a moment."""
    with suppress(*CLIENT_ERRORS):
        async with asyncio.timeout(AIOKAFKA_LEAVE_SECONDS):
            await consumer.stop()
            return
    # An interrupted stop leaves tasks and sockets of the client; close them one by one.
    for part in (consumer._coordinator, consumer._fetcher, consumer._client):
        # The consumer gets the first two when it starts.
        if part is None:
            continue
        with suppress(*CLIENT_ERRORS):
            async with asyncio.timeout(AIOKAFKA_LEAVE_SECONDS / 6):
                await part.close()


def kafka_record(raw: Any) -> KafkaRecord:
    """Return a record of the client as the driver's own."""
    return KafkaRecord(
        raw.partition,
        raw.offset,
        raw.key,
        raw.value or b"",
        {name: (value or b"").decode(errors="replace") for name, value in raw.headers},
        raw.timestamp / 1000,
        raw,
    )


def _retrieve(task: asyncio.Task[Any]) -> None:
    """Take the exception of a task; the refusal that it tells of is known already."""
    if not task.cancelled():
        task.exception()


def _error_codes(request: str, response: Any) -> Iterator[int]:
    """Yield the error codes in an answer, the zeros too."""
    if request not in (FETCH, LIST_OFFSETS, OFFSET_FETCH):
        yield response.error_code
        return
    for _, partitions in response.topics:
        for partition in partitions:
            # The code is the last field of an offset, and the second one of the others.
            yield partition[-1 if request == OFFSET_FETCH else 1]
