"""Fixtures of all Kafka tests."""

import threading
from collections.abc import Generator

import pytest
from tests.support.kafka_brokers import KAFKA_BROKERS, KafkaBrokerKind
from tests.support.limits import HANG_SECONDS


@pytest.fixture(autouse=True)
def _threads_end() -> Generator[None]:
    """Wait for the threads of the test's buses, or fail the test that left one for ever.

    confluent-kafka may still leave its groups when a bus has ended. Other tests assert that no
    thread of a driver is left.
    """
    before = {*threading.enumerate()}
    yield
    started = [each for each in {*threading.enumerate()} - before if "goevent" in each.name]
    for thread in started:
        thread.join(HANG_SECONDS)
    assert not [each.name for each in started if each.is_alive()]


@pytest.fixture(params=[*KAFKA_BROKERS.values()], ids=[*KAFKA_BROKERS])
def kind(request: pytest.FixtureRequest) -> KafkaBrokerKind:
    """Run the test on each of the brokers."""
    kind = request.param
    assert isinstance(kind, KafkaBrokerKind)
    return kind
