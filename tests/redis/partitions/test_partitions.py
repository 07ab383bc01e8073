"""Partitions: the events of a key run one after another, even if one of them fails."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

import pytest
import trio
from tests.support.limits import HANG_SECONDS
from tests.support.partition_buses import (
    BASE,
    NAME,
    PARTITIONS,
    Moved,
    PartitionedBus,
    by_account,
    in_order,
    move,
    shared,
    until_partitions_settled,
)
from tests.support.redis_buses import OrderLost, Paid, numbers, opened, until
from tests.support.redis_server import fault_proxy
from tests.support.stopwatch import Stopwatch
from tests.support.streams_buses import (
    StreamsBus,
    command_client,
    publish,
    streams_server,
    unsettled_count,
)

from goevent import DispatchHandle, DriverError
from goevent_redis import PartitionsDiffer
from goevent_redis._streams.partitions.partition import partition_of


def test_partition_of_a_key_never_changes() -> None:
    assert [partition_of("order.paid", key, 8) for key in ("a", "b", "ü", "")] == [3, 1, 5, 0]
    assert partition_of("order.paid", None, 8) == partition_of("x", "order.paid", 8)


async def test_events_of_a_key_run_one_at_a_time_in_order_beside_other_keys() -> None:
    async with streams_server() as server, command_client(server) as ask:
        bus = PartitionedBus(server.addr)
        running: Counter[str] = Counter()
        most: list[int] = []

        async def wait(event: Moved) -> None:
            running[event.account] += 1
            assert running[event.account] == 1
            most.append(running.total())
            await trio.sleep(0.001)
            running[event.account] -= 1

        moves = bus.moves(wait=wait)
        async with bus:
            await move(bus, 400, 20)
            await until_partitions_settled(ask)
        assert not bus.told
    assert in_order(moves, 400, 20)
    assert {deliveries for _, _, deliveries in moves} == {1}
    assert max(most) > 5


async def test_events_of_a_key_are_in_one_stream_and_keys_are_spread() -> None:
    async with streams_server() as server, command_client(server) as ask:
        async with PartitionedBus(server.addr, None) as bus:
            await move(bus, 100, 10)
            handle = await bus.dispatch(Moved(account="a0", n=0))
            await handle.wait()
            newest = await ask("XREVRANGE", f"{BASE}:{partition_of(NAME, 'a0', 4)}", "+", "-")
        assert handle.receipt == newest[0][0].decode()
        assert await ask("GET", BASE) == b"4"
        sizes = [await ask("XLEN", f"{BASE}:{number}") for number in range(PARTITIONS)]
    assert sum(sizes) == 101
    assert all(sizes)


async def test_failed_event_holds_up_its_key_and_no_other_key() -> None:
    async with streams_server() as server, command_client(server) as ask:
        bus = PartitionedBus(server.addr, backoff=0.2, max_backoff=0.2)
        moves = bus.moves(fail=lambda event: event.n == 3 and len(tries()) < 3)

        def tries() -> list[int]:
            return [deliveries for _, n, deliveries in moves if n == 3]

        async with bus:
            await move(bus, 40, 4)
            # All but nine events of the account a3.
            await until(lambda: len(moves) == 31)
            assert len(tries()) == 1
            await until_partitions_settled(ask)
    assert tries() == [1, 2, 3]
    assert in_order(moves, 40, 4)
    held = [each for each in moves if each[0] == "a3"]
    assert [n for _, n, _ in held] == [3, 3, 3, *range(7, 40, 4)]
    assert {deliveries for _, n, deliveries in moves if n != 3} == {1}


async def test_dead_letter_frees_its_key_and_runs_again_when_replayed() -> None:
    async with streams_server() as server, command_client(server) as ask:
        bus = PartitionedBus(server.addr, max_deliveries=3)
        broken = [True]
        moves = bus.moves(fail=lambda event: event.n == 1 and broken[0])
        async with bus:
            await move(bus, 20, 2)
            await until_partitions_settled(ask)
            (letter,) = await bus.driver.dead_letters.list()
            assert letter.event_name == NAME
            assert letter.partition == partition_of(NAME, "a1", PARTITIONS)
            assert letter.deliveries == 3
            assert [n for account, n, _ in moves if account == "a1"] == [1, 1, *range(1, 20, 2)]
            broken[0] = False
            moves.clear()
            assert await bus.driver.dead_letters.replay(letter) == 1
            await until(lambda: moves == [("a1", 1, 1)])
            again = f"goevent:again:shop:{NAME}:{letter.partition}"
            with trio.fail_after(HANG_SECONDS):
                while await unsettled_count(ask, again):
                    await trio.sleep(0.01)
            assert await bus.driver.dead_letters.count() == 0


async def test_undecodable_bytes_of_a_key_are_a_dead_letter_and_free_the_key() -> None:
    async with streams_server() as server, command_client(server) as ask:
        bus = PartitionedBus(server.addr)
        moves = bus.moves()
        async with bus:
            number = partition_of(NAME, "a0", PARTITIONS)
            await ask("XADD", f"{BASE}:{number}", "*", "e", b"{", "k", "a0")
            await move(bus, 5, 1)
            await until_partitions_settled(ask)
            assert await bus.driver.dead_letters.count() == 1
    assert by_account(moves) == {"a0": [0, 1, 2, 3, 4]}


async def test_bus_with_another_number_of_partitions_is_refused() -> None:
    async with streams_server() as server:
        async with PartitionedBus(server.addr, None) as bus:
            await move(bus, 1, 1)
        other = PartitionedBus(server.addr, partitions=8)
        other.moves()
        with pytest.raises(PartitionsDiffer, match="kept in 4 partitions") as caught:
            async with other:
                pass
        assert (caught.value.event_name, caught.value.configured) == (NAME, 8)
        assert caught.value.found == 4
        async with PartitionedBus(server.addr, None, partitions=8) as bus:
            handle = await bus.dispatch(Moved(account="a", n=1))
            await handle.wait()
            assert isinstance(handle.errors[0].__cause__, PartitionsDiffer)
            # Other names are not affected.
            await publish(bus, 1)
            with pytest.raises(PartitionsDiffer):
                await bus.driver.replay(NAME, "earliest", None, "shop")


async def test_bus_without_partitions_is_refused_for_a_name_with_partitions() -> None:
    async with streams_server() as server, command_client(server) as ask:
        async with PartitionedBus(server.addr, None) as bus:
            await move(bus, 1, 1)
        plain = StreamsBus(server.addr)
        plain.seen(Moved)
        with pytest.raises(DriverError, match=r"the same StreamsConfig\(partitions"):
            async with plain:
                pass
        async with StreamsBus(server.addr, None) as bus:
            handle = await bus.dispatch(Moved(account="a", n=1))
            await handle.wait()
            assert "has partitions" in str(handle.errors[0])
        assert await ask("GET", BASE) == b"4"


async def test_bus_with_partitions_is_refused_for_a_name_with_a_single_stream() -> None:
    async with streams_server() as server:
        async with StreamsBus(server.addr, None) as bus:
            handle = await bus.dispatch(Moved(account="a", n=1))
            await handle.wait()
            handle.raise_errors()
        other = PartitionedBus(server.addr)
        other.moves()
        with pytest.raises(PartitionsDiffer, match="a single stream"):
            async with other:
                pass


async def test_refused_name_does_not_keep_a_pattern_from_other_names() -> None:
    async with streams_server() as server:
        bus = PartitionedBus(server.addr)
        seen = bus.seen("order.*")
        async with bus, StreamsBus(server.addr, None) as plain:
            # This name has a single stream.
            await publish(plain, 1)
            async with PartitionedBus(server.addr, None) as sender:
                await (await sender.dispatch(OrderLost(n=2))).wait()
                await until(lambda: numbers(seen) == [2])
            await until(lambda: bus.causes(PartitionsDiffer))
        assert len(bus.causes(PartitionsDiffer)) == 1


async def test_events_without_a_key_arrive_in_order_and_do_not_wait_for_each_other() -> None:
    async with streams_server() as server, command_client(server) as ask:
        buses = [PartitionedBus(server.addr), PartitionedBus(server.addr)]
        gate = trio.Event()
        seen = [bus.seen(Paid) for bus in buses]

        async def block(event: Paid) -> None:
            if event.n == 0:
                await gate.wait()

        for bus in buses:
            bus.subscribe(block, Paid, concurrency=10)
        async with opened(*buses):
            await publish(buses[0], *range(200))
            await until(lambda: sum(map(len, seen)) == 200)
            gate.set()
            await until_partitions_settled(ask, "order.paid")
    assert sorted(map(numbers, seen)) == [[], [*range(200)]]


async def test_past_events_are_replayed_in_the_order_of_each_key() -> None:
    async with streams_server() as server, command_client(server) as ask:
        bus = PartitionedBus(server.addr)
        moves = bus.moves()
        async with bus:
            await move(bus, 60, 6)
            await until_partitions_settled(ask)
            moves.clear()
            assert await bus.replay(Moved) == 60
            await until(lambda: len(moves) == 60)
            assert in_order(moves, 60, 6)
            moves.clear()
            for number in range(PARTITIONS):
                with trio.fail_after(HANG_SECONDS):
                    while await unsettled_count(ask, f"goevent:again:shop:{NAME}:{number}"):
                        await trio.sleep(0.01)
            assert await bus.replay(Moved, group="audit") == 60
            assert not moves


async def test_backlog_covers_the_partitions_of_all_buses() -> None:
    async with streams_server() as server, command_client(server) as ask:
        buses = [PartitionedBus(server.addr, prefetch=4) for _ in range(2)]
        gate = trio.Event()
        for bus in buses:
            bus.moves(wait=lambda _: gate.wait())
        async with opened(*buses):
            await shared(ask, 2, 2)
            await move(buses[0], 100, 10)
            for bus in buses:
                await until(lambda bus=bus: bus.backlogs() and bus.backlogs()[0].pending == 8)  # type: ignore[misc]
                (backlog,) = bus.backlogs()
                assert (backlog.event_name, backlog.lag) == (NAME, 92)
                assert 0.0 < backlog.oldest_pending < 10.0
            gate.set()
            await until_partitions_settled(ask)


async def test_held_up_key_uses_only_the_prefetch_of_its_partition() -> None:
    async with streams_server() as server, command_client(server) as ask:
        bus = PartitionedBus(server.addr, prefetch=16)
        gate = trio.Event()

        async def wait(event: Moved) -> None:
            if event.account == "a0":
                await gate.wait()

        moves = bus.moves(wait=wait)
        full = partition_of(NAME, "a0", PARTITIONS)
        others = [f"a{n}" for n in range(20) if partition_of(NAME, f"a{n}", PARTITIONS) != full]
        async with bus:
            await move(bus, 1000, 20)
            await until(
                lambda: {a for a, _, _ in moves} >= {*others} and len(moves) >= 50 * len(others)
            )
            assert not [n for account, n, _ in moves if account == "a0"]
            gate.set()
            await until_partitions_settled(ask)
    assert in_order(moves, 1000, 20)


async def test_event_that_was_sent_twice_runs_once_within_the_window() -> None:
    async with streams_server() as server, command_client(server) as ask:
        bus = PartitionedBus(server.addr, deduplicate=60.0)
        moves = bus.moves()
        async with bus:
            await move(bus, 4, 1)
            key = f"{BASE}:{partition_of(NAME, 'a0', PARTITIONS)}"
            entries = await ask("XRANGE", key, "-", "+")
            for _, fields in entries:
                await ask("XADD", key, "*", *fields, "r", "1")
            await until_partitions_settled(ask)
            await move(bus, 1, 1, 4)
            await until_partitions_settled(ask)
    assert moves == [("a0", n, 1) for n in range(5)]


async def test_acknowledged_events_are_removed_from_all_partitions() -> None:
    async with streams_server() as server, command_client(server) as ask:
        bus = PartitionedBus(server.addr, retention="acked")
        bus.moves()
        async with bus:
            await move(bus, 100, 10)
            with trio.fail_after(HANG_SECONDS):
                for number in range(PARTITIONS):
                    while await ask("XLEN", f"{BASE}:{number}"):
                        await trio.sleep(0.01)


@pytest.mark.parametrize("command", ["FLUSHALL", "XGROUP"])
async def test_what_vanishes_under_load_is_made_anew_and_reported(command: str) -> None:
    async with streams_server() as server, command_client(server) as ask:
        buses = [PartitionedBus(server.addr) for _ in range(2)]
        moves = [bus.moves() for bus in buses]
        sender = PartitionedBus(server.addr, None)
        async with opened(*buses, sender):
            await move(sender, 100, 10)
            await until_partitions_settled(ask)
            # The bus notes once a second how far the group is.
            await trio.sleep(1.1)
            if command == "FLUSHALL":
                await ask(command)
            else:
                for number in range(PARTITIONS):
                    await ask("XGROUP", "DESTROY", f"{BASE}:{number}", "shop")
            await until(lambda: sum(bus.says("had vanished") for bus in buses) == PARTITIONS)
            await move(sender, 100, 10, 100)
            await until(lambda: sum(map(len, moves)) == 200)
            await until_partitions_settled(ask)
            assert await ask("GET", BASE) == b"4"
    together: dict[str, list[int]] = defaultdict(list)
    for account, n, _ in sorted(moves[0] + moves[1], key=lambda each: each[1]):
        together[account].append(n)
    assert together == {f"a{a}": [*range(a, 200, 10)] for a in range(10)}


async def test_publishing_keeps_its_order_over_lost_connections() -> None:
    async with (
        streams_server() as server,
        command_client(server) as ask,
        fault_proxy(server.port) as proxy,
    ):
        sender = PartitionedBus(proxy.addr, None)
        async with sender:
            handles: list[DispatchHandle] = []
            for n in range(3000):
                handles.append(await sender.dispatch(Moved(account=f"a{n % 5}", n=n)))
                if n % 500 == 250:
                    proxy.reset()
            for handle in handles:
                await handle.wait()
                handle.raise_errors()
        assert await published(ask) == {f"a{a}": [*range(a, 3000, 5)] for a in range(5)}


async def test_event_that_is_sent_again_is_not_overtaken_after_a_reconnect() -> None:
    async with (
        streams_server() as server,
        command_client(server) as ask,
        fault_proxy(server.port) as proxy,
        PartitionedBus(proxy.addr, None) as sender,
    ):
        await move(sender, 5, 1)
        for first in range(5, 105, 20):
            proxy.swallow()
            lost = [await sender.dispatch(Moved(account="a0", n=first + n)) for n in range(10)]
            back = sender.says("again")
            proxy.pass_on()
            proxy.reset()
            await until(lambda back=back: sender.says("again") > back)  # type: ignore[misc]
            await move(sender, 10, 1, first + 10)
            for handle in lost:
                await handle.wait()
        assert await published(ask) == {"a0": [*range(105)]}


async def published(ask: Callable[..., Any]) -> dict[str, list[int]]:
    """Return the numbers of each account in the order of the streams."""
    firsts: dict[str, dict[int, None]] = defaultdict(dict)
    for number in range(PARTITIONS):
        for _, fields in await ask("XRANGE", f"{BASE}:{number}", "-", "+"):
            n = fields[1].decode().partition('"n":')[2].partition("}")[0]
            firsts[fields[3].decode()].setdefault(int(n), None)
    return {account: [*each] for account, each in firsts.items()}


async def test_publisher_notices_that_a_name_has_another_number_of_partitions_now(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("goevent_redis._streams.partitions.publisher.NAME_INTERVAL_SECONDS", 0.0)
    async with (
        streams_server() as server,
        command_client(server) as ask,
        PartitionedBus(server.addr, None) as sender,
    ):
        await move(sender, 5, 1)
        await ask("SET", BASE, 8)
        handle = await sender.dispatch(Moved(account="a0", n=5))
        # This event is sent together with the check.
        await handle.wait()
        handle = await sender.dispatch(Moved(account="a0", n=6))
        await handle.wait()
        assert isinstance(handle.errors[0].__cause__, PartitionsDiffer)


async def test_publish_that_cannot_reach_the_server_fails_in_time() -> None:
    async with (
        streams_server() as server,
        PartitionedBus(server.addr, None, publish_timeout=0.5) as sender,
    ):
        await move(sender, 1, 1)
        server.kill()
        await until(lambda: sender.says("is lost"))
        began = Stopwatch()
        handles = [await sender.dispatch(Moved(account="a", n=n)) for n in range(10)]
        for handle in handles:
            await handle.wait()
            assert handle.errors
        assert began.seconds > 0.3
        assert began.unhindered_seconds < 3.0
        await server.start()
        await until(lambda: sender.says("again"))
        await move(sender, 1, 1)
