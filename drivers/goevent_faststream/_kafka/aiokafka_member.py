"""A member of a consumer group, through aiokafka."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

from aiokafka import (  # type: ignore[import-untyped]
    ConsumerRebalanceListener,
    OffsetAndMetadata,
    TopicPartition,
    errors,
)

from goevent import DriverError

from .aiokafka_requests import CLIENT_ERRORS, AiokafkaRequests, to_driver_error
from .client import RebalanceListener
from .offsets import CommitPoint, KafkaRecord

AIOKAFKA_LEAVE_SECONDS = 0.4
JOIN_SECONDS = 30.0
COMMIT_REFUSALS = (
    errors.CommitFailedError,
    errors.IllegalStateError,
    errors.RebalanceInProgressError,
)


class AiokafkaMember(ConsumerRebalanceListener):  # type: ignore[misc]
    """A member of a group.

    Args:
        consumer: The client's consumer, made by FastStream.
    """

    def __init__(self, consumer: Any, topic: str, listener: RebalanceListener) -> None:
        self._consumer = consumer
        self._topic = topic
        self._listener = listener
        self._requests = AiokafkaRequests()
        self._failure: DriverError | None = None

    def _topic_partitions(self, partitions: Collection[int]) -> list[TopicPartition]:
        return [TopicPartition(self._topic, each) for each in partitions]

    async def start(self) -> None:
        """Join the group."""
        self._consumer.subscribe([self._topic], listener=self)
        # The client's start waits until the member has its partitions.
        await self._requests.run(self._consumer.start(), JOIN_SECONDS)

    async def stop(self) -> None:
        """Leave the group."""
        await self._requests.close(AIOKAFKA_LEAVE_SECONDS / 2)
        with suppress(*CLIENT_ERRORS):
            async with asyncio.timeout(AIOKAFKA_LEAVE_SECONDS):
                await self._consumer.stop()
                return
        # An interrupted stop leaves tasks and sockets of the client; close them one by one.
        consumer = self._consumer
        for part in (consumer._coordinator, consumer._fetcher, consumer._client):
            with suppress(*CLIENT_ERRORS):
                async with asyncio.timeout(AIOKAFKA_LEAVE_SECONDS / 6):
                    await part.close()

    # -- rebalances; called by aiokafka

    async def on_partitions_revoked(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, revoked: set[Any]
    ) -> None:
        """Give partitions up."""
        await self._listener.revoked([each.partition for each in revoked])

    async def on_partitions_assigned(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, assigned: set[Any]
    ) -> None:
        """Take partitions, and read on from their commit points."""
        parts = sorted(assigned)
        try:
            # The public `committed` does not return the metadata.
            found = await self._consumer._coordinator.fetch_committed_offsets(parts)
            points: dict[int, CommitPoint | None] = dict.fromkeys(each.partition for each in parts)
            for part, at in found.items():
                points[part.partition] = CommitPoint(at.offset, at.metadata or "")
            for partition, offset in (await self._listener.assigned(points)).items():
                self._consumer.seek(TopicPartition(self._topic, partition), offset)
        except (DriverError, *CLIENT_ERRORS) as error:
            # aiokafka would only log an exception, and read from a position of its own choice.
            # The next `read` raises it.
            self._failure = DriverError(f"Kafka: partitions could not be taken over: {error}")

    # -- called by the consumer

    async def read(self, count: int, seconds: float) -> Sequence[KafkaRecord]:
        """Return up to `count` records; waits `seconds` for the first one."""
        if self._failure is not None:
            raise self._failure
        try:
            found = await self._consumer.getmany(timeout_ms=seconds * 1000, max_records=count)
        except CLIENT_ERRORS as error:
            raise to_driver_error(error) from error
        return [
            KafkaRecord(
                raw.partition,
                raw.offset,
                raw.key,
                raw.value or b"",
                {name: (value or b"").decode(errors="replace") for name, value in raw.headers},
                raw.timestamp / 1000,
                raw,
            )
            for records in found.values()
            for raw in records
        ]

    async def commit(self, points: Mapping[int, CommitPoint]) -> bool:
        """Commit; return False if the group refuses it."""
        offsets = {
            TopicPartition(self._topic, partition): OffsetAndMetadata(point.offset, point.note)
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
        parts = self._topic_partitions(partitions)
        found = await self._requests.run(self._consumer.beginning_offsets(parts))
        return {part.partition: offset for part, offset in found.items()}

    async def end_offsets(self, partitions: Collection[int]) -> dict[int, int]:
        """Return the offsets behind the last records of partitions."""
        parts = self._topic_partitions(partitions)
        found = await self._requests.run(self._consumer.end_offsets(parts))
        return {part.partition: offset for part, offset in found.items()}

    async def offsets_at(self, partitions: Collection[int], time: datetime) -> dict[int, int]:
        """Return the offsets of the first records since a time."""
        times = dict.fromkeys(self._topic_partitions(partitions), int(time.timestamp() * 1000))
        found = await self._requests.run(self._consumer.offsets_for_times(times))
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
