"""The link and a real server: tasks share it, it reconnects, and it leaves nothing open."""

# pyright: reportPrivateUsage=false
from __future__ import annotations

import os
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import trio
from redis import exceptions as redis_errors
from tests.support.limits import HANG_SECONDS, PROMPT_SECONDS
from tests.support.redis_resp import PythonReader
from tests.support.redis_server import RedisServer, acl_user, fault_proxy, free_port, redis_server
from tests.support.steps import cancel_at_every_step
from tests.support.stopwatch import Stopwatch
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from goevent_redis._link import connection as _connection, link as _link
from goevent_redis._link.config import RedisConfig
from goevent_redis._link.connection import Opening, RedisConnection
from goevent_redis._link.connectivity import Connected, Disconnected
from goevent_redis._link.conversation import Conversation
from goevent_redis._link.errors import (
    ConnectionBroken,
    ConnectRefused,
    LinkClosed,
    NotConnected,
    RedisLinkError,
    ReplyTimeout,
    WrongPassword,
)
from goevent_redis._link.link import Link


def config_of(server: RedisServer, **fields: Any) -> RedisConfig:
    return RedisConfig(addr=server.addr, **fields)


@pytest.fixture(params=["hiredis", "python"])
def any_reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "python":
        monkeypatch.setattr(_connection, "ReplyReader", PythonReader)


@pytest.mark.usefixtures("any_reader")
async def test_many_tasks_share_one_connection() -> None:
    async with redis_server() as server, Link(config_of(server)).open() as link:

        async def count(number: int) -> None:
            for n in range(50):
                assert await link.execute("INCR", f"counter{number}") == n + 1

        async with trio.open_nursery() as nursery:
            for number in range(40):
                nursery.start_soon(count, number)
        # Only the connection of this link.
        assert (await link.execute("CLIENT", "LIST")).count(b"\n") == 1


