"""The publisher of RabbitMQ: a burst goes out in one piece, and the confirms come as they come.

FastStream's publish is a lock, a task and several objects more for each message. That is what runs
when the broker has middlewares.
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

from goevent import DriverConnectionError, DriverError
from goevent.drivers import Receipt

from .._adapter.contract import Outgoing, Result, publish_each
from .._adapter.properties import split_properties
from .connection import ANSWER, CLIENT, LOST, RabbitLink, to_driver_error

PERSISTENT = 2  # AMQP's delivery mode
LONGEST = 255  # bytes of a routing key


@dataclass(frozen=True, slots=True)
class Letter:
    """One message for the server.

    Attributes:
        exchange: empty for the one that brings it to the queue that the key names.
        properties: of AMQP.
        answer: gets None once the server has it, or why it has not.
    """

    exchange: str
    key: str
    body: bytes
    properties: Any
    answer: Callable[[DriverError | None], object]


async def send(link: RabbitLink, letters: Sequence[Letter]) -> None:
    """Send letters at once, in order, and return when each has its answer.

    Raises:
        DriverConnectionError: there was no connection in time; no letter has an answer.
    """
    await link.ready()
    channel = link.publishing
    frames: list[Any] = []
    confirms: list[asyncio.Future[Any]] = []
    most: int = channel.max_content_size
    try:
        async with channel.lock:
            for letter in letters:
                body = letter.body
                frames += (
                    Basic.Publish(exchange=letter.exchange, routing_key=letter.key),
                    ContentHeader(body_size=len(body), properties=letter.properties),
                    *(ContentBody(body[at : at + most]) for at in range(0, len(body), most)),
                )
            # As `basic_publish` of the channel does for one message; all that is laid in the queue
            # of the writer by one piece has consecutive numbers.
            piece = _marshall(channel.number, frames)
            for letter in letters:
                confirm = channel.create_future()
                confirm.add_done_callback(partial(_confirmed, letter))
                confirms.append(confirm)
                channel.delivery_tag += 1
                channel.confirmations[channel.delivery_tag] = confirm
            await channel.write_queue.put(piece)
    except CLIENT as error:
        raise DriverConnectionError(LOST) from error
    _, silent = await asyncio.wait(confirms, timeout=ANSWER)
    for confirm in silent:
        confirm.cancel()
    await asyncio.sleep(0)  # in which those get their answer, too


def _confirmed(letter: Letter, confirm: asyncio.Future[Any]) -> None:
    if confirm.cancelled():
        letter.answer(DriverConnectionError(f"RabbitMQ: no answer within {ANSWER:g} s"))
        return
    error = confirm.exception()
    if error is None:
        letter.answer(None)
    elif isinstance(error, DeliveryError):
        letter.answer(DriverError("RabbitMQ: the server has not taken it"))
    elif isinstance(error, Exception) and not isinstance(error, OSError) and str(error):
        letter.answer(to_driver_error(error))  # the channel was closed for a reason
    else:
        letter.answer(DriverConnectionError(LOST))


_marshall: Callable[[int, list[Any]], ChannelFrame] = cast("Any", ChannelFrame).marshall


class Publisher:
    """Publishes events to one exchange."""

    def __init__(self, broker: RabbitBroker, link: RabbitLink, exchange: str, prefix: str) -> None:
        self._broker = broker
        self._link = link
        self._exchange = exchange
        self._prefix = prefix

    async def publish(self, burst: Sequence[Outgoing]) -> None:
        """Publish a burst in order, and tell each event's end."""
        if self._broker.middlewares:
            await publish_each(burst, self._by_broker)
            return
        now = datetime.now(UTC)
        letters = [self._letter(outgoing, now) for outgoing in burst if self._fits(outgoing)]
        if not letters:
            return
        try:
            await send(self._link, letters)
        except DriverError as error:
            for letter in letters:
                letter.answer(error)

    def _letter(self, outgoing: Outgoing, now: datetime) -> Letter:
        content_type, correlation_id, headers = split_properties(outgoing)
        return Letter(
            self._exchange,
            self._prefix + outgoing.name,
            outgoing.body,
            Basic.Properties(
                content_type=content_type,
                delivery_mode=PERSISTENT,
                correlation_id=correlation_id,
                message_id=outgoing.id,
                timestamp=now,
                headers={**headers} or None,
            ),
            partial(_answer, outgoing),
        )

    def _fits(self, outgoing: Outgoing) -> bool:
        if len(self._prefix) + len(outgoing.name) <= LONGEST:
            return True
        outgoing.done(DriverError(f"RabbitMQ: a routing key has at most {LONGEST} bytes"))
        return False

    async def _by_broker(self, outgoing: Outgoing) -> Result:
        if len(self._prefix) + len(outgoing.name) > LONGEST:
            return DriverError(f"RabbitMQ: a routing key has at most {LONGEST} bytes")
        content_type, correlation_id, headers = split_properties(outgoing)
        await self._link.ready()
        try:
            async with asyncio.timeout(ANSWER):
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


def _answer(outgoing: Outgoing, error: DriverError | None) -> None:
    outgoing.done(Receipt(id=outgoing.id) if error is None else error)
