"""goevent on every broker that FastStream supports: NATS, JetStream, RabbitMQ, MQTT and Kafka.

FastStream runs on an asyncio loop in a thread of its own, and the bus stays on Trio.

Example:
    ::

        async with GoEvent(Config(driver="nats://localhost")) as bus:
            await bus.dispatch(OrderPaid(order="7"))

The package imports `goevent` and `goevent.drivers`, nothing deeper. `_driver` is the driver that
the bus calls, `_brokers` is the table of brokers, `_bridge` connects Trio and asyncio, and
`_adapter` has the contract with the rooms of the brokers: `_nats`, `_rabbit`, `_mqtt` and `_kafka`.
"""

from goevent.drivers import (
    DeadLetter as DeadLetter,
    DeadLetters as DeadLetters,
    publish_names as _publish_names,
    suggest_options as _suggest_options,
)

from ._adapter.contract import Arrival as Arrival
from ._adapter.formats import (
    EnvelopeFormat as EnvelopeFormat,
    FastStreamFormat as FastStreamFormat,
    Format as Format,
)
from ._bridge.loop_thread import IslandClosed as IslandClosed
from ._brokers import MAPPINGS as MAPPINGS, Mapping as Mapping
from ._config import BrokerConfig as BrokerConfig
from ._driver import FastStreamDriver as FastStreamDriver

__all__ = [
    "MAPPINGS",
    "Arrival",
    "BrokerConfig",
    "DeadLetter",
    "DeadLetters",
    "EnvelopeFormat",
    "FastStreamDriver",
    "FastStreamFormat",
    "Format",
    "IslandClosed",
    "Mapping",
]
_publish_names(globals())
_suggest_options(FastStreamDriver, config=BrokerConfig, keyword="config")
