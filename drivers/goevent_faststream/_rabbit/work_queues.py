"""RabbitMQ with a group: durable, at least once, one bus of each group gets each event.

A group has a queue for each event name that it listens to, and one for all its patterns. Events go
from the one exchange of all to the exchange of the group, which knows the names that have a queue;
what has none goes on, by the alternate exchange, to the patterns. So each event is in one queue of
the group, whatever it matches, and the server sees to it: no bus has to guess what others got.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from faststream.rabbit import QueueType, RabbitBroker, RabbitExchange, RabbitQueue

from goevent import DriverError, compile_pattern
from goevent.drivers import ACK, RELEASE, Action, Backlog, Capabilities, Verdict

from .._adapter.contract import Adapter, AdapterHost, Arrival, Decision, Outgoing
from .._config import BrokerConfig
from .connection import (
    CLIENT,
    RabbitLink,
    make_broker as make_broker,
    rabbit_broker,
    to_driver_error,
)
from .fan_out import IN_FLIGHT, declare, exchange_of, make_adapter as make_fan_out_adapter
from .names import Names, binding
from .publisher import LONGEST, Publisher
from .receiver import Line, Receiver
from .settler import Settler

LOOK = 1.0  # seconds between two looks at what the group has to do
PATTERNS = "**"


def make_adapter(broker: object, config: BrokerConfig, address: object) -> Adapter:
    """Return RabbitMQ for a broker.

    Args:
        address: a `RabbitExchange` is the one that events go to; a `RabbitQueue` says what the
            queues of the group are like, and its name is what their names begin with.
    """
    if config.group is None:
        return make_fan_out_adapter(broker, config, address)
    if config.start not in ("earliest", "latest"):
        raise ValueError("RabbitMQ keeps nothing from before a group's queue: start has no choice")
    queue = address if isinstance(address, RabbitQueue) else None
    exchange = exchange_of(config, None if queue else address)
    return RabbitQueuesAdapter(rabbit_broker(broker), config, exchange, queue)


@dataclass(slots=True, eq=False)
class Feed:
    """One queue of the group.

    Attributes:
        name: the event's name; `**` for what patterns get.
        tag: of the consumer.
        lag: how many messages it holds for whoever comes, as last seen.
    """

    name: str
    queue: str
    tag: str = ""
    lag: int | None = None


class RabbitQueuesAdapter:
    """RabbitMQ with a group, over one connection."""

    def __init__(
        self,
        broker: RabbitBroker,
        config: BrokerConfig,
        exchange: RabbitExchange,
        queue: RabbitQueue | None,
    ) -> None:
        self._config = config
        self._exchange = exchange
        self._prefix = config.prefix or ""
        stem = queue.name if queue is not None else f"{exchange.name}:{config.group}"
        self._names = Names(exchange.name, stem)
        self._arguments: dict[str, Any] = {
            "x-dead-letter-exchange": self._names.dead_exchange,
            "x-dead-letter-routing-key": self._names.dead,
            **((queue.arguments or {}) if queue is not None else {"x-queue-type": "quorum"}),
        }
        self._durable = bool(queue.durable) if queue is not None else True
        counted = self._arguments.get("x-queue-type") == QueueType.QUORUM.value
        self._link = RabbitLink(broker, config.publish_timeout)
        self._link.set_up = self._set_up
        self._publisher = Publisher(broker, self._link, exchange.name, self._prefix)
        self._settler = Settler(self._link, self._names, config, counted=counted)
        self._line = Line(self._link, _nothing)
        self._receiver = Receiver(
            broker, self._prefix, came=self._settler.came, handed=self._take, kept=self._kept
        )
        self._tests: dict[str, Callable[[str], object]] = {}
        self._feeds: dict[str, Feed] = {}
        self._order = asyncio.Lock()

    @property
    def capabilities(self) -> Capabilities:
        """What RabbitMQ promises."""
        return Capabilities(fan_out=False, durable=True, ordered=False, in_flight=IN_FLIGHT)

    async def open(self, host: AdapterHost) -> None:
        """Connect, and see to it that the exchanges exist."""
        self._tests.clear()
        self._feeds.clear()
        self._line.begin()
        self._settler.begin()
        self._order = asyncio.Lock()
        await self._link.open(host)
        await self._receiver.open()
        self._link.do(self._look_after())

    async def close(self) -> None:
        """Disconnect; what is unacknowledged comes again."""
        await self._link.close()
        self._tests.clear()
        self._feeds.clear()

    # -- exchanges and queues

    async def _set_up(self) -> None:
        channel, names = self._link.consuming, self._names
        self._settler.lose(self._line.waiting)
        self._line.clear()
        channel.on_consumer_cancel_callbacks.add(self._cancelled)
        await channel.basic_qos(prefetch_count=self._config.prefetch)
        await declare(channel, self._exchange)
        await channel.exchange_declare(names.dead_exchange, durable=True)
        await channel.queue_declare(names.dead, durable=True, arguments={"x-queue-type": "quorum"})
        await channel.queue_bind(names.dead, names.dead_exchange, names.dead)
        await channel.exchange_declare(names.patterns, exchange_type="topic", durable=True)
        await channel.exchange_declare(
            names.exact, durable=True, arguments={"alternate-exchange": names.patterns}
        )
        for via in self._tests:
            await self._bind(via)
        for feed in self._feeds.values():
            await self._consume(feed)

    async def _bind(self, via: str) -> str:
        """Have the group get a name or pattern; returns the name of its feed."""
        channel, names = self._link.consuming, self._names
        key, is_pattern = self._prefix + binding(via), "*" in via
        if len(key) > LONGEST:
            raise DriverError(f"RabbitMQ: a binding key has at most {LONGEST} bytes")
        queue = names.patterns if is_pattern else names.queue(via)
        await channel.queue_declare(queue, durable=self._durable, arguments=self._arguments)
        await channel.queue_bind(queue, names.patterns if is_pattern else names.exact, key)
        # In this order: what comes to the exchange of the group has its queue there.
        await channel.exchange_bind(names.exact, self._exchange.name, key)
        return PATTERNS if is_pattern else via

    async def _consume(self, feed: Feed) -> None:
        consumer = self._receiver.consumer(feed.queue)
        begun = await self._link.consuming.basic_consume(feed.queue, consumer)
        feed.tag = begun.consumer_tag

    async def _cancelled(self, frame: Any) -> None:
        """Take note that the server has ended a consumer: its queue was deleted."""
        feed = next((f for f in self._feeds.values() if f.tag == frame.consumer_tag), None)
        if feed is not None:
            self._link.host.report(
                DriverError(f"the queue {feed.queue!r} had vanished, and is made anew"), feed.name
            )
            self._link.do(self._make_again(feed))

    async def _make_again(self, feed: Feed) -> None:
        try:
            async with self._order:
                for via in self._tests:
                    if ("*" in via) == (feed.name == PATTERNS):
                        await self._bind(via)
                await self._consume(feed)
        except CLIENT as error:
            self._link.host.report(to_driver_error(error), feed.name)

    # -- to us

    async def subscribe(self, names: Sequence[str]) -> None:
        """Consume names and patterns; returns when the queues exist and are consumed."""
        await self._link.unbroken(self._begin(names))

    async def _begin(self, names: Sequence[str]) -> None:
        await self._link.ready()
        try:
            async with self._order:
                for via in names:
                    self._tests[via] = compile_pattern(via)
                    name = await self._bind(via)
                    if name not in self._feeds:
                        queue = self._names.patterns if name == PATTERNS else self._names.queue(via)
                        feed = Feed(name, queue)
                        await self._consume(feed)
                        self._feeds[name] = feed
        except (DriverError, *CLIENT) as error:
            await self._end(names)
            raise to_driver_error(error) from error

    async def unsubscribe(self, names: Sequence[str]) -> None:
        """Consume them no more; the queues stay, and gather what comes."""
        await self._link.unbroken(self._end(names))

    async def _end(self, names: Sequence[str]) -> None:
        async with self._order:
            for via in names:
                self._tests.pop(via, None)
            for feed in [*self._feeds.values()]:
                if not self._is_wanted(feed):
                    del self._feeds[feed.name]
                    await self._stop(feed)

    def _is_wanted(self, feed: Feed) -> bool:
        if feed.name == PATTERNS:
            return any("*" in via for via in self._tests)
        # A pattern that it matches goes on getting it, as it does not come by another queue.
        return any(test(feed.name) for test in self._tests.values())

    async def _stop(self, feed: Feed) -> None:
        if self._link.is_up:
            try:
                await self._link.consuming.basic_cancel(feed.tag)
            except CLIENT as error:
                raise to_driver_error(error) from error

    async def stop_receiving(self) -> None:
        """Consume no more, and give back what has come and was not handed over."""
        await self._link.unbroken(self._end_all())

    async def _end_all(self) -> None:
        feeds = [*self._feeds.values()]
        self._feeds.clear()
        for feed in feeds:
            await self._stop(feed)
        await asyncio.sleep(0)  # what came before the answer is with tasks that have not begun yet
        left = await self._line.leave()
        await self._settler.settle([Decision(arrival, RELEASE) for arrival in left])
        await self._settler.hurry()

    def _take(self, arrival: Arrival) -> None:
        """Take what has passed the middlewares."""
        name, by_pattern = arrival.name, arrival.raw.queue == self._names.patterns
        if not by_pattern and name in self._tests:
            arrival.via = name
        else:
            arrival.via = next((via for via, test in self._tests.items() if test(name)), "")
        if arrival.via or not by_pattern:
            self._line.add(arrival)
        else:
            # Another version of the service has bound the queue to it; perhaps that still runs.
            self._link.do(self._fail(arrival, "no listener of this bus matches it", reported=False))

    async def _kept(self, arrival: Arrival, error: Exception | None) -> None:
        """Take what has not passed the middlewares."""
        if error is None:
            await self._settler.settle_quietly(Decision(arrival, ACK))
            return
        self._link.host.report(error, arrival.name)
        await self._fail(arrival, f"a middleware has failed: {error!r}", reported=True)

    async def _fail(self, arrival: Arrival, reason: str, *, reported: bool) -> None:
        tries = arrival.deliveries
        if tries >= self._config.max_deliveries:
            verdict = Verdict(Action.DEAD_LETTER, reason=reason, reported=reported)
        else:
            verdict = Verdict(Action.RETRY, after=self._config.pause(tries))
        await self._settler.settle_quietly(Decision(arrival, verdict))

    # -- to the server

    async def publish(self, burst: Sequence[Outgoing]) -> None:
        """Publish a burst; the server confirms each event, also one that no queue is bound to."""
        await self._publisher.publish(burst)

    async def settle(self, decisions: Sequence[Decision]) -> None:
        """Acknowledge, give back, and bury."""
        await self._settler.settle(decisions)

    # -- what has to be looked after

    async def _look_after(self) -> None:
        """Look at what there is to do, by a channel that an error may close."""
        channel: Any = None
        while True:
            await asyncio.sleep(LOOK)
            await self._link.ready(patience=float("inf"))
            with suppress(*CLIENT, DriverError):  # a queue that is gone is reported by its consumer
                if channel is None or channel.is_closed:
                    channel = await self._link.channel(confirms=False)
                for feed in [*self._feeds.values()]:
                    seen = await channel.queue_declare(feed.queue, passive=True)
                    feed.lag = seen.message_count

    def backlogs(self) -> tuple[Backlog, ...]:
        """Return what the group has to do, as last seen.

        `lag` is what is ready in the queue. `pending` is what this bus holds: what other buses of
        the group hold, AMQP does not tell.
        """
        held = [*self._settler.held.values()]
        return tuple(self._backlog(feed, held) for feed in [*self._feeds.values()])

    def _backlog(self, feed: Feed, held: Sequence[Arrival]) -> Backlog:
        mine = [arrival.raw.properties.timestamp for arrival in held if _is_from(arrival, feed)]
        since = min((time for time in mine if time is not None), default=None)
        oldest = 0.0 if since is None else (datetime.now(UTC) - since).total_seconds()
        return Backlog(
            event_name=feed.name, lag=feed.lag, pending=len(mine), oldest_pending=max(0.0, oldest)
        )


def _is_from(arrival: Arrival, feed: Feed) -> bool:
    return bool(arrival.raw.queue == feed.queue)


def _nothing(_: Arrival) -> None:
    """Take no note of what is handed over: it is settled one by one."""
