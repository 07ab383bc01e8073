"""Missing rights: each refusal by the server reaches the caller who asked, or is one report."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis
import trio
from tests.support.limits import HANG_SECONDS
from tests.support.redis_buses import Bus, OrderLost, Paid, bus_on, numbers, sent, until
from tests.support.redis_server import RedisServer, acl_user, redis_server
from tests.support.streams_buses import StreamsBus

from goevent import DriverError, EventError, GoEvent

ALL = ("+@all", "~*", "&*")
LOGIN = {"username": "shop", "password": "pw"}


def pubsub_bus(server: RedisServer) -> Bus:
    return bus_on(server, **LOGIN)


def streams_bus(server: RedisServer) -> StreamsBus:
    return StreamsBus(server.addr, config=LOGIN, max_deliveries=2)


def shop(*rules: str) -> str:
    return acl_user("shop", "pw", *rules)


async def ready_error(bus: GoEvent, listen: Callable[[Any], object], name: Any) -> str:
    """Subscribe on an open bus, and return the text of the refusal, or an empty text."""
    registration = bus.subscribe(listen, name)
    with trio.fail_after(HANG_SECONDS):
        try:
            await registration.ready()
        except DriverError as error:
            return str(error)
    return ""


def refusals(errors: list[EventError]) -> list[str]:
    """Return the reports that name a missing right."""
    texts = [str(error) for error in errors if error.listener == "driver"]
    return [text for text in texts if "permission" in text or "can't run this command" in text]


def rejected(client: Any) -> int:
    """Return how many commands the server has refused so far."""
    stats = client.info("commandstats")
    return sum(each["rejected_calls"] for each in stats.values())


async def kill_connection(client: Any, user: str) -> None:
    """Kill the one connection of a user, and wait until the user has another one."""

    def ids() -> list[str]:
        return [each["id"] for each in client.client_list() if each["user"] == user]

    # The user may be without a connection, because an earlier one was just closed.
    await until(lambda: len(ids()) == 1)
    (killed,) = ids()
    client.client_kill_filter(_id=killed)
    await until(lambda: len(ids()) == 1 and ids() != [killed])


# -- pub/sub


async def test_a_bus_that_may_not_publish_still_receives() -> None:
    async with redis_server(shop(*ALL, "-publish")) as server:
        bus, other = pubsub_bus(server), bus_on(server)
        got = bus.seen(Paid)
        async with bus, other:
            for _ in range(3):
                handle = await sent(bus, OrderLost())
                (error,) = handle.errors
                assert "'publish'" in str(error)
            await sent(other, Paid(n=1))
            await until(lambda: got)
            assert other.told == []


async def test_a_pattern_that_is_refused_reaches_ready_and_costs_nothing_else() -> None:
    async with redis_server(shop(*ALL, "-psubscribe")) as server:
        bus, other = pubsub_bus(server), bus_on(server)
        got: list[Any] = []
        async with bus, other:
            assert "'psubscribe'" in await ready_error(bus, got.append, "order.*")
            assert await ready_error(bus, got.append, Paid) == ""
            await sent(other, Paid(n=1))
            await until(lambda: got)
            assert (await sent(bus, Paid(n=2))).errors == ()
            assert [error.event_name for error in bus.told] == ["order.*"]


async def test_a_right_that_is_taken_away_costs_one_name_and_one_report() -> None:
    async with redis_server(shop(*ALL)) as server:
        client: Any = redis.Redis(port=server.port)
        bus, other = pubsub_bus(server), bus_on(server)
        paid, lost, deep = bus.seen(Paid), bus.seen(OrderLost), bus.seen("order.item.*")
        async with bus, other:
            channels = ("&goevent:order.paid", "&goevent:$marks", "&goevent:user.created")
            # The server closes the connections that have lost a channel.
            client.execute_command("ACL", "SETUSER", "shop", "resetchannels", *channels)
            await until(lambda: len(refusals(bus.told)) == 2)
            with trio.fail_after(HANG_SECONDS):
                while not paid:
                    await sent(other, Paid(n=1))
            for n in (2, 3, 4):
                await kill_connection(client, "shop")
                # Events of the earlier rounds may still be on their way to the listener.
                with trio.fail_after(HANG_SECONDS):
                    while n not in numbers(paid):
                        await sent(other, Paid(n=n))
            handle = await sent(bus, Paid(n=5))
            assert handle.errors == ()
            # Each of the two names once, although the connection was made four times.
            assert sorted(error.event_name for error in bus.told if "permission" in str(error)) == [
                "order.item.*",
                "order.lost",
            ]
            # The right is back, and so are the events after the next connection.
            client.execute_command("ACL", "SETUSER", "shop", "&*")
            await kill_connection(client, "shop")
            with trio.fail_after(HANG_SECONDS):
                while not lost:
                    await sent(other, OrderLost(n=1))
            assert not deep
        client.close()


# -- streams


PUBLISHING = ("xadd",)
SUBSCRIBING = ("evalsha", "xgroup", "hset")
PATTERNS = ("sadd", "smembers")
READING = ("xreadgroup", "xinfo", "xlen", "xpending", "client", "xack", "xclaim", "xrange")
OPTIONAL = ("config", "info", "script", "xread", "zadd")


@pytest.mark.parametrize(
    "command", [*PUBLISHING, *SUBSCRIBING, *PATTERNS, *READING, *OPTIONAL, "eval"]
)
async def test_a_command_of_streams_that_is_refused_is_told_where_it_was_asked_for(
    command: str,
) -> None:
    async with redis_server("appendonly yes", shop(*ALL, f"-{command}")) as server:
        client: Any = redis.Redis(port=server.port)
        bus = streams_bus(server)
        got: list[int] = []

        async def work(event: Paid) -> None:
            got.append(event.n)
            if event.n == 2:
                raise ValueError("for the dead letters")

        async with bus:
            refused = await ready_error(bus, work, Paid)
            by_pattern = await ready_error(bus, lambda event: None, "user.*")
            handles = [await bus.dispatch(Paid(n=n)) for n in (1, 2)]
            with trio.fail_after(HANG_SECONDS):
                for handle in handles:
                    await handle.wait()
            # Publishing goes on without every other right.
            assert [bool(handle.errors) for handle in handles] == [command in PUBLISHING] * 2
            assert bool(refused) == (command in SUBSCRIBING or (command == "eval" and not got))
            if command in PATTERNS:
                assert command in by_pattern
            if command in READING:
                await until(lambda: refusals(bus.told))
            if command in OPTIONAL:
                await until(lambda: sorted(got) == [1, 2, 2])
            before = rejected(client)
            await trio.sleep(1)
            # A refused request is repeated seldom: the right may come back.
            assert rejected(client) - before <= 8
            # Each is reported once, and those of publishes are on their handles, too.
            told = refusals(bus.told)
            assert len(told) == len(set(told)) + (1 if command in PUBLISHING else 0)
            expected = {*PUBLISHING, *READING, *SUBSCRIBING, *PATTERNS}
            assert bool(told) == (command in expected) or command == "eval"
        client.close()


async def test_keys_of_one_event_that_are_refused_cost_no_other_event() -> None:
    keys = ("%R~*", "~goevent:stream:order.paid", "~goevent:*names*", "~goevent:[a-rt-z]*")
    async with redis_server(
        "appendonly yes", acl_user("shop", "pw", "+@all", "&*", *keys)
    ) as server:
        bus = streams_bus(server)
        got: list[int] = []
        async with bus:
            assert await ready_error(bus, lambda event: got.append(event.n), Paid) == ""
            assert "permission" in await ready_error(bus, lambda event: None, OrderLost)
            allowed, forbidden = await bus.dispatch(Paid(n=1)), await bus.dispatch(OrderLost())
            with trio.fail_after(HANG_SECONDS):
                await allowed.wait()
                await forbidden.wait()
            assert allowed.errors == ()
            assert "permission" in str(forbidden.errors[0])
            await until(lambda: got == [1])
