"""Opening a connection: each failure has its class, and none shows the password."""

from __future__ import annotations

import ssl
import traceback
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trustme
from redis import exceptions as redis_errors
from tests.support.limits import HANG_SECONDS
from tests.support.redis_server import FaultProxy, acl_user, fault_proxy, free_port, redis_server
from tests.support.steps import cancelled_at
from trio.testing import MockClock, wait_all_tasks_blocked

from goevent_redis._link.config import RedisConfig
from goevent_redis._link.connection import RedisConnection, open_connection
from goevent_redis._link.errors import (
    ConnectionBroken,
    ConnectRefused,
    ConnectTimeout,
    NoPermission,
    RedisLinkError,
    ReplyTimeout,
    ServerRefused,
    TLSFailure,
    UnsupportedServer,
    WrongPassword,
)

SECRET = "s3cr3t-p4ss"


@asynccontextmanager
async def opened(config: RedisConfig) -> AsyncGenerator[RedisConnection]:
    connection = await open_connection(config)
    try:
        yield connection
    finally:
        await connection.aclose()


async def failure_of(config: RedisConfig) -> RedisLinkError:
    """Return the error of opening a connection, after a search of it for the password."""
    with pytest.raises(RedisLinkError) as caught:
        await open_connection(config)
    error = caught.value
    assert isinstance(error, redis_errors.ConnectionError)
    texts = [repr(error), *traceback.TracebackException.from_exception(error).format()]
    seen: set[int] = set()
    chain: list[BaseException | None] = [error]
    while chain:
        each = chain.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        texts += [repr(each), str(each), repr(each.args)]
        chain += [each.__context__, each.__cause__]
        chain += getattr(each, "exceptions", ())
    assert SECRET not in "".join(texts)
    own = traceback.TracebackException.from_exception(error, capture_locals=True)
    assert SECRET not in "".join(own.format())
    return error


Answer = Callable[[trio.SocketStream], Awaitable[None]]


@asynccontextmanager
async def impostor(answer: Answer) -> AsyncGenerator[RedisConfig]:
    """Run a server that is no Redis server; yield the configuration to connect to it."""

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            await answer(stream)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(
            trio.serve_tcp,
            serve,
            0,
        )
        port = listeners[0].socket.getsockname()[1]
        yield RedisConfig(addr=f"127.0.0.1:{port}", password=SECRET, dial_timeout=5.0)
        nursery.cancel_scope.cancel()


def says(reply: bytes) -> Answer:
    async def answer(stream: trio.SocketStream) -> None:
        await stream.receive_some(1000)
        await stream.send_all(reply)

    return answer


async def test_connection_logs_in_and_answers() -> None:
    async with redis_server(acl_user("worker", SECRET, "~*", "&*", "+@all")) as server:
        config = RedisConfig(
            addr=server.addr, username="worker", password=SECRET, db=3, client_name="me"
        )
        async with opened(config) as connection:
            assert await connection.call("ACL", "WHOAMI") == b"worker"
            info = await connection.call("CLIENT", "INFO")
            assert b" db=3 " in info
            assert b" name=me " in info
            assert b" resp=3" in info
            assert await connection.call_many(("SET", "k", 1), ("INCR", "k"), ("NOSUCH",)) == [
                b"OK",
                2,
                AnyError("unknown command"),
            ]
            with pytest.raises(redis_errors.ResponseError, match="unknown command"):
                await connection.call("NOSUCH")
            assert connection.usable


