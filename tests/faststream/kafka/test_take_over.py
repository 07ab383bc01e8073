"""The take-over of partitions: a failure of a moment costs neither the membership nor events."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import Future
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import (  # type: ignore[import-untyped]
    AIOKafkaConsumer,
    OffsetAndMetadata,
    TopicPartition,
)
from confluent_kafka import KafkaError, KafkaException
from tests.support.faststream_buses import FastStreamBus, accepted
from tests.support.kafka_mock import HEARTBEAT, UNKNOWN_MEMBER, KafkaMock, kafka_mock
from tests.support.limits import HANG_SECONDS
from tests.support.redis_buses import numbers, until

from goevent import DriverConnectionError, DriverError
from goevent_faststream._kafka import adapter, client, consumer
from goevent_faststream._kafka.aiokafka_client import AiokafkaClient
from goevent_faststream._kafka.aiokafka_member import AiokafkaMember
from goevent_faststream._kafka.confluent_client import ConfluentClient
from goevent_faststream._kafka.confluent_member import ConfluentMember
from goevent_faststream._kafka.consumer import KafkaConsumer
from goevent_faststream._kafka.refusals import (
    FETCH,
    LEADER_NOT_AVAILABLE,
    LIST_OFFSETS,
    Membership,
    ReadRefusedError,
    Refusal,
)

TOPIC = "goevent.order.paid"
MEMBERSHIP = Membership(TOPIC, f"shop.{TOPIC}", 1.2, 1 << 20)
NO_ANSWER = DriverConnectionError("Kafka: no answer within 5 s")
NO_LEADER = ReadRefusedError(Refusal(LIST_OFFSETS, LEADER_NOT_AVAILABLE), MEMBERSHIP)
FETCH_REFUSED = ReadRefusedError(Refusal(FETCH, -1), MEMBERSHIP)
both_clients = pytest.mark.parametrize("scheme", ["kafka", "kafka+confluent"])


class Members:
    """The members that the consumers of a test have had, and their take-overs.

    Attributes:
        joined: How many members there were.
        errors: The errors of the next take-overs.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.joined = 0
        self.errors: list[DriverError] = []
        for kafka_client in (AiokafkaClient, ConfluentClient):

            def join(self_: Any, *words: Any, real: Any = kafka_client.join) -> Any:
                self.joined += 1
                return real(self_, *words)

            monkeypatch.setattr(kafka_client, "join", join)

        async def assigned(
            self_: Any, points: Any, real: Any = KafkaConsumer.assigned
        ) -> Mapping[int, int]:
            if self.errors:
                raise self.errors.pop(0)
            begin: Mapping[int, int] = await real(self_, points)
            return begin

        monkeypatch.setattr(KafkaConsumer, "assigned", assigned)


def bus_on(mock: KafkaMock, scheme: str) -> FastStreamBus:
    return FastStreamBus(f"{scheme}://{mock.addr}?group=shop&claim_idle=1.2")


@both_clients
@pytest.mark.parametrize("error", [NO_ANSWER, NO_LEADER], ids=["no answer", "no leader"])
async def test_take_over_that_fails_for_a_moment_is_tried_again_by_the_same_member(
    scheme: str, error: DriverError, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "TAKE_OVER_SHARE", HANG_SECONDS)
    members = Members(monkeypatch)
    members.errors = [error, error]
    async with kafka_mock() as mock:
        mock.topic(TOPIC, 2)
        bus = bus_on(mock, scheme)
        seen = bus.seen()
        async with bus:
            await accepted(bus, 1)
            await until(lambda: seen)
        assert not bus.reports
    assert members.joined == 1
    assert not members.errors


@both_clients
@pytest.mark.parametrize(
    "error", [NO_ANSWER, NO_LEADER, FETCH_REFUSED], ids=["no answer", "no leader", "fetch refused"]
)
async def test_member_that_cannot_take_its_partitions_over_is_replaced(
    scheme: str, error: DriverError, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "TAKE_OVER_SHARE", 0.0)
    members = Members(monkeypatch)
    async with kafka_mock() as mock:
        mock.topic(TOPIC, 2)
        bus = bus_on(mock, scheme)
        seen = bus.seen()
        async with bus:
            members.errors = [error]
            mock.refuse(HEARTBEAT, UNKNOWN_MEMBER, 1)
            await until(lambda: members.joined == 2, HANG_SECONDS)
            await accepted(bus, 1)
            await until(lambda: 1 in numbers(seen), HANG_SECONDS)


class LeaderlessAdmin:
    """An administrator that finds no leaders for some time, as on a broker that starts.

    Attributes:
        failures: How many more requests fail.
    """

    def __init__(self, admin: Any) -> None:
        self._admin = admin
        self.failures = 2

    def list_offsets(self, wanted: Mapping[Any, Any], **options: Any) -> dict[Any, Future[Any]]:
        """Fail, or ask the broker."""
        if not self.failures:
            found: dict[Any, Future[Any]] = self._admin.list_offsets(wanted, **options)
            return found
        self.failures -= 1
        error = KafkaError(KafkaError._NOENT, "Failed to query partition leaders: No leaders found")
        futures: dict[Any, Future[Any]] = {part: Future() for part in wanted}
        for future in futures.values():
            future.set_exception(KafkaException(error))
        return futures


