"""Partitions that are taken over from dead and frozen buses, and after lost replies."""

from __future__ import annotations

import pytest
import trio
from tests.support.partition_buses import (
    A0,
    BASE,
    LEASES,
    NAME,
    PARTITIONS,
    Ask,
    Moved,
    PartitionedBus,
    PartitionGate,
    in_order,
    move,
    until_partitions_settled,
)
from tests.support.redis_buses import until
from tests.support.redis_server import fault_proxy
from tests.support.stopwatch import Stopwatch
from tests.support.streams_buses import StreamsBus, command_client, streams_server

from goevent import current_delivery
from goevent_redis import Lost
from goevent_redis._streams.partitions.partition import partition_of


async def take_away(ask: Ask, number: int, owner: str = "rival") -> None:
    """Take a partition away from its bus, as another bus does if the first one is frozen."""
    await ask("HSET", LEASES, number, f"999-{owner}", f"{number}:owner", owner)
    await ask("SET", f"{LEASES}:{number}", owner)


async def give_up(ask: Ask, number: int) -> None:
    """End the lease of the other bus."""
    await ask("HDEL", LEASES, number, f"{number}:owner")
    await ask("DEL", f"{LEASES}:{number}")


async def test_event_that_a_closing_bus_abandoned_comes_first_at_the_next_bus() -> None:
    async with streams_server() as server, command_client(server) as ask:
        first, second = PartitionedBus(server.addr), PartitionedBus(server.addr)
        gate = PartitionGate()
        first.moves(wait=gate)
        moves = second.moves()
        async with first:
            await move(first, 20, 1)
            await until(lambda: gate.begun)
            await first.close(0.1)
        async with second:
            began = Stopwatch()
            await until(lambda: len(moves) == 20)
            assert began.unhindered_seconds < 1.0
            await until_partitions_settled(ask)
    assert moves == [("a0", 0, 2), *(("a0", n, 1) for n in range(1, 20))]


async def test_bus_that_lost_its_lease_neither_acknowledges_nor_reads_and_reports_it() -> None:
    async with streams_server() as server, command_client(server) as ask:
        bus = PartitionedBus(server.addr)
        gate = PartitionGate()
        moves = bus.moves(wait=gate)
        async with bus:
            await move(bus, 3, 1)
            await until(lambda: gate.begun)
            await take_away(ask, A0)
            await until(lambda: bus.says("has lost the partition"))
            gate.open()
            await until(lambda: bus.causes(Lost))
            (lost,) = bus.causes(Lost)
            assert (lost.event_name, lost.owner) == (NAME, "rival")
            await move(bus, 3, 1, 3)
            await trio.sleep(0.5)
            # The events behind it were not started.
            assert moves == [("a0", 0, 1)]
            info = (await ask("XINFO", "GROUPS", f"{BASE}:{A0}"))[0]
            assert (info[b"pending"], info[b"lag"]) == (3, 3)
            await give_up(ask, A0)
            await until_partitions_settled(ask)
        assert bus.says("has lost the partition") == 1
    assert [n for _, n, _ in moves] == [0, *range(6)]
    assert moves[1] == ("a0", 0, 2)


