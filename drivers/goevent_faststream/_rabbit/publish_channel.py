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

The server closes the channel when it refuses a message: one that is too large, or whose routing key
or exchange the user may not write to. The other messages of the channel fail with it. A message
that may be refused is therefore written alone: one with a new routing key, or larger than each
message before it that the server has accepted. Only this message gets the error.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from aio_pika.exceptions import ChannelNotFoundEntity, DeliveryError
from aiormq.abc import ChannelFrame
from pamqp.body import ContentBody
from pamqp.commands import Basic
from pamqp.frame import marshal
from pamqp.header import ContentHeader

from goevent import DriverError

from .._adapter.connectivity import REPLY_SECONDS
from .._adapter.errors import connection_lost, no_answer
from .errors import RABBIT_ERRORS, to_driver_error
from .link import RabbitLink

MIN_PROVEN_BYTES = 4096  # every server accepts bodies of this size
MAX_PROVEN_KEYS = 10_000
UNLIMITED_FRAME_BYTES = 128 * 1024
MAX_HEADER_NAME_BYTES = 128  # the client would cut longer ones off
_SIZE_LIMIT = re.compile(r"than configured max size (\d+)")


@dataclass(frozen=True, slots=True)
class PublishFailure:
    """The reason why a message was not published.

    Attributes:
        is_unrouted: No queue takes the message, or its exchange is missing.
        is_exchange_missing: Its exchange is missing.
    """

    error: DriverError
    is_unrouted: bool = False
    is_exchange_missing: bool = False


@dataclass(frozen=True, slots=True)
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
        patient: Wait for as long as the server blocks the connection.
    """

    def __init__(self, link: RabbitLink, *, patient: bool) -> None:
        self._link = link
        self._patient = patient
        if not patient:
            link.on_blocked_long.append(self._give_up)
        self.reset()

    def reset(self) -> None:
        """Start anew on another event loop."""
        # Held while messages are written, so that batches keep their order.
        self._order = asyncio.Lock()
        self._channel: Any = None
        # The messages that are on their way, and those of them that were returned.
        self._on_the_way: dict[tuple[str, str, str | None], list[asyncio.Future[Any]]] = {}
        self._returned: set[asyncio.Future[Any]] = set()
        self._alone: RabbitMessage | None = None
        self._proven_keys: set[tuple[str, str]] = set()
        self._proven_bytes = MIN_PROVEN_BYTES
        self._max_body_bytes: int | None = None

    async def publish(self, messages: Sequence[RabbitMessage]) -> None:
        """Publish messages in order, and return when each one has its result."""
        sent: list[asyncio.Future[Any]] = []
        until = asyncio.get_running_loop().time() + REPLY_SECONDS
        deadline = self._link.deadline()
        async with self._order:
            if not self._patient and asyncio.get_running_loop().time() > until:
                # Earlier messages had no answer, so these would have none, either.
                for message in messages:
                    message.on_result(PublishFailure(self._unanswered()))
                return
            for run, is_alone in self._runs(messages):
                if not is_alone:
                    sent += await self._write(run, deadline)
                    continue
                await self._wait_for(self._unconfirmed())
                (self._alone,) = run
                await self._wait_for(await self._write(run, deadline))
        await self._wait_for(sent)

    def _runs(
        self, messages: Sequence[RabbitMessage]
    ) -> Iterator[tuple[Sequence[RabbitMessage], bool]]:
        """Yield the messages in order, each one that may be refused alone."""
        run: list[RabbitMessage] = []
        for message in messages:
            key = message.exchange, message.routing_key
            if key in self._proven_keys and len(message.body) <= self._proven_bytes:
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
        try:
            await self._link.wait_until_writable(deadline, patient=self._patient)
            channel = await self._open_channel()
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
                await channel.write_queue.put(ChannelFrame(b"".join(payloads), should_close=False))
        except (TimeoutError, DriverError, *RABBIT_ERRORS) as error:
            # The channel was closed after `wait_until_writable`. Its registered confirms fail.
            if isinstance(error, DriverError):
                failure = PublishFailure(error)
            elif isinstance(error, TimeoutError):
                failure = PublishFailure(self._unanswered())
            else:
                failure = PublishFailure(connection_lost("RabbitMQ"))
            for message in rest:
                message.on_result(failure)
        return written

    async def _open_channel(self) -> Any:
        if self._channel is None or self._channel.is_closed:
            async with asyncio.timeout(REPLY_SECONDS):
                channel = await self._link.open_channel(confirms=True)
            channel._on_return_frame = partial(self._on_return_frame, channel)
            self._channel = channel
        return self._channel

    def _encode(self, message: RabbitMessage, channel: Any) -> list[bytes]:
        """Return the frames of a message.

        Raises:
            DriverError: The message exceeds a limit, or has a value that AMQP does not know.
        """
        body = message.body
        if self._max_body_bytes is not None and len(body) > self._max_body_bytes:
            raise DriverError(
                f"RabbitMQ: the message has {len(body)} bytes, and the server takes at most "
                f"{self._max_body_bytes}"
            )
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
        self._on_the_way.setdefault(_return_key(message), []).append(confirm)
        channel.delivery_tag += 1
        channel.confirmations[channel.delivery_tag] = confirm
        return confirm

    async def _wait_for(self, confirms: Sequence[asyncio.Future[Any]]) -> None:
        """Wait until the messages of these confirms have their results."""
        waiting = {confirm for confirm in confirms if not confirm.done()}
        while waiting:
            _, waiting = await asyncio.wait(waiting, timeout=REPLY_SECONDS)
            if not (self._patient and self._link.blocked_reason is not None):
                break
        for confirm in waiting:
            confirm.cancel()
        # The callbacks of done futures run in the next round of the loop.
        await asyncio.sleep(0)

    def _give_up(self) -> None:
        for confirm in self._unconfirmed():
            confirm.cancel()

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
        if isinstance(error, ChannelNotFoundEntity):
            return PublishFailure(
                to_driver_error(error), is_unrouted=True, is_exchange_missing=True
            )
        if isinstance(error, Exception) and not isinstance(error, OSError) and str(error):
            # The server closed the channel, and the exception tells its reason.
            limit = _SIZE_LIMIT.search(str(error))
            if limit is not None:
                self._max_body_bytes = int(limit[1])
            return PublishFailure(to_driver_error(error))
        return PublishFailure(connection_lost("RabbitMQ"))

    def _unanswered(self) -> DriverError:
        if self._link.blocked_reason is not None:
            return self._link.blocked_error()
        return no_answer("RabbitMQ", REPLY_SECONDS)


def _return_key(message: RabbitMessage) -> tuple[str, str, str | None]:
    return message.exchange, message.routing_key, message.properties.message_id
