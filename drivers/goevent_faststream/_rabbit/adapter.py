"""The entry to RabbitMQ: it chooses the adapter for a config.

The table of brokers loads this module by name. Without a group, every bus gets every event
(`fan_out`); with one, the buses of the group share durable queues (`work_queues`).
"""

from __future__ import annotations

from faststream.rabbit import RabbitBroker, RabbitQueue

from .._adapter.connection import checked_broker
from .._adapter.contract import Adapter
from .._config import BrokerConfig
from .connection import make_broker as make_broker
from .fan_out import RabbitFanOutAdapter
from .topology import events_exchange
from .work_queues import RabbitWorkQueuesAdapter

MAX_PREFETCH_EVENTS = 0xFFFF  # a 16-bit number in AMQP


def make_adapter(broker: object, config: BrokerConfig, address: object) -> Adapter:
    """Return the adapter for RabbitMQ.

    Args:
        address: A `RabbitExchange` is the exchange for events. With a group, a `RabbitQueue` has
            the properties of the group's queues; their names begin with its name.

    Raises:
        TypeError: The broker is not a RabbitBroker, or the address is neither of these.
        ValueError: The exchange is not a topic exchange, a name is too long, `prefetch` is too
            large, or `start` is a place or a time.
    """
    if config.prefetch > MAX_PREFETCH_EVENTS:
        raise ValueError(
            f"RabbitMQ: prefetch is at most {MAX_PREFETCH_EVENTS}, not {config.prefetch}"
        )
    if config.group is None:
        exchange = events_exchange(config, address)
        return RabbitFanOutAdapter(checked_broker(broker, RabbitBroker), config, exchange)
    if config.start not in ("earliest", "latest"):
        raise ValueError(
            "RabbitMQ keeps no events from before a group's queue: start must be 'earliest' or "
            "'latest'"
        )
    queue = address if isinstance(address, RabbitQueue) else None
    exchange = events_exchange(config, None if queue else address)
    return RabbitWorkQueuesAdapter(checked_broker(broker, RabbitBroker), config, exchange, queue)
