"""A pull consumer of JetStream: one durable consumer of a group, as this bus reads from it.

The adapter makes one `JetStreamConsumer` for each event name of the group; all buses of the group
share the durable consumer on the server.

Theory of operation: A task sends one pull request at a time (`pulls`), for as many events as the
bus has room for (`pull_budget`).

The server delivers an event again after `claim_idle` without a sign of life. `look_after` therefore
renews that deadline for all events that the bus holds, three times in each period, however long
their listeners take.

If the durable consumer or its stream is deleted, the next pull ends with such a status, or the
periodic look at the consumer does not find it. `_ensure` then creates the missing one. In the same
stream, the consumer begins again behind the events that the group has finished, as far as this bus
knows; an event may come twice, and none is missed. In a new stream it begins with the first event.
An event of the stream before that this bus still holds cannot be acknowledged any more: its number
may stand for another event by now.

A server that was killed may have forgotten deliveries and acknowledgements. It then delivers events
as if for the first time. An event is a repeat if its sequence is not above the highest one that the
consumer has had, or if it was in the stream when the connection came back, since another bus may
have had it. A repeat that this bus has acknowledged is acknowledged again without running. The
listeners of another one see it as redelivered; its deliveries are counted as far as this bus or the
server remembers them.

A consumer of that name may exist with other settings than this module needs. Then no event is
pulled, and the error names the setting.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

from faststream.nats import JStream, NatsBroker, PullSub
from nats import errors
from nats.js import api, errors as js_errors

from goevent import DriverConnectionError, DriverError
from goevent.drivers import Backlog, jittered

from .._adapter.backlogs import make_backlog
from .._adapter.contract import AdapterHost, Arrival
from .._adapter.dead_letters import REPLAY_GROUP_HEADER
from .._adapter.subscribers import SUBSCRIBER_OPTIONS, adopt_subscriber
from .._config import BrokerConfig
from .connection import NatsConnection, to_driver_error
from .pull_budget import PullBudget
from .pulls import PULL_RETRY_SECONDS, Pulls
from .released import ReleasedDeliveries, released_key
from .stream import MAX_CONSUMERS_CODE, NatsStream, create_or_find, stream_error
from .subjects import consumer_name

MAX_PULL_RETRY_SECONDS = 15.0  # between two attempts while the server refuses the pull
MAX_QUIET_FAILURES = 3  # of a server that gives no reason, as while it starts; then it is reported
MAX_INFO_AGE_SECONDS = 2.0  # of the figures of other buses, to tell that they hold no events


@dataclass(frozen=True, slots=True)
class JetStreamContext:
    """The parts that all consumers of one adapter share.

    Attributes:
        stream: The stream that holds the events.
        released: The store of released deliveries.
        budget: The room for events.
    """

    broker: NatsBroker
    connection: NatsConnection
    config: BrokerConfig
    stream: NatsStream
    released: ReleasedDeliveries
    budget: PullBudget


class JetStreamDelivery(NamedTuple):
    """One delivery of an event, as its settlement needs it.

    Attributes:
        consumer: The consumer that received it.
        sequence: The event's position in the stream.
        message: The message of nats-py, which can be acknowledged.
        released: How often the event was released before.
        stream_created: The creation of the stream that the event comes from.
        stored: The time at which the stream stored the event.
    """

    consumer: JetStreamConsumer
    sequence: int
    message: Any
    released: int
    stream_created: datetime | None
    stored: datetime


class JetStreamConsumer:
    """One durable consumer of the group, for one event name.

    Attributes:
        name: The event name.
        durable: The name of the durable consumer.
        subscribed_names: The names and patterns that the bus subscribed to and that this consumer
            serves; a dict for its order.
        held: The events that the bus holds, by their sequence in the stream.
        stream_created: The creation of the stream that the durable consumer belongs to.
        task: The task that pulls.
    """

    task: asyncio.Task[None]
    _host: AdapterHost

    def __init__(self, context: JetStreamContext, name: str) -> None:
        self.name = name
        self.durable = consumer_name(context.config.group or "", name)
        self.subscribed_names: dict[str, None] = {}
        self.held: dict[int, Arrival] = {}
        self.stream_created: datetime | None = None
        self._context = context
        self._connection = context.connection
        self._budget = context.budget
        self._pulls = Pulls(
            context.connection, context.stream.name, self.durable, context.budget, self._receive
        )
        self._subscriber: Any = None
        self._is_received = False  # the event that is passing the middlewares
        self._failure = ""  # the last reported one; empty after a success
        self._failures = 0  # since the last success
        self._next_attempt = 0.0
        self._restoring = asyncio.Lock()
        self._created: datetime | None = None
        self._highest_sequence = 0  # of the events that this bus has had
        # Up to here, events run again although this bus has acknowledged them: somebody has created
        # the consumer anew.
        self._rewound_sequence = 0
        self._ack_floor = 0  # everything up to here is acknowledged, as last read
        self._looked_at = 0.0  # on the loop's clock
        self._others_pending = 0  # events that other buses of the group held, as last read
        self._is_paused = False
        self._has_reported_max_deliver = False
        self._renewal_seconds = context.config.claim_idle / 3
        self._next_renewal = 0.0
        self._lag: int | None = None
        self._pending = 0

    @property
    def _js(self) -> Any:
        return self._connection.jetstream

    @property
    def _subject(self) -> str:
        return self._context.stream.prefix + self.name

    # -- the durable consumer

    async def start(self, *, is_new_name: bool) -> None:
        """Create the durable consumer if it is missing, and begin to pull.

        Args:
            is_new_name: The event name appeared while the group was listening. The consumer then
                begins with the first event of that name, since `start` is meant for older events.

        Raises:
            DriverError: The server refuses the consumer or its use, or it has other settings.
        """
        self._host = self._connection.host
        start = "earliest" if is_new_name else self._context.config.start
        if not await self._ensure(start):
            await self._context.stream.ensure()
            if not await self._ensure(start):
                raise self._stream_deleted()
        if self._context.broker.middlewares:
            # Only then: FastStream's consume costs many times as much as all the rest.
            self._pulls.receive = self._consume_with_middlewares
        await self._pulls.open()
        if self._context.broker.middlewares:
            await self._make_subscriber()
        self.task = self._connection.start_vital(self._pull())

    async def _make_subscriber(self) -> None:
        """Make a subscriber of FastStream, around which the broker's middlewares run."""
        context = self._context
        broker: Any = context.broker
        self._subscriber = subscriber = broker.subscriber(
            self._subject,
            stream=JStream(context.stream.name, declare=False),
            pull_sub=PullSub(),
            durable=self.durable,
            **SUBSCRIBER_OPTIONS,
        )

        async def on_message(message: Any) -> None:
            self._is_received = True
            await self._receive(message.raw_message)

        adopt_subscriber(broker, subscriber, on_message)
        # A subscriber with a subscription makes none of its own; it handles the messages that it is
        # given.
        subscriber.subscription = self._pulls.subscription
        await subscriber.start()

    async def _ensure(self, start: str | datetime) -> bool:
        """Create the durable consumer if it is missing, and read its settings.

        Args:
            start: Where a new consumer begins.

        Returns:
            False if there is no stream for it.

        Raises:
            DriverError: The consumer has settings with which events would be lost, or the server
                refuses it.
        """
        js, stream = self._js, self._context.stream
        was_missing = False
        try:
            try:
                info = await js.consumer_info(stream.name, self.durable)
            except js_errors.NotFoundError:
                info = await create_or_find(
                    lambda: js.add_consumer(stream.name, self._settings(start)),
                    lambda: js.consumer_info(stream.name, self.durable),
                )
                was_missing = True
        except js_errors.NotFoundError:
            return False
        except (errors.Error, OSError) as error:
            if isinstance(error, js_errors.APIError) and error.err_code == MAX_CONSUMERS_CODE:
                raise stream.too_many_consumers(error.description or "") from error
            raise stream_error(error, stream.name) from error
        stream.refuse_unstored(self._subject)
        self._adopt(info, was_missing=was_missing)
        return True

    def _settings(self, start: str | datetime) -> api.ConsumerConfig:
        config = api.ConsumerConfig(
            durable_name=self.durable,
            filter_subject=self._subject,
            ack_policy=api.AckPolicy.EXPLICIT,
            ack_wait=self._context.config.claim_idle,
            # The driver counts deliveries itself: the server would drop an event without a report.
            max_deliver=-1,
            max_ack_pending=max(1000, 20 * self._context.config.prefetch),
        )
        if isinstance(start, datetime):
            config.deliver_policy = api.DeliverPolicy.BY_START_TIME
            config.opt_start_time = start.astimezone(UTC)
        elif start == "latest":
            config.deliver_policy = api.DeliverPolicy.NEW
        elif start != "earliest":
            config.deliver_policy = api.DeliverPolicy.BY_START_SEQUENCE
            config.opt_start_seq = int(start) + 1
        return config

    def _adopt(self, info: Any, *, was_missing: bool = False) -> None:
        """Take the settings and figures of the durable consumer, as the server shows them.

        Args:
            was_missing: This bus has just created it again, behind the finished events.
        """
        self._refuse_other_settings(info.config)
        stream_created = self._context.stream.created
        if stream_created != self.stream_created:
            # The numbers of the stream before mean nothing in this one.
            self.stream_created = stream_created
            self.held = {}
            self._highest_sequence = self._rewound_sequence = 0
        elif self._created not in (None, info.created) and not was_missing:
            self._rewound_sequence = self._highest_sequence
        self._created = info.created
        waits = [
            info.config.ack_wait,
            *(info.config.backoff or ()),
            self._context.config.claim_idle,
        ]
        self._renewal_seconds = min(wait for wait in waits if wait) / 3
        self._looked_at = asyncio.get_running_loop().time()
        self._lag, self._pending = info.num_pending, info.num_ack_pending
        self._ack_floor = info.ack_floor.stream_seq if info.ack_floor else 0
        self._others_pending = max(0, self._pending - len(self.held))
        self._report_hindrances(info)

    def _refuse_other_settings(self, config: api.ConsumerConfig) -> None:
        subjects = config.filter_subjects or [config.filter_subject or ">"]
        differing = {
            f"filter_subject={subjects[0]!r} in place of {self._subject!r}": subjects
            != [self._subject],
            f"ack_policy={config.ack_policy!s} in place of explicit": config.ack_policy
            not in (None, api.AckPolicy.EXPLICIT),
            f"deliver_subject={config.deliver_subject!r}, so it is no pull consumer": bool(
                config.deliver_subject
            ),
            "headers_only=True, so it delivers no bodies": bool(config.headers_only),
        }
        for text, differs in differing.items():
            if differs:
                raise DriverError(
                    f"NATS: the consumer {self.durable!r} of the stream "
                    f"{self._context.stream.name!r} has {text}; delete it, or use another group"
                )

    def _report_hindrances(self, info: Any) -> None:
        """Report settings that hold events back or drop them, once each."""
        limit = info.config.max_deliver
        name = f"the consumer {self.durable!r}"
        drops = limit is not None and 0 < limit <= self._context.config.max_deliveries
        if drops and not self._has_reported_max_deliver:
            self._has_reported_max_deliver = True
            text = f"NATS: {name} has max_deliver={limit}: the server drops an event then"
            self._host.report(DriverError(text), self.name)
        is_paused = bool(info.paused)
        if is_paused and not self._is_paused:
            until = info.config.pause_until or "an operator resumes it"
            self._host.report(DriverError(f"NATS: {name} is paused until {until}"), self.name)
        self._is_paused = is_paused

    async def stop(self) -> None:
        """Stop pulling, and deliver the events that the server has sent already.

        The durable consumer stays on the server.
        """
        self.task.cancel()
        if self._subscriber is not None:
            self._subscriber.subscription = None
        await self._pulls.drain()

    # -- pulling

    async def _pull(self) -> None:
        """Send pull requests for as many events as there is room for, until cancelled."""
        while True:
            await self._connection.wait_until_up(float("inf"))
            if not self._budget.has_room:
                self._pulls.pause()
                await self._budget.wait_for_room()
            try:
                if not self._context.stream.is_seen:
                    await self._see_stream()
                await self._pulls.pull()
                if (silence := self._pulls.silence()) is not None:
                    self._host.report(silence, self.name)
                if self._pulls.is_consumer_missing:
                    await self._restore()
                self._failures, self._failure = 0, ""
            except (errors.Error, OSError, DriverError) as error:
                await asyncio.sleep(self._note_failure(to_driver_error(error)))

    async def _see_stream(self) -> None:
        """Read the last sequence of the stream after a reconnect, before the first new event."""
        try:
            await self._context.stream.ensure()
        except DriverConnectionError:
            raise
        except DriverError as error:
            # The rights may be gone. All events count as delivered before then.
            self._context.stream.report_failure(error)

    def _note_failure(self, error: DriverError) -> float:
        """Report a failure once until a pull has succeeded; return the pause before the next try.

        The loss of a connection is known.
        """
        self._failures += 1
        pause = PULL_RETRY_SECONDS * 2.0 ** min(self._failures - 1, 10)
        pause = jittered(min(MAX_PULL_RETRY_SECONDS, pause))
        self._next_attempt = asyncio.get_running_loop().time() + pause
        is_quiet = isinstance(error, DriverConnectionError) and (
            self._failures < MAX_QUIET_FAILURES
        )
        if self._connection.is_up and not is_quiet and str(error) != self._failure:
            self._failure = str(error)
            self._context.stream.report_failure(error, self.name)
        return pause

    async def _restore(self) -> None:
        """Create the stream and the durable consumer again, if they are missing."""
        async with self._restoring:
            await self._restore_now()

    async def _restore_now(self) -> None:
        stream, before, created = self._context.stream, self.stream_created, self._created
        self._pulls.is_consumer_missing = False
        await stream.ensure()
        is_same_stream = stream.created == before
        start = self._restart_position() if is_same_stream else "earliest"
        if not await self._ensure(start):
            raise self._stream_deleted()
        # The loss of the stream is reported for all its consumers.
        if is_same_stream and created != self._created:
            self._host.report(
                DriverError(
                    f"the consumer {self.durable!r} of {self.name!r} was deleted; it is created "
                    f"again with start={start!r}"
                ),
                self.name,
            )

    def _stream_deleted(self) -> DriverError:
        return DriverError(f"NATS: the stream {self._context.stream.name!r} was deleted again")

    def _restart_position(self) -> str | datetime:
        """Return the start of a consumer that misses no unfinished event."""
        age_seconds = asyncio.get_running_loop().time() - self._looked_at
        if self._others_pending or age_seconds > MAX_INFO_AGE_SECONDS:
            position = self._ack_floor
        elif self.held:
            position = min(self.held) - 1
        else:
            position = max(self._highest_sequence, self._ack_floor)
        if position:
            return str(position)
        # A consumer that began at the latest event of an empty stream wants everything since then.
        start = self._context.config.start
        return "earliest" if start == "latest" else start

    def end_pull(self) -> None:
        """End the current pull: its connection is lost."""
        self._pulls.end()

    # -- receiving

    async def _consume_with_middlewares(self, message: Any) -> None:
        self._is_received = False
        try:
            await self._subscriber.consume(message)
        finally:
            if not self._is_received:
                self._budget.give_back(len(message.data))

    async def _receive(self, message: Any) -> None:
        """Deliver an event that has passed the broker's middlewares, if there are any."""
        headers: dict[str, str] = message.headers or {}
        if (
            REPLAY_GROUP_HEADER in headers
            and headers[REPLAY_GROUP_HEADER] != self._context.config.group
        ):
            self._budget.give_back(len(message.data))
            await message.ack()
            return
        metadata = message.metadata
        sequence, deliveries, released = metadata.sequence.stream, metadata.num_delivered, 0
        held = self.held.get(sequence)
        if held is not None and held.raw.stored == metadata.timestamp:
            # The bus still works on this event, which a new consumer delivers from the start.
            held.raw = held.raw._replace(message=message)
            self._budget.give_back(len(message.data))
            return
        stream, is_repeat = self._context.stream, False
        if sequence <= self._highest_sequence or sequence <= stream.last_before_reconnect:
            if self._has_acknowledged(sequence, metadata.timestamp):
                self._budget.give_back(len(message.data))
                await message.ack()
                return
            is_repeat = deliveries == 1 or sequence <= stream.last_before_reconnect
        if deliveries > 1:
            released = await self._context.released.count(self.durable, released_key(message))
        deliveries = max(1, deliveries - released)
        if is_repeat:
            # A server that has forgotten its own count begins at one.
            known = stream.settlements.deliveries(sequence, metadata.timestamp)
            deliveries = max(deliveries, known + 1)
        arrival = Arrival(
            self.name,
            next(iter(self.subscribed_names), self.name),
            message.data,
            headers,
            deliveries,
            str(sequence),
            JetStreamDelivery(
                self, sequence, message, released, self.stream_created, metadata.timestamp
            ),
            is_repeat,
        )
        self.held[sequence] = arrival
        if sequence > self._highest_sequence:
            self._highest_sequence = sequence
        self._lag = metadata.num_pending
        await self._host.deliver(arrival)

    def _has_acknowledged(self, sequence: int, stored: datetime) -> bool:
        """Tell whether this bus has acknowledged an event that need not run again."""
        return sequence > self._rewound_sequence and (
            self._context.stream.settlements.is_acknowledged(sequence, stored)
        )

    def forget(self, arrival: Arrival) -> None:
        """Forget an event that the bus no longer holds."""
        self._budget.give_back(len(arrival.body))
        # Another event may have its number by now.
        if self.held.get(arrival.raw.sequence) is arrival:
            del self.held[arrival.raw.sequence]

    # -- signs of life and figures

    @property
    def renewal_seconds(self) -> float:
        """The seconds between two renewals of the deadlines of held events."""
        return self._renewal_seconds

    @property
    def is_busy(self) -> bool:
        """Whether the figures of the consumer may change without an event for this bus.

        A pull under way shows that no event waits, and is answered if the consumer is deleted.
        """
        return bool(self.held or self._lag or self._pending) or not self._pulls.is_under_way

    async def renew(self) -> None:
        """Renew the deadlines of the events that the bus holds, if it is time to."""
        now = asyncio.get_running_loop().time()
        if self.held and now >= self._next_renewal:
            self._next_renewal = now + self._renewal_seconds
            for arrival in [*self.held.values()]:
                await arrival.raw.message.in_progress()

    async def look(self) -> None:
        """Look at the consumer on the server, and create it again if it is missing."""
        now = asyncio.get_running_loop().time()
        try:
            info = await self._js.consumer_info(self._context.stream.name, self.durable)
        except js_errors.NotFoundError:
            # Not left to the task that pulls, which may be waiting for room.
            await self._restore_or_report(now)
            return
        if info.created != self._created:
            # Another bus has created it again, perhaps in a new stream.
            await self._context.stream.ensure()
        try:
            self._adopt(info)
        except DriverError as error:
            self._note_failure(error)

    async def _restore_or_report(self, now: float) -> None:
        if now < self._next_attempt:
            return
        try:
            await self._restore()
        except (errors.Error, OSError, DriverError) as error:
            self._note_failure(to_driver_error(error))

    def backlog(self) -> Backlog:
        """Return the group's backlog, as last read."""
        held = [*self.held.values()]
        return make_backlog(
            self.name,
            lag=self._lag,
            pending=max(self._pending, len(held)),
            published=[arrival.raw.message.metadata.timestamp for arrival in held],
        )
