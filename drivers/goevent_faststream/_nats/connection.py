"""The connection to NATS: one broker object of FastStream, as long as the bus is open.

`NatsConnection` is owned by an adapter and used by all modules of this room. The client of nats-py
reconnects by itself and restores its subscriptions; this module records when it does. Requests that
wait for a reply of a lost connection would wait for ever, so they are cancelled with it.

Two defects of the client are patched for each connection, at the end of this file.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from faststream.nats import NatsBroker
from nats import errors
from nats.aio.transport import TcpTransport

from goevent import DriverConnectionError, DriverError

from .._adapter.connection import BrokerConnection
from .._adapter.connectivity import (
    FIRST_CONNECTION_SECONDS,
    REPLY_SECONDS,
)
from .._adapter.contract import AdapterHost
from .._adapter.errors import connection_lost, map_error, no_answer, no_server, not_connected

T = TypeVar("T")

MAX_MESSAGE_BYTES = 1_000_000  # the server's default is 1 MiB, headers included

RECONNECT_PAUSE_SECONDS = 0.25
PING_PAUSE_SECONDS = 5  # a PING that stays unanswered reveals a dead connection
DRAIN_SECONDS = 0.8

UNREACHABLE_ERRORS = (
    errors.ConnectionClosedError,
    errors.ConnectionReconnectingError,
    errors.NoServersError,
    errors.StaleConnectionError,
    errors.TimeoutError,
    OSError,
)


def make_broker(url: str) -> NatsBroker:
    """Return FastStream's broker for a `nats://` URL."""
    return NatsBroker(
        f"nats://{url.partition('://')[2] or 'localhost'}",
        reconnect_time_wait=RECONNECT_PAUSE_SECONDS,  # type: ignore[arg-type]  # it may be a float
        max_reconnect_attempts=-1,
        ping_interval=PING_PAUSE_SECONDS,
        logger=None,
        apply_types=False,
    )


class NatsConnection(BrokerConnection):
    """The connection of one broker object.

    Args:
        wait_seconds: How long a caller waits for a lost connection, counted from its loss.

    Attributes:
        losses: How often the connection was lost.
        on_down: Called when the connection is lost.
        on_up: Called when the connection is back, with all its subscriptions.
    """

    def __init__(self, broker: NatsBroker, wait_seconds: float) -> None:
        super().__init__("NATS", wait_seconds)
        self.broker = broker
        self.losses = 0
        self.on_down: Callable[[], object] = _do_nothing
        self.on_up: Callable[[], object] = _do_nothing
        self._client: Any = None
        self._starting: asyncio.Task[None] | None = None

    @property
    def client(self) -> Any:
        """The client of nats-py; untyped, since much of what this room uses has no types.

        Raises:
            DriverConnectionError: The bus is not open.
        """
        if self._client is None:
            raise not_connected("NATS")
        return self._client

    @property
    def is_up(self) -> bool:
        """True while there is a connection; the client buffers a publish while there is none."""
        return self._connectivity.is_up and bool(self.client.is_connected)

    async def open(self, host: AdapterHost) -> None:
        """Start the broker, which connects.

        Raises:
            DriverConnectionError: No server answers, or it rejects the login.
        """
        self._connectivity.open(host)
        # Cancelling the task would leave its socket open. It may finish late; `close` ends it.
        self._starting = asyncio.get_running_loop().create_task(self.broker.start())
        await asyncio.wait({self._starting}, timeout=FIRST_CONNECTION_SECONDS)
        if not self._starting.done():
            raise no_server("NATS", FIRST_CONNECTION_SECONDS)
        try:
            self._starting.result()
        except (errors.Error, OSError) as error:
            raise to_driver_error(error) from error
        self._client = client = self.broker.connection
        self._add_callbacks(client)
        _use_plain_writes(client)
        _tolerate_undecodable_messages(client)
        self._connectivity.mark_up()

    def _add_callbacks(self, client: Any) -> None:
        """Add this connection's callbacks to those that the broker was configured with."""
        client._disconnected_cb = _call_both(self._on_disconnected, client._disconnected_cb)
        client._reconnected_cb = _call_both(self._on_reconnected, client._reconnected_cb)
        client._closed_cb = _call_both(self._on_closed, client._closed_cb)
        client._error_cb = _call_both(self._on_error, client._error_cb)

    async def close(self) -> None:
        """Disconnect, whether there is a connection or not."""
        self._connectivity.close()
        broker: Any = self.broker
        starting, self._starting = self._starting, None
        if starting is not None and not starting.done():
            await asyncio.wait({starting}, timeout=DRAIN_SECONDS / 2)
            starting.cancel()
        client, self._client = broker._connection, None
        try:
            if client is not None and not client.is_connected:
                # `stop` drains the client, which needs a connection.
                await client.close()
            async with asyncio.timeout(DRAIN_SECONDS):
                await self.broker.stop()
        except (TimeoutError, errors.Error, OSError, ExceptionGroup):
            # The server sees the socket close. Errors of the connection were reported before.
            pass
        finally:
            self._tasks.cancel()
            # FastStream drops its connection only after an orderly stop, and would use it again.
            broker._connection = None
            broker.config.disconnect()
            if client is not None and not client.is_closed:
                with suppress(errors.Error, OSError):
                    await client.close()

    async def wait_until_up(self, *, timeout: float | None = None) -> None:
        """Wait until there is a connection."""
        if self._connectivity.is_up and not self.client.is_connected:
            # The client calls back a moment after it notices the loss. A publish in between would
            # go into its buffer.
            await self._on_disconnected()
        await super().wait_until_up(timeout=timeout)

    async def run_while_connected(self, request: Coroutine[Any, Any, T]) -> T:
        """Await a request until its reply comes or the connection is lost.

        If the caller is cancelled, the request goes on: when a wait for a PONG is cancelled, the
        client's reader fails at the next PONG.

        Raises:
            DriverConnectionError: The connection was lost; the server may have got the request.
        """
        return await self.run_shielded(request)

    async def flush(self) -> None:
        """Return when the server has taken everything that was sent before.

        Raises:
            DriverConnectionError: The connection was lost, or the server does not answer.
        """
        losses = self.losses
        try:
            await self.run_while_connected(self.client.flush(timeout=REPLY_SECONDS))
        except errors.FlushTimeoutError as error:
            # TCP may take minutes to notice that a silent server is gone.
            await self.client.force_reconnect()
            raise no_answer("NATS", REPLY_SECONDS) from error
        # If its reader has ended, the client returns at once, without a PONG.
        if losses != self.losses or not self.client.is_connected:
            raise connection_lost("NATS")

    # -- callbacks of the client

    async def _on_disconnected(self, *_: Any) -> None:
        if not self._connectivity.mark_down():
            return
        self.losses += 1
        self._tasks.cancel()
        self.on_down()

    async def _on_reconnected(self, *_: Any) -> None:
        if self._connectivity.is_closing or self._connectivity.is_up:
            return
        self._connectivity.mark_up()
        self.on_up()

    async def _on_closed(self, *_: Any) -> None:
        if not self._connectivity.is_closing:
            self.host.fail(DriverConnectionError("NATS: the client has given up reconnecting"))

    async def _on_error(self, error: Exception) -> None:
        if isinstance(error, errors.SlowConsumerError):
            subject = getattr(error, "subject", "")
            text = f"NATS: a message of {subject!r} is lost, since too many are waiting already"
            self.host.report(DriverError(text))
            return
        # The client also passes the errors of its reconnect attempts to this callback.
        is_expected = self._connectivity.is_closing or not self._connectivity.is_up
        if not is_expected and not isinstance(error, OSError):
            self.host.report(to_driver_error(error))


