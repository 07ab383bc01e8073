"""The publisher of MQTT: it writes a batch of events at once and takes their PUBACKs as they come.

Theory of operation: The client's own publish waits for each PUBACK, which would cost one more task
per event. This module does the client's work for a whole batch instead: it encodes the PUBLISH
packets, registers one future per packet in the client's state, and writes them with one call. A
broker with middlewares publishes through FastStream, since its middlewares run there.

The server announces how many events it accepts without a PUBACK, and may close the connection of a
client that sends more. `MqttConnection.acquire_window` enforces that limit. An event that is too
large for the server fails alone, before anything is sent.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import zmqtt
from faststream.mqtt import MQTTBroker
from zmqtt._internal.packets.publish import Publish
from zmqtt._internal.state import QoS1Flight

from goevent import DriverConnectionError, DriverError, EncodeError, GoEventError
from goevent.drivers import READ_SILENCE_SECONDS, Receipt

from .._adapter.connectivity import REPLY_SECONDS
from .._adapter.contract import Outgoing, Result, publish_each
from .._adapter.errors import connection_lost, may_have_arrived
from .._adapter.properties import split_properties
from .connection import QOS, MqttConnection, rejected_event, to_driver_error
from .limits import MAX_TEXT_BYTES, OversizedPacket
from .reason_codes import MIN_FAILURE_CODE, NO_SUBSCRIBERS_CODE
from .topics import topic_of

# Until a connection is replaced on which an event has no answer.
UNANSWERED_SECONDS = READ_SILENCE_SECONDS


class MqttPublisher:
    """Publishes events under one prefix.

    Args:
        tells_nobody: Whether the result of an event is a receipt with 0 receivers if the server
            says that nobody has subscribed to it, as servers of MQTT 5 may do.
    """

    def __init__(
        self,
        broker: MQTTBroker,
        connection: MqttConnection,
        prefix: str,
        *,
        tells_nobody: bool = False,
    ) -> None:
        self._broker = broker
        self._connection = connection
        self._prefix = prefix
        self._tells_nobody = tells_nobody
        self._send_lock = asyncio.Lock()

    def reset(self) -> None:
        """Prepare for another event loop."""
        self._send_lock = asyncio.Lock()

    async def publish(self, burst: Sequence[Outgoing]) -> None:
        """Publish events in order, and report the result of each."""
        if self._broker.middlewares:
            await publish_each(burst, self._publish_with_middlewares)
            return
        pending: list[asyncio.Future[Any]] = []
        sent = 0
        deadline = self._connection.deadline()
        try:
            # The window may be smaller than the burst. The lock keeps the next burst behind the
            # parts of this one.
            async with self._send_lock:
                while sent < len(burst):
                    window, count = await self._connection.acquire_window(
                        len(burst) - sent, deadline
                    )
                    part = burst[sent : sent + count]
                    futures = [self._pending_reply(window, outgoing) for outgoing in part]
                    pending += futures
                    sent += count
                    await self._send(part, futures)
        except DriverError as error:
            for outgoing in burst[sent:]:
                outgoing.done(error)
        if pending:
            _, unanswered = await asyncio.wait(pending, timeout=REPLY_SECONDS)
            if unanswered:
                for outgoing in burst[:sent]:
                    if not outgoing.is_done:
                        outgoing.done(_error_after_send(TimeoutError()))
                loop = asyncio.get_running_loop()
                loop.call_later(UNANSWERED_SECONDS - REPLY_SECONDS, self._give_up, unanswered)

    def _pending_reply(self, window: asyncio.Semaphore, outgoing: Outgoing) -> asyncio.Future[Any]:
        """Return the future for the PUBACK of an event, which reports the result of the event."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        future.add_done_callback(
            partial(_report_result, window, outgoing, tells_nobody=self._tells_nobody)
        )
        return future

    def _give_up(self, unanswered: Iterable[asyncio.Future[Any]]) -> None:
        """End a connection on which events have no answer: they take up its window for good."""
        if not all(future.done() for future in unanswered):
            reason = f"the server has not answered a publish for {UNANSWERED_SECONDS:g} s"
            self._connection.end_connection(reason)

    async def _send(
        self, burst: Sequence[Outgoing], futures: Sequence[asyncio.Future[Any]]
    ) -> None:
        """Send events as the client's `publish` does for one message."""
        data = bytearray()
        try:
            protocol = self._connection.client._protocol
            protocol._ensure_alive()
            self._connection.limits.refuse_qos(QOS)
            for outgoing, future in zip(burst, futures, strict=True):
                try:
                    data += self._encode(protocol, outgoing, future)
                except Exception as error:  # noqa: BLE001 - the client's own
                    # It must not take the other events with it.
                    future.set_exception(_event_error(outgoing, error))
        except Exception as error:  # noqa: BLE001 - the client's own
            _fail(futures, to_driver_error(error))
            return
        try:
            await protocol._transport.write(bytes(data))
        except Exception as error:  # noqa: BLE001 - the client's own
            # A part of the data may have been sent.
            _fail(futures, _error_after_send(error))

    def _encode(self, protocol: Any, outgoing: Outgoing, future: asyncio.Future[Any]) -> bytes:
        """Return the packet of an event, whose PUBACK ends the wait of a future."""
        state = protocol._state
        packet_id: int = state.packet_ids.acquire()
        try:
            packet = Publish(
                topic=self._prefix + topic_of(outgoing.name),
                payload=outgoing.body,
                qos=QOS,
                retain=False,
                dup=False,
                packet_id=packet_id,
                properties=self._properties(outgoing),
            )
            data: bytes = protocol._encode(packet)
        except BaseException:
            state.packet_ids.release(packet_id)
            raise
        state.inflight_qos1[packet_id] = QoS1Flight(
            packet_id=packet_id, publish=packet, future=future
        )
        return data

    def _properties(self, outgoing: Outgoing) -> zmqtt.PublishProperties | None:
        if self._connection.has_properties:
            content_type, correlation_id, headers = split_properties(outgoing)
            return zmqtt.PublishProperties(
                content_type=content_type,
                correlation_data=correlation_id.encode(),
                user_properties=tuple(headers.items()),
            )
        if outgoing.headers:
            raise DriverError("MQTT: version 3.1.1 has no headers")
        return None

    async def _publish_with_middlewares(self, outgoing: Outgoing) -> Result:
        # FastStream's publish takes no content type. A receiver without one tries JSON.
        _, correlation_id, headers = split_properties(outgoing)
        window, _ = await self._connection.acquire_window(1, self._connection.deadline())
        try:
            self._connection.limits.refuse_qos(QOS)
            async with asyncio.timeout(REPLY_SECONDS):
                await self._broker.publish(
                    outgoing.body,
                    self._prefix + topic_of(outgoing.name),
                    qos=QOS,
                    headers=headers,
                    correlation_id=correlation_id,
                )
        except (TimeoutError, zmqtt.MQTTDisconnectedError) as error:
            return _error_after_send(error)
        except Exception as error:  # noqa: BLE001 - the client's, or a middleware's own
            return _event_error(outgoing, error)
        finally:
            window.release()
        return None


