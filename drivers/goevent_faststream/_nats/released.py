"""Released deliveries: how often a group's buses returned an event that no listener had begun.

Theory of operation: JetStream counts a delivery each time that it sends an event, and offers no way
to return one uncounted. A few clean restarts would therefore turn an event into a dead letter that
no listener has ever run. So the settler stores the number of an event's releases in a stream beside
the events, before it returns the event. The pull consumer subtracts this number when the event
arrives again. Most events arrive for the first time, and these are not looked up.

The subjects are `<stream>-back.<consumer>.<key>`. The key of an event is its sequence and the time
at which it was stored: sequences begin again in a stream that was deleted. The stream keeps one
message per subject. Its body is the number, so a later release replaces an earlier one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nats import errors
from nats.js import api, errors as js_errors

from goevent import DriverError

from .connection import NatsConnection, to_driver_error
from .stream import ensure_own_stream

# An event that stays in the stream for longer is charged for each delivery, begun or not.
MAX_AGE_SECONDS = 7 * 24 * 3600.0
STORE_SECONDS = 2.0


def released_key(message: Any) -> str:
    """Return the key of the event in a message of nats-py."""
    metadata = message.metadata
    return f"{metadata.sequence.stream}-{metadata.timestamp.timestamp():.0f}"


class ReleasedDeliveries:
    """The numbers of released deliveries of all groups of one stream."""

    def __init__(self, connection: NatsConnection, stream: str) -> None:
        self._connection = connection
        self._stream = f"{stream}-back"
        self._stream_exists = False

    async def count(self, consumer: str, key: str) -> int:
        """Return how often the buses of a consumer released an event; 0 if it cannot be read."""
        js: Any = self._connection.jetstream
        subject = f"{self._stream}.{consumer}.{key}"
        try:
            message = await self._connection.run_while_connected(
                js.get_msg(self._stream, subject=subject)
            )
            return int(message.data)
        except (js_errors.NotFoundError, ValueError):
            return 0
        except (errors.Error, OSError, DriverError) as error:
            self._connection.host.report(to_driver_error(error))
            return 0

    async def store(self, released: Sequence[tuple[str, str, int]]) -> None:
        """Store the consumer, the key and the number of releases of some events.

        Returns when the server has stored all of them. An event that is returned afterwards is
        counted correctly by the next bus.
        """
        await self._connection.run_while_connected(self._store(released))

    async def _store(self, released: Sequence[tuple[str, str, int]]) -> None:
        client: Any = self._connection.client
        js = self._connection.jetstream
        if not self._stream_exists:
            await self._ensure_stream(js)
        *others, last = (
            (f"{self._stream}.{consumer}.{key}", b"%d" % count) for consumer, key, count in released
        )
        for subject, body in others:
            await client.publish(subject, body)
        try:
            # One acknowledgement serves for all: the stream stores messages of a connection in
            # order.
            await js.publish(*last, timeout=STORE_SECONDS)
        except js_errors.NoStreamResponseError:
            # The stream was deleted.
            if not self._stream_exists:
                raise
            self._stream_exists = False
            await self._store(released)

    async def _ensure_stream(self, js: Any) -> None:
        config = api.StreamConfig(
            name=self._stream, max_msgs_per_subject=1, max_age=MAX_AGE_SECONDS
        )
        await ensure_own_stream(js, config)
        self._stream_exists = True

    def forget_stream(self) -> None:
        """Look for the stream again before the next use: a store has failed."""
        self._stream_exists = False
