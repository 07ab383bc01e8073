"""The publisher of RabbitMQ: it writes a batch of messages at once and awaits all its confirms.

`RabbitPublisher` publishes events. The settler publishes copies of messages and dead letters with
the same `publish_messages`.

Theory of operation: FastStream's publish takes a lock and makes a task and several objects for each
message. This module marshals the frames of a whole batch instead and puts them into the client's
write queue as one piece. While it holds the channel's lock, it registers one confirm per message
under the next delivery tags, as `basic_publish` of the client does for one message. A broker with
middlewares publishes through FastStream, since its middlewares run there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, cast

from aio_pika.exceptions import DeliveryError
from aiormq.abc import ChannelFrame
from faststream.rabbit import RabbitBroker, RabbitExchange
from pamqp.body import ContentBody
from pamqp.commands import Basic
from pamqp.header import ContentHeader

from goevent import DriverError
from goevent.drivers import Receipt

from .._adapter.connectivity import REPLY_SECONDS
from .._adapter.contract import Outgoing, Result, publish_each
from .._adapter.errors import connection_lost, no_answer
from .._adapter.properties import split_properties
from .connection import (
    RABBIT_ERRORS,
    RabbitConnection,
    to_driver_error,
)
from .names import MAX_SHORT_STRING_BYTES

PERSISTENT_DELIVERY_MODE = 2


@dataclass(frozen=True, slots=True)
class RabbitMessage:
    """One message to publish.

    Attributes:
        exchange: The exchange; the empty one routes to the queue that the routing key names.
        properties: Its AMQP properties.
        on_result: Called with None once the server has confirmed the message, or with an error.
    """

    exchange: str
    routing_key: str
    body: bytes
    properties: Any
    on_result: Callable[[DriverError | None], object]


async def publish_messages(connection: RabbitConnection, messages: Sequence[RabbitMessage]) -> None:
    """Publish messages in order, and return when each one has its result.

    Raises:
        DriverConnectionError: There was no connection in time; no message has a result.
    """
    await connection.wait_until_up()
    channel = connection.publish_channel
    frames: list[Any] = []
    confirms: list[asyncio.Future[Any]] = []
    max_frame_bytes: int = channel.max_content_size
    try:
        async with channel.lock:
            for message in messages:
                body = message.body
                frames += (
                    Basic.Publish(exchange=message.exchange, routing_key=message.routing_key),
                    ContentHeader(body_size=len(body), properties=message.properties),
                    *(
                        ContentBody(body[start : start + max_frame_bytes])
                        for start in range(0, len(body), max_frame_bytes)
                    ),
                )
            # All messages of one piece get consecutive delivery tags: the writer takes a piece as
            # a whole, and the lock keeps other publishers away from the channel's counter.
            piece = _marshall(channel.number, frames)
            for message in messages:
                confirm = channel.create_future()
                confirm.add_done_callback(partial(_on_confirm, message))
                confirms.append(confirm)
                channel.delivery_tag += 1
                channel.confirmations[channel.delivery_tag] = confirm
            await channel.write_queue.put(piece)
    except RABBIT_ERRORS as error:
        # The channel was closed after `wait_until_up`.
        raise connection_lost("RabbitMQ") from error
    _, unconfirmed = await asyncio.wait(confirms, timeout=REPLY_SECONDS)
    for confirm in unconfirmed:
        confirm.cancel()
    # The callbacks of cancelled futures run in the next round of the loop.
    await asyncio.sleep(0)


def _on_confirm(message: RabbitMessage, confirm: asyncio.Future[Any]) -> None:
    if confirm.cancelled():
        message.on_result(no_answer("RabbitMQ", REPLY_SECONDS))
        return
    failure = confirm.exception()
    if failure is None:
        message.on_result(None)
    elif isinstance(failure, DeliveryError):
        message.on_result(DriverError("RabbitMQ: the server has rejected the message"))
    elif isinstance(failure, Exception) and not isinstance(failure, OSError) and str(failure):
        # The server closed the channel, and the exception tells its reason.
        message.on_result(to_driver_error(failure))
    else:
        message.on_result(connection_lost("RabbitMQ"))


_marshall: Callable[[int, list[Any]], ChannelFrame] = cast("Any", ChannelFrame).marshall


class RabbitPublisher:
    """Publishes events to one exchange."""

    def __init__(
        self, broker: RabbitBroker, connection: RabbitConnection, exchange: str, prefix: str
    ) -> None:
        self._broker = broker
        self._connection = connection
        self._exchange = exchange
        self._prefix = prefix

    async def publish(self, burst: Sequence[Outgoing]) -> None:
        """Publish events in order, and report the result of each."""
        if self._broker.middlewares:
            await publish_each(burst, self._publish_with_middlewares)
            return
        now = datetime.now(UTC)
        messages: list[RabbitMessage] = []
        for outgoing in burst:
            if (error := self._routing_key_error(outgoing)) is not None:
                outgoing.done(error)
            else:
                messages.append(self._message(outgoing, now))
        if not messages:
            return
        try:
            await publish_messages(self._connection, messages)
        except DriverError as error:
            for message in messages:
                message.on_result(error)

    def _message(self, outgoing: Outgoing, now: datetime) -> RabbitMessage:
        content_type, correlation_id, headers = split_properties(outgoing)
        return RabbitMessage(
            self._exchange,
            self._prefix + outgoing.name,
            outgoing.body,
            Basic.Properties(
                content_type=content_type,
                delivery_mode=PERSISTENT_DELIVERY_MODE,
                correlation_id=correlation_id,
                message_id=outgoing.id,
                timestamp=now,
                headers={**headers} or None,
            ),
            partial(_report_result, outgoing),
        )

    def _routing_key_error(self, outgoing: Outgoing) -> DriverError | None:
        if len(self._prefix) + len(outgoing.name) <= MAX_SHORT_STRING_BYTES:
            return None
        return DriverError(f"RabbitMQ: a routing key has at most {MAX_SHORT_STRING_BYTES} bytes")

    async def _publish_with_middlewares(self, outgoing: Outgoing) -> Result:
        if (routing_key_error := self._routing_key_error(outgoing)) is not None:
            return routing_key_error
        content_type, correlation_id, headers = split_properties(outgoing)
        await self._connection.wait_until_up()
        try:
            async with asyncio.timeout(REPLY_SECONDS):
                await self._broker.publish(
                    outgoing.body,
                    exchange=RabbitExchange(self._exchange, declare=False),
                    routing_key=self._prefix + outgoing.name,
                    mandatory=False,
                    persist=True,
                    headers={**headers},
                    correlation_id=correlation_id,
                    message_id=outgoing.id,
                    content_type=content_type,
                )
        except Exception as error:  # noqa: BLE001 - the client's, or a middleware's own
            return to_driver_error(error)
        return Receipt(id=outgoing.id)


def _report_result(outgoing: Outgoing, error: DriverError | None) -> None:
    outgoing.done(Receipt(id=outgoing.id) if error is None else error)
