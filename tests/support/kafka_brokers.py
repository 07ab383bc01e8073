"""The Kafka brokers on which the tests run: librdkafka's mock, tansu and noida-db.

`KAFKA_BROKERS` has a line for each, with what it lacks of Kafka and why; a test that needs that is
skipped there with the reason. What is the same for every broker is proved `on_the_mock`, with both
clients: it runs in the process of the tests and lacks nothing that they need. The other two prove
what they may answer otherwise: the ways of topics, groups, offsets and outages.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from enum import Enum, auto
from functools import partial
from typing import Any, Protocol

import pytest
import trio
from faststream.kafka import KafkaBroker

from goevent_faststream import FastStreamDriver
from tests.support.faststream_buses import FastStreamBus
from tests.support.kafka_mock import kafka_mock
from tests.support.kafka_server import noida_server, tansu_server
from tests.support.redis_server import FaultProxy


class KafkaFeature(Enum):
    """A part of Kafka that not every broker of the tests has."""

    GROUPS = auto()
    """A member of a consumer group always gets its partitions."""
    COMMIT_METADATA = auto()
    """A commit keeps the text that a member writes beside its offset."""
    DEAD_MEMBERS_LEAVE = auto()
    """A member that is silent for its session timeout is removed from its group."""
    CONCURRENT_JOINS = auto()
    """Members that join a group at the same moment all get an answer."""
    FETCHES_WAIT = auto()
    """A fetch that finds nothing is answered after its `max.wait.ms`."""
    DURABLE_COMMITS = auto()
    """A commit survives that the broker is killed."""
    DURABLE_RECORDS = auto()
    """A record that was accepted survives that the broker is killed."""


class TopicCreator(Protocol):
    """Creates a topic."""

    def __call__(self, name: str, partitions: int = 1, *, exist_ok: bool = False) -> None: ...


@dataclass
class RunningKafka:
    """A broker that runs.

    Attributes:
        addr: The address for clients.
        session_seconds: A session timeout, as `claim_idle`, that it takes and a test can wait for.
        create_topic: Creates a topic; blocks.
        down: Closes all connections and accepts no more.
        up: Accepts connections again; records and commits are still there.
        has_producer_ids: aiokafka gets an id for an idempotent producer.
    """

    addr: str
    session_seconds: float
    create_topic: TopicCreator
    down: Callable[[], Awaitable[None]]
    up: Callable[[], Awaitable[None]]
    has_producer_ids: bool = True

    async def topic(self, name: str, partitions: int = 1) -> None:
        """Create a topic."""
        await trio.to_thread.run_sync(self.create_topic, name, partitions)

    def bus(self, scheme: str, group: str | None = "shop", **options: Any) -> FastStreamBus:
        """Return a bus with short pauses and a short session timeout."""
        settings = {"backoff": 0.02, "claim_idle": self.session_seconds, **options}
        if group is not None:
            settings["group"] = group
        query = "&".join(f"{name}={value}" for name, value in settings.items())
        driver = FastStreamDriver.from_url(f"{scheme}://{self.addr}?{query}")
        if scheme == "kafka" and not self.has_producer_ids:
            broker = KafkaBroker(self.addr, enable_idempotence=False, logger=None)
            driver = FastStreamDriver(broker, driver.config)
        return FastStreamBus(driver)


@dataclass(frozen=True)
class KafkaBrokerKind:
    """One of the brokers.

    Attributes:
        run: Runs it inside a `with` block.
        lacks: What it cannot do, and the reason.
    """

    name: str
    run: Callable[[], AbstractAsyncContextManager[RunningKafka]]
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

        yield RunningKafka(mock.addr, 1.2, mock.topic, down, up)


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

        yield RunningKafka(
            proxy.addr,
            # A member joins after half of it, or after 3 seconds.
            session_seconds=1.2,
            create_topic=server.topic,
            down=down,
            up=proxy.accept,
            # It answers version 0 of InitProducerId with error -1.
            has_producer_ids=False,
        )
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def _noida() -> AsyncGenerator[RunningKafka]:
    async with noida_server() as server:
        stop = partial(trio.to_thread.run_sync, server.stop)
        # Like Kafka, it refuses a shorter session timeout.
        yield RunningKafka(server.addr, 6.0, server.topic, stop, server.start)


KAFKA_BROKERS: Mapping[str, KafkaBrokerKind] = {
    "mock": KafkaBrokerKind(
        "the mock",
        _mock,
        {
            KafkaFeature.DURABLE_COMMITS: "has no process to kill",
            KafkaFeature.DURABLE_RECORDS: "has no process to kill",
        },
    ),
    "tansu": KafkaBrokerKind(
        "tansu",
        _tansu,
        {
            # Seen with librdkafka's own consumers, too.
            KafkaFeature.GROUPS: "may leave the members of a group without partitions for ever",
            KafkaFeature.COMMIT_METADATA: "drops the metadata of commits",
            KafkaFeature.DURABLE_COMMITS: "keeps everything in memory",
            KafkaFeature.DURABLE_RECORDS: "keeps everything in memory",
        },
    ),
    "noida": KafkaBrokerKind(
        "noida-db",
        _noida,
        {
            # Seen with librdkafka's own consumers: four of 75 groups, on a busy machine.
            KafkaFeature.CONCURRENT_JOINS: (
                "may never answer the members of a group that join at the same moment"
            ),
            KafkaFeature.DEAD_MEMBERS_LEAVE: "never removes a member that has died",
            KafkaFeature.FETCHES_WAIT: (
                "answers an empty fetch at once, so dozens of librdkafka's consumers, which ask "
                "again at once, leave no time for anything else"
            ),
            KafkaFeature.DURABLE_COMMITS: "writes groups to its files only when it is stopped",
            KafkaFeature.DURABLE_RECORDS: "writes the latest records to its files a while later",
        },
    ),
}

on_the_mock = pytest.mark.parametrize("kind", [KAFKA_BROKERS["mock"]], ids=["mock"])
"""For a test of what does not depend on the broker."""
