"""The direct messages of a bus on MQTT, with a group or without.

They travel over a connection of their own, which is opened for the first address or message: the
transport of the events' connection stops reading while the bus is full, and direct messages would
wait behind them. Their topics begin with `goevent.direct/`. An event has no topic with a dot.

They are published with QoS 1, so that the server tells that it has taken a message, or over MQTT 5
that nobody has subscribed to its topic. They are delivered with QoS 0: Mosquitto keeps the order of
these only, and nothing comes twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import zmqtt
from faststream.mqtt import MQTTBroker

from goevent import DriverConnectionError, DriverError
from goevent.drivers import Receipt, TakeDirect

from .._adapter.contract import Arrival, Outgoing, OutgoingDirect, Result, failed_publish
from .arrivals import MessageQueue
from .connection import MqttConnection
from .publisher import MqttPublisher
from .subscriptions import MqttSubscriptions
from .topics import topic_of

# It has a dot, so it is the beginning of no event's topic.
DIRECT_ROOT = "goevent.direct/"
SEND_ON_CLOSE_SECONDS = 0.3
# Losing both connections is one report: that of the events' connection.
LOSS_REPORT_SECONDS = 0.2


class DirectMessageQueue(MessageQueue):
    """Takes each message at once, so that it is never full."""

    def __init__(self, take: Callable[[Any], None]) -> None:
        super().__init__(1, 1, take)
        self._take = take

    @property
    def is_full(self) -> bool:
        """Never: the bridge has a bound of its own."""
        return False

    async def put(self, item: Any) -> None:
        """Take a message."""
        self._take(item)


class MqttDirectMessages:
    """The direct messages of one bus.

    Args:
        connection: The connection for events.
        prefix: The beginning of the events' topics. Buses with another one have other addresses.
    """

    def __init__(self, connection: MqttConnection, prefix: str) -> None:
        self._events = connection
        self._root = f"{DIRECT_ROOT}{prefix}"
        # Its options are those of the events' connection, whatever is given here.
        self._broker = MQTTBroker(logger=None, apply_types=False)
        self._connection = connection.beside(self._broker)
        self._connection.open_queue = self._open_queue
        self._connection.on_connect = self._on_connect
        self._subscriptions = MqttSubscriptions(
            self._connection, topic=lambda topic: topic, share="", qos=zmqtt.QoS.AT_MOST_ONCE
        )
        self._publisher = MqttPublisher(
            self._broker, self._connection, self._root, tells_nobody=True
        )
        self._host = _DirectHost(connection)
        self.reset()

    def reset(self) -> None:
        """Start without addresses on another event loop."""
        self._lock = asyncio.Lock()
        # Taken by each burst, so that those that come during the opening keep their order.
        self._opening = asyncio.Lock()
        self._is_open = False
        self._sending: set[asyncio.Task[None]] = set()
        self._take: TakeDirect | None = None
        self._addresses: dict[str, str] = {}  # by their topics
        self._subscriptions.clear()
        self._publisher.reset()

    async def close(self) -> None:
        """Disconnect; the messages that are on their way have a little time."""
        if self._sending and self._is_open and self._connection.is_up:
            await asyncio.wait({*self._sending}, timeout=SEND_ON_CLOSE_SECONDS)
        await self._connection.close()
        self._is_open = False

    async def _ensure_open(self) -> None:
        """Connect for the first time.

        Raises:
            DriverConnectionError: The server does not answer, or rejects the login.
        """
        async with self._opening:
            if not self._is_open:
                # A cancelled opening would leave its socket open.
                await self._events.run_shielded(self._open())

    async def _open(self) -> None:
        try:
            await self._connection.open(self._host)
            self._is_open = True
        finally:
            if not self._is_open:
                await self._connection.close()

    # -- addresses

    async def open_addresses(self, addresses: Sequence[str], take: TakeDirect) -> None:
        """Subscribe to addresses."""
        async with self._lock:
            self._take = take
            await self._ensure_open()
            await self._connection.wait_until_up()
            topics = {self._topic(address): address for address in addresses}
            added = {each: topics[each] for each in topics if each not in self._addresses}
            # First, because messages may arrive before the confirmation does.
            self._addresses.update(added)
            is_open = False
            try:
                await self._subscriptions.add(added)
                is_open = True
            finally:
                if not is_open:
                    for topic in added:
                        del self._addresses[topic]

    async def close_addresses(self, addresses: Sequence[str]) -> None:
        """Unsubscribe from addresses."""
        async with self._lock:
            topics = [self._topic(address) for address in addresses]
            removed = [each for each in topics if self._addresses.pop(each, None) is not None]
            if self._is_open and self._connection.is_up:
                await self._subscriptions.remove(removed)
            else:
                self._subscriptions.change_later((), removed)

    async def renew(self) -> None:
        """Subscribe to all addresses again: the server may have lost some.

        Raises:
            DriverError: The server does not answer.
        """
        async with self._lock:
            if self._is_open and self._connection.is_up:
                await self._subscriptions.renew()

    def _topic(self, address: str) -> str:
        return self._root + topic_of(address)

    def _open_queue(self) -> MessageQueue:
        queue = DirectMessageQueue(self._on_message)
        self._subscriptions.attach(queue)
        return queue

    async def _on_connect(self) -> None:
        await self._subscriptions.restore()

    def _on_message(self, message: Any) -> None:
        address = self._addresses.get(message.topic)
        # A retained message is an old one, from another program.
        if self._take is not None and address is not None and not message.retain:
            self._take(address, bytes(message.payload))

    # -- sending

    def send(self, burst: Sequence[OutgoingDirect]) -> None:
        """Publish messages in a task of their own."""
        task = self._events.start(self._publish(burst))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _publish(self, burst: Sequence[OutgoingDirect]) -> None:
        try:
            await self._ensure_open()
            await self._publisher.publish([_outgoing(message) for message in burst])
        except Exception as error:  # noqa: BLE001 - the messages fail with it, and not the bus
            failure = error if isinstance(error, DriverError) else failed_publish(error)
            for message in burst:
                message.done(failure)


class _DirectHost:
    """The host of the connection for direct messages.

    Args:
        events: The connection for events, which tells whether the server can be reached.
    """

    def __init__(self, events: MqttConnection) -> None:
        self._events = events
        self._is_loss_reported = False
        self._is_lost = False

    def connection_changed(self, connected: bool, reason: str = "") -> None:
        self._is_lost = not connected
        if not connected:
            self._events.start(self._report_loss(reason))
        elif self._is_loss_reported:
            self._is_loss_reported = False
            text = "MQTT: the connection for requests and replies is back"
            self.report(DriverConnectionError(text))

    async def _report_loss(self, reason: str) -> None:
        await asyncio.sleep(LOSS_REPORT_SECONDS)
        if self._events.is_up and self._is_lost:
            self._is_loss_reported = True
            text = "MQTT: the connection for requests and replies is lost; events still arrive"
            self.report(DriverConnectionError(f"{text}: {reason}" if reason else text))

    def report(self, error: Exception, event_name: str = "") -> None:
        self._events.host.report(error, event_name)

    def fail(self, error: DriverError) -> None:
        self._events.host.fail(error)

    def capacity(self) -> int:
        return self._events.host.capacity()

    async def wait_for_capacity(self) -> None:
        await self._events.host.wait_for_capacity()

    def deliver_nowait(self, arrival: Arrival) -> None:
        self._events.host.deliver_nowait(arrival)

    async def deliver(self, arrival: Arrival) -> None:
        await self._events.host.deliver(arrival)


def _outgoing(message: OutgoingDirect) -> Outgoing:
    """Return a direct message as the publisher takes it."""
    answer = partial(_answer, message)
    return Outgoing(message.address, message.data, {}, "", None, _ignore, answer)


def _answer(message: OutgoingDirect, outgoing: Outgoing) -> None:
    result = outgoing.result
    if isinstance(result, Receipt):
        message.done(result.receivers)
    elif result is None or isinstance(result, DriverError):
        message.done(result)
    else:
        failure = DriverError(str(result))
        failure.__cause__ = result
        message.done(failure)


def _ignore(_: Result) -> None:
    """Ignore the result: it goes to the direct message."""
