"""Keys that another program deletes or overwrites while a bus uses them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import trio
from tests.support.limits import PROMPT_SECONDS
from tests.support.redis_buses import REGISTRY, Paid, numbers, until
from tests.support.redis_server import acl_user, redis_server
from tests.support.streams_buses import (
    STREAM,
    StreamsBus,
    command_client,
    pending,
    publish,
    streams_server,
    until_settled,
)

from goevent import Config, DeadLettered, DriverError, EncodeError, EventError, GoEvent, JsonCodec
from goevent_redis import RedisConfig, RedisDriver, RedisStreamsDriver

DEAD, NAMES, MARKS = "goevent:dead:shop", "goevent:names", "goevent:marks:shop"


async def overwrite(ask: Callable[..., Any], key: str) -> None:
    await ask("DEL", key)
    await ask("SET", key, "another program's")


async def test_overwritten_stream_is_refused_to_each_publish_and_reported_once() -> None:
    async with streams_server() as server, command_client(server) as ask:
        bus = StreamsBus(server.addr)
        seen = bus.seen()
        async with bus:
            await publish(bus, 1)
            await until_settled(ask)
            await overwrite(ask, STREAM)
            for n in (2, 3):
                handle = await bus.dispatch(Paid(n=n))
                await handle.wait()
                (error,) = handle.errors
                assert isinstance(error.error, DriverError)
                assert "another program has written a key" in str(error.error)
            await until(lambda: bus.says("Redis refuses to "))
            await ask("DEL", STREAM)
            await until(lambda: bus.says("had vanished"))
            await publish(bus, 4)
            await until(lambda: 4 in numbers(seen))
        told = [str(e.error) for e in bus.told if "'take an event" not in str(e)]
        assert sum("WRONGTYPE" in text and "take an event" not in text for text in told) == 1
        assert numbers(seen) == [1, 4]


async def test_dead_letter_waits_for_its_key_and_nothing_is_acknowledged_before() -> None:
    async with streams_server() as server, command_client(server) as ask:
        bus = StreamsBus(server.addr, max_deliveries=1)
        runs = bus.tries(fail=lambda event: event.n == 13)
        async with bus:
            await overwrite(ask, DEAD)
            await publish(bus, 13)
            await until(lambda: bus.says("Redis refuses to finish events") == 1)
            # Other events go on, and the refusal is not reported with each of their reads.
            for n in range(20, 40):
                await publish(bus, n)
            await until(lambda: len(runs) == 21)
            with trio.fail_after(PROMPT_SECONDS):
                while await pending(ask) > 1:
                    await trio.sleep(0.01)
            assert not bus.causes(DeadLettered)
            assert bus.says("Redis refuses to finish events") == 1
            await ask("DEL", DEAD)
            await until(lambda: bus.causes(DeadLettered))
            assert await ask("XLEN", DEAD) == 1
            await until_settled(ask)
            # A second loss is a second report.
            await overwrite(ask, DEAD)
            await publish(bus, 13)
            await until(lambda: bus.says("Redis refuses to finish events") == 2)


async def test_publisher_reports_that_patterns_do_not_find_a_name() -> None:
    async with (
        streams_server() as server,
        command_client(server) as ask,
        StreamsBus(server.addr, None) as bus,
    ):
        await overwrite(ask, NAMES)
        await publish(bus, *range(5))
        await until(lambda: bus.says("Redis refuses to note the names of events") == 1)
        assert await ask("XLEN", STREAM) == 5


async def test_overwritten_marks_are_reported_once_and_events_go_on() -> None:
    async with streams_server() as server, command_client(server) as ask:
        bus = StreamsBus(server.addr)
        seen = bus.seen()
        async with bus:
            await publish(bus, 1)
            await overwrite(ask, MARKS)
            await until(lambda: bus.says("Redis refuses to inspect") == 1)
            await ask("DEL", MARKS)
            await publish(bus, 2)
            await until(lambda: {*numbers(seen)} == {1, 2})
            assert bus.says("Redis refuses to inspect") == 1


@pytest.mark.parametrize("group", [None, "shop"])
async def test_server_that_comes_back_empty_is_used_again(group: str | None) -> None:
    async with redis_server() as server, command_client(server) as ask:
        bus, sender = StreamsBus(server.addr), StreamsBus(server.addr, group)
        seen = bus.seen()
        async with bus, sender:
            await publish(sender, 1)
            await until(lambda: seen)
            await server.restart()
            await publish(sender, 2)
            await until(lambda: numbers(seen) == [1, 2])
            await until(lambda: bus.says("had vanished") == 1)
            await until_settled(ask)
            assert bus.says("had vanished") == 1


def bus_for_large_events(scheme: str, config: RedisConfig) -> GoEvent:
    kind = RedisDriver if scheme == "redis" else RedisStreamsDriver
    codec = JsonCodec(max_size=8 << 20)
    return GoEvent(Config(driver=kind(config), registry=REGISTRY, codec=codec))


@pytest.mark.parametrize("setting", ["proto-max-bulk-len", "client-query-buffer-limit"])
@pytest.mark.parametrize("scheme", ["redis", "redis+streams"])
async def test_event_above_the_limit_of_the_server_is_not_sent(setting: str, scheme: str) -> None:
    async with redis_server(f"{setting} 1mb") as server:
        bus = bus_for_large_events(scheme, RedisConfig(addr=server.addr, max_event_size=4 << 20))
        reports: list[EventError] = []
        bus.on_error(reports.append)
        async with bus:
            handle = await bus.dispatch(Paid(n=1, text="x" * (2 << 20)))
            await handle.wait()
            (error,) = handle.errors
            assert isinstance(error.error, EncodeError)
            assert "above the driver's limit" in str(error.error)
            for size in (2, (1 << 20) - 8192):
                handle = await bus.dispatch(Paid(n=2, text="x" * size))
                await handle.wait()
                handle.raise_errors()
        assert not any("is lost" in str(report) for report in reports)


@pytest.mark.parametrize("scheme", ["redis", "redis+streams"])
async def test_user_who_may_not_ask_for_the_limit_has_that_of_the_config(scheme: str) -> None:
    rules = acl_user("app", "pw", "~*", "&*", "+@all", "-config")
    async with redis_server(rules) as server:
        config = RedisConfig(
            addr=server.addr, username="app", password="pw", max_event_size=4 << 20
        )
        bus = bus_for_large_events(scheme, config)
        async with bus:
            handle = await bus.dispatch(Paid(n=1, text="x" * (2 << 20)))
            await handle.wait()
            handle.raise_errors()
