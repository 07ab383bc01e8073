"""One connection to the server of RabbitMQ, which reconnects by itself.

`RabbitConnection` owns two links: one for publishes, the other one for everything else. A link
records whether its connection is up, and whether the server has blocked it.

Theory of operation: The client of aio-pika reconnects by itself. Its own channels would restore
their exchanges, queues and consumers then, in an order that is not the adapter's. Therefore a link
opens plain channels on the connection of aiormq that lies below, anew after each reconnect, and
calls `on_connect` to set them up. Only after that the link counts as up.

A server that is low on memory or disk stops reading from each connection that publishes, and says
so once, with `connection.blocked`. It goes on to read from the other connections. The client does
not show this notification, so the link replaces the client's handler for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any

from aio_pika import RobustConnection
from aiormq.exceptions import ConnectionClosed

from goevent import DriverError

from .._adapter.connection import BrokerConnection
from .._adapter.connectivity import DISCONNECT_SECONDS, FIRST_CONNECTION_SECONDS, REPLY_SECONDS
from .._adapter.contract import AdapterHost
from .._adapter.errors import connection_lost, no_server, not_connected
from .errors import RABBIT_ERRORS, is_refused_connection, to_driver_error

RECONNECT_PAUSE_SECONDS = 0.25
REFUSED_PAUSE_SECONDS = 5.0  # until a login that the server refused is tried again

MakeConnection = Callable[..., RobustConnection]
Connect = Callable[[MakeConnection], Coroutine[Any, Any, object]]


class RabbitLink(BrokerConnection):
    """One of the connections of a bus.

    Args:
        wait_seconds: How long a caller waits for a lost or blocked connection.

    Attributes:
        on_connect: Called on each new connection to set it up; then it is up.
        on_refused: Called with the error of each reconnect that fails.
        on_blocked: Called with the server's reason when it blocks the connection, and with None
            when it reads from it again.
        blocked_reason: The server's reason while it has blocked the connection, or None.
    """

    def __init__(self, wait_seconds: float) -> None:
        super().__init__("RabbitMQ", wait_seconds)
        self.on_connect: Callable[[], Awaitable[None]] = _do_nothing
        self.on_refused: Callable[[DriverError], object] = _ignore
        self.on_blocked: Callable[[str | None], object] = _ignore
        self.blocked_reason: str | None = None
        # Each set while the link is in that state.
        self._blocked = asyncio.Event()
        self._unblocked = asyncio.Event()
        self._client: RobustConnection | None = None
        self._starting: asyncio.Task[object] | None = None
        self._pause_seconds = RECONNECT_PAUSE_SECONDS
        self._is_checking = False
        # Why this side closes the connection, until it is closed.
        self._given_up_reason = ""

    async def open(
        self,
        host: AdapterHost,
        connect: Connect,
        on_changed: Callable[[bool, str], None] | None = None,
    ) -> None:
        """Connect, and set the connection up.

        Args:
            connect: Connects, with a connection that it gets from its argument.
            on_changed: Called with each change in place of the host's `connection_changed`.

        Raises:
            DriverConnectionError: No server answers.
        """
        self._connectivity.open(host, on_changed)
        self.blocked_reason = None
        self._blocked, self._unblocked = asyncio.Event(), asyncio.Event()
        self._unblocked.set()
        # The client's connect task ends only when its connection is closed, so `close` needs this
        # object even if nothing ever answers.
        self._client = None
        self._is_checking, self._given_up_reason = False, ""
        self._starting = asyncio.get_running_loop().create_task(connect(self._make_client))
        await asyncio.wait({self._starting}, timeout=FIRST_CONNECTION_SECONDS)
        if not self._starting.done():
            raise no_server("RabbitMQ", FIRST_CONNECTION_SECONDS)
        self._starting.result()
        client: Any = self._connected
        self._pause_seconds = client.reconnect_interval
        client.close_callbacks.add(self._on_closed)
        client.reconnect_callbacks.add(self._on_reconnected)
        await self._set_up()

    def _make_client(self, *args: Any, **kwargs: Any) -> RobustConnection:
        self._client = _Client(*args, **kwargs)
        return self._client

    @property
    def _connected(self) -> Any:
        if self._client is None:
            raise not_connected("RabbitMQ")
        return self._client

    async def open_channel(self, *, confirms: bool) -> Any:
        """Return a new channel; it is lost with the connection."""
        transport = self._connected.transport
        if transport is None:
            raise connection_lost("RabbitMQ")
        return await transport.connection.channel(
            publisher_confirms=confirms, on_return_raises=False
        )

    async def _set_up(self) -> None:
        connection: Any = self._connected.transport.connection
        connection._Connection__handle_connection_blocked = self._on_blocked_frame
        connection._Connection__handle_connection_unblocked = self._on_unblocked_frame
        self._connected.reconnect_interval = self._pause_seconds
        await self.on_connect()
        self._connectivity.mark_up()

    def expect_close(self) -> None:
        """Report no more changes: the owner disconnects from now on."""
        self._connectivity.close()

    async def close(self) -> None:
        """Disconnect, whether there is a connection or not."""
        self._connectivity.close()
        starting, self._starting = self._starting, None
        client, self._client = self._client, None
        self._tasks.cancel()
        self._mark_unblocked()
        try:
            if client is not None:
                # The server sees the socket close. Errors of the connection were reported before.
                with suppress(TimeoutError, *RABBIT_ERRORS):
                    async with asyncio.timeout(DISCONNECT_SECONDS):
                        await client.close()
        finally:
            self._connectivity.mark_down()
            if starting is not None:
                starting.cancel()
                await asyncio.wait({starting})

    # -- the server's block

    async def wait_until_writable(self, deadline: float, *, patient: bool = False) -> None:
        """Wait until there is a connection and the server reads from it.

        Args:
            deadline: The end of the wait.
            patient: Wait for as long as the server blocks the connection, even beyond `deadline`.

        Raises:
            DriverConnectionError: There was no connection in time.
            DriverError: The server blocks the connection, and has not stopped in time.
        """
        await self.wait_until_up(deadline)
        while self.blocked_reason is not None:
            error = self.blocked_error()
            try:
                async with asyncio.timeout_at(None if patient else deadline):
                    await self._unblocked.wait()
            except TimeoutError:
                raise error from None
            await self.wait_until_up(None if patient else deadline)

    def blocked_error(self) -> DriverError:
        """Return the error of a publish that the server has blocked."""
        return DriverError(f"RabbitMQ: the server has blocked publishers: {self.blocked_reason}")

    async def wait_unless_blocked(self, task: asyncio.Task[Any]) -> None:
        """Wait until a task ends, or until the server blocks the connection."""
        blocked = self.start(self._blocked.wait())
        try:
            await asyncio.wait({task, blocked}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            blocked.cancel()

    async def _on_blocked_frame(self, frame: Any) -> None:
        # The server may repeat itself if a second resource runs low.
        is_new = self.blocked_reason is None
        self.blocked_reason = frame.reason or "it gives no reason"
        if is_new and not self._connectivity.is_closing:
            self._unblocked.clear()
            self._blocked.set()
            self.on_blocked(self.blocked_reason)

    async def _on_unblocked_frame(self, _: Any) -> None:
        if self._mark_unblocked():
            self.on_blocked(None)

    def _mark_unblocked(self) -> bool:
        was_blocked, self.blocked_reason = self.blocked_reason is not None, None
        self._blocked.clear()
        self._unblocked.set()
        return was_blocked

    # -- callbacks of the client

    def _on_closed(self, _: object = None, error: BaseException | None = None) -> None:
        # The next connection is not blocked until it publishes.
        self._mark_unblocked()
        given_up, self._given_up_reason = self._given_up_reason, ""
        is_refused = is_refused_connection(error)
        if not isinstance(error, Exception) or (self.is_up and not is_refused):
            self._connectivity.mark_down(given_up or _server_reason(error))
            return
        # A reconnect has failed.
        failure = to_driver_error(error)
        self._connectivity.mark_down(str(failure).removeprefix("RabbitMQ: "))
        if self._client is None or self._connectivity.is_closing:
            return
        if is_refused:
            # The reason may go away, but not within a second.
            self._client.reconnect_interval = max(self._pause_seconds, REFUSED_PAUSE_SECONDS)
        self.on_refused(failure)

    def _on_reconnected(self, *_: object) -> None:
        if not self._connectivity.is_closing:
            self.start(self._restore())

    async def _restore(self) -> None:
        try:
            await self._set_up()
        except (TimeoutError, DriverError, *RABBIT_ERRORS) as error:
            if self._connectivity.is_closing or not self.is_open():
                # The connection was lost again; the next reconnect tries again.
                return
            self.host.report(to_driver_error(error))
            await asyncio.sleep(RECONNECT_PAUSE_SECONDS)
            self.start(self.reconnect())

    def is_open(self) -> bool:
        """Return True if the connection below the client's is open, set up or not."""
        transport: Any = None if self._client is None else self._client.transport
        return transport is not None and not transport.connection.is_closed

    async def reconnect(self, reason: str = "") -> None:
        """Close the connection below the client's, which makes the client reconnect.

        Args:
            reason: The reason, for the report of the lost connection.
        """
        transport = self._connected.transport
        if transport is not None:
            # The client may replace this error by another one, without the reason.
            self._given_up_reason = reason
            # It also ends the channels; its type tells it from an error of the server.
            with suppress(*RABBIT_ERRORS):
                await transport.connection.close(ConnectionError("the connection was given up"))

    async def check(self) -> None:
        """Open a channel and close it; if the server does not answer, reconnect."""
        if self._is_checking or not self.is_up:
            return
        self._is_checking = True
        try:
            async with asyncio.timeout(REPLY_SECONDS):
                await (await self.open_channel(confirms=False)).close()
        except TimeoutError:
            # A server that blocks the connection reads nothing from it.
            if self.is_up and self.blocked_reason is None:
                await self.reconnect(f"no answer within {REPLY_SECONDS:g} s")
        except (DriverError, *RABBIT_ERRORS):
            # The connection is lost, and the client reconnects.
            pass
        finally:
            self._is_checking = False


class _Client(RobustConnection):
    """A connection of aio-pika that waits for no handshake for ever.

    A server that accepts connections and says nothing would otherwise keep it from trying again.
    """

    async def connect(self, timeout: Any = None) -> None:
        await super().connect(REPLY_SECONDS if timeout is None else timeout)


def _server_reason(error: BaseException | None) -> str:
    """Return the reason for the loss of a connection; empty if the server gave none."""
    return str(error.args[-1]) if isinstance(error, ConnectionClosed) and error.args else ""


async def _do_nothing() -> None:
    """Do nothing: the owner set no callback."""


def _ignore(_: object) -> None:
    """Ignore a change: the owner set no callback."""
