"""The link to Kafka: whether a broker can be reached, and what waits until one can.

Clients of Kafka connect again by themselves and say nothing of it, so somebody has to ask.
"""

from __future__ import annotations

import asyncio

from goevent import DriverConnectionError

from .._adapter.connectivity import Uptime
from .._adapter.contract import Shore
from .client import KafkaClient

DIAL = 8.0  # seconds until a broker has to have answered, at first
LOOK = 1.0  # seconds between two pings
AGAIN = 0.2  # seconds between two, while none was answered
LONG = 3.0  # seconds that one may take


class KafkaLink:
    """What is known of the connection."""

    def __init__(self, client: KafkaClient, patience: float) -> None:
        self._client = client
        self._patience = patience
        self._shore: Shore | None = None
        self._uptime = Uptime("Kafka", patience)
        self._broken = asyncio.Event()

    @property
    def shore(self) -> Shore:
        """Where the driver is.

        Raises:
            DriverConnectionError: the bus is not open.
        """
        if self._shore is None:
            raise DriverConnectionError("Kafka: the bus is not open")
        return self._shore

    @property
    def is_up(self) -> bool:
        """True while a broker answers."""
        return self._uptime.now

    async def open(self, shore: Shore) -> None:
        """Connect.

        Raises:
            DriverConnectionError: no broker answers.
        """
        self._uptime.renew()
        self._broken = asyncio.Event()
        try:
            async with asyncio.timeout(DIAL):
                await self._client.open(self._patience, self._break)
                await self._client.ping()
        except TimeoutError:
            raise DriverConnectionError(f"Kafka: no broker answers within {DIAL:g} s") from None
        self._shore = shore
        self._uptime.begin()

    async def close(self) -> None:
        """Disconnect."""
        lost = not self.is_up
        self._shore = None
        self._uptime.lose()
        await self._client.close(lost=lost)

    def _break(self, reason: str) -> None:
        if self._shore is not None and self.is_up:
            self._lose(self._shore, reason)
            self._broken.set()

    async def watch(self) -> None:
        """Ask again and again whether a broker answers, and tell of the change; until cancelled."""
        while True:
            try:
                async with asyncio.timeout(LOOK if self.is_up else AGAIN):
                    await self._broken.wait()
            except TimeoutError:
                pass
            self._broken.clear()
            await self._look(self.shore)

    async def _look(self, shore: Shore) -> None:
        try:
            async with asyncio.timeout(LONG):
                await self._client.ping()
        except TimeoutError:
            self._lose(shore, f"no broker answers within {LONG:g} s")
        except DriverConnectionError as error:
            self._lose(shore, str(error))
        else:
            if not self.is_up:
                self._uptime.begin()
                shore.is_connected(True)

    def _lose(self, shore: Shore, reason: str) -> None:
        reason = reason.removeprefix("Kafka: ")
        if self.is_up:
            shore.is_connected(False, reason)
        self._uptime.lose(reason)

    async def ready(self) -> None:
        """Wait for the connection, for as long as a publish may take from when it was lost.

        Raises:
            DriverConnectionError: it was not there in time.
        """
        await self._uptime.wait()
