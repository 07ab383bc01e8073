"""The renewal of a failed producer.

A client can stay connected and yet send nothing more: a task of it has ended, or the broker does
not accept its producer any more. The client reports that, and the publisher replaces the producer
here before it sends the next event. A new producer may fail at once, too, for instance because the
user lacks a right; so the pauses between renewals grow until the broker has accepted an event.
"""

from __future__ import annotations

import asyncio

from goevent import DriverError

from .client import KafkaClient
from .connection import KafkaConnection

FIRST_RENEWAL_PAUSE_SECONDS = 0.2
MAX_RENEWAL_PAUSE_SECONDS = 5.0


class ProducerRenewal:
    """Replaces the producer of a client, and reports each reason once.

    Attributes:
        failure: Why the producer can send nothing more; None while it can.
        is_proven: The broker has accepted an event since the last renewal.
    """

    def __init__(self, client: KafkaClient, connection: KafkaConnection) -> None:
        self._client = client
        self._connection = connection
        self.open()

    def open(self) -> None:
        """Begin with a producer that works."""
        self.failure: DriverError | None = None
        self.is_proven = True
        self._reported = ""
        self._pause = self._not_before = 0.0

    def failed(self, error: DriverError) -> None:
        """Record that the producer, or its renewal, has failed."""
        self.failure = error
        if not self.is_proven:
            doubled = max(FIRST_RENEWAL_PAUSE_SECONDS, 2 * self._pause)
            self._pause = min(doubled, MAX_RENEWAL_PAUSE_SECONDS)
        self._not_before = asyncio.get_running_loop().time() + self._pause
        self.is_proven = False
        if self._reported != str(error):
            self._reported = str(error)
            self._connection.host.report(error)

    def prove(self) -> None:
        """Record that the broker has accepted an event."""
        self.is_proven = True
        self._reported, self._pause = "", 0.0

    def seconds_left(self) -> float:
        """Return the rest of the pause before the next renewal."""
        return max(0.0, self._not_before - asyncio.get_running_loop().time())

    async def renew(self) -> None:
        """Replace the producer if it has failed.

        Raises:
            DriverError: It is not replaced: the next attempt comes after a pause.
        """
        if self.failure is None:
            return
        if not self.seconds_left():
            # The new one may fail before this returns.
            self.failure = None
            try:
                await self._client.renew()
            except DriverError as error:
                self.failed(error)
        if self.failure is not None:
            raise DriverError(f"{self.failure}; the event was not sent") from self.failure
