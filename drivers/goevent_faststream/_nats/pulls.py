"""The pull requests of one consumer of JetStream, and the inbox on which the server answers.

A `JetStreamConsumer` owns one `Pulls`. It asks for one pull after the other, and gets the events.

Theory of operation: The server answers on an inbox, to which this module subscribes itself, since
the `fetch` of nats-py loses messages that arrive while it is cancelled; an inbox can be drained
instead. A message on the inbox is either an event or a status of the pull; the reply subject tells
them apart. A pull ends when all requested messages have arrived, when the server says that it has
expired or refuses it, or when the connection is lost.

A pull brings a limited number of bytes. If the next event alone is larger, the server says so. Then
single events are pulled without that limit and without waiting, until there are no more.

A server may have limits of its own for pulls, and tells them when one is exceeded. The following
pulls honour them.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from nats import errors

from goevent import DriverConnectionError, DriverError
from goevent.drivers import READ_SILENCE_SECONDS, ReadWatchdog

from .connection import NatsConnection
from .pull_budget import MAX_PULL_SECONDS, PullBudget

PULL_RETRY_SECONDS = 0.5
ANSWER_SECONDS = 1.0  # for the server's answer to a pull that has expired
EVENT_REPLY_PREFIX = "$JS.ACK."  # the reply subject of an event; a status has another one
NANOSECONDS_PER_SECOND = 1_000_000_000
# The statuses that end a pull in the usual course of things: no messages, and the end of its time.
ENDED_PULL_STATUSES = ("404", "408")
ENDED_PULL_TEXTS = ("Batch Completed", "Leadership Change", "Server Shutdown")
NO_RESPONDERS_STATUS = "503"
TOO_LARGE_TEXT = "Message Size Exceeds MaxBytes"
_BATCH_LIMIT = re.compile(r"Exceeded MaxRequestBatch of (\d+)")
_BYTES_LIMIT = re.compile(r"Exceeded MaxRequestMaxBytes of (\d+)")
_EXPIRY_LIMIT = re.compile(r"Exceeded MaxRequestExpires of ")
# What to change when the server refuses a pull.
_REMEDIES = {
    "Exceeded MaxWaiting": "raise the consumer's max_waiting, or run fewer buses of the group",
    "Consumer is push based": "delete the consumer, or use another group",
    "Bad Request - Priority Group missing": "remove the consumer's priority_policy",
}


class Pulls:
    """The pulls from one durable consumer.

    Args:
        stream: The name of the stream.
        durable: The name of the durable consumer.
        budget: The room of the bus, shared with the other consumers.
        receive: Called with each event. The bytes of the event count as taken from the budget.

    Attributes:
        receive: The same function; the owner may set another one before `open`.
        subject: The subject of pull requests.
        subscription: The subscription to the inbox; None while there is none.
        is_under_way: Whether the server has a pull that it can answer.
        is_consumer_missing: Set when the server says that the consumer or its stream is gone.
    """

    def __init__(
        self,
        connection: NatsConnection,
        stream: str,
        durable: str,
        budget: PullBudget,
        receive: Callable[[Any], Awaitable[object]],
    ) -> None:
        self.subject = ""
        self._consumer = f"{stream}.{durable}"
        self.receive = receive
        self.subscription: Any = None
        self.is_under_way = False
        self.is_consumer_missing = False
        self._connection = connection
        self._budget = budget
        self._watchdog = ReadWatchdog(
            f"the consumer {durable!r} of the stream {stream!r}",
            limit_seconds=READ_SILENCE_SECONDS,
        )
        self._inbox = ""
        self._has_pulled = False
        self._outstanding = 0  # events that the current pull may still bring
        self._reserved_bytes = 0  # by the current pull
        self._ended = asyncio.Event()
        self._is_answered = False
        self._has_brought_events = False  # the current pull
        self._is_watched = False  # False while no pull could be answered
        self._refusal: DriverError | None = None  # of the current pull
        self._is_next_too_large = False
        # The limits that the server has told; at first they limit nothing.
        self._max_events = self._max_bytes = 1 << 31
        self._max_seconds = MAX_PULL_SECONDS

    async def open(self) -> None:
        """Subscribe to the inbox, and see whether the user may pull.

        Raises:
            DriverError: The server refuses the subscription or the pull.
        """
        client = self._connection.client
        prefix = self._connection.jetstream._prefix
        self.subject = f"{prefix}.CONSUMER.MSG.NEXT.{self._consumer}"
        self._inbox = client.new_inbox()
        refusals, refused = self._connection.refusals, list[DriverError]()
        with (
            refusals.waiting(self._inbox, refused.append),
            refusals.waiting(self.subject, refused.append),
        ):
            # The pulls bound the bytes that wait here; the client would drop events at its limit.
            subscription = await client.subscribe(
                self._inbox, cb=self._on_message, pending_bytes_limit=0
            )
            try:
                # The server ignores a pull request without a reply subject, but checks the right.
                await client.publish(self.subject)
                await self._connection.flush()
                if refused:
                    raise refused[0]
            except BaseException:
                with suppress(errors.Error, OSError):
                    await subscription.unsubscribe()
                raise
        self.subscription = subscription

    async def drain(self) -> None:
        """Receive the events that the server has sent already, and no others."""
        subscription, self.subscription = self.subscription, None
        if subscription is not None:
            # If the connection is lost, no more events arrive, and those that were lost on their
            # way come again.
            with suppress(DriverConnectionError):
                await self._connection.run_while_connected(subscription.drain())

    # -- requests

    async def pull(self) -> None:
        """Pull events once; returns when the pull has ended.

        Raises:
            DriverError: The server refuses the pull.
        """
        budget = self._budget
        if not self._is_next_too_large:
            await self._request(
                min(self._max_events, budget.events()),
                min(self._max_bytes, budget.bytes()),
                min(self._max_seconds, budget.seconds(is_first=not self._has_pulled)),
            )
            return
        self.pause()
        async with budget.large_event:
            await budget.wait_for_room()
            await self._request(1, None, None)
        # Large events are often neighbours; the next pull waits if there is none.
        self._is_next_too_large = not self._outstanding

    async def _request(self, count: int, max_bytes: int | None, seconds: float | None) -> None:
        """Send a pull request, and wait for its end.

        Args:
            seconds: How long the server may wait for events; None for not at all.
        """
        request: dict[str, Any] = {"batch": count}
        if max_bytes is not None:
            request["max_bytes"] = max_bytes
        if seconds is None:
            request["no_wait"] = True
        else:
            request["expires"] = int(seconds * NANOSECONDS_PER_SECOND)
        self._outstanding, self._ended = count, asyncio.Event()
        self._refusal, self._is_answered, self._has_brought_events = None, False, False
        self._reserved_bytes = max_bytes or 0
        self._budget.take(self._reserved_bytes)
        loop = asyncio.get_running_loop()
        if not self._is_watched:
            self._watchdog.read(loop.time())
        self._has_pulled = self._is_watched = self.is_under_way = True
        try:
            with self._connection.refusals.waiting(self.subject, self._refuse):
                await self._connection.client.publish(
                    self.subject, json.dumps(request).encode(), reply=self._inbox
                )
                try:
                    async with asyncio.timeout((seconds or 0.0) + ANSWER_SECONDS):
                        await self._ended.wait()
                except TimeoutError:
                    # In a cluster the consumer's leader may have gone, and the pull with it. The
                    # next request reaches the new leader.
                    pass
        finally:
            self.is_under_way = False
            self._budget.give_back(self._reserved_bytes)
            self._reserved_bytes = 0
        if self._refusal is not None:
            raise self._refusal
        if self._is_answered:
            self._watchdog.read(loop.time())

    def _refuse(self, error: DriverError) -> None:
        self._refusal = error
        self._ended.set()

    def pause(self) -> None:
        """Expect no answer until the next pull."""
        self._is_watched = False

    def end(self) -> None:
        """End the current pull: its connection is lost."""
        self.pause()
        self._ended.set()

    def silence(self) -> DriverError | None:
        """Return the report that no pull was answered for too long; None if it was made before."""
        if self._is_answered or not self._is_watched:
            return None
        return self._watchdog.silence(asyncio.get_running_loop().time())

    # -- answers

    async def _on_message(self, message: Any) -> None:
        """Receive an event, or the status that ends the pull."""
        self._is_answered = True
        if message.reply.startswith(EVENT_REPLY_PREFIX):
            self._outstanding -= 1
            # The reserved bytes are those of the event from now on.
            self._reserved_bytes -= len(message.data)
            if self._reserved_bytes < 0:
                self._budget.take(-self._reserved_bytes)
                self._reserved_bytes = 0
            self._has_brought_events = True
            if self._outstanding <= 0:
                self._ended.set()
            await self.receive(message)
            return
        headers: dict[str, str] = message.headers or {}
        await self._on_status(headers.get("Status", ""), headers.get("Description", ""))
        self._ended.set()

    async def _on_status(self, status: str, description: str) -> None:
        if status == NO_RESPONDERS_STATUS or "Deleted" in description:
            # It is no answer of the consumer.
            self._is_answered, self.is_consumer_missing = False, True
            # The server needs a moment to forget a deleted consumer.
            await asyncio.sleep(PULL_RETRY_SECONDS)
        elif description.startswith(TOO_LARGE_TEXT):
            # Behind other events, the next pull may have more bytes.
            self._is_next_too_large = not self._has_brought_events
        elif limit := _BATCH_LIMIT.match(description):
            self._max_events = max(1, int(limit[1]))
        elif limit := _BYTES_LIMIT.match(description):
            self._max_bytes = max(1, int(limit[1]))
        elif _EXPIRY_LIMIT.match(description) and self._max_seconds > PULL_RETRY_SECONDS:
            # Its limit is written as Go writes durations, so it is found by halving.
            self._max_seconds /= 2
        elif status not in ENDED_PULL_STATUSES and description not in ENDED_PULL_TEXTS:
            text = f"NATS: the server refuses to deliver: {description or 'no reason'} ({status})"
            remedy = next((_REMEDIES[text] for text in _REMEDIES if text in description), "")
            self._refusal = DriverError(f"{text}; {remedy}" if remedy else text)
