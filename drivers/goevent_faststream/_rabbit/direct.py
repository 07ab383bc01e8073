"""The direct messages of a bus on RabbitMQ, with a group or without.

They travel over an exchange of their own, beside that of the events. Each bus that has an address
has one exclusive queue there, bound to its addresses. The server deletes the queue with the
connection, and the exchange with its last binding. The queue is consumed without acknowledgements
on a channel of its own, so that no event holds them back.

A bus publishes them on a channel of its own, too. They are mandatory: the server returns one that
no queue takes, which tells that no bus has the address. So does a missing exchange.

The queue is declared and bound again on each new connection and with each repair of the adapter.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

from aiormq.exceptions import ChannelNotFoundEntity
from pamqp.commands import Basic

from goevent import DriverError
from goevent.drivers import TakeDirect

from .._adapter.contract import OutgoingDirect, failed_publish
from .connection import RabbitConnection
from .errors import RABBIT_ERRORS, to_driver_error
from .names import direct_exchange, direct_key
from .publish_channel import PublishChannel, PublishFailure, RabbitMessage
from .topology import ServerObject, ensure_object

# Another bus may remove the last binding, and so the exchange, before this one has bound its queue.
BIND_ATTEMPTS = 5
SEND_ON_CLOSE_SECONDS = 0.3


class RabbitDirectMessages:
    """The direct messages of one bus.

    Args:
        events_exchange: The name of the exchange for events.
        prefix: The beginning of routing keys.
        repair: Repairs everything of the adapter, these queues too.
    """

    def __init__(
        self,
        connection: RabbitConnection,
        events_exchange: str,
        prefix: str,
        repair: Callable[[], Coroutine[Any, Any, None]],
    ) -> None:
        self._connection = connection
        self._exchange = ServerObject(
            "exchange",
            direct_exchange(events_exchange),
            {"exchange_type": "direct", "durable": False, "auto_delete": True},
        )
        self._prefix = prefix
        self._repair_all = repair
        self._publishing = PublishChannel(connection.publishing, patient=False)
        self.reset()

    def reset(self) -> None:
        """Start without addresses on another event loop."""
        # A cancelled opening is undone before the next request begins.
        self._lock = asyncio.Lock()
        self._publishing.reset()
        self._sending: set[asyncio.Task[None]] = set()
        self._take: TakeDirect | None = None
        self._addresses: dict[str, str] = {}  # by their routing keys
        self._channel: Any = None
        self._queue = ""

    async def close(self) -> None:
        """Wait a little for the messages that are on their way."""
        if self._sending and self._connection.publishing.is_up:
            await asyncio.wait({*self._sending}, timeout=SEND_ON_CLOSE_SECONDS)

    # -- addresses

    async def open_addresses(self, addresses: Sequence[str], take: TakeDirect) -> None:
        """Bind the queue of this bus to addresses."""
        async with self._lock:
            await self._connection.wait_until_up()
            self._take = take
            keys = {direct_key(self._prefix, address): address for address in addresses}
            added = {key: keys[key] for key in keys if key not in self._addresses}
            self._addresses.update(added)
            # A cancelled request would close the channel of the client.
            binding = self._connection.start(self._bind([*added]))
            is_open = False
            try:
                await asyncio.wait({binding})
                if binding.cancelled():
                    raise DriverError("RabbitMQ: the bus has ended")
                binding.result()
                is_open = True
            except RABBIT_ERRORS as error:
                raise to_driver_error(error) from error
            finally:
                if not is_open:
                    await asyncio.wait({binding})
                    await self._connection.run_shielded(self._unbind([*added]))

    async def close_addresses(self, addresses: Sequence[str]) -> None:
        """Unbind the queue from addresses."""
        async with self._lock:
            keys = [direct_key(self._prefix, address) for address in addresses]
            await self._connection.run_shielded(self._unbind(keys))

    async def repair(self) -> None:
        """Consume and bind the queue again, where something is missing.

        Raises:
            ChannelClosed: The server refuses it.
        """
        async with self._lock:
            if self._addresses:
                await self._bind([*self._addresses])

    async def _bind(self, keys: Sequence[str]) -> None:
        request = self._connection.request
        if self._channel is None or self._channel.is_closed:
            await self._consume()
            # The queue is new.
            keys = [*self._addresses]

        async def bind(channel: Any) -> None:
            for key in keys:
                await channel.queue_bind(self._queue, self._exchange.name, key)

        for attempt in range(BIND_ATTEMPTS):
            try:
                await ensure_object(request, self._exchange)
                await request(bind)
            except ChannelNotFoundEntity:
                if attempt + 1 == BIND_ATTEMPTS:
                    raise
            else:
                return

    async def _consume(self) -> None:
        """Declare a queue and consume it, on a new channel."""
        channel, self._channel = await self._connection.open_channel(), None
        reply = await channel.queue_declare("", exclusive=True, auto_delete=True)
        queue = str(reply.queue)
        channel.on_consumer_cancel_callbacks.add(self._on_consumer_cancelled)
        await channel.basic_consume(queue, self._on_message, no_ack=True)
        self._channel, self._queue = channel, queue

    async def _unbind(self, keys: Sequence[str]) -> None:
        known = [key for key in keys if self._addresses.pop(key, None) is not None]
        if not known or not self._queue or not self._connection.is_up:
            return

        async def unbind(channel: Any) -> None:
            for key in known:
                await channel.queue_unbind(self._queue, self._exchange.name, key)

        try:
            await self._connection.request(unbind)
        except ChannelNotFoundEntity:
            # The bindings are gone with the exchange or the queue.
            pass
        except RABBIT_ERRORS as error:
            raise to_driver_error(error) from error

    async def _on_consumer_cancelled(self, _: Any) -> None:
        """Declare the queue again: it was deleted."""
        self._channel = None
        self._connection.start(self._repair_all())

    async def _on_message(self, message: Any) -> None:
        address = self._addresses.get(message.delivery.routing_key)
        if self._take is not None and address is not None:
            self._take(address, bytes(message.body))

    # -- sending

    def send(self, burst: Sequence[OutgoingDirect]) -> None:
        """Publish messages in a task of their own."""
        task = self._connection.start(self._publish(burst))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _publish(self, burst: Sequence[OutgoingDirect]) -> None:
        try:
            await self._publishing.publish([self._message(each) for each in burst])
        except Exception as error:  # noqa: BLE001 - the messages fail with it, and not the bus
            for message in burst:
                message.done(failed_publish(error))

    def _message(self, message: OutgoingDirect) -> RabbitMessage:
        key = direct_key(self._prefix, message.address)
        on_result: Callable[[PublishFailure | None], object] = partial(_on_result, message)
        return RabbitMessage(self._exchange.name, key, message.data, Basic.Properties(), on_result)


def _on_result(message: OutgoingDirect, failure: PublishFailure | None) -> None:
    if failure is None:
        message.done(None)
    elif failure.is_unrouted:
        message.done(0)
    else:
        message.done(failure.error)
