"""The exchanges and queues of RabbitMQ: the exchange for events, and the topology of one group.

Both adapters send events to one topic exchange. `work_queues` owns a `GroupTopology`. Both adapters
declare everything again on each new connection, at each sign of a loss and every second, since
exchanges, queues and bindings may be gone by then. To declare one that exists changes nothing.

Theory of operation: A group has one durable queue for each event name that it listens to, and one
queue for all its patterns. Each event must reach exactly one of them, even if several names and
patterns match it. Otherwise the group would process it twice. The server decides this by the
topology, so no bus has to know the subscriptions of others::

    exchange for events --(keys of all names and patterns)--> exact exchange of the group
    exact exchange --(an event name with a queue)--> queue of that name
    exact exchange --(any other key: alternate exchange)--> patterns exchange --> patterns queue

The exact exchange is direct. It routes a name that has a queue into that queue, and only the other
names reach the alternate exchange. A bus with a pattern therefore consumes the queues of matching
names, too, if its own listeners subscribe to these names.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

from aiormq.exceptions import ChannelAccessRefused, ChannelClosed, ChannelNotFoundEntity
from faststream.rabbit import ExchangeType, QueueType, RabbitExchange, RabbitQueue

from goevent import DriverError

from .._config import BrokerConfig
from .names import (
    MAX_EXCHANGE_BYTES,
    RabbitNames,
    binding_key,
    check_name,
    earlier_binding_key,
    key_error,
)

DEFAULT_EXCHANGE = "goevent"
MAX_NAMED_LOSSES = 10

Request = Callable[[Callable[[Any], Awaitable[Any]]], Awaitable[Any]]
"""Sends a request, as `RabbitConnection.request` does."""


@dataclass(frozen=True, slots=True)
class ServerObject:
    """An exchange or a queue that the bus needs.

    Attributes:
        kind: Which of the two it is.
        properties: The arguments of its declaration.
        is_declared: Whether the bus may create it; otherwise it must exist.
    """

    kind: Literal["exchange", "queue"]
    name: str
    properties: Mapping[str, Any] = field(default_factory=dict[str, Any])
    is_declared: bool = True

    def __str__(self) -> str:
        return f"the {self.kind} {self.name!r}"

    async def find(self, channel: Any) -> Any:
        """Ask the server for it; the server closes the channel if it is missing."""
        return await self._declare(channel, passive=True)

    async def declare(self, channel: Any) -> Any:
        """Create it if it is missing."""
        return await self._declare(channel, passive=not self.is_declared)

    async def _declare(self, channel: Any, *, passive: bool) -> Any:
        ask = channel.exchange_declare if self.kind == "exchange" else channel.queue_declare
        return await ask(self.name, passive=passive, **self.properties)


async def ensure_object(request: Request, needed: ServerObject) -> None:
    """Create an exchange or queue if it is missing.

    Raises:
        ChannelClosed: The server refuses it.
    """
    try:
        await request(needed.declare)
    except ChannelAccessRefused:
        # A user without the right to create it may use one that an operator has created.
        if await is_missing(request, needed):
            raise


async def is_missing(request: Request, needed: ServerObject) -> bool:
    """Tell whether an exchange or queue does not exist."""
    try:
        await request(needed.find)
    except ChannelNotFoundEntity as error:
        return is_deleted(error)
    except ChannelClosed:
        # Another connection owns it, for instance.
        return False
    return False


def is_deleted(error: ChannelNotFoundEntity) -> bool:
    """Tell whether a queue or exchange was deleted, rather than being out of reach."""
    return "home node" not in str(error)


def loss_report(lost: Sequence[ServerObject]) -> DriverError:
    """Return the report that exchanges and queues are gone."""
    named = ", ".join(str(each) for each in lost[:MAX_NAMED_LOSSES])
    more = f" and {len(lost) - MAX_NAMED_LOSSES} more" if len(lost) > MAX_NAMED_LOSSES else ""
    if len(lost) == 1:
        return DriverError(f"RabbitMQ: {named} was deleted; it is created again")
    return DriverError(f"RabbitMQ: {named}{more} were deleted; they are created again")


def events_exchange(config: BrokerConfig, address: object) -> RabbitExchange:
    """Return the exchange for events.

    Raises:
        TypeError: The address is not a RabbitExchange.
        ValueError: The exchange does not route by patterns, or its name is not allowed.
    """
    if address is None:
        name = config.stream or DEFAULT_EXCHANGE
        address = RabbitExchange(name, type=ExchangeType.TOPIC, durable=True)
    if not isinstance(address, RabbitExchange):
        raise TypeError(f"the address of events in RabbitMQ is a RabbitExchange, not {address!r}")
    if address.type is not ExchangeType.TOPIC:
        raise ValueError(f"events need a topic exchange, and {address.name!r} is not one")
    check_name("exchange", address.name, MAX_EXCHANGE_BYTES, "`stream`")
    return address


def exchange_object(exchange: RabbitExchange) -> ServerObject:
    """Return the exchange as FastStream describes it; one with `declare=False` must exist."""
    properties = {
        "exchange_type": exchange.type.value,
        "durable": bool(exchange.durable),
        "auto_delete": exchange.auto_delete,
        "arguments": exchange.arguments,
    }
    return ServerObject("exchange", exchange.name, properties, exchange.declare)


def checked_key(key: str) -> str:
    """Return a binding key.

    Raises:
        DriverError: It is too long.
    """
    if (text := key_error(key)) is not None:
        raise DriverError(text)
    return key


class GroupTopology:
    """The exchanges and queues of one group.

    Args:
        exchange: The exchange for events.
        queue: The properties of the group's queues; quorum queues if None.

    Attributes:
        names: The names of the exchanges and queues.
        objects: The exchanges and the queue of dead letters, in the order of their creation.
        counts_deliveries: Whether the queues count how often a message was returned.

    Raises:
        ValueError: A name is too long, or has a character that the client refuses.
    """

    def __init__(
        self, config: BrokerConfig, exchange: RabbitExchange, queue: RabbitQueue | None
    ) -> None:
        self._exchange = exchange
        self._prefix = config.prefix or ""
        stem = queue.name if queue is not None else f"{exchange.name}:{config.group}"
        self.names = names = RabbitNames(exchange.name, stem)
        names.check()
        self._queue_arguments: dict[str, Any] = {
            "x-dead-letter-exchange": names.dead_letter_exchange,
            "x-dead-letter-routing-key": names.dead_letter_queue,
            **((queue.arguments or {}) if queue is not None else {"x-queue-type": "quorum"}),
        }
        self._is_durable = bool(queue.durable) if queue is not None else True
        queue_type = self._queue_arguments.get("x-queue-type")
        self.counts_deliveries = queue_type == QueueType.QUORUM.value
        alternate = {"alternate-exchange": names.patterns}
        quorum = {"x-queue-type": "quorum"}
        self.objects = (
            exchange_object(exchange),
            ServerObject("exchange", names.dead_letter_exchange, {"durable": True}),
            ServerObject("queue", names.dead_letter_queue, {"durable": True, "arguments": quorum}),
            # The alternate exchange first: the exact exchange refers to it.
            ServerObject("exchange", names.patterns, {"exchange_type": "topic", "durable": True}),
            ServerObject(
                "exchange", names.exact_exchange, {"durable": True, "arguments": alternate}
            ),
        )

    async def declare(self, request: Request) -> None:
        """Create the exchanges and the queue of dead letters if they are missing."""
        for needed in self.objects:
            await ensure_object(request, needed)
        dead_letters = self.names.dead_letter_queue

        async def bind_dead_letters(channel: Any) -> None:
            exchange = self.names.dead_letter_exchange
            await channel.queue_bind(dead_letters, exchange, dead_letters)

        await request(bind_dead_letters)

    def queue(self, pattern: str) -> ServerObject:
        """Return the queue for a name or pattern."""
        name = self.names.patterns if "*" in pattern else self.names.queue(pattern)
        properties = {"durable": self._is_durable, "arguments": self._queue_arguments}
        return ServerObject("queue", name, properties)

    async def bind(self, request: Request, pattern: str) -> str:
        """Create the queue of a name or pattern if it is missing, and bind it; return its name.

        Raises:
            DriverError: The binding key would be too long.
        """
        key = checked_key(self._prefix + binding_key(pattern))
        queue, names = self.queue(pattern), self.names
        exchange = names.patterns if "*" in pattern else names.exact_exchange
        earlier_key = earlier_binding_key(pattern)

        async def bind_queue(channel: Any) -> None:
            await channel.queue_bind(queue.name, exchange, key)
            # Last: a message that reaches the group's exchange must find its queue bound there.
            await channel.exchange_bind(names.exact_exchange, self._exchange.name, key)

        async def unbind_wider(channel: Any) -> None:
            wider_key = f"{self._prefix}{earlier_key}"
            await channel.exchange_unbind(names.exact_exchange, self._exchange.name, wider_key)
            await channel.queue_unbind(queue.name, exchange, wider_key)

        await ensure_object(request, queue)
        await request(bind_queue)
        if earlier_key is not None:
            # The bindings of an earlier version bring events that no listener matches. They go
            # last, so that no event is missed. A user without the right never had them.
            with suppress(ChannelAccessRefused):
                await request(unbind_wider)
        return queue.name
