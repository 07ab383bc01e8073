"""The receiver of RabbitMQ: it makes arrivals of a channel's messages and delivers them in order.

Both adapters own one `RabbitReceiver`, which takes messages from the client, and one
`DeliveryQueue`, where arrivals wait for room in the bus. Without middlewares a message takes no
detour through FastStream, which would cost three times as much as all the rest.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeGuard

from aio_pika import IncomingMessage
from faststream.rabbit import RabbitBroker, RabbitQueue

from .._adapter.contract import Arrival
from .._adapter.dead_letters import (
    DELIVERIES_HEADER,
    DETAILS_HEADER,
    GROUP_HEADER,
    ID_HEADER,
    REASON_HEADER,
)
from .._adapter.middlewares import MiddlewareChain
from .._adapter.properties import merge_headers
from .._adapter.subscribers import SUBSCRIBER_OPTIONS
from .connection import RabbitConnection

# A copy of a message is routed by the name of its queue, so its event name travels in a header.
EVENT_NAME_HEADER = "goevent-name"
# The deliveries before a copy. A dead letter has none: an operator who moves it back begins anew.
EARLIER_DELIVERIES_HEADER = "goevent-earlier-deliveries"
# How many deliveries of a message went to buses of the group that have no listener for it.
UNMATCHED_HEADER = "goevent-unmatched"
# A quorum queue adds its own counters to the headers of the publisher.
DELIVERY_COUNT_HEADER = "x-delivery-count"
# The queues and the routing keys of a message that the server itself has dead-lettered.
DEATH_HEADER = "x-death"

# The headers of copies and dead letters. Listeners do not see them, and no new copy keeps them.
OWN_HEADERS = frozenset(
    (
        EVENT_NAME_HEADER,
        EARLIER_DELIVERIES_HEADER,
        UNMATCHED_HEADER,
        DELIVERIES_HEADER,
        REASON_HEADER,
        DETAILS_HEADER,
        ID_HEADER,
        GROUP_HEADER,
    )
)
HIDDEN_HEADERS = OWN_HEADERS | {DELIVERY_COUNT_HEADER, "x-acquired-count"}


@dataclass(frozen=True, slots=True, eq=False)
class RabbitDelivery:
    """One delivery of a message, as its settlement needs it.

    Attributes:
        channel: The channel of the delivery; its tag means nothing on another one.
        tag: The delivery tag.
        queue: The queue that the consumer reads.
        redelivered: Whether the server had delivered the message before, to any consumer.
        properties: The message's AMQP properties.
        group: The only group that wants the message, or empty. It is a dead letter of this group,
            which an operator has published to the exchange for events again.
        unmatched: How many deliveries went to buses of the group that have no listener for it.
    """

    channel: Any
    tag: int
    queue: str
    redelivered: bool
    properties: Any
    group: str
    unmatched: int


class RabbitReceiver:
    """Makes arrivals of the messages of one channel.

    Args:
        accept: Called with each arrival, in the server's order, before its middlewares run;
            returns False for an arrival that must not be delivered.
        on_passed: Called with each arrival that has passed the middlewares. Its `via` is empty.
        on_stopped: Called with each arrival that has not passed, and with the error if a middleware
            raised one.
        on_failed: Called with an error that nothing above explains.
        queues_count: Whether the queues count how often a message was returned.
    """

    def __init__(
        self,
        broker: RabbitBroker,
        prefix: str,
        *,
        accept: Callable[[Arrival], bool],
        on_passed: Callable[[Arrival], object],
        on_stopped: Callable[[Arrival, Exception | None], Awaitable[None]],
        on_failed: Callable[[Exception], object],
        queues_count: bool = False,
    ) -> None:
        self._broker = broker
        self._prefix = prefix
        self._accept = accept
        self._on_passed = on_passed
        self._on_stopped = on_stopped
        self._on_failed = on_failed
        self._queues_count = queues_count
        self._middlewares = MiddlewareChain()

    async def open(self) -> None:
        """Prepare the middlewares; the broker must be started."""
        await self._middlewares.open(self._broker, self._make_subscriber)

    def _make_subscriber(self) -> Any:
        return self._broker.subscriber(RabbitQueue("goevent", declare=False), **SUBSCRIBER_OPTIONS)

    def consumer(self, queue: str, event_name: str = "") -> Callable[[Any], Awaitable[None]]:
        """Return the callback for the messages of a queue.

        Args:
            event_name: The name of all events in the queue, or empty if it holds several.
        """

        async def on_message(message: Any) -> None:
            try:
                arrival = self._arrival(message, queue, event_name)
                # Before the middlewares, which may await and so change the order.
                if not self._accept(arrival):
                    return
                if self._middlewares.is_active:
                    await self._run_middlewares(message, arrival)
                else:
                    self._on_passed(arrival)
            except Exception as error:  # noqa: BLE001 - the client would only log it
                self._on_failed(error)

        return on_message

    async def _run_middlewares(self, message: Any, arrival: Arrival) -> None:
        try:
            passed = await self._middlewares.run(
                IncomingMessage(message), partial(self._on_passed, arrival)
            )
            if not passed:
                # A middleware returned without calling the next one.
                await self._on_stopped(arrival, None)
        except Exception as error:  # noqa: BLE001 - a middleware's own
            await self._on_stopped(arrival, error)

    def _arrival(self, message: Any, queue: str, event_name: str) -> Arrival:
        properties, delivery = message.header.properties, message.delivery
        headers: dict[str, Any] = properties.headers or {}
        redelivered = bool(delivery.redelivered)
        # The default exchange, whose name is empty, routes to one queue: the sender has chosen it.
        group = headers.get(GROUP_HEADER) if delivery.exchange else None
        name = headers.get(EVENT_NAME_HEADER)
        if name is None:
            name = event_name or self._routed_name(delivery, headers)
        return Arrival(
            header_text(name),
            "",
            message.body,
            merge_headers(
                {
                    key: header_text(value)
                    for key, value in headers.items()
                    if key not in HIDDEN_HEADERS
                },
                properties.content_type,
                properties.correlation_id,
            ),
            count_deliveries(headers, redelivered, queues_count=self._queues_count),
            properties.message_id or "",
            RabbitDelivery(
                message.channel,
                delivery.delivery_tag,
                queue,
                redelivered,
                properties,
                "" if group is None else header_text(group),
                _own_count(headers, UNMATCHED_HEADER),
            ),
        )

    def _routed_name(self, delivery: Any, headers: dict[str, Any]) -> str:
        """Return the event name of a message by its routing key."""
        key: str = delivery.routing_key
        if not delivery.exchange and DEATH_HEADER in headers:
            # The server has dead-lettered it, and an operator has moved it back.
            key = _first_routing_key(headers[DEATH_HEADER]) or key
        return key.removeprefix(self._prefix)


def _first_routing_key(deaths: Any) -> str:
    """Return the routing key of a message before the server dead-lettered it, or "".

    Args:
        deaths: The value of the server's header; the first death is the last one in it.
    """
    death = _item(deaths, -1)
    key = _item(death.get("routing-keys"), 0) if _is_dict(death) else None
    return "" if key is None else header_text(key)


def _item(items: object, index: int) -> Any:
    """Return an item of a header's list; None if it is no list or has none."""
    return items[index] if _is_list(items) and items else None


