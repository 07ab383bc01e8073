"""One connection to a Redis server: opened, secured by TLS, and logged in.

The link hands a connection to a conversation. The pool lends one to a task, which uses `call`.

The error texts of a refused login are written here and never taken from the server: a server before
Redis 6 answers HELLO with an error that quotes its arguments, with the password among them.
"""

from __future__ import annotations

import math
import os
import ssl
import sys
from collections import deque
from typing import Any, cast

import trio
from redis import exceptions as redis_errors
from trio.lowlevel import wait_readable

from .config import RedisConfig
from .errors import (
    ConnectionBroken,
    ConnectRefused,
    ConnectTimeout,
    LinkClosed,
    NoPermission,
    RedisLinkError,
    ReplyTimeout,
    ServerRefused,
    TLSFailure,
    UnsupportedServer,
    WrongPassword,
    WrongServer,
)
from .replies import is_map
from .resp import Encodable, ReplyReader, pack
from .server import ServerIdentity, check_identity

MAX_READ_BYTES = 1 << 16
"""The size of one read of the socket."""


class RedisConnection:
    """A connection that is logged in; for one task at a time.

    Attributes:
        stream: The socket, with TLS over it if it is configured.
        reader: Turns the bytes of `stream` into frames.
        config: The configuration with which the connection was opened.
        server: The server, as it has described itself.
        usable: False if a request was cancelled or failed. The next reply might be the one to that
            request, so the connection is closed.
    """

    def __init__(self, stream: trio.abc.Stream, reader: ReplyReader, config: RedisConfig) -> None:
        self.stream = stream
        self.reader = reader
        self.config = config
        self.server = ServerIdentity()
        self.usable = True
        self._is_forked = False
        self._replies: deque[Any] = deque()
        # The socket of a stream without TLS, which is written and read past the stream. On Windows,
        # the system cannot write to a socket by its number.
        self._socket: trio.socket.SocketType | None = None
        if sys.platform != "win32" and isinstance(stream, trio.SocketStream):
            self._socket = stream.socket

    def send_now(self, data: bytes) -> int:
        """Send as many bytes as the socket takes at once; return how many, which is 0 over TLS.

        It may be called only while no task sends.
        """
        socket = self._socket
        if socket is None:
            return 0
        try:
            return os.write(socket.fileno(), data)
        except OSError:
            # The buffer is full or the connection is broken. The writer or the reader finds out.
            return 0

    async def receive(self) -> bytes:
        """Wait until bytes have arrived and return them; empty bytes are the end of the stream.

        Always a checkpoint. A cancelled call has taken no bytes.

        Raises:
            trio.BrokenResourceError: The connection is broken.
            trio.ClosedResourceError: This end has closed it.
        """
        socket = self._socket
        if socket is None:
            return bytes(await self.stream.receive_some(MAX_READ_BYTES))
        # `receive_some` would read before it waits. The reader comes back here right after a read,
        # so that read would find nothing: one system call and one exception for each reply.
        while True:
            await wait_readable(socket)
            try:
                # The number of a socket that was closed since is -1, never that of another one.
                return os.read(socket.fileno(), MAX_READ_BYTES)
            except BlockingIOError:
                continue  # Trio may wake a task although nothing has arrived
            except OSError as error:
                raise trio.BrokenResourceError(f"socket connection broken: {error}") from error

    async def call(self, *args: Encodable, timeout: float | None = None) -> Any:
        """Send a command and return its reply; push frames that come meanwhile are dropped.

        Cancellation closes the connection. The server may have executed the command, and the next
        command would get its reply.

        Args:
            args: The command.
            timeout: Seconds until the reply; `RedisConfig.read_timeout` if None. Blocking commands
                need more than they block for.

        Raises:
            redis.exceptions.ResponseError: The server answers with an error.
            ConnectionBroken: The connection broke before the reply; `maybe_executed` tells if the
                server may have executed the command.
            ReplyTimeout: The reply did not come in time.
        """
        (reply,) = await self.call_many(args, timeout=timeout)
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def call_many(
        self, *commands: tuple[Encodable, ...], timeout: float | None = None
    ) -> list[Any]:
        """Send commands in one piece and return their replies; error replies are returned, too."""
        data = b"".join(map(pack, commands))
        self._check_process()
        if not self.usable:
            raise ConnectionBroken("the connection is closed", maybe_executed=False)
        limit = self.config.read_timeout if timeout is None else timeout
        # Until all replies are here, so that a cancelled call leaves it False.
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
            self._check_process()
            raise broken_connection(self.config, error) from error

    async def _reply(self) -> Any:
        while not self._replies:
            # A fork may have closed the socket while this task was about to wait for it. Trio
            # cannot wait for a closed socket.
            self._check_process()
            try:
                chunk = await self.receive()
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                self._check_process()
                raise broken_connection(self.config, error) from error
            if not chunk:
                raise broken_connection(self.config, None)
            pushed = self.reader.push_type
            frames = self.reader.read(chunk)
            self._replies += (frame for frame in frames if not isinstance(frame, pushed))
            if self.reader.failure is not None and not self._replies:
                raise self.reader.failure
        return self._replies.popleft()

    async def aclose(self) -> None:
        """Close the connection at once, without waiting for the server."""
        self.usable = False
        await _close(self.stream)

    def is_readable(self) -> bool:
        """Tell whether the socket has bytes, or the end of the stream, to read at once."""
        socket = _socket_of(self.stream)
        return socket is not None and socket.is_readable()

    def fork(self) -> None:
        """Use the connection no more: this process is a fork of the one that owns it.

        A task that waits for a reply would take it from the parent, so its wait fails. The server
        notices nothing, because the parent has a descriptor of its own for the same connection.
        """
        self.usable, self._is_forked = False, True
        _close_copy(self.stream)

    def _check_process(self) -> None:
        if self._is_forked:
            raise LinkClosed("the connection belongs to the parent of this process")