class AnyError:
    """Equals any error reply with a text."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, redis_errors.ResponseError) and self._text in str(other)

    __hash__ = None  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]


async def test_unix_socket() -> None:
    async with redis_server() as server:
        for config in (
            RedisConfig(path=server.socket_path),
            RedisConfig(url=f"unix://{server.socket_path}?db=1"),
        ):
            async with opened(config) as connection:
                assert await connection.call("PING") == b"PONG"
        error = await failure_of(RedisConfig(path=server.socket_path + "x", password=SECRET))
    assert isinstance(error, ConnectRefused)


async def test_port_without_a_server_is_refused() -> None:
    error = await failure_of(RedisConfig(addr=f"127.0.0.1:{free_port()}", password=SECRET))
    assert isinstance(error, ConnectRefused)
    assert "refused" in str(error)


@pytest.mark.parametrize("addr", ["nosuchhost.invalid:6379", f"{'a' * 70}.org:1"])
async def test_unknown_address_is_refused(addr: str) -> None:
    assert isinstance(await failure_of(RedisConfig(addr=addr, password=SECRET)), ConnectRefused)


async def test_wrong_passwords() -> None:
    async with redis_server(f"requirepass {SECRET}", acl_user("worker", SECRET, "+@all")) as server:
        for config in (
            RedisConfig(addr=server.addr),
            RedisConfig(addr=server.addr, password=SECRET + "x"),
            RedisConfig(addr=server.addr, username="worker", password=SECRET + "x"),
            RedisConfig(addr=server.addr, username="worker"),
            RedisConfig(addr=server.addr, username="nobody", password=SECRET),
            RedisConfig(url=f"redis://worker:{SECRET}x@{server.addr}"),
        ):
            with pytest.raises(WrongPassword) as caught:
                await open_connection(config)
            texts = "".join(traceback.format_exception(caught.value))
            assert SECRET not in texts
            assert caught.value.__context__ is None
            assert isinstance(caught.value, redis_errors.AuthenticationError)
        async with opened(RedisConfig(addr=server.addr, password=SECRET)) as connection:
            assert await connection.call("PING") == b"PONG"


async def test_missing_rights() -> None:
    rules = acl_user("worker", SECRET, "~*", "&*", "+@all", "-select")
    async with redis_server(rules, "user default off", acl_user("dumb", SECRET, "-@all")) as server:
        config = RedisConfig(addr=server.addr, username="worker", password=SECRET, db=1)
        assert isinstance(await failure_of(config), NoPermission)
        async with opened(RedisConfig(addr=server.addr, username="dumb", password=SECRET)) as mute:
            with pytest.raises(redis_errors.NoPermissionError):
                await mute.call("GET", "k")


async def test_full_or_loading_server_is_refused() -> None:
    async with redis_server("maxclients 1") as server:
        async with opened(RedisConfig(addr=server.addr)):
            error = await failure_of(RedisConfig(addr=server.addr, password=SECRET))
            assert isinstance(error, ServerRefused)
        error = await failure_of(RedisConfig(addr=server.addr, db=99))
    assert isinstance(error, ServerRefused)


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (
            f"-ERR unknown command `HELLO`, with args: `3`, `AUTH`, `default`, `{SECRET}`\r\n",
            UnsupportedServer,
        ),
        (f"-ERR Client sent AUTH {SECRET}\r\n", UnsupportedServer),
        (f"-NOPROTO {SECRET}\r\n", UnsupportedServer),
        (f"-WRONGPASS {SECRET}\r\n", WrongPassword),
        (f"-NOAUTH {SECRET}\r\n", WrongPassword),
        (f"-NOPERM {SECRET}\r\n", NoPermission),
        (f"-LOADING {SECRET}\r\n", ServerRefused),
        (f"-DENIED {SECRET}\r\n", ServerRefused),
        ("-ERR max number of clients reached\r\n", ServerRefused),
        (f"*2\r\n+proto\r\n:2\r\n+{SECRET}\r\n", UnsupportedServer),
        (f"HTTP/1.1 400 Bad Request\r\n\r\n{SECRET}", UnsupportedServer),
        (f"!3\r\n{SECRET}", UnsupportedServer),
        (f":{SECRET}\r\n", UnsupportedServer),
        ("%1\r\n+proto\r\n:2\r\n", UnsupportedServer),
        ("+OK\r\n", UnsupportedServer),
        ("\x15\x03\x03\x00\x02\x02F", UnsupportedServer),
        ("", ServerRefused),
        ("%1\r\n+proto\r\n", ServerRefused),
    ],
)
async def test_server_older_than_redis_6_is_refused(reply: str, kind: type[Exception]) -> None:
    async with impostor(says(reply.encode("latin-1"))) as config:
        assert type(await failure_of(config)) is kind


async def test_connecting_ends_in_time(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(*_: object) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(trio, "open_tcp_stream", never)
    start = trio.current_time()
    assert isinstance(await failure_of(RedisConfig(password=SECRET)), ConnectTimeout)
    assert trio.current_time() - start == 5.0


async def test_silence_after_connecting_ends_in_time() -> None:
    async def silence(stream: trio.SocketStream) -> None:
        await trio.sleep_forever()

    async with impostor(silence) as config:
        quick = RedisConfig(addr=config.addr, password=SECRET, dial_timeout=0.1)
        error = await failure_of(quick)
        assert isinstance(error, ConnectTimeout)
        assert isinstance(error, redis_errors.TimeoutError)
        error = await failure_of(RedisConfig(addr=config.addr, tls=True, dial_timeout=0.1))
        assert isinstance(error, TLSFailure)


def tls_contexts(host: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return the contexts of a server with a certificate for `host`, and of its clients."""
    authority: Any = trustme.CA()
    of_server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(host).configure_cert(of_server)
    of_client = ssl.create_default_context()
    authority.configure_trust(of_client)
    return of_server, of_client


