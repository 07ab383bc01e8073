"""The Kafka consumer on a fake client: how it treats its group."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from types import SimpleNamespace
from typing import Any

from goevent_faststream import BrokerConfig
from goevent_faststream._kafka.consumer import COMMIT_PAUSE_SECONDS, EventTopic, KafkaConsumer
from goevent_faststream._kafka.offsets import CommitPoint


class FakeGroupClient:
    """A client with one group member."""

    def __init__(self, member: RefusingMember) -> None:
        self._member = member

    def join(self, *_: object) -> RefusingMember:
        """Return the one member."""
        return self._member


class RefusingMember:
    """A member of a group that rebalances again and again."""

    def __init__(self) -> None:
        self.commits = 0
        self.accepts = False
        self.end = 7

    async def start(self) -> None:
        """Join."""

    async def stop(self) -> None:
        """Leave."""

    async def read(self, count: int, seconds: float) -> list[Any]:
        """Return no records."""
        await asyncio.sleep(seconds)
        return []

    async def first_offsets(self, partitions: Collection[int]) -> Mapping[int, int]:
        """Return 0 for all partitions."""
        return dict.fromkeys(partitions, 0)

    async def end_offsets(self, partitions: Collection[int]) -> Mapping[int, int]:
        """Return the same end for all partitions, at first 7."""
        return dict.fromkeys(partitions, self.end)

    def reached(self, partition: int) -> int:
        """Return 0: nothing is known."""
        return 0

    async def commit(self, points: Mapping[int, CommitPoint]) -> bool:
        """Accept the commit if `accepts`."""
        self.commits += 1
        return self.accepts


def test_commits_to_a_group_that_refuses_them_back_off() -> None:
    async def main() -> None:
        member = RefusingMember()
        client: Any = FakeGroupClient(member)
        broker: Any = SimpleNamespace(middlewares=())
        host: Any = SimpleNamespace()
        topic = EventTopic("order", "order", "earliest")
        consumer = KafkaConsumer(broker, client, host, BrokerConfig(group="g"), topic)
        joined = asyncio.get_running_loop().create_task(consumer.start())
        for _ in range(20):
            await consumer.assigned({0: None})
            await asyncio.sleep(COMMIT_PAUSE_SECONDS)
            consumer.lost([0])
        # The back-off is 1, 2, 4, 8, 16 times the pause, and the pause itself comes on top.
        assert 1 < member.commits <= 5
        member.accepts = True
        await consumer.assigned({0: None})
        await consumer.stop()
        assert consumer.backlog().pending == 0
        await joined

    asyncio.run(main())


def test_added_partition_is_read_from_its_first_record() -> None:
    async def main() -> None:
        member = RefusingMember()
        member.accepts = True
        client: Any = FakeGroupClient(member)
        broker: Any = SimpleNamespace(middlewares=())
        host: Any = SimpleNamespace()
        topic = EventTopic("order", "order", "latest")

        def new_consumer() -> KafkaConsumer:
            return KafkaConsumer(broker, client, host, BrokerConfig(group="g"), topic)

        consumer = new_consumer()
        joined = asyncio.get_running_loop().create_task(consumer.start())
        # A new group begins at the end.
        assert await consumer.assigned({0: None, 1: None}) == {0: 7, 1: 7}
        await joined
        while not member.commits:
            await asyncio.sleep(COMMIT_PAUSE_SECONDS)
        # The number of an added partition is higher than the others, also if it comes alone.
        assert await consumer.assigned({2: None}) == {2: 0}
        # A deleted group begins as a new one does.
        assert await consumer.assigned({0: None, 1: None}) == {0: 7, 1: 7}
        await consumer.stop()
        restarted = new_consumer()
        points = {0: CommitPoint(3), 1: None}
        assert await restarted.assigned(points) == {0: 3, 1: 0}

    asyncio.run(main())


def test_commit_point_that_the_broker_has_forgotten_is_where_the_bus_was() -> None:
    async def main() -> None:
        member = RefusingMember()
        member.accepts = True
        client: Any = FakeGroupClient(member)
        broker: Any = SimpleNamespace(middlewares=())
        topic = EventTopic("order", "order", "latest")
        host: Any = SimpleNamespace()
        consumer = KafkaConsumer(broker, client, host, BrokerConfig(group="g"), topic)
        joined = asyncio.get_running_loop().create_task(consumer.start())
        assert await consumer.assigned({0: None}) == {0: 7}
        await joined
        consumer.lost([0])
        member.end = 12
        assert await consumer.assigned({0: None}) == {0: 7}
        consumer.lost([0])
        # The topic was created again.
        member.end = 3
        assert await consumer.assigned({0: None}) == {0: 3}
        await consumer.stop()

    asyncio.run(main())