async def test_bus_that_lost_its_lease_reads_nothing_new_before_it_notices(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keeper = "goevent_redis._streams.partitions.lease_keeper"
    monkeypatch.setattr(f"{keeper}.RENEW_INTERVAL_SECONDS", 1000.0)
    async with streams_server() as server, command_client(server) as ask:
        bus = PartitionedBus(server.addr, claim_idle=4000.0)
        moves = bus.moves()
        async with bus:
            await move(bus, 4, 4)
            await until_partitions_settled(ask)
            await take_away(ask, A0)
            await move(bus, 4, 4, 4)
            theirs = [n for n in range(4, 8) if partition_of(NAME, f"a{n - 4}", PARTITIONS) == A0]
            await until(lambda: len(moves) == 8 - len(theirs))
            info = (await ask("XINFO", "GROUPS", f"{BASE}:{A0}"))[0]
            assert (info[b"pending"], info[b"lag"]) == (0, len(theirs))
            await give_up(ask, A0)
    assert 4 in theirs
    assert not {n for _, n, _ in moves} & {*theirs}


# With one delivery it would become a dead letter, with five it would be retried.
@pytest.mark.parametrize("most", [1, 5])
async def test_dead_letter_and_retry_of_a_bus_that_lost_its_lease_change_nothing(most: int) -> None:
    async with streams_server() as server, command_client(server) as ask:
        bus = PartitionedBus(server.addr, max_deliveries=most)
        gate = PartitionGate()
        moves = bus.moves(fail=lambda _: True, wait=gate)
        async with bus:
            await move(bus, 1, 1)
            await until(lambda: gate.begun)
            await take_away(ask, A0)
            gate.open()
            await until(lambda: bus.says("has lost the partition"))
            await trio.sleep(0.3)
            (entry,) = await ask("XPENDING", f"{BASE}:{A0}", "shop", "-", "+", 10)
            assert entry[3] == 1
            assert not await ask("EXISTS", "goevent:dead:shop")
        assert len(moves) == 1


async def test_read_with_a_lost_reply_lets_no_event_be_overtaken() -> None:
    async with (
        streams_server() as server,
        command_client(server) as ask,
        fault_proxy(server.port) as proxy,
    ):
        bus = PartitionedBus(proxy.addr)
        moves = bus.moves()
        async with StreamsBus(server.addr, None, partitions=PARTITIONS) as sender, bus:
            for n in range(0, 3000, 100):
                proxy.cut_after(2000 + 37 * n % 9000)
                await move(sender, 100, 5, n)
                await trio.sleep(0.05)
            proxy.pass_on()
            await until_partitions_settled(ask, seconds=30)
    assert in_order(first_times(moves), 3000, 5)


def first_times(moves: list[tuple[str, int, int]]) -> list[tuple[str, int, int]]:
    found: dict[tuple[str, int], tuple[str, int, int]] = {}
    for each in moves:
        found.setdefault(each[:2], each)
    return list(found.values())


async def test_bus_that_cannot_renew_its_leases_starts_no_event_until_it_can() -> None:
    async with (
        streams_server() as server,
        command_client(server) as ask,
        fault_proxy(server.port) as proxy,
    ):
        bus = PartitionedBus(proxy.addr, claim_idle=0.5)
        gates = {n: trio.Event() for n in range(5)}
        begun: list[int] = []

        async def wait(event: Moved) -> None:
            begun.append(event.n)
            await gates[event.n].wait()

        moves = bus.moves(wait=wait)
        async with bus:
            await move(bus, 5, 1)
            await until(lambda: begun == [0])
            proxy.swallow()
            await trio.sleep(0.6)
            gates[0].set()
            await until(lambda: moves)
            await trio.sleep(0.2)
            # Another bus may have the partition by now.
            assert begun == [0]
            for gate in gates.values():
                gate.set()
            proxy.pass_on()
            await until_partitions_settled(ask)
    assert moves == [("a0", n, 1) for n in range(5)]


async def test_named_consumer_gets_the_partitions_back_that_it_had_at_a_crash() -> None:
    async with streams_server() as server, command_client(server) as ask:
        seen: list[tuple[int, int]] = []

        async def note(event: Moved) -> None:
            seen.append((event.n, current_delivery().deliveries))

        saved: dict[bytes, bytes] = {}
        entries: list[list[bytes]] = []
        with trio.CancelScope() as crash:
            first = PartitionedBus(server.addr, consumer="worker-1", claim_idle=60.0)
            begun = first.moves(wait=lambda _: trio.sleep(0.01))
            async with first:
                await move(first, 10, 1)
                await until(lambda: begun)
                saved.update(await ask("HGETALL", LEASES))
                entries += await ask("XPENDING", f"{BASE}:{A0}", "shop", "-", "+", 100)
                crash.cancel()
        # As if it had crashed: its leases and its pending entries are restored.
        await ask("HSET", LEASES, *(part for pair in saved.items() for part in pair))
        for number in range(PARTITIONS):
            await ask("SET", f"{LEASES}:{number}", "worker-1")
        ids = [entry[0] for entry in entries]
        await ask("XCLAIM", f"{BASE}:{A0}", "shop", "worker-1", 0, *ids, "JUSTID", "FORCE")
        second = PartitionedBus(server.addr, consumer="worker-1", claim_idle=60.0)
        second.subscribe(note, Moved)
        async with second:
            began = Stopwatch()
            await until(lambda: seen and seen[-1][0] == 9)
            assert began.unhindered_seconds < 2.0
            await until_partitions_settled(ask)
        assert not second.told
    assert [n for n, _ in seen] == sorted(n for n, _ in seen)


async def test_takeover_counts_started_events_and_gives_up_only_the_killer() -> None:
    async with streams_server() as server, command_client(server) as ask:
        key = f"{BASE}:{A0}"
        async with PartitionedBus(server.addr, None) as sender:
            await move(sender, 10, 1)
        await ask("XGROUP", "CREATE", key, "shop", "0")
        (stream,) = (await ask("XREADGROUP", "GROUP", "shop", "dead", "STREAMS", key, ">")).values()
        killer = stream[3][0]
        await ask("XCLAIM", key, "shop", "dead", 0, killer, "RETRYCOUNT", 5, "JUSTID")
        bus = PartitionedBus(server.addr)
        gate = PartitionGate()
        moves = bus.moves(wait=gate)
        async with bus:
            await until(lambda: gate.begun)
            counts = [each[3] for each in await ask("XPENDING", key, "shop", "-", "+", 10)]
            assert counts == [2, 1, 1, 5, 1, 1, 1, 1, 1, 1]
            gate.open()
            await until_partitions_settled(ask)
            (letter,) = await bus.driver.dead_letters.list()
    assert letter.event_id == killer.decode()
    assert "have ended" in letter.reason
    assert moves == [("a0", n, 2) for n in range(10) if n != 3]


async def test_event_whose_consumer_died_stays_isolated_when_it_is_released() -> None:
    async with streams_server() as server, command_client(server) as ask:
        key = f"{BASE}:{A0}"
        async with PartitionedBus(server.addr, None) as sender:
            await move(sender, 5, 1)
        await ask("XGROUP", "CREATE", key, "shop", "0")
        await ask("XREADGROUP", "GROUP", "shop", "dead", "STREAMS", key, ">")
        first, second = PartitionedBus(server.addr), PartitionedBus(server.addr)
        gate = PartitionGate()
        first.moves(wait=gate)
        async with first:
            await until(lambda: gate.begun)
            await first.close(0.1)
        counts = [each[3] for each in await ask("XPENDING", key, "shop", "-", "+", 10)]
        assert counts == [2, 1, 1, 1, 1]
        moves = second.moves()
        async with second:
            await until_partitions_settled(ask)
    assert moves == [("a0", 0, 3), *(("a0", n, 2) for n in range(1, 5))]
