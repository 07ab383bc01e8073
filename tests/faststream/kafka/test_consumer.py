"""The Kafka consumer on a fake client: how it treats its group."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from tests.support.limits import HANG_SECONDS

from goevent_faststream import BrokerConfig
from goevent_faststream._adapter.contract import Arrival
from goevent_faststream._kafka.consumer import COMMIT_PAUSE_SECONDS, EventTopic, KafkaConsumer
from goevent_faststream._kafka.flow_control import WAITING_SHARE, WaitingBytes
from goevent_faststream._kafka.offsets import CommitPoint, KafkaRecord


def consumer_on(
    client: Any, host: Any, topic: EventTopic, max_bytes: int = 1 << 20
) -> KafkaConsumer:
    broker: Any = SimpleNamespace(middlewares=())
    waiting = WaitingBytes(WAITING_SHARE * max_bytes)
    return KafkaConsumer(broker, client, host, BrokerConfig(group="g"), topic, waiting)


class FakeGroupClient:
    """A client with one group member."""

    def __init__(self, member: RefusingMember) -> None:
        self._member = member

    def join(self, *_: object) -> RefusingMember:
        """Return the one member."""
        return self._member


class RefusingMember:
    """A member of a group that rebalances again and again."""

    failure = None

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
        host: Any = SimpleNamespace()
        topic = EventTopic("order", "order", "earliest")
        consumer = consumer_on(client, host, topic)
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

    asyncio.run(asyncio.wait_for(main(), HANG_SECONDS))


def test_added_partition_is_read_from_its_first_record() -> None:
    async def main() -> None:
        member = RefusingMember()
        member.accepts = True
        client: Any = FakeGroupClient(member)
        host: Any = SimpleNamespace()
        topic = EventTopic("order", "order", "latest")

        def new_consumer() -> KafkaConsumer:
            return consumer_on(client, host, topic)

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

    asyncio.run(asyncio.wait_for(main(), HANG_SECONDS))


def test_commit_point_that_the_broker_has_forgotten_is_where_the_bus_was() -> None:
    async def main() -> None:
        member = RefusingMember()
        member.accepts = True
        client: Any = FakeGroupClient(member)
        topic = EventTopic("order", "order", "latest")
        host: Any = SimpleNamespace()
        consumer = consumer_on(client, host, topic)
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

    asyncio.run(asyncio.wait_for(main(), HANG_SECONDS))


class EndlessMember(RefusingMember):
    """A member whose partition has an endless number of large records.

    Attributes:
        record_bytes: The size of each one.
        paused: The paused partitions.
    """

    def __init__(self, record_bytes: int) -> None:
        super().__init__()
        self.record_bytes = record_bytes
        self.paused: set[int] = set()
        self._position = 0

    async def read(self, count: int, seconds: float) -> list[Any]:
        """Return the next record."""
        await asyncio.sleep(0)
        if self.paused:
            await asyncio.sleep(seconds)
            return []
        offset, self._position = self._position, self._position + 1
        return [KafkaRecord(0, offset, None, bytes(self.record_bytes), {}, 0, None)]

    def pause(self, partitions: Collection[int]) -> None:
        """Pause partitions."""
        self.paused |= {*partitions}

    def resume(self, partitions: Collection[int]) -> None:
        """Resume partitions."""
        self.paused -= {*partitions}


class FullHost:
    """A host that takes as many arrivals as it is told to.

    Attributes:
        arrivals: What it has got.
    """

    def __init__(self) -> None:
        self.arrivals: list[Arrival] = []
        self._allowed = 0
        self._room = asyncio.Event()

    def take(self, count: int) -> None:
        """Take so many more arrivals."""
        self._allowed += count
        self._room.set()

    def capacity(self) -> int:
        """Return how many more it takes."""
        return self._allowed - len(self.arrivals)

    async def wait_for_capacity(self) -> None:
        """Wait until it takes one."""
        while self.capacity() <= 0:
            self._room.clear()
            await self._room.wait()

    async def deliver(self, arrival: Arrival) -> None:
        """Take an arrival."""
        self.deliver_nowait(arrival)

    def deliver_nowait(self, arrival: Arrival) -> None:
        """Take an arrival."""
        self.arrivals.append(arrival)


@pytest.mark.parametrize(("record_bytes", "most"), [(1000, 10), (100_000, 1)])
def test_bytes_that_wait_for_a_full_bus_are_bounded_and_one_record_of_any_size_passes(
    record_bytes: int, most: int
) -> None:
    async def main() -> None:
        member, host = EndlessMember(record_bytes), FullHost()
        member.accepts = True
        client: Any = FakeGroupClient(member)
        topic = EventTopic("order", "order", "earliest")
        consumer = consumer_on(client, host, topic, 10_000)
        joined = asyncio.get_running_loop().create_task(consumer.start())
        await consumer.assigned({0: CommitPoint(0)})
        await joined
        while not member.paused:
            await asyncio.sleep(0.01)
        assert consumer.backlog().lag == most
        host.take(most + 5)
        while len(host.arrivals) < most + 5:
            await asyncio.sleep(0.01)
        for arrival in host.arrivals:
            consumer.settle(arrival.raw[1])
            # A record that is done keeps no body, although it may have to stay.
            assert not arrival.raw[1].value
        assert {len(arrival.body) for arrival in host.arrivals} == {record_bytes}
        await consumer.stop(lost=True)

    asyncio.run(asyncio.wait_for(main(), HANG_SECONDS))


@pytest.mark.parametrize("is_clean", [True, False])
def test_records_may_be_repeats_after_partitions_without_a_last_commit(is_clean: bool) -> None:
    async def main() -> None:
        member = RefusingMember()
        arrived: list[Arrival] = []

        async def deliver(arrival: Arrival) -> None:
            arrived.append(arrival)

        client: Any = FakeGroupClient(member)
        host: Any = SimpleNamespace(deliver=deliver, capacity=lambda: 100)
        consumer = consumer_on(client, host, EventTopic("order", "order", "earliest"))
        joined = asyncio.get_running_loop().create_task(consumer.start())
        member.accepts = is_clean
        assert await consumer.assigned({0: CommitPoint(2)}) == {0: 2}
        await joined
        if is_clean:
            await consumer.revoked([0])
        else:
            consumer.lost([0])
        # Another member has committed meanwhile.
        await consumer.assigned({0: CommitPoint(5)})
        for offset in (6, 7):
            record = KafkaRecord(0, offset, None, b"", {}, 1.0, None)
            consumer._add(record)  # pyright: ignore[reportPrivateUsage]
        consumer._has_ready.set()  # pyright: ignore[reportPrivateUsage]
        while len(arrived) < 2:
            await asyncio.sleep(0)
        # The topic ended at 7 when the partition came.
        assert [each.is_repeat for each in arrived] == [not is_clean, False]
        member.accepts = True
        await consumer.stop(wait=False)

    asyncio.run(asyncio.wait_for(main(), HANG_SECONDS))
