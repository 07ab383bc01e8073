"""The values that all actors of one consumer share."""

from __future__ import annotations

from dataclasses import dataclass

from goevent.drivers import Inbox

from .._link.link import Link
from .._link.pool import Pool
from .config import StreamsConfig
from .faults import StreamFaults
from .held_entries import HeldEntries
from .keys import StreamKeys


@dataclass(frozen=True, slots=True)
class ConsumerContext:
    """One open bus as a consumer of its group.

    Attributes:
        link: The connection for scripts and commands.
        pool: The connections for reads that block.
        inbox: The bus.
        keys: The names in Redis.
        config: The settings.
        consumer: The name of this consumer within its group.
        held: The entries that the bus holds.
        faults: The reports about the server.
    """

    link: Link
    pool: Pool
    inbox: Inbox
    keys: StreamKeys
    config: StreamsConfig
    consumer: str
    held: HeldEntries
    faults: StreamFaults
