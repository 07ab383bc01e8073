"""A channel for publishes: it writes a batch of messages at once and awaits all its confirms.

`RabbitPublisher` owns one for events, and `RabbitSettler` another one for copies and dead letters,
on the same connection.

Theory of operation: FastStream's publish takes a lock and makes a task and several objects for each
message. This module marshals the frames of a whole batch instead and puts them into the client's
write queue as one piece. While it holds the channel's lock, it registers one confirm per message
under the next delivery tags, as `basic_publish` of the client does for one message.

The server returns a mandatory message that no queue takes, and then confirms it. The client finds
the message that was returned by its id, which another publisher may have used, too. So this module
replaces the client's handler, and also compares the exchange and the routing key.

The server closes the channel when it refuses a message: one that is too large, for instance, or
whose routing key or exchange the user may not write to. It does not say which message, and has not
looked at those behind it. A message that may be refused is therefore written alone: one with a new
routing key, larger than each message before it that the server has accepted, or with a property
that the server checks. What the server has accepted, it may refuse later, when rights or limits
have changed. Then its reason tells the message (`refusals`). Only this one gets the reason. Those
before it may have arrived; those behind it are sent again.

A channel on which a message had no answer is given up, and the next message gets a new one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from aio_pika.exceptions import ChannelNotFoundEntity, DeliveryError
from aiormq.abc import ChannelFrame
from aiormq.exceptions import ChannelClosed
from pamqp.body import ContentBody
from pamqp.commands import Basic
from pamqp.frame import marshal
from pamqp.header import ContentHeader

from goevent import DriverConnectionError, DriverError

from .._adapter.connectivity import REPLY_SECONDS
from .._adapter.errors import connection_lost, may_have_arrived, no_answer
from .errors import RABBIT_ERRORS, to_driver_error
from .link import RabbitLink
from .refusals import find_refused, has_checked_properties, size_limit

MIN_PROVEN_BYTES = 4096  # every server accepts bodies of this size
MAX_PROVEN_KEYS = 10_000
UNLIMITED_FRAME_BYTES = 128 * 1024
MAX_HEADER_NAME_BYTES = 128  # the client would cut longer ones off
# An operator may raise the server's limit meanwhile.
SIZE_LIMIT_SECONDS = 30.0
# The arguments of the client's error for a channel that this side has closed.
OWN_CLOSE = (None, None)


@dataclass(frozen=True, slots=True)
class PublishFailure:
    """The reason why a message was not published.

    Attributes:
        is_unrouted: No queue takes the message, or its exchange is missing.
        is_exchange_missing: Its exchange is missing.
        is_unsent: The server has not looked at it, so that it can be sent again.
    """

    error: DriverError
    is_unrouted: bool = False
    is_exchange_missing: bool = False
    is_unsent: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class RabbitMessage:
    """One message to publish.

    Attributes:
        exchange: The exchange; the empty one routes to the queue that the routing key names.
        properties: Its AMQP properties.
        on_result: Called with None once the server has confirmed the message, or with a failure.
    """

    exchange: str
    routing_key: str
    body: bytes
    properties: Any
    on_result: Callable[[PublishFailure | None], object]


class PublishChannel:
    """One channel for publishes; it is opened again when the server has closed it.

    Args:
        link: The connection for publishes.
        patient: Wait for as long as the server blocks the connection. Otherwise each message has
            its result within the time that the connection is waited for.
    """

    def __init__(self, link: RabbitLink, *, patient: bool) -> None:
        self._link = link
        self._patient = patient
        self.reset()

    def reset(self) -> None:
        """Start anew on another event loop."""
        # Held while messages are written, so that batches keep their order.
        self._order = asyncio.Lock()
        self._channel: Any = None
        # The messages that are on their way, and those of them that were returned.
        self._messages: dict[asyncio.Future[Any], RabbitMessage] = {}
        self._on_the_way: dict[tuple[str, str, str | None], list[asyncio.Future[Any]]] = {}
        self._returned: set[asyncio.Future[Any]] = set()
        # The failures of the messages of a channel that the server has closed.
        self._closed: dict[asyncio.Future[Any], PublishFailure] = {}
        self._unsent: set[RabbitMessage] = set()
        self._alone: RabbitMessage | None = None
        self._size_limit_until = 0.0
        self._forget_proofs()

    def _forget_proofs(self) -> None:
        """Forget which messages the server accepts: it is perhaps another one."""
        self._proven_keys: set[tuple[str, str]] = set()
        self._proven_bytes = MIN_PROVEN_BYTES
        self._max_body_bytes: int | None = None

    async def publish(self, messages: Sequence[RabbitMessage]) -> None:
        """Publish messages in order, and return when each one has its result."""
        deadline = self._link.deadline()
        left = messages
        while left:
            await self._publish_once(left, deadline)
            left = [message for message in left if message in self._unsent] if self._unsent else ()
            self._unsent.difference_update(left)

    async def _publish_once(self, messages: Sequence[RabbitMessage], deadline: float) -> None:
        """Publish messages; those that the server has not looked at are in `_unsent` afterwards."""
        sent: list[asyncio.Future[Any]] = []
        if not await self._begin(deadline):
            for message in messages:
                message.on_result(PublishFailure(self._not_sent()))
            return
        try:
            for run, is_alone in self._runs(messages):
                if not is_alone:
                    sent += await self._write(run, deadline)
                    continue
                unconfirmed = [each for each in self._unconfirmed() if not each.done()]
                if unconfirmed:
                    await asyncio.wait(unconfirmed, timeout=self._seconds_left(deadline))
                (self._alone,) = run
                await self._wait_for(await self._write(run, deadline), deadline)
        finally:
            self._order.release()
        await self._wait_for(sent, deadline)

    async def _begin(self, deadline: float) -> bool:
        """Wait for the turn of a batch; return False if it has not come in time."""
        if self._patient or not self._order.locked():
            return await self._order.acquire()
        try:
            async with asyncio.timeout_at(deadline):
                return await self._order.acquire()
        except TimeoutError:
            return False

    def _seconds_left(self, deadline: float) -> float:
        """Return how long to wait for a confirm."""
        return REPLY_SECONDS if self._patient else deadline - asyncio.get_running_loop().time()

    def _runs(
        self, messages: Sequence[RabbitMessage]
    ) -> Iterator[tuple[Sequence[RabbitMessage], bool]]:
        """Yield the messages in order, each one that may be refused alone."""
        run: list[RabbitMessage] = []
        for message in messages:
            key = message.exchange, message.routing_key
            if (
                key in self._proven_keys
                and len(message.body) <= self._proven_bytes
                and not has_checked_properties(message.properties)
            ):
                run.append(message)
                continue
            if run:
                yield run, False
                run = []
            yield [message], True
        if run:
            yield run, False

    def _unconfirmed(self) -> list[asyncio.Future[Any]]:
        """Return the confirms of the messages that are on their way."""
        return [] if self._channel is None else [*self._channel.confirmations.values()]

    async def _write(
        self, messages: Sequence[RabbitMessage], deadline: float
    ) -> list[asyncio.Future[Any]]:
        """Write messages, as one piece; return their confirms.

        A message that cannot be written gets its result here.
        """
        written: list[asyncio.Future[Any]] = []
        payloads: list[bytes] = []
        rest = iter(messages)
        channel: Any = None
        try:
            await self._link.wait_until_writable(deadline, patient=self._patient)
            if self._seconds_left(deadline) <= 0:
                raise self._not_sent()
            channel = await self._open_channel(deadline)
            # All messages of one piece get consecutive delivery tags: the writer takes a piece as
            # a whole, and the lock keeps other publishers away from the channel's counter.
            async with channel.lock:
                for message in rest:
                    try:
                        payloads += self._encode(message, channel)
                    except DriverError as error:
                        message.on_result(PublishFailure(error))
                    else:
                        written.append(self._register(message, channel))
                frame = ChannelFrame(b"".join(payloads), should_close=False)
                if channel.write_queue.full():
                    # Perhaps the client writes nothing any more.
                    async with asyncio.timeout(self._seconds_left(deadline)):
                        await channel.write_queue.put(frame)
                else:
                    channel.write_queue.put_nowait(frame)
        except (TimeoutError, DriverError, *RABBIT_ERRORS) as error:
            # The channel was closed after `wait_until_writable`. Its registered confirms fail.
            if isinstance(error, DriverError):
                failure = error
            elif isinstance(error, TimeoutError):
                failure = self._not_sent()
                for confirm in written:
                    confirm.cancel()
                self._replace(channel)
            else:
                failure = connection_lost("RabbitMQ")
            for message in rest:
                message.on_result(PublishFailure(failure))
        return written

    async def _open_channel(self, deadline: float) -> Any:
        if self._channel is None or self._channel.is_closed:
            async with asyncio.timeout(self._seconds_left(deadline)):
                channel = await self._link.open_channel(confirms=True)
            if self._channel is None or self._channel.connection is not channel.connection:
                self._forget_proofs()
            channel._on_return_frame = partial(self._on_return_frame, channel)
            self._channel = channel
        return self._channel

    def _replace(self, channel: Any) -> None:
        """Give up a channel that the server does not answer on; perhaps the connection is dead."""
        if self._channel is channel:
            self._channel = None
        self._link.start(self._close(channel))

    async def _close(self, channel: Any) -> None:
        if channel is not None:
            # Each of its messages gets its result by its deadline.
            confirms = [each for each in channel.confirmations.values() if not each.done()]
            if confirms:
                await asyncio.wait(confirms)
        await self._link.check()
        if channel is not None:
            with suppress(TimeoutError, *RABBIT_ERRORS):
                async with asyncio.timeout(REPLY_SECONDS):
                    await channel.close()

    def _encode(self, message: RabbitMessage, channel: Any) -> list[bytes]:
        """Return the frames of a message.

        Raises:
            DriverError: The message exceeds a limit, or has a value that AMQP does not know.
        """
        body = message.body
        if self._max_body_bytes is not None and len(body) > self._max_body_bytes:
            if asyncio.get_running_loop().time() < self._size_limit_until:
                raise DriverError(
                    f"RabbitMQ: the message has {len(body)} bytes, and the server takes at most "
                    f"{self._max_body_bytes}"
                )
            self._max_body_bytes = None
        # A server without a limit says 0.
        limit: int = channel.max_content_size
        max_frame_bytes = limit if limit > 0 else UNLIMITED_FRAME_BYTES
        try:
            publish = Basic.Publish(
                exchange=message.exchange,
                routing_key=message.routing_key,
                mandatory=True,
            )
            header = ContentHeader(body_size=len(body), properties=message.properties)
            frames = [marshal(publish, channel.number), marshal(header, channel.number)]
        except Exception as error:
            raise DriverError(f"RabbitMQ: AMQP cannot carry the message: {error}") from error
        if len(frames[1]) > max_frame_bytes:
            raise DriverError(
                f"RabbitMQ: the headers of the message have {len(frames[1])} bytes, and a frame "
                f"of this server has at most {max_frame_bytes}"
            )
        for start in range(0, len(body), max_frame_bytes):
            part = ContentBody(body[start : start + max_frame_bytes])
            frames.append(marshal(part, channel.number))
        return frames

    def _register(self, message: RabbitMessage, channel: Any) -> asyncio.Future[Any]:
        confirm: asyncio.Future[Any] = channel.create_future()
        confirm.add_done_callback(partial(self._on_confirm, message))
        self._messages[confirm] = message
        self._on_the_way.setdefault(_return_key(message), []).append(confirm)
        channel.delivery_tag += 1
        channel.confirmations[channel.delivery_tag] = confirm
        return confirm

    async def _wait_for(self, confirms: Sequence[asyncio.Future[Any]], deadline: float) -> None:
        """Wait until the messages of these confirms have their results."""
        waiting = {confirm for confirm in confirms if not confirm.done()}
        while waiting:
            _, waiting = await asyncio.wait(waiting, timeout=max(0.0, self._seconds_left(deadline)))
            if not (self._patient and self._link.blocked_reason is not None):
                break
        for confirm in waiting:
            confirm.cancel()
        channel = self._channel
        if waiting and channel is not None and self._link.blocked_reason is None:
            self._replace(channel)
        # The callbacks of done futures run in the next round of the loop.
        await asyncio.sleep(0)

    # -- the server's answers

    async def _on_return_frame(self, channel: Any, frame: Any) -> None:
        header = await channel._get_frame()
        await channel._read_content(frame, header)
        key = frame.exchange, frame.routing_key, header.properties.message_id
        # The server returns messages in the order of their publishes.
        for confirm in self._on_the_way.get(key, ()):
            if confirm not in self._returned:
                self._returned.add(confirm)
                break

    def _on_confirm(self, message: RabbitMessage, confirm: asyncio.Future[Any]) -> None:
        failure = self._failure(message, confirm)
        del self._messages[confirm]
        self._returned.discard(confirm)
        key = _return_key(message)
        same = self._on_the_way.pop(key)
        if len(same) > 1:
            same.remove(confirm)
            self._on_the_way[key] = same
        if message is self._alone:
            self._alone = None
            if failure is None or (failure.is_unrouted and not failure.is_exchange_missing):
                # The server has returned a message only after it had accepted it.
                self._prove(message)
        if failure is not None and failure.is_unsent:
            self._unsent.add(message)
        else:
            message.on_result(failure)

    def _prove(self, message: RabbitMessage) -> None:
        """Note that the server accepts messages like this one."""
        if len(self._proven_keys) >= MAX_PROVEN_KEYS:
            self._proven_keys.clear()
        self._proven_keys.add((message.exchange, message.routing_key))
        self._proven_bytes = max(self._proven_bytes, len(message.body))

    def _failure(
        self, message: RabbitMessage, confirm: asyncio.Future[Any]
    ) -> PublishFailure | None:
        if confirm.cancelled():
            return PublishFailure(self._unanswered())
        error = confirm.exception()
        if error is None:
            if confirm not in self._returned:
                return None
            where = f"with the routing key {message.routing_key!r}"
            return PublishFailure(
                DriverError(f"RabbitMQ: no queue takes the message {where}"), is_unrouted=True
            )
        if isinstance(error, DeliveryError):
            return PublishFailure(DriverError("RabbitMQ: the server has rejected the message"))
        if isinstance(error, ChannelClosed) and error.args != OWN_CLOSE:
            if confirm not in self._closed:
                self._closed.update(self._judge(error))
            if confirm in self._closed:
                return self._closed.pop(confirm)
        return PublishFailure(may_have_arrived(connection_lost("RabbitMQ")))

    def _judge(self, error: ChannelClosed) -> Iterator[tuple[asyncio.Future[Any], PublishFailure]]:
        """Yield the failures of all messages of a channel that the server has closed."""
        confirms = [
            confirm
            for confirm in self._messages
            if confirm.done() and not confirm.cancelled() and confirm.exception() is error
        ]
        messages = [self._messages[confirm] for confirm in confirms]
        reason, text = to_driver_error(error), str(error.args[-1])
        refused = find_refused(text, messages)
        is_missing = isinstance(error, ChannelNotFoundEntity)
        self._note_refusal(text, [messages[place] for place in refused])
        for place, confirm in enumerate(confirms):
            if place in refused:
                yield confirm, PublishFailure(reason, is_missing, is_missing)
            elif refused and place > refused[0]:
                yield confirm, PublishFailure(self._not_sent(), is_unsent=True)
            else:
                one = "another event" if refused else f"one of {len(messages)} events: {text}"
                cause = f"RabbitMQ: the server has closed the channel because of {one}"
                yield confirm, PublishFailure(may_have_arrived(DriverConnectionError(cause)))

    def _note_refusal(self, reason: str, messages: Sequence[RabbitMessage]) -> None:
        limit = size_limit(reason)
        if limit is not None:
            self._max_body_bytes = limit
            self._proven_bytes = min(self._proven_bytes, limit)
            self._size_limit_until = asyncio.get_running_loop().time() + SIZE_LIMIT_SECONDS
        for message in messages:
            self._proven_keys.discard((message.exchange, message.routing_key))

    # -- errors

    def _unanswered(self) -> DriverError:
        """Return the error of a message that was written and has no answer."""
        if self._link.blocked_reason is not None:
            return DriverError(f"{self._link.blocked_error()}; the event may still arrive")
        return may_have_arrived(no_answer("RabbitMQ", self._seconds()))

    def _not_sent(self) -> DriverError:
        """Return the error of a message that waited for its turn in vain."""
        if self._link.blocked_reason is not None:
            return self._link.blocked_error()
        text = f"RabbitMQ: earlier events have had no answer within {self._seconds():g} s"
        return DriverConnectionError(f"{text}, so this one was not sent")

    def _seconds(self) -> float:
        if self._patient:
            return REPLY_SECONDS
        return round(self._link.deadline() - asyncio.get_running_loop().time(), 1)


def _return_key(message: RabbitMessage) -> tuple[str, str, str | None]:
    return message.exchange, message.routing_key, message.properties.message_id
