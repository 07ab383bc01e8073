"""The renewal of a failed producer.

A client can stay connected and yet send nothing more: a task of it has ended, or the broker does
not accept its producer any more. The client reports that, and the publisher replaces the producer
here before it sends the next event. A producer that gets no event through within the time of one,
although a broker answers all the while, has failed as well: clients can wait for ever for a new
producer id. A new producer may fail at once, too, for instance because the
user lacks a right; so the pauses between renewals grow until the broker has accepted an event.
"""

from __future__ import annotations

import asyncio

from goevent import DriverError

from .client import KafkaClient
from .connection import PING_PAUSE_SECONDS, KafkaConnection

FIRST_RENEWAL_PAUSE_SECONDS = 0.2
MAX_RENEWAL_PAUSE_SECONDS = 5.0


class ProducerRenewal:
    """Replaces the producer of a client, and reports each reason once.

    Attributes:
        failure: Why the producer can send nothing more; None while it can.
        is_proven: The broker has accepted an event since the last renewal.
        accepted_until: The latest deadline of an event that the broker has accepted.
    """

    def __init__(self, client: KafkaClient, connection: KafkaConnection) -> None:
        self._client = client
        self._connection = connection
        self.open()

    def open(self) -> None:
        """Begin with a producer that works."""
        self.failure: DriverError | None = None
        self.is_proven = True
        self.accepted_until = 0.0
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

    def is_silent(self, sent_at: float, until: float) -> bool:
        """Return whether a broker has answered, and the producer has got nothing through.

        Args:
            sent_at: When the publish of an event without an answer began.
            until: The deadline of this event.
        """
        connection = self._connection
        return (
            self.failure is None
            and self.accepted_until < until
            and connection.up_since < sent_at
            and connection.answered_at > sent_at + PING_PAUSE_SECONDS
        )

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
