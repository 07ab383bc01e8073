"""Every broker that FastStream speaks, on Trio: FastStream on an asyncio loop of its own."""

from goevent.drivers import DeadLetter as DeadLetter, DeadLetters as DeadLetters

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
