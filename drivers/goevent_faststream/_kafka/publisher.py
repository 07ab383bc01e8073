"""The publisher to Kafka: it sends a whole burst before the first answer comes.

Each event is answered exactly once: by the broker's receipt, by an error, or when its time is over.
A late receipt is ignored then, and the event may have been written.

*Large events.* A broker refuses a whole batch that is too large for its topic. An event that is too
large by itself fails before it is sent. If the topic takes less than the client puts into a batch,
no more events are under way than one batch may have. A batch can still be refused: the limit may
have been lowered, the broker may not tell it, or the client compresses. The broker has written
nothing of such a batch, so its events are sent again, each one alone, and only the event that is
refused alone fails. Meanwhile no other event is sent; those that were under way already may
overtake.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from goevent import DriverConnectionError, DriverError, EncodeError
from goevent.drivers import Receipt

from .._adapter.contract import Outgoing
from .client import KafkaClient
from .connection import KafkaConnection
from .limits import (
    BatchRefusedError,
    BatchTooLargeError,
    PublishedTopic,
    event_bytes,
    not_utf8,
)
from .topics import colliding_topic, topic_of

# On top of the publish timeout, so that the client's own, more exact error comes first.
ANSWER_GRACE_SECONDS = 0.5
# A limit this old is asked for again before an event fails because of it.
LIMIT_AGE_SECONDS = 5.0


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
        self._topics: dict[str, PublishedTopic] = {}
        # The events of refused batches, until each was sent alone, and the task that does so.
        self._refused: deque[Outgoing] = deque()
        self._sending_alone: asyncio.Task[None] | None = None
        self._alone: Outgoing | None = None
        # Set when an event was answered that a sender waits for.
        self._answered = asyncio.Event()
        # The events without an answer and their deadlines, the oldest first.
        self._sent: dict[Outgoing, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def open(self) -> None:
        """Begin on a new loop."""
        self._order = asyncio.Lock()
        self._topics.clear()
        self._refused.clear()
        self._sending_alone = self._alone = None
        self._answered = asyncio.Event()
        self._sent.clear()
        self._timer = None

    def close(self) -> None:
        """Answer the remaining events with an error."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._sending_alone is not None:
            self._sending_alone.cancel()
        error = DriverConnectionError("Kafka: the bus has ended before the broker replied")
        for outgoing in [*self._sent]:
            self._answer(outgoing, error)

    async def topic(self, name: str) -> PublishedTopic:
        """Return the topic of an event name, which exists.

        Raises:
            DriverError: It cannot be created.
        """
        found = self._topics.get(name)
        if found is None:
            topic = topic_of(self._prefix, name)
            try:
                await self._client.ensure_topic(topic)
            except DriverConnectionError:
                raise
            except DriverError as error:
                other = colliding_topic(topic, await self._client.topics())
                if other is None:
                    raise
                raise DriverError(
                    f"{error}. There is a topic {other!r}, and Kafka creates none whose name "
                    "differs from it only in '.' and '_': rename one of the events"
                ) from error
            found = self._topics[name] = PublishedTopic(topic)
        return found

    async def _ask_for_limit(self, topic: PublishedTopic, since: float) -> None:
        """Ask the broker for the limit of a topic, unless it has told it since a time."""
        if topic.asked_at is None or topic.asked_at < since:
            topic.asked_at = asyncio.get_running_loop().time()
            limit = await self._client.max_message_bytes(topic.topic)
            topic.set_limit(limit, self._client.limits)

    async def publish(self, burst: Sequence[Outgoing]) -> None:
        """Publish a burst; raises nothing."""
        sent, answer = self._sent, self._answer
        loop = asyncio.get_running_loop()
        until = loop.time() + self._timeout + ANSWER_GRACE_SECONDS
        deadline = self._connection.deadline()
        sent.update(dict.fromkeys(burst, until))
        if self._timer is None:
            # One timer for all events. A timer for each burst would hold its events until it
            # fires, long after they were answered.
            self._timer = loop.call_at(until, self._expire, loop)
        async with self._order:
            for outgoing in burst:
                try:
                    if not self._connection.is_up:
                        await self._connection.wait_until_up(deadline)
                    topic = self._topics.get(outgoing.name) or await self.topic(outgoing.name)
                    if not topic.has_room(outgoing):
                        await self._wait_for_turn(topic, outgoing)
                    # It may have expired during one of the waits above.
                    if outgoing in sent:
                        await self._client.send(topic.topic, outgoing, answer)
                except (DriverError, EncodeError) as error:
                    answer(outgoing, error)
                except UnicodeEncodeError as error:
                    answer(outgoing, not_utf8(outgoing.name, error))

    async def _wait_for_turn(self, topic: PublishedTopic, outgoing: Outgoing) -> None:
        """Wait until an event fits into one batch with those of its topic that are under way.

        Raises:
            EncodeError: It is too large for any batch.
        """
        if topic.asked_at is None:
            await self._ask_for_limit(topic, 0)
        size, limits = event_bytes(outgoing), self._client.limits
        if topic.size_error(outgoing.name, size, limits) is not None:
            now = asyncio.get_running_loop().time()
            await self._ask_for_limit(topic, now - LIMIT_AGE_SECONDS)
            error = topic.size_error(outgoing.name, size, limits)
            if error is not None:
                raise error
        if topic.max_bytes is None or not topic.is_narrow:
            return
        while topic.pending and topic.pending_bytes + size > topic.max_bytes:
            self._answered.clear()
            await self._answered.wait()
        if outgoing in self._sent:
            topic.add(outgoing, size)

    def _answer(self, outgoing: Outgoing, result: Receipt | Exception) -> None:
        if outgoing not in self._sent:
            return
        topic = self._topics.get(outgoing.name)
        if topic is not None and topic.pending:
            topic.remove(outgoing)
            self._answered.set()
        if not isinstance(result, Receipt):
            if isinstance(result, BatchRefusedError) and outgoing is not self._alone:
                self._refused.append(outgoing)
                if self._sending_alone is None:
                    self._sending_alone = asyncio.create_task(self._send_refused())
                return
            result = self._failed(outgoing, topic, result)
        if outgoing is self._alone:
            self._alone = None
            self._answered.set()
        del self._sent[outgoing]
        outgoing.done(result)

    def _failed(
        self, outgoing: Outgoing, topic: PublishedTopic | None, error: Exception
    ) -> Exception:
        """Return the error of an event that is not sent again."""
        # The topic may be gone; the next event looks for it, and creates it.
        if topic is not None and not topic.pending and not isinstance(error, EncodeError):
            del self._topics[outgoing.name]
        if isinstance(error, BatchTooLargeError):
            return DriverError(
                f"{error}; the topic {topic_of(self._prefix, outgoing.name)!r} does not take the "
                f"{event_bytes(outgoing)} bytes of this event, with key and headers"
            )
        return error

    async def _send_refused(self) -> None:
        """Send the events of refused batches again, each one alone."""
        began = asyncio.get_running_loop().time()
        async with self._order:
            # The batches of other events that the client has not sent yet.
            await self._client.flush()
            while self._refused:
                outgoing = self._refused.popleft()
                # It may have expired.
                if outgoing not in self._sent:
                    continue
                try:
                    topic = await self.topic(outgoing.name)
                    await self._ask_for_limit(topic, began)
                    error = topic.size_error(
                        outgoing.name, event_bytes(outgoing), self._client.limits
                    )
                    if error is not None:
                        raise error
                    if outgoing in self._sent:
                        self._alone = outgoing
                        await self._client.send(topic.topic, outgoing, self._answer)
                        while self._alone is outgoing:
                            self._answered.clear()
                            await self._answered.wait()
                except (DriverError, EncodeError) as error:
                    self._answer(outgoing, error)
            self._sending_alone = None

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
