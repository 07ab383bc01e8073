"""The conformance suite on Kafka with both clients, on the mock and on noida-db."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import pytest
from tests.support.kafka_brokers import KAFKA_BROKERS, KafkaBrokerKind, KafkaFeature, RunningKafka
from tests.support.kafka_mock import one_partition

from goevent import Driver
from goevent.testing import DriverConformance

# It cancels the bus at each of its own steps, which takes a minute: once is enough.
ON_THE_MOCK_ONLY = "cancelled_at_every_step"

# It has two buses of one group.
HAS_TWO_MEMBERS = "each_group_gets_each_event_once"

# Of an event. Some cases open thirty topics, which keeps a broker on a busy machine busy, too.
TOPICS_PUBLISH_SECONDS = 3.0


class KafkaCases(DriverConformance):
    """The cases for one client. No proxy: clients connect to the addresses that brokers tell."""

    __test__ = False
    deadline = 300.0  # ends a case that hangs; a busy machine took more than 120 seconds
    scheme: str
    # Many cases publish to one topic from several buses.
    needs: tuple[KafkaFeature, ...] = (KafkaFeature.CONCURRENT_WRITES,)

    @pytest.fixture(autouse=True)
    def _patched(
        self,
        request: pytest.FixtureRequest,
        monkeypatch: pytest.MonkeyPatch,
        kind: KafkaBrokerKind,
    ) -> None:
        self.monkeypatch = monkeypatch
        self.kind = kind
        kind.needs(*self.needs)
        if HAS_TWO_MEMBERS in request.node.name:
            kind.needs(KafkaFeature.CONCURRENT_JOINS)
        if ON_THE_MOCK_ONLY in request.node.name and kind is not KAFKA_BROKERS["mock"]:
            pytest.skip("the case is about the bus and no broker: it runs on the mock only")

    @asynccontextmanager
    async def broker(self) -> AsyncGenerator[Callable[[str], Driver]]:
        async with self.kind.run() as broker:
            self.running: RunningKafka = broker
            # The marker that ends a case must not overtake what was sent before it.
            one_partition(broker.create_topic, self.monkeypatch)
            yield (
                lambda group: (
                    broker.bus(self.scheme, group, publish_timeout=TOPICS_PUBLISH_SECONDS).driver
                )
            )

    @asynccontextmanager
    async def outage(self) -> AsyncGenerator[None]:
        await self.running.down()
        try:
            yield
        finally:
            await self.running.up()


class TestAioKafka(KafkaCases):
    __test__ = True
    scheme = "kafka"


class TestConfluent(KafkaCases):
    __test__ = True
    scheme = "kafka+confluent"
    needs = (*KafkaCases.needs, KafkaFeature.FETCHES_WAIT)  # some cases have twenty names
