"""The conformance suite on Kafka: with both clients on the mock, and in part on noida-db.

Most cases are about the bus and the client. On noida-db run those whose outcome is the broker's:
its offsets, groups, limits and outages. They run with aiokafka, since dozens of librdkafka's
consumers leave noida-db no time.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import pytest
from tests.support.kafka_brokers import KAFKA_BROKERS, KafkaBrokerKind, KafkaFeature, RunningKafka
from tests.support.kafka_mock import one_partition

from goevent import Driver
from goevent.testing import DriverConformance

CASES_OF_THE_BROKER = (
    "abandoned_events_are_delivered_again",
    "accepted_events_have_receipts",
    "accepted_events_outlive_their_publisher",
    "bus_can_be_opened_again",
    "connection_is_made_again",
    "events_of_a_batch_have_their_receipts",
    "events_wait_for_absent_buses",
    "everything_arrives_as_it_was_sent",
    "fifty_can_publish_at_once",
    "headers_arrive",
    "lag_counts_what_waits",
    "large_events_arrive",
    "tail_goes_on_after_an_outage",
    "tail_shows_each_event_once",
    "too_large_events_fail_alone",
    "unknown_group_has_no_lag",
    "unsubscribed_names_are_not_delivered",
    "unusual_names_are_kept_apart",
)

# Of an event. Some cases open thirty topics, which keeps a broker on a busy machine busy, too.
TOPICS_PUBLISH_SECONDS = 3.0


@pytest.fixture(params=["mock", "noida"])
def kind(request: pytest.FixtureRequest) -> KafkaBrokerKind:
    """Run a case on the brokers to which several producers can write."""
    return KAFKA_BROKERS[request.param]


@pytest.mark.parametrize("case", CASES_OF_THE_BROKER)
def test_case_of_the_broker_exists(case: str) -> None:
    assert hasattr(DriverConformance, f"test_{case}")


class KafkaCases(DriverConformance):
    """The cases for one client. No proxy: clients connect to the addresses that brokers tell."""

    __test__ = False
    deadline = 300.0  # ends a case that hangs; a busy machine took more than 120 seconds
    scheme: str
    needs: tuple[KafkaFeature, ...] = ()

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
        case = request.node.originalname.removeprefix("test_")
        if case not in CASES_OF_THE_BROKER and kind is not KAFKA_BROKERS["mock"]:
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
    needs = (KafkaFeature.FETCHES_WAIT,)  # some cases have twenty names
