"""Members of consumer groups, by aiokafka."""

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

from .aiokafka_requests import FAILURES, Requests, to_driver_error
from .client import Owner
from .offsets import Place, Record

STOP = 0.4  # seconds for an orderly end
JOIN = 30.0  # seconds that a group may take to take us in
ANOTHERS = (
    errors.CommitFailedError,
    errors.IllegalStateError,
    errors.RebalanceInProgressError,
)


class AioConsumer(ConsumerRebalanceListener):  # type: ignore[misc]
    """A member of a group."""

    def __init__(self, consumer: Any, topic: str, owner: Owner) -> None:
        self._consumer = consumer
        self._topic = topic
        self._owner = owner
        self._requests = Requests()
        self._failure: DriverError | None = None

    def _parts(self, partitions: Collection[int]) -> list[TopicPartition]:
        return [TopicPartition(self._topic, each) for each in partitions]

    async def start(self) -> None:
        """Begin to join the group."""
        self._consumer.subscribe([self._topic], listener=self)
        await self._requests.ask(self._consumer.start(), JOIN)  # it waits for partitions

    async def stop(self) -> None:
        """Leave the group."""
        await self._requests.end(STOP / 2)
        with suppress(*FAILURES):
            async with asyncio.timeout(STOP):
                await self._consumer.stop()
                return
        # It was not over in time, which leaves tasks and sockets of the client.
        consumer = self._consumer
        for part in (consumer._coordinator, consumer._fetcher, consumer._client):
            with suppress(*FAILURES):
                async with asyncio.timeout(STOP / 6):
                    await part.close()

    # -- what the client calls

    async def on_partitions_revoked(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, revoked: set[Any]
    ) -> None:
        """Give partitions up."""
        await self._owner.revoked([each.partition for each in revoked])

    async def on_partitions_assigned(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, assigned: set[Any]
    ) -> None:
        """Take partitions over, from where the group is."""
        parts = sorted(assigned)
        # The public `committed` does not return the note.
        try:
            found = await self._consumer._coordinator.fetch_committed_offsets(parts)
            places: dict[int, Place | None] = dict.fromkeys(each.partition for each in parts)
            for part, at in found.items():
                places[part.partition] = Place(at.offset, at.metadata or "")
            for partition, offset in (await self._owner.assigned(places)).items():
                self._consumer.seek(TopicPartition(self._topic, partition), offset)
        except (DriverError, *FAILURES) as error:
            # The client would only log it, and read from anywhere.
            self._failure = DriverError(f"Kafka: partitions could not be taken over: {error}")

    # -- what the owner calls

    async def read(self, most: int, patience: float) -> Sequence[Record]:
        """Return what there is."""
        if self._failure is not None:
            raise self._failure
        try:
            found = await self._consumer.getmany(timeout_ms=patience * 1000, max_records=most)
        except FAILURES as error:
            raise to_driver_error(error) from error
        return [
            Record(
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

    async def commit(self, places: Mapping[int, Place]) -> bool:
        """Commit offsets and notes."""
        offsets = {
            TopicPartition(self._topic, partition): OffsetAndMetadata(place.offset, place.note)
            for partition, place in places.items()
        }
        try:
            await self._requests.ask(self._consumer.commit(offsets))
        except DriverError as error:
            if not isinstance(error.__cause__, ANOTHERS):
                raise
            return False
        return True

    async def find(self, partitions: Collection[int], start: str | datetime) -> Mapping[int, int]:
        """Return the offsets of a start."""
        parts, consumer = self._parts(partitions), self._consumer
        if start == "earliest":
            found = await self._requests.ask(consumer.beginning_offsets(parts))
            return {part.partition: offset for part, offset in found.items()}
        ends = await self.ends(partitions)
        if isinstance(start, datetime):
            times = dict.fromkeys(parts, int(start.timestamp() * 1000))
            found = await self._requests.ask(consumer.offsets_for_times(times))
            return ends | {part.partition: at.offset for part, at in found.items() if at}
        if start == "latest":
            return ends
        return {partition: min(int(start), end) for partition, end in ends.items()}

    async def ends(self, partitions: Collection[int]) -> dict[int, int]:
        """Return the offsets that come next."""
        found = await self._requests.ask(self._consumer.end_offsets(self._parts(partitions)))
        return {part.partition: offset for part, offset in found.items()}

    def pause(self, partitions: Collection[int]) -> None:
        """Read no more of partitions."""
        with suppress(errors.IllegalStateError):  # they are another's since
            self._consumer.pause(*self._parts(partitions))

    def resume(self, partitions: Collection[int]) -> None:
        """Read of them again."""
        with suppress(errors.IllegalStateError):
            self._consumer.resume(*self._parts(partitions))
