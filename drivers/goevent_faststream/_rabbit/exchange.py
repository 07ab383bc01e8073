"""The exchange that all events go to, with a group or without one."""

from __future__ import annotations

from typing import Any

from faststream.rabbit import ExchangeType, RabbitExchange

from .._config import BrokerConfig

DEFAULT_EXCHANGE = "goevent"


def events_exchange(config: BrokerConfig, address: object) -> RabbitExchange:
    """Return the exchange for events.

    Raises:
        TypeError: The address is no RabbitExchange.
        ValueError: The exchange does not route by patterns.
    """
    if address is None:
        name = config.stream or DEFAULT_EXCHANGE
        return RabbitExchange(name, type=ExchangeType.TOPIC, durable=True)
    if not isinstance(address, RabbitExchange):
        raise TypeError(f"the address of events in RabbitMQ is a RabbitExchange, not {address!r}")
    if address.type is not ExchangeType.TOPIC:
        raise ValueError(f"events need a topic exchange, and {address.name!r} is none")
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
