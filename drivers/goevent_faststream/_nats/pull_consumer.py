"""A pull consumer of JetStream: one durable consumer of a group, as this bus reads from it.

The adapter makes one `JetStreamConsumer` for each event name of the group; all buses of the group
share the durable consumer on the server.

Theory of operation: A task sends one pull request at a time, for as many events as the bus has room
for. The server answers on an inbox, to which this module subscribes itself, since the `fetch` of
nats-py loses messages that arrive while it is cancelled; an inbox can be drained instead. A pull
ends when all requested messages have arrived, when the server says that it has expired, or when the
connection is lost. A message on the inbox is either an event or such a status of the pull; the
reply subject tells them apart.

The server delivers an event again after `claim_idle` without a sign of life. `look_after` therefore
renews that deadline for all events that the bus holds, three times in each period, however long
their listeners take.

If the durable consumer is deleted, the next pull ends with such a status. The consumer is
then created again after the highest sequence that this bus has received, and this is reported.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

from faststream.nats import JStream, NatsBroker, PullSub
from nats import errors
from nats.js import api, errors as js_errors

from goevent import DriverConnectionError, DriverError
from goevent.drivers import Backlog

from .._adapter.backlogs import make_backlog
from .._adapter.contract import AdapterHost, Arrival
from .._adapter.subscribers import SUBSCRIBER_OPTIONS, adopt_subscriber
from .._config import BrokerConfig
from .connection import NatsConnection, to_driver_error
from .dead_letters import REPLAY_GROUP_HEADER
from .released import ReleasedDeliveries
from .subjects import consumer_name

MAX_PULL_EVENTS = 250
PULL_EXPIRY_SECONDS = 10.0  # the server ends a pull that it could not fill in this time
PULL_RETRY_SECONDS = 0.5
EVENT_REPLY_PREFIX = "$JS.ACK."  # the reply subject of an event; a status has another one
NANOSECONDS_PER_SECOND = 1_000_000_000


@dataclass(frozen=True, slots=True)
class JetStreamContext:
    """The parts that all consumers of one adapter share.

    Attributes:
        stream: The name of the stream that holds the events.
        prefix: The beginning of the events' subjects.
        released: The store of released deliveries.
    """

    broker: NatsBroker
    connection: NatsConnection
    config: BrokerConfig
    stream: str
    prefix: str
    released: ReleasedDeliveries


class JetStreamDelivery(NamedTuple):
    """One delivery of an event, as its settlement needs it.

    Attributes:
        consumer: The consumer that received it.
        sequence: The event's position in the stream.
        message: The message of nats-py, which can be acknowledged.
        released: How often the event was released before.
    """

    consumer: JetStreamConsumer
    sequence: int
    message: Any
    released: int


class JetStreamConsumer:
    """One durable consumer of the group, for one event name.

    Attributes:
        name: The event name.
        durable: The name of the durable consumer.
        subscribed_names: The names and patterns that the bus subscribed to and that this consumer
            serves; a dict for its order.
        held: The events that the bus holds, by their sequence in the stream.
        task: The task that pulls.
    """

    task: asyncio.Task[None]
    _host: AdapterHost

    def __init__(self, context: JetStreamContext, name: str) -> None:
        self.name = name
        self.durable = consumer_name(context.config.group or "", name)
        self.subscribed_names: dict[str, None] = {}
        self.held: dict[int, Arrival] = {}
        self._context = context
        self._connection = context.connection
        self._inbox = ""
        self._inbox_subscription: Any = None
        self._subscriber: Any = None
        self._capacity: Callable[[], int] = int
        self._outstanding = 0  # messages that the current pull may still bring
        self._pull_ended = asyncio.Event()
        self._is_missing = False
        self._highest_sequence = 0
        self._next_renewal = 0.0
        self._lag: int | None = None
        self._pending = 0

    @property
    def _js(self) -> Any:
        return self._connection.client.jetstream()

    # -- the durable consumer

    async def start(self, capacity: Callable[[], int], *, is_new_name: bool) -> None:
        """Create the durable consumer if it is missing, and begin to pull.

        Args:
            capacity: Returns how many events a pull may ask for.
            is_new_name: The event name appeared while the group was listening. The consumer then
                begins with the first event of that name, since `start` is meant for older events.
        """
        await self._ensure_consumer("earliest" if is_new_name else self._context.config.start)
        self._capacity = capacity
        self._host = self._connection.host
        client = self._connection.client
        self._inbox = client.new_inbox()
        self._inbox_subscription = await client.subscribe(self._inbox, cb=self._on_inbox_message)
        if self._context.broker.middlewares:
            await self._make_subscriber()
        self.task = asyncio.get_running_loop().create_task(self._pull())

    async def _make_subscriber(self) -> None:
        """Make a subscriber of FastStream, around which the broker's middlewares run."""
        context = self._context
        broker: Any = context.broker
        self._subscriber = subscriber = broker.subscriber(
            context.prefix + self.name,
            stream=JStream(context.stream, declare=False),
            pull_sub=PullSub(),
            durable=self.durable,
            **SUBSCRIBER_OPTIONS,
        )

        async def on_message(message: Any) -> None:
            await self._receive(message.raw_message)

        adopt_subscriber(broker, subscriber, on_message)
        # A subscriber with a subscription makes none of its own; it handles the messages that it is
        # given.
        subscriber.subscription = self._inbox_subscription
        await subscriber.start()

    async def _ensure_consumer(self, start: str | datetime) -> None:
        context, js = self._context, self._js
        try:
            await js.consumer_info(context.stream, self.durable)
            return
        except js_errors.NotFoundError:
            pass
        config = api.ConsumerConfig(
            durable_name=self.durable,
            filter_subject=context.prefix + self.name,
            ack_policy=api.AckPolicy.EXPLICIT,
            ack_wait=context.config.claim_idle,
            # The driver counts deliveries itself: the server would drop an event without a report.
            max_deliver=-1,
            max_ack_pending=max(1000, 20 * context.config.prefetch),
        )
        if isinstance(start, datetime):
            config.deliver_policy = api.DeliverPolicy.BY_START_TIME
            config.opt_start_time = start.astimezone(UTC)
        elif start == "latest":
            config.deliver_policy = api.DeliverPolicy.NEW
        elif start != "earliest":
            config.deliver_policy = api.DeliverPolicy.BY_START_SEQUENCE
            config.opt_start_seq = int(start) + 1
        await js.add_consumer(context.stream, config)

    async def stop(self) -> None:
        """Stop pulling, and deliver the events that the server has sent already.

        The durable consumer stays on the server.
        """
        self.task.cancel()
        subscription, self._inbox_subscription = self._inbox_subscription, None
        if subscription is not None:
            if self._subscriber is not None:
                self._subscriber.subscription = None
            # If the connection is lost, no more events arrive, and those that were lost on their
            # way come again.
            with suppress(DriverConnectionError):
                await self._connection.run_while_connected(subscription.drain())

    # -- pulling

    async def _pull(self) -> None:
        """Send pull requests for as many events as there is room for, until cancelled."""
        host = self._host
        while True:
            await self._connection.wait_until_up(timeout=float("inf"))
            await host.wait_for_capacity()
            try:
                await self._pull_once(min(MAX_PULL_EVENTS, self._capacity()))
                if self._is_missing:
                    await self._recreate_consumer()
            except (errors.Error, OSError, DriverError) as error:
                if not isinstance(error, DriverConnectionError):
                    host.report(to_driver_error(error), self.name)
                await asyncio.sleep(PULL_RETRY_SECONDS)

    async def _pull_once(self, count: int) -> None:
        self._outstanding, self._pull_ended = count, asyncio.Event()
        request = {"batch": count, "expires": int(PULL_EXPIRY_SECONDS * NANOSECONDS_PER_SECOND)}
        await self._connection.client.publish(
            f"$JS.API.CONSUMER.MSG.NEXT.{self._context.stream}.{self.durable}",
            json.dumps(request).encode(),
            reply=self._inbox,
        )
        try:
            async with asyncio.timeout(PULL_EXPIRY_SECONDS + 1):
                await self._pull_ended.wait()
        except TimeoutError:
            # In a cluster the consumer's leader may have gone, and the pull with it. The next
            # request reaches the new leader.
            pass

    async def _recreate_consumer(self) -> None:
        """Create the durable consumer again, after the last event that this bus received."""
        self._is_missing = False
        start = (
            str(self._highest_sequence) if self._highest_sequence else self._context.config.start
        )
        try:
            await self._js.consumer_info(self._context.stream, self.durable)
        except js_errors.NotFoundError:
            await self._ensure_consumer(start)
            self._host.report(
                DriverError(
                    f"the consumer {self.durable!r} of {self.name!r} was deleted; it is created "
                    f"again with start={start!r}"
                ),
                self.name,
            )

    def end_pull(self) -> None:
        """End the current pull: its connection is lost."""
        self._pull_ended.set()

    # -- receiving

    async def _on_inbox_message(self, message: Any) -> None:
        """Receive an event, or the status that ends the pull."""
        if message.reply.startswith(EVENT_REPLY_PREFIX):
            self._outstanding -= 1
            if self._outstanding <= 0:
                self._pull_ended.set()
            if self._subscriber is None:
                # FastStream's consume costs many times as much as all the rest, and without
                # middlewares it achieves nothing here.
                await self._receive(message)
            else:
                await self._subscriber.consume(message)
            return
        headers: dict[str, str] = message.headers or {}
        if headers.get("Status") == "503" or "Deleted" in headers.get("Description", ""):
            self._is_missing = True
            # The server needs a moment to forget a deleted consumer.
            await asyncio.sleep(PULL_RETRY_SECONDS)
        self._pull_ended.set()

    async def _receive(self, message: Any) -> None:
        """Deliver an event that has passed the broker's middlewares, if there are any."""
        headers: dict[str, str] = message.headers or {}
        if (
            REPLAY_GROUP_HEADER in headers
            and headers[REPLAY_GROUP_HEADER] != self._context.config.group
        ):
            await message.ack()
            return
        metadata = message.metadata
        sequence, deliveries, released = metadata.sequence.stream, metadata.num_delivered, 0
        if deliveries > 1:
            released = await self._context.released.count(self.durable, sequence)
        arrival = Arrival(
            self.name,
            next(iter(self.subscribed_names), self.name),
            message.data,
            headers,
            max(1, deliveries - released),
            str(sequence),
            JetStreamDelivery(self, sequence, message, released),
        )
        self.held[sequence] = arrival
        self._highest_sequence = max(self._highest_sequence, sequence)
        await self._host.deliver(arrival)

    def forget(self, sequence: int) -> None:
        """Forget an event that the bus no longer holds."""
        self.held.pop(sequence, None)

    # -- signs of life and figures

    async def look_after(self) -> None:
        """Renew the deadlines of the events that the bus holds, and read the group's backlog."""
        now = asyncio.get_running_loop().time()
        if now >= self._next_renewal:
            self._next_renewal = now + self._context.config.claim_idle / 3
            for arrival in [*self.held.values()]:
                await arrival.raw.message.in_progress()
        info = await self._js.consumer_info(self._context.stream, self.durable)
        self._lag, self._pending = info.num_pending, info.num_ack_pending

    def backlog(self) -> Backlog:
        """Return the group's backlog, as last read."""
        held = [*self.held.values()]
        return make_backlog(
            self.name,
            lag=self._lag,
            pending=max(self._pending, len(held)),
            published=[arrival.raw.message.metadata.timestamp for arrival in held],
        )
