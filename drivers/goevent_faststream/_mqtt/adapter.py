"""The adapter for MQTT: every bus gets every event, or, in a group, one of its buses; at most once.

Theory of operation: Events travel with QoS 1 in both directions. The server sends a PUBACK once it
has taken a publish. A message is acknowledged as soon as it is delivered to the bus, not when its
listeners have finished: MQTT offers no way to return a message, and when a member of a group
leaves, its server drops the messages that this member has not acknowledged. So a listener that may
fail needs the option `retry`.

The bus subscribes to filters that do not overlap (`topics` explains why). When names and patterns
are added or removed, the set of filters changes. A new filter is subscribed first, and then the
filters that it replaces are unsubscribed, so no message is lost. In between, and shortly
afterwards, a message may arrive by both. For that time, `_is_copy` looks for such copies.

All filters are subscribed again on each new connection, and every `CHECK_SECONDS`, since a server
may lose a subscription or its administrator may remove it. A filter that the server refuses by then
is reported once; the others and the publisher go on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import zmqtt
from faststream.mqtt import MQTTBroker

from goevent import DriverConnectionError, DriverError
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
from .connection import (
    MQTT_ERRORS,
    QOS,
    MqttConnection,
    make_broker as make_broker,
    to_driver_error,
)
from .publisher import MqttPublisher
from .reason_codes import MIN_FAILURE_CODE, reason_text
from .subscription import MqttMessageQueue, MqttSubscription, content_key, requests_of
from .topics import covering_filters, event_name_of, topic_of

DEFAULT_TOPIC_PREFIX = "goevent."
MAX_QOS_0_MESSAGES = 1000  # in the queue of one subscription
CHECK_SECONDS = 30.0  # between two requests that subscribe to everything again
FILTER_CHANGE_SECONDS = 1.0  # for which copies may arrive by a filter that is being replaced


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
        self._prefetch = config.prefetch
        self._prefix = topic_of(DEFAULT_TOPIC_PREFIX if config.prefix is None else config.prefix)
        self._connection = MqttConnection(
            broker,
            config.publish_timeout,
            prefetch=config.prefetch,
            # In a group, the other members get the messages that arrive while this bus is away.
            session_seconds=0.0 if config.group else config.claim_idle,
        )
        self._connection.on_connect = self._on_connect
        self._connection.on_down = self._on_down
        self._publisher = MqttPublisher(broker, self._connection, self._prefix)
        self._middlewares = MiddlewareChain()
        self._subscribed = SubscribedNames()
        self._subscriptions: dict[str, MqttSubscription] = {}
        self._filters_lock = asyncio.Lock()
        # The content of messages that arrived once during a change of filters; None without one.
        self._seen_once: set[int] | None = None

    @property
    def capabilities(self) -> Capabilities:
        """The guarantees of MQTT."""
        return Capabilities(
            fan_out=self._group is None,
            lossless=False,
            # Mosquitto loses the order of messages that wait for a full window.
            ordered=False,
            in_flight=MAX_IN_FLIGHT_EVENTS,
        )

    async def open(self, host: AdapterHost) -> None:
        """Connect.

        Raises:
            DriverConnectionError: No server answers, or it rejects the login.
        """
        self._subscribed.clear()
        self._subscriptions.clear()
        self._filters_lock = asyncio.Lock()
        self._seen_once = None
        self._publisher.reset()
        await self._connection.open(host)
        await self._middlewares.open(self._broker, self._make_subscriber)
        self._connection.start(self._check_subscriptions())

    def _make_subscriber(self) -> Any:
        broker: Any = self._broker
        subscriber = broker.subscriber("goevent", **SUBSCRIBER_OPTIONS)
        subscriber._parser = subscriber._build_parser().parse_message
        return subscriber

    async def close(self) -> None:
        """Disconnect."""
        for subscription in self._subscriptions.values():
            subscription.task.cancel()
        await self._connection.close()
        self._subscribed.clear()
        self._subscriptions.clear()

    # -- subscriptions

    async def subscribe(self, names: Sequence[str]) -> None:
        """Subscribe to names and patterns; returns when the server has confirmed it."""
        await self._connection.wait_until_up()
        before = {*self._subscribed}
        for name in names:
            self._subscribed.add(name)
        try:
            await self._change_filters()
        except Exception as error:
            for name in {*names} - before:
                self._subscribed.remove(name)
            if isinstance(error, MQTT_ERRORS):
                raise to_driver_error(error) from error
            raise

    async def unsubscribe(self, names: Sequence[str]) -> None:
        """Unsubscribe from names and patterns."""
        for name in names:
            self._subscribed.remove(name)
        if self._connection.is_up:
            try:
                await self._change_filters()
            except MQTT_ERRORS as error:
                raise to_driver_error(error) from error

    async def _change_filters(self) -> None:
        """Subscribe to the filters that names and patterns need, and unsubscribe from others."""
        async with self._filters_lock:
            needed = covering_filters(self._subscribed)
            added, removed = (
                needed - self._subscriptions.keys(),
                self._subscriptions.keys() - needed,
            )
            if removed and added:
                self._seen_once = set()
            try:
                # First the new filters: a message that only an old one matches now must not be
                # missed.
                for filter_ in sorted(added):
                    subscription = MqttSubscription(self._prefetch)
                    await self._start(filter_, subscription)
                    self._subscriptions[filter_] = subscription
                for filter_ in sorted(removed):
                    await self._stop(filter_, self._subscriptions.pop(filter_))
            finally:
                if self._seen_once is not None:
                    loop = asyncio.get_running_loop()
                    loop.call_later(FILTER_CHANGE_SECONDS, self._on_filters_changed)

    def _on_filters_changed(self) -> None:
        # If the next change is under way, its own timer follows.
        if not self._filters_lock.locked():
            self._seen_once = None

    def _topic_filter(self, filter_: str) -> str:
        share = f"$share/{self._group}/" if self._group is not None else ""
        return f"{share}{self._prefix}{filter_}"

    async def _start(self, filter_: str, subscription: MqttSubscription) -> None:
        """Subscribe to a filter on the current connection, and deliver its messages.

        Raises:
            DriverError: The server has no such filters.
            MQTTSubscribeError: The server refuses the filter.
        """
        topic_filter = self._topic_filter(filter_)
        self._connection.limits.refuse_filter(topic_filter)
        options: dict[str, Any] = {}
        if self._connection.has_properties:
            # A retained message is an old one, kept by the server for new subscribers.
            options["retain_handling"] = zmqtt.RetainHandling.DO_NOT_SEND
        client_subscription = self._connection.client.subscribe(
            topic_filter,
            qos=QOS,
            auto_ack=False,
            **options,
        )
        queue = MqttMessageQueue(max(MAX_QOS_0_MESSAGES, self._prefetch), self._on_drop)
        client_subscription._queue = queue
        try:
            await client_subscription.start()
        except zmqtt.MQTTSubscribeError:
            # The client keeps a refused subscription until it is stopped.
            await client_subscription.stop()
            raise
        subscription.client_subscription = client_subscription
        subscription.refusal = ""
        subscription.task = self._connection.start(self._receive(subscription))

    async def _check_subscriptions(self) -> None:
        """Subscribe to all filters again, from time to time, until cancelled."""
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            if not self._connection.is_up:
                continue
            # A lost connection cancels nothing here, but it ends every request.
            with suppress(*MQTT_ERRORS, DriverError):
                async with self._filters_lock:
                    for filter_, subscription in [*self._subscriptions.items()]:
                        await self._renew(filter_, subscription)

    async def _renew(self, filter_: str, subscription: MqttSubscription) -> None:
        """Subscribe to a filter again, or report once that the server refuses it by now."""
        try:
            if subscription.is_on(self._connection.client):
                # The request replaces the server's subscription by an equal one.
                client_subscription = subscription.client_subscription
                protocol = client_subscription._client._protocol
                await protocol._send_subscribe(requests_of(client_subscription), None)
                subscription.refusal = ""
            else:
                await self._start(filter_, subscription)
        except (zmqtt.MQTTSubscribeError, DriverError) as error:
            self._note_refusal(subscription, to_driver_error(error))

    def _note_refusal(self, subscription: MqttSubscription, error: DriverError) -> None:
        if isinstance(error, DriverConnectionError):
            return
        if str(error) != subscription.refusal:
            self._connection.host.report(error)
        subscription.refusal = str(error)

    def _on_drop(self, message: zmqtt.Message) -> None:
        text = f"MQTT: messages of {message.topic!r} are lost, since too many are waiting already"
        self._connection.host.report(DriverError(text))

    async def _stop(self, filter_: str, subscription: MqttSubscription) -> None:
        """Unsubscribe; the subscription's task delivers the messages that have arrived and ends."""
        answer = await subscription.client_subscription.stop()
        refused = [
            code for code in (answer.reason_codes if answer else ()) if code >= MIN_FAILURE_CODE
        ]
        if refused:
            text = f"MQTT: the server refuses to unsubscribe from {self._topic_filter(filter_)!r}"
            self._connection.host.report(DriverError(f"{text}: {reason_text(refused[0])}"))
        subscription.client_subscription._queue.put_nowait(None)

    async def stop_receiving(self) -> None:
        """Unsubscribe from everything, and deliver the messages that have arrived."""
        async with self._filters_lock:
            subscriptions = {**self._subscriptions}
            self._subscriptions.clear()
            for filter_, subscription in subscriptions.items():
                await self._stop(filter_, subscription)
        if subscriptions:
            await asyncio.wait({subscription.task for subscription in subscriptions.values()})

    # -- reconnects

    async def _on_connect(self) -> None:
        for filter_, subscription in [*self._subscriptions.items()]:
            try:
                await self._start(filter_, subscription)
            except (zmqtt.MQTTSubscribeError, DriverError) as error:
                # It must not keep the others, and the publisher, from the connection.
                self._note_refusal(subscription, to_driver_error(error))
        if self._connection.has_lost_session and self._subscriptions:
            text = "MQTT: the server has forgotten the session, with the messages that it kept"
            self._connection.host.report(DriverError(text))

    def _on_down(self) -> None:
        for subscription in self._subscriptions.values():
            subscription.connection_lost()

    # -- receiving

    async def _receive(self, subscription: MqttSubscription) -> None:
        """Deliver the messages of a subscription, one after the other."""
        # This does the work of the client's `get_message`, without a task and a timeout for each
        # message. The task is cancelled when the connection is lost.
        queue: asyncio.Queue[Any] = subscription.client_subscription._queue
        inbound = self._connection.client._protocol.inbound
        while (message := await queue.get()) is not None:
            await self._deliver(subscription, message)
            # The client holds back messages of a continued session; this lets the next ones pass.
            await inbound.drain()

    async def _deliver(self, subscription: MqttSubscription, message: Any) -> None:
        name = ""
        # The filter `goevent/#` also matches the topic `goevent`, which is not an event name.
        if message.topic.startswith(self._prefix):
            name = event_name_of(message.topic.removeprefix(self._prefix))
        via = self._subscribed.match(name) if name else None
        # `_is_copy` counts each message that the listeners would get, so it has to be asked last.
        if via is not None and not message.retain and not self._is_copy(subscription, message):
            arrival = Arrival(name, via, message.payload, _headers_of(message), raw=message)
            if self._middlewares.is_active:
                await self._run_middlewares(message, arrival)
            else:
                await self._connection.host.deliver(arrival)
        subscription.note_delivery(message)
        # If the connection is lost, the message comes again and is recognised.
        with suppress(*MQTT_ERRORS):
            await message.ack()

    def _is_copy(self, subscription: MqttSubscription, message: zmqtt.Message) -> bool:
        """Tell whether a message was delivered on an earlier connection or by another filter."""
        if subscription.is_repetition(message):
            return True
        if self._seen_once is not None:
            # Copies come in pairs: the second one of a pair is dropped.
            key = content_key(message)
            if key in self._seen_once:
                self._seen_once.discard(key)
                return True
            self._seen_once.add(key)
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
