"""The adapter for MQTT: every bus gets every event, or, in a group, one of its buses; at most once.

Theory of operation: Events travel with QoS 1 in both directions. The server sends a PUBACK once it
has taken a publish. A message is acknowledged as soon as it is delivered to the bus, not when its
listeners have finished: MQTT offers no way to return a message, and when a member of a group
leaves, its server drops the messages that this member has not acknowledged. So a listener that may
fail needs the option `retry`.

The bus subscribes to filters that do not overlap (`filters` explains why). When names and patterns
are added or removed, the set of filters changes. A new filter is subscribed first, and then the
filters that it replaces are unsubscribed, so no message is lost. In between, and shortly
afterwards, a message may arrive by both. For that time, `_is_copy` looks for such copies.

All filters are subscribed again on each new connection, and every `CHECK_SECONDS`, since a server
may lose a subscription or its administrator may remove it. Filters that the server refuses by then
are reported once; the others and the publisher go on.

The messages that wait for the bus are bounded in bytes. If they reach the bound, the transport
stops reading, and the server keeps the rest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import zmqtt
from faststream.mqtt import MQTTBroker

from goevent import DriverError
from goevent.drivers import Backlog, Capabilities

from .._adapter.connection import checked_broker
from .._adapter.contract import (
    MAX_IN_FLIGHT_EVENTS,
    Adapter,
    AdapterHost,
    Arrival,
    Decision,
    Outgoing,
)
from .._adapter.middlewares import MiddlewareChain
from .._adapter.properties import merge_headers
from .._adapter.subscribed_names import SubscribedNames
from .._adapter.subscribers import SUBSCRIBER_OPTIONS
from .._config import BrokerConfig
from .arrivals import DeliveredMessages, MessageQueue, content_key
from .connection import MQTT_ERRORS, MqttConnection, make_broker as make_broker
from .direct import MqttDirectMessages
from .filters import CoveringFilters
from .inspection import MqttInspection
from .publisher import MqttPublisher
from .subscriptions import MqttSubscriptions
from .topics import event_name_of, topic_of

DEFAULT_TOPIC_PREFIX = "goevent."
# The part of `prefetch_bytes` that may wait for the bus, beside the messages that the bus holds.
WAITING_SHARE = 8
CHECK_SECONDS = 30.0  # between two requests that subscribe to everything again
FILTER_CHANGE_SECONDS = 1.0  # for which copies may arrive by a filter that is being replaced
MAX_REMEMBERED_COPIES = 10_000


def make_adapter(broker: object, config: BrokerConfig, address: object) -> Adapter:
    """Return the adapter for MQTT.

    Raises:
        TypeError: The broker is not an MQTTBroker, or there is an address.
        ValueError: The config has a stream.
    """
    if address is not None:
        raise TypeError(f"MQTT has no addresses of events but topics, not {address!r}")
    if config.stream is not None:
        raise ValueError("MQTT has no streams: it keeps nothing")
    return MqttAdapter(checked_broker(broker, MQTTBroker), config)


class MqttAdapter:
    """MQTT, over one connection."""

    def __init__(self, broker: MQTTBroker, config: BrokerConfig) -> None:
        self._broker = broker
        self._group = config.group
        self._max_waiting = config.prefetch, config.prefetch_bytes // WAITING_SHARE
        self._prefix = topic_of(DEFAULT_TOPIC_PREFIX if config.prefix is None else config.prefix)
        self._connection = MqttConnection(
            broker,
            config.publish_timeout,
            prefetch=config.prefetch,
            # In a group, the other members get the messages that arrive while this bus is away.
            session_seconds=0.0 if config.group else config.claim_idle,
        )
        self._connection.open_queue = self._open_queue
        self._connection.on_connect = self._on_connect
        self._connection.on_down = self._on_down
        self._publisher = MqttPublisher(broker, self._connection, self._prefix)
        self.direct = MqttDirectMessages(self._connection, self._prefix)
        self.inspection = MqttInspection(self._connection, config, self._prefix, _headers_of)
        self._middlewares = MiddlewareChain()
        self._subscribed = SubscribedNames()
        self._filters = CoveringFilters()
        self._subscriptions = MqttSubscriptions(
            self._connection,
            topic=lambda filter_: f"{self._prefix}{filter_}",
            share="" if config.group is None else f"$share/{config.group}/",
        )
        self._delivered = DeliveredMessages(self._connection.max_unacknowledged)
        self._queue: MessageQueue | None = None
        self._receiving: asyncio.Task[None] | None = None
        self._filters_lock = asyncio.Lock()
        # The content of messages that arrived once during a change of filters, the oldest first;
        # None without one.
        self._seen_once: dict[int, None] | None = None
        self._change_end: asyncio.TimerHandle | None = None
        # The messages that had arrived at the end of the change, and wait for the bus.
        self._last_copies = 0

    @property
    def capabilities(self) -> Capabilities:
        """The guarantees of MQTT."""
        return Capabilities(
            fan_out=self._group is None,
            lossless=False,
            # Mosquitto loses the order of messages that wait for a full window.
            ordered=False,
            in_flight=MAX_IN_FLIGHT_EVENTS,
            replies=True,
        )

    async def open(self, host: AdapterHost) -> None:
        """Connect.

        Raises:
            DriverConnectionError: No server answers, or it rejects the login.
        """
        self._forget()
        self._filters_lock = asyncio.Lock()
        self._publisher.reset()
        self.direct.reset()
        await self._connection.open(host)
        await self._middlewares.open(self._broker, self._make_subscriber)
        self._connection.start_vital(self._check_subscriptions())

    def _make_subscriber(self) -> Any:
        broker: Any = self._broker
        subscriber = broker.subscriber("goevent", **SUBSCRIBER_OPTIONS)
        subscriber._parser = subscriber._build_parser().parse_message
        return subscriber

    async def close(self) -> None:
        """Disconnect."""
        if self._receiving is not None:
            self._receiving.cancel()
        await self.direct.close()
        await self._connection.close()
        self._forget()

    def _forget(self) -> None:
        self._subscribed.clear()
        self._filters.clear()
        self._subscriptions.clear()
        self._delivered.clear()
        self._end_change()
        self._queue = self._receiving = None

    # -- subscriptions

    async def subscribe(self, names: Sequence[str]) -> None:
        """Subscribe to names and patterns; returns when the server has confirmed it."""
        await self._connection.wait_until_up()
        async with self._filters_lock:
            new = [name for name in dict.fromkeys(names) if name not in self._subscribed]
            self._filters.add(new)
            for name in new:
                self._subscribed.add(name)
            is_done = False
            try:
                await self._change_filters()
                is_done = True
            finally:
                if not is_done:
                    self._filters.remove(new)
                    for name in new:
                        self._subscribed.remove(name)

    async def unsubscribe(self, names: Sequence[str]) -> None:
        """Unsubscribe from names and patterns."""
        async with self._filters_lock:
            self._filters.remove([name for name in names if self._subscribed.remove(name)])
            if self._connection.is_up:
                await self._change_filters()
            else:
                self._subscriptions.change_later(*self._filters.changes())
                self._filters.commit()

    async def _change_filters(self) -> None:
        """Subscribe to the filters that names and patterns need, and unsubscribe from others.

        Raises:
            DriverError: The server refuses a new filter, or does not answer. Nothing has changed.
        """
        added, removed = self._filters.changes()
        is_replacement = bool(removed and added)
        if is_replacement:
            self._begin_change()
        try:
            # First the new filters: a message that only an old one matches now must not be missed.
            await self._subscriptions.add(added)
            self._filters.commit()
            try:
                await self._subscriptions.remove(removed)
            except DriverError as error:
                # The events of the new filters come all the same.
                self._connection.host.report(error)
        finally:
            if is_replacement:
                loop = asyncio.get_running_loop()
                self._change_end = loop.call_later(FILTER_CHANGE_SECONDS, self._await_last_copies)

    def _begin_change(self) -> None:
        """Look for copies from now on. The messages of a change before this one stay known."""
        seen_once = {} if self._seen_once is None else self._seen_once
        self._end_change()
        self._seen_once = seen_once

    def _await_last_copies(self) -> None:
        """Look for copies no longer, once the messages that have arrived are delivered."""
        self._last_copies = 0 if self._queue is None else self._queue.qsize()
        if not self._last_copies:
            self._end_change()

    def _end_change(self) -> None:
        if self._change_end is not None:
            self._change_end.cancel()
        self._change_end = self._seen_once = None
        self._last_copies = 0

    async def _check_subscriptions(self) -> None:
        """Subscribe to all filters again, from time to time, until cancelled."""
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            # A lost connection cancels nothing here, but it ends every request.
            with suppress(DriverError):
                async with self._filters_lock:
                    if self._connection.is_up:
                        await self._subscriptions.renew()
                await self.direct.renew()

    def _on_drop(self, message: zmqtt.Message) -> None:
        text = f"MQTT: messages of {message.topic!r} are lost, since too many are waiting already"
        self._connection.host.report(DriverError(text))

    async def stop_receiving(self) -> None:
        """Unsubscribe from everything, and deliver the messages that have arrived."""
        async with self._filters_lock:
            self._filters.clear()
            await self._subscriptions.remove_all()
        if self._queue is not None and self._receiving is not None:
            self._queue.put_nowait(None)
            await asyncio.wait({self._receiving})

    # -- reconnects

    def _open_queue(self) -> MessageQueue:
        self._on_down()
        self._delivered.connection_lost()
        if self._last_copies:
            self._end_change()
        self._queue = queue = MessageQueue(*self._max_waiting, self._on_drop)
        self._subscriptions.attach(queue)
        self._receiving = self._connection.start_vital(self._receive(queue))
        return queue

    async def _on_connect(self) -> None:
        # A change of the filters that was under way has ended with the connection.
        async with self._filters_lock:
            await self._subscriptions.restore()
        if self._connection.has_lost_session and self._subscriptions:
            text = "MQTT: the server has forgotten the session, with the messages that it kept"
            self._connection.host.report(DriverError(text))

    def _on_down(self) -> None:
        if self._receiving is not None:
            self._receiving.cancel()

    # -- receiving

    async def _receive(self, queue: MessageQueue) -> None:
        """Deliver the messages of a connection, one after the other, until it is lost."""
        # This does the work of the client's `get_message`, without a task and a timeout for each
        # message.
        while (message := await queue.get()) is not None:
            await self._deliver(message)
            if self._last_copies:
                self._last_copies -= 1
                if not self._last_copies:
                    self._end_change()

    async def _deliver(self, message: Any) -> None:
        name = ""
        # The filter `goevent/#` also matches the topic `goevent`, which is not an event name.
        if message.topic.startswith(self._prefix):
            name = event_name_of(message.topic.removeprefix(self._prefix))
        is_wanted = bool(name) and self._subscribed.match(name) is not None
        # `_is_copy` counts each message that the listeners would get, so it has to be asked last.
        if is_wanted and not message.retain and not self._is_copy(message):
            arrival = Arrival(name, "", message.payload, _headers_of(message), raw=message)
            if self._middlewares.is_active:
                await self._run_middlewares(message, arrival)
            else:
                await self._connection.host.deliver(arrival)
        self._delivered.note(message)
        # If the connection is lost, the message comes again and is recognised.
        with suppress(*MQTT_ERRORS):
            await message.ack()

    def _is_copy(self, message: zmqtt.Message) -> bool:
        """Tell whether a message was delivered on an earlier connection or by another filter."""
        if self._delivered.is_repetition(message):
            return True
        if self._seen_once is not None:
            # Copies come in pairs: the second one of a pair is dropped.
            key = content_key(message)
            if key in self._seen_once:
                del self._seen_once[key]
                return True
            self._seen_once[key] = None
            if len(self._seen_once) > MAX_REMEMBERED_COPIES:
                del self._seen_once[next(iter(self._seen_once))]
        return False

    async def _run_middlewares(self, message: Any, arrival: Arrival) -> None:
        passed: list[Arrival] = []
        try:
            await self._middlewares.run(message, partial(passed.append, arrival))
        except Exception as error:  # noqa: BLE001 - a middleware's own
            self._connection.host.report(error, arrival.name)
        for each in passed:
            await self._connection.host.deliver(each)

    # -- the rest of the contract

    async def publish(self, burst: Sequence[Outgoing]) -> None:
        """Publish events; the server confirms each, with or without a subscriber."""
        await self._publisher.publish(burst)

    async def settle(self, decisions: Sequence[Decision]) -> None:
        """Do nothing: messages are acknowledged when they are delivered."""

    def backlogs(self) -> tuple[Backlog, ...]:
        """Return nothing: MQTT stores nothing."""
        return ()


def _headers_of(message: Any) -> Mapping[str, str]:
    properties = message.properties
    if properties is None:
        return {}
    correlation = properties.correlation_data
    return merge_headers(
        dict(properties.user_properties),
        properties.content_type,
        None if correlation is None else correlation.decode(errors="replace"),
    )
