"""The connection to MQTT: one broker object of FastStream, as long as the bus is open.

`MqttConnection` is owned by the adapter and used by all modules of this room.

Theory of operation: The client of zmqtt can reconnect by itself, but does not report it. So
its reconnect is switched off, and each connection has a client of its own: when it ends, this
module stops and starts the broker, with pauses that grow up to `RECONNECT_PAUSES_SECONDS[-1]`, and
calls the adapter's `on_connect` to subscribe again.

The session on the server outlives the connection, for a bus without a group and with MQTT 5. The
server then keeps the messages that arrive between two connections. This works because the bus
reconnects with the same client id; `open` draws a new one, so that a bus never continues the
session of an earlier one. In a group, the other members receive these messages instead.

The server's reason for ending or refusing a connection is reported once, and callers that wait for
the connection get it, too. While the server refuses, or ends each connection soon, the pauses grow:
if another client uses the same client id, each of the two ends the other's connection.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import uuid
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qsl

import zmqtt
from faststream.mqtt import MQTTBroker
from zmqtt._internal.packets.publish import Publish
from zmqtt.client import _default_transport_factory  # pyright: ignore[reportPrivateUsage]

from goevent import DriverConnectionError, DriverError
from goevent.drivers import jittered, read_tls

from .._adapter.connection import BrokerConnection
from .._adapter.connectivity import (
    DISCONNECT_SECONDS,
    FIRST_CONNECTION_SECONDS,
    REPLY_SECONDS,
)
from .._adapter.contract import AdapterHost
from .._adapter.errors import connection_lost, map_error, no_answer, no_server, not_connected
from .._adapter.tls import probe_tls
from .arrivals import MessageQueue, make_message
from .keep_alive import KEEPALIVE_SECONDS, keep_alive
from .limits import OversizedPacket, ServerLimits, filter_error, limits_of
from .reason_codes import SESSION_TAKEN_OVER, reason_text
from .transport import MqttTransport

QOS = zmqtt.QoS.AT_LEAST_ONCE

RECONNECT_PAUSES_SECONDS = (0.05, 0.25, 1.0)  # the last one repeats
MAX_REFUSED_PAUSE_SECONDS = 5.0  # while the server refuses the connection
TAKEN_OVER_PAUSE_SECONDS = 5.0  # after another client has taken over the session
# A server that ends each connection soon gets pauses that begin here and double.
STABLE_SECONDS = 30.0
SHORT_CONNECTION_PAUSE_SECONDS = 0.25
MAX_SHORT_CONNECTION_PAUSE_SECONDS = 60.0
MAX_SHORT_CONNECTIONS = 3  # in a row, before a report names a likely reason
# Messages without an acknowledgement, if the server announces no limit.
MAX_WINDOW_MESSAGES = 65_535

MQTT_ERRORS = (zmqtt.MQTTError, OSError, RuntimeError, OversizedPacket)
URL_OPTIONS = {"client_id": str, "keepalive": int, "version": str}
# Return codes of CONNACK that users meet most: those of MQTT 3.1.1 below 0x80.
REFUSAL_TEXTS = {
    0x84: "it does not support this version of MQTT",
    0x85: "it does not accept the client id",
    0x86: "it rejects the login",
    0x87: "it rejects the login",
    1: "it does not support this version of MQTT",
    2: "it does not accept the client id",
    3: "it is unavailable",
    4: "it rejects the login",
    5: "it rejects the login",
}
_DISCONNECT_CODE = re.compile("reason code 0x([0-9A-F]{2})")


def make_broker(url: str) -> MQTTBroker:
    """Return FastStream's broker for an `mqtt://` or `mqtts://` URL.

    Raises:
        ValueError: The URL is malformed.
    """
    plain, _, query = url.partition("?")
    scheme = plain.partition("://")[0]
    given = dict(parse_qsl(query, keep_blank_values=True))
    tls = read_tls(given, scheme=scheme, is_tls=scheme == "mqtts")
    context = tls and tls.context()
    options: dict[str, Any] = {"keepalive": KEEPALIVE_SECONDS}
    try:
        for name, value in given.items():
            options[name] = URL_OPTIONS[name](value)
        if options.get("version", "5.0") not in ("5.0", "3.1.1"):
            raise ValueError
        broker = MQTTBroker(plain, logger=None, apply_types=False, **options)
    except (KeyError, ValueError):
        # The original error may show the password, so it must not be the cause.
        raise ValueError(
            "MQTT: the URL has to be mqtt://user:password@host:port, with no options but "
            f"goevent's and {', '.join(URL_OPTIONS)}"
        ) from None
    if context is not None:
        # As `security` it would hide the login in the URL.
        untyped: Any = broker
        untyped._connection_kwargs["tls"] = context
    return broker


class MqttConnection(BrokerConnection):
    """The connection of one broker object.

    Args:
        wait_seconds: How long a caller waits for a lost connection.
        prefetch: How many messages the server may send without an acknowledgement.
        session_seconds: How long the server keeps messages while there is no connection.

    Attributes:
        open_queue: Called on each new connection, before anything arrives on it; returns the queue
            of its messages.
        on_connect: Called afterwards to subscribe again; then the connection is up.
        on_down: Called when the connection is lost.
        has_properties: Whether messages have headers and other properties, as in MQTT 5.
        limits: The limits of the server, as it announced them for the current connection.
        max_unacknowledged: How many messages the server may send without an acknowledgement.
        has_lost_session: The server has forgotten the session of the connection before.
    """

    def __init__(
        self, broker: MQTTBroker, wait_seconds: float, *, prefetch: int, session_seconds: float
    ) -> None:
        super().__init__("MQTT", wait_seconds)
        self.broker = broker
        self.open_queue: Callable[[], MessageQueue | None] = _make_no_queue
        self.on_connect: Callable[[], Awaitable[None]] = _subscribe_nothing
        self.on_down: Callable[[], object] = _do_nothing
        options: dict[str, Any] = self._options
        self.has_properties = options["version"] == "5.0"
        self._draws_client_id = not options["client_id"]
        options["reconnect"] = zmqtt.ReconnectConfig(enabled=False)
        self._connect_transport = options.get("transport_factory") or _default_transport_factory
        options["transport_factory"] = self._make_transport
        self._keeping_alive: asyncio.Task[None] | None = None
        self._silence = ""  # why this side has ended the connection
        self.max_unacknowledged = prefetch
        if self.has_properties:
            options["receive_maximum"] = options["receive_maximum"] or min(
                prefetch, MAX_WINDOW_MESSAGES
            )
            self.max_unacknowledged = options["receive_maximum"]
            is_session_given = bool(options["session_expiry_interval"])
            if session_seconds and options["clean_session"] and not is_session_given:
                options["clean_session"] = False
                options["session_expiry_interval"] = max(1, int(session_seconds))
        self.limits = ServerLimits()
        self._window = asyncio.Semaphore()
        self.has_lost_session = False
        self._expects_session = False
        self._short_connections = 0  # in a row, up to now
        self._connected_at = 0.0

    @property
    def _options(self) -> dict[str, Any]:
        broker: Any = self.broker
        options: dict[str, Any] = broker._connection_kwargs
        return options

    @property
    def client(self) -> Any:
        """The client of the current connection.

        Raises:
            DriverConnectionError: The bus is not open.
        """
        broker: Any = self.broker
        if broker._connection is None:
            raise not_connected("MQTT")
        return broker._connection

    def beside(self, broker: MQTTBroker) -> MqttConnection:
        """Return a second connection to the same server, with the same login and no session.

        Args:
            broker: A broker that serves only this connection. It gets the options of the first one.
        """
        options: Any = broker
        options._connection_kwargs = {
            **self._options,
            "client_id": "",
            "clean_session": True,
            "session_expiry_interval": 0,
            "transport_factory": self._connect_transport,
            "will": None,
        }
        return MqttConnection(
            broker,
            self._connectivity.wait_seconds,
            prefetch=self.max_unacknowledged,
            session_seconds=0.0,
        )

    def make_client(self, client_id: str) -> zmqtt.MQTTClient:
        """Return a client with the same login and without a session, which is not connected."""
        options: dict[str, Any] = {
            **self._options,
            "client_id": client_id,
            "clean_session": True,
            "session_expiry_interval": 0,
            "transport_factory": self._connect_transport,
            "will": None,
        }
        return zmqtt.MQTTClient(**options)

    async def open(self, host: AdapterHost) -> None:
        """Start the broker, which connects.

        Raises:
            DriverConnectionError: No server answers, or it rejects the login.
        """
        self._connectivity.open(host)
        self._expects_session, self._short_connections = False, 0
        if self._draws_client_id:
            self._options["client_id"] = f"goevent{uuid.uuid4().hex[:16]}"
        try:
            await self._connect()
        except TimeoutError as error:
            raise no_server("MQTT", FIRST_CONNECTION_SECONDS) from error
        except MQTT_ERRORS as error:
            raise await self._first_error(error) from error

    async def _first_error(self, error: Exception) -> DriverError:
        """Return the error of the first connection; clients do not tell all failures of TLS."""
        options, mapped = self._options, to_driver_error(error)
        if isinstance(options["tls"], ssl.SSLContext) and "login" not in str(mapped):
            failure = await probe_tls(options["host"], options["port"], options["tls"])
            if failure is not None:
                return to_driver_error(failure)
        return mapped

    async def _connect(self) -> None:
        self._silence = ""
        async with asyncio.timeout(FIRST_CONNECTION_SECONDS):
            await self.broker.connect()
            # The client reads nothing before the next await.
            self._set_up_client()
            await self.broker.start()
        await self.on_connect()
        client, loop = self.client, asyncio.get_running_loop()
        self._connectivity.mark_up()
        self._connected_at = loop.time()
        self._keeping_alive = self.start(self._keep_alive(client))
        client._run_task.add_done_callback(self._on_client_ended)

    def _set_up_client(self) -> None:
        client = self.client
        protocol = client._protocol
        transport: MqttTransport = protocol._transport
        inbound = protocol.inbound
        # Mosquitto 2.0.11 counts an acknowledgement twice and so exceeds the window that it was
        # told. The client would close the connection for that.
        inbound._receive_maximum = None
        inbound._make_message = make_message
        # All filters of a continued session are known before its first message, so the client has
        # to keep none of them until it is subscribed to.
        inbound.begin_session(session_present=False)
        # `keep_alive` sends the pings.
        protocol._effective_keepalive = 0
        state = protocol._state
        transport.queue = queue = self.open_queue()
        transport.awaits_answer = lambda: bool(
            state.inflight_qos1
            or state.inflight_qos2_out
            or state.pending_subs
            or state.pending_unsubs
        )
        if queue is not None:
            queue.on_room = transport.look_again
        info = client.connection_info
        self.limits = limits = limits_of(info.properties)
        _refuse_large_packets(client._protocol, limits.max_packet_bytes)
        self._window = asyncio.Semaphore(limits.max_unacknowledged or MAX_WINDOW_MESSAGES)
        self.has_lost_session = self._expects_session and not info.session_present
        self._expects_session = bool(info.effective_session_expiry_interval)

    async def _make_transport(self, host: str, port: int, tls: Any) -> MqttTransport:
        return MqttTransport(await self._connect_transport(host, port, tls))

    async def _keep_alive(self, client: Any) -> None:
        """End a connection whose server is silent."""
        interval = client.connection_info.effective_keepalive
        silence = await keep_alive(client._protocol, client._protocol._transport, interval)
        self.end_connection(str(silence))

    def end_connection(self, reason: str) -> None:
        """End a connection that is of no use any more; another one follows.

        Args:
            reason: The reason in the report of the lost connection.
        """
        if self.is_up:
            self._silence = reason
            self.start(self.client._protocol.abort())

    def start_vital(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a coroutine in a task whose failure ends the bus, which would be deaf without it."""
        task = self.start(work)
        task.add_done_callback(self._on_vital_end)
        return task

    def _on_vital_end(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            failure = DriverError(f"MQTT: the driver has failed: {error!r}")
            failure.__cause__ = error
            self.host.fail(failure)

    async def close(self) -> None:
        """Disconnect, whether there is a connection or not."""
        self._connectivity.close()
        self._tasks.cancel()
        self._connectivity.mark_down()
        await self._stop()

    async def _stop(self) -> None:
        broker: Any = self.broker
        client = broker._connection
        try:
            async with asyncio.timeout(DISCONNECT_SECONDS):
                await broker.stop()
        except (TimeoutError, *MQTT_ERRORS):
            # The server sees the socket close. Errors of the connection were reported before.
            pass
        finally:
            if client is not None:
                with suppress(TimeoutError, *MQTT_ERRORS):
                    async with asyncio.timeout(DISCONNECT_SECONDS):
                        await client.disconnect()
            # FastStream drops its connection only after an orderly stop, and would use it again.
            broker._connection = None
            broker.config.disconnect()

    async def acquire_window(
        self, max_count: int, deadline: float
    ) -> tuple[asyncio.Semaphore, int]:
        """Wait until the server accepts at least one more message.

        Args:
            max_count: The largest number of messages to send.
            deadline: The end of the wait for a connection.

        Returns:
            A semaphore, and the number of messages that may be sent now. The caller releases the
            semaphore once for each message, when that message has its answer.

        Raises:
            DriverConnectionError: There was no connection in time, or no answer to earlier events.
        """
        while True:
            await self.wait_until_up(deadline)
            window, count = self._window, 1
            if window.locked():
                await self._wait_for_answers(window)
            else:
                await window.acquire()
            # Another connection may have replaced the one that this task waited for.
            if window is self._window and self.is_up:
                client = self.client
                if not client._protocol._dead:
                    break
                # The answers that made room were the loss of the connection, which the client is
                # about to tell.
                await asyncio.wait({client._run_task})
        while count < max_count and not window.locked():
            await window.acquire()
            count += 1
        return window, count

    async def _wait_for_answers(self, window: asyncio.Semaphore) -> None:
        try:
            async with asyncio.timeout(REPLY_SECONDS):
                await window.acquire()
        except TimeoutError:
            raise no_answer("MQTT", REPLY_SECONDS) from None

    # -- callbacks of the client

    def _on_client_ended(self, client_task: asyncio.Task[None]) -> None:
        if self._keeping_alive is not None:
            self._keeping_alive.cancel()
        # The loss of the connection is reported in place of the error.
        error = None if client_task.cancelled() else client_task.exception()
        code = _disconnect_code(error)
        if code is not None:
            reason = reason_text(code)
        elif self._silence or error is None or isinstance(error, zmqtt.MQTTDisconnectedError):
            reason = self._silence
        else:
            reason = str(error) or type(error).__name__
        lasted = asyncio.get_running_loop().time() - self._connected_at
        self._short_connections = 0 if lasted > STABLE_SECONDS else self._short_connections + 1
        if not (reason or self._draws_client_id) and (
            self._short_connections > MAX_SHORT_CONNECTIONS
        ):
            reason = f"another client may use the client id {self._options['client_id']!r}, too"
        if self._connectivity.mark_down(reason):
            self.on_down()
            self.start(self._reconnect(self._first_pause(code)))

    def _first_pause(self, code: int | None) -> float:
        """Return the seconds before the first attempt, after a loss with a reason code."""
        pause = TAKEN_OVER_PAUSE_SECONDS if code == SESSION_TAKEN_OVER else 0.0
        if self._short_connections > 1:
            doubled = SHORT_CONNECTION_PAUSE_SECONDS * 2.0 ** min(self._short_connections - 2, 60)
            pause = max(pause, min(MAX_SHORT_CONNECTION_PAUSE_SECONDS, doubled))
        return jittered(pause)

    async def _reconnect(self, first_pause: float) -> None:
        attempts, refusals, reported = 0, 0, ""
        await self._stop()
        await asyncio.sleep(first_pause)
        while True:
            try:
                await self._connect()
                break
            except (TimeoutError, DriverError, *MQTT_ERRORS) as error:
                pause = RECONNECT_PAUSES_SECONDS[min(attempts, len(RECONNECT_PAUSES_SECONDS) - 1)]
                # The outage itself is reported already; only a refusal is reported, and only once.
                if isinstance(error, zmqtt.MQTTConnectError):
                    refusal = to_driver_error(error)
                    pause = min(MAX_REFUSED_PAUSE_SECONDS, pause * 2.0**refusals)
                    refusals += 1
                    # A caller that waits for the connection gets the reason, too.
                    self._connectivity.mark_down(str(refusal).removeprefix("MQTT: "))
                    if reported != str(refusal):
                        reported = str(refusal)
                        self.host.report(refusal)
                # With jitter: all buses lose a server at the same moment.
                await asyncio.sleep(jittered(pause))
                attempts += 1
            await self._stop()


def to_driver_error(error: Exception) -> DriverError:
    """Return the `DriverError` for an error of the client; a `DriverError` is returned as it is."""
    if isinstance(error, zmqtt.MQTTConnectError):
        code = error.return_code
        reason = REFUSAL_TEXTS.get(code) or reason_text(code)
        if error.reason_string:
            reason = f"{reason}: {error.reason_string}"
        refusal: DriverError = DriverConnectionError(f"MQTT: the server refuses us: {reason}")
    elif isinstance(error, TimeoutError):
        refusal = no_answer("MQTT", REPLY_SECONDS)
    elif isinstance(error, zmqtt.MQTTDisconnectedError):
        refusal = connection_lost("MQTT")
        if (cause := _disconnect_code(error)) is not None:
            refusal = DriverConnectionError(f"{refusal}: {reason_text(cause)}")
    elif isinstance(error, zmqtt.MQTTSubscribeError):
        (topic_filter, code), *_ = error.failures.items()
        refusal = filter_error(topic_filter, reason_text(code))
    elif isinstance(error, zmqtt.MQTTPublishError):
        refusal = rejected_event(error.reason_code, error.reason_string)
    else:
        return map_error("MQTT", error, (zmqtt.MQTTTimeoutError, OSError))
    refusal.__cause__ = error
    return refusal


def rejected_event(code: int, reason_string: str | None) -> DriverError:
    """Return the error of an event that the server rejects."""
    return DriverError(f"MQTT: the server rejects the event: {reason_text(code, reason_string)}")


def _disconnect_code(error: BaseException | None) -> int | None:
    """Return the reason code with which the server ended a connection; None without one."""
    while isinstance(error, zmqtt.MQTTDisconnectedError):
        if found := _DISCONNECT_CODE.search(str(error)):
            return int(found[1], 16)
        error = error.__cause__
    return None


def _refuse_large_packets(protocol: Any, limit: int) -> None:
    """Make the client compare each packet with the server's Maximum Packet Size."""
    encode = protocol._encode

    def encode_if_small(packet: Any) -> bytes:
        data: bytes = encode(packet)
        if len(data) > limit:
            if isinstance(packet, Publish):
                # The client's own `publish` awaits its acknowledgement already.
                protocol._state.inflight_qos1.pop(packet.packet_id, None)
                protocol._state.packet_ids.release(packet.packet_id)
            raise OversizedPacket(len(data), limit)
        return data

    protocol._encode = encode_if_small


def _make_no_queue() -> MessageQueue | None:
    """Return no queue: the adapter set no callback."""
    return None


async def _subscribe_nothing() -> None:
    """Subscribe to nothing: the adapter set no callback."""


def _do_nothing() -> None:
    """Do nothing: the adapter set no callback."""
