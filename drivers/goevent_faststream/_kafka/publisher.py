"""The publisher to Kafka: it sends a whole burst before the first answer comes.

Each event is answered exactly once: by the broker's receipt, by an error, or when its time is over,
which begins with the publish. The error of an event that the client has got says that it may have
arrived, unless the broker has refused it. A late receipt is ignored.

*Failed producers.* A client may report that its producer can send nothing more. The events that the
producer has are answered, `renewal` replaces it, and later events go through the new one.

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
from contextlib import suppress

from goevent import DriverConnectionError, DriverError, EncodeError
from goevent.drivers import Receipt

from .._adapter.contract import Outgoing
from .._adapter.errors import may_have_arrived
from .client import KafkaClient, ProducerFailedError
from .connection import KafkaConnection
from .limits import (
    BatchRefusedError,
    BatchTooLargeError,
    ProducerRefusedError,
    PublishedTopic,
    event_bytes,
    not_utf8,
)
from .renewal import ProducerRenewal
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
        self._renewal = ProducerRenewal(client, connection)
        self._renewing: asyncio.Task[None] | None = None
        self._order = asyncio.Lock()
        self._topics: dict[str, PublishedTopic] = {}
        # The events of refused batches, until each was sent alone, and the task that does so.
        self._refused: deque[Outgoing] = deque()
        self._sending_alone: asyncio.Task[None] | None = None
        self._alone: Outgoing | None = None
        # The event that was sent alone twice, because its producer was refused.
        self._retried: Outgoing | None = None
        # Set when an event was answered that a sender waits for.
        self._answered = asyncio.Event()
        # The events without an answer and their deadlines, the oldest first: those that wait here,
        # and those that the client has got.
        self._waiting: dict[Outgoing, float] = {}
        self._sent: dict[Outgoing, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def open(self) -> None:
        """Begin on a new loop."""
        self._order = asyncio.Lock()
        self._renewal.open()
        self._renewing = None
        self._topics.clear()
        self._refused.clear()
        self._sending_alone = self._alone = self._retried = None
        self._answered = asyncio.Event()
        self._waiting.clear()
        self._sent.clear()
        self._timer = None

    def close(self) -> None:
        """Answer the remaining events with an error."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for task in (self._sending_alone, self._renewing):
            if task is not None:
                task.cancel()
        error = DriverConnectionError("Kafka: the bus has ended before the broker replied")
        for outgoing in [*self._sent, *self._waiting]:
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
        waiting, sent, answer = self._waiting, self._sent, self._answer
        renewal, loop = self._renewal, asyncio.get_running_loop()
        deadline = loop.time() + self._timeout
        until = deadline + ANSWER_GRACE_SECONDS
        waiting.update(dict.fromkeys(burst, until))
        if self._timer is None:
            # One timer for all events. A timer for each burst would hold its events until it
            # fires, long after they were answered.
            self._timer = loop.call_at(until, self._expire, loop)
        async with self._order:
            for outgoing in burst:
                try:
                    if not self._connection.is_up:
                        await self._connection.wait_until_up(deadline)
                    if renewal.failure is not None:
                        await self._renew()
                    topic = self._topics.get(outgoing.name) or await self.topic(outgoing.name)
                    if not topic.has_room(outgoing):
                        await self._wait_for_turn(topic, outgoing)
                    # It may have expired during one of the waits above.
                    if waiting.pop(outgoing, None) is not None:
                        sent[outgoing] = until
                        await self._client.send(topic.topic, outgoing, answer)
                except ProducerFailedError as error:
                    await self._send_renewed(outgoing, error)
                except (DriverError, EncodeError) as error:
                    answer(outgoing, error)
                except UnicodeEncodeError as error:
                    answer(outgoing, not_utf8(outgoing.name, error))

    # -- a failed producer

    def producer_failed(self, error: DriverError) -> None:
        """Replace the producer, which can send nothing more; called by the client."""
        self._renewal.failed(error)
        self._answered.set()
        if self._renewing is None:
            self._renewing = asyncio.create_task(self._renew_until_it_works())

    async def _renew_until_it_works(self) -> None:
        """Replace the producer also if no event comes: dead letters need it, too."""
        while self._renewal.failure is not None:
            await asyncio.sleep(self._renewal.seconds_left())
            async with self._order:
                # An event that comes during the pause gets the error; `renewal` has reported it.
                with suppress(DriverError):
                    await self._renew()
        self._renewing = None

    async def _renew(self) -> None:
        """Replace the producer if it has failed, and answer the events that it has.

        Raises:
            DriverError: There is no other producer now.
        """
        failure = self._renewal.failure
        if failure is None:
            return
        for outgoing in [*self._sent]:
            if outgoing not in self._refused:
                self._answer(outgoing, DriverConnectionError(str(failure)))
        await self._renewal.renew()

    async def _send_renewed(self, outgoing: Outgoing, error: ProducerFailedError) -> None:
        """Send an event that the failed producer has not taken through the next one."""
        until = self._sent.pop(outgoing, None)
        if until is None:
            return
        self._waiting[outgoing] = until
        if self._renewal.failure is None:
            self.producer_failed(error)
        try:
            await self._renew()
            topic = await self.topic(outgoing.name)
            if self._waiting.pop(outgoing, None) is not None:
                self._sent[outgoing] = until
                await self._client.send(topic.topic, outgoing, self._answer)
        except ProducerFailedError as failure:
            # The new one has failed, too.
            if self._sent.pop(outgoing, None) is not None:
                self._waiting[outgoing] = until
            self._answer(outgoing, DriverError(f"{failure}; the event was not sent"))
        except (DriverError, EncodeError) as failure:
            self._answer(outgoing, failure)

    # -- the size of events

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
            await self._wait_for_answer()
        if outgoing in self._waiting:
            topic.add(outgoing, size)

    # -- answers

    def _answer(self, outgoing: Outgoing, result: Receipt | Exception) -> None:
        is_sent = outgoing in self._sent
        if not is_sent and self._waiting.pop(outgoing, None) is None:
            return
        topic = self._topics.get(outgoing.name)
        if topic is not None and topic.pending:
            topic.remove(outgoing)
            self._answered.set()
        if not isinstance(result, Receipt):
            if isinstance(result, ProducerFailedError) and is_sent:
                # The client reports the failure with its reason, and `_renew` answers the event.
                return
            if isinstance(result, BatchRefusedError) and self._is_sent_again(outgoing, result):
                return
            result = self._failed(outgoing, topic, result)
        else:
            self._renewal.accepted_until = self._sent.get(outgoing, 0.0)
            if not self._renewal.is_proven:
                self._renewal.prove()
        if outgoing is self._alone:
            self._alone = None
            self._answered.set()
        self._sent.pop(outgoing, None)
        outgoing.done(result)

    def _is_sent_again(self, outgoing: Outgoing, refusal: BatchRefusedError) -> bool:
        """Return whether an event of a refused batch is sent again, alone."""
        if outgoing is not self._alone:
            self._refused.append(outgoing)
            if self._sending_alone is None:
                self._sending_alone = asyncio.create_task(self._send_refused())
            return True
        if outgoing is self._retried or not isinstance(refusal, ProducerRefusedError):
            return False
        # Not the event was refused, but the producer: try once more, with another one.
        self._retried, self._alone = outgoing, None
        self._refused.appendleft(outgoing)
        self.producer_failed(ProducerFailedError(str(refusal)))
        return True

    def _failed(
        self, outgoing: Outgoing, topic: PublishedTopic | None, error: Exception
    ) -> Exception:
        """Return the error of an event that is not sent again."""
        # The topic may be gone; the next event looks for it, and creates it.
        if topic is not None and not topic.pending and not isinstance(error, EncodeError):
            self._topics.pop(outgoing.name, None)
        if isinstance(error, BatchTooLargeError):
            return DriverError(
                f"{error}; the topic {topic_of(self._prefix, outgoing.name)!r} does not take the "
                f"{event_bytes(outgoing)} bytes of this event, with key and headers"
            )
        until = self._sent.get(outgoing)
        if until is None or not isinstance(error, DriverConnectionError):
            return error
        if self._renewal.is_silent(until - self._timeout - ANSWER_GRACE_SECONDS, until):
            text = f"Kafka: the producer gets no event through within {self._timeout:g} s"
            self.producer_failed(ProducerFailedError(f"{text}, although a broker answers"))
        return may_have_arrived(error)

    async def _wait_for_answer(self) -> None:
        """Wait until an event is answered; a failed producer answers none."""
        if self._renewal.failure is not None:
            # The events have their answers in any case, and the next one is told the error.
            with suppress(DriverError):
                await self._renew()
            return
        self._answered.clear()
        await self._answered.wait()

    async def _send_refused(self) -> None:
        """Send the events of refused batches again, each one alone."""
        began = asyncio.get_running_loop().time()
        async with self._order:
            # The batches of other events that the client has not sent yet.
            await self._client.flush()
            while self._refused:
                failure: DriverError | None = None
                try:
                    # The refused events are not among those that a failed producer has.
                    await self._renew()
                except DriverError as no_producer:
                    failure = no_producer
                outgoing = self._refused.popleft()
                # It may have expired.
                if outgoing not in self._sent:
                    continue
                try:
                    if failure is not None:
                        raise failure
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
                except ProducerFailedError as error:
                    await self._send_renewed(outgoing, error)
                except (DriverError, EncodeError) as error:
                    self._answer(outgoing, error)
                while self._alone is outgoing:
                    await self._wait_for_answer()
            self._sending_alone = self._retried = None

    def _expire(self, loop: asyncio.AbstractEventLoop) -> None:
        """Answer the events whose time is over, and set the timer for the next one."""
        self._timer = None
        now, following = loop.time(), float("inf")
        seconds = f"{self._timeout:g} s"
        for events, text in (
            (self._waiting, f"Kafka: the event was not sent within {seconds}"),
            (self._sent, f"Kafka: no answer within {seconds}"),
        ):
            for outgoing, until in [*events.items()]:
                if until > now:
                    following = min(following, until)
                    break
                self._answer(outgoing, DriverConnectionError(text))
        if following < float("inf"):
            self._timer = loop.call_at(following, self._expire, loop)
