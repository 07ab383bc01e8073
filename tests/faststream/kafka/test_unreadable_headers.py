"""Records with a header whose name is not UTF-8: they are events like others."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import trio
from aiokafka import AIOKafkaProducer  # type: ignore[import-untyped]
from aiokafka.protocol.produce import ProduceRequest  # type: ignore[import-untyped]
from aiokafka.record import default_records  # type: ignore[import-untyped]
from aiokafka.structs import TopicPartition  # type: ignore[import-untyped]
from tests.support.faststream_buses import FastStreamBus, accepted
from tests.support.kafka_mock import KafkaMock, kafka_mock, read_records
from tests.support.redis_buses import numbers, until

from goevent_faststream._kafka.aiokafka_records import FetchedRecords, TolerantPartitionRecords

TOPIC = "goevent.order.paid"
SCHEMES = ("kafka", "kafka+confluent")


class InvalidName(str):
    """A text that is sent as bytes that are not UTF-8."""

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        return b"\xff\xfe"


async def write_with_invalid_header(mock: KafkaMock, body: bytes) -> None:
    async def write() -> None:
        producer: Any = AIOKafkaProducer(bootstrap_servers=mock.addr)
        await producer.start()
        records: Any = default_records
        batch = records._DefaultRecordBatchBuilderPy(2, 0, False, -1, -1, -1, 1 << 16)
        batch.append(0, 1000, None, body, [(InvalidName("x"), b"1")])
        topics = [(TOPIC, [(0, bytes(batch.build()))])]
        (node,) = producer.client.cluster.brokers()
        await producer.client.send(node.nodeId, ProduceRequest(None, -1, 1000, topics))
        await producer.stop()

    await trio.to_thread.run_sync(lambda: asyncio.run(write()))


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_a_record_with_an_invalid_name_of_a_header_is_delivered(scheme: str) -> None:
    async with kafka_mock() as mock:
        mock.topic(TOPIC)
        bus = FastStreamBus(f"{scheme}://{mock.addr}?group=shop&claim_idle=1.2")
        seen = bus.seen()
        async with bus:
            # Python checks the result of a function of C less once it has called it often.
            await accepted(bus, *range(100))
            await until(lambda: len(seen) == 100)
            record = min(await read_records(mock, TOPIC, 100), key=lambda each: each.offset())
            await write_with_invalid_header(mock, record.value().replace(b'"n":0', b'"n":100'))
            await accepted(bus, 101)
            await until(lambda: len(seen) == 102)
        assert not bus.reports
    assert numbers(seen) == [*range(102)]


READ_UNCOMMITTED, READ_COMMITTED = 0, 1
PRODUCER = 7
ABORT = b"\x00\x00\x00\x00"
CONTROL_BITS = 0x30


def batch(first: int, *, count: int = 2, bad: int | None = None, control: bool = False) -> bytes:
    """Return a batch whose record `bad` has a header with an invalid name."""
    records: Any = default_records
    is_transactional = bad is None
    builder = records._DefaultRecordBatchBuilderPy(
        2, 0, is_transactional, PRODUCER if is_transactional else -1, 0, 0, 1 << 16
    )
    for index in range(count):
        headers = [(InvalidName("x"), b"1")] if first + index == bad else []
        builder.append(index, 1000, ABORT if control else None, b"", headers)
    built = bytearray(builder.build())
    built[:8] = first.to_bytes(8, "big")
    if control:
        built[22] |= CONTROL_BITS
    return bytes(built)


def offsets(data: bytes, *, begin: int = 0, aborted: tuple[tuple[int, int], ...] = ()) -> list[int]:
    isolation = READ_COMMITTED if aborted else READ_UNCOMMITTED
    records: Any = TolerantPartitionRecords(
        TopicPartition(TOPIC, 0), FetchedRecords(data), aborted, begin, None, None, False, isolation
    )
    return [record.offset for record in records]


@pytest.mark.parametrize("begin", [0, 1])
@pytest.mark.parametrize("bad", [4, 5, 6])
def test_no_record_of_an_answer_comes_twice(bad: int, begin: int) -> None:
    data = batch(0) + batch(2) + batch(4, count=3, bad=bad) + batch(7)
    assert offsets(data, begin=begin) == [*range(begin, 9)]


def test_the_records_of_an_aborted_transaction_stay_left_out() -> None:
    first = batch(0) + batch(2, count=1, control=True)
    second = batch(3) + batch(5, bad=6) + batch(7) + batch(9, count=1, control=True)
    assert offsets(first + second, aborted=((PRODUCER, 0), (PRODUCER, 3))) == [5, 6]
