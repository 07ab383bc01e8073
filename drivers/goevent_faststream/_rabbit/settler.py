"""The settler of RabbitMQ: it knows the messages that the bus holds, and carries out decisions.

Theory of operation: RabbitMQ cannot return a message with a delay. A message that failed therefore
stays unacknowledged in this bus during its pause, and is returned afterwards. It fills a place of
the bus's prefetch window meanwhile, as it should when every event fails. If the process dies during
the pause, the server returns the message.

A quorum queue counts each return as a delivery. A message that no listener has begun must not be
counted, so it is not returned: the settler publishes a copy into the same queue, which carries the
number of deliveries, and acknowledges the original once the server has confirmed the copy. A
classic queue counts nothing; there, messages that failed are replaced by copies, too.

When the connection is lost, the server returns all unacknowledged messages at once. Some of them
come back to this bus while a listener still works on them, and others after their acknowledgement
was lost on the way. The settler recognises both by queue and message id. A message of the first
kind replaces the lost delivery: the decision about the running event settles the new one. A message
of the second kind is acknowledged again. Neither runs twice.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from copy import copy
from functools import partial
from typing import Any

from goevent import DriverError
from goevent.drivers import ACK, Action, in_one_line

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
from .connection import RABBIT_ERRORS, RabbitConnection, to_driver_error
from .publisher import PERSISTENT_DELIVERY_MODE, RabbitMessage, publish_messages
from .receiver import DELIVERY_COUNT_HEADER, EVENT_NAME_HEADER, RabbitDelivery
from .topology import GroupTopology

MAX_REMEMBERED_EVENTS = 10_000  # acknowledged events whose acknowledgement may get lost
COPIES_PER_BATCH = 100  # the server confirms the first copies while later ones are written


class RabbitSettler:
    """Settles the messages of the connection's consume channel.

    Attributes:
        held: The messages of that channel that the bus holds, by delivery tag and so in the order
            of arrival.
    """

    def __init__(
        self,
        connection: RabbitConnection,
        topology: GroupTopology,
        config: BrokerConfig,
    ) -> None:
        self.held: OrderedDict[int, Arrival] = OrderedDict()
        self._connection = connection
        self._names = topology.names
        self._config = config
        self._queues_count = topology.counts_deliveries
        self._delayed: dict[int, tuple[asyncio.TimerHandle, Arrival]] = {}
        self._is_stopping = False
        # Events that the bus still holds although their connection is lost.
        self._without_delivery: dict[tuple[str, str], Arrival] = {}
        self._acknowledged: OrderedDict[tuple[str, str], None] = OrderedDict()

    def reset(self) -> None:
        """Forget everything: the bus opens again."""
        self.held.clear()
        self._delayed.clear()
        self._without_delivery.clear()
        self._acknowledged.clear()
        self._is_stopping = False

    def connection_lost(self, undelivered: Collection[Arrival]) -> None:
        """Note that the server has returned all held messages.

        Args:
            undelivered: The held messages that the bus will not deliver any more.
        """
        for timer, _ in self._delayed.values():
            timer.cancel()
        # These come again as ordinary messages. Only an event that is with its listeners has a
        # decision to come.
        finished = {id(arrival) for arrival in undelivered}
        finished.update(id(arrival) for _, arrival in self._delayed.values())
        self._without_delivery.update(
            (_key(arrival), arrival)
            for arrival in self.held.values()
            if id(arrival) not in finished
        )
        self._delayed.clear()
        self.held.clear()

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
            if not self._can_settle(arrival):
                # The server has the message, and delivers it again as an ordinary one.
                self._without_delivery.pop(_key(arrival), None)
                self._forget(arrival)
                continue
            delivery: RabbitDelivery = arrival.raw
            if verdict.action is Action.ACK:
                acknowledged.append(delivery.tag)
            elif verdict.action is Action.RELEASE:
                (begun if verdict.started else unbegun).append(arrival)
            elif verdict.action is Action.RETRY:
                self._return_later(arrival, verdict.after)
            else:
                dead.append(decision)
        try:
            await self._acknowledge(acknowledged)
            for start in range(0, len(unbegun), COPIES_PER_BATCH):
                # This delivery must not count: the copies carry only the earlier ones.
                batch = unbegun[start : start + COPIES_PER_BATCH]
                await self._replace_by_copies(batch, added_deliveries=-1)
            for arrival in begun:
                await self._return_counted(arrival)
            for decision in dead:
                # The connection may have been lost since the first check.
                if self._can_settle(decision.arrival):
                    await self._dead_letter(decision)
        except RABBIT_ERRORS as error:
            raise to_driver_error(error) from error

    def _can_settle(self, arrival: Arrival) -> bool:
        """Tell whether the delivery of an arrival belongs to the open channel."""
        delivery: RabbitDelivery = arrival.raw
        is_held = self.held.get(delivery.tag) is arrival
        channel = self._connection.consume_channel
        is_current = self._connection.is_up and delivery.channel is channel
        return is_held and is_current and not channel.is_closed

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
        channel = self._connection.consume_channel
        for tag in tags:
            self.held.pop(tag, None)
        # A multiple acknowledgement covers all smaller tags, so it must end before the first
        # message that is still held.
        first_held = next(iter(self.held), None)
        before = [tag for tag in tags if first_held is None or tag < first_held]
        if before:
            await channel.basic_ack(max(before), multiple=True, wait=False)
        for tag in tags:
            if first_held is not None and tag > first_held:
                await channel.basic_ack(tag, wait=False)

    # -- returning messages

    def _return_later(self, arrival: Arrival, pause: float) -> None:
        seconds = 0.0 if self._is_stopping else pause
        on_timer: Callable[[], object] = partial(self._on_pause_over, arrival)
        timer = asyncio.get_running_loop().call_later(seconds, on_timer)
        self._delayed[arrival.raw.tag] = timer, arrival

    def _on_pause_over(self, arrival: Arrival) -> None:
        if self._delayed.pop(arrival.raw.tag, None) is not None:
            self._connection.start(self._return_counted(arrival))

    async def _return_counted(self, arrival: Arrival) -> None:
        """Return a message; its delivery counts."""
        if self._can_settle(arrival):
            # If the connection is lost, the server returns the message by itself.
            with suppress(*RABBIT_ERRORS, DriverError):
                if self._queues_count:
                    await self._requeue(arrival)
                else:
                    await self._replace_by_copies([arrival], added_deliveries=0)

    async def return_delayed(self) -> None:
        """Return failed messages without a pause, now and from now on.

        The bus stops, and another bus of the group may try them.
        """
        self._is_stopping = True
        delayed = [arrival for _, arrival in self._delayed.values()]
        for timer, _ in self._delayed.values():
            timer.cancel()
        self._delayed.clear()
        for arrival in delayed:
            await self._return_counted(arrival)

    async def _requeue(self, arrival: Arrival) -> None:
        self.held.pop(arrival.raw.tag, None)
        await arrival.raw.channel.basic_nack(arrival.raw.tag, requeue=True, wait=False)

    async def _replace_by_copies(
        self, arrivals: Sequence[Arrival], *, added_deliveries: int
    ) -> None:
        """Publish copies of messages into their queues, and then acknowledge the originals.

        Args:
            added_deliveries: Added to the number of deliveries in the copies.
        """
        confirmed: list[int] = []
        messages: list[RabbitMessage] = []
        for arrival in arrivals:
            delivery: RabbitDelivery = arrival.raw
            headers = {
                DELIVERIES_HEADER: arrival.deliveries + added_deliveries,
                EVENT_NAME_HEADER: arrival.name,
            }

            def on_result(error: DriverError | None, tag: int = delivery.tag) -> None:
                if error is None:
                    confirmed.append(tag)

            properties = _copied_properties(delivery.properties, headers)
            messages.append(RabbitMessage("", delivery.queue, arrival.body, properties, on_result))
        await publish_messages(self._connection, messages)
        await self._acknowledge(sorted(confirmed))
        for arrival in arrivals:
            if self._can_settle(arrival):
                # The server has not confirmed the copy. Better a return that counts than none.
                await self._requeue(arrival)

    # -- dead letters

    async def _dead_letter(self, decision: Decision) -> None:
        """Publish a dead letter, and acknowledge the message once the server has confirmed it."""
        arrival, results = decision.arrival, list[DriverError | None]()
        delivery: RabbitDelivery = arrival.raw
        headers = {
            EVENT_NAME_HEADER: arrival.name,
            DELIVERIES_HEADER: arrival.deliveries,
            REASON_HEADER: in_one_line(decision.verdict.reason),
            DETAILS_HEADER: decision.verdict.details,
            ID_HEADER: arrival.id,
            GROUP_HEADER: self._config.group or "",
        }
        message = RabbitMessage(
            self._names.dead_letter_exchange,
            self._names.dead_letter_queue,
            arrival.body,
            _copied_properties(delivery.properties, headers),
            results.append,
        )
        try:
            await publish_messages(self._connection, [message])
        except DriverError as error:
            results.append(error)
        if results[0] is not None:
            self._connection.host.report(results[0], arrival.name)
            self._return_later(arrival, DEAD_LETTER_RETRY_SECONDS)
            return
        # The connection may have been lost meanwhile; then the event comes again and becomes a
        # second dead letter.
        if self._can_settle(arrival):
            await self._acknowledge([delivery.tag])
        report_dead_letter(self._connection.host, decision)


def _key(arrival: Arrival) -> tuple[str, str]:
    return arrival.raw.queue, arrival.id


def _copied_properties(properties: Any, headers: dict[str, Any]) -> Any:
    """Return the AMQP properties for a copy of a message, with more headers."""
    changed = copy(properties)
    kept: dict[str, Any] = {**(properties.headers or {})}
    # The queue counts the copy anew.
    kept.pop(DELIVERY_COUNT_HEADER, None)
    changed.headers = {**kept, **headers}
    changed.delivery_mode = PERSISTENT_DELIVERY_MODE
    return changed
