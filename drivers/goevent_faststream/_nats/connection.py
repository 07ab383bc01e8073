"""The connection to NATS: one broker object of FastStream, as long as the bus is open.

`NatsConnection` is owned by an adapter and used by all modules of this room. The client of nats-py
reconnects by itself and restores its subscriptions; this module records when it does. Requests that
wait for a reply of a lost connection would wait for ever, so they are cancelled with it.

The server's error lines go to `Refusals`, except those after which the server disconnects. The
client would close for ever at most of them, so this module handles them in its place.

Defects of the client are patched for each connection (`client_patches`), and a task of it that has
ended is replaced (`client_tasks`).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from typing import Any, TypeVar

from faststream.nats import NatsBroker
from faststream.nats.security import NatsSecurity, NatsToken, NatsUserPassword
from faststream.security import BaseSecurity
from nats import errors
from nats.js import errors as js_errors

from goevent import DriverConnectionError, DriverError, EncodeError
from goevent.drivers import read_driver_url, read_tls

from .._adapter.connection import BrokerConnection
from .._adapter.connectivity import (
    FIRST_CONNECTION_SECONDS,
    REPLY_SECONDS,
)
from .._adapter.contract import AdapterHost
from .._adapter.errors import connection_lost, map_error, no_answer, no_server, not_connected
from .._adapter.formats import MAX_HEADERS_BYTES
from .client_patches import (
    close_within_a_second,
    guard_reader,
    message_bytes,
    refuse_large,
    refuse_large_messages,
    send_pings_in_order,
    use_plain_writes,
)
from .client_tasks import ClientTasks
from .refusals import Refusals, read_refusal
from .secure_client import TLS_ERRORS, NoTlsOfferedError, SecureClient

T = TypeVar("T")

# The headers of a message are shorter: those that a format writes, with their line breaks.
MAX_HEADER_LINES_BYTES = 6 * MAX_HEADERS_BYTES

RECONNECT_PAUSE_SECONDS = 0.25
REFUSED_SUBSCRIPTION_SECONDS = 30.0  # until a refused subscription is tried again
MAX_REFUSED_PAUSE_SECONDS = 5.0  # between two attempts while the server refuses the login
SLOW_SERIES_SECONDS = 5.0  # losses of a subscription that follow in this time are reported once
PING_PAUSE_SECONDS = 5  # a PING that stays unanswered reveals a dead connection
DRAIN_SECONDS = 0.8

UNREACHABLE_ERRORS = (
    errors.ConnectionClosedError,
    errors.ConnectionReconnectingError,
    errors.NoServersError,
    errors.StaleConnectionError,
    errors.TimeoutError,
    NoTlsOfferedError,
    OSError,
)

# The server's lines after which it ends the connection; not "permissions violation".
_LOGIN_REFUSAL = re.compile("authorization violation|authentication|user .* expired", re.IGNORECASE)


def make_broker(url: str) -> NatsBroker:
    """Return FastStream's broker for a `nats://` or `nats+tls://` URL.

    Raises:
        ValueError: The URL has a path, or an option of TLS that cannot be used.
    """
    parsed = read_driver_url(url)
    is_tls = parsed.scheme.endswith("+tls")
    settings = read_tls(dict(parsed.options), scheme=parsed.scheme, is_tls=is_tls)
    context = settings.context() if settings is not None else None
    if parsed.path.strip("/"):
        raise ValueError("a NATS URL is nats://user:password@host:port, without a path")
    security: BaseSecurity | None = NatsSecurity(ssl_context=context) if context else None
    # Not in the URL of the client, which does not decode them.
    if parsed.password is not None:
        security = NatsUserPassword(parsed.user or "", parsed.password, ssl_context=context)
    elif parsed.user is not None:
        security = NatsToken(parsed.user, ssl_context=context)
    return NatsBroker(
        f"nats://{parsed.address or 'localhost'}",
        security=security,
        reconnect_time_wait=RECONNECT_PAUSE_SECONDS,  # type: ignore[arg-type]  # it may be a float
        max_reconnect_attempts=-1,
        ping_interval=PING_PAUSE_SECONDS,
        logger=None,
        apply_types=False,
    )


class NatsConnection(BrokerConnection):
    """The connection of one broker object.

    Args:
        wait_seconds: How long a caller waits for a lost connection.
        max_pending_bytes: The largest size of the messages that wait in the client, beyond which it
            drops messages; None if the pulls bound them.

    Attributes:
        jetstream: The context of JetStream with the broker's own options; untyped, as `client`.
        losses: How often the connection was lost.
        refusals: The requests that wait for a refusal of the server.
        on_down: Called when the connection is lost.
        on_up: Called when the connection is back, with all its subscriptions.
        raw_takers: The functions that take the messages of subscriptions, by their numbers, in
            place of the client: the subject, the body and the headers.
    """

    def __init__(
        self, broker: NatsBroker, wait_seconds: float, max_pending_bytes: int | None = None
    ) -> None:
        super().__init__("NATS", wait_seconds)
        self._max_pending_bytes = max_pending_bytes
        self.broker = broker
        self.jetstream: Any = None
        self.losses = 0
        self.refusals = Refusals(self._report)
        self.on_down: Callable[[], object] = _do_nothing
        self.on_up: Callable[[], object] = _do_nothing
        self.raw_takers: dict[int, Callable[[bytes, bytes, bytes | None], None]] = {}
        self._client: Any = None
        self._client_tasks: ClientTasks | None = None
        self._starting: asyncio.Task[None] | None = None
        # The server's last reason for ending or refusing a connection.
        self._reason = ""
        self._reconnect_pause: float = RECONNECT_PAUSE_SECONDS
        self._slow_since: dict[int, float] = {}

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
        self.refusals.reset()
        self._reason = ""
        self._slow_since.clear()
        self.raw_takers.clear()
        broker: Any = self.broker
        broker._connect = self._connect_client
        # Cancelling the task would leave its socket open. It may finish late; `close` ends it.
        self._starting = asyncio.get_running_loop().create_task(self.broker.start())
        await asyncio.wait({self._starting}, timeout=FIRST_CONNECTION_SECONDS)
        if not self._starting.done():
            raise no_server("NATS", FIRST_CONNECTION_SECONDS)
        try:
            self._starting.result()
        except (errors.Error, OSError) as error:
            raise to_driver_error(error) from error
        self._client = client = broker.connection
        self.jetstream = client.jetstream(**broker.config.js_options)
        self._reconnect_pause = client.options["reconnect_time_wait"]
        self._client_tasks = ClientTasks(client, self._on_task_ended, self._on_reconnection_failed)
        self._client_tasks.watch()
        self._add_callbacks(client)
        use_plain_writes(client)
        close_within_a_second(client)
        guard_reader(client, self._max_pending_bytes, self.raw_takers)
        send_pings_in_order(client)
        self._take_error_lines(client)
        self._take_refused_requests(client)
        self._take_new_limits(client)
        if self.broker.middlewares:
            # They may change a message after its size was compared.
            refuse_large_messages(client)
        self._connectivity.mark_up()
        self.start(self._retry_subscriptions())

    async def _connect_client(self) -> Any:
        """Connect, in place of the broker."""
        broker: Any = self.broker
        options: dict[str, Any] = broker._connection_kwargs
        client = SecureClient(demands_tls=options.get("tls") is not None)
        await client.connect_first(**options)
        broker.config.connect(client)
        return client

    def _add_callbacks(self, client: Any) -> None:
        """Add this connection's callbacks to those that the broker was configured with."""
        callbacks: dict[str, Callable[..., Awaitable[None]]] = {
            "_disconnected_cb": self._on_disconnected,
            "_reconnected_cb": self._on_reconnected,
            "_closed_cb": self._on_closed,
            "_error_cb": self._on_error,
            "_lame_duck_mode_cb": self._on_lame_duck,
        }
        for name, callback in callbacks.items():
            both = _call_both(callback, getattr(client, name), self._on_callback_failed)
            setattr(client, name, both)

    def _take_error_lines(self, client: Any) -> None:
        """Handle the server's error lines in place of the client, which would close at most."""

        async def process_err(lower_text: str) -> None:
            # The parser passes the text on in lower case, and subjects have a case. The line itself
            # is still in its buffer.
            line = bytes(client._ps.buf).partition(b"\r\n")[0].decode(errors="replace")
            text = line.removeprefix("-ERR").strip(" '") or lower_text.strip(" '")
            refusal = read_refusal(text)
            if refusal is not None:
                self.refusals.take(refusal)
                return
            self._reason = text
            await client._process_op_err(errors.Error(f"nats: {text}"))

        client._process_err = process_err

    def _take_refused_requests(self, client: Any) -> None:
        """Make a request of the client fail as soon as the server refuses it."""
        request = client.request

        async def request_or_refusal(subject: str, *args: Any, **options: Any) -> Any:
            if not client._resp_sub_prefix:
                await client._init_request_sub()
            inbox = f"{client._resp_sub_prefix.decode()}*"
            refuse_large(client, args[0] if args else b"", options.get("headers"))
            if (earlier := self.refusals.subscription(inbox)) is not None:
                raise earlier
            refusal: asyncio.Future[DriverError] = asyncio.get_running_loop().create_future()

            def refuse(error: DriverError) -> None:
                if not refusal.done():
                    refusal.set_result(error)

            reply = asyncio.get_running_loop().create_task(request(subject, *args, **options))
            try:
                with self.refusals.waiting(subject, refuse), self.refusals.waiting(inbox, refuse):
                    await asyncio.wait({reply, refusal}, return_when=asyncio.FIRST_COMPLETED)
                if not reply.done():
                    raise refusal.result()
                return reply.result()
            finally:
                reply.cancel()

        client.request = request_or_refusal

    def _take_new_limits(self, client: Any) -> None:
        """Make the client use the limits that the server announces while it is connected."""
        process_info = client._process_info

        async def process(info: dict[str, Any], initial_connection: bool = False) -> None:
            if "max_payload" in info:
                client._max_payload = info["max_payload"]
            await process_info(info, initial_connection)

        client._process_info = process

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

    async def wait_until_up(self, deadline: float | None = None) -> None:
        """Wait until there is a connection."""
        if self._connectivity.is_up and not self.client.is_connected:
            # The client calls back a moment after it notices the loss. A publish in between would
            # go into its buffer.
            await self._on_disconnected()
        await super().wait_until_up(deadline)

    def size_error(
        self, event_name: str, body: bytes, headers: Mapping[str, str], limit: int | None = None
    ) -> EncodeError | None:
        """Return the error of an event that is too large to be sent; None if it is not.

        A server ends the connection at a message above its limit.

        Args:
            limit: A limit in bytes besides the server's; None for no other.
        """
        max_bytes: int = self._client._max_payload
        setting = "the server's max_payload"
        if limit is not None and limit < max_bytes:
            max_bytes, setting = limit, "the stream's max_msg_size"
        if len(body) <= max_bytes - MAX_HEADER_LINES_BYTES:
            return None
        size = message_bytes(body, headers)
        if size <= max_bytes:
            return None
        text = f"{size} bytes with the headers are above the limit of {max_bytes}"
        return EncodeError(event_name, f"{text}, {setting}")

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
            await self._reconnect()
            raise no_answer("NATS", REPLY_SECONDS) from error
        # If its reader has ended, the client returns at once, without a PONG.
        if losses != self.losses or not self.client.is_connected:
            raise connection_lost("NATS")

    def would_wait(self, size: int) -> bool:
        """Tell whether the client would wait for the server before it has sent a message."""
        client = self._client
        limit: int = client._max_pending_size
        pending: int = client._pending_data_size
        return 0 < limit < pending + size + MAX_HEADER_LINES_BYTES

    async def send_in_time(self, publish: Coroutine[Any, Any, object], deadline: float) -> bool:
        """Await a publish of the client that would wait; return False if it was not sent in time.

        The client waits for ten seconds. It swallows the cancellation of that wait, and has the
        message in its buffer then.

        Args:
            deadline: The end of the wait, on the loop's clock.
        """
        if asyncio.get_running_loop().time() >= deadline:
            publish.close()
            return False
        try:
            async with asyncio.timeout_at(deadline):
                await publish
        except TimeoutError:
            return False
        return True

    def start_vital(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a coroutine in a task without which the bus would be deaf; its caller cancels it.

        If it fails, the bus closes with the error.
        """
        task = asyncio.get_running_loop().create_task(work)
        task.add_done_callback(self._on_vital_done)
        return task

    def _on_vital_done(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None and not self._connectivity.is_closing:
            failure = DriverError(f"NATS: a task of the driver has failed: {error!r}")
            failure.__cause__ = error
            self.host.fail(failure)

    async def _retry_subscriptions(self) -> None:
        """Send refused subscriptions again from time to time, while the connection lasts.

        An administrator may change rights while clients are connected.
        """
        client = self.client
        while True:
            await asyncio.sleep(REFUSED_SUBSCRIPTION_SECONDS)
            for subscription in [*client._subs.values()]:
                if self.refusals.forget_subscription(subscription.subject):
                    with suppress(errors.Error, OSError):
                        await client._send_subscribe(subscription)

    # -- callbacks of the client

    def _on_callback_failed(self, error: Exception) -> None:
        reason = f"a callback of the broker object has failed: {error!r}"
        self.refusals.report_once(reason, DriverError(f"NATS: {reason}"))

    async def _on_disconnected(self, *_: Any) -> None:
        if self._client_tasks is not None:
            self._client_tasks.watch_reconnection()
        if not self._connectivity.mark_down(self._reason):
            return
        self._reason = ""
        self.refusals.reset()
        self.losses += 1
        self._tasks.cancel()
        self.on_down()

    async def _on_reconnected(self, *_: Any) -> None:
        if self._connectivity.is_closing or self._connectivity.is_up:
            return
        self._reason = ""
        self.client.options["reconnect_time_wait"] = self._reconnect_pause
        if self._client_tasks is not None:
            self._client_tasks.watch()
        self._connectivity.mark_up()
        self.start(self._retry_subscriptions())
        self.on_up()

    async def _on_closed(self, *_: Any) -> None:
        if not self._connectivity.is_closing:
            # With the broker's own limit of attempts, or without `allow_reconnect`.
            reason = self._reason or str(self.client.last_error or "").removeprefix("nats: ")
            text = "NATS: the client has closed, as the broker's settings say"
            self.host.fail(DriverConnectionError(f"{text}: {reason}" if reason else text))

    def _on_task_ended(self, name: str, error: BaseException | None) -> None:
        if self._connectivity.is_closing:
            return
        text = f"NATS: the client's {name} has ended"
        reason = f"{error!r}" if error is not None else "its reason is in the log of nats"
        self.refusals.report_once(text, DriverError(f"{text} ({reason}); it connects again"))
        self.start(self._reconnect())

    def replace(self) -> None:
        """Replace a connection whose server is silent."""
        self.start(self._reconnect())

    async def _reconnect(self) -> None:
        """Replace the connection, or close the client if its settings allow no other one."""
        client = self.client
        if client.options["allow_reconnect"]:
            await client.force_reconnect()
        else:
            await client.close()

    def _on_reconnection_failed(self, error: BaseException) -> None:
        if self._connectivity.is_closing or self._client_tasks is None:
            return
        if isinstance(error, Exception):
            self._on_failed_attempt(error)
        self.start(self._connect_again(self._client_tasks))

    async def _connect_again(self, client_tasks: ClientTasks) -> None:
        await asyncio.sleep(self.client.options["reconnect_time_wait"])
        client_tasks.reconnect()

    async def _on_lame_duck(self) -> None:
        text = "NATS: the server is about to shut down (lame duck mode)"
        self.refusals.report_once("lame duck mode", DriverError(text))

    async def _on_error(self, error: Exception) -> None:
        if self._connectivity.is_closing:
            return
        if isinstance(error, errors.SlowConsumerError):
            self._on_slow_consumer(error)
        elif not self._connectivity.is_up:
            self._on_failed_attempt(error)
        elif not isinstance(error, OSError | errors.StaleConnectionError):
            # Of a connection that ends, the loss is reported with its reason.
            self.refusals.report_once(str(error), to_driver_error(error))

    def _on_slow_consumer(self, error: errors.SlowConsumerError) -> None:
        now = asyncio.get_running_loop().time()
        lost_at = self._slow_since.get(error.sid)
        self._slow_since[error.sid] = now
        # One report for each series, because very many reports would reach the supervisor.
        if lost_at is None or now - lost_at > SLOW_SERIES_SECONDS:
            text = (
                f"NATS: messages of {error.subject!r} are lost, since too many are waiting already"
            )
            self.host.report(DriverError(text))

    def _on_failed_attempt(self, error: Exception) -> None:
        """Take the error of an attempt to reconnect; a refusal of the server is reported once."""
        if isinstance(error, UNREACHABLE_ERRORS) and not isinstance(error, TLS_ERRORS):
            return
        # The client forgets this socket without closing it.
        self.client._transport.close()
        reason = to_driver_error(error)
        # A caller that waits for the connection gets the reason, too.
        self._connectivity.mark_down(str(reason).removeprefix("NATS: "))
        options: dict[str, Any] = self.client.options
        # The broker's own pause may be a longer one.
        options["reconnect_time_wait"] = max(
            self._reconnect_pause,
            min(MAX_REFUSED_PAUSE_SECONDS, 2 * options["reconnect_time_wait"]),
        )
        self.refusals.report_once(str(reason), reason)

    def _report(self, error: DriverError) -> None:
        if not self._connectivity.is_closing:
            self.host.report(error)


def to_driver_error(error: Exception) -> DriverError:
    """Return the `DriverError` for an error of nats-py; a `DriverError` is returned as it is."""
    if isinstance(error, js_errors.APIError) and error.description:
        text = f"JetStream: {error.description} (error {error.err_code})"
    else:
        text = str(error).removeprefix("nats: ").strip(" '")
    if _LOGIN_REFUSAL.search(text):
        refusal = DriverConnectionError(f"NATS: {text} (the server rejects the login)")
        refusal.__cause__ = error
        return refusal
    return map_error("NATS", error, UNREACHABLE_ERRORS, text=text)


def api_error(fields: Mapping[str, Any]) -> DriverError:
    """Return the `DriverError` for the error in a reply of JetStream."""
    return DriverError(
        f"NATS: JetStream: {fields.get('description')} (error {fields.get('err_code')})"
    )


def _call_both(
    first: Callable[..., Awaitable[None]],
    second: Callable[..., Awaitable[object]] | None,
    on_failed: Callable[[Exception], object],
) -> Callable[..., Awaitable[None]]:
    async def call(*args: Any) -> None:
        await first(*args)
        if second is not None:
            # An exception would end the task of the client that calls. FastStream raises a refused
            # login, which is reported already.
            try:
                await second(*args)
            except errors.Error:
                pass
            except Exception as error:  # noqa: BLE001 - the user's own
                on_failed(error)

    return call


def _do_nothing() -> None:
    """Do nothing: the adapter set no callback."""
