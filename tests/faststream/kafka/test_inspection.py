"""The inspection of Kafka: tails without a group, the backlog of any group, and findings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import confluent_kafka
import pytest
import trio
from confluent_kafka import admin
from tests.support.faststream_buses import accepted
from tests.support.kafka_brokers import KafkaBrokerKind, KafkaFeature, RunningKafka, on_the_mock
from tests.support.limits import HANG_SECONDS
from tests.support.redis_buses import User, numbers, opened, until

from goevent.drivers import TailedEvent
from goevent_faststream._kafka.client import KafkaClient
from goevent_faststream._kafka.connection import KafkaConnection
from goevent_faststream._kafka.inspection import KafkaInspection
from goevent_faststream._kafka.topic_reader import ClusterLayout, PartitionLayout

TOPIC = "goevent.order.paid"
both_clients = pytest.mark.parametrize("scheme", ["kafka", "kafka+confluent"])


async def received(events: trio.abc.ReceiveChannel[TailedEvent], count: int) -> list[TailedEvent]:
    """Return the next events of a tail."""
    with trio.fail_after(HANG_SECONDS):
        return [await events.receive() for _ in range(count)]


async def groups_of(server: RunningKafka) -> list[str]:
    """Return the names of the groups that the broker knows."""

    def ask() -> list[str]:
        client: Any = admin.AdminClient({"bootstrap.servers": server.addr, "log_level": 0})
        found = client.list_consumer_groups(request_timeout=HANG_SECONDS).result()
        return sorted(each.group_id for each in found.valid)

    return await trio.to_thread.run_sync(ask)


async def write(server: RunningKafka, topic: str, *bodies: bytes, key: bytes | None = None) -> None:
    """Write records as a foreign producer."""

    def produce() -> None:
        producer = confluent_kafka.Producer({"bootstrap.servers": server.addr, "log_level": 0})
        for body in bodies:
            producer.produce(topic, body, key, headers=[("x", b"\xff\xfe")])
        assert producer.flush(HANG_SECONDS) == 0

    await trio.to_thread.run_sync(produce)


@both_clients
async def test_a_tail_shows_events_from_now_on_and_takes_none(
    kind: KafkaBrokerKind, scheme: str
) -> None:
    kind.needs(KafkaFeature.GROUPS)
    async with kind.run() as server:
        await server.topic(TOPIC)
        sender, receiver = server.bus(scheme, None), server.bus(scheme)
        watcher = server.bus(scheme, None)
        seen = receiver.seen()
        async with opened(sender, receiver, watcher):
            await accepted(sender, 0)
            await until(lambda: len(seen) == 1)
            async with watcher.driver.tail("order.*") as events:
                await sender.dispatch(User(n=1))
                await accepted(sender, 1, 2)
                shown = await received(events, 2)
            await until(lambda: len(seen) == 3)
        assert numbers(seen) == [0, 1, 2]
    assert [event.event_name for event in shown] == ["order.paid", "order.paid"]
    assert [event.id for event in shown] == [f"{TOPIC}-0@1", f"{TOPIC}-0@2"]
    assert shown[0].time is not None
    assert b'"n":1' in shown[0].data


@both_clients
async def test_a_tail_is_no_member_of_a_group(kind: KafkaBrokerKind, scheme: str) -> None:
    async with kind.run() as server:
        bus = server.bus(scheme, None)
        async with opened(bus):
            await accepted(bus, 0)
            try:
                await groups_of(server)
            except confluent_kafka.KafkaException:
                pytest.skip(f"{kind.name} lists no groups")
            async with bus.driver.tail("**") as events:
                await accepted(bus, 1)
                await received(events, 1)
                assert await groups_of(server) == []


@both_clients
async def test_a_tail_shows_a_topic_that_is_created_while_it_lasts_from_its_first_event(
    kind: KafkaBrokerKind, scheme: str
) -> None:
    async with kind.run() as server:
        sender, watcher = server.bus(scheme, None), server.bus(scheme, None)
        async with opened(sender, watcher), watcher.driver.tail("**") as events:
            await accepted(sender, 1)
            shown = await received(events, 1)
            await sender.dispatch(User(n=2))
            await accepted(sender, 3)
            shown += await received(events, 2)
    assert sorted(event.event_name for event in shown) == [
        "order.paid",
        "order.paid",
        "user.created",
    ]


@both_clients
async def test_a_tail_goes_on_when_the_broker_is_back(kind: KafkaBrokerKind, scheme: str) -> None:
    async with kind.run() as server:
        sender, watcher = server.bus(scheme, None), server.bus(scheme, None)
        async with opened(sender, watcher):
            await accepted(sender, 0)
            async with watcher.driver.tail("order.paid") as events:
                await accepted(sender, 1)
                shown = await received(events, 1)
                await server.down()
                await until(lambda: not watcher.driver.snapshot().connected)
                await server.up()
                await until(lambda: sender.driver.snapshot().connected)
                await accepted(sender, 2)
                shown += await received(events, 1)
    assert [b'"n":1' in shown[0].data, b'"n":2' in shown[1].data] == [True, True]


@on_the_mock
@both_clients
async def test_a_slow_tail_gets_all_events_and_hostile_ones_as_they_are(
    kind: KafkaBrokerKind, scheme: str
) -> None:
    async with kind.run() as server:
        await server.topic(TOPIC)
        bus = server.bus(scheme, None)
        async with opened(bus), bus.driver.tail("order.paid") as events:
            await write(server, TOPIC, *(b"\xff\x00 %d" % n for n in range(3000)))
            await write(server, TOPIC, b"last", key=b"\xff")
            shown = await received(events, 3001)
    assert [event.id for event in shown] == [f"{TOPIC}-0@{n}" for n in range(3001)]
    assert shown[0].data == b"\xff\x00 0"
    assert shown[-1].data == b"last"


@both_clients
async def test_the_backlog_of_any_group_comes_from_its_commits(
    kind: KafkaBrokerKind, scheme: str
) -> None:
    kind.needs(KafkaFeature.GROUPS)
    async with kind.run() as server:
        receiver, asker = server.bus(scheme, "a.b"), server.bus(scheme, None)
        seen = receiver.seen()
        async with opened(asker):
            await accepted(asker, 0)
            async with opened(receiver):
                await until(lambda: len(seen) == 1)
                with trio.fail_after(HANG_SECONDS):
                    while [each.lag for each in await asker.driver.lag("a.b")] != [0]:
                        await trio.sleep(0.1)
            (settled,) = await asker.driver.lag("a.b")
            await accepted(asker, 1, 2, 3)
            (backlog,) = await asker.driver.lag("a.b")
            assert await asker.driver.lag("unknown") == []
    assert (settled.event_name, settled.lag, settled.oldest_waiting) == ("order.paid", 0, 0.0)
    assert backlog.lag == 3
    assert backlog.oldest_waiting is not None
    assert 0.0 <= backlog.oldest_waiting < HANG_SECONDS


@both_clients
async def test_a_cluster_of_one_broker_with_its_defaults_is_well(
    kind: KafkaBrokerKind, scheme: str
) -> None:
    async with kind.run() as server:
        bus = server.bus(scheme, None)
        async with opened(bus):
            await accepted(bus, 1)
            found = await bus.driver.check(["order.paid", "user.**", "order.lost"])
    assert [each.text for each in found if "message.bytes" not in each.text] == []


@on_the_mock
async def test_a_bus_that_closes_ends_its_tail(kind: KafkaBrokerKind) -> None:
    async with kind.run() as server:
        bus = server.bus("kafka+confluent", None)
        ended = trio.Event()

        async def read(task_status: trio.TaskStatus[None]) -> None:
            async with bus.driver.tail("**") as events:
                task_status.started()
                async for _ in events:
                    pass
            ended.set()

        async with trio.open_nursery() as nursery, bus:
            await nursery.start(read)
    assert ended.is_set()


class DescribedCluster:
    """A client whose brokers tell given settings; it has no connection."""

    def __init__(
        self, layout: ClusterLayout, topic: Mapping[str, str], broker: Mapping[str, str]
    ) -> None:
        self._layout = layout
        self._topic = topic
        self._broker = broker

    async def layout(self) -> ClusterLayout:
        return self._layout

    async def topic_settings(self, topic: str) -> Mapping[str, str]:
        return self._topic

    async def broker_settings(self, broker: int) -> Mapping[str, str]:
        return self._broker


class Connected:
    """A connection that is up."""

    async def wait_until_up(self) -> None:
        """Return at once."""


async def found_texts(
    names: Sequence[str],
    *,
    brokers: int = 3,
    partitions: Sequence[PartitionLayout] = (PartitionLayout(0, 3, 3),),
    topic: Mapping[str, str] | None = None,
    broker: Mapping[str, str] | None = None,
) -> list[str]:
    """Return the findings about a described cluster."""
    client = DescribedCluster(
        ClusterLayout(range(brokers), {TOPIC: partitions}), topic or {}, broker or {}
    )
    inspection = KafkaInspection(
        cast("KafkaClient", client), cast("KafkaConnection", Connected()), "goevent.", 1_000_000
    )
    return [f"{each.severity}: {each.text}" for each in await inspection.check(names)]


SAFE = {"min.insync.replicas": "2", "retention.ms": "604800000", "retention.bytes": "-1"}
ABOUT = f"Kafka: the topic '{TOPIC}':"


async def test_settings_that_lose_nothing_are_no_findings() -> None:
    assert await found_texts(["order.paid", "order.*"], topic=SAFE) == []


@pytest.mark.parametrize(
    ("setting", "value", "finding"),
    [
        ("max.message.bytes", "5000", "warning: {} max.message.bytes is 5000"),
        ("min.insync.replicas", "1", "warning: {} min.insync.replicas is 1"),
        ("min.insync.replicas", "4", "error: {} min.insync.replicas is 4 and there are 3"),
        ("retention.ms", "60000", "warning: {} retention.ms is 60000"),
        ("retention.bytes", "100", "warning: {} retention.bytes is 100"),
        ("cleanup.policy", "compact,delete", "warning: {} cleanup.policy is compact"),
        ("unclean.leader.election.enable", "true", "warning: {} unclean.leader.election"),
        ("max.message.bytes", "many", ""),
    ],
)
async def test_each_dangerous_setting_of_a_topic_is_told(
    setting: str, value: str, finding: str
) -> None:
    found = await found_texts(["order.paid"], topic={**SAFE, setting: value})
    assert [text.startswith(finding.format(ABOUT)) for text in found] == [True] * bool(finding)


async def test_too_few_replicas_are_told() -> None:
    one, out = PartitionLayout(0, 1, 1), PartitionLayout(0, 3, 1)
    (found,) = await found_texts(["**"], partitions=[one])
    assert "there is one replica and there are 3 brokers" in found
    assert await found_texts(["**"], partitions=[one], brokers=1) == []
    (found,) = await found_texts(["**"], partitions=[out], topic=SAFE)
    assert found.startswith("error: ")
    assert "1 of 3 replicas are in sync" in found


async def test_missing_topics_that_would_be_created_in_danger_are_told() -> None:
    created = {"auto.create.topics.enable": "true", "default.replication.factor": "1"}
    (found,) = await found_texts(["order.lost"], broker=created)
    assert "default.replication.factor is 1" in found
    assert await found_texts(["order.paid"], broker=created) == []
    (found,) = await found_texts(["order_paid"])
    assert "differ only in '.' and '_'" in found
