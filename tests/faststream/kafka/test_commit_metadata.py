"""The metadata of commits: read as they were written by either client, and hostile ones as well."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Self

import pytest
import trio
from aiokafka import (  # type: ignore[import-untyped]
    AIOKafkaConsumer,
    OffsetAndMetadata,
    TopicPartition,
)
from tests.support.faststream_buses import FastStreamBus, accepted
from tests.support.kafka_mock import KafkaMock, kafka_mock
from tests.support.redis_buses import Paid, until

from goevent_faststream._kafka.consumer import KafkaConsumer
from goevent_faststream._kafka.offsets import CommitPoint

TOPIC = "goevent.order.paid"
SCHEMES = ["kafka", "kafka+confluent"]


class RawText(str):
    """A text that aiokafka sends as given bytes.

    Args:
        data: The bytes.
    """

    def __new__(cls, data: bytes) -> Self:
        text = super().__new__(cls, data.decode("latin-1"))
        text.data = data
        return text

    data: bytes

    def __str__(self) -> str:
        return self

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        return self.data


async def commit(mock: KafkaMock, offset: int, metadata: bytes) -> None:
    """Commit an offset of the first partition, as a foreign client may."""

    async def write() -> None:
        consumer: Any = AIOKafkaConsumer(
            bootstrap_servers=mock.addr, group_id=f"shop.{TOPIC}", enable_auto_commit=False
        )
        await consumer.start()
        part = TopicPartition(TOPIC, 0)
        consumer.assign([part])
        await consumer.commit({part: OffsetAndMetadata(offset, RawText(metadata))})
        await consumer.stop()

    await trio.to_thread.run_sync(lambda: asyncio.run(write()))


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[CommitPoint | None]:
    """The commit points of the first partition, as consumers get them."""
    points: list[CommitPoint | None] = []

    async def assigned(
        consumer: Any, found: Mapping[int, CommitPoint | None], real: Any = KafkaConsumer.assigned
    ) -> Mapping[int, int]:
        points.append(found[0])
        begin: Mapping[int, int] = await real(consumer, found)
        return begin

    monkeypatch.setattr(KafkaConsumer, "assigned", assigned)
    return points


@pytest.mark.parametrize("reader", SCHEMES)
@pytest.mark.parametrize("writer", SCHEMES)
async def test_note_of_one_client_is_read_by_the_other_as_it_was_written(
    writer: str, reader: str, taken: list[CommitPoint | None]
) -> None:
    async with kafka_mock() as mock:
        mock.topic(TOPIC)
        first = FastStreamBus(f"{writer}://{mock.addr}?group=shop&claim_idle=1.2")
        begun: list[int] = []

        async def hang(event: Paid) -> None:
            begun.append(event.n)
            if event.n in (0, 101):
                await trio.sleep_forever()

        first.subscribe(hang, Paid, concurrency=10)
        with trio.CancelScope() as scope:
            async with first:
                await accepted(first, *range(102))
                await until(lambda: len(begun) == 102)
                scope.cancel()
        second = FastStreamBus(f"{reader}://{mock.addr}?group=shop&claim_idle=1.2")
        tries = second.tries(fail=lambda _: False)
        async with second:
            await until(lambda: len(tries) == 2)
        assert not second.reports
    assert tries == [(0, 2), (101, 2)]
    # librdkafka reserves memory in steps of 16 bytes. Behind a text of this length that does not
    # end with a NUL follow bytes of the allocator, which are never all zero.
    note = "goevent/1:1x1,100xs,1x1,"
    assert len(note) % 16 == 8
    assert taken[1] == CommitPoint(0, note)


@pytest.mark.parametrize("reader", SCHEMES)
async def test_metadata_that_are_not_utf_8_end_no_consumer(
    reader: str, taken: list[CommitPoint | None]
) -> None:
    async with kafka_mock() as mock:
        mock.topic(TOPIC)
        async with FastStreamBus(f"{reader}://{mock.addr}") as sender:
            await accepted(sender, 0, 1, 2)
        await commit(mock, 0, b"goevent/1:1x2,1xs,\xff\xfe\0")
        bus = FastStreamBus(f"{reader}://{mock.addr}?group=shop&claim_idle=1.2")
        tries = bus.tries(fail=lambda _: False)
        async with bus:
            assert [backlog.event_name for backlog in await bus.driver.lag("shop")] == [
                "order.paid"
            ]
            await until(lambda: len(tries) == 2)
        assert not bus.reports
    assert tries == [(0, 3), (2, 1)]
    assert taken == [CommitPoint(0, "goevent/1:1x2,1xs,\ufffd\ufffd")]
