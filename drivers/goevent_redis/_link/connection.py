"""One connection to a Redis server: dialled, secured, logged in, and asked one thing at a time.

The texts of refused logins are ours, never the server's: a server before Redis 6 answers HELLO with
an error that quotes its arguments, the password among them.
"""

from __future__ import annotations

import math
import os
import ssl
from collections import deque
from typing import Any, cast

import trio
from redis import exceptions as redis_errors

from .config import RedisConfig
from .errors import (
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
from .replies import is_map
from .resp import Encodable, Reader, make_reader, pack

READ_SIZE = 1 << 16


class Connection:
    """A connection that is logged in; used by one task at a time.

    Attributes:
        stream: The bytes.
        reader: Turns what `stream` receives into frames.
        usable: False if a request was cancelled or failed, so that replies may be out of step; the
            connection is then only good for closing.
    """

    def __init__(self, stream: trio.abc.Stream, reader: Reader, config: RedisConfig) -> None:
        self.stream = stream
        self.reader = reader
        self.config = config
        self.usable = True
        self._replies: deque[Any] = deque()

    def send_now(self, data: bytes) -> int:
        """Send what can be sent without waiting; returns how many bytes, none over TLS.

        Only while no task sends. That the connection is broken is for the next one to find out.
        """
        stream = self.stream
        if not isinstance(stream, trio.SocketStream):
            return 0
        try:
            return os.write(stream.socket.fileno(), data)
        except OSError:
            return 0

    async def call(self, *args: Encodable, timeout: float | None = None) -> Any:
        """Send a command and return its reply; push frames meanwhile are dropped.

        Cancellation closes the connection, because the server may have carried out the command and
        its reply would be taken for that of the next one.

        Args:
            timeout: Seconds until the reply; `RedisConfig.read_timeout` if None. Blocking commands
                need more than they block for.

        Raises:
            redis.exceptions.ResponseError: The server answers with an error.
            ConnectionBroken: There will be no reply; `maybe_executed` tells whether it matters.
            ReplyTimeout: There was none in time.
        """
        (reply,) = await self.call_many(args, timeout=timeout)
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def call_many(
        self, *commands: tuple[Encodable, ...], timeout: float | None = None
    ) -> list[Any]:
        """Send commands at once and return their replies; error replies are returned, too."""
        data = b"".join(map(pack, commands))
        if not self.usable:
            raise ConnectionBroken("the connection is closed", maybe_executed=False)
        limit = self.config.read_timeout if timeout is None else timeout
        self.usable = False
        try:
            with trio.move_on_after(limit):
                await self._send(data)
                replies = [await self._reply() for _ in commands]
                self.usable = True
                return replies
        finally:
            if not self.usable:
                await self.aclose()
        raise ReplyTimeout(f"{self.config.where()} did not reply within {limit:g} s")

    async def _send(self, data: bytes) -> None:
        try:
            await self.stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise broken(self.config, error) from error

    async def _reply(self) -> Any:
        while not self._replies:
            try:
                chunk = await self.stream.receive_some(READ_SIZE)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise broken(self.config, error) from error
            if not chunk:
                raise broken(self.config, None)
            pushed = self.reader.push_type
            frames = self.reader.read(bytes(chunk))
            self._replies += (frame for frame in frames if not isinstance(frame, pushed))
            if self.reader.failure is not None and not self._replies:
                raise self.reader.failure
        return self._replies.popleft()

    async def aclose(self) -> None:
        """Close at once; there is nothing to say to the server that could take time."""
        self.usable = False
        await _close(self.stream)


def broken(config: RedisConfig, error: BaseException | None) -> ConnectionBroken:
    """Return the error for a connection that ended with `error`, or by the server's closing it."""
    if error is None:
        return ConnectionBroken(f"{config.where()} closed the connection")
    return ConnectionBroken(f"the connection to {config.where()} broke: {_cause(error)}")


async def open_connection(config: RedisConfig) -> Connection:
    """Return a new connection: dialled, TLS verified, logged in, database selected.

    Cancellation leaves nothing behind.

    Raises:
        ConnectRefused: Nothing answers there.
        ConnectTimeout: It was not ready within `RedisConfig.dial_timeout`.
        TLSFailure: The certificate does not verify, or the server does not speak TLS.
        WrongPassword: The server refuses the login, or wants one.
        NoPermission: The user may not do what opening needs.
        UnsupportedServer: It is no Redis server, or one without RESP3.
        ServerRefused: It takes no connection now, or has no such database.
    """
    timed_out: RedisLinkError = ConnectTimeout(
        f"no connection to {config.where()} within {config.dial_timeout:g} s"
    )
    with trio.move_on_after(config.dial_timeout):
        stream = await _dial(config)
        finished = False
        try:
            context = config.ssl_context()
            if context is not None:
                # A plain Redis server may wait for more of what it takes for a command.
                timed_out = TLSFailure(
                    f"{config.where()} did not answer the TLS handshake within "
                    f"{config.dial_timeout:g} s; a server without TLS does that"
                )
                stream = await _secure(stream, context, config)
                timed_out = ConnectTimeout(f"{config.where()} did not answer the login in time")
            connection = Connection(stream, make_reader(config.max_reply_size), config)
            await _log_in(connection)
            finished = True
            return connection
        finally:
            if not finished:
                await _close(stream)
    raise timed_out


async def _close(stream: trio.abc.Stream) -> None:
    # Shielded, or it would raise Cancelled and keep the caller from closing the next one. Forced,
    # so that it does not wait for anything.
    with trio.CancelScope(shield=True):
        await trio.aclose_forcefully(stream)


async def _dial(config: RedisConfig) -> trio.abc.Stream:
    try:
        if config.path is not None:
            return await trio.open_unix_socket(config.path)
        host, port = config.host_and_port()
        return await trio.open_tcp_stream(host, port)
    except (OSError, UnicodeError) as error:
        raise ConnectRefused(f"cannot connect to {config.where()}: {_cause(error)}") from error


async def _secure(
    stream: trio.abc.Stream, context: ssl.SSLContext, config: RedisConfig
) -> trio.abc.Stream:
    host, _ = config.host_and_port()
    secure = trio.SSLStream(stream, context, server_hostname=host, https_compatible=True)
    try:
        await secure.do_handshake()
    except trio.BrokenResourceError as error:
        cause = error.__cause__
        if isinstance(cause, ssl.SSLCertVerificationError):
            text = f"the certificate of {config.where()} is not valid: {cause.verify_message}"
        elif isinstance(cause, ssl.SSLError) and cause.reason:
            text = f"{config.where()} does not speak TLS as we do: {cause.reason}"
        else:
            text = f"{config.where()} ended the TLS handshake; a server without TLS does that"
        raise TLSFailure(text) from error
    return secure


async def _log_in(connection: Connection) -> None:
    """Switch to RESP3, log in and select the database, all in one round trip."""
    config = connection.config
    failure: RedisLinkError | None = None
    try:
        hello, *selected = await connection.call_many(*_login(config), timeout=math.inf)
    except RedisLinkError as error:
        # Of the error only its kind: what a server says here may quote the password.
        if isinstance(error, ConnectionBroken):
            failure = ServerRefused(f"{config.where()} closed the connection during the login")
        else:
            failure = UnsupportedServer(
                f"{config.where()} does not answer as a Redis server; is it one with TLS, which "
                "is addressed by rediss://?"
            )
    else:
        if isinstance(hello, Exception):
            failure = _refusal(config, hello)
        elif not is_map(hello) or hello.get(b"proto") != 3:
            failure = UnsupportedServer(f"{config.where()} does not speak RESP3")
        elif selected and isinstance(selected[0], redis_errors.NoPermissionError):
            failure = NoPermission(f"{config.where()} forbids SELECT {config.db} to this user")
        elif selected and isinstance(selected[0], Exception):
            failure = ServerRefused(f"{config.where()}: SELECT {config.db}: {selected[0]}")
    # Outside of `except`: what the server said to a login must not be in the chain.
    if failure is not None:
        raise failure


def _login(config: RedisConfig) -> list[tuple[Encodable, ...]]:
    hello: tuple[Encodable, ...] = ("HELLO", 3)
    if config.username is not None or config.password is not None:
        hello += ("AUTH", config.username or "default", config.password or "")
    if config.client_name is not None:
        hello += ("SETNAME", config.client_name)
    return [hello, ("SELECT", config.db)] if config.db else [hello]


def _refusal(config: RedisConfig, reply: Exception) -> RedisLinkError:
    """Return what an error reply to HELLO means, without a word of it."""
    where, said = config.where(), str(reply)
    if isinstance(reply, redis_errors.AuthenticationError):
        if config.password is None:
            return WrongPassword(f"{where} wants a password")
        return WrongPassword(f"{where} refuses the user name or the password")
    if isinstance(reply, redis_errors.NoPermissionError):
        return NoPermission(f"{where} forbids HELLO to this user")
    if isinstance(reply, (redis_errors.BusyLoadingError, redis_errors.MasterDownError)):
        return ServerRefused(f"{where} is not ready: it loads its data or has lost its master")
    if said.startswith("max number of clients"):
        return ServerRefused(f"{where} has reached its maximum number of clients")
    if said.startswith("DENIED"):
        return ServerRefused(f"{where} is in protected mode and serves only its own machine")
    return UnsupportedServer(f"{where} does not speak RESP3, which needs Redis 6.0 or newer")


def _cause(error: BaseException) -> str:
    """Return the innermost reason, which is the one that people can act on."""
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, BaseExceptionGroup):
        several = cast("BaseExceptionGroup[BaseException]", error).exceptions
        return "; ".join(dict.fromkeys(map(_cause, several)))
    return str(error) or type(error).__name__
