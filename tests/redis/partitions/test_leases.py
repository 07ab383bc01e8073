"""Leases: which bus has which partition, as buses come, go, die and freeze."""

from __future__ import annotations

import trio
from tests.support.limits import HANG_SECONDS
from tests.support.partition_buses import (
    LEASES,
    NAME,
    PARTITIONS,
    Ask,
    Moved,
    PartitionedBus,
    PartitionGate,
    by_account,
    in_order,
    move,
    owners,
    shared,
    until_partitions_settled,
)
from tests.support.redis_buses import OrderLost, Paid, opened, until
from tests.support.stopwatch import Stopwatch
from tests.support.streams_buses import command_client, publish, streams_server


async def test_partitions_are_shared_out_fairly_as_buses_come_and_go() -> None:
    async with streams_server() as server, command_client(server) as ask:
        buses = [PartitionedBus(server.addr) for _ in range(5)]
        moves = [bus.moves() for bus in buses]
        sender = PartitionedBus(server.addr, None)
        sent, enough = 0, trio.Event()

        async def load() -> None:
            nonlocal sent
            while not enough.is_set():
                await move(sender, 40, 20, sent)
                sent += 40
                await trio.sleep(0.01)

        async with sender, buses[0], trio.open_nursery() as nursery:
            await shared(ask, 4)
            nursery.start_soon(load)
            async with buses[1]:
                await shared(ask, 2, 2)
                async with buses[2], buses[3]:
                    await shared(ask, 1, 1, 1, 1)
                    # Four partitions for five buses: one bus waits.
                    async with buses[4]:
                        await trio.sleep(0.7)
                        await shared(ask, 1, 1, 1, 1)
                await shared(ask, 2, 2)
            await shared(ask, 4)
            enough.set()
        async with buses[0]:
            await until_partitions_settled(ask)
        assert not [error for bus in buses for error in bus.told]
        together = [each for part in moves for each in part]
    assert sorted(n for _, n, _ in together) == [*range(sent)]
    assert {deliveries for _, _, deliveries in together} == {1}
    assert sum(1 for part in moves if part) >= 4
    for part in moves:
        assert all(each == sorted(each) for each in by_account(part).values())


async def test_remainders_of_several_names_go_to_different_buses() -> None:
    names = (NAME, "order.paid", "order.lost", "user.created", "order.item.added")
    async with streams_server() as server, command_client(server) as ask:
        buses = [PartitionedBus(server.addr, partitions=3) for _ in range(2)]
        for bus in buses:
            bus.seen(*names)
        async with opened(*buses):
            with trio.fail_after(HANG_SECONDS):
                while True:
                    shares = [[*(await owners(ask, name)).values()] for name in names]
                    if all(len(share) == 3 and len({*share}) == 2 for share in shares):
                        break
                    await trio.sleep(0.01)
    extras = {max(share, key=share.count) for share in shares}
    assert len(extras) == 2


async def test_clean_stop_releases_unstarted_events_of_a_partition_within_a_second() -> None:
    async with streams_server() as server, command_client(server) as ask:
        first, second = PartitionedBus(server.addr), PartitionedBus(server.addr)
        gate = PartitionGate()
        first.moves(wait=gate)
        moves = second.moves()
        async with first:
            await move(first, 100, 1)
            await until(lambda: gate.begun == [0])
            async with second, trio.open_nursery() as nursery:
                await shared(ask, 2, 2)
                nursery.start_soon(first.close, 30.0)
                # A partition without running listeners is given away at once, the rest later.
                await shared(ask, 1, 3)
                gate.open()
                began = Stopwatch()
                await until(lambda: len(moves) == 99)
                assert began.unhindered_seconds < 1.0
            await until_partitions_settled(ask)
        assert not first.told + second.told
    assert moves == [("a0", n, 1) for n in range(1, 100)]


async def test_failed_event_that_waits_for_a_retry_keeps_its_place_when_the_partition_moves() -> (
    None
):
    async with streams_server() as server, command_client(server) as ask:
        first = PartitionedBus(server.addr, backoff=0.05, max_deliveries=100)
        second = PartitionedBus(server.addr)
        tries = first.moves(fail=lambda event: event.n == 0)
        moves = second.moves()
        async with first:
            await move(first, 10, 1)
            await until(lambda: len(tries) == 3)
        assert tries[:3] == [("a0", 0, 1), ("a0", 0, 2), ("a0", 0, 3)]
        async with second:
            await until_partitions_settled(ask)
    assert moves == [("a0", 0, len(tries) + 1), *(("a0", n, 1) for n in range(1, 10))]


