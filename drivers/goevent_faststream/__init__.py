"""Every broker that FastStream speaks, on Trio: FastStream on an asyncio loop of its own."""

from ._config import BrokerConfig as BrokerConfig
from ._driver import FastStreamDriver as FastStreamDriver
from ._island import IslandClosed as IslandClosed
from ._mappings import MAPPINGS as MAPPINGS, Mapping as Mapping
