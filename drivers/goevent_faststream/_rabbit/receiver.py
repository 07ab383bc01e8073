"""The receiver of RabbitMQ: what comes on a channel passes the middlewares, and waits for room.

Without middlewares a message goes straight on: FastStream's way is three times the work of all the
rest.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from aio_pika import IncomingMessage
from faststream.middlewares import AckPolicy
from faststream.rabbit import RabbitBroker, RabbitQueue

from .._adapter.contract import Arrival
from .._adapter.middlewares import MiddlewareChain
from .._adapter.properties import merge_headers
from .._adapter.subscribers import undecoded
from .connection import RabbitLink

NAME = "goevent-name"
DELIVERIES = "goevent-deliveries"
COUNTED = "x-delivery-count"
COUNTS = (COUNTED, "x-acquired-count")  # the server's own, among the headers of who has sent it


@dataclass(frozen=True, slots=True, eq=False)
class Raw:
    """What the server is to be told an end of.

    Attributes:
        channel: on which it has come; a delivery tag means nothing on another one.
        queue: from which it has come, as the consumer says.
        redelivered: the server had handed it out before, to whomever.
    """

    channel: Any
    tag: int
    queue: str
    redelivered: bool
    properties: Any


class Receiver:
    """Makes arrivals of what one channel brings.

    Args:
        came: is told of each message first, in the order in which the server has sent them, and
            tells whether it is to go on.
        handed: gets what has passed the middlewares; its `via` is still empty.
        kept: gets what has not, with the error if a middleware has failed on it.
    """

    def __init__(
        self,
        broker: RabbitBroker,
        prefix: str,
        *,
        came: Callable[[Arrival], bool],
        handed: Callable[[Arrival], object],
        kept: Callable[[Arrival, Exception | None], Awaitable[None]],
    ) -> None:
        self._broker = broker
        self._prefix = prefix
        self._came = came
        self._handed = handed
        self._kept = kept
        self._middlewares = MiddlewareChain()

    async def open(self) -> None:
        """Make what the middlewares run around; the broker has to be started."""
        await self._middlewares.open(self._broker, self._subscriber)

    def _subscriber(self) -> Any:
        return self._broker.subscriber(
            RabbitQueue("goevent", declare=False),
            decoder=undecoded,
            ack_policy=AckPolicy.MANUAL,
            no_reply=True,
            persistent=False,
        )

    def consumer(self, queue: str) -> Callable[[Any], Awaitable[None]]:
        """Return what takes the messages of a queue."""

        async def came(message: Any) -> None:
            arrival = self._arrival(message, queue)
            if not self._came(arrival):
                return
            if self._middlewares.is_active:
                await self._pass(message, arrival)
            else:
                self._handed(arrival)

        return came

    async def _pass(self, message: Any, arrival: Arrival) -> None:
        try:
            if not await self._middlewares.run(
                IncomingMessage(message), partial(self._handed, arrival)
            ):
                await self._kept(arrival, None)
        except Exception as error:  # noqa: BLE001 - a middleware's own
            await self._kept(arrival, error)

    def _arrival(self, message: Any, queue: str) -> Arrival:
        properties, delivery = message.header.properties, message.delivery
        headers: dict[str, Any] = properties.headers or {}
        name = headers.get(NAME)
        if name is None:
            name = delivery.routing_key.removeprefix(self._prefix)
        redelivered = bool(delivery.redelivered)
        return Arrival(
            str(name),
            "",
            message.body,
            merge_headers(
                {key: _text(value) for key, value in headers.items() if key not in COUNTS},
                properties.content_type,
                properties.correlation_id,
            ),
            deliveries(headers, redelivered),
            properties.message_id or "",
            Raw(message.channel, delivery.delivery_tag, queue, redelivered, properties),
        )


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes | bytearray) else str(value)


def deliveries(headers: dict[str, Any], redelivered: bool) -> int:
    """Return how often a message was handed out, this time included.

    A quorum queue counts returns; any other only says that there was one. What a bus has counted
    itself, when it gave a message back as a copy, stands in a header of ours.
    """
    counted = headers.get(COUNTED)
    returned = counted if isinstance(counted, int) else int(redelivered)
    before = headers.get(DELIVERIES)
    return 1 + returned + (before if isinstance(before, int) else 0)


class Line:
    """What has come and waits for room, in order.

    Args:
        handed: is told of each arrival that was handed over.
    """

    def __init__(self, link: RabbitLink, handed: Callable[[Arrival], object]) -> None:
        self._link = link
        self._handed = handed
        self.waiting: deque[Arrival] = deque()
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Forget what a bus before has left, on another loop."""
        self.waiting.clear()
        self._task = None

    def clear(self) -> None:
        """Forget what waits: its connection is lost, and it comes again."""
        self.waiting.clear()
        if self._task is not None:
            self._task.cancel()
            self._task = None

    def add(self, arrival: Arrival) -> None:
        """Add an arrival at the end."""
        self.waiting.append(arrival)
        if self._task is None or self._task.done():
            self._task = self._link.do(self._hand_over())

    async def _hand_over(self) -> None:
        while self.waiting:
            await self._link.host.deliver(self.waiting[0])
            self._handed(self.waiting.popleft())

    async def empty(self) -> None:
        """Return when everything is handed over."""
        if self._task is not None:
            await asyncio.wait({self._task})

    async def leave(self) -> list[Arrival]:
        """Return what has not been handed over yet, and never will."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        left = [*self.waiting]
        self.waiting.clear()
        return left
