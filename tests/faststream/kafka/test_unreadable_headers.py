"""Records with a header whose name is not UTF-8: they are events like others."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import trio
from aiokafka import AIOKafkaProducer  # type: ignore[import-untyped]
from aiokafka.protocol.produce import ProduceRequest  # type: ignore[import-untyped]
from aiokafka.record import default_records  # type: ignore[import-untyped]
from tests.support.faststream_buses import FastStreamBus, accepted
from tests.support.kafka_mock import KafkaMock, kafka_mock, read_records
from tests.support.redis_buses import numbers, until

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
