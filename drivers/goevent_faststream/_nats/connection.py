"""The link to NATS: the connection of FastStream's broker, its losses, and what waits for it.

It runs on the loop side. The client of nats-py reconnects by itself; this tells of it, and fails
what waits for an answer that cannot come any more.
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

from .._adapter.connectivity import Connectivity
from .._adapter.contract import AdapterHost

T = TypeVar("T")

DIAL = 5.0  # seconds until the first connection has to be there
ANSWER = 8  # seconds until a server that does not answer counts as lost
RECONNECT = 0.25  # seconds between two dials
PING = 5  # seconds between two PINGs, by which a black hole is noticed
LOST = "NATS: the connection was lost before the server replied"
STOP = 0.8  # seconds for an orderly end


def make_broker(url: str) -> NatsBroker:
    """Return FastStream's broker for a `nats://` URL."""
    return NatsBroker(
        f"nats://{url.partition('://')[2] or 'localhost'}",
        reconnect_time_wait=RECONNECT,  # type: ignore[arg-type]  # it sleeps so long
        max_reconnect_attempts=-1,
        ping_interval=PING,
        logger=None,
        apply_types=False,
    )


def nats_broker(broker: object) -> NatsBroker:
    """Return the broker that was given, if it is one of NATS.

    Raises:
        TypeError: it is none.
    """
    if not isinstance(broker, NatsBroker):
        raise TypeError(f"this is no NatsBroker: {broker!r}")
    return broker


class NatsLink:
    """The connection of one broker object.

    Attributes:
        losses: how often the connection was lost.
        on_lost: called when the connection is lost.
        on_back: called when it is there again, with all subscriptions of before.
    """

    def __init__(self, broker: NatsBroker, patience: float) -> None:
        self.broker = broker
        self.on_lost: Callable[[], object] = _nothing
        self.on_back: Callable[[], object] = _nothing
        self._connectivity = Connectivity("NATS", patience)
        self._client: Any = None
        self.losses = 0
        self._dial: asyncio.Task[None] | None = None
        self._waiting: set[asyncio.Task[Any]] = set()

    @property
    def client(self) -> Any:
        """The client of nats-py; untyped, as much of what is needed of it has no types.

        Raises:
            DriverConnectionError: the bus is not open.
        """
        if self._client is None:
            raise DriverConnectionError("NATS: there is no connection")
        return self._client

    @property
    def host(self) -> AdapterHost:
        """Where the driver is."""
        return self._connectivity.host

    async def open(self, host: AdapterHost) -> None:
        """Connect, and start the broker.

        Raises:
            DriverConnectionError: there is no server, or it does not let us in.
        """
        self._connectivity.open(host)
        # A dial that is cancelled would leave its socket behind, so it is left to `close`.
        self._dial = asyncio.get_running_loop().create_task(self.broker.start())
        await asyncio.wait({self._dial}, timeout=DIAL)
        if not self._dial.done():
            raise DriverConnectionError(f"NATS: no server answers within {DIAL:g} s")
        try:
            self._dial.result()
        except (errors.Error, OSError) as error:
            raise to_driver_error(error) from error
        self._client = client = self.broker.connection
        self._listen(client)
        _steady(client)
        _lenient(client)
        self._connectivity.mark_up()

    def _listen(self, client: Any) -> None:
        """Hear of losses; a broker that is given is configured, so its own callbacks go on."""
        client._disconnected_cb = _both(client._disconnected_cb, self._lost)
        client._reconnected_cb = _both(client._reconnected_cb, self._back)
        client._closed_cb = _both(client._closed_cb, self._closed)
        client._error_cb = _both(client._error_cb, self._troubled)

    async def close(self) -> None:
        """Disconnect, whether there is a connection or not."""
        self._connectivity.close()
        broker: Any = self.broker
        dial, self._dial = self._dial, None
        if dial is not None and not dial.done():
            await asyncio.wait({dial}, timeout=STOP / 2)
            dial.cancel()
        client, self._client = broker._connection, None
        try:
            if client is not None and not client.is_connected:
                await client.close()
            async with asyncio.timeout(STOP):
                await self.broker.stop()
        except (TimeoutError, errors.Error, OSError, ExceptionGroup):
            pass  # what there was to say was said before; the server sees the connection end
        finally:
            for task in [*self._waiting]:
                task.cancel()
            # FastStream forgets the connection only after an orderly end, and would use it again.
            broker._connection = None
            broker.config.disconnect()
            if client is not None and not client.is_closed:
                with suppress(errors.Error, OSError):
                    await client.close()

    @property
    def is_up(self) -> bool:
        """True while there is a connection; what is published otherwise would be kept."""
        return self._connectivity.is_up and bool(self.client.is_connected)

    async def ready(self, *, patience: float | None = None) -> None:
        """Wait for the connection, for so many seconds from when it was lost.

        Raises:
            DriverConnectionError: it was not there in time.
        """
        if self._connectivity.is_up and not self.client.is_connected:
            await self._lost()  # it does not say so at once, and keeps what is published until then
        await self._connectivity.wait_until_up(patience)

    async def unbroken(self, work: Coroutine[Any, Any, T]) -> T:
        """Await the server's answer, but not longer than the connection lasts.

        Raises:
            DriverConnectionError: it was lost before; perhaps the server has got the request.
        """
        task = asyncio.get_running_loop().create_task(work)
        self._waiting.add(task)
        task.add_done_callback(self._answered)
        # Whoever waits may be cancelled, and the work goes on: nothing of nats-py that waits for a
        # PONG may be cancelled, as its reader dies of the next PONG then.
        await asyncio.wait({task})
        if task.cancelled():
            raise DriverConnectionError(LOST)
        return task.result()

    def _answered(self, task: asyncio.Task[Any]) -> None:
        self._waiting.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waits has it, and if nobody does, nobody wants it

    async def flush(self) -> None:
        """Return when the server has taken all that was sent before.

        Raises:
            DriverConnectionError: the connection was lost before, or the server does not answer.
        """
        losses = self.losses
        try:
            await self.unbroken(self.client.flush(timeout=ANSWER))
            # Without a reader it does not wait for a PONG, and fails nobody.
            if losses != self.losses or not self.client.is_connected:
                raise DriverConnectionError(LOST)
        except errors.FlushTimeoutError as error:
            await self.client.force_reconnect()
            raise DriverConnectionError(f"NATS: no answer within {ANSWER:g} s") from error

    # -- what the client tells

    async def _lost(self, *_: Any) -> None:
        if not self._connectivity.mark_down():
            return
        self.losses += 1
        waiting, self._waiting = self._waiting, set()
        for task in waiting:
            task.cancel()
        self.on_lost()

    async def _back(self, *_: Any) -> None:
        if self._connectivity.is_closing or self._connectivity.is_up:
            return
        self._connectivity.mark_up()
        self.on_back()

    async def _closed(self, *_: Any) -> None:
        if not self._connectivity.is_closing:
            self.host.fail(DriverConnectionError("NATS: the client has given up connecting again"))

    async def _troubled(self, error: Exception) -> None:
        if isinstance(error, errors.SlowConsumerError):
            subject = getattr(error, "subject", "")
            self.host.report(
                DriverError(f"NATS: a message of {subject!r} was lost, as too many wait already")
            )
        elif (
            not self._connectivity.is_closing
            and self._connectivity.is_up
            and not isinstance(error, OSError)
        ):
            self.host.report(to_driver_error(error))


