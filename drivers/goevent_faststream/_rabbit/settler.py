"""The settler of RabbitMQ: it knows the messages that the bus holds, and carries out decisions.

Theory of operation: RabbitMQ cannot return a message with a delay. A message that failed therefore
stays unacknowledged in this bus during its pause, and is returned afterwards. It fills a place of
the bus's prefetch window meanwhile, as it should when every event fails. If the process dies during
the pause, the server returns the message.

A quorum queue counts each return as a delivery. A message that no listener has begun must not be
counted, so it is not returned: the settler publishes a copy into the same queue, which carries the
number of deliveries, and acknowledges the original once the server has confirmed the copy. The
same is done for a message of the patterns queue that no listener of this bus matches: another bus
of the group, which has other patterns, may run it. A classic queue counts nothing; there, messages
that failed are replaced by copies, too. A message that is on its way inside the server while its
consumer is cancelled never comes here: the server returns it by itself, and counts that.

When the connection is lost, the server returns all unacknowledged messages at once. Some of them
come back to this bus while a listener still works on them, and others after their acknowledgement
was lost on the way. The settler recognises both by queue and message id. A message of the first
kind replaces the lost delivery: the decision about the running event settles the new one. A message
of the second kind is acknowledged again. Neither runs twice.

If a queue is deleted, its messages are gone, and those that the bus holds are the last copies. They
run on as *orphans*: the server delivers none of them again, and there is nothing to acknowledge.
An orphan that has to be returned is published into the queue, which the adapter has created again.

Copies and dead letters travel on the connection for publishes, which the server may block for a
long time. Acknowledgements do not wait for them. A copy or a dead letter that the server has not
stored is published again after a pause, and its original stays unacknowledged.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any

from pamqp.encode import field_table

from goevent import DriverError
from goevent.drivers import ACK, RELEASE, Action, in_one_line

from .._adapter.contract import Arrival, Decision
from .._adapter.dead_letters import (
    DEAD_LETTER_RETRY_SECONDS,
    DELIVERIES_HEADER,
    DETAILS_HEADER,
    GROUP_HEADER,
    ID_HEADER,
    REASON_HEADER,
    report_dead_letter,
)
from .._config import BrokerConfig
from .connection import RabbitConnection
from .errors import RABBIT_ERRORS, to_driver_error
from .publish_channel import PublishChannel, PublishFailure, RabbitMessage
from .publisher import PERSISTENT_DELIVERY_MODE
from .receiver import (
    DEATH_HEADER,
    DELIVERY_COUNT_HEADER,
    EARLIER_DELIVERIES_HEADER,
    EVENT_NAME_HEADER,
    OWN_HEADERS,
    UNMATCHED_HEADER,
    RabbitDelivery,
    header_text,
)
from .topology import GroupTopology

MAX_REMEMBERED_EVENTS = 10_000  # acknowledged events whose acknowledgement may get lost
COPIES_PER_BATCH = 100  # the server confirms the first copies while later ones are written
MAX_COPIED_HEADER_BYTES = 100_000  # of the 128 KiB of a frame; the rest is for our own headers
# The queue counts a copy anew, and the server has not dead-lettered it.
_DROPPED_HEADERS = OWN_HEADERS | {DELIVERY_COUNT_HEADER, DEATH_HEADER}


class RabbitSettler:
    """Settles the messages of the connection's consume channel.

    Args:
        ensure: Declares everything that the bus needs again.

    Attributes:
        held: The messages of that channel that the bus holds, by delivery tag and so in the order
            of arrival.
    """

    def __init__(
        self,
        connection: RabbitConnection,
        topology: GroupTopology,
        config: BrokerConfig,
        *,
        ensure: Callable[[], Awaitable[object]],
    ) -> None:
        self.held: OrderedDict[int, Arrival] = OrderedDict()
        self._connection = connection
        self._names = topology.names
        self._config = config
        self._ensure = ensure
        self._queues_count = topology.counts_deliveries
        self._channel = PublishChannel(connection.publishing, patient=True)
        # The messages that wait for a second attempt, or for the end of their pause.
        self._delayed: dict[Arrival, asyncio.TimerHandle] = {}
        # Those of them that no listener of this bus matches.
        self._passed_on: set[Arrival] = set()
        self._orphans: set[Arrival] = set()
        self._is_stopping = False
        # Events that the bus still holds although their connection is lost.
        self._without_delivery: dict[tuple[str, str], Arrival] = {}
        self._acknowledged: OrderedDict[tuple[str, str], None] = OrderedDict()
        # The tags of this channel whose frames may still wait for room in the client's queue.
        self._unwritten: set[int] = set()

    def reset(self) -> None:
        """Forget everything: the bus opens again."""
        self.held.clear()
        self._channel.reset()
        self._delayed.clear()
        self._passed_on.clear()
        self._orphans.clear()
        self._without_delivery.clear()
        self._acknowledged.clear()
        self._unwritten = set()
        self._is_stopping = False

    def connection_lost(
        self, undelivered: Collection[Arrival], deleted_queues: Collection[str]
    ) -> None:
        """Note that the server has returned all held messages.

        Args:
            undelivered: The held messages that the bus will not deliver any more.
            deleted_queues: The queues that are gone, so that their messages will not come again.
        """
        for queue in deleted_queues:
            self.queue_deleted(queue)
        # The others come again as ordinary messages. Only an event that is with its listeners has a
        # decision to come.
        finished = {id(arrival) for arrival in undelivered}
        for arrival, timer in [*self._delayed.items()]:
            if arrival not in self._orphans:
                timer.cancel()
                del self._delayed[arrival]
                self._passed_on.discard(arrival)
                finished.add(id(arrival))
        self._without_delivery.update(
            (_key(arrival), arrival)
            for arrival in self.held.values()
            if id(arrival) not in finished
        )
        self.held.clear()
        # A new set: the next channel uses the same tags for other messages.
        self._unwritten = set()

    def queue_deleted(self, queue: str) -> None:
        """Note that a queue was deleted: the messages of it that the bus holds are orphans."""
        for tag, arrival in [*self.held.items()]:
            if arrival.raw.queue == queue:
                del self.held[tag]
                self._orphans.add(arrival)
        for key, arrival in [*self._without_delivery.items()]:
            if arrival.raw.queue == queue:
                del self._without_delivery[key]
                self._orphans.add(arrival)

    def held_bytes(self) -> int:
        """Return the size of the bodies of the held messages."""
        return sum(len(arrival.body) for arrival in self.held.values())

    def queue_recovered(self, queue: str) -> None:
        """Note that a queue was not deleted after all: the server delivers its messages again."""
        for arrival in [each for each in self._orphans if each.raw.queue == queue]:
            self._orphans.discard(arrival)
            timer = self._delayed.pop(arrival, None)
            if timer is not None:
                timer.cancel()
                self._passed_on.discard(arrival)
            else:
                self._without_delivery[_key(arrival)] = arrival

    def accept(self, arrival: Arrival) -> bool:
        """Note an arrival, in the server's order; return whether its listeners have to run."""
        delivery: RabbitDelivery = arrival.raw
        if delivery.channel is not self._connection.consume_channel:
            # A message of the connection before. The server delivers it again on this one.
            return False
        self.held[delivery.tag] = arrival
        # Most messages come for the first time. One without an id cannot be recognised.
        if not delivery.redelivered or not arrival.id:
            return True
        key = _key(arrival)
        running = self._without_delivery.pop(key, None)
        if running is not None:
            # The decision about the running event settles this delivery.
            running.raw = delivery
            self.held[delivery.tag] = running
            return False
        if key in self._acknowledged:
            self._connection.start(self.settle_quietly(Decision(arrival, ACK)))
            return False
        return True

    async def settle_quietly(self, decision: Decision) -> None:
        """Carry out one decision; if the connection is lost meanwhile, the message comes again."""
        with suppress(DriverError):
            await self.settle([decision])

    async def settle(self, decisions: Sequence[Decision]) -> None:
        """Carry out decisions; a message comes again if its decision cannot be sent.

        Returns without copies and dead letters being stored if the server blocks publishes.

        Raises:
            DriverError: The server refused a request, or the connection is lost.
        """
        acknowledged: list[int] = []
        unbegun: list[Arrival] = []
        begun: list[Arrival] = []
        dead: list[Decision] = []
        for decision in decisions:
            arrival, verdict = decision.arrival, decision.verdict
            if verdict.action is Action.ACK:
                # Even without a connection: the message comes again and must not run again.
                self._remember(arrival)
            else:
                # A dead letter of this event was moved back, after another one that was finished.
                self._acknowledged.pop(_key(arrival), None)
            is_orphan = arrival in self._orphans
            if not is_orphan and not self._can_settle(arrival):
                # The server has the message, and delivers it again as an ordinary one.
                self._without_delivery.pop(_key(arrival), None)
                self._forget(arrival)
                continue
            if verdict.action is Action.ACK:
                if is_orphan:
                    self._orphans.discard(arrival)
                else:
                    acknowledged.append(arrival.raw.tag)
            elif verdict.action is Action.RELEASE:
                (begun if verdict.started else unbegun).append(arrival)
            elif verdict.action is Action.RETRY:
                self._later(arrival, verdict.after, partial(self._return_counted, [arrival]))
            else:
                dead.append(decision)
        try:
            await self._acknowledge(acknowledged)
        except RABBIT_ERRORS as error:
            raise to_driver_error(error) from error
        if unbegun or begun or dead:
            publishes = self._connection.start(self._return_and_dead_letter(unbegun, begun, dead))
            await self._connection.publishing.wait_unless_blocked(publishes)
            if publishes.done() and not publishes.cancelled():
                publishes.result()

    async def _return_and_dead_letter(
        self, unbegun: Sequence[Arrival], begun: Sequence[Arrival], dead: Sequence[Decision]
    ) -> None:
        try:
            for start in range(0, len(unbegun), COPIES_PER_BATCH):
                # This delivery must not count: the copies carry only the earlier ones.
                batch = unbegun[start : start + COPIES_PER_BATCH]
                await self._replace_by_copies(batch, added_deliveries=-1)
            await self._return_counted(begun)
            for start in range(0, len(dead), COPIES_PER_BATCH):
                await self._dead_letter(dead[start : start + COPIES_PER_BATCH])
        except (DriverError, *RABBIT_ERRORS) as error:
            # If the connection is lost, the messages come again.
            if self._connection.is_up:
                self._connection.host.report(to_driver_error(error))

    def pass_on(self, arrival: Arrival, pause: float) -> None:
        """Give a message to another bus of the group after a pause; the delivery does not count.

        No listener of this bus matches it, and this is noted in the message.
        """
        if not self._is_held(arrival):
            # The server has the message, and delivers it again as an ordinary one.
            self._without_delivery.pop(_key(arrival), None)
            self._forget(arrival)
            return
        self._acknowledged.pop(_key(arrival), None)
        arrival.raw = replace(arrival.raw, unmatched=arrival.raw.unmatched + 1)
        self._passed_on.add(arrival)
        self._later(arrival, pause, partial(self._return_passed_on, [arrival]))

    async def _return_passed_on(self, arrivals: Sequence[Arrival]) -> None:
        self._passed_on.difference_update(arrivals)
        await self._replace_by_copies(arrivals, added_deliveries=-1)

    def _can_settle(self, arrival: Arrival) -> bool:
        """Tell whether the delivery of an arrival belongs to the open channel."""
        delivery: RabbitDelivery = arrival.raw
        is_held = self.held.get(delivery.tag) is arrival
        channel = self._connection.consume_channel
        is_current = self._connection.is_up and delivery.channel is channel
        return is_held and is_current and not channel.is_closed

    def _is_held(self, arrival: Arrival) -> bool:
        """Tell whether this bus still has to return an arrival or to write its dead letter."""
        return arrival in self._orphans or self._can_settle(arrival)

    def _remember(self, arrival: Arrival) -> None:
        self._acknowledged[_key(arrival)] = None
        if len(self._acknowledged) > MAX_REMEMBERED_EVENTS:
            self._acknowledged.popitem(last=False)

    def _forget(self, arrival: Arrival) -> None:
        # The tag may belong to another arrival already, which came on the next connection.
        if self.held.get(arrival.raw.tag) is arrival:
            del self.held[arrival.raw.tag]

    async def _acknowledge(self, tags: Sequence[int]) -> None:
        """Acknowledge messages, by one frame for all that came before the first held message."""
        if not tags:
            return
        channel, unwritten = self._connection.consume_channel, self._unwritten
        for tag in tags:
            self.held.pop(tag, None)
        # A multiple acknowledgement covers all smaller tags, so it must end before the first
        # message that is still held. The client's queue is bounded, and a frame that waits for room
        # in it may be overtaken: an acknowledgement that covered a message whose return is not
        # written yet would lose that message.
        firsts = [*unwritten, *islice(self.held, 1)]
        first_open = min(firsts) if firsts else None
        before = [tag for tag in tags if first_open is None or tag < first_open]
        unwritten.update(tags)
        if before:
            await channel.basic_ack(max(before), multiple=True, wait=False)
        for tag in tags:
            if first_open is not None and tag > first_open:
                await channel.basic_ack(tag, wait=False)
        unwritten.difference_update(tags)

    async def _acknowledge_stored(self, stored: Sequence[Arrival]) -> None:
        """Acknowledge messages whose copies or dead letters the server has confirmed."""
        # The connection may have been lost meanwhile; then the event comes again, a second time.
        tags = [arrival.raw.tag for arrival in stored if self._can_settle(arrival)]
        self._orphans.difference_update(stored)
        await self._acknowledge(sorted(tags))

    # -- returning messages

    def _later(self, arrival: Arrival, pause: float, work: Callable[[], Awaitable[object]]) -> None:
        """Await `work` after a pause, unless the message is lost or returned before."""

        async def run() -> None:
            if self._is_held(arrival):
                # If the connection is lost, the server returns the message by itself.
                with suppress(*RABBIT_ERRORS, DriverError):
                    await work()

        def on_timer() -> None:
            if self._delayed.pop(arrival, None) is not None:
                self._connection.start(run())

        seconds = 0.0 if self._is_stopping else pause
        self._delayed[arrival] = asyncio.get_running_loop().call_later(seconds, on_timer)

    async def _return_counted(self, arrivals: Sequence[Arrival]) -> None:
        """Return messages; their deliveries count."""
        copied: list[Arrival] = []
        for arrival in arrivals:
            if self._queues_count and self._can_settle(arrival):
                await self._requeue(arrival)
            else:
                copied.append(arrival)
        await self._replace_by_copies(copied, added_deliveries=0)

    async def return_delayed(self) -> None:
        """Return failed messages without a pause, now and from now on.

        The bus stops, and another bus of the group may try them.
        """
        self._is_stopping = True
        delayed = [*self._delayed]
        for timer in self._delayed.values():
            timer.cancel()
        self._delayed.clear()
        passed_on = [arrival for arrival in delayed if arrival in self._passed_on]
        self._passed_on.clear()
        failed = [arrival for arrival in delayed if arrival not in passed_on]
        with suppress(*RABBIT_ERRORS, DriverError):
            await self._return_counted(failed)
            await self.settle([Decision(arrival, RELEASE) for arrival in passed_on])

    async def _requeue(self, arrival: Arrival) -> None:
        tag, unwritten = arrival.raw.tag, self._unwritten
        self.held.pop(tag, None)
        unwritten.add(tag)
        await arrival.raw.channel.basic_nack(tag, requeue=True, wait=False)
        unwritten.discard(tag)

    async def _replace_by_copies(
        self, arrivals: Sequence[Arrival], *, added_deliveries: int
    ) -> None:
        """Publish copies of messages into their queues, and then acknowledge the originals.

        Args:
            added_deliveries: Added to the number of deliveries in the copies.
        """
        held = [arrival for arrival in arrivals if self._is_held(arrival)]
        messages: list[tuple[Arrival, RabbitMessage]] = []
        failures: dict[Arrival, PublishFailure] = {}
        for arrival in held:
            delivery: RabbitDelivery = arrival.raw
            headers = {
                EARLIER_DELIVERIES_HEADER: arrival.deliveries + added_deliveries,
                UNMATCHED_HEADER: delivery.unmatched,
                EVENT_NAME_HEADER: arrival.name,
            }
            message = _copy("", delivery.queue, arrival, headers, failures)
            messages.append((arrival, message))
        await self._store(messages, failures)
        for arrival, failure in failures.items():
            if self._can_settle(arrival) and not failure.is_unrouted:
                # The server has not confirmed the copy. Better a return that counts than none.
                await self._requeue(arrival)
            elif self._is_held(arrival):
                again = partial(
                    self._replace_by_copies, [arrival], added_deliveries=added_deliveries
                )
                await self._try_again(arrival, again)

    async def _try_again(self, arrival: Arrival, work: Callable[[], Awaitable[object]]) -> None:
        """Publish a copy or a dead letter again later, or return the message if the bus stops."""
        if not self._is_stopping:
            self._later(arrival, DEAD_LETTER_RETRY_SECONDS, work)
        elif self._can_settle(arrival):
            await self._requeue(arrival)

    async def _store(
        self,
        messages: Sequence[tuple[Arrival, RabbitMessage]],
        failures: dict[Arrival, PublishFailure],
    ) -> list[Arrival]:
        """Publish messages, and acknowledge the originals of those that the server has stored.

        Args:
            failures: Gets the other ones; the first failure is reported.
        """
        if messages:
            await self._channel.publish([message for _, message in messages])
        stored = [arrival for arrival, _ in messages if arrival not in failures]
        await self._acknowledge_stored(stored)
        if failures:
            arrival, failure = next(iter(failures.items()))
            self._connection.report_once("copy", failure.error, arrival.name)
            if any(each.is_unrouted for each in failures.values()):
                # It reports its own errors.
                with suppress(*RABBIT_ERRORS, DriverError):
                    await self._ensure()
        elif stored:
            self._connection.resolve("copy")
        return stored

    # -- dead letters

    async def _dead_letter(self, decisions: Sequence[Decision]) -> None:
        """Publish dead letters, and acknowledge the messages once the server has confirmed them."""
        # The connection may have been lost since the decisions.
        held = [decision for decision in decisions if self._is_held(decision.arrival)]
        messages: list[tuple[Arrival, RabbitMessage]] = []
        failures: dict[Arrival, PublishFailure] = {}
        for decision in held:
            arrival = decision.arrival
            headers = {
                EVENT_NAME_HEADER: arrival.name,
                DELIVERIES_HEADER: arrival.deliveries,
                REASON_HEADER: in_one_line(decision.verdict.reason),
                DETAILS_HEADER: decision.verdict.details,
                ID_HEADER: arrival.id,
                GROUP_HEADER: self._config.group or "",
            }
            exchange, queue = self._names.dead_letter_exchange, self._names.dead_letter_queue
            messages.append((arrival, _copy(exchange, queue, arrival, headers, failures)))
        await self._store(messages, failures)
        for decision in held:
            if decision.arrival not in failures:
                report_dead_letter(self._connection.host, decision)
            elif self._is_held(decision.arrival):
                again = partial(self._dead_letter, [decision])
                await self._try_again(decision.arrival, again)


