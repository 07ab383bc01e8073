"""Faults of the server and of the streams: they are mended, and reported."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import trio
from tests.support.limits import HANG_SECONDS, PROMPT_SECONDS
from tests.support.redis_buses import Paid, numbers, opened, until
from tests.support.redis_server import acl_user, fault_proxy, redis_server
from tests.support.stopwatch import Stopwatch
from tests.support.streams_buses import (
    STREAM,
    StreamsBus,
    command_client,
    publish,
    streams_server,
    until_settled,
)

from goevent import DriverConnectionError, DriverError, EventError, current_delivery
from goevent_redis import Lost

SMALL_STEPS = ("loading-process-events-interval-bytes", "1024")


class Load:
    """A publisher that never stops, with a list of the accepted events."""

    def __init__(self, bus: StreamsBus) -> None:
        self.bus = bus
        self.accepted: list[int] = []
        self.refused: list[EventError] = []
        self._n = 0

    async def run(self) -> None:
        while True:
            self._n += 1
            handle = await self.bus.dispatch(Paid(n=self._n))
            await handle.wait()
            if handle.errors:
                self.refused += handle.errors
            else:
                self.accepted.append(self._n)
            await trio.sleep(0.001)

    async def more(self, count: int = 50, seconds: float = PROMPT_SECONDS) -> None:
        before = len(self.accepted)
        await until(lambda: len(self.accepted) >= before + count, seconds)


async def all_arrive(load: Load, seen: list[Any], seconds: float = PROMPT_SECONDS) -> None:
    """Wait until all events that are accepted by now have arrived."""
    wanted = {*load.accepted}
    await until(lambda: wanted <= {*numbers(seen)}, seconds)


async def destroy_group(ask: Callable[..., Any]) -> None:
    await ask("XGROUP", "DESTROY", STREAM, "shop")


async def flush(ask: Callable[..., Any]) -> None:
    await ask("FLUSHALL")


async def delete_stream(ask: Callable[..., Any]) -> None:
    await ask("DEL", STREAM)


@pytest.mark.parametrize("harm", [destroy_group, flush, delete_stream])
async def test_group_that_vanishes_under_load_begins_anew_at_the_right_place(harm: Any) -> None:
    async with streams_server() as server, command_client(server) as ask:
        buses = [StreamsBus(server.addr), StreamsBus(server.addr)]
        tries = [bus.tries() for bus in buses]
        load = Load(StreamsBus(server.addr, None))
        async with opened(*buses, load.bus), trio.open_nursery() as nursery:
            nursery.start_soon(load.run)
            await load.more(100)
            # The bus notes once a second how far the group is.
            await trio.sleep(1.1)
            before = {*load.accepted}
            await harm(ask)
            hurt = Stopwatch()
            await until(lambda: sum(bus.says("had vanished") for bus in buses))
            await load.more(20)
            newest = load.accepted[-1]
            await until(lambda: newest in [n for each in tries for n, _ in each])
            assert hurt.unhindered_seconds < 3.0
            nursery.cancel_scope.cancel()
        after = [n for each in tries for n, _ in each]
        if harm is destroy_group:
            assert {*load.accepted} <= {*after}
        assert sum(bus.says("had vanished") for bus in buses) == 1
    # The group begins where it was, or shortly before: repeats are flagged.
    twice = [n for n in {*after} if after.count(n) > 1]
    flagged = {n for each in tries for n, deliveries in each if deliveries > 1}
    assert {*twice} <= flagged
    assert len(twice) < len(before)


async def test_trimming_under_load_disturbs_no_bus() -> None:
    async with streams_server() as server, command_client(server) as ask:
        bus, load = StreamsBus(server.addr), Load(StreamsBus(server.addr, None))
        seen = bus.seen()
        async with opened(bus, load.bus), trio.open_nursery() as nursery:
            nursery.start_soon(load.run)
            for _ in range(10):
                await load.more(10)
                await ask("XTRIM", STREAM, "MAXLEN", 5)
            await load.more(10)
            newest = load.accepted[-1]
            await until(lambda: newest in numbers(seen))
            nursery.cancel_scope.cancel()


async def test_server_out_of_memory_is_a_clear_error_and_passes() -> None:
    async with streams_server() as server, command_client(server) as ask:
        bus = StreamsBus(server.addr, max_deliveries=1)
        tries: list[int] = []
        gate = trio.Event()

        async def work(event: Paid) -> None:
            tries.append(event.n)
            if event.n == 2:
                await gate.wait()
            if event.n < 3:
                raise ValueError

        bus.subscribe(work, Paid)
        async with bus:
            await publish(bus, 1)
            await until_settled(ask)
            await ask("CONFIG", "SET", "maxmemory", "1")
            began = Stopwatch()
            handle = await bus.dispatch(Paid(n=9))
            await handle.wait()
            (error,) = handle.errors
            assert isinstance(error.__cause__, DriverError)
            assert "memory" in str(error)
            assert began.unhindered_seconds < 1.0
            await ask("CONFIG", "SET", "maxmemory", "0")
            await publish(bus, 2)
            await until(lambda: 2 in tries)
            await ask("CONFIG", "SET", "maxmemory", "1")
            gate.set()
            # The dead letter cannot be written, so its entry is not acknowledged.
            await until(lambda: bus.says("Redis refuses to finish events") == 1)
            assert await ask("XLEN", "goevent:dead:shop") == 1
            await ask("CONFIG", "SET", "maxmemory", "0")
            await publish(bus, 3)
            await until_settled(ask)
            assert await ask("XLEN", "goevent:dead:shop") == 2
            assert bus.says("Redis refuses to finish") == 1
    assert tries == [1, 2, 3]


async def test_forgotten_scripts_are_sent_again() -> None:
    async with streams_server() as server, command_client(server) as ask:
        bus = StreamsBus(server.addr)
        seen = bus.seen()
        async with bus:
            for n in range(5):
                await ask("SCRIPT", "FLUSH")
                await publish(bus, n)
                await until_settled(ask)
    assert numbers(seen) == [*range(5)]
    assert not bus.told


async def test_killed_server_loses_no_accepted_event() -> None:
    for fsync in ("everysec", "always"):
        async with redis_server("appendonly yes", f"appendfsync {fsync}") as server:
            bus, load = StreamsBus(server.addr), Load(StreamsBus(server.addr, None))
            tries = bus.tries()
            async with opened(bus, load.bus), command_client(server) as ask:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(load.run)
                    for _ in range(3):
                        await load.more()
                        await server.restart()
                    await load.more()
                    nursery.cancel_scope.cancel()
                await until_settled(ask)
            seen = [n for n, _ in tries]
            assert {*load.accepted} <= {*seen}
            assert not load.refused
            # A restart between two reads may go unnoticed.
            assert 1 <= bus.says("is lost") <= 3


async def test_readonly_and_address_change_as_in_a_failover() -> None:
    async with (
        streams_server("repl-diskless-sync-delay 0") as old,
        streams_server() as new,
        fault_proxy(old.port) as proxy,
        command_client(old) as ask,
        command_client(new) as ask_new,
    ):
        await ask_new("REPLICAOF", "127.0.0.1", old.port)
        bus, load = StreamsBus(proxy.addr), Load(StreamsBus(proxy.addr, None))
        seen = bus.seen()
        async with opened(bus, load.bus), trio.open_nursery() as nursery:
            nursery.start_soon(load.run)
            await load.more()
            await until_synced(ask_new)
            await ask("WAIT", 1, 5000)
            # The old server becomes a replica, and later the address leads to the new one.
            await ask_new("REPLICAOF", "NO", "ONE")
            await ask("REPLICAOF", "127.0.0.1", new.port)
            await until(lambda: bus.says("read only") or load.bus.says("read only"))
            dials = proxy.dials
            await trio.sleep(1.0)
            # There is no hot loop of connections.
            assert proxy.dials - dials < 30
            proxy.lead_to(new.port)
            await load.more(50, 15.0)
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                await until(lambda: {*load.accepted[-50:]} <= {*numbers(seen)})


async def until_synced(ask: Callable[..., Any]) -> None:
    with trio.fail_after(HANG_SECONDS):
        while b"master_link_status:up" not in await ask("INFO", "replication"):
            await trio.sleep(0.02)


async def test_publish_waits_for_a_server_that_loads() -> None:
    async with streams_server("enable-debug-command yes") as server, command_client(server) as ask:
        bus = StreamsBus(server.addr)
        seen = bus.seen()
        async with bus:
            await publish(bus, *range(50))
            await until_settled(ask)
            try:
                await ask(
                    "CONFIG",
                    "SET",
                    "key-load-delay",
                    "20000",
                    "loading-process-events-interval-bytes",
                    "1024",
                )
            except Exception as error:
                pytest.skip(f"this server cannot load slowly: {error}")
            await ask("BGREWRITEAOF")
            async with trio.open_nursery() as nursery:

                async def reload() -> None:
                    await ask("DEBUG", "LOADAOF")

                nursery.start_soon(reload)
                await publish(bus, 50)
            await until_settled(ask)
            assert b"errorstat_LOADING" in await ask("INFO", "errorstats")
    assert sorted({*numbers(seen)}) == [*range(51)]


async def test_publish_waits_during_an_outage_and_then_fails_clearly() -> None:
    async with streams_server() as server, fault_proxy(server.port) as proxy:
        bus = StreamsBus(proxy.addr, publish_timeout=1.5)
        seen = bus.seen()
        async with bus:
            await publish(bus, 1)
            proxy.refuse()
            proxy.reset()
            began = Stopwatch()
            handle = await bus.dispatch(Paid(n=2))
            await handle.wait()
            assert began.seconds > 0.5
            assert began.unhindered_seconds < 3.0
            (error,) = handle.errors
            assert isinstance(error.__cause__, DriverConnectionError)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(publish, bus, 3)
                await trio.sleep(0.1)
                await proxy.accept()
            await until(lambda: 3 in numbers(seen))
            assert not bus.snapshot().driver or bus.driver.snapshot().connected


async def test_event_that_may_have_been_published_before_is_flagged() -> None:
    async with (
        streams_server() as server,
        fault_proxy(server.port) as proxy,
        command_client(server) as ask,
    ):
        sender, bus = StreamsBus(proxy.addr, None), StreamsBus(server.addr)
        found: list[tuple[int, bool]] = []

        async def note(event: Paid) -> None:
            found.append((event.n, "goevent-retried" in current_delivery().headers))

        bus.subscribe(note, Paid)
        async with opened(bus, sender):
            await publish(sender, 0)
            # The reply does not come back.
            proxy.cut_after(0)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(publish, sender, 1)
                await until(lambda: (1, False) in found)
                proxy.pass_on()
            await until_settled(ask)
    assert found == [(0, False), (1, False), (1, True)]


async def test_frozen_bus_does_not_acknowledge_entries_of_other_consumers() -> None:
    async with streams_server() as server, command_client(server) as ask:
        frozen = StreamsBus(server.addr, claim_idle=60.0)
        gate = trio.Event()
        begun: list[int] = []

        async def slow(event: Paid) -> None:
            begun.append(event.n)
            await gate.wait()

        frozen.subscribe(slow, Paid)
        async with frozen:
            (entry_id,) = await publish(frozen, 1)
            await until(lambda: begun)
            # Another bus does this to the events of a silent consumer.
            await ask("XCLAIM", STREAM, "shop", "other", 0, entry_id)
            gate.set()
            await until(lambda: frozen.causes(Lost))
            ((_, owner, _, _),) = await ask("XPENDING", STREAM, "shop", "-", "+", 10)
            assert owner == b"other"
    (lost,) = frozen.causes(Lost)
    assert (lost.id, lost.owner, lost.event_name) == (entry_id, "other", "order.paid")


async def test_server_without_append_only_file_is_warned_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    text = "no append-only file"
    async with redis_server() as server:
        async with StreamsBus(server.addr):
            pass
        assert sum(text in record.getMessage() for record in caplog.records) == 1
    caplog.clear()
    rules = acl_user("app", "pw", "~*", "&*", "+@all", "-config")
    async with redis_server(rules) as server:
        bus = StreamsBus(server.addr, config={"username": "app", "password": "pw"})
        async with bus:
            await publish(bus, 1)
        assert not bus.told
    async with streams_server() as server, StreamsBus(server.addr):
        pass
    assert not any(text in record.getMessage() for record in caplog.records)


async def test_large_stream_that_is_never_trimmed_is_warned_of(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("goevent_redis._streams.monitor.LARGE_STREAM_ENTRIES", 10)
    caplog.set_level(logging.WARNING)
    async with streams_server() as server:
        bus = StreamsBus(server.addr)
        bus.seen()
        async with bus:
            await publish(bus, *range(11))
            await until(lambda: any("never trimmed" in r.getMessage() for r in caplog.records))
        trimmed = StreamsBus(server.addr, maxlen=1000)
        trimmed.seen()
        caplog.clear()
        async with trimmed:
            await until(lambda: trimmed.backlogs())
    assert not caplog.records


async def test_old_server_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("goevent_redis._streams.driver.MIN_SERVER_VERSION", (99, 0))
    async with streams_server() as server:
        with pytest.raises(DriverError, match="durable events need Redis"):
            async with StreamsBus(server.addr):
                pass


async def test_backlog_shows_lag_pending_and_age() -> None:
    async with streams_server() as server:
        sender = StreamsBus(server.addr, None)
        bus = StreamsBus(server.addr, prefetch=4)
        gate = trio.Event()

        async def slow(event: Paid) -> None:
            await gate.wait()

        bus.subscribe(slow, Paid)
        async with opened(bus, sender):
            await publish(sender, *range(10))
            await until(lambda: bus.backlogs() and bus.backlogs()[0].lag == 6)
            (backlog,) = bus.backlogs()
            assert (backlog.event_name, backlog.pending) == ("order.paid", 4)
            await until(lambda: bus.backlogs()[0].oldest_pending > 1.0)
            assert bus.driver.snapshot().connected
            await bus.replay(Paid)
            await until(lambda: bus.backlogs()[0].lag == 16)
            assert bus.backlogs()[0].pending == 4
            gate.set()
            await until(lambda: bus.backlogs()[0].pending == bus.backlogs()[0].lag == 0)
            assert bus.backlogs()[0].oldest_pending == 0.0


async def test_group_that_must_not_be_created_anew_is_reported_without_a_hot_loop() -> None:
    rules = acl_user("app", "pw", "~*", "&*", "+@all", "-xgroup|create")
    async with streams_server(rules) as server, command_client(server) as ask:
        await ask("XGROUP", "CREATE", STREAM, "shop", "0", "MKSTREAM")
        bus = StreamsBus(server.addr, config={"username": "app", "password": "pw"})
        seen = bus.seen()
        async with StreamsBus(server.addr, None) as sender:
            with pytest.raises(DriverError, match="subscribe"):
                async with bus:
                    pass
            await ask("ACL", "SETUSER", "app", "+xgroup")
            async with bus:
                await ask("ACL", "SETUSER", "app", "-xgroup|create")
                await ask("XGROUP", "DESTROY", STREAM, "shop")
                await until(lambda: bus.says("Redis refuses to create the group 'shop'"))
                before = await reads(ask)
                await trio.sleep(0.5)
                assert await reads(ask) - before < 20
                await ask("XGROUP", "CREATE", STREAM, "shop", "0", "MKSTREAM")
                await publish(sender, 1)
                await until(lambda: seen)
            assert bus.says("Redis refuses to create the group 'shop'") == 1


async def reads(ask: Callable[..., Any]) -> int:
    stats = (await ask("INFO", "commandstats")).decode()
    lines = [line for line in stats.splitlines() if line.startswith("cmdstat_xreadgroup:")]
    return sum(int(line.partition("calls=")[2].partition(",")[0]) for line in lines)