def broken_connection(config: RedisConfig, error: BaseException | None) -> ConnectionBroken:
    """Return the error for a connection that failed with `error`, or that the server closed."""
    if error is None:
        return ConnectionBroken(f"{config.where()} closed the connection")
    return ConnectionBroken(f"the connection to {config.where()} broke: {_root_cause(error)}")


class Opening:
    """A connection that is being opened by a task; a fork copies it with the task."""

    def __init__(self) -> None:
        self._stream: trio.abc.Stream | None = None
        self._is_forked = False

    def connected(self, stream: trio.abc.Stream) -> None:
        """Note the stream.

        Raises:
            LinkClosed: The process was forked while it was connecting.
        """
        self.check_process()
        self._stream = stream

    def fork(self) -> None:
        """Open it no further: this process is a fork of the one that owns it."""
        self._is_forked = True
        if self._stream is not None:
            _close_copy(self._stream)

    def check_process(self) -> None:
        """Refuse to go on in a fork.

        Raises:
            LinkClosed: This is a fork of the process that began to open the connection.
        """
        if self._is_forked:
            raise LinkClosed("the connection belongs to the parent of this process")


async def open_connection(config: RedisConfig, opening: Opening | None = None) -> RedisConnection:
    """Open a connection: connect, verify the certificate, log in and select the database.

    A cancelled call closes everything that it had opened.

    Args:
        config: The address of the server and the login.
        opening: Learns the stream, so that a fork can close its copy of it.

    Raises:
        LinkClosed: The process was forked meanwhile, and this is the fork.
        ConnectRefused: Nothing answers at the address.
        ConnectTimeout: The connection was not ready within `RedisConfig.dial_timeout`.
        TLSFailure: The certificate does not verify, or the server does not speak TLS.
        WrongPassword: The server refuses the login, or requires one.
        NoPermission: The user lacks a right that opening a connection needs.
        UnsupportedServer: The server is not a Redis server, or has no RESP3.
        ServerRefused: The server takes no connection now, or has no such database.
        WrongServer: The server has no such database, because it is one of a cluster or a sentinel.
    """
    opening = opening or Opening()
    try:
        return await _open(config, opening)
    except (RedisLinkError, trio.ClosedResourceError):
        # In a fork the socket is closed, so opening fails in one way or another.
        opening.check_process()
        raise


async def _open(config: RedisConfig, opening: Opening) -> RedisConnection:
    timed_out: RedisLinkError = ConnectTimeout(
        f"no connection to {config.where()} within {config.dial_timeout:g} s"
    )
    with trio.move_on_after(config.dial_timeout):
        stream = await _connect(config)
        finished = False
        try:
            opening.connected(stream)
            context = config.ssl_context()
            if context is not None:
                # A Redis server without TLS may take the handshake for a command, and wait for
                # the end of it.
                timed_out = TLSFailure(
                    f"{config.where()} did not answer the TLS handshake within "
                    f"{config.dial_timeout:g} s; a server without TLS does that"
                )
                stream = await _start_tls(stream, context, config)
                timed_out = ConnectTimeout(f"{config.where()} did not answer the login in time")
            connection = RedisConnection(stream, ReplyReader(config.max_reply_size), config)
            await _log_in(connection)
            finished = True
            return connection
        finally:
            if not finished:
                await _close(stream)
    raise timed_out


