"""Committed offsets that go back: what this bus has had does not look new to it."""

from __future__ import annotations

from typing import Any

import confluent_kafka
import pytest
import trio
from tests.support.faststream_buses import FastStreamBus, accepted
from tests.support.kafka_mock import HEARTBEAT, UNKNOWN_MEMBER, KafkaMock, kafka_mock
from tests.support.limits import HANG_SECONDS
from tests.support.redis_buses import Paid, until

from goevent import current_delivery
from goevent_faststream._kafka.aiokafka_member import AiokafkaMember
from goevent_faststream._kafka.confluent_member import ConfluentMember

TOPIC = "goevent.order.paid"
GROUP = f"shop.{TOPIC}"
both_clients = pytest.mark.parametrize("scheme", ["kafka", "kafka+confluent"])


class ForgetfulBroker:
    """Commits that the broker confirms and then forgets.

    Attributes:
        forgets: Whether it does so now.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.forgets = False
        for member in (AiokafkaMember, ConfluentMember):

            async def commit(self_: Any, points: Any, real: Any = member.commit) -> bool:
                return self.forgets or await real(self_, points)

            monkeypatch.setattr(member, "commit", commit)


async def committed(mock: KafkaMock) -> int:
    """Return the committed offset of the group."""

    def ask() -> int:
        consumer = confluent_kafka.Consumer(
            {"bootstrap.servers": mock.addr, "group.id": GROUP, "log_level": 0}
        )
        part = confluent_kafka.TopicPartition(TOPIC, 0)
        (found,) = consumer.committed([part], timeout=HANG_SECONDS)
        consumer.close()
        return int(found.offset)

    return await trio.to_thread.run_sync(ask)


async def until_committed(mock: KafkaMock, offset: int) -> None:
    with trio.fail_after(HANG_SECONDS):
        while await committed(mock) != offset:
            pass


@both_clients
async def test_events_whose_commits_were_forgotten_do_not_look_new(
    scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = ForgetfulBroker(monkeypatch)
    async with kafka_mock() as mock:
        mock.topic(TOPIC)
        bus = FastStreamBus(f"{scheme}://{mock.addr}?group=shop&claim_idle=1.2")
        gate, begun = trio.Event(), list[tuple[int, bool]]()

        async def note(event: Paid) -> None:
            begun.append((event.n, current_delivery().redelivered))
            if event.n == 5:
                await gate.wait()

        bus.subscribe(note, Paid)
        async with bus:
            await accepted(bus, 0)
            await until_committed(mock, 1)
            broker.forgets = True
            await accepted(bus, *range(1, 6))
            await until(lambda: (5, False) in begun)
            # The member joins again, and gets the older offset.
            mock.refuse(HEARTBEAT, UNKNOWN_MEMBER, 1)
            broker.forgets = False
            # It commits again what it has done, although no listener runs.
            await until_committed(mock, 5)
            gate.set()
            await accepted(bus, 6)
            await until_committed(mock, 7)
        assert begun[:6] == [(n, False) for n in range(6)]
        assert {*begun[6:]} <= {(5, True), (6, False)}
        assert begun.count((6, False)) == 1


@both_clients
async def test_unfinished_event_whose_commit_was_forgotten_is_redelivered(
    scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = ForgetfulBroker(monkeypatch)
    async with kafka_mock() as mock:
        mock.topic(TOPIC)
        # One listener never ends.
        url = f"{scheme}://{mock.addr}?group=shop&claim_idle=1.2"
        bus = FastStreamBus(url, close_timeout=0.1)
        begun: list[tuple[int, bool]] = []

        async def hang_at_first(event: Paid) -> None:
            delivery: Any = current_delivery()
            begun.append((event.n, delivery.redelivered))
            if event.n == 1 and not delivery.redelivered:
                await trio.sleep_forever()

        bus.subscribe(hang_at_first, Paid, concurrency=2)
        async with bus:
            await accepted(bus, 0)
            await until_committed(mock, 1)
            broker.forgets = True
            await accepted(bus, 1)
            await until(lambda: (1, False) in begun)
            mock.refuse(HEARTBEAT, UNKNOWN_MEMBER, 1)
            await until(lambda: len(begun) == 3)
            broker.forgets = False
            await until_committed(mock, 2)
        assert begun == [(0, False), (1, False), (1, True)]
