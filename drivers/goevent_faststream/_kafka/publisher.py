"""The publisher to Kafka: it sends a whole burst before the first answer comes.

Each event is answered exactly once: by the broker's receipt, by an error, or when its time is over.
A late receipt is ignored then, and the event may have been written.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from goevent import DriverConnectionError, DriverError
from goevent.drivers import Receipt

from .._adapter.contract import Outgoing
from .client import KafkaClient
from .connection import KafkaConnection
from .topics import topic_of

# On top of the publish timeout, so that the client's own, more exact error comes first.
ANSWER_GRACE_SECONDS = 0.5


class KafkaPublisher:
    """Publishes events in order.

    Args:
        timeout: Seconds after which an event is answered with an error.
    """

    def __init__(
        self, client: KafkaClient, connection: KafkaConnection, prefix: str, timeout: float
    ) -> None:
        self._client = client
        self._connection = connection
        self._prefix = prefix
        self._timeout = timeout
        self._order = asyncio.Lock()
        self._topics: dict[str, str] = {}
        # The events without an answer and their deadlines, the oldest first.
        self._sent: dict[Outgoing, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def open(self) -> None:
        """Begin on a new loop."""
        self._order = asyncio.Lock()
        self._topics.clear()
        self._sent.clear()
        self._timer = None

    def close(self) -> None:
        """Answer the remaining events with an error."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        error = DriverConnectionError("Kafka: the bus has ended before the broker replied")
        for outgoing in [*self._sent]:
            self._answer(outgoing, error)

    async def topic(self, name: str) -> str:
        """Return the topic of an event name, which exists.

        Raises:
            DriverError: It cannot be created.
        """
        topic = self._topics.get(name)
        if topic is None:
            topic = topic_of(self._prefix, name)
            await self._client.ensure_topic(topic)
            self._topics[name] = topic
        return topic

    async def publish(self, burst: Sequence[Outgoing]) -> None:
        """Publish a burst; raises nothing."""
        sent, answer = self._sent, self._answer
        loop = asyncio.get_running_loop()
        until = loop.time() + self._timeout + ANSWER_GRACE_SECONDS
        sent.update(dict.fromkeys(burst, until))
        if self._timer is None:
            # One timer for all events. A timer for each burst would hold its events until it
            # fires, long after they were answered.
            self._timer = loop.call_at(until, self._expire, loop)
        async with self._order:
            for outgoing in burst:
                try:
                    if not self._connection.is_up:
                        await self._connection.wait_until_up()
                    topic = self._topics.get(outgoing.name) or await self.topic(outgoing.name)
                    # It may have expired during one of the waits above.
                    if outgoing in sent:
                        await self._client.send(topic, outgoing, answer)
                except DriverError as error:
                    answer(outgoing, error)

    def _answer(self, outgoing: Outgoing, result: Receipt | Exception) -> None:
        if self._sent.pop(outgoing, None) is not None:
            if not isinstance(result, Receipt):
                # The topic may be gone; the next event looks for it, and creates it.
                self._topics.pop(outgoing.name, None)
            outgoing.done(result)

    def _expire(self, loop: asyncio.AbstractEventLoop) -> None:
        """Answer the events whose time is over, and set the timer for the next one."""
        self._timer = None
        late = f"Kafka: no answer within {self._timeout:g} s; perhaps the event is written later"
        now = loop.time()
        for outgoing, until in [*self._sent.items()]:
            if until > now:
                self._timer = loop.call_at(until, self._expire, loop)
                break
            self._answer(outgoing, DriverConnectionError(late))