def _is_list(value: object) -> TypeGuard[list[Any]]:
    return isinstance(value, list)


def _is_dict(value: object) -> TypeGuard[dict[str, Any]]:
    return isinstance(value, dict)


def header_text(value: Any) -> str:
    """Return the text of a header's value; bytes that are not UTF-8 are replaced."""
    return value.decode(errors="replace") if isinstance(value, bytes | bytearray) else str(value)


def count_deliveries(headers: dict[str, Any], redelivered: bool, *, queues_count: bool) -> int:
    """Return how often a message was delivered, this time included.

    A quorum queue counts how often a message was returned; a classic queue only says that it was.
    A copy that a bus has published carries the deliveries before it. A dead letter that an operator
    has moved back was not delivered before: neither the counter of the queue that it comes from nor
    that of a copy which the server has dead-lettered says anything about it.
    """
    returns = int(redelivered)
    if queues_count and redelivered:
        counter = headers.get(DELIVERY_COUNT_HEADER)
        returns = counter if isinstance(counter, int) else returns
    return 1 + returns + _own_count(headers, EARLIER_DELIVERIES_HEADER)


def _own_count(headers: dict[str, Any], name: str) -> int:
    """Return a number that a bus has written into a copy; 0 if the server has dead-lettered it."""
    count = headers.get(name)
    return count if isinstance(count, int) and DEATH_HEADER not in headers else 0


class DeliveryQueue:
    """Arrivals that wait for room in the bus, in order; owns the task that delivers them.

    Args:
        on_delivered: Called with each arrival once it is delivered.

    Attributes:
        waiting: The arrivals; the first one may be on its way.
    """

    def __init__(
        self, connection: RabbitConnection, on_delivered: Callable[[Arrival], object]
    ) -> None:
        self._connection = connection
        self._on_delivered = on_delivered
        self.waiting: deque[Arrival] = deque()
        self._task: asyncio.Task[None] | None = None

    def reset(self) -> None:
        """Start with an empty queue on another event loop."""
        self.waiting.clear()
        self._task = None

    def drop(self, is_dropped: Callable[[Arrival], bool]) -> None:
        """Drop arrivals: their connection is lost, and the server delivers them again."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        kept = [arrival for arrival in self.waiting if not is_dropped(arrival)]
        self.waiting.clear()
        for arrival in kept:
            self.add(arrival)

    def add(self, arrival: Arrival) -> None:
        """Add an arrival at the end."""
        self.waiting.append(arrival)
        if self._task is None or self._task.done():
            self._task = self._connection.start(self._deliver())

    async def _deliver(self) -> None:
        host = self._connection.host
        while self.waiting:
            # The arrival stays in the queue while it waits for room: `take_undelivered` has to
            # find it there if it cancels this task.
            await host.deliver(self.waiting[0])
            self._on_delivered(self.waiting.popleft())

    async def wait_until_delivered(self) -> None:
        """Return when the queue is empty."""
        if self._task is not None:
            await asyncio.wait({self._task})

    async def take_undelivered(self) -> list[Arrival]:
        """Stop delivering, and return the arrivals that are left."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        undelivered = [*self.waiting]
        self.waiting.clear()
        return undelivered
