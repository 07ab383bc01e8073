"""The exchanges and queues of RabbitMQ: the exchange for events, and the topology of one group.

Both adapters send events to one topic exchange. `work_queues` owns a `GroupTopology`, and declares
it on each new connection, since exchanges and queues may be gone by then.

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

from typing import Any

from faststream.rabbit import ExchangeType, QueueType, RabbitExchange, RabbitQueue

from goevent import DriverError

from .._config import BrokerConfig
from .names import MAX_SHORT_STRING_BYTES, RabbitNames, binding_key

DEFAULT_EXCHANGE = "goevent"


def events_exchange(config: BrokerConfig, address: object) -> RabbitExchange:
    """Return the exchange for events.

    Raises:
        TypeError: The address is not a RabbitExchange.
        ValueError: The exchange does not route by patterns.
    """
    if address is None:
        name = config.stream or DEFAULT_EXCHANGE
        return RabbitExchange(name, type=ExchangeType.TOPIC, durable=True)
    if not isinstance(address, RabbitExchange):
        raise TypeError(f"the address of events in RabbitMQ is a RabbitExchange, not {address!r}")
    if address.type is not ExchangeType.TOPIC:
        raise ValueError(f"events need a topic exchange, and {address.name!r} is not one")
    return address


async def declare_exchange(channel: Any, exchange: RabbitExchange) -> None:
    """Create the exchange if it is missing; one with `declare=False` must exist."""
    await channel.exchange_declare(
        exchange.name,
        exchange_type=exchange.type.value,
        passive=not exchange.declare,
        durable=bool(exchange.durable),
        auto_delete=exchange.auto_delete,
        arguments=exchange.arguments,
    )


class GroupTopology:
    """The exchanges and queues of one group.

    Args:
        exchange: The exchange for events.
        queue: The properties of the group's queues; quorum queues if None.

    Attributes:
        names: The names of the exchanges and queues.
        counts_deliveries: Whether the queues count how often a message was returned.
    """

    def __init__(
        self, config: BrokerConfig, exchange: RabbitExchange, queue: RabbitQueue | None
    ) -> None:
        self._exchange = exchange
        self._prefix = config.prefix or ""
        stem = queue.name if queue is not None else f"{exchange.name}:{config.group}"
        self.names = RabbitNames(exchange.name, stem)
        self._queue_arguments: dict[str, Any] = {
            "x-dead-letter-exchange": self.names.dead_letter_exchange,
            "x-dead-letter-routing-key": self.names.dead_letter_queue,
            **((queue.arguments or {}) if queue is not None else {"x-queue-type": "quorum"}),
        }
        self._is_durable = bool(queue.durable) if queue is not None else True
        queue_type = self._queue_arguments.get("x-queue-type")
        self.counts_deliveries = queue_type == QueueType.QUORUM.value

    async def declare(self, channel: Any) -> None:
        """Create the exchanges and the queue of dead letters if they are missing."""
        names = self.names
        await declare_exchange(channel, self._exchange)
        dead_letters = names.dead_letter_queue
        await channel.exchange_declare(names.dead_letter_exchange, durable=True)
        await channel.queue_declare(
            dead_letters, durable=True, arguments={"x-queue-type": "quorum"}
        )
        await channel.queue_bind(dead_letters, names.dead_letter_exchange, dead_letters)
        # The alternate exchange first: the exact exchange refers to it.
        await channel.exchange_declare(names.patterns, exchange_type="topic", durable=True)
        await channel.exchange_declare(
            names.exact_exchange, durable=True, arguments={"alternate-exchange": names.patterns}
        )

    async def bind(self, channel: Any, pattern: str) -> str:
        """Create the queue of a name or pattern if it is missing, and bind it; return its name.

        Raises:
            DriverError: The binding key would be too long.
        """
        names = self.names
        key, is_pattern = self._prefix + binding_key(pattern), "*" in pattern
        if len(key) > MAX_SHORT_STRING_BYTES:
            raise DriverError(f"RabbitMQ: a binding key has at most {MAX_SHORT_STRING_BYTES} bytes")
        queue = names.patterns if is_pattern else names.queue(pattern)
        await channel.queue_declare(
            queue, durable=self._is_durable, arguments=self._queue_arguments
        )
        exchange = names.patterns if is_pattern else names.exact_exchange
        await channel.queue_bind(queue, exchange, key)
        # Last: a message that reaches the group's exchange must find its queue bound there.
        await channel.exchange_bind(names.exact_exchange, self._exchange.name, key)
        return queue
