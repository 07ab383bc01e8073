"""The tail of a stream of JetStream: an ephemeral consumer without acknowledgements.

`StreamInspection` runs one `JetStreamTail` for each tail. The consumer belongs to no group and
acknowledges nothing, so no group notices it.

Theory of operation: The consumer begins behind the last event of the stream. Events come by pulls,
which bring a limited number of bytes, so a slow reader holds back the server. Without
acknowledgements a lost event does not come again by itself. So the tail remembers the last position
in the stream that it has shown. When the connection is lost, an answer is missing, or the numbers
of the consumer have a gap, it makes a new consumer behind that position. The server deletes a
consumer that is left behind.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from contextlib import suppress
from datetime import datetime
from typing import Any
from uuid import uuid4

from nats import errors
from nats.js import api, errors as js_errors

from goevent import DriverConnectionError, DriverError, UnsupportedError, compile_pattern
from goevent.drivers import TailedEvent

from .._adapter.contract import ShowEvent
from .connection import NatsConnection, to_driver_error
from .pulls import (
    ENDED_PULL_STATUSES,
    ENDED_PULL_TEXTS,
    EVENT_REPLY_PREFIX,
    NANOSECONDS_PER_SECOND,
    TOO_LARGE_TEXT,
)
from .stream import stream_error
from .subjects import covering_subject

PULL_EVENTS = 250
PULL_BYTES = 4 << 20
PULL_SECONDS = 20.0
HEARTBEAT_SECONDS = 4.0
SILENCE_SECONDS = 10.0  # without a heartbeat, after which the consumer is gone
INACTIVE_SECONDS = 60.0  # after which the server deletes the consumer; a reader may be slow
RETRY_SECONDS = 0.5
GIVE_UP_SECONDS = 30.0  # of refusals one after the other
HEARTBEAT_STATUS = "100"


class _BrokenTailError(DriverError):
    """The consumer is gone or has a gap: the tail goes on with another one."""


class JetStreamTail:
    """The events of a stream that match a pattern, from now on.

    Args:
        stream: The name of the stream.
        prefix: The beginning of the events' subjects.
        show: Takes one event.
        started: Called once, when the first consumer exists.
    """

    def __init__(
        self,
        connection: NatsConnection,
        stream: str,
        prefix: str,
        pattern: str,
        show: ShowEvent,
        started: Callable[[], None],
    ) -> None:
        self._connection = connection
        self._stream = stream
        self._prefix = prefix
        self._subject = prefix + covering_subject(pattern)
        self._matches = compile_pattern(pattern)
        self._show = show
        self._started = started
        self._is_started = False
        self._shown = 0  # the last position that was shown, or where the tail began
        self._stream_created: datetime | None = None
        self._failing_since: float | None = None

    async def run(self) -> None:
        """Show events until cancelled.

        Raises:
            UnsupportedError: The stream is a work queue.
            DriverError: The server refuses the consumer.
        """
        clock = asyncio.get_running_loop().time
        while True:
            await self._connection.wait_until_up(None if not self._is_started else float("inf"))
            # The connection cancels this task when it is lost.
            reading = self._connection.start(self._read())
            try:
                await asyncio.wait({reading})
            finally:
                reading.cancel()
                await asyncio.wait({reading})
            if reading.cancelled():
                if not self._is_started:
                    raise DriverConnectionError("NATS: the connection was lost")
                continue
            error = reading.exception()
            if not isinstance(error, DriverError) or not self._is_started:
                raise error or DriverError("NATS: the tail has ended")
            if self._failing_since is None:
                self._failing_since = clock()
            is_passing = isinstance(error, (_BrokenTailError, DriverConnectionError))
            if not is_passing and clock() - self._failing_since > GIVE_UP_SECONDS:
                raise error
            await asyncio.sleep(RETRY_SECONDS)

    async def _read(self) -> None:
        """Show events of one consumer."""
        client = self._connection.client
        messages: asyncio.Queue[Any] = asyncio.Queue()
        inbox = client.new_inbox()
        name = f"goevent-tail-{uuid4().hex}"
        try:
            # The pulls bound the messages that wait here.
            subscription = await client.subscribe(inbox, cb=messages.put, pending_bytes_limit=0)
            try:
                await self._create(name)
                await self._pull(name, inbox, messages)
            finally:
                with suppress(errors.Error, OSError):
                    await subscription.unsubscribe()
                await self._delete(name)
        except (errors.Error, OSError) as error:
            raise to_driver_error(error) from error

    async def _create(self, name: str) -> None:
        config = api.ConsumerConfig(
            name=name,
            filter_subject=self._subject,
            ack_policy=api.AckPolicy.NONE,
            deliver_policy=api.DeliverPolicy.NEW,
            inactive_threshold=INACTIVE_SECONDS,
            mem_storage=True,
            num_replicas=1,
        )
        js: Any = self._connection.jetstream
        try:
            stream = await self._asked(js.stream_info(self._stream))
            if self._is_started:
                config.deliver_policy = api.DeliverPolicy.BY_START_SEQUENCE
                # The numbers of a stream mean nothing in another one of its name.
                is_same = stream.created == self._stream_created
                config.opt_start_seq = self._shown + 1 if is_same else 1
            self._stream_created = stream.created
            if stream.config.retention == api.RetentionPolicy.WORK_QUEUE:
                raise UnsupportedError(
                    f"the stream {self._stream!r} is a work queue (retention), which shows each "
                    "event to one consumer only"
                )
            info = await self._asked(js.add_consumer(self._stream, config))
        except (errors.Error, OSError) as error:
            raise stream_error(error, self._stream) from error
        if not self._is_started:
            self._shown = info.delivered.stream_seq if info.delivered else 0

    async def _asked(self, request: Coroutine[Any, Any, Any]) -> Any:
        return await self._connection.run_while_connected(request)

    async def _delete(self, name: str) -> None:
        """Delete the consumer; the server does it later if this fails."""
        with suppress(js_errors.Error, errors.Error, OSError, DriverError):
            if self._connection.is_up:
                js: Any = self._connection.jetstream
                await self._asked(js.delete_consumer(self._stream, name))

    async def _pull(self, name: str, inbox: str, messages: asyncio.Queue[Any]) -> None:
        client = self._connection.client
        subject = f"{self._connection.jetstream._prefix}.CONSUMER.MSG.NEXT.{self._stream}.{name}"
        refused: list[DriverError] = []
        number, is_next_too_large = 0, False
        with self._connection.refusals.waiting(subject, refused.append):
            while True:
                request: dict[str, Any] = {
                    "batch": 1 if is_next_too_large else PULL_EVENTS,
                    "expires": int(PULL_SECONDS * NANOSECONDS_PER_SECOND),
                    "idle_heartbeat": int(HEARTBEAT_SECONDS * NANOSECONDS_PER_SECOND),
                }
                if not is_next_too_large:
                    request["max_bytes"] = PULL_BYTES
                await client.publish(subject, json.dumps(request).encode(), reply=inbox)
                if not self._is_started:
                    # The answer to the first pull shows that the user may pull.
                    await self._connection.flush()
                    if refused:
                        raise refused[0]
                    self._is_started = True
                    self._started()
                outstanding, is_next_too_large = int(request["batch"]), False
                while outstanding:
                    try:
                        async with asyncio.timeout(SILENCE_SECONDS):
                            message = await messages.get()
                    except TimeoutError:
                        raise _BrokenTailError("NATS: the server does not answer a pull") from None
                    if not message.reply.startswith(EVENT_REPLY_PREFIX):
                        if _is_heartbeat(message):
                            continue
                        is_next_too_large = _read_status(message)
                        break
                    outstanding -= 1
                    number += 1
                    if message.metadata.sequence.consumer != number:
                        raise _BrokenTailError("NATS: an event was lost on its way")
                    await self._show_message(message)

    async def _show_message(self, message: Any) -> None:
        metadata = message.metadata
        name = message.subject.removeprefix(self._prefix)
        if self._matches(name):
            await self._show(
                TailedEvent(
                    event_name=name,
                    data=message.data,
                    id=str(metadata.sequence.stream),
                    headers=message.headers or {},
                    time=metadata.timestamp,
                )
            )
        self._shown = metadata.sequence.stream
        self._failing_since = None


def _is_heartbeat(message: Any) -> bool:
    headers: dict[str, str] = message.headers or {}
    return headers.get("Status") == HEARTBEAT_STATUS


def _read_status(message: Any) -> bool:
    """Take the status that ends a pull; return whether the next event is too large for a pull.

    Raises:
        DriverError: The consumer is gone, or cannot deliver.
    """
    headers: dict[str, str] = message.headers or {}
    status, description = headers.get("Status", ""), headers.get("Description", "")
    if description.startswith(TOO_LARGE_TEXT):
        return True
    if status in ENDED_PULL_STATUSES or description in ENDED_PULL_TEXTS:
        return False
    raise _BrokenTailError(f"NATS: the server ends a pull: {description or status or 'no reason'}")
