"""A reader of topics without a group, through aiokafka."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from aiokafka import TopicPartition  # type: ignore[import-untyped]

from goevent import DriverError

from .aiokafka_member import JOIN_SECONDS, kafka_record, stop_consumer
from .aiokafka_requests import AiokafkaRequests, to_driver_error
from .offsets import KafkaRecord
from .topic_reader import Place


class AiokafkaReader:
    """A reader of partitions.

    Args:
        consumer: The client's consumer without a group, made by FastStream.
    """

    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer
        self._requests = AiokafkaRequests()

    async def start(self) -> None:
        """Connect."""
        await self._requests.run(self._consumer.start(), JOIN_SECONDS)

    async def stop(self) -> None:
        """Disconnect."""
        await self._requests.close(0.0)
        await stop_consumer(self._consumer)

    async def assign(self, positions: Mapping[Place, int]) -> None:
        """Read these partitions, each from an offset on."""
        self._consumer.assign([TopicPartition(*place) for place in positions])
        # In the same step of the loop: the client reads from a position of its own choice until
        # then.
        for place, offset in positions.items():
            self._consumer.seek(TopicPartition(*place), offset)

    async def read(self, count: int, seconds: float) -> Sequence[tuple[str, KafkaRecord]]:
        """Return up to `count` records with their topics."""
        for task in (self._consumer._fetcher._fetch_task, self._consumer._client._sync_task):
            if task is not None and task.done():
                raise DriverError("Kafka: a task of the client has ended")
        try:
            found = await self._consumer.getmany(timeout_ms=seconds * 1000, max_records=count)
        except Exception as error:
            # Not only its own errors: the client reads a broker's bytes without checks.
            raise to_driver_error(error) from error
        return [(raw.topic, kafka_record(raw)) for records in found.values() for raw in records]

    async def first_offsets(self, places: Collection[Place]) -> Mapping[Place, int]:
        """Return the offsets of the first records that partitions hold."""
        return await self._offsets(places, self._consumer.beginning_offsets)

    async def end_offsets(self, places: Collection[Place]) -> Mapping[Place, int]:
        """Return the offsets behind the last records of partitions."""
        return await self._offsets(places, self._consumer.end_offsets)

    async def _offsets(
        self, places: Collection[Place], ask: Callable[[list[TopicPartition]], Any]
    ) -> dict[Place, int]:
        if not places:
            return {}
        found = await self._requests.run(ask([TopicPartition(*place) for place in places]))
        return {(part.topic, part.partition): offset for part, offset in found.items()}
