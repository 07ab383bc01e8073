"""The link to Kafka: whether a broker can be reached, and what waits until one can.

Clients of Kafka connect again by themselves and say nothing of it, so somebody has to ask.
"""

from __future__ import annotations

import asyncio

from goevent import DriverConnectionError

from .._dialect import Shore
from ._client import KafkaClient

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
        self._up = asyncio.Event()
        self._broken = asyncio.Event()
        self._lost_at = 0.0
        self._reason = ""

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
        return self._up.is_set()

    async def open(self, shore: Shore) -> None:
        """Connect.

        Raises:
            DriverConnectionError: no broker answers.
        """
        self._up, self._broken = asyncio.Event(), asyncio.Event()
        try:
            async with asyncio.timeout(DIAL):
                await self._client.open(self._patience, self._break)
                await self._client.ping()
        except TimeoutError:
            raise DriverConnectionError(f"Kafka: no broker answers within {DIAL:g} s") from None
        self._shore = shore
        self._up.set()

    async def close(self) -> None:
        """Disconnect."""
        lost = not self._up.is_set()
        self._shore = None
        self._up.clear()
        await self._client.close(lost=lost)

    def _break(self, reason: str) -> None:
        if self._shore is not None and self._up.is_set():
            self._lose(self._shore, reason)
            self._broken.set()

    async def watch(self) -> None:
        """Ask again and again whether a broker answers, and tell of the change; until cancelled."""
        while True:
            try:
                async with asyncio.timeout(LOOK if self._up.is_set() else AGAIN):
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
            if not self._up.is_set():
                self._up.set()
                shore.is_connected(True)

    def _lose(self, shore: Shore, reason: str) -> None:
        self._reason = reason.removeprefix("Kafka: ")
        if self._up.is_set():
            self._lost_at = asyncio.get_running_loop().time()
            self._up.clear()
            shore.is_connected(False, self._reason)

    async def ready(self) -> None:
        """Wait for the connection, for as long as a publish may take from when it was lost.

        Raises:
            DriverConnectionError: it was not there in time.
        """
        if self._up.is_set():
            return
        try:
            async with asyncio.timeout_at(self._lost_at + self._patience):
                await self._up.wait()
        except TimeoutError:
            raise DriverConnectionError(
                f"Kafka: there has been no connection for {self._patience:g} s: {self._reason}"
            ) from None
