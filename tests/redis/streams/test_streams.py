"""Durable events: an accepted event arrives once for each group, and is acknowledged when done."""

from __future__ import annotations

import pytest
import trio
from tests.support.limits import PROMPT_SECONDS
from tests.support.redis_buses import REGISTRY, Deep, OrderLost, Paid, User, numbers, opened, until
from tests.support.streams_buses import (
    STREAM,
    StreamsBus,
    command_client,
    pending,
    publish,
    streams_server,
    until_settled,
)

from goevent import Config, GoEvent


async def test_event_goes_through_the_broker_and_its_receipt_is_the_entry() -> None:
    async with streams_server() as server, command_client(server) as ask:
        bus = StreamsBus(server.addr)
        seen = bus.seen()
        async with bus:
            handle = await bus.dispatch(Paid(n=1))
            assert handle.receipt == ""
            await handle.wait()
            await until(lambda: seen)
            (entry,) = await ask("XRANGE", STREAM, "-", "+")
            assert handle.receipt == entry[0].decode()
            await until_settled(ask)
    assert numbers(seen) == [1]
    assert not bus.told


async def test_each_group_gets_all_events_and_its_buses_share_them() -> None:
    async with streams_server() as server, command_client(server) as ask:
        one, two = StreamsBus(server.addr, prefetch=4), StreamsBus(server.addr, prefetch=4)
        other = StreamsBus(server.addr, "audit")
        mine, theirs, all_of_them = one.seen(), two.seen(), other.seen()
        async with opened(one, two, other):
            await publish(other, *range(200))
            await until_settled(ask)
            await until_settled(ask, "audit")
    assert sorted(numbers(mine + theirs)) == [*range(200)]
    assert mine
    assert theirs
    assert sorted(numbers(all_of_them)) == [*range(200)]


async def test_event_is_pending_until_the_last_listener_is_done() -> None:
    async with streams_server() as server, command_client(server) as ask:
        bus = StreamsBus(server.addr)
        gate = trio.Event()

        async def slow(event: Paid) -> None:
            await gate.wait()

        seen = bus.seen()
        bus.subscribe(slow, Paid)
        async with bus:
            await publish(bus, 1)
            await until(lambda: seen)
            assert await pending(ask) == 1
            gate.set()
            await until_settled(ask)


async def test_running_bus_subscribes_to_new_names_and_unsubscribes_from_old_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("goevent_redis._streams.reader.READ_BLOCK_SECONDS", 60.0)
    async with streams_server() as server, command_client(server) as ask:
        bus = StreamsBus(server.addr)
        paid = bus.seen(Paid)
        async with bus:
            lost = bus.seen(OrderLost)
            # The bus ends the blocked read instead of waiting for it.
            with trio.fail_after(PROMPT_SECONDS):
                await bus.ready()
            await (await bus.dispatch(OrderLost(n=1))).wait()
            await until(lambda: lost)
            bus.unregister_listeners_for_event(Paid)
            await until(lambda: bus.reads() == ["order.lost"])
            await publish(bus, 2)
            await (await bus.dispatch(OrderLost(n=3))).wait()
            await until(lambda: len(lost) == 2)
            again = bus.seen(Paid)
            await bus.ready()
            await until(lambda: again)
            await until_settled(ask)
    assert not paid
    assert numbers(again) == [2]


async def test_pattern_finds_existing_streams_and_streams_that_appear_later() -> None:
    async with streams_server() as server:
        sender = StreamsBus(server.addr, None)
        async with sender:
            await publish(sender, 1)
            bus = StreamsBus(server.addr)
            wide, deep = bus.seen("order.*"), bus.seen("order.**")
            async with bus:
                await until(lambda: numbers(wide) == [1])
                for event in (OrderLost(n=2), Deep(n=3), User(n=4)):
                    await (await sender.dispatch(event)).wait()
                await until(lambda: sorted(numbers(deep)) == [1, 2, 3])
            await (await sender.dispatch(OrderLost(n=5))).wait()
            again = StreamsBus(server.addr)
            rest = again.seen("order.*")
            async with again:
                await until(lambda: numbers(rest) == [5])
    assert sorted(numbers(wide)) == [1, 2]


async def test_stream_that_appeared_while_the_group_was_away_is_read_from_its_beginning() -> None:
    async with streams_server() as server:
        sender = StreamsBus(server.addr, None)
        async with sender:
            await publish(sender, 1)
            for n, expected in ((2, []), (3, [2])):
                bus = StreamsBus(server.addr, start="latest")
                seen = bus.seen("order.*")
                async with bus:
                    await until(lambda seen=seen, expected=expected: numbers(seen) == expected)  # type: ignore[misc]
                if n == 2:
                    await (await sender.dispatch(OrderLost(n=n))).wait()


async def test_bus_without_a_group_only_publishes() -> None:
    async with streams_server() as server, command_client(server) as ask:
        url = f"redis+streams://{server.addr}/0"
        config = Config(driver=url, registry=REGISTRY)
        async with GoEvent(config) as bus:
            handle = await bus.dispatch(Paid(n=1))
            await handle.wait()
            handle.raise_errors()
        assert await ask("XLEN", STREAM) == 1