def to_driver_error(error: Exception) -> DriverError:
    """Return the error of the contract for one of nats-py; one of the contract as it is."""
    if isinstance(error, DriverError):
        return error
    text = str(error).removeprefix("nats: ") or type(error).__name__
    kinds = (
        errors.ConnectionClosedError,
        errors.ConnectionReconnectingError,
        errors.NoServersError,
        errors.StaleConnectionError,
        errors.TimeoutError,
        OSError,
    )
    kind = DriverConnectionError if isinstance(error, kinds) else DriverError
    mapped = kind(f"NATS: {text}")
    mapped.__cause__ = error
    return mapped


def _steady(client: Any) -> None:
    """Have the client find a lost connection by `drain`, as `OSError`, also since Python 3.12.

    `writelines` of asyncio is a method of its own there, and raises an `AttributeError` or a
    `TypeError` where `write` takes no notice: https://github.com/python/cpython/issues/136234
    """
    transport = client._transport  # the same one after each reconnect
    if isinstance(transport, TcpTransport):
        stream: Any = transport

        def write(lines: Sequence[bytes]) -> None:
            stream.write(b"".join(lines))

        stream.writelines = write


def _lenient(client: Any) -> None:
    """Have the client read a message whose subject or headers it cannot decode, as far as it can.

    Its reader would end without a word, and the bus were deaf until a PING has gone unanswered.
    """
    read_headers, take = client._process_headers, client._process_msg

    async def headers_of(data: bytes) -> dict[str, str] | None:
        try:
            found: dict[str, str] | None = await read_headers(data)
        except (ValueError, LookupError):
            return None
        return found

    async def came(sid: int, subject: bytes, *rest: bytes) -> None:
        if not subject.isascii():
            subject = subject.decode(errors="replace").encode()
        await take(sid, subject, *rest)

    client._process_headers, client._process_msg = headers_of, came


def _both(
    theirs: Callable[..., Awaitable[object]] | None, ours: Callable[..., Awaitable[None]]
) -> Callable[..., Awaitable[None]]:
    async def call(*args: Any) -> None:
        await ours(*args)
        if theirs is not None:
            await theirs(*args)

    return call


def _nothing() -> None:
    """Be the callback that nobody gave."""
