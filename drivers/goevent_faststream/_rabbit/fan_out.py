"""The adapter for RabbitMQ without a group: every bus gets every event, at most once.

Theory of operation: Each bus has a queue of its own, which the server deletes with the connection.
The queue is bound to the exchange for events once per name and pattern; the queues of groups are
bound to the same exchange. A message that several of these bindings match comes to the queue once,
so copies need no filter here.

The exchange and the bindings may be deleted while the bus runs. The adapter looks for the exchange
every second, and binds the queue again, which changes nothing if the binding exists. If the queue
is deleted, the server cancels its consumer.

The server sends at most `prefetch` unacknowledged messages. An event is acknowledged as soon as it
is delivered to the bus: the acknowledgement only makes room for the next message. Acknowledgements
are grouped, since one of them covers all earlier messages, too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from aiormq.exceptions import ChannelNotFoundEntity
from faststream.rabbit import RabbitBroker, RabbitExchange

from goevent import DriverError
from goevent.drivers import Backlog, Capabilities

from .._adapter.contract import MAX_IN_FLIGHT_EVENTS, AdapterHost, Arrival, Decision, Outgoing
from .._adapter.subscribed_names import SubscribedNames
from .._config import BrokerConfig
from .connection import RabbitConnection
from .direct import RabbitDirectMessages
from .errors import RABBIT_ERRORS, REFUSALS, to_driver_error
from .inspection import RabbitInspection
from .names import binding_key
from .prefetch_window import first_window
from .publisher import RabbitPublisher
from .receiver import DeliveryQueue, RabbitDelivery, RabbitReceiver
from .repairs import NOTICE_SECONDS, Repairs
from .topology import (
    ServerObject,
    checked_key,
    ensure_object,
    exchange_object,
    is_missing,
    loss_report,
)

EVENTS_PER_ACKNOWLEDGEMENT = 64


class RabbitFanOutAdapter:
    """RabbitMQ without a group."""

    def __init__(self, broker: RabbitBroker, config: BrokerConfig, exchange: RabbitExchange):
        self._exchange = exchange_object(exchange)
        self._prefix = config.prefix or ""
        # The sizes of the events are not known in advance; most codecs have a limit.
        self._prefetch = first_window(config.prefetch, config.prefetch_bytes)
        self._connection = RabbitConnection(broker, config.publish_timeout)
        self._connection.on_connect = self._set_up
        self._repairs = Repairs(self._connection, self._repair)
        self.direct = RabbitDirectMessages(
            self._connection, exchange.name, self._prefix, self._repairs.run_quietly
        )
        self._subscribed = SubscribedNames()
        self._publisher = RabbitPublisher(
            broker,
            self._connection,
            exchange.name,
            self._prefix,
            is_wanted=self._wants,
            is_durable=False,
            ensure=self._repairs.run,
        )
        self._deliveries = DeliveryQueue(self._connection, self._on_delivered)
        self._receiver = RabbitReceiver(
            broker,
            self._prefix,
            accept=self._accept,
            on_passed=self._on_passed,
            on_stopped=self._on_stopped,
            on_failed=self._connection.fail,
        )
        self.inspection = RabbitInspection(
            self._connection, self._exchange, self._prefix, self._subscribed
        )
        # The queue of this bus; both are empty until it subscribes to something.
        self._queue = ""
        self._consumer_tag = ""
        self._is_stopping = False

    def _wants(self, name: str) -> bool:
        """Tell whether this bus still listens to an event name."""
        return not self._is_stopping and self._subscribed.match(name) is not None

    @property
    def capabilities(self) -> Capabilities:
        """The guarantees of RabbitMQ without a group."""
        return Capabilities(lossless=False, in_flight=MAX_IN_FLIGHT_EVENTS, replies=True)

    async def open(self, host: AdapterHost) -> None:
        """Connect.

        Raises:
            DriverConnectionError: No server answers, or it rejects the login.
            DriverError: The server refuses the exchange.
        """
        self._subscribed.clear()
        self._deliveries.reset()
        self.direct.reset()
        self._publisher.reset()
        self._repairs.reset()
        self._queue = self._consumer_tag = ""
        self._is_stopping = False
        await self._connection.open(host)
        await self._receiver.open()
        self._repairs.start()

    async def close(self) -> None:
        """Disconnect."""
        self._subscribed.clear()
        await self.direct.close()
        await self._connection.close()

    # -- the exchange, the queue and its bindings

    async def _set_up(self, is_new: bool) -> None:
        """Declare, bind and consume, on a new channel; the queue is gone with its connection."""
        channel = self._connection.consume_channel
        channel.on_consumer_cancel_callbacks.add(self._on_consumer_cancelled)
        await channel.basic_qos(prefetch_count=self._prefetch)
        self._consumer_tag = ""
        if is_new:
            self._queue = ""
            self._repairs.forget_refusals()
        if self._repairs.is_started:
            await self._repairs.run_now()
        else:
            await self._ensure_exchange()

    async def _repair(self, is_full: bool) -> None:
        """Create the missing objects; look only for the exchange, unless the repair is full."""
        repairs, exchange = self._repairs, self._exchange
        is_lost = await is_missing(self._connection.request, exchange)
        if repairs.report_losses([exchange] if is_lost and exchange.is_declared else []):
            self._publisher.exchange_was_lost()
            await asyncio.sleep(NOTICE_SECONDS)
        if not is_full and not is_lost:
            return
        await repairs.attempt("direct messages", self.direct.repair)
        exists = await repairs.attempt("exchange", self._ensure_exchange)
        if not exists or self._is_stopping or not [*self._subscribed]:
            return
        if self._consumer_tag or await repairs.attempt("queue", self._consume):
            for pattern in [*self._subscribed]:
                await repairs.attempt(f"binding {pattern}", partial(self._bind, pattern), pattern)

    async def _ensure_exchange(self) -> None:
        await ensure_object(self._connection.request, self._exchange)

    async def _consume(self) -> None:
        """Declare and consume the queue of this bus."""
        if not self._queue:
            self._queue = await self._connection.request(_declare_queue)
        consumer = self._receiver.consumer(self._queue)
        try:
            self._consumer_tag = await self._connection.consume(self._queue, consumer)
        except ChannelNotFoundEntity:
            self._queue = ""
            raise

    async def _bind(self, pattern: str) -> None:
        key = checked_key(self._prefix + binding_key(pattern))

        async def bind(channel: Any) -> None:
            await channel.queue_bind(self._queue, self._exchange.name, key)

        await self._connection.request(bind)

    async def _on_consumer_cancelled(self, frame: Any) -> None:
        """Create the queue again: it was deleted, so the server has cancelled its consumer."""
        if frame.consumer_tag == self._consumer_tag and self._queue:
            report = loss_report([ServerObject("queue", self._queue)])
            self._connection.host.report(report)
            self._queue = self._consumer_tag = ""
            self._connection.start(self._repairs.run_quietly())

    # -- subscriptions

    async def subscribe(self, names: Sequence[str]) -> None:
        """Bind the queue to names and patterns; returns when the server has confirmed it."""
        await self._connection.run_shielded(self._subscribe(names))

    async def _subscribe(self, names: Sequence[str]) -> None:
        await self._connection.wait_until_up()
        async with self._repairs.lock:
            if self._is_stopping:
                return
            try:
                for name in names:
                    checked_key(self._prefix + binding_key(name))
                    self._subscribed.add(name)
                    await self._repairs.insist(partial(self._bind_new, name), self._ensure_exchange)
            except (DriverError, *RABBIT_ERRORS) as error:
                await self._drop(names)
                raise to_driver_error(error) from error
            finally:
                self._publisher.subscriptions_changed()

    async def _bind_new(self, name: str) -> None:
        if not self._consumer_tag:
            await self._consume()
        await self._bind(name)

    async def unsubscribe(self, names: Sequence[str]) -> None:
        """Unbind the queue from names and patterns."""
        await self._connection.run_shielded(self._unsubscribe(names))

    async def _unsubscribe(self, names: Sequence[str]) -> None:
        async with self._repairs.lock:
            await self._drop(names)
            self._publisher.subscriptions_changed()

    async def _drop(self, names: Sequence[str]) -> None:
        for name in names:
            if not self._subscribed.remove(name) or not self._queue or not self._connection.is_up:
                continue

            async def unbind(channel: Any, name: str = name) -> None:
                key = self._prefix + binding_key(name)
                await channel.queue_unbind(self._queue, self._exchange.name, key)

            try:
                await self._connection.request(unbind)
            except REFUSALS:
                # The exchange or the queue is missing, and the binding with it, or the user never
                # had the right to bind.
                pass
            except RABBIT_ERRORS as error:
                raise to_driver_error(error) from error

    async def stop_receiving(self) -> None:
        """Stop consuming, and deliver the messages that have arrived."""
        await self._connection.run_shielded(self._stop_receiving())

    async def _stop_receiving(self) -> None:
        async with self._repairs.lock:
            self._is_stopping = True
            # The queue is deleted with its consumer.
            tag, self._queue, self._consumer_tag = self._consumer_tag, "", ""
            self._publisher.subscriptions_changed()
        if self._connection.is_up and tag:
            try:
                await self._connection.consume_channel.basic_cancel(tag)
            except RABBIT_ERRORS as error:
                raise to_driver_error(error) from error
            # The client starts one task per message. The tasks of messages that came before the
            # server's answer get their turn now.
            await asyncio.sleep(0)
        await self._deliveries.wait_until_delivered()

    # -- receiving

    def _accept(self, arrival: Arrival) -> bool:
        """Accept each arrival but a dead letter of a group, which has no other receivers.

        Nothing is returned to the queue, so nothing comes a second time.
        """
        if arrival.raw.group:
            self._connection.start(self._acknowledge(arrival))
        return not arrival.raw.group

    def _on_passed(self, arrival: Arrival) -> None:
        if self._subscribed.match(arrival.name) is None:
            # It came before the name was unsubscribed, or a middleware has changed the name.
            self._connection.start(self._acknowledge(arrival))
            return
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


async def _declare_queue(channel: Any) -> str:
    reply = await channel.queue_declare("", exclusive=True, auto_delete=True)
    return str(reply.queue)
