"""The questions of operators on Redis pub/sub: check and tail, on real servers."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
import trio
from tests.support.limits import HANG_SECONDS
from tests.support.redis_buses import Bus, Deep, Paid, bus_on, plain_link, until
from tests.support.redis_server import SMALL_OUTPUT_BUFFER, acl_user, redis_server

from goevent import DriverError
from goevent.drivers import TailedEvent, inspected

LOGIN = {"username": "shop", "password": "secret-word"}
ALL = ("+@all", "~*", "&*")


@asynccontextmanager
async def restricted(*rules: str) -> AsyncGenerator[Bus]:
    """Give an open bus of a user that has only some rights."""
    rule = acl_user(LOGIN["username"], LOGIN["password"], *rules)
    async with redis_server(rule) as server:
        bus = bus_on(server, **LOGIN)
        async with bus:
            yield bus


async def take(channel: trio.abc.ReceiveChannel[TailedEvent], count: int) -> list[TailedEvent]:
    with trio.fail_after(HANG_SECONDS):
        return [await channel.receive() for _ in range(count)]


async def test_a_tail_shows_own_events_and_hostile_bytes_but_no_marks() -> None:
    async with redis_server() as server, plain_link(server) as link:
        bus = bus_on(server)
        async with bus, bus.driver.tail("**") as channel:
            await (await bus.dispatch(Paid(n=7))).wait()
            await link.execute("PUBLISH", "goevent:$marks", "{}")
            await link.execute("PUBLISH", "goevent:order paid", "a channel of no event")
            await link.execute("PUBLISH", b"goevent:\xff", "a channel of no event")
            await link.execute("PUBLISH", "goevent:order.paid", b"\xff\x00\x1b[2J")
            own, hostile = await take(channel, 2)
    assert json.loads(own.data)["event_data"]["n"] == 7
    assert (hostile.event_name, hostile.data) == ("order.paid", b"\xff\x00\x1b[2J")
    assert (own.id, own.time, own.missed) == ("", None, 0)


async def test_a_pattern_matches_as_a_listener_does_and_a_slow_reader_is_told() -> None:
    async with redis_server(SMALL_OUTPUT_BUFFER) as server:
        bus = bus_on(server)
        async with bus, bus.driver.tail("order.*") as channel:
            await (await bus.dispatch(Deep())).wait()
            for n in range(30):
                # More bytes than the server buffers, and than the tail keeps.
                big = [Paid(n=n, text="x" * 1000) for _ in range(100)]
                await (await bus.dispatch_many(big)).wait()
            await (await bus.dispatch(Paid(n=-1))).wait()
            # Nothing follows the last event, and it tells of the missed ones.
            shown = await take(channel, 1)
            with trio.fail_after(HANG_SECONDS):
                while json.loads(shown[-1].data)["event_data"]["n"] != -1:
                    shown.append(await channel.receive())
            assert {each.event_name for each in shown} == {"order.paid"}
            assert len(shown) + sum(each.missed for each in shown) == 3001


async def test_a_tail_goes_on_after_a_restart() -> None:
    async with redis_server() as server:
        bus = bus_on(server)
        async with bus, bus.driver.tail("order.paid") as channel:
            server.kill()
            await server.restart()
            await until(lambda: bus.driver.snapshot().connected, HANG_SECONDS)
            with trio.fail_after(HANG_SECONDS):
                async with trio.open_nursery() as nursery:

                    async def send() -> None:
                        while True:
                            await (await bus.dispatch(Paid(n=3))).wait()
                            await trio.sleep(0.1)

                    nursery.start_soon(send)
                    assert (await channel.receive()).event_name == "order.paid"
                    nursery.cancel_scope.cancel()


async def test_a_tail_that_is_refused_raises_and_one_that_loses_its_right_tells_its_reader() -> (
    None
):
    async with restricted("+@all", "~*", "&goevent:order.*", "&goevent:$marks") as bus:
        with pytest.raises(DriverError, match="SUBSCRIBE"):
            async with bus.driver.tail("user.created"):
                pytest.fail("the tail has begun")
        async with bus.driver.tail("order.paid") as channel:
            # The server closes the connections of a user that loses a channel.
            client = bus.driver.client
            with trio.fail_after(HANG_SECONDS):
                await client.execute_command(
                    "ACL", "SETUSER", "shop", "resetchannels", "&goevent:$marks"
                )
                with pytest.raises(DriverError, match="SUBSCRIBE") as error:
                    await channel.receive()
        assert "secret-word" not in str(error.value)


async def test_a_user_with_all_rights_has_no_findings_and_nothing_is_published() -> None:
    async with restricted(*ALL) as bus:
        got = bus.seen("**")
        await bus.ready()
        assert await bus.driver.check(["order.paid", "order.*"]) == []
        await (await bus.dispatch(Paid(n=1))).wait()
        await until(lambda: got)
        assert len(got) == 1
        assert bus.driver.snapshot().connected


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        (("-publish",), ["may not publish 'order.paid'", "PUBLISH"]),
        (("-psubscribe",), ["may not listen to 'order.*'", "PSUBSCRIBE"]),
        (
            ("resetchannels", "&goevent:$marks", "&goevent:$direct.*", "&goevent:other.*"),
            ["may not publish 'order.paid'", "may not listen to 'order.paid' and 1 more"],
        ),
    ],
    ids=["publishing", "patterns", "channels"],
)
async def test_a_missing_right_is_an_error_that_names_it(
    rules: tuple[str, ...], said: list[str]
) -> None:
    async with restricted(*ALL) as bus:
        await bus.driver.client.execute_command("ACL", "SETUSER", "shop", *rules)
        found = await bus.driver.check(["order.paid", "order.*"])
        told = " / ".join(each.text for each in found)
    assert {each.severity for each in found} == {"error"}
    for words in said:
        assert words in told
    assert "secret-word" not in told


async def test_a_small_output_buffer_is_a_warning() -> None:
    async with redis_server(SMALL_OUTPUT_BUFFER) as server:
        bus = bus_on(server)
        async with bus:
            (finding,) = await bus.driver.check([])
    assert finding.severity == "warning"
    assert "262,144 bytes" in finding.text


async def test_a_server_that_takes_smaller_events_is_a_warning() -> None:
    async with redis_server("proto-max-bulk-len 1mb") as server:
        bus = bus_on(server, max_event_size=4 << 20)
        async with bus:
            found = await bus.driver.check(["order.paid"])
    assert [each.severity for each in found] == ["warning"]
    assert "proto-max-bulk-len" in found[0].text


async def test_pubsub_has_no_lag_to_tell() -> None:
    async with redis_server() as server:
        with pytest.raises(DriverError, match="RedisDriver cannot tell the backlog"):
            inspected(bus_on(server).driver, "lag")