def _report_result(
    window: asyncio.Semaphore,
    outgoing: Outgoing,
    future: asyncio.Future[Any],
    *,
    tells_nobody: bool,
) -> None:
    # Not earlier: the server counts an event until its answer, even if nobody waits for it.
    window.release()
    error = None if future.cancelled() else future.exception()
    if outgoing.is_done:
        pass
    elif isinstance(error, GoEventError):
        outgoing.done(error)
    elif isinstance(error, Exception):
        outgoing.done(_error_after_send(error))
    elif error is not None or future.cancelled():
        outgoing.done(may_have_arrived(connection_lost("MQTT")))
    elif (answer := future.result()).reason_code >= MIN_FAILURE_CODE:
        text = None if answer.properties is None else answer.properties.reason_string
        outgoing.done(rejected_event(answer.reason_code, text))
    elif tells_nobody and answer.reason_code == NO_SUBSCRIBERS_CODE:
        outgoing.done(Receipt(receivers=0))
    else:
        outgoing.done(None)


def _fail(futures: Iterable[asyncio.Future[Any]], error: Exception) -> None:
    """End the waits that have not ended yet."""
    for future in futures:
        if not future.done():
            future.set_exception(error)


def _error_after_send(error: Exception) -> DriverError:
    """Return the error of an event that was sent, or perhaps sent."""
    mapped = to_driver_error(error)
    return may_have_arrived(mapped) if isinstance(mapped, DriverConnectionError) else mapped


def _event_error(outgoing: Outgoing, error: Exception) -> Exception:
    """Return the error of an event that was not sent."""
    if isinstance(error, OversizedPacket):
        return error.of_event(outgoing.name)
    if isinstance(error, (struct.error, ValueError)) and not isinstance(error, GoEventError):
        reason = f"its topic, a header or a property has more than {MAX_TEXT_BYTES:,} bytes"
        return EncodeError(outgoing.name, reason)
    return to_driver_error(error)
