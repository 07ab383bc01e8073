"""The publisher to Kafka: all of a burst is sent before anything of it is answered."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from goevent import DriverConnectionError, DriverError
from goevent.drivers import Receipt

from .._adapter.contract import Outgoing
from .client import KafkaClient
from .connection import KafkaConnection
from .topics import topic_of

LOST = "Kafka: the bus has ended before the broker replied"


class Publisher:
    """Publishes events, each key's in order, and answers each exactly once."""

    def __init__(
        self, client: KafkaClient, link: KafkaConnection, prefix: str, timeout: float
    ) -> None:
        self._client = client
        self._link = link
        self._prefix = prefix
        self._timeout = timeout
        self._order = asyncio.Lock()
        self._topics: dict[str, str] = {}
        self._sent: dict[Outgoing, float] = {}  # until when they may wait; the oldest first
        self._timer: asyncio.TimerHandle | None = None

    def open(self) -> None:
        """Begin anew, on this loop."""
        self._order = asyncio.Lock()
        self._topics.clear()
        self._sent.clear()
        self._timer = None

    def close(self) -> None:
        """Tell those that wait that nobody will answer them."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for outgoing in [*self._sent]:
            self._answer(outgoing, DriverConnectionError(LOST))

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
        loop = asyncio.get_running_loop()
        until = loop.time() + self._timeout + 0.5
        sent.update(dict.fromkeys(burst, until))
        if self._timer is None:
            # One for all: one for each burst would keep its events until then, answered or not.
            self._timer = loop.call_at(until, self._expire, loop)
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
        if self._sent.pop(outgoing, None) is not None:
            outgoing.done(result)

    def _expire(self, loop: asyncio.AbstractEventLoop) -> None:
        """Give up what has waited too long, and look again when the next may have."""
        self._timer = None
        late = f"Kafka: no answer within {self._timeout:g} s; perhaps the event is written later"
        now = loop.time()
        for outgoing, until in [*self._sent.items()]:
            if until > now:
                self._timer = loop.call_at(until, self._expire, loop)
                break
            self._answer(outgoing, DriverConnectionError(late))
