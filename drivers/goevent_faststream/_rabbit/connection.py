"""The link to RabbitMQ: the connection of FastStream's broker, its losses, and two channels on it.

It runs on the loop side. The client of aio-pika reconnects by itself. Channels are opened on the
connection below it, as those of aio-pika bring back what they held in an order of their own: here
whoever has something on a channel puts it up again, and only then the link is up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from aio_pika import RobustConnection
from aio_pika.exceptions import AMQPError, InvalidFrameError, ProbableAuthenticationError
from faststream.rabbit import RabbitBroker
from pamqp.exceptions import PAMQPException

from goevent import DriverConnectionError, DriverError

from .._adapter.connectivity import Connectivity
from .._adapter.contract import AdapterHost
from .pamqp_patch import be_lenient

DIAL = 5.0  # seconds until the first connection has to be there
ANSWER = 8.0  # seconds until a server that does not answer counts as lost
RECONNECT = 0.25  # seconds between two dials
HEARTBEAT = 3  # seconds; after four missed ones, a black hole counts as a loss
STOP = 0.6  # seconds for an orderly end
LOST = "RabbitMQ: the connection was lost before the server replied"
CLIENT = (AMQPError, PAMQPException, OSError, RuntimeError)  # all that aio-pika raises


def make_broker(url: str) -> RabbitBroker:
    """Return FastStream's broker for an `amqp://` or `amqps://` URL.

    Raises:
        ValueError: the URL makes no sense.
    """
    scheme, _, rest = url.partition("://")
    try:
        if "heartbeat=" not in urlsplit(url).query:
            rest += f"{'&' if '?' in rest else '?'}heartbeat={HEARTBEAT}"
        return RabbitBroker(
            f"{scheme}://{rest}", reconnect_interval=RECONNECT, logger=None, apply_types=False
        )
    except (TypeError, ValueError):
        # Neither it nor its cause may show the password.
        raise ValueError(
            "RabbitMQ: the URL has to be amqp://user:password@host:port/vhost, with options that "
            "aio-pika knows"
        ) from None


def rabbit_broker(broker: object) -> RabbitBroker:
    """Return the broker that was given, if it is one of RabbitMQ.

    Raises:
        TypeError: it is none.
    """
    if not isinstance(broker, RabbitBroker):
        raise TypeError(f"this is no RabbitBroker: {broker!r}")
    return broker


async def nothing() -> None:
    """Put nothing up."""


class RabbitLink:
    """The connection of one broker object.

    Attributes:
        publishing: the channel for publishes, with confirms.
        consuming: the channel for deliveries and their acknowledgements.
        set_up: puts up what is on the channels, each time that they are new.
    """

    publishing: Any
    consuming: Any

    def __init__(self, broker: RabbitBroker, patience: float) -> None:
        self.broker = broker
        self.set_up: Callable[[], Awaitable[None]] = nothing
        self._connectivity = Connectivity("RabbitMQ", patience)
        self._made: RobustConnection | None = None
        self._dial: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def host(self) -> AdapterHost:
        """Where the driver is."""
        return self._connectivity.host

    @property
    def is_up(self) -> bool:
        """True while there is a connection, with all that was on it."""
        return self._connectivity.is_up

    async def open(self, host: AdapterHost) -> None:
        """Connect, start the broker, and put up what is on the channels.

        Raises:
            DriverConnectionError: there is no server, or it does not let us in.
            DriverError: it refuses what is to be put up.
        """
        be_lenient()
        self._connectivity.open(host)
        self._made = None
        # The client dials by a task that no cancellation ends, only the end of the connection that
        # it belongs to, and FastStream tells of that when it is there, not before.
        broker: Any = self.broker
        broker._connection_kwargs["connection_class"] = self._make
        self._dial = asyncio.get_running_loop().create_task(self.broker.start())
        await asyncio.wait({self._dial}, timeout=DIAL)
        if not self._dial.done():
            raise DriverConnectionError(f"RabbitMQ: no server answers within {DIAL:g} s")
        try:
            self._dial.result()
            connection = self._connection
            connection.close_callbacks.add(self._lost)
            connection.reconnect_callbacks.add(self._back)
            await self._put_up()
        except CLIENT as error:
            raise to_driver_error(error) from error

    def _make(self, *args: Any, **kwargs: Any) -> RobustConnection:
        self._made = RobustConnection(*args, **kwargs)
        return self._made

    @property
    def _connection(self) -> Any:
        if self._made is None:
            raise DriverConnectionError("RabbitMQ: there is no connection")
        return self._made

    async def channel(self, *, confirms: bool) -> Any:
        """Return a new channel of this connection; it is lost with it."""
        transport = self._connection.transport
        if transport is None:
            raise DriverConnectionError(LOST)
        return await transport.connection.channel(
            publisher_confirms=confirms, on_return_raises=False
        )

    async def _put_up(self) -> None:
        async with asyncio.timeout(ANSWER):
            self.publishing = await self.channel(confirms=True)
            self.consuming = await self.channel(confirms=False)
            await self.set_up()
        for channel in (self.publishing, self.consuming):
            channel.closing.add_done_callback(self._channel_closed)
        self._connectivity.mark_up()

    async def close(self) -> None:
        """Disconnect, whether there is a connection or not."""
        self._connectivity.close()
        dial, self._dial = self._dial, None
        made, self._made = self._made, None
        broker: Any = self.broker
        for task in [*self._tasks]:
            task.cancel()
        try:
            if self.is_up:
                async with asyncio.timeout(STOP):
                    await broker.stop()
        except (TimeoutError, *CLIENT):
            pass  # what there was to say was said before; the server sees the connection end
        finally:
            self._connectivity.mark_down()
            # FastStream forgets these only after an orderly end, and would use them again.
            broker._connection, broker._channel = None, None
            broker.config.disconnect()
            if made is not None:
                with suppress(TimeoutError, *CLIENT):
                    async with asyncio.timeout(STOP):
                        await made.close()
            if dial is not None:
                dial.cancel()
                await asyncio.wait({dial})

    async def ready(self, *, patience: float | None = None) -> None:
        """Wait for the connection, for so many seconds from when it was lost.

        Raises:
            DriverConnectionError: it was not there in time.
        """
        await self._connectivity.wait_until_up(patience)

    def do(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run something that ends with the bus."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def unbroken(self, work: Coroutine[Any, Any, None]) -> None:
        """Await something that goes on if this is cancelled.

        The client closes a channel when a request on it is cancelled, and the server returns all
        that was unacknowledged there.
        """
        task = self.do(work)
        task.add_done_callback(_seen)
        await asyncio.wait({task})
        if task.cancelled():
            raise DriverConnectionError(LOST)
        task.result()

    # -- what the client tells

    def _lost(self, *_: Any) -> None:
        self._connectivity.mark_down()

    def _back(self, *_: Any) -> None:
        if not self._connectivity.is_closing:
            self.do(self._come_back())

    async def _come_back(self) -> None:
        try:
            await self._put_up()
        except (TimeoutError, DriverError, *CLIENT) as error:
            if self._connectivity.is_closing or not self._is_open():
                return  # it was lost again, and comes back again
            self.host.report(to_driver_error(error))
            await asyncio.sleep(RECONNECT)
            self.do(self._cut())

    def _is_open(self) -> bool:
        transport: Any = self._connection.transport
        return transport is not None and not transport.connection.is_closed

    def _channel_closed(self, closing: asyncio.Future[Any]) -> None:
        if self._connectivity.is_closing or not self.is_up or not self._is_open():
            return
        error = None if closing.cancelled() else closing.exception()
        if isinstance(error, Exception) and not isinstance(error, ConnectionError):
            # The server closes a channel for a fault on it, and all that is unacknowledged comes
            # again. Both channels and what is on them are made anew with the connection.
            self.host.report(to_driver_error(error))
            self.do(self._cut())

    async def _cut(self) -> None:
        transport = self._connection.transport
        if transport is not None:
            with suppress(*CLIENT):
                await transport.connection.close(ConnectionError("the channel was closed"))


def _seen(task: asyncio.Task[None]) -> None:
    if not task.cancelled():
        task.exception()  # whoever waits has it, and if nobody does, nobody wants it


def to_driver_error(error: Exception) -> DriverError:
    """Return the error of the contract for one of the client; one of the contract as it is."""
    if isinstance(error, DriverError):
        return error
    if isinstance(error, ProbableAuthenticationError):
        mapped: DriverError = DriverConnectionError("RabbitMQ: the login was refused")
    elif isinstance(error, InvalidFrameError):
        # What the client says when the server closes a connection that is not yet one.
        mapped = DriverConnectionError("RabbitMQ: the server refuses the virtual host to this user")
    elif isinstance(error, TimeoutError):
        mapped = DriverConnectionError(f"RabbitMQ: no answer within {ANSWER:g} s")
    else:
        # Some exceptions of aiormq are empty, and name the cause in their class.
        text = str(error) or type(error).__name__
        kind = DriverConnectionError if isinstance(error, OSError) else DriverError
        mapped = kind(f"RabbitMQ: {text}")
    mapped.__cause__ = error
    return mapped
