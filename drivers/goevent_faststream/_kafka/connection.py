"""The connection to Kafka: whether a broker answers.

Kafka's clients reconnect by themselves and do not report it, so a task pings: every second while a
broker answers, more often while none does, and at once when a client reports a broken connection.
"""

from __future__ import annotations

import asyncio

from goevent import DriverConnectionError

from .._adapter.connection import BrokerConnection
from .._adapter.contract import AdapterHost
from .._adapter.errors import no_answer
from .client import Failed, KafkaClient

KAFKA_CONNECT_SECONDS = 8.0  # until a broker must have answered when the bus opens
PING_PAUSE_SECONDS = 1.0
PING_PAUSE_SECONDS_WHILE_DOWN = 0.2
PING_TIMEOUT_SECONDS = 3.0


class KafkaConnection(BrokerConnection):
    """The connection of one client to its cluster, and the task that watches it.

    Args:
        wait_seconds: How long a publish waits for a connection that was lost.

    Attributes:
        up_since: When the connection came back last, in seconds of the loop's clock.
        answered_at: When a broker has answered a ping last.
    """

    up_since = answered_at = 0.0

    def __init__(self, client: KafkaClient, wait_seconds: float) -> None:
        super().__init__("Kafka", wait_seconds)
        self._client = client
        self._wait_seconds = wait_seconds
        self._broken = asyncio.Event()

    async def open(self, host: AdapterHost, producer_failed: Failed) -> None:
        """Connect.

        Args:
            producer_failed: Called when the client's producer can send nothing more.

        Raises:
            DriverConnectionError: No broker answers.
        """
        self._connectivity.open(host)
        self._broken = asyncio.Event()
        try:
            async with asyncio.timeout(KAFKA_CONNECT_SECONDS):
                report = await self._client.open(
                    self._wait_seconds, self._connection_broke, producer_failed
                )
                await self._client.ping()
        except TimeoutError:
            raise DriverConnectionError(
                f"Kafka: no broker answers within {KAFKA_CONNECT_SECONDS:g} s"
            ) from None
        self._mark_up()
        if report is not None:
            host.report(report)

    async def close(self) -> None:
        """Disconnect."""
        was_up = self.is_up
        self._connectivity.close()
        self._connectivity.mark_down()
        await self._client.close(lost=not was_up)

    def _connection_broke(self, reason: str) -> None:
        """Ping at once; a client may have connections to other brokers that still answer."""
        if self._connectivity.mark_down(reason):
            self._broken.set()

    async def watch(self) -> None:
        """Ping until cancelled, and report each change."""
        while True:
            pause = PING_PAUSE_SECONDS if self.is_up else PING_PAUSE_SECONDS_WHILE_DOWN
            try:
                async with asyncio.timeout(pause):
                    await self._broken.wait()
            except TimeoutError:
                pass
            self._broken.clear()
            await self._ping()

    async def _ping(self) -> None:
        try:
            async with asyncio.timeout(PING_TIMEOUT_SECONDS):
                await self._client.ping()
        except TimeoutError:
            self._mark_down(str(no_answer("Kafka", PING_TIMEOUT_SECONDS)))
        except DriverConnectionError as error:
            self._mark_down(str(error))
        else:
            self._mark_up()

    def _mark_up(self) -> None:
        self.answered_at = asyncio.get_running_loop().time()
        if not self.is_up:
            self.up_since = self.answered_at
            self._connectivity.mark_up()

    def _mark_down(self, reason: str) -> None:
        # Reports begin with the name of the driver already.
        self._connectivity.mark_down(reason.removeprefix("Kafka: "))