def to_driver_error(error: Exception) -> DriverError:
    """Return the `DriverError` for an error of nats-py; a `DriverError` is returned as it is."""
    text = str(error).removeprefix("nats: ")
    return map_error("NATS", error, UNREACHABLE_ERRORS, text=text)


def _call_both(
    first: Callable[..., Awaitable[None]], second: Callable[..., Awaitable[object]] | None
) -> Callable[..., Awaitable[None]]:
    async def call(*args: Any) -> None:
        await first(*args)
        if second is not None:
            await second(*args)

    return call


def _do_nothing() -> None:
    """Do nothing: the adapter set no callback."""


# -- patches of the client


def _use_plain_writes(client: Any) -> None:
    """Make the client notice a lost connection as an `OSError` of its next `drain`.

    Since Python 3.12, `writelines` of asyncio raises an `AttributeError` or a `TypeError` on a lost
    connection, and `write` does not: https://github.com/python/cpython/issues/136234
    """
    transport = client._transport  # the client keeps this object for all its connections
    if isinstance(transport, TcpTransport):
        stream: Any = transport

        def write(lines: Sequence[bytes]) -> None:
            stream.write(b"".join(lines))

        stream.writelines = write


def _tolerate_undecodable_messages(client: Any) -> None:
    """Make the client accept a message whose subject or headers it cannot decode.

    Without this, the client's reader ends silently at such a message, from any sender, and the bus
    receives nothing until a PING stays unanswered.
    """
    process_headers, process_message = client._process_headers, client._process_msg

    async def headers_or_none(data: bytes) -> dict[str, str] | None:
        try:
            headers: dict[str, str] | None = await process_headers(data)
        except (ValueError, LookupError):
            return None
        return headers

    async def process(sid: int, subject: bytes, *rest: bytes) -> None:
        if not subject.isascii():
            subject = subject.decode(errors="replace").encode()
        await process_message(sid, subject, *rest)

    client._process_headers, client._process_msg = headers_or_none, process