async def test_librdkafka_that_finds_no_leader_asks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "TAKE_OVER_SHARE", HANG_SECONDS)
    admins: list[LeaderlessAdmin] = []

    def join(self_: Any, *words: Any, real: Any = ConfluentClient.join) -> Any:
        member = real(self_, *words)
        member._admin = LeaderlessAdmin(member._admin)
        admins.append(member._admin)
        return member

    monkeypatch.setattr(ConfluentClient, "join", join)
    async with kafka_mock() as mock:
        mock.topic(TOPIC, 2)
        bus = bus_on(mock, "kafka+confluent")
        seen = bus.seen()
        async with bus:
            await accepted(bus, 1)
            await until(lambda: seen)
        assert not bus.reports
    assert [admin.failures for admin in admins] == [0]


@both_clients
async def test_member_that_is_stopped_takes_no_partitions_over(
    scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, ended = list[int](), list[int]()

    async def hang(*_: object) -> Mapping[int, int]:
        begun.append(1)
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(1)
        return {}

    async with kafka_mock() as mock:
        mock.topic(TOPIC, 2)
        bus = bus_on(mock, scheme)
        first, second = (bus.subscribe(lambda _: None, name) for name in ("order.paid", "order.x"))
        async with bus:
            await first.ready()
            await second.ready()
            monkeypatch.setattr(KafkaConsumer, "assigned", hang)
            mock.refuse(HEARTBEAT, UNKNOWN_MEMBER, 2)
            await until(lambda: begun, HANG_SECONDS)
            first.unregister()
            second.unregister()
            await until(lambda: len(ended) == len(begun), HANG_SECONDS)


@both_clients
async def test_look_at_a_member_that_has_not_started_reports_nothing(
    scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = list[int]()

    async def start(_: object) -> None:
        await asyncio.Event().wait()

    async def look(self_: Any, real: Any = KafkaConsumer.look) -> None:
        await real(self_)
        looks.append(1)

    for member in (AiokafkaMember, ConfluentMember):
        monkeypatch.setattr(member, "start", start)
    monkeypatch.setattr(KafkaConsumer, "look", look)
    monkeypatch.setattr(consumer, "JOIN_WAIT_SECONDS", 0.05)
    monkeypatch.setattr(adapter, "DISCOVERY_PAUSE_SECONDS", 0.01)
    async with kafka_mock() as mock:
        mock.topic(TOPIC)
        bus = bus_on(mock, scheme)
        bus.seen()
        async with bus:
            await until(lambda: len(looks) >= 3)
            assert not bus.reports


def test_aiokafka_reads_no_record_between_the_take_over_and_its_position() -> None:
    steps: list[Any] = []

    class Listener:
        """A consumer that takes one partition."""

        async def assigned(self, points: Mapping[int, Any]) -> Mapping[int, int]:
            """Return the committed offset, and note the next step of the loop."""
            asyncio.get_running_loop().call_soon(steps.append, "next step")
            return {number: point.offset for number, point in points.items()}

    async def main() -> None:
        part = TopicPartition(TOPIC, 0)

        async def fetch_committed_offsets(_: object) -> Mapping[Any, Any]:
            return {part: OffsetAndMetadata(5, "")}

        def seek(_: object, offset: int) -> None:
            steps.append(offset)

        consumer: Any = SimpleNamespace(
            _client=SimpleNamespace(send=None),
            _coordinator=SimpleNamespace(fetch_committed_offsets=fetch_committed_offsets),
            seek=seek,
        )
        listener: Any = Listener()
        member = AiokafkaMember(consumer, MEMBERSHIP, listener)
        await member.on_partitions_assigned({part})
        assert member.failure is None

    asyncio.run(asyncio.wait_for(main(), HANG_SECONDS))
    assert steps == [5, "next step"]


def test_aiokafka_member_that_has_not_started_can_be_asked_and_stopped() -> None:
    async def main() -> None:
        aiokafka_consumer: Any = AIOKafkaConsumer(bootstrap_servers="127.0.0.1:1", group_id="g")
        listener: Any = SimpleNamespace()
        member = AiokafkaMember(aiokafka_consumer, MEMBERSHIP, listener)
        assert await member.first_offsets([]) == {}
        assert await member.end_offsets([]) == {}
        assert await member.offsets_at([], datetime.now(UTC)) == {}
        assert member.reached(0) == 0

        async def never_ends() -> None:
            aiokafka_consumer._closed = True
            await asyncio.Event().wait()

        aiokafka_consumer.stop = never_ends
        await member.stop()

    asyncio.run(asyncio.wait_for(main(), HANG_SECONDS))


def test_aiokafka_member_that_joins_while_it_is_stopped_takes_nothing_over() -> None:
    taken: list[object] = []

    class Listener:
        """A consumer that notes what it gets."""

        async def assigned(self, points: Mapping[int, Any]) -> Mapping[int, int]:
            """Note the partitions."""
            taken.append(points)
            return {}

    async def main() -> None:
        async def fetch_committed_offsets(_: object) -> Mapping[Any, Any]:
            return {}

        async def stop() -> None:
            # The client waits for a join that is under way before it closes.
            await member.on_partitions_assigned({TopicPartition(TOPIC, 0)})

        aiokafka_consumer: Any = SimpleNamespace(
            _client=SimpleNamespace(send=None),
            _coordinator=SimpleNamespace(fetch_committed_offsets=fetch_committed_offsets),
            stop=stop,
        )
        listener: Any = Listener()
        member = AiokafkaMember(aiokafka_consumer, MEMBERSHIP, listener)
        await member.stop()

    asyncio.run(asyncio.wait_for(main(), HANG_SECONDS))
    assert taken == []
