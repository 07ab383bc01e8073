"""The adapter for RabbitMQ without a group: every bus gets every event, at most once.

Theory of operation: Each bus has a queue of its own, which the server deletes with the connection.
The queue is bound to the exchange for events once per name and pattern; the queues of groups are
bound to the same exchange. A message that several of these bindings match comes to the queue once,
so copies need no filter here.

The server sends at most `prefetch` unacknowledged messages. An event is acknowledged as soon as it
is delivered to the bus: the acknowledgement only makes room for the next message. Acknowledgements
are grouped, since one of them covers all earlier messages, too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress

from faststream.rabbit import RabbitBroker, RabbitExchange

from goevent import DriverError
from goevent.drivers import Backlog, Capabilities

from .._adapter.contract import MAX_IN_FLIGHT_EVENTS, AdapterHost, Arrival, Decision, Outgoing
from .._adapter.subscribed_names import SubscribedNames
from .._config import BrokerConfig
from .connection import RABBIT_ERRORS, RabbitConnection, to_driver_error
from .names import MAX_SHORT_STRING_BYTES, binding_key
from .publisher import RabbitPublisher
from .receiver import DeliveryQueue, RabbitDelivery, RabbitReceiver
from .topology import declare_exchange

EVENTS_PER_ACKNOWLEDGEMENT = 64


class RabbitFanOutAdapter:
    """RabbitMQ without a group, over one connection."""

    def __init__(self, broker: RabbitBroker, config: BrokerConfig, exchange: RabbitExchange):
        self._exchange = exchange
        self._prefix = config.prefix or ""
        self._prefetch = config.prefetch
        self._connection = RabbitConnection(broker, config.publish_timeout)
        self._connection.on_connect = self._set_up
        self._publisher = RabbitPublisher(broker, self._connection, exchange.name, self._prefix)
        self._deliveries = DeliveryQueue(self._connection, self._on_delivered)
        self._receiver = RabbitReceiver(
            broker,
            self._prefix,
            is_wanted=_accept_all,
            on_passed=self._on_passed,
            on_stopped=self._on_stopped,
        )
        self._subscribed = SubscribedNames()
        self._queue = ""
        self._consumer_tag = ""

    @property
    def capabilities(self) -> Capabilities:
        """The guarantees of RabbitMQ without a group."""
        return Capabilities(lossless=False, in_flight=MAX_IN_FLIGHT_EVENTS)

    async def open(self, host: AdapterHost) -> None:
        """Connect.

        Raises:
            DriverConnectionError: No server answers, or it rejects the login.
            DriverError: The server refuses the exchange.
        """
        self._subscribed.clear()
        self._deliveries.reset()
        await self._connection.open(host)
        await self._receiver.open()

    async def _set_up(self) -> None:
        """Declare, bind and consume the queue of this bus, on a new connection."""
        channel = self._connection.consume_channel
        self._deliveries.clear()
        await declare_exchange(channel, self._exchange)
        self._queue = (await channel.queue_declare("", exclusive=True, auto_delete=True)).queue
        for pattern in [*self._subscribed]:
            await self._bind(pattern)
        await channel.basic_qos(prefetch_count=self._prefetch)
        consumer = self._receiver.consumer(self._queue)
        self._consumer_tag = (await channel.basic_consume(self._queue, consumer)).consumer_tag

    async def close(self) -> None:
        """Disconnect."""
        self._subscribed.clear()
        await self._connection.close()

    # -- subscriptions

    async def subscribe(self, names: Sequence[str]) -> None:
        """Bind the queue to names and patterns; returns when the server has confirmed it."""
        await self._connection.run_shielded(self._subscribe(names))

    async def _subscribe(self, names: Sequence[str]) -> None:
        await self._connection.wait_until_up()
        try:
            for name in names:
                if len(self._prefix) + len(name) > MAX_SHORT_STRING_BYTES:
                    raise DriverError(
                        f"RabbitMQ: a binding key has at most {MAX_SHORT_STRING_BYTES} bytes"
                    )
                self._subscribed.add(name)
                await self._bind(name)
        except RABBIT_ERRORS as error:
            await self._unsubscribe(names)
            raise to_driver_error(error) from error

    async def _bind(self, pattern: str) -> None:
        await self._connection.consume_channel.queue_bind(
            self._queue, self._exchange.name, self._prefix + binding_key(pattern)
        )

    async def unsubscribe(self, names: Sequence[str]) -> None:
        """Unbind the queue from names and patterns."""
        await self._connection.run_shielded(self._unsubscribe(names))

    async def _unsubscribe(self, names: Sequence[str]) -> None:
        for name in names:
            if self._subscribed.remove(name) and self._connection.is_up:
                try:
                    await self._connection.consume_channel.queue_unbind(
                        self._queue, self._exchange.name, self._prefix + binding_key(name)
                    )
                except RABBIT_ERRORS as error:
                    raise to_driver_error(error) from error

    async def stop_receiving(self) -> None:
        """Stop consuming, and deliver the messages that have arrived."""
        await self._connection.run_shielded(self._stop_receiving())

    async def _stop_receiving(self) -> None:
        if self._connection.is_up:
            try:
                await self._connection.consume_channel.basic_cancel(self._consumer_tag)
            except RABBIT_ERRORS as error:
                raise to_driver_error(error) from error
            # The client starts one task per message. The tasks of messages that came before the
            # server's answer get their turn now.
            await asyncio.sleep(0)
        await self._deliveries.wait_until_delivered()

    # -- receiving

    def _on_passed(self, arrival: Arrival) -> None:
        via = self._subscribed.match(arrival.name)
        if via is None:
            # The binding key of a pattern with `**` is wider than the pattern.
            self._connection.start(self._acknowledge(arrival))
            return
        arrival.via = via
        self._deliveries.add(arrival)

    async def _on_stopped(self, arrival: Arrival, error: Exception | None) -> None:
        if error is not None:
            self._connection.host.report(error, arrival.name)
        await self._acknowledge(arrival)

    def _on_delivered(self, arrival: Arrival) -> None:
        """Acknowledge now and then, so that the server sends more."""
        waiting = self._deliveries.waiting
        is_pause = not waiting or self._connection.host.capacity() == 0
        if is_pause or len(waiting) % EVENTS_PER_ACKNOWLEDGEMENT == 0:
            self._connection.start(self._acknowledge(arrival, all_before=True))

    async def _acknowledge(self, arrival: Arrival, *, all_before: bool = False) -> None:
        delivery: RabbitDelivery = arrival.raw
        if delivery.channel is self._connection.consume_channel and self._connection.is_up:
            # If the connection is lost, the queue has gone with it.
            with suppress(*RABBIT_ERRORS):
                await delivery.channel.basic_ack(delivery.tag, multiple=all_before, wait=False)

    # -- the rest of the contract

    async def publish(self, burst: Sequence[Outgoing]) -> None:
        """Publish events; the server confirms each, with or without a queue for it."""
        await self._publisher.publish(burst)

    async def settle(self, decisions: Sequence[Decision]) -> None:
        """Do nothing: events are acknowledged when they are delivered."""

    def backlogs(self) -> tuple[Backlog, ...]:
        """Return nothing: the queue is gone when the bus is."""
        return ()


def _accept_all(_: Arrival) -> bool:
    """Accept each arrival: nothing is returned to the queue, so nothing comes a second time."""
    return True
