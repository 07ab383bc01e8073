"""Events on each Kafka broker of the tests, with both clients."""

from __future__ import annotations

import sys

import pytest
import trio
from tests.support.faststream_buses import accepted
from tests.support.kafka_brokers import KafkaBrokerKind, KafkaFeature
from tests.support.kafka_server import noida_server
from tests.support.limits import HANG_SECONDS
from tests.support.redis_buses import numbers, until

both_clients = pytest.mark.parametrize("scheme", ["kafka", "kafka+confluent"])


@both_clients
async def test_events_arrive_once_at_each_group_also_after_an_outage(
    scheme: str, kind: KafkaBrokerKind
) -> None:
    kind.needs(KafkaFeature.GROUPS)
    async with kind.run() as broker:
        shop, mail = (broker.bus(scheme, group) for group in ("shop", "mail"))
        seen = [shop.seen(), mail.seen()]
        async with shop, mail, broker.bus(scheme, None) as sender:
            await accepted(sender, *range(20))
            await until(lambda: all(len(each) == 20 for each in seen), HANG_SECONDS)
            await broker.down()
            await until(lambda: not sender.driver.snapshot().connected)
            await broker.up()
            await until(lambda: sender.driver.snapshot().connected)
            await accepted(sender, *range(20, 40))
            await until(lambda: all(len(each) == 40 for each in seen), HANG_SECONDS)
        assert [sorted(numbers(each)) for each in seen] == [[*range(40)]] * 2


@both_clients
async def test_example_runs_on_a_real_broker(scheme: str) -> None:
    async with noida_server() as server:
        command = [sys.executable, "examples/kafka_orders.py", f"{scheme}://{server.addr}"]
        with trio.fail_after(HANG_SECONDS):
            done = await trio.run_process(command, capture_stdout=True)
    assert b"billed: 40, each order in order: True" in done.stdout
    assert b"mail gave up after 3 deliveries" in done.stdout
