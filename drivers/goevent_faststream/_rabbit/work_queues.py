"""The adapter for RabbitMQ with a group: at least once, one bus of each group, durable queues.

`RabbitWorkQueuesAdapter` owns the subscriptions of its bus: it consumes a queue of the group as
long as a name or pattern of the bus needs it. `topology` decides which queue gets an event, and
`settler` carries out the decision about a message after its listeners. On each new connection the
adapter sets everything up again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from faststream.rabbit import RabbitBroker, RabbitExchange, RabbitQueue

from goevent import DriverError
from goevent.drivers import ACK, RELEASE, Backlog, Capabilities, retry_or_dead_letter

from .._adapter.backlogs import make_backlog
from .._adapter.contract import MAX_IN_FLIGHT_EVENTS, AdapterHost, Arrival, Decision, Outgoing
from .._adapter.subscribed_names import SubscribedNames
from .._config import BrokerConfig
from .connection import RABBIT_ERRORS, RabbitConnection, to_driver_error
from .publisher import RabbitPublisher
from .receiver import DeliveryQueue, RabbitReceiver
from .settler import RabbitSettler
from .topology import GroupTopology

BACKLOG_SECONDS = 1.0  # between two readings of the queues' lengths
PATTERNS = "**"  # the name of the patterns queue in backlogs


@dataclass(slots=True, eq=False)
class ConsumedQueue:
    """One queue of the group, as this bus consumes it.

    Attributes:
        name: Its event name; `PATTERNS` for the patterns queue.
        queue: Its name in RabbitMQ.
        consumer_tag: The tag of this bus's consumer.
        lag: The number of messages that are ready for any consumer, as last read.
    """

    name: str
    queue: str
    consumer_tag: str = ""
    lag: int | None = None


class RabbitWorkQueuesAdapter:
    """RabbitMQ with a group, over one connection."""

    def __init__(
        self,
        broker: RabbitBroker,
        config: BrokerConfig,
        exchange: RabbitExchange,
        queue: RabbitQueue | None,
    ) -> None:
        self._config = config
        self._topology = GroupTopology(config, exchange, queue)
        self._connection = RabbitConnection(broker, config.publish_timeout)
        self._connection.on_connect = self._set_up
        prefix = config.prefix or ""
        self._publisher = RabbitPublisher(broker, self._connection, exchange.name, prefix)
        self._settler = RabbitSettler(self._connection, self._topology, config)
        self._deliveries = DeliveryQueue(self._connection, _ignore)
        self._receiver = RabbitReceiver(
            broker,
            prefix,
            is_wanted=self._settler.accept,
            on_passed=self._on_passed,
            on_stopped=self._on_stopped,
        )
        self._subscribed = SubscribedNames()
        self._queues: dict[str, ConsumedQueue] = {}
        # Held while queues are declared, bound and consumed, so that two calls do not consume one
        # queue twice.
        self._queues_lock = asyncio.Lock()

    @property
    def capabilities(self) -> Capabilities:
        """The guarantees of RabbitMQ; consumers of a group compete, so there is no order."""
        return Capabilities(
            fan_out=False, durable=True, ordered=False, in_flight=MAX_IN_FLIGHT_EVENTS
        )

    async def open(self, host: AdapterHost) -> None:
        """Connect, and declare the group's exchanges.

        Raises:
            DriverConnectionError: No server answers, or it rejects the login.
            DriverError: The server refuses an exchange or a queue.
        """
        self._subscribed.clear()
        self._queues.clear()
        self._deliveries.reset()
        self._settler.reset()
        self._queues_lock = asyncio.Lock()
        await self._connection.open(host)
        await self._receiver.open()
        self._connection.start(self._read_backlogs())

    async def close(self) -> None:
        """Disconnect; unacknowledged messages come again."""
        await self._connection.close()
        self._subscribed.clear()
        self._queues.clear()

    # -- exchanges and queues

    async def _set_up(self) -> None:
        """Declare exchanges and queues, and consume, on a new connection."""
        channel = self._connection.consume_channel
        self._settler.connection_lost(self._deliveries.waiting)
        self._deliveries.clear()
        channel.on_consumer_cancel_callbacks.add(self._on_consumer_cancelled)
        await channel.basic_qos(prefetch_count=self._config.prefetch)
        await self._topology.declare(channel)
        for pattern in [*self._subscribed]:
            await self._topology.bind(channel, pattern)
        for queue in self._queues.values():
            await self._consume(queue)

    async def _consume(self, queue: ConsumedQueue) -> None:
        on_message = self._receiver.consumer(queue.queue)
        reply = await self._connection.consume_channel.basic_consume(queue.queue, on_message)
        queue.consumer_tag = reply.consumer_tag

    async def _on_consumer_cancelled(self, frame: Any) -> None:
        """Create a queue again: it was deleted, so the server has cancelled its consumer."""
        tag = frame.consumer_tag
        queue = next((each for each in self._queues.values() if each.consumer_tag == tag), None)
        if queue is not None:
            error = DriverError(f"the queue {queue.queue!r} was deleted; it is created again")
            self._connection.host.report(error, queue.name)
            self._connection.start(self._recreate(queue))

    async def _recreate(self, queue: ConsumedQueue) -> None:
        try:
            async with self._queues_lock:
                for pattern in [*self._subscribed]:
                    if ("*" in pattern) == (queue.name == PATTERNS):
                        await self._topology.bind(self._connection.consume_channel, pattern)
                await self._consume(queue)
        except RABBIT_ERRORS as error:
            self._connection.host.report(to_driver_error(error), queue.name)

    # -- subscriptions

    async def subscribe(self, names: Sequence[str]) -> None:
        """Consume names and patterns; returns when their queues exist and are consumed."""
        await self._connection.run_shielded(self._subscribe(names))

    async def _subscribe(self, names: Sequence[str]) -> None:
        await self._connection.wait_until_up()
        try:
            async with self._queues_lock:
                for pattern in names:
                    self._subscribed.add(pattern)
                    channel = self._connection.consume_channel
                    queue_name = await self._topology.bind(channel, pattern)
                    name = PATTERNS if "*" in pattern else pattern
                    if name not in self._queues:
                        queue = ConsumedQueue(name, queue_name)
                        await self._consume(queue)
                        self._queues[name] = queue
        except (DriverError, *RABBIT_ERRORS) as error:
            await self._unsubscribe(names)
            raise to_driver_error(error) from error

    async def unsubscribe(self, names: Sequence[str]) -> None:
        """Stop consuming names and patterns; their queues stay and collect events."""
        await self._connection.run_shielded(self._unsubscribe(names))

    async def _unsubscribe(self, names: Sequence[str]) -> None:
        async with self._queues_lock:
            for pattern in names:
                self._subscribed.remove(pattern)
            for queue in [*self._queues.values()]:
                if not self._is_needed(queue):
                    del self._queues[queue.name]
                    await self._cancel_consumer(queue)

    def _is_needed(self, queue: ConsumedQueue) -> bool:
        if queue.name == PATTERNS:
            return any("*" in pattern for pattern in self._subscribed)
        # A pattern that matches the name needs its queue, too: the name's events do not reach the
        # patterns queue as long as this queue exists.
        return self._subscribed.match(queue.name) is not None

    async def _cancel_consumer(self, queue: ConsumedQueue) -> None:
        if self._connection.is_up:
            try:
                await self._connection.consume_channel.basic_cancel(queue.consumer_tag)
            except RABBIT_ERRORS as error:
                raise to_driver_error(error) from error

    async def stop_receiving(self) -> None:
        """Stop consuming, and release the messages that have arrived and wait for room."""
        await self._connection.run_shielded(self._stop_receiving())

    async def _stop_receiving(self) -> None:
        queues = [*self._queues.values()]
        self._queues.clear()
        for queue in queues:
            await self._cancel_consumer(queue)
        # The client starts one task per message. The tasks of messages that came before the
        # server's answer get their turn now.
        await asyncio.sleep(0)
        undelivered = await self._deliveries.take_undelivered()
        await self._settler.settle([Decision(arrival, RELEASE) for arrival in undelivered])
        await self._settler.return_delayed()

    # -- receiving

    def _on_passed(self, arrival: Arrival) -> None:
        name, is_from_patterns = arrival.name, arrival.raw.queue == self._topology.names.patterns
        if not is_from_patterns and name in self._subscribed:
            arrival.via = name
        else:
            arrival.via = self._subscribed.match(name) or ""
        if arrival.via or not is_from_patterns:
            self._deliveries.add(arrival)
        else:
            # Another version of the service has bound the patterns queue to this name, and may
            # still run. The event fails here, so that a bus of that version gets it.
            reason = "no listener of this bus matches it"
            self._connection.start(self._fail(arrival, reason, reported=False))

    async def _on_stopped(self, arrival: Arrival, error: Exception | None) -> None:
        if error is None:
            await self._settler.settle_quietly(Decision(arrival, ACK))
            return
        self._connection.host.report(error, arrival.name)
        await self._fail(arrival, f"a middleware has failed: {error!r}", reported=True)

    async def _fail(self, arrival: Arrival, reason: str, *, reported: bool) -> None:
        """Retry an arrival that no listener gets, or write it among the dead letters."""
        verdict = retry_or_dead_letter(
            arrival.deliveries, self._config, reason=reason, reported=reported
        )
        await self._settler.settle_quietly(Decision(arrival, verdict))

    # -- publishing and settlement

    async def publish(self, burst: Sequence[Outgoing]) -> None:
        """Publish events; the server confirms each, with or without a queue for it."""
        await self._publisher.publish(burst)

    async def settle(self, decisions: Sequence[Decision]) -> None:
        """Acknowledge, return and dead-letter messages."""
        await self._settler.settle(decisions)

    # -- figures

    async def _read_backlogs(self) -> None:
        """Read the queues' lengths again and again, until cancelled."""
        # On a channel of its own: the server closes the channel if a queue is missing.
        channel: Any = None
        while True:
            await asyncio.sleep(BACKLOG_SECONDS)
            await self._connection.wait_until_up(timeout=float("inf"))
            # A missing queue is reported when its consumer is cancelled.
            with suppress(*RABBIT_ERRORS, DriverError):
                if channel is None or channel.is_closed:
                    channel = await self._connection.open_channel(confirms=False)
                for queue in [*self._queues.values()]:
                    reply = await channel.queue_declare(queue.queue, passive=True)
                    queue.lag = reply.message_count

    def backlogs(self) -> tuple[Backlog, ...]:
        """Return the group's backlogs, as last read.

        `lag` is the number of messages that are ready in the queue. `pending` counts the messages
        that this bus holds; AMQP does not tell how many the other buses of the group hold.
        """
        held = [*self._settler.held.values()]
        return tuple(_backlog(queue, held) for queue in [*self._queues.values()])


def _backlog(queue: ConsumedQueue, held: Sequence[Arrival]) -> Backlog:
    times = [each.raw.properties.timestamp for each in held if each.raw.queue == queue.queue]
    published = (time for time in times if time is not None)
    return make_backlog(queue.name, lag=queue.lag, pending=len(times), published=published)


def _ignore(_: Arrival) -> None:
    """Ignore that an arrival was delivered: the settler settles each one by itself."""
