"""The publisher of MQTT: a burst goes out in one piece, and the PUBACKs come as they come.

The client's own publish waits for each PUBACK with a task that ours would need a second one for;
FastStream's is what runs when the broker has middlewares.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any

import zmqtt
from faststream.mqtt import MQTTBroker
from zmqtt._internal.packets.publish import Publish
from zmqtt._internal.state import QoS1Flight

from goevent import DriverConnectionError, DriverError

from .._adapter.contract import Outgoing, Result, publish_each
from .._adapter.properties import split_properties
from .connection import ANSWER, LOST, MqttLink, to_driver_error
from .topics import topic

QOS = zmqtt.QoS.AT_LEAST_ONCE
FAILURES = 0x80  # reason codes from here on


class Publisher:
    """Publishes events under one prefix."""

    def __init__(self, broker: MQTTBroker, link: MqttLink, prefix: str) -> None:
        self._broker = broker
        self._link = link
        self._prefix = prefix
        self._order = asyncio.Lock()

    def open(self) -> None:
        """Begin on another loop."""
        self._order = asyncio.Lock()

    async def publish(self, burst: Sequence[Outgoing]) -> None:
        """Publish a burst in order, and tell each event's end."""
        if self._broker.middlewares:
            await publish_each(burst, self._by_broker)
            return
        waiting: list[asyncio.Future[Any]] = []
        done = 0
        try:
            async with self._order:
                while done < len(burst):
                    room, count = await self._link.take_room(len(burst) - done)
                    some = burst[done : done + count]
                    futures = [_begin(room, outgoing) for outgoing in some]
                    waiting += futures
                    done += count
                    await self._send(some, futures)
        except DriverError as error:
            for outgoing in burst[done:]:
                outgoing.done(error)
        if waiting:
            _, silent = await asyncio.wait(waiting, timeout=ANSWER)
            for future in silent:
                future.cancel()

    async def _send(
        self, burst: Sequence[Outgoing], futures: Sequence[asyncio.Future[Any]]
    ) -> None:
        """Send a burst as `publish` of the client does for one message."""
        try:
            protocol = self._link.client._protocol
            protocol._ensure_alive()
            state, data = protocol._state, bytearray()
            for outgoing, future in zip(burst, futures, strict=True):
                packet = Publish(
                    topic=self._prefix + topic(outgoing.name),
                    payload=outgoing.body,
                    qos=QOS,
                    retain=False,
                    dup=False,
                    packet_id=state.packet_ids.acquire(),
                    properties=self._properties(outgoing),
                )
                data += protocol._encode(packet)
                flight = QoS1Flight(packet_id=packet.packet_id or 0, publish=packet, future=future)
                state.inflight_qos1[packet.packet_id] = flight
            await protocol._transport.write(bytes(data))
        except Exception as error:  # noqa: BLE001 - the client's own
            for future in futures:
                if not future.done():
                    future.set_exception(to_driver_error(error))

    def _properties(self, outgoing: Outgoing) -> zmqtt.PublishProperties | None:
        if self._link.is_modern:
            content_type, correlation_id, headers = split_properties(outgoing)
            return zmqtt.PublishProperties(
                content_type=content_type,
                correlation_data=correlation_id.encode(),
                user_properties=tuple(headers.items()),
            )
        if outgoing.headers:
            raise DriverError("MQTT: version 3.1.1 has no headers")
        return None

    async def _by_broker(self, outgoing: Outgoing) -> Result:
        # FastStream's publish has no place for a content type: without one, JSON is tried.
        _, correlation_id, headers = split_properties(outgoing)
        room, _ = await self._link.take_room(1)
        try:
            async with asyncio.timeout(ANSWER):
                await self._broker.publish(
                    outgoing.body,
                    self._prefix + topic(outgoing.name),
                    qos=QOS,
                    headers=headers,
                    correlation_id=correlation_id,
                )
        except Exception as error:  # noqa: BLE001 - the client's, or a middleware's own
            return to_driver_error(error)
        finally:
            room.release()
        return None


def _begin(room: asyncio.Semaphore, outgoing: Outgoing) -> asyncio.Future[Any]:
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    future.add_done_callback(partial(_acknowledged, room, outgoing))
    return future


def _acknowledged(room: asyncio.Semaphore, outgoing: Outgoing, future: asyncio.Future[Any]) -> None:
    room.release()
    error: BaseException | None
    if future.cancelled():
        error = DriverConnectionError(f"MQTT: no answer within {ANSWER:g} s")
    else:
        error = future.exception()
    if isinstance(error, Exception):
        outgoing.done(to_driver_error(error))
    elif error is not None:
        outgoing.done(DriverConnectionError(LOST))
    elif future.result().reason_code >= FAILURES:
        code = future.result().reason_code
        outgoing.done(DriverError(f"MQTT: the server has refused it, with code 0x{code:02X}"))
    else:
        outgoing.done(None)