async def test_long_listener_keeps_its_partition_however_long_it_takes() -> None:
    async with streams_server() as server, command_client(server) as ask:
        buses = [PartitionedBus(server.addr, claim_idle=1.0) for _ in range(2)]
        moves = [bus.moves(wait=lambda _: trio.sleep(4.0)) for bus in buses]
        async with opened(*buses):
            await shared(ask, 2, 2)
            await move(buses[0], 4, 4)
            await until_partitions_settled(ask)
        assert sorted(moves[0] + moves[1]) == [(f"a{n}", n, 1) for n in range(4)]
        assert not buses[0].told + buses[1].told


async def test_draining_partition_is_kept_if_the_other_bus_leaves() -> None:
    async with streams_server() as server, command_client(server) as ask:
        first, second = PartitionedBus(server.addr), PartitionedBus(server.addr)
        gate = trio.Event()
        begun: list[str] = []

        async def wait(event: Moved) -> None:
            begun.append(event.account)
            await gate.wait()

        moves, others = first.moves(wait=wait), second.moves()
        async with first:
            # Twenty accounts give every partition work.
            await move(first, 40, 20)
            await until(lambda: len(begun) == 20)
            async with second:
                await trio.sleep(0.7)
                assert len({*(await owners(ask)).values()}) == 1
            await trio.sleep(0.4)
            gate.set()
            await until_partitions_settled(ask)
            counts = [await ask("HGET", LEASES, f"{n}:count") for n in range(PARTITIONS)]
            assert counts == [b"1"] * PARTITIONS
    assert in_order(moves, 40, 20)
    assert not others


async def test_unsubscribing_gives_partitions_away_and_subscribing_shares_them_again() -> None:
    async with streams_server() as server, command_client(server) as ask:
        first, second = PartitionedBus(server.addr), PartitionedBus(server.addr)
        mine, theirs = first.moves(), second.moves()
        async with opened(first, second):
            await shared(ask, 2, 2)
            first.unregister_listeners_for_event(Moved)
            await shared(ask, 4)
            await move(second, 40, 10)
            await until_partitions_settled(ask)
            assert in_order(theirs, 40, 10)
            again = first.moves()
            await first.ready()
            await shared(ask, 2, 2)
            await move(second, 40, 10, 40)
            await until_partitions_settled(ask)
        assert again
        assert not mine
        assert not first.told + second.told


async def test_names_without_events_cost_few_commands() -> None:
    async with streams_server() as server, command_client(server) as ask:
        bus = PartitionedBus(server.addr)
        bus.seen(Moved, Paid, OrderLost)
        async with bus:
            await bus.ready()
            before = await commands(ask)
            await trio.sleep(1.0)
            # Three names: a few renewals and looks, and one read that blocks.
            assert await commands(ask) - before < 60
            await publish(bus, 1)


async def commands(ask: Ask) -> int:
    """Return how many commands clients have sent so far, including those of scripts."""
    info = (await ask("INFO", "commandstats")).decode()
    found = 0
    for line in info.splitlines():
        if line.startswith(("cmdstat_evalsha:", "cmdstat_xread:", "cmdstat_client")):
            found += int(line.partition("calls=")[2].partition(",")[0])
    return found


async def test_leases_are_kept_and_events_finish_while_the_server_is_out_of_memory() -> None:
    async with streams_server() as server, command_client(server) as ask:
        bus = PartitionedBus(server.addr, claim_idle=0.4, prefetch=8)
        gate = trio.Event()
        moves = bus.moves(wait=lambda _: gate.wait())
        async with bus:
            await move(bus, 40, 8)
            before = await ask("HGETALL", LEASES)
            await ask("CONFIG", "SET", "maxmemory", 1)
            await trio.sleep(1.5)
            gate.set()
            await until_partitions_settled(ask)
            assert await ask("HGETALL", LEASES) == before
            await ask("CONFIG", "SET", "maxmemory", 0)
    assert in_order(moves, 40, 8)
    assert {deliveries for _, _, deliveries in moves} == {1}


async def test_bus_that_is_cancelled_leaves_no_lease_behind() -> None:
    async with streams_server() as server, command_client(server) as ask:
        for pause in (0.0, 0.001, 0.003, 0.01, 0.03, 0.1):
            with trio.CancelScope() as scope:
                bus = PartitionedBus(server.addr, claim_idle=60.0)
                bus.moves()
                scope.deadline = trio.current_time() + pause
                async with bus:
                    await trio.sleep_forever()
            assert not await owners(ask)