async def test_replies_of_every_kind() -> None:
    async with redis_server() as server, Link(config_of(server)).open() as link:
        big = os.urandom(3_000_000)
        assert await link.execute("SET", "big", big) == b"OK"
        assert await link.execute("GET", "big") == big
        assert await link.execute("GET", "none") is None
        assert await link.execute("HSET", "h", "a", 1, "b", 2.5) == 2
        assert await link.execute("HGETALL", "h") == {b"a": b"1", b"b": b"2.5"}
        with pytest.raises(redis_errors.ResponseError, match="WRONGTYPE"):
            await link.execute("INCR", "h")
        with pytest.raises(TypeError):
            await link.execute("SET", "a", None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        assert await link.pipeline([("SET", "a", 1), ("INCR", "a")]) == [b"OK", 2]
        assert await link.pipeline([]) == []
        await link.drain()


async def test_transaction_in_a_pipeline() -> None:
    async with redis_server() as server, Link(config_of(server)).open() as link:

        async def transact() -> None:
            for _ in range(20):
                replies = await link.pipeline([("MULTI",), ("INCR", "a"), ("INCR", "a"), ("EXEC",)])
                first, second = replies[-1]
                assert second == first + 1

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(transact)


@pytest.mark.usefixtures("any_reader")
async def test_subscriptions_and_publishing_share_the_connection() -> None:
    batches: list[list[Any]] = []
    async with redis_server() as server:
        link = Link(config_of(server), on_push=batches.append)
        async with link.open():
            await link.subscribe("SUBSCRIBE", "a", "b")
            assert [frame for batch in batches for frame in batch] == [
                [b"subscribe", b"a", 1],
                [b"subscribe", b"b", 2],
            ]
            await link.subscribe("PSUBSCRIBE", "a.*")
            batches.clear()
            assert await link.execute("PUBLISH", "a", "one") == 1
            assert await link.execute("PUBLISH", "a.x", "two") == 1
            assert await link.execute("PUBLISH", "c", "three") == 0
            await link.subscribe("UNSUBSCRIBE", "a", "nothing")
            assert await link.execute("PUBLISH", "a", "four") == 0
            assert [frame for batch in batches for frame in batch] == [
                [b"message", b"a", b"one"],
                [b"pmessage", b"a.*", b"a.x", b"two"],
                [b"unsubscribe", b"a", 2],
                [b"unsubscribe", b"nothing", 2],
            ]
            with pytest.raises(ValueError, match="UNSUBSCRIBE"):
                await link.subscribe("UNSUBSCRIBE")


async def test_refused_subscription_is_an_error_and_the_rest_goes_on() -> None:
    user = acl_user("worker", "pw", "+@all", "~*", "resetchannels", "&mine:*")
    async with redis_server(user) as server:
        config = config_of(server, username="worker", password="pw")
        async with Link(config).open() as link, trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(link.subscribe, "SUBSCRIBE", "mine:a")
                nursery.start_soon(
                    expect, redis_errors.NoPermissionError, link.subscribe, "SUBSCRIBE", "other"
                )
                nursery.start_soon(link.execute, "PING")


async def expect(kind: type[Exception], ask: Callable[..., Awaitable[Any]], *args: Any) -> None:
    with pytest.raises(kind):
        await ask(*args)


async def test_cancelled_requests_do_not_cross_replies() -> None:
    rng = random.Random(5)
    async with redis_server() as server, Link(config_of(server)).open() as link:

        async def echo(number: int, patience: float) -> None:
            with trio.move_on_after(patience):
                assert await link.execute("ECHO", number) == b"%d" % number

        for _ in range(8):
            async with trio.open_nursery() as nursery:
                for number in range(100):
                    nursery.start_soon(echo, number, rng.choice([0, 0.0001, 0.001, 10]))
                    if rng.random() < 0.3:
                        await trio.lowlevel.checkpoint()
            for number in range(50):
                assert await link.execute("ECHO", number) == b"%d" % number


async def test_hook_is_called_in_the_order_of_sending() -> None:
    async with redis_server() as server:
        link = Link(config_of(server), buffer_size=300)
        taken: list[int] = []

        def take() -> list[int]:
            taken.append(len(taken))
            return [taken[-1]]

        async def push(patience: float) -> None:
            with trio.move_on_after(patience):
                await link.execute("RPUSH", "list", extend=take)

        async with link.open(), trio.open_nursery() as nursery:
            for number in range(300):
                nursery.start_soon(push, 0 if number % 3 == 0 else 10)
        async with link.open():
            got = await link.execute("LRANGE", "list", 0, -1)
        assert [int(number) for number in got] == taken
        assert len(taken) == 200


async def test_commands_without_a_reply_of_their_own_are_refused() -> None:
    async with redis_server() as server, Link(config_of(server)).open() as link:
        for name in ("SUBSCRIBE", b"PSUBSCRIBE", "unsubscribe"):
            with pytest.raises(ValueError, match=r"Link\.subscribe"):
                await link.execute(name, "a")
            with pytest.raises(ValueError, match=r"Link\.subscribe"):
                link.post_nowait(name, "a")
            with pytest.raises(ValueError, match=r"Link\.subscribe"):
                await link.pipeline([("PING",), (name, "a")])
        with pytest.raises(ValueError, match="empty"):
            await link.pipeline([("PING",), ()])
        with pytest.raises(ValueError, match="PING"):
            await link.subscribe("PING", "a")
        await link.drain()


async def test_hook_that_raises_sends_nothing() -> None:
    def raises() -> None:
        raise KeyError("mine")

    async with redis_server() as server, Link(config_of(server)).open() as link:
        with pytest.raises(KeyError):
            await link.execute("INCR", "a", extend=raises)
        with pytest.raises(KeyError):
            link.post_nowait("INCR", "a", extend=raises)
        assert await link.execute("EXISTS", "a") == 0


async def test_posted_commands_call_their_callback() -> None:
    async with redis_server() as server, Link(config_of(server)).open() as link:
        got: list[Any] = []
        link.post_nowait("INCR", "a", then=got.append)
        link.post_nowait("INCR", extend=lambda: ["a"], then=got.append)
        link.post_nowait("GET", "a", "b", then=got.append)
        link.post_nowait("INCR", "a")
        await link.drain()
        assert got[:2] == [1, 2]
        assert isinstance(got[2], redis_errors.ResponseError)
        assert await link.execute("GET", "a") == b"3"


async def test_full_buffer_serves_requests_in_order() -> None:
    async with redis_server() as server:
        link = Link(config_of(server), buffer_size=1000)
        order: list[int] = []

        async def push(number: int) -> None:
            order.append(number)
            await link.execute("RPUSH", "list", b"%04d" % number + b"x" * 300)

        async with link.open(), trio.open_nursery() as nursery:
            for number in range(100):
                nursery.start_soon(push, number)
                for _ in range(number % 3):  # at any state of the writer
                    await trio.lowlevel.checkpoint()
                if number == 50:
                    server.freeze()
            server.thaw()
        async with link.open():
            got = [int(item[:4]) for item in await link.execute("LRANGE", "list", 0, -1)]
        assert sorted(got) == list(range(100))
        assert order == got


async def test_full_buffer_delays_tasks_and_drops_cancelled_requests(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with redis_server() as server:
        link = Link(config_of(server, write_timeout=60.0, read_timeout=60.0), buffer_size=1000)
        async with link.open(), trio.open_nursery() as nursery:
            server.freeze()
            large = b"x" * 20_000_000  # more than the sockets take
            nursery.start_soon(link.execute, "SET", "large", large)
            await wait_all_tasks_blocked()
            for number in range(5):
                nursery.start_soon(link.execute, "RPUSH", "list", b"%d" % number + b"y" * 600)
            await wait_all_tasks_blocked()
            with trio.move_on_after(0.01) as scope:
                await link.execute("RPUSH", "list", "cancelled")
            assert scope.cancelled_caught
            with pytest.raises(trio.WouldBlock):
                link.post_nowait("RPUSH", "list", "refused")
            server.thaw()
        async with link.open():
            got = await link.execute("LRANGE", "list", 0, -1)
            assert sorted(int(item[:1]) for item in got) == [0, 1, 2, 3, 4]


async def test_closed_link_refuses_requests() -> None:
    link = Link(RedisConfig())
    for ask in (
        lambda: link.execute("PING"),
        lambda: link.execute("PING", patience=60),
        lambda: link.pipeline([("PING",)]),
        lambda: link.subscribe("SUBSCRIBE", "a"),
        link.ready,
    ):
        with pytest.raises(LinkClosed):
            await ask()
    with pytest.raises(trio.ClosedResourceError):
        link.post_nowait("PING")
    assert not link.connected


async def test_first_connection_fails_with_its_own_error() -> None:
    with pytest.raises(ConnectRefused):
        async with Link(RedisConfig(addr=f"127.0.0.1:{free_port()}")).open():
            raise AssertionError("not reached")
    async with redis_server("requirepass right") as server:
        with pytest.raises(WrongPassword):
            async with Link(config_of(server, password="wrong")).open():
                raise AssertionError("not reached")
        async with trio.open_nursery() as nursery:
            with pytest.raises(WrongPassword):
                await nursery.start(Link(config_of(server)).run)


async def test_error_of_the_body_is_raised_without_a_group() -> None:
    async with redis_server() as server:
        link = Link(config_of(server))
        with pytest.raises(KeyError):
            async with link.open():
                raise KeyError("mine")
        async with link.open():  # and it may be opened again
            assert await link.execute("PING") == b"PONG"
            with pytest.raises(RuntimeError, match="running"):
                await link.run()


async def test_closing_fails_what_is_in_flight() -> None:
    async with redis_server() as server:
        link = Link(config_of(server))
        outcomes: list[Exception] = []

        async def ask() -> None:
            try:
                await link.execute("BLPOP", "nothing", 0)
            except RedisLinkError as error:
                outcomes.append(error)

        async with trio.open_nursery() as outer, link.open():
            outer.start_soon(ask)
            outer.start_soon(ask)
            await wait_all_tasks_blocked()
        assert [type(outcome) for outcome in outcomes] == [ConnectionBroken] * 2


class Log:
    """The events of a link about its connection."""

    def __init__(self) -> None:
        self.up: list[Connected] = []
        self.down: list[Disconnected] = []

    def link(self, config: RedisConfig, **options: Any) -> Link:
        return Link(
            config, on_connected=self.up.append, on_disconnected=self.down.append, **options
        )


async def test_killed_server_is_used_again_within_a_second() -> None:
    log = Log()
    messages: list[Any] = []

    async def subscribe(conversation: Conversation) -> None:
        await conversation.pipeline([("CLIENT", "SETNAME", "again")])
        await conversation.subscribe("SUBSCRIBE", *(f"channel{n}" for n in range(100)))

    async with redis_server() as server:
        link = log.link(config_of(server), on_connect=subscribe, on_push=messages.extend)
        async with link.open():
            for round_ in range(3):
                server.kill()
                await expect(RedisLinkError, ask_for_ever, link)
                assert not link.connected
                with pytest.raises(NotConnected) as caught:
                    await link.execute("PING")
                assert caught.value.__cause__ is not None
                with pytest.raises(NotConnected):
                    link.post_nowait("PING")
                await trio.sleep(0.3 * round_)
                await server.start()
                started = Stopwatch()
                with trio.fail_after(PROMPT_SECONDS):
                    await link.ready()
                assert started.unhindered_seconds < 1.0
                assert await link.execute("PUBLISH", "channel5", round_) == 1
                assert messages[-1] == [b"message", b"channel5", b"%d" % round_]
    assert [up.count for up in log.up] == [1, 2, 3, 4]
    assert log.up[0].downtime == 0
    assert all(0 < up.downtime < HANG_SECONDS for up in log.up[1:])
    assert [down.dials for down in log.down if down.dials == 0] == [0, 0, 0]
    assert all(isinstance(down.reason, RedisLinkError) for down in log.down)


async def ask_for_ever(link: Link) -> None:
    while True:
        await link.execute("PING")


async def test_requests_wait_for_a_connection_for_their_patience() -> None:
    async with redis_server() as server:
        link = Link(config_of(server), patience=30)
        async with link.open(), trio.open_nursery() as nursery:
            server.kill()
            while link.connected:
                with suppress(RedisLinkError):
                    await link.execute("PING", patience=0)
            await expect_soon(NotConnected, link, 0)
            await expect_soon(NotConnected, link, 0.01)
            for number in range(20):
                nursery.start_soon(link.execute, "RPUSH", "list", number)
                await wait_all_tasks_blocked(0.001)
            with trio.move_on_after(0.01) as scope:
                await link.execute("RPUSH", "list", "cancelled")
            assert scope.cancelled_caught
            await server.start()
            await link.ready()
            await wait_all_tasks_blocked()
            got = await link.execute("LRANGE", "list", 0, -1)
            assert [int(item) for item in got] == list(range(20))


async def expect_soon(kind: type[Exception], link: Link, patience: float) -> None:
    with trio.fail_after(HANG_SECONDS), pytest.raises(kind):
        await link.execute("PING", patience=patience)


async def test_waiting_requests_fail_when_the_link_closes() -> None:
    async with redis_server() as server:
        link = Link(config_of(server))
        async with trio.open_nursery() as nursery, link.open():
            server.kill()
            while link.connected:
                await trio.sleep(0.001)
            nursery.start_soon(expect, LinkClosed, lambda: link.execute("PING", patience=60))
            nursery.start_soon(expect, LinkClosed, link.ready)
            await wait_all_tasks_blocked(0.001)


async def test_refused_preparation_counts_as_a_failed_attempt() -> None:
    log = Log()
    names = ["no-such-command", "no-such-command", "PING"]

    async def prepare(conversation: Conversation) -> None:
        if log.up:
            await conversation.execute(names.pop(0))

    async with redis_server() as server, fault_proxy(server.port) as proxy:
        link = log.link(RedisConfig(addr=proxy.addr), on_connect=prepare)
        async with link.open():
            proxy.reset()
            while link.connected:
                await trio.sleep(0.001)
            await link.ready()
    assert [down.dials for down in log.down] == [0, 1, 2]
    assert isinstance(log.down[1].reason, redis_errors.ResponseError)


async def test_refused_first_preparation_is_raised() -> None:
    async def prepare(conversation: Conversation) -> None:
        await conversation.execute("NOSUCH")

    async with redis_server() as server:
        with pytest.raises(redis_errors.ResponseError):
            async with Link(config_of(server), on_connect=prepare).open():
                raise AssertionError("not reached")


async def test_preparation_ends_with_its_connection() -> None:
    preparing = trio.Event()
    second = False

    async def prepare(conversation: Conversation) -> None:
        nonlocal second
        if second and not preparing.is_set():
            preparing.set()
            await trio.sleep_forever()
        second = True

    async with redis_server() as server, fault_proxy(server.port) as proxy:
        link = Link(RedisConfig(addr=proxy.addr), on_connect=prepare)
        async with link.open():
            proxy.reset()
            await preparing.wait()
            proxy.reset()
            while link.connected:
                await trio.sleep(0.001)
            with trio.fail_after(HANG_SECONDS):
                await link.ready()
            assert await link.execute("PING") == b"PONG"


async def test_attempts_to_connect_are_limited(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    dials: list[float] = []
    ours, theirs = memory_stream_pair()

    async def dial(config: RedisConfig, _: Opening) -> RedisConnection:
        await trio.lowlevel.checkpoint()
        dials.append(trio.current_time())
        if len(dials) > 1:
            raise ConnectRefused("no")
        reader: Any = PythonReader(1 << 20)
        return RedisConnection(ours, reader, config)

    monkeypatch.setattr(_link, "open_connection", dial)
    log = Log()
    async with log.link(RedisConfig()).open():
        await trio.sleep(3)
        broke = trio.current_time()
        await theirs.aclose()
        await trio.sleep(60)
    del dials[0]
    since = [dial - broke for dial in dials]
    assert since[0] == 0
    for start in range(60):
        assert sum(start <= dial < start + 1 for dial in since) <= (7 if start == 0 else 3)
    assert max(later - sooner for sooner, later in pairwise(since)) <= 0.8
    assert [down.dials for down in log.down] == list(range(len(since) + 1))


async def test_short_lived_connections_do_not_cause_a_busy_loop() -> None:
    async with redis_server() as server, fault_proxy(server.port) as proxy:
        link = Link(RedisConfig(addr=proxy.addr))
        async with link.open():
            before = proxy.dials
            with trio.move_on_after(1.5):
                while True:
                    await link.ready()
                    proxy.reset()
                    while link.connected:
                        await trio.sleep(0.001)
            assert proxy.dials - before <= 10


async def test_frozen_server_is_detected() -> None:
    async with redis_server() as server:
        config = config_of(server, read_timeout=0.1, dial_timeout=0.1)
        async with Link(config, keepalive=0.1).open() as link:
            server.freeze()
            with trio.fail_after(PROMPT_SECONDS):
                while link.connected:
                    await trio.sleep(0.005)
            server.thaw()
            await link.ready()
            server.freeze()
            with pytest.raises(ReplyTimeout) as caught:
                await link.execute("INCR", "a")
            assert caught.value.maybe_executed
            server.thaw()


async def test_late_process_does_not_blame_the_server() -> None:
    async with redis_server() as server:
        link = Link(config_of(server, read_timeout=0.05), keepalive=0.05)
        async with link.open(), trio.open_nursery() as nursery:
            for _ in range(5):
                for _ in range(3):
                    nursery.start_soon(link.execute, "INCR", "a")
                    await trio.lowlevel.checkpoint()
                time.sleep(0.15)  # the reply is in the socket, and every deadline passes
            await link.drain()
        async with link.open():
            assert await link.execute("GET", "a") == b"15"


async def scenario(server: RedisServer) -> None:
    pushes: list[Any] = []

    async def prepare(conversation: Conversation) -> None:
        await conversation.subscribe("SUBSCRIBE", "a", "b")

    link = Link(
        config_of(server), on_push=pushes.extend, on_connect=prepare, buffer_size=200, patience=5
    )
    async with link.open(), trio.open_nursery() as nursery:
        for number in range(4):
            nursery.start_soon(link.execute, "SET", f"key{number}", "x" * 150)
        nursery.start_soon(link.pipeline, [("INCR", "n"), ("GET", "n")])
        nursery.start_soon(link.execute, "PUBLISH", "a", "hello")
        await link.subscribe("UNSUBSCRIBE", "b")
        await link.drain()


async def test_cancelled_at_any_step_it_leaves_nothing_behind() -> None:
    async with redis_server() as server:
        assert await cancel_at_every_step(partial(scenario, server)) > 30
        async with Link(config_of(server)).open() as link:
            with trio.fail_after(HANG_SECONDS):
                while (await link.execute("CLIENT", "LIST")).count(b"\n") > 1:
                    await trio.sleep(0.01)
            assert len(await link.execute("KEYS", "*")) == 5
