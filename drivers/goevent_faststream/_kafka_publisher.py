"""The publisher to Kafka: all of a burst is sent before anything of it is answered."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from goevent import DriverConnectionError, DriverError, Receipt

from ._dialect import Outgoing
from ._kafka_client import KafkaClient
from ._kafka_link import KafkaLink
from ._kafka_names import topic_of

LOST = "Kafka: the bus has ended before the broker replied"


class Publisher:
    """Publishes events, each key's in order, and answers each exactly once."""

    def __init__(self, client: KafkaClient, link: KafkaLink, prefix: str, timeout: float) -> None:
        self._client = client
        self._link = link
        self._prefix = prefix
        self._timeout = timeout
        self._order = asyncio.Lock()
        self._topics: dict[str, str] = {}
        self._sent: set[Outgoing] = set()

    def open(self) -> None:
        """Begin anew, on this loop."""
        self._order = asyncio.Lock()
        self._topics.clear()
        self._sent.clear()

    def close(self) -> None:
        """Tell those that wait that nobody will answer them."""
        self._expire([*self._sent], LOST)

    async def topic(self, name: str) -> str:
        """Return the topic of an event name, which exists.

        Raises:
            DriverError: it cannot be made.
        """
        topic = self._topics.get(name)
        if topic is None:
            topic = topic_of(self._prefix, name)
            await self._client.ensure(topic)
            self._topics[name] = topic
        return topic

    async def publish(self, burst: Sequence[Outgoing]) -> None:
        """Publish a burst; raises nothing."""
        sent, answer = self._sent, self._answer
        sent.update(burst)
        late = f"Kafka: no answer within {self._timeout:g} s; perhaps the event is written later"
        asyncio.get_running_loop().call_later(self._timeout + 0.5, self._expire, burst, late)
        async with self._order:
            for outgoing in burst:
                try:
                    if not self._link.is_up:
                        await self._link.ready()
                    topic = self._topics.get(outgoing.name) or await self.topic(outgoing.name)
                    if outgoing in sent:
                        await self._client.send(topic, outgoing, answer)
                except DriverError as error:
                    answer(outgoing, error)

    def _answer(self, outgoing: Outgoing, result: Receipt | Exception) -> None:
        if outgoing in self._sent:
            self._sent.discard(outgoing)
            outgoing.done(result)

    def _expire(self, burst: Sequence[Outgoing], text: str) -> None:
        for outgoing in burst:
            if outgoing in self._sent:
                self._answer(outgoing, DriverConnectionError(text))
