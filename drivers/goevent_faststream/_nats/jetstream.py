"""The adapter for JetStream: durable, at least once; one bus of each group gets each event.

One stream holds the events of all names. For each event name that a group listens to, it has one
durable pull consumer, which all its buses share. A pattern stands for the event names that match
it: those that the stream holds already, and those that a plain subscription to the pattern's
subject sees for the first time.

`JetStreamAdapter` owns the stream and the consumers of its bus, and two kinds of tasks: one that
looks after the consumers, and one after each reconnect. That one creates the stream and the
consumers again if they are gone, and looks for event names which appeared meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

from faststream.nats import JStream, NatsBroker
from nats import errors

from goevent import DriverConnectionError, DriverError, compile_pattern
from goevent.drivers import Backlog, Capabilities

from .._adapter.connection import checked_broker
from .._adapter.contract import MAX_IN_FLIGHT_EVENTS, Adapter, AdapterHost, Decision, Outgoing
from .._config import BrokerConfig
from .connection import (
    NatsConnection,
    make_broker as make_broker,
    to_driver_error,
)
from .dead_letters import JetStreamDeadLetters
from .direct import NatsDirectMessages
from .publisher import JetStreamPublisher
from .pull_budget import PullBudget
from .pull_consumer import JetStreamConsumer, JetStreamContext
from .released import ReleasedDeliveries
from .settler import JetStreamSettler
from .stream import NatsStream
from .stream_inspection import StreamInspection
from .subjects import check_prefix, check_stream_name, consumer_name, covering_subject

DEFAULT_STREAM = "goevent-js"
LOOK_AFTER_SECONDS = 1.0
# The looks at consumers on the server in this time, above which the consumers take turns.
MAX_BUSY_LOOKS = 100
MAX_IDLE_LOOKS = 10
REQUESTS_AT_ONCE = 32


def make_adapter(broker: object, config: BrokerConfig, address: object) -> Adapter:
    """Return the adapter for JetStream.

    Raises:
        TypeError: The broker is not a NatsBroker, or the address is not a JStream.
        ValueError: The prefix is empty, and there is no address.
    """
    if address is not None and not isinstance(address, JStream):
        raise TypeError(f"the address of events in JetStream is a JStream, not {address!r}")
    return JetStreamAdapter(checked_broker(broker, NatsBroker), config, address)


class JetStreamAdapter:
    """JetStream, over one connection."""

    def __init__(self, broker: NatsBroker, config: BrokerConfig, address: JStream | None) -> None:
        self._config = config
        name = (config.stream or DEFAULT_STREAM) if address is None else address.name
        check_stream_name(name)
        self._prefix = f"{name}." if config.prefix is None else config.prefix
        if address is not None and config.prefix is None:
            self._prefix = _prefix_of(address)
        check_prefix(self._prefix)
        if address is None:
            if not self._prefix:
                raise ValueError(
                    "JetStream without a prefix needs an address: a JStream that exists"
                )
            if not self._prefix.endswith("."):
                raise ValueError(
                    f"prefix: JetStream needs a dot at its end, as in '{self._prefix}.', so that "
                    "one subject covers all events"
                )
        self._connection = connection = NatsConnection(broker, config.publish_timeout)
        connection.on_down, connection.on_up = self._on_down, self._on_up
        self.direct = NatsDirectMessages(connection, self._prefix)
        self._stream = stream = NatsStream(connection, name, self._prefix, address)
        self._publisher = JetStreamPublisher(broker, connection, stream, config.publish_timeout)
        released = ReleasedDeliveries(connection, name)
        self._dead_letters = JetStreamDeadLetters(connection, stream, config.group or "")
        self._settler = JetStreamSettler(connection, stream, self._dead_letters, released)
        self._budget = PullBudget(config.prefetch_bytes)
        self._context = JetStreamContext(broker, connection, config, stream, released, self._budget)
        self.inspection = StreamInspection(connection, stream, config.publish_timeout)
        self._consumers: dict[str, JetStreamConsumer] = {}
        self._pattern_subscriptions: dict[str, Any] = {}
        # Held while consumers are created or stopped: a name may come from `subscribe` and from a
        # pattern's subscription at the same time, and must have one consumer.
        self._consumers_lock = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []
        self._turn = 0  # of the looks at the consumers

    @property
    def capabilities(self) -> Capabilities:
        """The guarantees of JetStream; consumers of a group compete, so there is no order."""
        return Capabilities(
            fan_out=False,
            durable=True,
            ordered=False,
            in_flight=MAX_IN_FLIGHT_EVENTS,
            replies=True,
        )

    @property
    def dead_letters(self) -> JetStreamDeadLetters:
        """The dead letters of the group."""
        return self._dead_letters

    @property
    def _js(self) -> Any:
        return self._connection.jetstream

    async def open(self, host: AdapterHost) -> None:
        """Connect, and create the stream if it is missing.

        Raises:
            DriverConnectionError: No server answers, or it rejects the login.
            DriverError: The server has no JetStream, or it refuses to create the stream.
        """
        self._consumers_lock = asyncio.Lock()
        self._consumers.clear()
        self._pattern_subscriptions.clear()
        self._stream.reset()
        self._budget.open(host)
        self._turn = 0
        self.direct.open()
        await self._connection.open(host)
        try:
            await self._stream.ensure()
            await self._publisher.open()
        except (errors.Error, OSError) as error:
            raise to_driver_error(error) from error
        self._tasks = [self._connection.start_vital(self._look_after())]

    async def close(self) -> None:
        """Disconnect; events that the bus still holds come again."""
        for task in [*self._tasks, *(consumer.task for consumer in self._consumers.values())]:
            task.cancel()
        self._tasks.clear()
        self._consumers.clear()
        await self._connection.close()
        self.direct.close()

    # -- subscriptions

    async def subscribe(self, names: Sequence[str]) -> None:
        """Consume names and patterns; returns when the durable consumers exist."""
        await self._connection.wait_until_up()
        try:
            async with self._consumers_lock:
                await self._start_consumers([name for name in names if "*" not in name])
            for name in names:
                if "*" in name:
                    await self._subscribe_pattern(name)
        except DriverError:
            await self.unsubscribe(names)
            raise
        except (errors.Error, OSError) as error:
            await self.unsubscribe(names)
            raise to_driver_error(error) from error

    async def _subscribe_pattern(self, pattern: str) -> None:
        matches = compile_pattern(pattern)

        async def on_message(message: Any) -> None:
            name = message.subject.removeprefix(self._prefix)
            is_new = matches(name) and not self._is_consumed(name, pattern)
            # The subscription may have ended while this message was on its way.
            if is_new and pattern in self._pattern_subscriptions:
                try:
                    await self._consume(name, pattern, is_new_name=True)
                except (errors.Error, OSError, DriverError) as error:
                    # The next event of that name tries again, and so does the next reconnect.
                    self._connection.host.report(to_driver_error(error), name)

        subject = self._prefix + covering_subject(pattern)
        refused: list[DriverError] = []
        with self._connection.refusals.waiting(subject, refused.append):
            subscription = await self._connection.client.subscribe(subject, cb=on_message)
            self._pattern_subscriptions[pattern] = subscription
            # First the subscription, then the names that exist: a name that appears in between is
            # found by both, and none by neither.
            await self._connection.flush()
        if refused:
            raise refused[0]
        await self._consume_existing(pattern, matches)

    async def _consume_existing(self, pattern: str, matches: Callable[[str], object]) -> None:
        """Consume the event names in the stream that match a pattern."""
        subject = self._prefix + covering_subject(pattern)
        info = await self._js.stream_info(self._stream.name, subjects_filter=subject)
        counts: dict[str, int] = info.state.subjects or {}
        for found in counts:
            name = found.removeprefix(self._prefix)
            if matches(name):
                await self._consume(name, pattern)

    def _is_consumed(self, name: str, subscribed_name: str) -> bool:
        consumer = self._consumers.get(name)
        return consumer is not None and subscribed_name in consumer.subscribed_names

    async def _consume(self, name: str, subscribed_name: str, *, is_new_name: bool = False) -> None:
        async with self._consumers_lock:
            await self._start_consumer(name, subscribed_name, is_new_name=is_new_name)

    async def _start_consumers(self, names: Sequence[str]) -> None:
        """Consume exact names, several at a time: each one takes several round trips."""
        await self._stream.check_room_for_consumers(
            [consumer_name(self._config.group or "", name) for name in names]
        )
        await _in_parts([partial(self._start_consumer, name, name) for name in names])

    async def _start_consumer(
        self, name: str, subscribed_name: str, *, is_new_name: bool = False
    ) -> None:
        consumer = self._consumers.get(name)
        if consumer is None:
            consumer = JetStreamConsumer(self._context, name)
            await consumer.start(is_new_name=is_new_name)
            self._consumers[name] = consumer
            self._budget.consumers = len(self._consumers)
        consumer.subscribed_names[subscribed_name] = None

    async def unsubscribe(self, names: Sequence[str]) -> None:
        """Stop consuming names and patterns; their durable consumers stay and collect events."""
        try:
            for name in names:
                subscription = self._pattern_subscriptions.pop(name, None)
                if subscription is not None:
                    await subscription.unsubscribe()
            gone = {*names}
            async with self._consumers_lock:
                unused: list[JetStreamConsumer] = []
                for consumer in [*self._consumers.values()]:
                    for name in gone.intersection(consumer.subscribed_names):
                        del consumer.subscribed_names[name]
                    if not consumer.subscribed_names:
                        del self._consumers[consumer.name]
                        unused.append(consumer)
                self._budget.consumers = len(self._consumers)
                await _in_parts([consumer.stop for consumer in unused])
        except (errors.Error, OSError) as error:
            raise to_driver_error(error) from error

    async def stop_receiving(self) -> None:
        """Stop pulling, and deliver the events that the server has sent already."""
        try:
            for subscription in self._pattern_subscriptions.values():
                await subscription.unsubscribe()
            self._pattern_subscriptions.clear()
            await _in_parts([consumer.stop for consumer in self._consumers.values()])
        except (errors.Error, OSError) as error:
            raise to_driver_error(error) from error

    # -- publishing and settlement

    async def publish(self, burst: Sequence[Outgoing]) -> None:
        """Publish events; the server acknowledges each one."""
        await self._publisher.publish(burst)

    async def settle(self, decisions: Sequence[Decision]) -> None:
        """Acknowledge, return and dead-letter events."""
        await self._settler.settle(decisions)

    # -- signs of life and figures

    async def _look_after(self) -> None:
        """Renew the deadlines of held events and read the backlogs, until cancelled."""
        while True:
            consumers = [*self._consumers.values()]
            renewals = [consumer.renewal_seconds for consumer in consumers]
            await asyncio.sleep(min(LOOK_AFTER_SECONDS, self._config.claim_idle / 3, *renewals))
            await self._connection.wait_until_up(float("inf"))
            for consumer in consumers:
                await self._look_after_part(consumer.renew())
            for consumer in self._consumers_to_look_at():
                await self._look_after_part(consumer.look())

    async def _look_after_part(self, work: Coroutine[Any, Any, None]) -> None:
        # If the server cannot answer, the task that pulls from the consumer reports that.
        try:
            await work
        except (errors.Error, OSError, DriverConnectionError):
            pass
        except DriverError as refusal:
            self._connection.refusals.report_once(str(refusal), refusal)

    def _consumers_to_look_at(self) -> list[JetStreamConsumer]:
        """Return the consumers whose turn it is: busy ones often, and the others in rotation.

        Each look is a request. A thousand idle consumers would keep the server and the bus busy.
        """
        busy, idle = list[JetStreamConsumer](), list[JetStreamConsumer]()
        for consumer in self._consumers.values():
            (busy if consumer.is_busy else idle).append(consumer)
        self._turn += 1
        return _rotated(busy, MAX_BUSY_LOOKS, self._turn) + _rotated(
            idle, MAX_IDLE_LOOKS, self._turn
        )

    def backlogs(self) -> tuple[Backlog, ...]:
        """Return the group's backlogs, as last read."""
        return tuple(consumer.backlog() for consumer in [*self._consumers.values()])

    # -- reconnects

    def _on_down(self) -> None:
        self.direct.connection_lost()
        self._publisher.connection_lost()
        self._stream.connection_lost()
        for consumer in self._consumers.values():
            consumer.end_pull()

    def _on_up(self) -> None:
        task = self._connection.start_vital(self._restore())
        self._tasks.append(task)
        task.add_done_callback(self._tasks.remove)

    async def _restore(self) -> None:
        """Create the missing objects, and consume the event names that appeared meanwhile."""
        await self._restore_part(self._stream.ensure())
        for consumer in [*self._consumers.values()]:
            await self._restore_part(consumer.look())
        for pattern in [*self._pattern_subscriptions]:
            await self._restore_part(self._consume_existing(pattern, compile_pattern(pattern)))

    async def _restore_part(self, work: Coroutine[Any, Any, None]) -> None:
        """Await a part of the restoration; a failure must not keep the others from theirs."""
        try:
            await work
        except (errors.Error, OSError, DriverError) as error:
            failure = to_driver_error(error)
            # The server may still be starting. The pulls and the publishes try again, and report
            # it if that lasts.
            if not isinstance(failure, DriverConnectionError):
                self._stream.report_failure(failure)


async def _in_parts(works: Sequence[Callable[[], Coroutine[Any, Any, None]]]) -> None:
    """Await several requests at a time; the first error is raised when its part has ended."""
    for first in range(0, len(works), REQUESTS_AT_ONCE):
        part = [work() for work in works[first : first + REQUESTS_AT_ONCE]]
        for result in await asyncio.gather(*part, return_exceptions=True):
            if result is not None:
                raise result


def _rotated(consumers: list[JetStreamConsumer], count: int, turn: int) -> list[JetStreamConsumer]:
    """Return at most `count` consumers; later turns return others."""
    if len(consumers) <= count:
        return consumers
    start = turn * count % len(consumers)
    return (consumers[start:] + consumers[:start])[:count]


def _prefix_of(stream: JStream) -> str:
    """Return the prefix of event names in a stream: the part of a subject in front of its `>`."""
    for subject in stream.subjects:
        if subject.endswith(".>"):
            return str(subject).removesuffix(">")
    return f"{stream.name}."
