"""The start of a group, retention, deduplication and replay."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import trio
from tests.support.limits import HANG_SECONDS
from tests.support.redis_buses import REGISTRY, Paid, numbers, opened, until
from tests.support.streams_buses import (
    STREAM,
    StreamsBus,
    command_client,
    publish,
    streams_server,
    until_settled,
)

from goevent import Config, GoEvent, MemoryDriver, UnsupportedError, current_delivery


async def begin(server: Any, ask: Any, **streams: Any) -> list[int]:
    """Return the earlier events that a new group gets before an event of its own."""
    bus = StreamsBus(server.addr, f"g{streams}".replace(" ", "").translate(FLAT)[:100], **streams)
    seen = bus.seen()
    async with bus:
        await publish(bus, 9)
        await until(lambda: 9 in numbers(seen))
    return [n for n in numbers(seen) if n != 9]


FLAT = str.maketrans(dict.fromkeys("{}':,()=", "-"))


async def test_new_group_begins_at_its_configured_start() -> None:
    async with streams_server() as server, command_client(server) as ask:
        sender = StreamsBus(server.addr, None)
        async with sender:
            ids = await publish(sender, 0, 1)
            await trio.sleep(0.005)
            middle = datetime.now(UTC)
            await trio.sleep(0.005)
            ids += await publish(sender, 2, 3)
        assert await begin(server, ask) == [0, 1, 2, 3]
        assert await begin(server, ask, start="earliest") == [0, 1, 2, 3]
        assert await begin(server, ask, start="latest") == []
        assert await begin(server, ask, start=ids[0]) == [1, 2, 3]
        assert await begin(server, ask, start=middle) == [2, 3]
        assert await begin(server, ask, start=middle - timedelta(days=40000)) == [0, 1, 2, 3]


async def test_start_counts_for_a_new_group_only() -> None:
    async with streams_server() as server:
        for n, start in enumerate(("latest", "earliest", "latest")):
            bus = StreamsBus(server.addr, start=start)
            seen = bus.seen()
            async with StreamsBus(server.addr, None) as sender:
                await publish(sender, n)
            async with bus:
                await publish(bus, 100 + n)
                await until(lambda seen=seen, n=n: 100 + n in numbers(seen))  # type: ignore[misc]
            assert numbers(seen) == ([100] if not n else [n, 100 + n])


async def test_acknowledged_events_are_removed_once_every_group_has_them() -> None:
    async with streams_server() as server, command_client(server) as ask:
        bus = StreamsBus(server.addr, retention="acked", claim_idle=0.3)
        gate = trio.Event()

        async def slow(event: Paid) -> None:
            if event.n == 5:
                await gate.wait()

        bus.subscribe(slow, Paid, concurrency=20)
        await ask("XGROUP", "CREATE", STREAM, "audit", "0", "MKSTREAM")
        async with bus:
            ids = await publish(bus, *range(10))
            await trio.sleep(0.2)
            assert await ask("XLEN", STREAM) == 10
            await ask("XREADGROUP", "GROUP", "audit", "a", "STREAMS", STREAM, ">")
            await ask("XACK", STREAM, "audit", *ids[:8])
            async with trio.open_nursery() as nursery:
                nursery.start_soon(length, ask, 5)
            gate.set()
            await length(ask, 2)


async def length(ask: Any, count: int) -> None:
    with trio.fail_after(HANG_SECONDS):
        while await ask("XLEN", STREAM) != count:
            await trio.sleep(0.01)


async def test_streams_are_trimmed_only_if_configured() -> None:
    async with streams_server() as server, command_client(server) as ask:
        async with StreamsBus(server.addr, None) as bus:
            await publish(bus, *range(500))
        assert await ask("XLEN", STREAM) == 500
        async with StreamsBus(server.addr, None, maxlen=100) as bus:
            await publish(bus, *range(500))
        assert 100 <= await ask("XLEN", STREAM) < 300
        await ask("XADD", STREAM, "*", "e", "x")
        await trio.sleep(0.3)
        async with StreamsBus(server.addr, None, max_age=0.1) as bus:
            await publish(bus, *range(300))
        assert await ask("XLEN", STREAM) <= 500


async def test_event_that_was_sent_twice_runs_once_within_the_window() -> None:
    async with streams_server() as server, command_client(server) as ask:
        bus = StreamsBus(server.addr, deduplicate=60.0)
        other = StreamsBus(server.addr, "audit")
        seen, everything = bus.seen(), other.seen()
        slow: list[int] = []

        async def linger(event: Paid) -> None:
            slow.append(event.n)
            await trio.sleep(0.1)

        bus.subscribe(linger, Paid, concurrency=5)
        async with opened(bus, other):
            await publish(bus, 1, 2)
            (entry, _) = await ask("XRANGE", STREAM, "-", "+")
            # Its publisher sends it again: while it runs, and later.
            await ask("XADD", STREAM, "*", *entry[1], "r", "1")
            await until_settled(ask)
            await ask("XADD", STREAM, "*", *entry[1], "r", "1")
            await until_settled(ask)
            await until_settled(ask, "audit")
            ttls = [await ask("PTTL", key) for key in await ask("KEYS", "goevent:done:shop:*")]
    assert sorted(numbers(seen)) == sorted(slow) == [1, 2]
    assert sorted(numbers(everything)) == [1, 1, 1, 2]
    assert len(ttls) == 2
    assert all(0 < ttl <= 60_000 for ttl in ttls)


async def test_failed_event_does_not_count_as_finished() -> None:
    async with streams_server() as server, command_client(server) as ask:
        bus = StreamsBus(server.addr, deduplicate=60.0)
        tries = bus.tries(fail=lambda event: len(tries) < 3)
        async with bus:
            await publish(bus, 1)
            await until_settled(ask)
    assert tries == [(1, 1), (1, 2), (1, 3)]


async def test_past_events_are_replayed_to_one_group() -> None:
    async with streams_server() as server, command_client(server) as ask:
        bus, other = StreamsBus(server.addr, deduplicate=60.0), StreamsBus(server.addr, "audit")
        theirs = other.seen()
        found: list[tuple[int, str]] = []

        async def note(event: Paid) -> None:
            found.append((event.n, current_delivery().headers.get("goevent-replayed", "")))

        bus.subscribe(note, Paid)
        async with opened(bus, other):
            ids = await publish(bus, *range(6))
            await until_settled(ask)
            await until_settled(ask, "audit")
            found.clear()
            assert await bus.replay(Paid, ids[1], ids[3]) == 3
            await until(lambda: len(found) == 3)
            assert sorted(found) == [(n, ids[n]) for n in (1, 2, 3)]
            assert len(theirs) == 6
            assert await bus.replay("order.paid", group="audit") == 6
            await until(lambda: len(theirs) == 12)
            later = datetime.now(UTC) + timedelta(hours=1)
            assert await bus.replay("order.paid", later) == 0
            assert await bus.replay("order.lost") == 0
            assert len(found) == 3
            with pytest.raises(ValueError, match="a place is"):
                await bus.replay("order.paid", "yesterday")
            with pytest.raises(UnsupportedError, match="pattern"):
                await bus.replay("order.*")


async def test_replay_needs_a_driver_that_keeps_events() -> None:
    async with GoEvent(Config(registry=REGISTRY, driver=MemoryDriver())) as bus:
        with pytest.raises(UnsupportedError, match="MemoryDriver keeps no events"):
            await bus.replay("order.paid")


async def test_bus_that_listens_needs_a_group() -> None:
    async with streams_server() as server:
        bus = StreamsBus(server.addr, None)
        bus.seen()
        with pytest.raises(UnsupportedError, match="group=the-service"):
            async with bus:
                pass