@asynccontextmanager
async def tls_server(context: ssl.SSLContext) -> AsyncGenerator[FaultProxy]:
    async with redis_server() as server, fault_proxy(server.port, context) as proxy:
        yield proxy


async def test_tls_is_verified() -> None:
    of_server, of_client = tls_contexts("127.0.0.1")
    async with tls_server(of_server) as proxy:
        async with opened(RedisConfig(addr=proxy.addr, tls=of_client)) as connection:
            assert await connection.call("ECHO", b"x" * 200_000) == b"x" * 200_000
        url = f"rediss://:{SECRET}@{proxy.addr}"
        error = await failure_of(RedisConfig(url=url))
        assert isinstance(error, TLSFailure)
        assert "certificate" in str(error)
        async with opened(RedisConfig(url=f"rediss://{proxy.addr}?ssl_cert_reqs=none")) as careless:
            assert await careless.call("PING") == b"PONG"


async def test_tls_of_another_host_is_refused() -> None:
    of_server, of_client = tls_contexts("other.example.org")
    async with tls_server(of_server) as proxy:
        error = await failure_of(RedisConfig(addr=proxy.addr, tls=of_client, password=SECRET))
    assert isinstance(error, TLSFailure)
    assert "certificate" in str(error)


async def test_plain_server_behind_rediss() -> None:
    async with redis_server() as server:
        url = f"rediss://:{SECRET}@{server.addr}"
        error = await failure_of(RedisConfig(url=url, dial_timeout=0.3))
    assert isinstance(error, TLSFailure)


@pytest.mark.parametrize("reply", [b"-ERR Protocol error: too big mbulk count\r\n", b""])
async def test_wrong_answer_to_the_tls_handshake_is_refused(reply: bytes) -> None:
    async with impostor(says(reply)) as config:
        error = await failure_of(RedisConfig(url=f"rediss://:{SECRET}@{config.addr}"))
    assert isinstance(error, TLSFailure)
    assert "TLS" in str(error)


async def test_tls_server_behind_redis() -> None:
    of_server, _ = tls_contexts("127.0.0.1")
    async with tls_server(of_server) as proxy:
        error = await failure_of(RedisConfig(url=f"redis://:{SECRET}@{proxy.addr}"))
    assert isinstance(error, (UnsupportedServer, ServerRefused))


async def test_cancelled_call_closes_the_connection() -> None:
    async with redis_server() as server, opened(RedisConfig(addr=server.addr)) as connection:
        with trio.move_on_after(0.05):
            await connection.call("BLPOP", "nothing", 0, timeout=10)
        assert not connection.usable
        with pytest.raises(ConnectionBroken) as caught:
            await connection.call("PING")
        assert not caught.value.maybe_executed


async def test_call_ends_in_time() -> None:
    async with redis_server() as server:
        async with opened(RedisConfig(addr=server.addr, read_timeout=0.05)) as connection:
            assert await connection.call("BLPOP", "nothing", 0.1, timeout=5) is None
            with pytest.raises(ReplyTimeout) as caught:
                await connection.call("BLPOP", "nothing", 0)
        assert caught.value.maybe_executed


async def test_server_that_goes_away_during_a_call() -> None:
    async with redis_server() as server, fault_proxy(server.port) as proxy:
        async with opened(RedisConfig(addr=proxy.addr)) as connection:
            proxy.cut_after(3)
            with pytest.raises(ConnectionBroken, match="closed"):
                await connection.call("PING")
        proxy.pass_on()
        config = RedisConfig(addr=proxy.addr)
        async with opened(config) as connection, trio.open_nursery() as nursery:

            async def ask() -> None:
                with pytest.raises(ConnectionBroken, match="reset"):
                    await connection.call("BLPOP", "nothing", 0, timeout=10)

            nursery.start_soon(ask)
            await wait_all_tasks_blocked(0.01)
            proxy.reset()
        async with opened(RedisConfig(addr=server.addr)) as connection:
            server.kill()
            with pytest.raises(ConnectionBroken):
                await connection.call("PING")


async def test_cancelled_connecting_leaves_nothing_open() -> None:
    async with redis_server() as server:
        for step in range(1, 12):
            with trio.CancelScope() as scope, cancelled_at(step, scope):
                async with opened(RedisConfig(addr=server.addr)):
                    pass
        async with opened(RedisConfig(addr=server.addr)) as connection:
            with trio.fail_after(HANG_SECONDS):
                while (await connection.call("CLIENT", "LIST")).count(b"\n") > 1:
                    await trio.sleep(0.01)
