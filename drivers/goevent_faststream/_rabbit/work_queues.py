"""The adapter for RabbitMQ with a group: at least once, one bus of each group, durable queues.

`RabbitWorkQueuesAdapter` owns the subscriptions of its bus: it consumes a queue of the group as
long as a name or pattern of the bus needs it. `topology` decides which queue gets an event, and
`settler` carries out the decision about a message after its listeners. On each new connection, at
each sign of a loss and every second the adapter looks for its exchanges and queues, and declares
and binds everything again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from aiormq.exceptions import ChannelClosed, ChannelNotFoundEntity
from faststream.rabbit import RabbitBroker, RabbitExchange, RabbitQueue

from goevent import DriverError
from goevent.drivers import (
    ACK,
    READ_SILENCE_SECONDS,
    RELEASE,
    RESERVED_PREFIX,
    Action,
    Backlog,
    Capabilities,
    ReadWatchdog,
    Verdict,
    retry_or_dead_letter,
)

from .._adapter.backlogs import make_backlog
from .._adapter.contract import MAX_IN_FLIGHT_EVENTS, AdapterHost, Arrival, Decision, Outgoing
from .._adapter.subscribed_names import SubscribedNames
from .._config import BrokerConfig
from .connection import RabbitConnection
from .direct import RabbitDirectMessages
from .errors import RABBIT_ERRORS, to_driver_error
from .inspection import PATTERNS, RabbitInspection
from .prefetch_window import PrefetchWindow, first_window
from .publisher import RabbitPublisher
from .receiver import DeliveryQueue, RabbitReceiver
from .repairs import NOTICE_SECONDS, Repairs
from .settler import RabbitSettler
from .topology import GroupTopology, ServerObject, is_deleted, is_missing


@dataclass(slots=True, eq=False)
class ConsumedQueue:
    """One queue of the group, as this bus consumes it.

    Attributes:
        name: Its event name; `PATTERNS` for the patterns queue.
        queue: Its name in RabbitMQ.
        consumer_tag: The tag of this bus's consumer; empty if there is none.
        lag: The number of messages that are ready for any consumer, as last read.
        window: How many messages the server may send ahead.
        watchdog: Notices that the server sends this bus none of them.
    """

    name: str
    queue: str
    window: PrefetchWindow
    watchdog: ReadWatchdog
    consumer_tag: str = ""
    lag: int | None = None


class RabbitWorkQueuesAdapter:
    """RabbitMQ with a group."""

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
        self._repairs = Repairs(self._connection, self._repair)
        self._subscribed = SubscribedNames()
        prefix = config.prefix or ""
        self.direct = RabbitDirectMessages(
            self._connection, exchange.name, prefix, self._repairs.run_quietly
        )
        self._publisher = RabbitPublisher(
            broker,
            self._connection,
            exchange.name,
            prefix,
            is_wanted=lambda name: self._subscribed.match(name) is not None,
            is_durable=True,
            ensure=self._repairs.run,
        )
        self._settler = RabbitSettler(
            self._connection, self._topology, config, ensure=self._repairs.run
        )
        self._deliveries = DeliveryQueue(self._connection, _ignore)
        self._receiver = RabbitReceiver(
            broker,
            prefix,
            accept=self._accept,
            on_passed=self._on_passed,
            on_stopped=self._on_stopped,
            on_failed=self._connection.fail,
            queues_count=self._topology.counts_deliveries,
        )
        self.inspection = RabbitInspection(
            self._connection,
            self._topology.objects[0],
            prefix,
            self._subscribed,
            self._topology,
            config.group,
        )
        # The consumed queues by their event names, and by their names in RabbitMQ.
        self._queues: dict[str, ConsumedQueue] = {}
        self._by_queue_name: dict[str, ConsumedQueue] = {}
        # The queues that a message has come from since the last check.
        self._served: set[str] = set()
        self._fitting: asyncio.Task[None] | None = None
        self._is_stopping = False

    @property
    def capabilities(self) -> Capabilities:
        """The guarantees of RabbitMQ; consumers of a group compete, so there is no order."""
        return Capabilities(
            fan_out=False,
            durable=True,
            ordered=False,
            in_flight=MAX_IN_FLIGHT_EVENTS,
            replies=True,
        )

    async def open(self, host: AdapterHost) -> None:
        """Connect, and declare the group's exchanges.

        Raises:
            DriverConnectionError: No server answers, or it rejects the login.
            DriverError: The server refuses an exchange or a queue.
        """
        self._subscribed.clear()
        self._queues.clear()
        self._by_queue_name.clear()
        self._fitting = None
        self._deliveries.reset()
        self.direct.reset()
        self._settler.reset()
        self._publisher.reset()
        self._repairs.reset()
        self._is_stopping = False
        await self._connection.open(host)
        await self._receiver.open()
        self._repairs.start()

    async def close(self) -> None:
        """Disconnect; unacknowledged messages come again."""
        await self.direct.close()
        await self._connection.close()
        self._subscribed.clear()
        self._queues.clear()

    # -- exchanges and queues

    async def _set_up(self, is_new: bool) -> None:
        """Declare exchanges and queues, and consume, on a new channel."""
        channel = self._connection.consume_channel
        channel.on_consumer_cancel_callbacks.add(self._on_consumer_cancelled)
        if not self._repairs.is_started:
            await self._topology.declare(self._connection.request)
            return
        deleted: set[str] = set()
        if is_new:
            self._repairs.forget_refusals()
            deleted = {each.name for each in await self._find_lost()}
        waiting = [each for each in self._deliveries.waiting if each.raw.queue not in deleted]
        self._settler.connection_lost(waiting, deleted)
        self._deliveries.drop(lambda arrival: arrival.raw.queue not in deleted)
        for queue in self._queues.values():
            queue.consumer_tag = ""
            queue.window.size = self._first_window(len(self._queues))
        await self._repairs.run_now()

    async def _find_lost(self) -> list[ServerObject]:
        """Return the exchanges and queues that are missing; read the lengths of the others."""
        request = self._connection.request
        lost = [each for each in self._topology.objects if await is_missing(request, each)]
        for queue in [*self._queues.values()]:
            needed = self._topology.queue("*" if queue.name == PATTERNS else queue.name)
            try:
                reply = await request(needed.find)
                queue.lag = reply.message_count
            except ChannelNotFoundEntity as error:
                if is_deleted(error):
                    lost.append(needed)
            except ChannelClosed:
                # Another connection owns it, for instance.
                pass
        return lost

    async def _repair(self, is_full: bool) -> None:
        """Create the missing objects; make the bindings again only if the repair is full."""
        lost, repairs = await self._find_lost(), self._repairs
        events, *_ = self._topology.objects
        if events in repairs.report_losses([each for each in lost if each.is_declared]):
            self._publisher.exchange_was_lost()
            await asyncio.sleep(NOTICE_SECONDS)
        await self._look_after_consumers()
        if not is_full and not lost:
            return
        await repairs.attempt("direct messages", self.direct.repair)
        names = {each.name for each in lost}
        for queue in [*self._queues.values()]:
            if queue.queue not in names:
                continue
            # The server cancels the consumer, too, but perhaps later.
            queue.consumer_tag = ""
            self._settler.queue_deleted(queue.queue)
            if queue.name != PATTERNS and queue.name not in self._subscribed:
                # Only a pattern needed it, and now gets these events from the patterns queue.
                del self._queues[queue.name]
        request = self._connection.request
        await repairs.attempt("exchanges", partial(self._topology.declare, request))
        refused: set[str] = set()
        for pattern in [*self._subscribed]:
            bind = partial(self._topology.bind, request, pattern)
            if not await repairs.attempt(f"binding {pattern}", bind, pattern):
                refused.add(self._topology.queue(pattern).name)
        for queue in [*self._queues.values()]:
            if queue.consumer_tag or not queue.window.size or queue.queue in refused:
                continue
            consume = partial(self._consume, queue)
            if not await repairs.attempt(f"queue {queue.name}", consume, queue.name):
                # The consume channel may be closed; on the next one, this queue is left out.
                break

    async def _look_after_consumers(self) -> None:
        """Report a queue whose messages the server does not send, and consume it again."""
        served, self._served = self._served, set()
        now = asyncio.get_running_loop().time()
        for queue in self._queues.values():
            if (
                not queue.lag
                or not queue.consumer_tag
                or queue.queue in served
                or self._count_held(queue) >= queue.window.size
            ):
                queue.watchdog.read(now)
                await self._fit_window(queue, is_idle=queue.queue not in served)
                continue
            reason = (
                f"it holds {queue.lag} events, and the server sends this bus none; perhaps another "
                "consumer has it alone (x-single-active-consumer) or before others (x-priority)"
            )
            silence = queue.watchdog.silence(now, reason=reason)
            if silence is not None:
                self._connection.host.report(silence, queue.name)
                await self._cancel_consumer(queue.consumer_tag)
                queue.consumer_tag = ""
                again = partial(self._consume, queue)
                await self._repairs.attempt(f"queue {queue.name}", again, queue.name)

    # -- the windows of the consumers

    def _first_window(self, queues: int) -> int:
        return first_window(self._config.prefetch, self._config.prefetch_bytes, queues)

    async def _fit_windows(self, queues: Sequence[ConsumedQueue]) -> None:
        async with self._repairs.lock:
            for queue in queues:
                if self._queues.get(queue.name) is queue and self._connection.is_up:
                    await self._fit_window(queue)

    async def _fit_window(self, queue: ConsumedQueue, *, is_idle: bool = False) -> None:
        """Consume a queue with another window if the sizes of its events call for it.

        Args:
            is_idle: No event has come for a while; the next ones may be much larger.
        """
        window, held = queue.window, self._count_held(queue)
        first = self._first_window(len(self._queues))
        size = window.fitting(held, self._settler.held_bytes(), len(self._queues))
        if is_idle and not held and size > first:
            size = first
        if size == window.size or bool(window.size) != bool(queue.consumer_tag):
            return
        window.size = size
        tag, queue.consumer_tag = queue.consumer_tag, ""
        await self._cancel_consumer(tag)
        if size:
            again = partial(self._consume, queue)
            await self._repairs.attempt(f"queue {queue.name}", again, queue.name)

    def _count_held(self, queue: ConsumedQueue) -> int:
        return sum(each.raw.queue == queue.queue for each in self._settler.held.values())

    async def _consume(self, queue: ConsumedQueue) -> None:
        # It counts for the consumers of this channel that come after it, each by itself.
        await self._connection.consume_channel.basic_qos(prefetch_count=queue.window.size)
        event_name = "" if queue.name == PATTERNS else queue.name
        on_message = self._receiver.consumer(queue.queue, event_name)
        queue.consumer_tag = await self._connection.consume(queue.queue, on_message)

    async def _on_consumer_cancelled(self, frame: Any) -> None:
        """Note that the server has cancelled a consumer, most likely with the queue."""
        tag = frame.consumer_tag
        queue = next((each for each in self._queues.values() if each.consumer_tag == tag), None)
        if queue is not None:
            queue.consumer_tag = ""
            # At once: a message that is returned to a deleted queue would be lost.
            self._settler.queue_deleted(queue.queue)
            self._connection.start(
                self._repairs.run_quietly(partial(self._replace_consumer, queue))
            )

    async def _replace_consumer(self, queue: ConsumedQueue) -> None:
        needed = ServerObject("queue", queue.queue)
        if await is_missing(self._connection.request, needed):
            self._repairs.report_losses([needed], is_complete=False)
            await self._repairs.run()
            return
        # The queue has failed and is back, with the messages that this bus holds.
        self._settler.queue_recovered(queue.queue)
        text = f"the server has cancelled the consumer of the queue {queue.queue!r}"
        await self._connection.reconnect(text)

    # -- subscriptions

    async def subscribe(self, names: Sequence[str]) -> None:
        """Consume names and patterns; returns when their queues exist and are consumed."""
        await self._connection.run_shielded(self._subscribe(names))

    async def _subscribe(self, names: Sequence[str]) -> None:
        await self._connection.wait_until_up()
        async with self._repairs.lock:
            if self._is_stopping:
                return
            try:
                for pattern in names:
                    self._subscribed.add(pattern)
                    await self._listen(pattern)
            except (DriverError, *RABBIT_ERRORS) as error:
                await self._drop(names)
                raise to_driver_error(error) from error
            finally:
                self._publisher.subscriptions_changed()

    async def _listen(self, pattern: str) -> None:
        """Bind the queue of a name or pattern, and consume it if this bus does not yet."""
        request = self._connection.request
        bind = partial(self._topology.bind, request, pattern)
        await self._repairs.insist(bind, partial(self._topology.declare, request))
        name = PATTERNS if "*" in pattern else pattern
        if name not in self._queues:
            queue_name = self._topology.queue(pattern).name
            watchdog = ReadWatchdog(f"the queue {queue_name!r}", limit_seconds=READ_SILENCE_SECONDS)
            window = PrefetchWindow(self._config.prefetch, self._config.prefetch_bytes)
            window.size = self._first_window(len(self._queues) + 1)
            queue = ConsumedQueue(name, queue_name, window, watchdog)
            self._by_queue_name[queue_name] = queue
            await self._consume(queue)
            self._queues[name] = queue

    async def unsubscribe(self, names: Sequence[str]) -> None:
        """Stop consuming names and patterns; their queues stay and collect events."""
        await self._connection.run_shielded(self._unsubscribe(names))

    async def _unsubscribe(self, names: Sequence[str]) -> None:
        async with self._repairs.lock:
            await self._drop(names)
            self._publisher.subscriptions_changed()

    async def _drop(self, names: Sequence[str]) -> None:
        for pattern in names:
            self._subscribed.remove(pattern)
        for queue in [*self._queues.values()]:
            if not self._is_needed(queue):
                del self._queues[queue.name]
                self._by_queue_name.pop(queue.queue, None)
                await self._cancel_consumer(queue.consumer_tag)

    def _is_needed(self, queue: ConsumedQueue) -> bool:
        if queue.name == PATTERNS:
            return any("*" in pattern for pattern in self._subscribed)
        # A pattern that matches the name needs its queue, too: the name's events do not reach the
        # patterns queue as long as this queue exists.
        return self._subscribed.match(queue.name) is not None

    async def _cancel_consumer(self, tag: str) -> None:
        channel = self._connection.consume_channel
        if self._connection.is_up and tag and not channel.is_closed:
            try:
                await channel.basic_cancel(tag)
            except RABBIT_ERRORS as error:
                raise to_driver_error(error) from error

    async def stop_receiving(self) -> None:
        """Stop consuming, and release the messages that have arrived and wait for room."""
        await self._connection.run_shielded(self._stop_receiving())

    async def _stop_receiving(self) -> None:
        async with self._repairs.lock:
            self._is_stopping = True
            queues = [*self._queues.values()]
            self._queues.clear()
        for queue in queues:
            await self._cancel_consumer(queue.consumer_tag)
        # The client starts one task per message. The tasks of messages that came before the
        # server's answer get their turn now.
        await asyncio.sleep(0)
        undelivered = await self._deliveries.take_undelivered()
        await self._settler.settle([Decision(arrival, RELEASE) for arrival in undelivered])
        await self._settler.return_delayed()

    # -- receiving

    def _accept(self, arrival: Arrival) -> bool:
        """Note an arrival; return whether its listeners have to run."""
        name = arrival.raw.queue
        self._served.add(name)
        queue = self._by_queue_name.get(name)
        if queue is not None and queue.window.arrived(len(arrival.body)) and queue.consumer_tag:
            self._fit_soon([queue])
        if not self._settler.accept(arrival):
            return False
        if arrival.raw.group in ("", self._config.group):
            return True
        # A dead letter of another group, which got it from the exchange, too.
        self._connection.start(self._settler.settle_quietly(Decision(arrival, ACK)))
        return False

    def _on_passed(self, arrival: Arrival) -> None:
        name, queue = arrival.name, arrival.raw.queue
        is_from_patterns = queue == self._topology.names.patterns
        if is_from_patterns and name.startswith(RESERVED_PREFIX) and name not in self._subscribed:
            # No bus of the group had subscribed to the name itself when this came.
            self._connection.start(self._settler.settle_quietly(Decision(arrival, ACK)))
            return
        if not is_from_patterns and name in self._subscribed:
            arrival.via = name
        else:
            arrival.via = self._subscribed.match(name) or ""
        if arrival.via or queue == self._topology.queue(name).name:
            # Without a listener the bus releases it.
            self._deliveries.add(arrival)
        else:
            # Another version of the service has bound the queue to this name, and may still run.
            self._connection.start(self._pass_on(arrival))

    async def _pass_on(self, arrival: Arrival) -> None:
        """Give an arrival that no listener matches to another bus, or write its dead letter."""
        config, delivery = self._config, arrival.raw
        # Deliveries count here only if the server stored no copy, or a listener failed.
        unmatched = max(delivery.unmatched + 1, arrival.deliveries)
        # The server serves the consumers of a queue in turn. Each gets the message several times
        # before it is given up.
        if (
            unmatched >= config.max_deliveries
            and unmatched >= config.max_deliveries * await self._count_consumers(delivery.queue)
        ):
            arrival.deliveries += delivery.unmatched
            reason = "no listener of the group matches it"
            dead = Verdict(Action.DEAD_LETTER, reason=reason)
            await self._settler.settle_quietly(Decision(arrival, dead))
            return
        self._settler.pass_on(arrival, config.pause(min(unmatched, config.max_deliveries)))

    async def _count_consumers(self, queue: str) -> int:
        """Return how many buses consume a queue; 1 if the server does not tell."""
        try:
            reply = await self._connection.request(ServerObject("queue", queue).find)
        except (DriverError, *RABBIT_ERRORS):
            return 1
        return max(1, int(reply.consumer_count))

    async def _on_stopped(self, arrival: Arrival, error: Exception | None) -> None:
        if error is None:
            await self._settler.settle_quietly(Decision(arrival, ACK))
            return
        self._connection.host.report(error, arrival.name)
        reason = f"a middleware has failed: {error!r}"
        verdict = retry_or_dead_letter(
            arrival.deliveries, self._config, reason=reason, reported=True
        )
        await self._settler.settle_quietly(Decision(arrival, verdict))

    # -- publishing and settlement

    async def publish(self, burst: Sequence[Outgoing]) -> None:
        """Publish events; the server confirms each, with or without a queue for it."""
        await self._publisher.publish(burst)

    async def settle(self, decisions: Sequence[Decision]) -> None:
        """Acknowledge, return and dead-letter messages."""
        await self._settler.settle(decisions)
        paused = [queue for queue in self._queues.values() if not queue.window.size]
        if paused and 2 * self._settler.held_bytes() <= self._config.prefetch_bytes:
            self._fit_soon(paused)

    def _fit_soon(self, queues: Sequence[ConsumedQueue]) -> None:
        if self._fitting is None or self._fitting.done():
            self._fitting = self._connection.start(self._fit_windows(queues))

    # -- figures

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
