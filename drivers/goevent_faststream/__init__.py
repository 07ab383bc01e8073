"""Every broker that FastStream speaks, on Trio: FastStream on an asyncio loop of its own."""

from ._config import BrokerConfig as BrokerConfig
from ._dead_letters import DeadLetter as DeadLetter, DeadLetters as DeadLetters
from ._dialect import Arrival as Arrival
from ._driver import FastStreamDriver as FastStreamDriver
from ._format import (
    EnvelopeFormat as EnvelopeFormat,
    FastStreamFormat as FastStreamFormat,
    Format as Format,
)
from ._island import IslandClosed as IslandClosed
from ._mappings import MAPPINGS as MAPPINGS, Mapping as Mapping
