"""The connection to RabbitMQ: one broker object of FastStream, and two channels on its connection.

`RabbitConnection` is owned by an adapter and used by all modules of this room. One channel serves
publishes, the other one deliveries and their acknowledgements.

Theory of operation: The client of aio-pika reconnects by itself. Its own channels would restore
their exchanges, queues and consumers then, in an order that is not the adapter's. Therefore this
module opens plain channels on the connection of aiormq that lies below, anew after each reconnect,
and calls the adapter's `on_connect` to declare everything on them. Only after that the connection
counts as up.

The server closes a channel when a request on it fails, and returns its unacknowledged messages.
Both channels are then opened again in the same way: this module closes the connection below, and
the client reconnects. When a request is cancelled, the client closes its channel, with the same
consequence. Adapters therefore send their requests by `run_shielded`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from aio_pika import RobustConnection
from aio_pika.exceptions import AMQPError, InvalidFrameError, ProbableAuthenticationError
from faststream.rabbit import RabbitBroker
from pamqp.exceptions import PAMQPException

from goevent import DriverConnectionError, DriverError

from .._adapter.connection import BrokerConnection
from .._adapter.connectivity import (
    DISCONNECT_SECONDS,
    FIRST_CONNECTION_SECONDS,
    REPLY_SECONDS,
)
from .._adapter.contract import AdapterHost
from .._adapter.errors import connection_lost, map_error, no_answer, no_server, not_connected
from .pamqp_patch import tolerate_invalid_properties

RECONNECT_PAUSE_SECONDS = 0.25
HEARTBEAT_SECONDS = 3  # four missed heartbeats reveal a dead connection

# aio-pika and aiormq also raise RuntimeError, for instance on a closed channel.
RABBIT_ERRORS = (AMQPError, PAMQPException, OSError, RuntimeError)


def make_broker(url: str) -> RabbitBroker:
    """Return FastStream's broker for an `amqp://` or `amqps://` URL.

    Raises:
        ValueError: The URL is malformed.
    """
    scheme, _, rest = url.partition("://")
    try:
        if "heartbeat=" not in urlsplit(url).query:
            rest += f"{'&' if '?' in rest else '?'}heartbeat={HEARTBEAT_SECONDS}"
        return RabbitBroker(
            f"{scheme}://{rest}",
            reconnect_interval=RECONNECT_PAUSE_SECONDS,
            logger=None,
            apply_types=False,
        )
    except (TypeError, ValueError):
        # The original error may show the password, so it must not be the cause.
        raise ValueError(
            "RabbitMQ: the URL has to be amqp://user:password@host:port/vhost, with options that "
            "aio-pika knows"
        ) from None


class RabbitConnection(BrokerConnection):
    """The connection of one broker object.

    Args:
        wait_seconds: How long a caller waits for a lost connection, counted from its loss.

    Attributes:
        publish_channel: The channel for publishes, with confirms.
        consume_channel: The channel for deliveries and their acknowledgements.
        on_connect: Called on each new connection to declare exchanges and queues, and to consume;
            then the connection is up.
    """

    publish_channel: Any
    consume_channel: Any

    def __init__(self, broker: RabbitBroker, wait_seconds: float) -> None:
        super().__init__("RabbitMQ", wait_seconds)
        self.broker = broker
        self.on_connect: Callable[[], Awaitable[None]] = _declare_nothing
        self._client_connection: RobustConnection | None = None
        self._starting: asyncio.Task[None] | None = None

    async def open(self, host: AdapterHost) -> None:
        """Start the broker, which connects, and declare everything.

        Raises:
            DriverConnectionError: No server answers, or it rejects the login.
            DriverError: The server refuses a declaration.
        """
        tolerate_invalid_properties()
        self._connectivity.open(host)
        self._client_connection = None
        # FastStream shows its connection only when it is up. The client's connect task ends only
        # when its connection is closed, so `close` needs this object even if nothing ever answers.
        broker: Any = self.broker
        broker._connection_kwargs["connection_class"] = self._make_client_connection
        self._starting = asyncio.get_running_loop().create_task(self.broker.start())
        await asyncio.wait({self._starting}, timeout=FIRST_CONNECTION_SECONDS)
        if not self._starting.done():
            raise no_server("RabbitMQ", FIRST_CONNECTION_SECONDS)
        try:
            self._starting.result()
            connection = self._connected
            connection.close_callbacks.add(self._on_closed)
            connection.reconnect_callbacks.add(self._on_reconnected)
            await self._set_up()
        except RABBIT_ERRORS as error:
            raise to_driver_error(error) from error

    def _make_client_connection(self, *args: Any, **kwargs: Any) -> RobustConnection:
        self._client_connection = RobustConnection(*args, **kwargs)
        return self._client_connection

    @property
    def _connected(self) -> Any:
        if self._client_connection is None:
            raise not_connected("RabbitMQ")
        return self._client_connection

    async def open_channel(self, *, confirms: bool) -> Any:
        """Return a new channel; it is lost with the connection."""
        transport = self._connected.transport
        if transport is None:
            raise connection_lost("RabbitMQ")
        return await transport.connection.channel(
            publisher_confirms=confirms, on_return_raises=False
        )

    async def _set_up(self) -> None:
        async with asyncio.timeout(REPLY_SECONDS):
            self.publish_channel = await self.open_channel(confirms=True)
            self.consume_channel = await self.open_channel(confirms=False)
            await self.on_connect()
        for channel in (self.publish_channel, self.consume_channel):
            channel.closing.add_done_callback(self._on_channel_closed)
        self._connectivity.mark_up()

    async def close(self) -> None:
        """Disconnect, whether there is a connection or not."""
        self._connectivity.close()
        starting, self._starting = self._starting, None
        connection, self._client_connection = self._client_connection, None
        broker: Any = self.broker
        self._tasks.cancel()
        try:
            if self.is_up:
                async with asyncio.timeout(DISCONNECT_SECONDS):
                    await broker.stop()
        except (TimeoutError, *RABBIT_ERRORS):
            # The server sees the socket close. Errors of the connection were reported before.
            pass
        finally:
            self._connectivity.mark_down()
            # FastStream drops these only after an orderly stop, and would use them again.
            broker._connection, broker._channel = None, None
            broker.config.disconnect()
            if connection is not None:
                with suppress(TimeoutError, *RABBIT_ERRORS):
                    async with asyncio.timeout(DISCONNECT_SECONDS):
                        await connection.close()
            if starting is not None:
                starting.cancel()
                await asyncio.wait({starting})

    # -- callbacks of the client

    def _on_closed(self, *_: Any) -> None:
        self._connectivity.mark_down()

    def _on_reconnected(self, *_: Any) -> None:
        if not self._connectivity.is_closing:
            self.start(self._restore())

    async def _restore(self) -> None:
        try:
            await self._set_up()
        except (TimeoutError, DriverError, *RABBIT_ERRORS) as error:
            if self._connectivity.is_closing or not self._is_open():
                # The connection was lost again; the next reconnect tries again.
                return
            self.host.report(to_driver_error(error))
            await asyncio.sleep(RECONNECT_PAUSE_SECONDS)
            self.start(self._reconnect())

    def _is_open(self) -> bool:
        transport: Any = self._connected.transport
        return transport is not None and not transport.connection.is_closed

    def _on_channel_closed(self, closing: asyncio.Future[Any]) -> None:
        if self._connectivity.is_closing or not self.is_up or not self._is_open():
            return
        error = None if closing.cancelled() else closing.exception()
        # A ConnectionError means that the connection below is closed, and the client reconnects.
        if isinstance(error, Exception) and not isinstance(error, ConnectionError):
            self.host.report(to_driver_error(error))
            self.start(self._reconnect())

    async def _reconnect(self) -> None:
        """Close the connection below the client's, which makes the client reconnect."""
        # The error also ends both channels; `_on_channel_closed` recognises it by its type.
        transport = self._connected.transport
        if transport is not None:
            with suppress(*RABBIT_ERRORS):
                await transport.connection.close(ConnectionError("the channel was closed"))


async def _declare_nothing() -> None:
    """Declare nothing: the adapter set no callback."""


def to_driver_error(error: Exception) -> DriverError:
    """Return the `DriverError` for an error of the client; a `DriverError` is returned as it is."""
    if isinstance(error, TimeoutError):
        refusal: DriverError = no_answer("RabbitMQ", REPLY_SECONDS)
    elif isinstance(error, ProbableAuthenticationError):
        refusal = DriverConnectionError("RabbitMQ: the server rejects the login")
    elif isinstance(error, InvalidFrameError):
        # The client's error when the server closes a connection during the handshake.
        refusal = DriverConnectionError("RabbitMQ: this user has no access to the virtual host")
    else:
        return map_error("RabbitMQ", error, (OSError,))
    refusal.__cause__ = error
    return refusal
