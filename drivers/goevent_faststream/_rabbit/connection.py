"""The connections to RabbitMQ: one for publishes, the other one for everything else.

`RabbitConnection` is owned by an adapter and used by all modules of this room. A server that is low
on memory or disk stops reading from connections that publish. On a connection of their own,
deliveries and acknowledgements go on meanwhile.

Theory of operation: FastStream's broker object owns the connection for publishes, because the
broker's middlewares publish on it. The other connection is made from the same arguments, so it has
the same login, virtual host, TLS and client properties. It has two channels: `consume_channel`, and
one for requests. The server closes a channel when it refuses a request on it. A refused declaration
or binding therefore closes the second channel only, which is opened again for the next request.

If the server closes the consume channel, it returns all unacknowledged messages. This module then
closes the connection below, and the client reconnects. A bus that may not consume a queue is the
exception: then the consume channel is opened again, and the bus consumes its other queues.

When a request is cancelled, the client closes its channel. Adapters therefore send their requests
by `run_shielded`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar
from urllib.parse import urlencode

from aio_pika import connect_robust
from aiormq.exceptions import ChannelClosed
from faststream.rabbit import RabbitBroker
from faststream.security import BaseSecurity
from yarl import URL

from goevent import DriverConnectionError, DriverError
from goevent.drivers import read_driver_url, read_tls

from .._adapter.connectivity import DISCONNECT_SECONDS, REPLY_SECONDS
from .._adapter.contract import AdapterHost
from .._adapter.tls import probe_tls
from .client_log import ClientSilence
from .errors import RABBIT_ERRORS, to_driver_error
from .link import RECONNECT_PAUSE_SECONDS, MakeConnection, RabbitLink
from .names import MAX_VIRTUAL_HOST_CHARS
from .pamqp_patch import show_close_reasons, tolerate_invalid_properties

AMQPS_PORT = 5671
HEARTBEAT_SECONDS = 3  # four missed heartbeats reveal a dead connection
# Losing both connections is one report: that of the connection for deliveries.
PUBLISHING_LOSS_REPORT_SECONDS = 0.2

T = TypeVar("T")


def make_broker(url: str) -> RabbitBroker:
    """Return FastStream's broker for an `amqp://` or `amqps://` URL.

    Raises:
        ValueError: The URL is malformed.
    """
    parsed = read_driver_url(url)
    if parsed.password == "":
        # The client would send "guest" in its place.
        raise ValueError("RabbitMQ: an empty password is refused by the server")
    options = dict(parsed.options)
    tls = read_tls(options, scheme=parsed.scheme, is_tls=parsed.scheme == "amqps")
    security = None if tls is None else BaseSecurity(tls.context())
    options.setdefault("heartbeat", str(HEARTBEAT_SECONDS))
    try:
        return RabbitBroker(
            parsed.with_query(urlencode(options)).text(),
            security=security,
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


class RabbitConnection:
    """The two connections of one broker object.

    Args:
        wait_seconds: How long a caller waits for a lost connection.

    Raises:
        ValueError: The name of the virtual host is too long.

    Attributes:
        publishing: The connection for publishes.
        consume_channel: The channel for deliveries and their acknowledgements, on the other
            connection.
        on_connect: Called with each new consume channel, to declare everything and to consume. Its
            argument tells whether the connection is new, too.
    """

    consume_channel: Any

    def __init__(self, broker: RabbitBroker, wait_seconds: float) -> None:
        self.broker = broker
        _check_virtual_host(broker)
        self.on_connect: Callable[[bool], Awaitable[None]] = _declare_nothing
        self.publishing = RabbitLink(wait_seconds)
        self.publishing.on_blocked = self._on_blocked
        self.publishing.on_refused = self._on_publishing_refused
        self._consuming = RabbitLink(wait_seconds)
        self._consuming.on_connect = self._set_up
        self._consuming.on_refused = self._on_refused
        self._is_publishing_loss_reported = False
        self._reported: dict[str, str] = {}
        self._silence = ClientSilence()
        # The reasons why this outage lasts.
        self._connect_failures: set[str] = set()

    async def open(self, host: AdapterHost) -> None:
        """Start the broker, connect twice, and declare everything.

        Raises:
            DriverConnectionError: No server answers, or it rejects the login.
            DriverError: The server refuses a declaration.
        """
        tolerate_invalid_properties()
        show_close_reasons()
        self._silence.begin()
        self._reset()
        opened = await asyncio.gather(
            self._consuming.open(host, self._connect),
            self.publishing.open(host, self._start_broker, self._on_publishing_changed),
            return_exceptions=True,
        )
        for error in opened:
            # The client also raises ValueError, for instance on a name that it refuses.
            if isinstance(error, Exception):
                raise await self._first_error(error) from error
            if error is not None:
                raise error

    async def _first_error(self, error: Exception) -> DriverError:
        """Return the error of the first connection; clients do not tell all failures of TLS."""
        mapped = to_driver_error(error)
        broker: Any = self.broker
        url, context = (
            URL(broker._connection_kwargs["url"]),
            broker._connection_kwargs["ssl_context"],
        )
        if context is not None and isinstance(mapped, DriverConnectionError):
            failure = await probe_tls(url.host or "", url.port or AMQPS_PORT, context)
            if failure is not None:
                return to_driver_error(failure)
        return mapped

    def _reset(self) -> None:
        # Each opening of a bus has a loop of its own.
        self._requests_lock = asyncio.Lock()
        self._request_channel: Any = None
        self._is_ready = asyncio.Event()
        self._is_consume_refused = False
        self._refused_queues: set[str] = set()
        self._is_publishing_loss_reported = False
        self._reported.clear()
        self._connect_failures.clear()

    async def _connect(self, make: MakeConnection) -> object:
        broker: Any = self.broker
        arguments: dict[str, Any] = {**broker._connection_kwargs, "connection_class": make}
        return await connect_robust(**arguments)

    async def _start_broker(self, make: MakeConnection) -> object:
        broker: Any = self.broker
        broker._connection_kwargs["connection_class"] = make
        return await broker.start()

    async def close(self) -> None:
        """Disconnect, whether there are connections or not."""
        broker: Any = self.broker
        self._consuming.expect_close()
        self.publishing.expect_close()
        try:
            # The broker's own subscribers end here; it need not disconnect in good order.
            if self.publishing.is_up:
                with suppress(TimeoutError, *RABBIT_ERRORS):
                    async with asyncio.timeout(DISCONNECT_SECONDS):
                        await broker.stop()
        finally:
            try:
                await asyncio.gather(self._consuming.close(), self.publishing.close())
            finally:
                # FastStream drops these only after an orderly stop, and would use them again. Now a
                # start that was under way has ended, too, and sets them no more.
                broker._connection, broker._channel = None, None
                broker.config.disconnect()
                self._silence.end()

    # -- the connection for deliveries, as adapters use it

    @property
    def host(self) -> AdapterHost:
        """The host of the adapter.

        Raises:
            DriverConnectionError: The bus is not open.
        """
        return self._consuming.host

    @property
    def is_up(self) -> bool:
        """True while deliveries can come."""
        return self._consuming.is_up

    async def wait_until_up(self, deadline: float | None = None) -> None:
        """Wait until deliveries can come.

        Args:
            deadline: The end of the wait for the connection; None counts from now.

        Raises:
            DriverConnectionError: There was no connection in time.
        """
        await self._consuming.wait_until_up(deadline)
        await self._is_ready.wait()

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run a coroutine in a task that ends with the connection.

        An error that neither the client nor this package raises on purpose ends the bus.
        """
        task = self._consuming.start(work)
        task.add_done_callback(self._on_task_done)
        return task

    def _on_task_done(self, task: asyncio.Task[Any]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, (DriverError, *RABBIT_ERRORS)):
            self.fail(error)

    def fail(self, error: BaseException) -> None:
        """End the bus: this package has a defect."""
        self.host.fail(DriverError(f"the driver for RabbitMQ has failed: {error!r}"))

    async def run_shielded(self, work: Coroutine[Any, Any, T]) -> T:
        """Await a coroutine that continues if the caller is cancelled.

        Raises:
            DriverConnectionError: The connection ended first; the server may have got the request.
        """
        return await self._consuming.run_shielded(work)

    async def request(self, work: Callable[[Any], Awaitable[T]]) -> T:
        """Return the result of a request, made on a channel that it may lose.

        Args:
            work: Called with the channel; sends one request, or a few.
        """
        async with self._requests_lock, asyncio.timeout(REPLY_SECONDS):
            channel = self._request_channel
            if channel is None or channel.is_closed:
                channel = await self._consuming.open_channel(confirms=False)
                self._request_channel = channel
            try:
                return await work(channel)
            except (TimeoutError, asyncio.CancelledError):
                # The client uses this channel no more, and does not count it as closed.
                self._request_channel = None
                raise

    async def open_channel(self) -> Any:
        """Return a new channel beside the consume channel; it is lost with the connection."""
        async with asyncio.timeout(REPLY_SECONDS):
            return await self._consuming.open_channel(confirms=False)

    async def check(self) -> None:
        """Look whether the consume channel answers; if it does not, reconnect.

        A server that sends nothing for a while is no sign: there may be no events.
        """
        channel = self.consume_channel
        try:
            async with asyncio.timeout(REPLY_SECONDS):
                await channel.flow(active=True)
        except TimeoutError:
            if self._consuming.is_up:
                await self.reconnect(f"no answer within {REPLY_SECONDS:g} s")
        except RABBIT_ERRORS as error:
            # If the channel is closed, the callback for that opens it again.
            if self._consuming.is_up and not channel.is_closed:
                await self.reconnect(str(error))

    async def reconnect(self, reason: str) -> None:
        """Close the connection for deliveries, so that the client connects again.

        The server returns all unacknowledged messages.
        """
        await self._consuming.reconnect(reason)

    async def consume(self, queue: str, on_message: Callable[[Any], Awaitable[None]]) -> str:
        """Consume a queue on the consume channel; return the consumer's tag.

        If the server refuses it, the consume channel is opened again, and `on_connect` is called.

        Raises:
            ChannelClosed: The server refuses it.
        """
        if queue in self._refused_queues:
            # This channel would be closed again, and the server would return all messages of it.
            await self._consume_and_cancel(queue)
        self._is_consume_refused = True
        try:
            async with asyncio.timeout(REPLY_SECONDS):
                reply = await self.consume_channel.basic_consume(queue, on_message)
        except ChannelClosed:
            self._refused_queues.add(queue)
            raise
        self._is_consume_refused = False
        self._refused_queues.discard(queue)
        return str(reply.consumer_tag)

    async def _consume_and_cancel(self, queue: str) -> None:
        async def consume(channel: Any) -> None:
            await channel.basic_consume(queue, _leave_unacknowledged)
            # The server returns the messages that it has sent meanwhile.
            await channel.close()

        await self.request(consume)

    async def _set_up(self) -> None:
        """Set up the consume channel of a new connection."""
        self._connect_failures.clear()
        await self._open_consume_channel(is_new=True)

    async def _open_consume_channel(self, *, is_new: bool) -> None:
        self._is_ready.clear()
        while True:
            self._is_consume_refused = False
            async with asyncio.timeout(REPLY_SECONDS):
                channel = await self._consuming.open_channel(confirms=False)
            self.consume_channel = channel
            await self.on_connect(is_new)
            if not self._is_consume_refused:
                break
            # A refused consumer closes the channel. `on_connect` does not try it a second time.
            is_new = False
        channel.closing.add_done_callback(self._on_consume_channel_closed)
        self._is_ready.set()

    def _on_consume_channel_closed(self, closing: asyncio.Future[Any]) -> None:
        if not self._consuming.is_up or not self._consuming.is_open():
            return
        error = None if closing.cancelled() else closing.exception()
        # A ConnectionError means that the connection below is closed, and the client reconnects.
        if not isinstance(error, Exception) or isinstance(error, ConnectionError):
            return
        if self._is_consume_refused:
            # The caller of `consume` has the error.
            self._is_ready.clear()
            self.start(self._reopen_consume_channel())
            return
        reason = str((error.args and error.args[-1]) or "")
        if "acknowledgement" in reason and "timed out" in reason:
            reason += (
                "; a listener takes longer than the server's consumer_timeout: raise that, or make "
                "its listeners end sooner"
            )
        self.start(self._consuming.reconnect(reason))

    async def _reopen_consume_channel(self) -> None:
        try:
            await self._open_consume_channel(is_new=False)
        except (TimeoutError, DriverError, *RABBIT_ERRORS) as error:
            if self._consuming.is_open():
                self.host.report(to_driver_error(error))
                await self._consuming.reconnect()

    # -- reports

    def report_once(self, key: str, error: DriverError, event_name: str = "") -> None:
        """Report an error, unless the last error with this key had the same text."""
        if self._reported.get(key) != str(error):
            self._reported[key] = str(error)
            self.host.report(error, event_name)

    def resolve(self, key: str) -> None:
        """Note that a failed step works again, so that its next error is reported."""
        self._reported.pop(key, None)

    def _on_blocked(self, reason: str | None) -> None:
        if reason is None:
            self.host.report(DriverError("RabbitMQ: the server takes events again"))
        else:
            self.host.report(self.publishing.blocked_error())

    def _on_refused(self, error: DriverError) -> None:
        if str(error) not in self._connect_failures:
            self._connect_failures.add(str(error))
            self.host.report(error)

    def _on_publishing_refused(self, error: DriverError) -> None:
        if self._consuming.is_up:
            self._on_refused(error)

    def _on_publishing_changed(self, connected: bool, reason: str) -> None:
        if not connected:
            self.start(self._report_publishing_loss(reason))
        elif self._is_publishing_loss_reported:
            self._report_publishing_return()

    async def _report_publishing_loss(self, reason: str) -> None:
        await asyncio.sleep(PUBLISHING_LOSS_REPORT_SECONDS)
        if self._consuming.is_up:
            text = "RabbitMQ: the connection for publishes is lost; events still arrive"
            self.host.report(DriverConnectionError(f"{text}: {reason}" if reason else text))
            self._is_publishing_loss_reported = True
            if self.publishing.is_up:
                self._report_publishing_return()

    def _report_publishing_return(self) -> None:
        self._is_publishing_loss_reported = False
        self._connect_failures.clear()
        self.host.report(DriverConnectionError("RabbitMQ: the connection for publishes is back"))


async def _declare_nothing(_: bool) -> None:
    """Declare nothing: the adapter set no callback."""


async def _leave_unacknowledged(_: object) -> None:
    """Leave a message unacknowledged, so that the server returns it."""


def _check_virtual_host(broker: RabbitBroker) -> None:
    arguments: Any = broker._connection_kwargs  # pyright: ignore[reportPrivateUsage]
    name = URL(arguments["url"]).path[1:]
    if len(name) > MAX_VIRTUAL_HOST_CHARS:
        raise ValueError(
            f"RabbitMQ: the name of the virtual host {name!r} has {len(name)} characters, and at "
            f"most {MAX_VIRTUAL_HOST_CHARS} are allowed"
        )
