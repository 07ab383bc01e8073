"""An MQTT 5 server that answers as a test tells it, for answers that Mosquitto cannot give.

It keeps no session and knows no wildcards: it sends a message to each subscription with the same
topic, on any connection.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import trio
from zmqtt._internal.packets.codec import decode, encode
from zmqtt._internal.packets.connect import ConnAck, Connect
from zmqtt._internal.packets.disconnect import Disconnect
from zmqtt._internal.packets.ping import PingReq, PingResp
from zmqtt._internal.packets.properties import ConnAckProperties, PubAckProperties
from zmqtt._internal.packets.publish import PubAck, Publish
from zmqtt._internal.packets.subscribe import SubAck, Subscribe, UnsubAck, Unsubscribe
from zmqtt._internal.types.qos import QoS

from tests.support.faststream_buses import EventsOnlyDriver, FastStreamBus

SUCCESS = 0


@dataclass
class ScriptedMqttServer:
    """A server whose answers a test sets.

    Attributes:
        connack: The properties of its answer to a connection.
        connack_code: The reason code of that answer.
        suback_code: Returns the reason code for a topic filter.
        puback_code: Returns the reason code for a topic.
        reason_string: The text beside the reason code of a PUBACK.
        answers_pings: Whether it answers pings.
        answers_publishes: Whether it answers publishes.
        filters: The topic filters of all requests to subscribe, in order.
        unsubscribed: Those of all requests to unsubscribe.
        requests: The number of filters in each request to subscribe.
        pings: How often a client has sent a ping.
        connections: How often a client has connected.
    """

    connack: ConnAckProperties = field(default_factory=ConnAckProperties)
    connack_code: int = SUCCESS
    suback_code: Callable[[str], int] = lambda _: QoS.AT_LEAST_ONCE
    puback_code: Callable[[str], int] = lambda _: SUCCESS
    reason_string: str | None = None
    answers_pings: bool = True
    answers_publishes: bool = True
    filters: list[str] = field(default_factory=list[str])
    unsubscribed: list[str] = field(default_factory=list[str])
    requests: list[int] = field(default_factory=list[int])
    pings: int = 0
    connections: int = 0
    port: int = 0
    _streams: dict[trio.abc.Stream, set[str]] = field(
        default_factory=dict["trio.abc.Stream", "set[str]"]
    )
    _sending: trio.Lock = field(default_factory=trio.Lock)

    def bus(self, **options: object) -> FastStreamBus:
        """Return a bus on this server, with one connection for its events and no other one."""
        query = "&".join(f"{name}={value}" for name, value in options.items())
        return FastStreamBus(EventsOnlyDriver.from_url(f"mqtt://127.0.0.1:{self.port}?{query}"))

    async def disconnect(self, code: int) -> None:
        """End all connections with a reason code."""
        for stream in [*self._streams]:
            await self._send(stream, Disconnect(reason_code=code))
            await stream.aclose()

    @property
    def now(self) -> set[str]:
        """The filters that are subscribed to now, on any connection."""
        return {each for filters in self._streams.values() for each in filters}

    def forget_subscriptions(self) -> None:
        """Forget all subscriptions, and keep the connections."""
        for filters in self._streams.values():
            filters.clear()

    async def serve(self, stream: trio.abc.Stream) -> None:
        """Serve one connection."""
        received = b""
        try:
            while data := await stream.receive_some():
                received += data
                while (found := decode(received, version="5.0")) is not None:
                    packet, used = found
                    received = received[used:]
                    await self._answer(stream, packet)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            self._streams.pop(stream, None)
            await stream.aclose()

    async def _answer(self, stream: trio.abc.Stream, packet: Any) -> None:
        answer: Any = None
        if isinstance(packet, Connect):
            self.connections += 1
            self._streams[stream] = set()
            answer = ConnAck(
                session_present=False, return_code=self.connack_code, properties=self.connack
            )
        elif isinstance(packet, Subscribe):
            filters = [request.topic_filter for request in packet.subscriptions]
            self.filters += filters
            self.requests.append(len(filters))
            codes = [self.suback_code(each) for each in filters]
            self._streams[stream] |= {
                each for each, code in zip(filters, codes, strict=True) if code < 0x80
            }
            answer = SubAck(packet_id=packet.packet_id, return_codes=tuple(codes))
        elif isinstance(packet, Unsubscribe):
            self.unsubscribed += packet.topic_filters
            self._streams[stream] -= {*packet.topic_filters}
            codes = [SUCCESS for _ in packet.topic_filters]
            answer = UnsubAck(packet_id=packet.packet_id, reason_codes=tuple(codes))
        elif isinstance(packet, Publish):
            code = self.puback_code(packet.topic)
            properties = PubAckProperties(reason_string=self.reason_string) if code else None
            answer = PubAck(
                packet_id=packet.packet_id or 0, reason_code=code, properties=properties
            )
            if code < 0x80:
                await self._forward(packet)
            if not self.answers_publishes:
                answer = None
        elif isinstance(packet, PingReq):
            self.pings += 1
            answer = PingResp() if self.answers_pings else None
        if answer is not None:
            await self._send(stream, answer)

    async def _forward(self, packet: Publish) -> None:
        for stream, filters in [*self._streams.items()]:
            if packet.topic in filters:
                message = Publish(
                    topic=packet.topic,
                    payload=packet.payload,
                    qos=QoS.AT_MOST_ONCE,
                    retain=False,
                    dup=False,
                    properties=packet.properties,
                )
                # The other client may have gone.
                with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    await self._send(stream, message)

    async def _send(self, stream: trio.abc.Stream, packet: Any) -> None:
        async with self._sending:
            await stream.send_all(encode(packet, version="5.0"))


@asynccontextmanager
async def scripted_mqtt_server() -> AsyncGenerator[ScriptedMqttServer]:
    """Run a server inside a `with` block."""
    server = ScriptedMqttServer()
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        server.port = listeners[0].socket.getsockname()[1]
        nursery.start_soon(trio.serve_listeners, server.serve, listeners)
        yield server
        nursery.cancel_scope.cancel()
