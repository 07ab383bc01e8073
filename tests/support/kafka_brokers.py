"""The Kafka brokers on which the tests run: librdkafka's mock, tansu and noida-db.

`KAFKA_BROKERS` has a line for each, with what it lacks of Kafka and why; a test that needs that is
skipped there with the reason.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from enum import Enum, auto
from functools import partial
from typing import Protocol

import pytest
import trio

from tests.support.kafka_mock import kafka_mock
from tests.support.kafka_server import noida_server, tansu_server
from tests.support.redis_server import FaultProxy


class KafkaFeature(Enum):
    """A part of Kafka that not every broker of the tests has."""

    AIOKAFKA_PRODUCER_ID = auto()
    """aiokafka gets an id for its idempotent producer."""

    COMMIT_METADATA = auto()
    """A commit keeps the text that a member writes beside its offset."""
    DEAD_MEMBERS_LEAVE = auto()
    """A member that is silent for its session timeout is removed from its group."""
    DURABLE_COMMITS = auto()
    """A commit survives that the broker is killed."""
    DURABLE_RECORDS = auto()
    """A record that was accepted survives that the broker is killed."""


class TopicMaker(Protocol):
    """Creates a topic."""

    def __call__(self, name: str, partitions: int = 1, *, exist_ok: bool = False) -> None: ...


@dataclass
class RunningKafka:
    """A broker that runs.

    Attributes:
        addr: The address for clients.
        topic: Creates a topic.
        down: Closes all connections and accepts no more.
        up: Accepts connections again; records and commits are still there.
    """

    addr: str
    topic: TopicMaker
    down: Callable[[], Awaitable[None]]
    up: Callable[[], Awaitable[None]]


@dataclass(frozen=True)
class KafkaBrokerKind:
    """One of the brokers.

    Attributes:
        run: Runs it inside a `with` block.
        session_seconds: A session timeout, as `claim_idle`, that it takes and that a test can wait
            for.
        lacks: What it cannot do, and the reason.
    """

    name: str
    run: Callable[[], AbstractAsyncContextManager[RunningKafka]]
    session_seconds: float
    lacks: Mapping[KafkaFeature, str]

    def needs(self, *features: KafkaFeature) -> None:
        """Skip the test if this broker lacks something."""
        for feature in features:
            if feature in self.lacks:
                pytest.skip(f"{self.name} {self.lacks[feature]}")


@asynccontextmanager
async def _mock() -> AsyncGenerator[RunningKafka]:
    async with kafka_mock() as mock:

        async def down() -> None:
            mock.down()

        async def up() -> None:
            mock.up()

        yield RunningKafka(mock.addr, mock.topic, down, up)


@asynccontextmanager
async def _tansu() -> AsyncGenerator[RunningKafka]:
    # A proxy in front, because an end of the process would delete all records.
    proxy = FaultProxy(0)
    async with tansu_server(proxy.port) as server, trio.open_nursery() as nursery:
        proxy.lead_to(server.port)
        await nursery.start(proxy.run)

        async def down() -> None:
            proxy.refuse()
            proxy.reset()

        yield RunningKafka(proxy.addr, server.topic, down, proxy.accept)
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def _noida() -> AsyncGenerator[RunningKafka]:
    async with noida_server() as server:
        stop = partial(trio.to_thread.run_sync, server.stop)
        yield RunningKafka(server.addr, server.topic, stop, server.start)


KAFKA_BROKERS: Mapping[str, KafkaBrokerKind] = {
    "mock": KafkaBrokerKind(
        "the mock",
        _mock,
        1.2,
        {
            KafkaFeature.DURABLE_COMMITS: "has no process to kill",
            KafkaFeature.DURABLE_RECORDS: "has no process to kill",
        },
    ),
    "tansu": KafkaBrokerKind(
        "tansu",
        _tansu,
        1.2,  # a member joins after half of it, or after 3 seconds
        {
            KafkaFeature.AIOKAFKA_PRODUCER_ID: "answers aiokafka's InitProducerId with error -1",
            KafkaFeature.COMMIT_METADATA: "drops the metadata of commits",
            KafkaFeature.DURABLE_COMMITS: "keeps everything in memory",
            KafkaFeature.DURABLE_RECORDS: "keeps everything in memory",
        },
    ),
    "noida": KafkaBrokerKind(
        "noida-db",
        _noida,
        6.0,  # it refuses less, as Kafka does
        {
            KafkaFeature.DEAD_MEMBERS_LEAVE: "never removes a member that has died",
            KafkaFeature.DURABLE_COMMITS: "writes groups to its files only when it is stopped",
            KafkaFeature.DURABLE_RECORDS: "writes the latest records to its files a while later",
        },
    ),
}