def _socket_of(stream: trio.abc.Stream) -> trio.socket.SocketType | None:
    """Return the socket below a stream and its TLS; None if the stream has none."""
    if isinstance(stream, trio.SSLStream):
        return _socket_of(cast("trio.SSLStream[trio.abc.Stream]", stream).transport_stream)
    return stream.socket if isinstance(stream, trio.SocketStream) else None


def _close_copy(stream: trio.abc.Stream) -> None:
    """Close the copy of a stream that a fork has made; the server notices nothing."""
    socket = _socket_of(stream)
    # In another thread than that of the run loop no task waits, and none ever runs again.
    if socket is not None and trio.lowlevel.in_trio_run():
        socket.close()


async def _close(stream: trio.abc.Stream) -> None:
    # Shielded: otherwise it would raise Cancelled before the caller has closed everything. Forced:
    # the TLS close_notify could take for ever.
    with trio.CancelScope(shield=True):
        await trio.aclose_forcefully(stream)


async def _connect(config: RedisConfig) -> trio.abc.Stream:
    try:
        if config.path is not None:
            return await trio.open_unix_socket(config.path)
        host, port = config.host_and_port()
        return await trio.open_tcp_stream(host, port)
    except (OSError, UnicodeError) as error:
        raise ConnectRefused(f"cannot connect to {config.where()}: {_root_cause(error)}") from error


async def _start_tls(
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
            text = f"the TLS handshake with {config.where()} failed: {cause.reason}"
        else:
            text = f"{config.where()} ended the TLS handshake; a server without TLS does that"
        raise TLSFailure(text) from error
    return secure


async def _log_in(connection: RedisConnection) -> None:
    """Switch to RESP3, log in and select the database, all in one round trip."""
    config = connection.config
    failure: RedisLinkError | None = None
    try:
        hello, *select_replies = await connection.call_many(*_login(config), timeout=math.inf)
    except RedisLinkError as error:
        # Only the class of the error is used: its text may quote the password.
        broken = error.__cause__
        if broken is not None and isinstance(broken.__cause__, ssl.SSLError):
            # With TLS 1.3 a server refuses the client's certificate only after the handshake.
            failure = TLSFailure(f"{config.where()} ended TLS: {broken.__cause__.reason}")
            failure.__cause__ = broken.__cause__
        elif isinstance(error, ConnectionBroken):
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
        else:
            connection.server = ServerIdentity.from_hello(hello)
            if select_replies and isinstance(select_replies[0], Exception):
                failure = _select_refusal(connection, select_replies[0])
    # Outside of `except`, so that the server's error is not in the exception chain.
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
    """Return the error for an error reply to HELLO, without any text of the reply."""
    where, text = config.where(), str(reply)
    if isinstance(reply, redis_errors.AuthenticationError):
        if config.password is None:
            return WrongPassword(f"{where} requires a password")
        return WrongPassword(f"{where} refuses the user name or the password")
    if isinstance(reply, redis_errors.NoPermissionError):
        return NoPermission(f"{where} forbids HELLO to this user")
    if isinstance(reply, (redis_errors.BusyLoadingError, redis_errors.MasterDownError)):
        return ServerRefused(f"{where} is not ready: it loads its data or has lost its master")
    if text.startswith("max number of clients"):
        return ServerRefused(f"{where} has reached its maximum number of clients")
    if text.startswith("DENIED"):
        return ServerRefused(f"{where} is in protected mode and serves only its own machine")
    return UnsupportedServer(f"{where} does not speak RESP3, which needs Redis 6.0 or newer")


def _select_refusal(connection: RedisConnection, reply: Exception) -> RedisLinkError:
    """Return the error for an error reply to SELECT."""
    config = connection.config
    where = config.where()
    if isinstance(reply, redis_errors.NoPermissionError):
        return NoPermission(f"{where} forbids SELECT {config.db} to this user")
    try:
        # Neither a cluster nor a sentinel has numbered databases, which is not the point then.
        check_identity(connection.server, where)
    except WrongServer as error:
        return error
    return ServerRefused(f"{where}: SELECT {config.db}: {reply}")


def _root_cause(error: BaseException) -> str:
    """Return the text of the innermost cause, which is the one that people can act on."""
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, BaseExceptionGroup):
        several = cast("BaseExceptionGroup[BaseException]", error).exceptions
        return "; ".join(dict.fromkeys(map(_root_cause, several)))
    return str(error) or type(error).__name__
