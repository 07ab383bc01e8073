"""A reader of topics without a group, through confluent-kafka.

The client's consumer blocks, so each call of it runs in a thread, one call at a time. A consumer
that is closed while another thread uses it crashes the process: `stop` waits for the last call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from goevent import DriverError

from .client import REQUEST_SECONDS
from .confluent_errors import UNREACHABLE_CODES, call_blocking, is_fatal, to_driver_error
from .confluent_member import END_OFFSET, FIRST_OFFSET, confluent_record
from .offsets import KafkaRecord
from .topic_reader import Place

# The client looks for the coordinator of its group, of which it never becomes a member.
IGNORED_CODES = {
    *UNREACHABLE_CODES,
    KafkaError._PARTITION_EOF,
    KafkaError._UNKNOWN_PARTITION,
    KafkaError._UNKNOWN_TOPIC,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
}


class ConfluentReader:
    """A reader of partitions.

    Args:
        consumer: The client's consumer, made by FastStream; its group has no other use.
        admin: The client's administrator, which has a connection of its own.
    """

    def __init__(self, consumer: Any, admin: Any) -> None:
        self._consumer = consumer
        self._admin = admin
        self._call: asyncio.Task[Any] | None = None

    async def start(self) -> None:
        """Do nothing: the client connects by itself."""

    async def stop(self) -> None:
        """Close the consumer, which has joined no group."""
        if self._call is not None:
            await asyncio.wait({self._call})
        with suppress(DriverError, RuntimeError):
            await call_blocking(self._consumer.close)

    async def assign(self, positions: Mapping[Place, int]) -> None:
        """Read these partitions, each from an offset on."""
        parts = [TopicPartition(*place, offset) for place, offset in positions.items()]
        await self._run(self._consumer.assign, parts)

    async def read(self, count: int, seconds: float) -> Sequence[tuple[str, KafkaRecord]]:
        """Return up to `count` records with their topics."""
        first = await self._run(self._consumer.poll, seconds)
        if first is None:
            return ()
        others = await self._run(self._consumer.consume, count - 1, 0) if count > 1 else ()
        return [
            (each.topic(), confluent_record(each)) for each in (first, *others) if _is_record(each)
        ]

    async def _run(self, function: Any, *args: Any) -> Any:
        self._call = call = asyncio.create_task(call_blocking(function, *args))
        # Nobody may be left to take it.
        call.add_done_callback(lambda task: task.cancelled() or task.exception())
        return await asyncio.shield(call)

    async def first_offsets(self, places: Collection[Place]) -> Mapping[Place, int]:
        """Return the offsets of the first records that partitions hold."""
        return await self._offsets(places, FIRST_OFFSET)

    async def end_offsets(self, places: Collection[Place]) -> Mapping[Place, int]:
        """Return the offsets behind the last records of partitions."""
        return await self._offsets(places, END_OFFSET)

    async def _offsets(self, places: Collection[Place], spec: Any) -> dict[Place, int]:
        wanted = {TopicPartition(*place): spec for place in places}
        if not wanted:
            return {}
        try:
            futures = self._admin.list_offsets(wanted, request_timeout=REQUEST_SECONDS)
            found = await asyncio.gather(*map(asyncio.wrap_future, futures.values()))
        except (KafkaException, ValueError) as error:
            raise to_driver_error(error) from error
        return {
            (part.topic, part.partition): at.offset for part, at in zip(futures, found, strict=True)
        }


def _is_record(raw: Any) -> bool:
    """Return True for a record.

    Raises:
        DriverError: The client does not recover from the error by itself.
    """
    error = raw.error()
    if error is None:
        return True
    if is_fatal(error) or error.code() not in IGNORED_CODES:
        raise to_driver_error(error)
    return False