def _key(arrival: Arrival) -> tuple[str, str]:
    return arrival.raw.queue, arrival.id


def _copy(
    exchange: str,
    routing_key: str,
    arrival: Arrival,
    headers: dict[str, Any],
    failures: dict[Arrival, PublishFailure],
) -> RabbitMessage:
    """Return a copy of a message with more headers; a failure to publish it goes to `failures`."""
    properties = _copied_properties(arrival.raw.properties, headers)

    def on_result(failure: PublishFailure | None) -> None:
        if failure is not None:
            failures[arrival] = failure

    return RabbitMessage(exchange, routing_key, arrival.body, properties, on_result)


def _copied_properties(properties: Any, headers: dict[str, Any]) -> Any:
    """Return the AMQP properties for a copy of a message, with more headers."""
    changed = copy(properties)
    own: dict[str, Any] = properties.headers or {}
    kept = {name: value for name, value in own.items() if name not in _DROPPED_HEADERS}
    changed.headers = {**_encodable(kept), **headers}
    changed.delivery_mode = PERSISTENT_DELIVERY_MODE
    return changed


def _encodable(headers: dict[str, Any]) -> dict[str, Any]:
    """Return headers that can be sent again: the client reads more kinds than it writes."""
    try:
        size = len(field_table(headers))
    except Exception:  # noqa: BLE001 - the client raises many kinds
        headers = {name: header_text(value) for name, value in headers.items()}
        size = len(field_table(headers))
    return headers if size <= MAX_COPIED_HEADER_BYTES else {}
