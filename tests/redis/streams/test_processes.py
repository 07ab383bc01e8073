"""Workers in processes of their own are killed and frozen."""

from __future__ import annotations

import signal
from contextlib import AbstractAsyncContextManager

import trio
from tests.support.limits import HANG_SECONDS
from tests.support.partition_buses import (
    A0,
    BASE,
    PARTITIONS,
    PartitionedBus,
    in_order,
    move,
    shared,
    until_partitions_settled,
)
from tests.support.redis_buses import opened
from tests.support.redis_server import RedisServer
from tests.support.streams_buses import (
    StreamsBus,
    command_client,
    pending,
    publish,
    streams_server,
    until_settled,
)
from tests.support.worker_process import WorkerProcess, at_work


def working(
    server: RedisServer, seconds: float, claim_idle: float, partitions: int = 1
) -> AbstractAsyncContextManager[WorkerProcess]:
    """Run a worker whose listener takes so many seconds for an event."""
    arguments = (server.addr, str(seconds), str(claim_idle), str(partitions))
    return at_work("streams_worker", *arguments)


async def test_killed_worker_loses_none_of_its_events() -> None:
    async with streams_server() as server, command_client(server) as ask:
        async with working(server, 30.0, 0.5) as worker, StreamsBus(server.addr, None) as sender:
            await publish(sender, *range(10))
            await worker.says("begun", 10)
            worker.process.kill()
        bus = StreamsBus(server.addr, claim_idle=0.5)
        tries = bus.tries()
        async with bus:
            await until_settled(ask)
    assert sorted(tries) == [(n, 2) for n in range(10)]


async def test_frozen_worker_reports_events_that_another_bus_has_taken_over() -> None:
    async with (
        streams_server() as server,
        command_client(server) as ask,
        working(server, 1.0, 0.5) as worker,
    ):
        async with StreamsBus(server.addr, None) as sender:
            await publish(sender, 1)
        await worker.says("begun 1")
        worker.process.send_signal(signal.SIGSTOP)
        bus = StreamsBus(server.addr, claim_idle=0.5)
        gate = trio.Event()
        began: list[int] = []

        async def work(event: object) -> None:
            began.append(1)
            await gate.wait()

        bus.subscribe(work, "order.paid")
        async with bus:
            with trio.fail_after(HANG_SECONDS):
                while not began:
                    await trio.sleep(0.01)
            worker.process.send_signal(signal.SIGCONT)
            await worker.says("done 1")
            await worker.says("finished here too late")
            # The entry still belongs to the other bus.
            assert await pending(ask) == 1
            gate.set()
            await until_settled(ask)


async def test_frozen_owner_of_a_partition_reports_that_it_has_lost_it() -> None:
    async with (
        streams_server() as server,
        command_client(server) as ask,
        working(server, 1.0, 1.0, PARTITIONS) as worker,
    ):
        async with PartitionedBus(server.addr, None) as sender:
            await move(sender, 5, 1)
        await worker.says("begun 0")
        with trio.fail_after(HANG_SECONDS):
            while await pending(ask, key=f"{BASE}:{A0}") < 5:
                await trio.sleep(0.01)
        worker.process.send_signal(signal.SIGSTOP)
        bus = PartitionedBus(server.addr, claim_idle=1.0)
        moves = bus.moves()
        async with bus:
            await until_partitions_settled(ask)
            assert moves == [("a0", n, 2) for n in range(5)]
            worker.process.send_signal(signal.SIGCONT)
            await worker.says("has lost the partition")
            await worker.says("done 0")
            await worker.says("finished here too late")
            await shared(ask, 2, 2)
            await move(bus, 20, 20, 5)
            await until_partitions_settled(ask)
        assert not bus.told
    assert next(line for line in worker.said if line.startswith("begun")) == "begun 0 1"
    assert not {"begun 1 1", "begun 2 1", "begun 3 1", "begun 4 1"} & {*worker.said}


async def test_events_of_a_killed_owner_are_taken_over_in_order() -> None:
    async with streams_server() as server, command_client(server) as ask:
        async with (
            working(server, 30.0, 0.5, PARTITIONS) as worker,
            PartitionedBus(server.addr, None) as sender,
        ):
            await move(sender, 40, 4)
            await worker.says("begun", 4)
            worker.process.kill()
        buses = [PartitionedBus(server.addr, claim_idle=0.5) for _ in range(2)]
        moves = [bus.moves() for bus in buses]
        async with opened(*buses):
            await until_partitions_settled(ask)
    together = moves[0] + moves[1]
    assert in_order(together, 40, 4)
    assert {deliveries for _, n, deliveries in together if n < 4} == {2}
