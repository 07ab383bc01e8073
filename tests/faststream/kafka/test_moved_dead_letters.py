"""Dead letters of Kafka that an operator copies back to the topic of their events."""

from __future__ import annotations

from typing import Any

import confluent_kafka
import pytest
import trio
from tests.support.faststream_buses import FastStreamBus, accepted
from tests.support.kafka_mock import KafkaMock, kafka_mock, read_records
from tests.support.redis_buses import opened, until

TOPIC = "goevent.order.paid"
both_clients = pytest.mark.parametrize("scheme", ["kafka", "kafka+confluent"])


async def copy_back(mock: KafkaMock, letter: Any, headers: Any) -> None:
    """Write a dead letter to the topic of its event, as a tool of Kafka does."""

    def write() -> None:
        producer = confluent_kafka.Producer({"bootstrap.servers": mock.addr, "log_level": 0})
        producer.produce(TOPIC, letter.value(), letter.key(), headers=headers)
        assert producer.flush(5) == 0

    await trio.to_thread.run_sync(write)


@both_clients
async def test_letter_that_is_copied_back_runs_in_its_own_group_as_a_new_event(
    scheme: str,
) -> None:
    async with kafka_mock() as mock:
        for topic in (TOPIC, f"{TOPIC}..dead"):
            mock.topic(topic)
        options = "claim_idle=1.2&backoff=0.02&max_deliveries=2"
        shop, mail = (
            FastStreamBus(f"{scheme}://{mock.addr}?group={group}&{options}")
            for group in ("shop", "mail")
        )
        failing = shop.tries(fail=lambda event: event.n == 1)
        others = mail.tries(fail=lambda _: False)
        async with opened(shop, mail):
            await accepted(shop, 1)
            await until(lambda: shop.count_reports("is a dead letter after 2 deliveries") == 1)
            (letter,) = await read_records(mock, f"{TOPIC}..dead", 1)
            await copy_back(mock, letter, letter.headers())
            await until(lambda: shop.count_reports("is a dead letter after 2 deliveries") == 2)
            _, again = await read_records(mock, f"{TOPIC}..dead", 2)
            assert dict(again.headers()) == dict(letter.headers()) | {
                "goevent-id": f"{TOPIC}-0@1".encode()
            }
            # Without the headers of a dead letter it is an event for all.
            await copy_back(mock, letter, None)
            await until(lambda: shop.count_reports("is a dead letter after 2 deliveries") == 3)
            await until(lambda: len(others) == 2)
            # The address of a replay, as on JetStream, goes first.
            await copy_back(mock, letter, [*letter.headers(), ("goevent-for", b"mail")])
            await until(lambda: len(others) == 3)
            await accepted(shop, 2)
            await until(lambda: (2, 1) in failing and (2, 1) in others)
        assert failing == [(1, 1), (1, 2)] * 3 + [(2, 1)]
        assert others == [(1, 1)] * 3 + [(2, 1)]
