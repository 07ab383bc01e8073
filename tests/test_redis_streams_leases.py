"""Leases: who has which partition, and what becomes of it as buses come, go, die and freeze."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import trio
from partition_buses import (
    BASE,
    LEASES,
    NAME,
    PARTITIONS,
    Moved,
    PartitionedBus,
    by_account,
    calm,
    in_order,
    move,
    owners,
    shared,
)
from redis_buses import Lost as OrderLost, Paid, opened, until
from redis_server import fault_proxy
from streams_buses import StreamsBus, asking, publish, streams_server

from goevent import current_delivery
from goevent_redis import Lost
from goevent_redis._streams._partitions import partition_of

Ask = Callable[..., Any]
A0 = partition_of(NAME, "a0", PARTITIONS)


async def steal(ask: Ask, number: int, owner: str = "thief") -> None:
    """Take a partition away, as a bus does whose rival was frozen."""
    await ask("HSET", LEASES, number, f"999-{owner}", f"{number}:owner", owner)
    await ask("SET", f"{LEASES}:{number}", owner)


async def give_up(ask: Ask, number: int) -> None:
    """Let whoever has stolen a partition have ended."""
    await ask("HDEL", LEASES, number, f"{number}:owner")
    await ask("DEL", f"{LEASES}:{number}")


async def test_partitions_are_shared_out_fairly_as_buses_come_and_go() -> None:
    async with streams_server() as server, asking(server) as ask:
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
                await shared(ask, 2, 2, seconds=2.0)
                async with buses[2], buses[3]:
                    await shared(ask, 1, 1, 1, 1, seconds=2.0)
                    async with buses[4]:  # there is nothing for one of them, who waits
                        await trio.sleep(0.7)
                        await shared(ask, 1, 1, 1, 1, seconds=2.0)
                await shared(ask, 2, 2, seconds=2.0)
            await shared(ask, 4, seconds=2.0)
            enough.set()
        async with buses[0]:
            await calm(ask)
        assert not [error for bus in buses for error in bus.told]
        together = [each for part in moves for each in part]
    assert sorted(n for _, n, _ in together) == [*range(sent)]
    assert {deliveries for _, _, deliveries in together} == {1}
    assert sum(1 for part in moves if part) >= 4
    for part in moves:
        assert all(each == sorted(each) for each in by_account(part).values())


async def test_what_is_left_over_of_several_names_does_not_go_to_the_same_bus() -> None:
    names = (NAME, "order.paid", "order.lost", "user.created", "order.item.added")
    async with streams_server() as server, asking(server) as ask:
        buses = [PartitionedBus(server.addr, partitions=3) for _ in range(2)]
        for bus in buses:
            bus.seen(*names)
        async with opened(*buses):
            with trio.fail_after(5):
                while True:
                    shares = [[*(await owners(ask, name)).values()] for name in names]
                    if all(len(share) == 3 and len({*share}) == 2 for share in shares):
                        break
                    await trio.sleep(0.01)
    extras = {max(share, key=share.count) for share in shares}
    assert len(extras) == 2


async def test_clean_stop_hands_over_within_a_second_what_nobody_has_begun_with() -> None:
    async with streams_server() as server, asking(server) as ask:
        first, second = PartitionedBus(server.addr), PartitionedBus(server.addr)
        gate = trio.Event()
        begun: list[int] = []

        async def stuck(event: Moved) -> None:
            begun.append(event.n)
            await gate.wait()

        first.subscribe(stuck, Moved, concurrency=50)
        moves = second.moves()
        async with first:
            await move(first, 100, 1)
            await until(lambda: begun == [0])
            async with second, trio.open_nursery() as nursery:
                await shared(ask, 2, 2)
                nursery.start_soon(first.close, 30.0)
                # What has no work to finish is given away at once, the rest when it is done.
                await shared(ask, 1, 3, seconds=1.0)
                gate.set()
                began = trio.current_time()
                await until(lambda: len(moves) == 99, 1.0)
                assert trio.current_time() - began < 1.0
            await calm(ask)
        assert not first.told + second.told
    assert moves == [("a0", n, 1) for n in range(1, 100)]


async def test_event_that_was_cut_off_by_the_end_comes_first_at_the_next_bus() -> None:
    async with streams_server() as server, asking(server) as ask:
        first, second = PartitionedBus(server.addr), PartitionedBus(server.addr)
        begun: list[int] = []

        async def stuck(event: Moved) -> None:
            begun.append(event.n)
            await trio.sleep_forever()

        first.subscribe(stuck, Moved, concurrency=50)
        moves = second.moves()
        async with first:
            await move(first, 20, 1)
            await until(lambda: begun)
            await first.close(0.1)
        async with second:
            began = trio.current_time()
            await until(lambda: len(moves) == 20, 1.0)
            assert trio.current_time() - began < 1.0
            await calm(ask)
    assert moves == [("a0", 0, 2), *(("a0", n, 1) for n in range(1, 20))]


async def test_failed_event_that_waits_keeps_its_place_when_the_partition_moves() -> None:
    async with streams_server() as server, asking(server) as ask:
        first = PartitionedBus(server.addr, backoff=0.05, max_deliveries=100)
        second = PartitionedBus(server.addr)
        tries = first.moves(fail=lambda event: event.n == 0)
        moves = second.moves()
        async with first:
            await move(first, 10, 1)
            await until(lambda: len(tries) == 3)
        assert tries[:3] == [("a0", 0, 1), ("a0", 0, 2), ("a0", 0, 3)]
        async with second:
            await calm(ask)
    assert moves == [("a0", 0, len(tries) + 1), *(("a0", n, 1) for n in range(1, 10))]


async def test_bus_that_was_robbed_neither_acknowledges_nor_reads_and_says_so() -> None:
    async with streams_server() as server, asking(server) as ask:
        bus = PartitionedBus(server.addr)
        gate = trio.Event()
        begun: list[int] = []

        async def wait(event: Moved) -> None:
            begun.append(event.n)
            await gate.wait()

        moves = bus.moves(wait=wait)
        async with bus:
            await move(bus, 3, 1)
            await until(lambda: begun)
            await steal(ask, A0)
            await until(lambda: bus.says("has lost the partition"), 2.0)
            gate.set()
            await until(lambda: bus.causes(Lost))
            (lost,) = bus.causes(Lost)
            assert (lost.event_name, lost.owner) == (NAME, "thief")
            await move(bus, 3, 1, 3)
            await trio.sleep(0.5)
            assert moves == [("a0", 0, 1)]  # what waited behind it was not begun with
            info = (await ask("XINFO", "GROUPS", f"{BASE}:{A0}"))[0]
            assert (info[b"pending"], info[b"lag"]) == (3, 3)
            await give_up(ask, A0)
            await calm(ask)
        assert bus.says("has lost the partition") == 1
    assert [n for _, n, _ in moves] == [0, *range(6)]
    assert moves[1] == ("a0", 0, 2)


async def test_bus_that_was_robbed_gets_nothing_new_before_it_has_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("goevent_redis._streams._keeper.EVERY", 1000.0)
    async with streams_server() as server, asking(server) as ask:
        bus = PartitionedBus(server.addr, claim_idle=4000.0)
        moves = bus.moves()
        async with bus:
            await move(bus, 4, 4)
            await calm(ask)
            await steal(ask, A0)
            await move(bus, 4, 4, 4)
            theirs = [n for n in range(4, 8) if partition_of(NAME, f"a{n - 4}", PARTITIONS) == A0]
            await until(lambda: len(moves) == 8 - len(theirs))
            info = (await ask("XINFO", "GROUPS", f"{BASE}:{A0}"))[0]
            assert (info[b"pending"], info[b"lag"]) == (0, len(theirs))
            await give_up(ask, A0)
    assert 4 in theirs
    assert not {n for _, n, _ in moves} & {*theirs}


@pytest.mark.parametrize("most", [1, 5])  # it would be a dead letter, or be tried again
async def test_dead_letter_and_retry_of_a_bus_that_was_robbed_change_nothing(most: int) -> None:
    async with streams_server() as server, asking(server) as ask:
        bus = PartitionedBus(server.addr, max_deliveries=most)
        gate = trio.Event()
        begun: list[int] = []

        async def wait(event: Moved) -> None:
            begun.append(event.n)
            await gate.wait()

        moves = bus.moves(fail=lambda _: True, wait=wait)
        async with bus:
            await move(bus, 1, 1)
            await until(lambda: begun)
            await steal(ask, A0)
            gate.set()
            await until(lambda: bus.says("has lost the partition"))
            await trio.sleep(0.3)
            (entry,) = await ask("XPENDING", f"{BASE}:{A0}", "shop", "-", "+", 10)
            assert entry[3] == 1
            assert not await ask("EXISTS", "goevent:dead:shop")
        assert len(moves) == 1


async def test_read_whose_reply_was_lost_lets_nothing_be_overtaken() -> None:
    async with (
        streams_server() as server,
        asking(server) as ask,
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
            await calm(ask, seconds=30)
    assert in_order(first_times(moves), 3000, 5)


def first_times(moves: list[tuple[str, int, int]]) -> list[tuple[str, int, int]]:
    found: dict[tuple[str, int], tuple[str, int, int]] = {}
    for each in moves:
        found.setdefault(each[:2], each)
    return list(found.values())


async def test_bus_that_cannot_renew_its_leases_begins_with_nothing_until_it_can() -> None:
    async with (
        streams_server() as server,
        asking(server) as ask,
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
            assert begun == [0]  # somebody else may have the partition by now
            for gate in gates.values():
                gate.set()
            proxy.pass_on()
            await calm(ask)
    assert moves == [("a0", n, 1) for n in range(5)]


async def test_long_handler_keeps_its_partition_however_long_it_takes() -> None:
    async with streams_server() as server, asking(server) as ask:
        buses = [PartitionedBus(server.addr, claim_idle=0.3) for _ in range(2)]
        moves = [bus.moves(wait=lambda _: trio.sleep(1.5)) for bus in buses]
        async with opened(*buses):
            await shared(ask, 2, 2)
            await move(buses[0], 4, 4)
            await calm(ask)
        assert sorted(moves[0] + moves[1]) == [(f"a{n}", n, 1) for n in range(4)]
        assert not buses[0].told + buses[1].told


async def test_partition_that_is_to_be_given_away_is_kept_if_the_other_bus_leaves() -> None:
    async with streams_server() as server, asking(server) as ask:
        first, second = PartitionedBus(server.addr), PartitionedBus(server.addr)
        gate = trio.Event()
        begun: list[str] = []

        async def wait(event: Moved) -> None:
            begun.append(event.account)
            await gate.wait()

        moves, others = first.moves(wait=wait), second.moves()
        async with first:
            await move(first, 40, 20)  # so that no partition is without work
            await until(lambda: len(begun) == 20)
            async with second:
                await trio.sleep(0.7)
                assert len({*(await owners(ask)).values()}) == 1
            await trio.sleep(0.4)
            gate.set()
            await calm(ask)
            counts = [await ask("HGET", LEASES, f"{n}:count") for n in range(PARTITIONS)]
            assert counts == [b"1"] * PARTITIONS
    assert in_order(moves, 40, 20)
    assert not others


async def test_unsubscribing_leaves_the_partitions_to_others_and_coming_back_shares_them() -> None:
    async with streams_server() as server, asking(server) as ask:
        first, second = PartitionedBus(server.addr), PartitionedBus(server.addr)
        mine, theirs = first.moves(), second.moves()
        async with opened(first, second):
            await shared(ask, 2, 2)
            first.unregister_listeners_for_event(Moved)
            await shared(ask, 4, seconds=2.0)
            await move(second, 40, 10)
            await calm(ask)
            assert in_order(theirs, 40, 10)
            again = first.moves()
            await first.ready()
            await shared(ask, 2, 2, seconds=2.0)
            await move(second, 40, 10, 40)
            await calm(ask)
        assert again
        assert not mine
        assert not first.told + second.told


async def test_name_brings_back_at_once_the_partitions_that_it_had_at_a_crash() -> None:
    async with streams_server() as server, asking(server) as ask:
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
        # As if it had not been able to say good-bye.
        await ask("HSET", LEASES, *(part for pair in saved.items() for part in pair))
        for number in range(PARTITIONS):
            await ask("SET", f"{LEASES}:{number}", "worker-1")
        ids = [entry[0] for entry in entries]
        await ask("XCLAIM", f"{BASE}:{A0}", "shop", "worker-1", 0, *ids, "JUSTID", "FORCE")
        second = PartitionedBus(server.addr, consumer="worker-1", claim_idle=60.0)
        second.subscribe(note, Moved)
        async with second:
            began = trio.current_time()
            await until(lambda: seen and seen[-1][0] == 9)
            assert trio.current_time() - began < 2.0
            await calm(ask)
        assert not second.told
    assert [n for n, _ in seen] == sorted(n for n, _ in seen)


async def test_many_names_and_buses_without_any_events_are_quiet() -> None:
    async with streams_server() as server, asking(server) as ask:
        bus = PartitionedBus(server.addr)
        bus.seen(Moved, Paid, OrderLost)
        async with bus:
            await bus.ready()
            before = await commands(ask)
            await trio.sleep(1.0)
            # Three names: a few looks, and one read that waits.
            assert await commands(ask) - before < 60
            await publish(bus, 1)


async def commands(ask: Ask) -> int:
    """Return how many commands clients have sent so far; what scripts do counts, too."""
    info = (await ask("INFO", "commandstats")).decode()
    found = 0
    for line in info.splitlines():
        if line.startswith(("cmdstat_evalsha:", "cmdstat_xread:", "cmdstat_client")):
            found += int(line.partition("calls=")[2].partition(",")[0])
    return found


async def test_takeover_counts_what_is_begun_with_and_buries_only_what_has_killed() -> None:
    async with streams_server() as server, asking(server) as ask:
        key = f"{BASE}:{A0}"
        async with PartitionedBus(server.addr, None) as sender:
            await move(sender, 10, 1)
        await ask("XGROUP", "CREATE", key, "shop", "0")
        (stream,) = (await ask("XREADGROUP", "GROUP", "shop", "dead", "STREAMS", key, ">")).values()
        killer = stream[3][0]
        await ask("XCLAIM", key, "shop", "dead", 0, killer, "RETRYCOUNT", 5, "JUSTID")
        bus = PartitionedBus(server.addr)
        gate = trio.Event()
        running: list[int] = []

        async def wait(event: Moved) -> None:
            running.append(event.n)
            await gate.wait()

        moves = bus.moves(wait=wait)
        async with bus:
            await until(lambda: running)
            counts = [each[3] for each in await ask("XPENDING", key, "shop", "-", "+", 10)]
            assert counts == [2, 1, 1, 5, 1, 1, 1, 1, 1, 1]
            gate.set()
            await calm(ask)
            (letter,) = await bus.driver.dead_letters.list()
    assert letter.event_id == killer.decode()
    assert "have ended" in letter.reason
    assert moves == [("a0", n, 2) for n in range(10) if n != 3]


async def test_leases_are_kept_and_events_are_done_while_the_server_is_full() -> None:
    async with streams_server() as server, asking(server) as ask:
        bus = PartitionedBus(server.addr, claim_idle=0.4, prefetch=8)
        gate = trio.Event()
        moves = bus.moves(wait=lambda _: gate.wait())
        async with bus:
            await move(bus, 40, 8)
            before = await ask("HGETALL", LEASES)
            await ask("CONFIG", "SET", "maxmemory", 1)
            await trio.sleep(1.5)
            gate.set()
            await calm(ask)
            assert await ask("HGETALL", LEASES) == before
            await ask("CONFIG", "SET", "maxmemory", 0)
    assert in_order(moves, 40, 8)
    assert {deliveries for _, _, deliveries in moves} == {1}


async def test_bus_that_is_cancelled_leaves_no_lease_behind() -> None:
    async with streams_server() as server, asking(server) as ask:
        for pause in (0.0, 0.001, 0.003, 0.01, 0.03, 0.1):
            with trio.CancelScope() as scope:
                bus = PartitionedBus(server.addr, claim_idle=60.0)
                bus.moves()
                scope.deadline = trio.current_time() + pause
                async with bus:
                    await trio.sleep_forever()
            assert not await owners(ask)


async def test_what_somebody_has_died_of_stays_suspect_when_it_is_handed_back() -> None:
    async with streams_server() as server, asking(server) as ask:
        key = f"{BASE}:{A0}"
        async with PartitionedBus(server.addr, None) as sender:
            await move(sender, 5, 1)
        await ask("XGROUP", "CREATE", key, "shop", "0")
        await ask("XREADGROUP", "GROUP", "shop", "dead", "STREAMS", key, ">")
        first, second = PartitionedBus(server.addr), PartitionedBus(server.addr)
        running: list[int] = []

        async def wait(event: Moved) -> None:
            running.append(event.n)
            await trio.sleep_forever()

        first.moves(wait=wait)
        async with first:
            await until(lambda: running)
            await first.close(0.1)
        counts = [each[3] for each in await ask("XPENDING", key, "shop", "-", "+", 10)]
        assert counts == [2, 1, 1, 1, 1]
        moves = second.moves()
        async with second:
            await calm(ask)
    assert moves == [("a0", 0, 3), *(("a0", n, 2) for n in range(1, 5))]
