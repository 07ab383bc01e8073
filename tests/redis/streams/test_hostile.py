"""Foreign data in Redis: it must neither stop a bus nor make it lose an event."""

from __future__ import annotations

import pytest
import trio
from tests.support.redis_buses import OrderLost, Paid, numbers, opened, until
from tests.support.streams_buses import (
    STREAM,
    StreamsBus,
    command_client,
    pending,
    publish,
    streams_server,
    until_settled,
)

OTHER = "goevent:stream:order.lost"
EVENT = (
    b'{"event_name":"order.paid","event_type":"order.paid","event_data":{"n":2,"text":""},'
    b'"handle_id":"00000000000000aa","timestamp":1}'
)
ORPHAN = """
redis.call('XADD', KEYS[1], '*', 'e', ARGV[1])
redis.call('XREADGROUP', 'GROUP', 'shop', 'one', 'STREAMS', KEYS[1], '>')
"""
SMALL = {"max_event_size": 60_000, "max_reply_size": 130_000}


async def test_backlog_of_large_events_is_read_within_the_limit_of_a_reply() -> None:
    async with streams_server() as server, command_client(server) as ask:
        async with StreamsBus(server.addr, None, config=SMALL) as sender:
            for n in range(20):
                handle = await sender.dispatch(Paid(n=n, text="x" * 50_000))
                await handle.wait()
                handle.raise_errors()
        bus = StreamsBus(server.addr, config=SMALL)
        tries = bus.tries()
        async with bus:
            await until_settled(ask)
        assert sorted(tries) == [(n, 1) for n in range(20)]
        assert not bus.told


async def test_oversized_entry_becomes_a_dead_letter_and_blocks_no_other_entry() -> None:
    async with streams_server() as server, command_client(server) as ask:
        bus = StreamsBus(server.addr, config=SMALL)
        seen = bus.seen()
        async with bus:
            huge = await ask("XADD", STREAM, "*", "e", b"x" * 1_000_000)
            await publish(bus, 1)
            await until_settled(ask)
            (letter,) = await bus.driver.dead_letters.list()
            assert letter.event_id == huge.decode()
            assert "larger than" in letter.reason
            assert letter.data == b""
        assert numbers(seen) == [1]


async def test_invalid_names_do_not_stop_a_bus_that_listens_to_patterns() -> None:
    async with streams_server() as server, command_client(server) as ask:
        bus = StreamsBus(server.addr)
        seen = bus.seen("order.*")
        async with bus:
            await ask("SADD", "goevent:names", b"order.\xff", "order.*", "order.a b", "", "order.")
            await trio.sleep(0.7)
            await publish(bus, 1)
            await until(lambda: seen)
            await until(lambda: bus.reads() == ["order.paid"])
        assert not bus.told


async def test_key_of_another_type_stops_only_its_own_name() -> None:
    async with streams_server() as server, command_client(server) as ask:
        bus = StreamsBus(server.addr)
        seen, lost = bus.seen(), bus.seen(OrderLost)
        async with bus:
            await publish(bus, 1)
            await until_settled(ask)
            await ask("SET", OTHER, "not a stream")
            await until(lambda: bus.says("WRONGTYPE"))
            for n in range(2, 12):
                await publish(bus, n)
                await until(lambda n=n: n in numbers(seen))  # type: ignore[misc]
                await trio.sleep(0.1)
            assert bus.says("WRONGTYPE") == 1, [str(e) for e in bus.told]
            await ask("DEL", OTHER)
            await bus.dispatch(OrderLost(n=1))
            await until(lambda: lost)


async def test_more_names_than_the_prefetch_have_their_failures_delivered_again() -> None:
    async with streams_server() as server, command_client(server) as ask:
        bus = StreamsBus(server.addr, prefetch=2)
        tries = bus.tries(fail=lambda event: len(tries) < 3)
        for n in range(5):
            bus.seen(f"other.n{n}")
        async with bus:
            await publish(bus, 1)
            await until_settled(ask)
    assert tries == [(1, 1), (1, 2), (1, 3)]


async def test_own_pending_entry_that_the_bus_does_not_hold_is_recovered() -> None:
    async with streams_server() as server, command_client(server) as ask:
        bus = StreamsBus(server.addr, consumer="one", claim_idle=0.3)
        tries = bus.tries()
        async with bus:
            await publish(bus, 1)
            await until_settled(ask)
            # After a connect, the bus recovers its own pending entries for 2.5 seconds.
            await trio.sleep(2.6)
            # As if the reply to a claim was lost with the connection.
            await ask("EVAL", ORPHAN, 1, STREAM, EVENT)
            assert await pending(ask) == 1
            await until_settled(ask)
    assert [n for n, _ in tries] == [1, 2]


async def test_group_of_replayed_events_that_vanishes_loses_none_of_them() -> None:
    again = "goevent:again:shop:order.paid"
    async with streams_server() as server, command_client(server) as ask:
        bus = StreamsBus(server.addr)
        tries = bus.tries()
        async with bus:
            await publish(bus, 1, 2)
            await until_settled(ask)
            ((_, entry), _) = await ask("XRANGE", STREAM, "-", "+")
            await bus.replay(Paid)
            await until(lambda: len(tries) == 4)
            await ask("XGROUP", "DESTROY", again, "shop")
            await ask("XADD", again, "*", *entry)
            await until(lambda: len(tries) == 5)
            assert bus.says("had vanished") == 1
            await ask("XGROUP", "DESTROY", again, "shop")
            await bus.replay(Paid)
            await until(lambda: len(tries) == 7)
            await ask("DEL", again)
            await bus.replay(Paid)
            await until(lambda: len(tries) == 9)


async def test_replay_copies_entries_of_many_fields() -> None:
    async with streams_server() as server, command_client(server) as ask:
        bus = StreamsBus(server.addr)
        seen = bus.seen()
        async with bus:
            await publish(bus, 1)
            await ask("XADD", STREAM, "*", *[f"f{n}" for n in range(20_000)])
            await publish(bus, 2)
            await until_settled(ask)
            assert await bus.replay(Paid) == 3
            await until(lambda: numbers(seen) == [1, 2, 1, 2])


async def test_consumer_of_released_entries_is_no_name_for_a_bus() -> None:
    with pytest.raises(ValueError, match="handed-back"):
        StreamsBus("127.0.0.1:1", consumer="handed-back")


async def test_buses_with_the_same_consumer_name_lose_no_event() -> None:
    async with streams_server() as server, command_client(server) as ask:
        buses = [StreamsBus(server.addr, consumer="twin", claim_idle=0.5) for _ in range(2)]
        tries = [bus.tries() for bus in buses]
        async with StreamsBus(server.addr, None) as sender:
            async with opened(*buses):
                await publish(sender, *range(100))
                await until(lambda: sum(map(len, tries)) >= 50)
            async with opened(*buses):
                await publish(sender, *range(100, 200))
                await until_settled(ask)
    assert {n for each in tries for n, _ in each} == {*range(200)}
