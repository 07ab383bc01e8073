"""Servers that read the login of a client and refuse it: AMQP and Kafka, whose own are heavy."""

from __future__ import annotations

import struct
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial

import trio
from pamqp import commands, frame

from tests.support.redis_server import free_port

Login = tuple[str, str]


@asynccontextmanager
async def amqp_login_server() -> AsyncGenerator[tuple[int, list[Login]]]:
    """Yield a port, and the logins that clients have sent to it."""
    logins: list[Login] = []

    async def serve(stream: trio.SocketStream) -> None:
        await read(stream, 8)
        start = commands.Connection.Start(
            server_properties={"capabilities": {"authentication_failure_close": True}}
        )
        await stream.send_all(frame.marshal(start, 0))
        head = await read(stream, 7)
        (size,) = struct.unpack(">I", head[3:7])
        _, _, reply = frame.unmarshal(head + await read(stream, size + 1))
        assert isinstance(reply, commands.Connection.StartOk)
        logins.append(plain_login(reply.response or ""))
        close = commands.Connection.Close(403, "ACCESS_REFUSED - login refused", 0, 0)
        await stream.send_all(frame.marshal(close, 0))
        await stream.receive_some(100)

    async with serving(serve) as port:
        yield port, logins


@asynccontextmanager
async def kafka_login_server() -> AsyncGenerator[tuple[int, list[Login]]]:
    """Yield a port, and the logins by SASL PLAIN that clients have sent to it."""
    logins: list[Login] = []

    async def serve(stream: trio.SocketStream) -> None:
        while True:
            (size,) = struct.unpack(">i", await read(stream, 4))
            request = await read(stream, size)
            api, version, correlation, client = struct.unpack(">hhih", request[:10])
            body = request[10 + max(0, client) :]
            if api == 18:  # ApiVersions: only the oldest form of it
                apis = ((3, 0, 1), (17, 0, 1), (18, 0, 0), (36, 0, 0))
                answer = struct.pack(">hi", 35 if version else 0, len(apis))
                answer += b"".join(struct.pack(">hhh", *each) for each in apis)
            elif api == 17:  # SaslHandshake
                answer = struct.pack(">hih5s", 0, 1, 5, b"PLAIN")
            else:  # SaslAuthenticate
                logins.append(plain_login(body[4:].decode()))
                text = b"login refused"
                answer = struct.pack(f">hh{len(text)}si", 58, len(text), text, 0)
            await stream.send_all(struct.pack(">ii", 4 + len(answer), correlation) + answer)

    async with serving(serve) as port:
        yield port, logins


def plain_login(response: str) -> Login:
    """Return the user and the password in a response of SASL PLAIN."""
    _, user, password = response.split("\0")
    return user, password


async def read(stream: trio.SocketStream, count: int) -> bytes:
    """Read an exact number of bytes."""
    data = bytearray()
    while len(data) < count:
        more = await stream.receive_some(count - len(data))
        if not more:
            raise trio.BrokenResourceError
        data += more
    return bytes(data)


@asynccontextmanager
async def serving(serve: Callable[[trio.SocketStream], Awaitable[None]]) -> AsyncGenerator[int]:
    """Serve connections on a port while the body runs."""

    async def handle(stream: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await serve(stream)
        await trio.aclose_forcefully(stream)

    port = free_port()
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(trio.serve_tcp, handle, port, host="127.0.0.1"))
        yield port
        nursery.cancel_scope.cancel()
