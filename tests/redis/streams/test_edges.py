"""Edge cases of durable events: clocks, windows, outages of any length, unsubscribing."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import trio
from tests.support.limits import HANG_SECONDS
from tests.support.redis_buses import OrderLost, Paid, numbers, opened, until
from tests.support.redis_server import acl_user, fault_proxy
from tests.support.streams_buses import (
    STREAM,
    StreamsBus,
    command_client,
    publish,
    streams_server,
    until_settled,
)

from goevent import DriverError


async def test_events_of_a_name_that_one_bus_unsubscribes_go_to_the_other_buses() -> None:
    async with streams_server() as server, command_client(server) as ask:
        staying, leaving = StreamsBus(server.addr), StreamsBus(server.addr, prefetch=50)
        seen = staying.seen()
        theirs: list[Any] = []

        async def slow(event: Paid) -> None:
            theirs.append(event)
            await trio.sleep(0.001)

        async with StreamsBus(server.addr, None) as sender, opened(staying, leaving):
            for first in range(0, 1000, 100):
                registration = leaving.subscribe(slow, Paid, mailbox=1)
                await registration.ready()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(publish, sender, *range(first, first + 100))
                    await until(lambda first=first: len(seen) + len(theirs) > first + 20)  # type: ignore[misc]
                    registration.unregister()
            await until_settled(ask)
            dropped = leaving.says("its listener was unregistered")
        # At most the events that stood in its mailbox, and each is reported.
        assert dropped <= 20
        missing = {*range(1000)} - {*numbers(seen + theirs)}
        assert len(missing) == dropped


async def test_outage_longer_than_claim_idle_takes_no_event_from_a_live_bus() -> None:
    async with streams_server() as server, command_client(server) as ask:
        buses = [StreamsBus(server.addr, claim_idle=1.5) for _ in range(3)]
        runs: list[int] = []

        async def slowly(event: Paid) -> None:
            runs.append(event.n)
            await trio.sleep(4.0)

        for bus in buses:
            bus.subscribe(slowly, Paid, concurrency=30)
        async with opened(*buses):
            await publish(buses[0], *range(30))
            await until(lambda: len(runs) == 30)
            server.kill()
            await trio.sleep(2.0)
            await server.start()
            await until_settled(ask)
        assert sorted(runs) == [*range(30)]


async def test_process_that_stood_still_takes_no_event_from_others_that_stood_still() -> None:
    async with streams_server() as server, command_client(server) as ask:
        buses = [StreamsBus(server.addr, claim_idle=1.0) for _ in range(4)]
        runs: list[int] = []

        async def slowly(event: Paid) -> None:
            runs.append(event.n)
            await trio.sleep(2.0)

        for bus in buses:
            bus.subscribe(slowly, Paid, concurrency=40)
        async with opened(*buses):
            await publish(buses[0], *range(40))
            await until(lambda: len(runs) == 40)
            time.sleep(1.5)  # No bus sends a heartbeat.
            await until_settled(ask)
        assert sorted(runs) == [*range(40)]


async def test_event_runs_again_once_the_deduplication_window_has_passed() -> None:
    async with streams_server() as server, command_client(server) as ask:
        bus = StreamsBus(server.addr, deduplicate=0.5)
        seen = bus.seen()
        async with bus:
            await publish(bus, 1)
            await until_settled(ask)
            ((_, fields),) = await ask("XRANGE", STREAM, "-", "+")
            await ask("XADD", STREAM, "*", *fields)
            await until_settled(ask)
            assert len(seen) == 1
            await trio.sleep(0.6)
            await ask("XADD", STREAM, "*", *fields)
            await until_settled(ask)
    assert len(seen) == 2


async def test_event_that_is_finished_elsewhere_is_not_delivered_from_a_full_queue() -> None:
    async with streams_server() as server, command_client(server) as ask:
        first = StreamsBus(server.addr, deduplicate=60.0, prefetch=10)
        second = StreamsBus(server.addr, deduplicate=60.0)
        gate = trio.Event()
        done: list[int] = []

        async def stuck(event: Paid) -> None:
            await gate.wait()
            done.append(event.n)

        first.subscribe(stuck, Paid, mailbox=1)
        seen = second.seen()
        async with first:
            await publish(first, *range(10))
            await until(lambda: first.backlogs() and first.backlogs()[0].pending == 10)
            async with second:
                fields = (await ask("XRANGE", STREAM, "-", "+"))[9][1]
                await ask("XADD", STREAM, "*", *fields)
                await until(lambda: seen)
                await trio.sleep(0.2)
            gate.set()
            await until_settled(ask)
    assert numbers(seen) == [9]
    assert sorted(done) == [*range(9)]


async def test_age_of_entries_follows_the_clock_of_the_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 3600)
    async with streams_server() as server, command_client(server) as ask:
        bus = StreamsBus(server.addr, max_age=600.0)
        gate = trio.Event()

        async def stuck(event: Paid) -> None:
            await gate.wait()

        bus.subscribe(stuck, Paid)
        async with bus:
            await publish(bus, *range(500))
            assert await ask("XLEN", STREAM) == 500
            await until(lambda: bus.backlogs() and bus.backlogs()[0].oldest_pending > 0)
            assert bus.backlogs()[0].oldest_pending < 60
            gate.set()
            await until_settled(ask)


@pytest.mark.parametrize("start", [datetime.now(UTC) + timedelta(days=1), "latest", "5-5"])
async def test_acknowledged_events_are_removed_wherever_the_group_began(start: Any) -> None:
    async with streams_server() as server, command_client(server) as ask:
        bus = StreamsBus(server.addr, retention="acked", start=start)
        bus.seen()
        async with bus:
            await until(bus.backlogs)
            await publish(bus, 1)
            await until(lambda: bus.backlogs()[0].lag == 0)
            if start == "5-5":
                with trio.fail_after(HANG_SECONDS):
                    while await ask("XLEN", STREAM):
                        await trio.sleep(0.01)
        assert not bus.told


async def test_pattern_finds_a_new_name_after_all_keys_were_deleted() -> None:
    async with streams_server() as server, command_client(server) as ask:
        bus = StreamsBus(server.addr)
        seen = bus.seen("order.*")
        async with bus:
            await ask("SADD", "goevent:names", "user.created")
            await trio.sleep(0.7)
            await ask(
                "EVAL",
                "redis.call('FLUSHALL') redis.call('SADD', KEYS[1], 'order.lost')",
                1,
                "goevent:names",
            )
            async with StreamsBus(server.addr, None) as sender:
                await (await sender.dispatch(OrderLost(n=1))).wait()
                await until(lambda: seen)


async def test_missing_append_only_file_is_warned_of_even_if_info_is_forbidden(
    caplog: pytest.LogCaptureFixture,
) -> None:
    rules = acl_user("app", "pw", "~*", "&*", "+@all", "-info")
    config = {"username": "app", "password": "pw"}
    async with (
        streams_server(rules, "appendonly no") as server,
        StreamsBus(server.addr, config=config),
    ):
        pass
    assert any("no append-only file" in record.getMessage() for record in caplog.records)


async def test_server_that_takes_no_writes_gets_few_requests() -> None:
    async with streams_server() as server, command_client(server) as ask:
        bus = StreamsBus(server.addr, publish_timeout=30.0)
        bus.seen()
        async with bus:
            await publish(bus, 0)
            await ask("REPLICAOF", "127.0.0.1", "1")
            await ask("CONFIG", "RESETSTAT")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(publish, bus, *range(1000))
                await trio.sleep(3.0)
                # Each publish is tried once, and then one at a time tries again for all.
                assert await refused(ask) < 2500
                await ask("REPLICAOF", "NO", "ONE")
            await until_settled(ask)


async def test_no_entry_stays_held_when_a_group_cannot_be_created_anew() -> None:
    async with (
        streams_server() as server,
        fault_proxy(server.port) as proxy,
        command_client(server) as ask,
    ):
        bus = StreamsBus(proxy.addr, claim_idle=0.5, prefetch=4)
        gate = trio.Event()
        begun: list[Any] = []

        async def slow(event: Any) -> None:
            begun.append(event)
            await gate.wait()

        bus.subscribe(slow, Paid, concurrency=2)
        bus.subscribe(slow, OrderLost, concurrency=2)
        async with StreamsBus(server.addr, None) as sender, bus:
            await publish(sender, 1, 2)
            for n in (1, 2):
                await (await sender.dispatch(OrderLost(n=n))).wait()
            await until(lambda: len(begun) == 4)
            await ask("FLUSHALL")
            gate.set()
            await trio.sleep(0.001)
            proxy.reset()
            await until(lambda: bus.driver.snapshot().connected)
            for n in range(3, 13):
                await publish(sender, n)
            await until(lambda: len(begun) >= 14)
            await until_settled(ask)


async def test_listener_that_dispatches_and_waits_does_not_block_its_bus() -> None:
    async with streams_server() as server, command_client(server) as ask:
        bus = StreamsBus(server.addr, prefetch=8)
        lost = bus.seen(OrderLost)

        async def forward(event: Paid) -> None:
            handle = await bus.dispatch(OrderLost(n=event.n))
            await handle.wait()
            handle.raise_errors()

        bus.subscribe(forward, Paid, concurrency=4)
        async with bus:
            await publish(bus, *range(100))
            await until_settled(ask)
            await until(lambda: len(lost) == 100)
        assert sorted(numbers(lost)) == [*range(100)]


async def test_with_one_delivery_the_first_failure_makes_a_dead_letter() -> None:
    async with streams_server() as server, command_client(server) as ask:
        bus = StreamsBus(server.addr, max_deliveries=1)
        tries = bus.tries(fail=lambda event: event.n == 1)
        async with bus:
            await publish(bus, 1, 2)
            await until_settled(ask)
            (letter,) = await bus.driver.dead_letters.list()
            assert letter.deliveries == 1
            tries.clear()
            assert [await bus.driver.dead_letters.replay(letter) for _ in range(2)] == [1, 0]
            await until(lambda: tries == [(1, 1)])
            with trio.fail_after(HANG_SECONDS):
                while await bus.driver.dead_letters.count() != 1:
                    await trio.sleep(0.01)


async def test_close_and_publish_may_be_cancelled_at_any_moment() -> None:
    async with streams_server() as server, command_client(server) as ask:
        accepted: set[int] = set()
        done: set[int] = set()

        async def work(event: Paid) -> None:
            await trio.sleep(0.001)
            done.add(event.n)

        for n in range(25):
            bus = StreamsBus(server.addr, claim_idle=0.5)
            bus.subscribe(work, Paid, concurrency=8)
            with trio.move_on_after(0.002 * n):
                async with bus:
                    for k in range(40):
                        handle = await bus.dispatch(Paid(n=100 * n + k))
                        if k % 3 == 0:
                            await handle.wait()
                            accepted.add(100 * n + k)
                    with trio.move_on_after(0.001 * (n % 5)):
                        await bus.close(1.0)
        last = StreamsBus(server.addr, claim_idle=0.5)
        last.subscribe(work, Paid)
        async with last:
            await publish(last, 9999)
            await until_settled(ask)
        assert accepted <= done


async def test_passwords_appear_in_no_text() -> None:
    rules = acl_user("app", "hunter2", "~*", "&*", "+@all", "-xadd", "-xgroup|create")
    async with streams_server(rules) as server:
        config = {"username": "app", "password": "hunter2"}
        bus = StreamsBus(server.addr, config=config)
        texts = [repr(bus.driver), repr(bus), repr(bus.driver.config), repr(bus.driver.streams)]
        bus.seen()
        with pytest.raises(DriverError) as caught:
            async with bus:
                pass
        texts += [repr(caught.value), str(caught.value)]
        sender = StreamsBus(server.addr, None, config=config)
        async with sender:
            handle = await sender.dispatch(Paid(n=1))
            await handle.wait()
        texts += [str(error) + error.details for error in (*handle.errors, *sender.told)]
        assert handle.errors
        assert not any("hunter2" in text for text in texts)


async def test_repeats_after_a_destroyed_group_are_flagged_on_every_bus() -> None:
    async with streams_server() as server, command_client(server) as ask:
        buses = [StreamsBus(server.addr) for _ in range(3)]
        tries = [bus.tries() for bus in buses]
        async with opened(*buses):
            for first in range(0, 40, 10):
                await publish(buses[0], *range(first, first + 10))
                await until_settled(ask)
                before = sum(map(len, tries))
                await ask("XGROUP", "DESTROY", STREAM, "shop")
                await until(lambda: sum(bus.says("had vanished") for bus in buses))
                await publish(buses[0], 100 + first)
                await until(lambda first=first: 100 + first in [n for t in tries for n, _ in t])  # type: ignore[misc]
                await until_settled(ask)
                assert sum(map(len, tries)) >= before
                for bus in buses:
                    bus.told.clear()
        runs = [each for found in tries for each in found]
    numbered = [n for n, _ in runs]
    unflagged = [n for n, deliveries in runs if deliveries == 1]
    assert len(unflagged) == len({*unflagged})
    # Some events did repeat.
    assert len(numbered) > len({*numbered})


async def test_server_that_refuses_every_command_gets_few_requests() -> None:
    rules = acl_user("app", "pw", "~*", "&*", "+@all")
    async with streams_server(rules) as server, command_client(server) as ask:
        bus = StreamsBus(server.addr, config={"username": "app", "password": "pw"})
        gate = trio.Event()
        begun: list[Any] = []

        async def work(event: Any) -> None:
            begun.append(event)
            await gate.wait()

        bus.subscribe(work, "order.*", concurrency=50)
        seen = bus.seen("user.*")
        async with bus:
            await publish(bus, *range(50))
            await (await bus.dispatch(OrderLost(n=1))).wait()
            await until(lambda: len(begun) == 50)
            await ask("ACL", "SETUSER", "app", "-@all")
            gate.set()
            await trio.sleep(0.2)
            await ask("CONFIG", "RESETSTAT")
            await trio.sleep(2.0)
            assert await refused(ask) < 200
            assert bus.says("permission") == len(bus.told) == 1
            await ask("ACL", "SETUSER", "app", "+@all")
            await publish(bus, 99)
            await until_settled(ask)
        assert not seen


async def refused(ask: Any) -> int:
    """Return how many commands the server has refused since its statistics were reset."""
    stats = (await ask("INFO", "commandstats")).decode()
    found = re.findall(r"rejected_calls=(\d+),failed_calls=(\d+)", stats)
    return sum(int(count) for pair in found for count in pair)


async def test_latest_does_not_skip_events_that_came_after_all_keys_were_deleted() -> None:
    async with streams_server() as server, command_client(server) as ask:
        bus = StreamsBus(server.addr, start="latest")
        seen = bus.seen()
        async with bus:
            await publish(bus, 1)
            await until_settled(ask)
            ((_, fields),) = await ask("XRANGE", STREAM, "-", "+")
            # The bus notes once a second how far the group is.
            await trio.sleep(1.1)
            script = "redis.call('FLUSHALL') redis.call('XADD', KEYS[1], '*', unpack(ARGV))"
            await ask("EVAL", script, 1, STREAM, *fields)
            await until(lambda: len(seen) == 2)


async def looks_at_groups(ask: Callable[..., Any]) -> int:
    """Return how often clients have looked at the groups of a stream."""
    stats: bytes = await ask("INFO", "commandstats")
    found = re.search(rb"cmdstat_xinfo\|groups:calls=(\d+)", stats)
    return int(found[1]) if found else 0


async def test_server_out_of_memory_is_still_read_from() -> None:
    async with streams_server() as server, command_client(server) as ask:
        bus = StreamsBus(server.addr, prefetch=8)
        gate, seen = trio.Event(), list[int]()

        async def work(event: Paid) -> None:
            await gate.wait()
            seen.append(event.n)

        bus.subscribe(work, Paid)
        async with bus:
            await publish(bus, *range(40))
            await ask("CONFIG", "SET", "maxmemory", 1)
            # The monitor looks at the group twice meanwhile.
            before = await looks_at_groups(ask)
            with trio.fail_after(HANG_SECONDS):
                while await looks_at_groups(ask) < before + 2:
                    await trio.sleep(0.05)
            gate.set()
            await until_settled(ask)
            await ask("CONFIG", "SET", "maxmemory", 0)
    assert sorted(seen) == [*range(40)]
