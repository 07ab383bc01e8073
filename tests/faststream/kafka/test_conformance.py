"""The conformance suite on Kafka with both clients, against librdkafka's mock."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import pytest
from tests.support.kafka_mock import KafkaMock, kafka_mock, one_partition

from goevent import Driver
from goevent.testing import DriverConformance
from goevent_faststream import FastStreamDriver


class KafkaCases(DriverConformance):
    """The cases for one client. No proxy: clients connect to the addresses that brokers tell."""

    __test__ = False
    deadline = 300.0  # ends a case that hangs; a busy machine took more than 120 seconds
    scheme: str

    @pytest.fixture(autouse=True)
    def _patched(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch = monkeypatch

    @asynccontextmanager
    async def broker(self) -> AsyncGenerator[Callable[[str], Driver]]:
        async with kafka_mock() as mock:
            self.mock: KafkaMock = mock
            # The marker that ends a case must not overtake what was sent before it.
            one_partition(mock, self.monkeypatch)
            yield lambda group: FastStreamDriver.from_url(
                f"{self.scheme}://{mock.addr}?group={group}"
                "&publish_timeout=0.5&backoff=0.02&claim_idle=2"
            )

    @asynccontextmanager
    async def outage(self) -> AsyncGenerator[None]:
        self.mock.down()
        try:
            yield
        finally:
            self.mock.up()


class TestAioKafka(KafkaCases):
    __test__ = True
    scheme = "kafka"


class TestConfluent(KafkaCases):
    __test__ = True
    scheme = "kafka+confluent"
