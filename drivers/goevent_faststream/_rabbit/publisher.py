"""The publisher of RabbitMQ: it makes messages of events and publishes them to one exchange.

The middlewares of the broker run around each publish.

Theory of operation: The server returns an event that no queue takes. It is accepted, because nobody
may listen to it yet. If this bus itself subscribes to the name, however, a queue or a binding must
have been deleted: the publisher has the adapter declare everything again, and publishes the event
again. If a queue has taken an earlier event of the name, a queue or a binding of another bus may
have been deleted: the publisher holds back the events of this name until the other bus has made it
again. If still no queue takes the event, it has no receivers. This is an error for a bus with a
group, because durable queues stay when their bus closes.

If the exchange for events was deleted, the bindings of all buses went with it. Each bus renews its
own at its next check. A publisher that notices the loss waits for that time before it publishes
anything, because an event would reach only those buses that have bound again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

from faststream.__about__ import SERVICE_NAME
from faststream.rabbit import RabbitBroker, RabbitExchange
from faststream.rabbit.parser import AioPikaParser
from faststream.rabbit.response import RabbitPublishCommand
from faststream.response.publish_type import PublishType
from pamqp.commands import Basic

from goevent import DriverError
from goevent.drivers import Receipt

from .._adapter.contract import Outgoing, Result
from .._adapter.properties import split_properties
from .connection import RabbitConnection
from .errors import to_driver_error
from .names import key_error
from .publish_channel import MAX_HEADER_NAME_BYTES, PublishChannel, PublishFailure, RabbitMessage
from .repairs import CHECK_SECONDS

PERSISTENT_DELIVERY_MODE = 2
REBINDING_SECONDS = 3 * CHECK_SECONDS  # until each bus has noticed a loss and has bound again
MAX_REPUBLISH_SECONDS = 2 * REBINDING_SECONDS
MAX_REMEMBERED_NAMES = 10_000

Unrouted = dict[Outgoing, PublishFailure | None]
"""Events that no queue has taken, in order, each with its failure."""


class RabbitPublisher:
    """Publishes events to one exchange.

    Args:
        is_wanted: Tells whether this bus subscribes to an event name.
        is_durable: The bus has a group. An event that no queue takes any more is an error.
        ensure: Declares everything that the bus needs again.
    """

    def __init__(
        self,
        broker: RabbitBroker,
        connection: RabbitConnection,
        exchange: str,
        prefix: str,
        *,
        is_wanted: Callable[[str], bool],
        is_durable: bool,
        ensure: Callable[[], Awaitable[object]],
    ) -> None:
        self._broker = broker
        self._exchange = exchange
        self._prefix = prefix
        # The default of FastStream names FastStream, and not the application.
        app_id = broker.config.app_id
        self._app_id = None if app_id == SERVICE_NAME else app_id
        self._is_wanted = is_wanted
        self._is_durable = is_durable
        self._ensure = ensure
        self._channel = PublishChannel(connection.publishing, patient=False)
        self._wanted: dict[str, bool] = {}
        # The names that a queue has taken; False once no queue takes them any more.
        self._routed: dict[str, bool] = {}
        # The names that wait until another bus has made its queue and binding again.
        self._held: dict[str, asyncio.Event] = {}
        self.reset()

    def reset(self) -> None:
        """Start anew on another event loop."""
        self._channel.reset()
        self._wanted.clear()
        self._routed.clear()
        self._held.clear()
        # Clear while other buses bind again. Waiting bursts keep their order.
        self._bound = asyncio.Event()
        self._bound.set()
        self._timer: asyncio.TimerHandle | None = None

    def subscriptions_changed(self) -> None:
        """Ask anew which names this bus subscribes to."""
        self._wanted.clear()

    def exchange_was_lost(self) -> None:
        """Note that the exchange for events was deleted, and the bindings of all buses with it."""
        if self._timer is not None:
            self._timer.cancel()
        self._bound.clear()
        self._timer = asyncio.get_running_loop().call_later(REBINDING_SECONDS, self._bound.set)

    async def publish(self, burst: Sequence[Outgoing]) -> None:
        """Publish events in order, and report the result of each."""
        left: Unrouted = {}
        for outgoing in burst:
            if (text := self._limit_error(outgoing)) is not None:
                outgoing.done(DriverError(text))
            else:
                left[outgoing] = None
        loop = asyncio.get_running_loop()
        latest = loop.time() + MAX_REPUBLISH_SECONDS
        is_sending = is_repaired = False
        try:
            while left:
                await self._bound.wait()
                if self._held:
                    await self._wait_for_names({each.name for each in left})
                is_sending = True
                left = await self._publish_once(left)
                is_sending = False
                is_missing = any(each and each.is_exchange_missing for each in left.values())
                if not left or (is_repaired and not (is_missing and loop.time() < latest)):
                    break
                # A lost exchange holds back all names already.
                self._hold(
                    {
                        each.name
                        for each, failure in left.items()
                        if not (self._wants(each.name) or (failure and failure.is_exchange_missing))
                    }
                )
                await self._ensure()
                is_repaired = True
        except DriverError as error:
            for outgoing in left:
                outgoing.done(error)
        except asyncio.CancelledError:
            # Each event is answered, even at the end of the bus.
            for outgoing in () if is_sending else left:
                outgoing.done(DriverError("the bus has ended before the broker replied"))
            raise
        else:
            for outgoing, failure in left.items():
                outgoing.done(self._last_result(outgoing, failure))

    def _last_result(self, outgoing: Outgoing, failure: PublishFailure | None) -> Result:
        """Return the result of an event that no queue has taken in the end."""
        if failure is not None and failure.is_exchange_missing:
            return failure.error
        if self._wants(outgoing.name):
            text = f"no queue takes {outgoing.name!r}, to which this bus subscribes"
            return DriverError(f"RabbitMQ: {text}")
        return self._no_receivers(outgoing)

    def _limit_error(self, outgoing: Outgoing) -> str | None:
        """Return the text of the error for an event that AMQP cannot carry, or None."""
        for name in outgoing.headers:
            if len(name) > MAX_HEADER_NAME_BYTES // 4:
                size = len(name.encode(errors="replace"))
                if size > MAX_HEADER_NAME_BYTES:
                    return (
                        f"RabbitMQ: the name of the header {name!r} has {size} bytes, and at most "
                        f"{MAX_HEADER_NAME_BYTES} are allowed"
                    )
        return key_error(self._prefix + outgoing.name)

    async def _publish_once(self, burst: Iterable[Outgoing]) -> Unrouted:
        """Publish events; return those that no queue has taken and that must be published again."""
        unrouted: Unrouted = {}
        if self._broker.middlewares:
            async with asyncio.TaskGroup() as tasks:
                for outgoing in burst:
                    tasks.create_task(self._publish_with_middlewares(outgoing, unrouted))
        else:
            now = datetime.now(UTC)
            await self._channel.publish([self._message(each, now, unrouted) for each in burst])
        return unrouted

    def _wants(self, name: str) -> bool:
        is_wanted = self._wanted.get(name)
        if is_wanted is None:
            if len(self._wanted) >= MAX_REMEMBERED_NAMES:
                self._wanted.clear()
            is_wanted = self._wanted[name] = self._is_wanted(name)
        return is_wanted

    def _message(self, outgoing: Outgoing, now: datetime, unrouted: Unrouted) -> RabbitMessage:
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
                app_id=self._app_id,
                headers={**headers} or None,
            ),
            partial(self._finish, outgoing, unrouted),
        )

    async def _publish_with_middlewares(self, outgoing: Outgoing, unrouted: Unrouted) -> None:
        """Publish an event inside the middlewares of the broker."""
        content_type, correlation_id, headers = split_properties(outgoing)
        command = RabbitPublishCommand(
            outgoing.body,
            _publish_type=PublishType.PUBLISH,
            exchange=RabbitExchange(self._exchange, declare=False),
            routing_key=self._prefix + outgoing.name,
            mandatory=True,
            persist=True,
            headers={**headers},
            correlation_id=correlation_id,
            message_id=outgoing.id,
            content_type=content_type,
            app_id=self._app_id,
        )
        innermost = _InnermostPublish(self._broker, self._channel)
        broker: Any = self._broker
        try:
            await broker._basic_publish(command, producer=innermost)
        except asyncio.CancelledError:
            # Each event is answered, even at the end of the bus.
            outgoing.done(DriverError("the bus has ended before the broker replied"))
            raise
        except Exception as error:  # noqa: BLE001 - a middleware's own, or that of the publish
            failure = innermost.failure
            if failure is None or error is not failure.error:
                outgoing.done(to_driver_error(error))
            else:
                self._finish(outgoing, unrouted, failure)
        else:
            self._finish(outgoing, unrouted, None)

    def _finish(
        self, outgoing: Outgoing, unrouted: Unrouted, failure: PublishFailure | None
    ) -> None:
        name = outgoing.name
        if failure is None:
            if not self._routed.get(name):
                self._note_routed(name)
            outgoing.done(Receipt(id=outgoing.id))
        elif not failure.is_unrouted:
            outgoing.done(failure.error)
        elif failure.is_exchange_missing:
            # If it is known already, perhaps nobody can create it, and the wait must end.
            if self._bound.is_set():
                self.exchange_was_lost()
            unrouted[outgoing] = failure
        elif self._wants(name) or self._routed.get(name):
            unrouted[outgoing] = failure
        else:
            outgoing.done(self._no_receivers(outgoing))

    def _note_routed(self, name: str) -> None:
        if len(self._routed) >= MAX_REMEMBERED_NAMES:
            self._routed.clear()
        self._routed[name] = True

    def _hold(self, names: Iterable[str]) -> None:
        """Hold back the events of names until other buses have bound again."""
        new = {name: asyncio.Event() for name in names if name not in self._held}
        self._held |= new

        def release() -> None:
            for name, gate in new.items():
                self._held.pop(name, None)
                gate.set()

        if new:
            asyncio.get_running_loop().call_later(REBINDING_SECONDS, release)

    async def _wait_for_names(self, names: Iterable[str]) -> None:
        for gate in [self._held[name] for name in names if name in self._held]:
            await gate.wait()

    def _no_receivers(self, outgoing: Outgoing) -> Result:
        """Return the result of an event that no queue takes, and that waits for none."""
        name = outgoing.name
        if name not in self._routed:
            return Receipt(id=outgoing.id, receivers=0)
        self._routed[name] = False
        if not self._is_durable:
            return Receipt(id=outgoing.id, receivers=0)
        text = f"no queue takes {name!r} any more: the queue of a group or its binding was deleted"
        return DriverError(f"RabbitMQ: {text}")


class _InnermostPublish:
    """The publish that FastStream runs inside the middlewares of the broker.

    FastStream's own one uses a channel that stays closed once the server has refused a message.

    Attributes:
        failure: The reason why the message was not published, or None.
    """

    def __init__(self, broker: RabbitBroker, channel: PublishChannel) -> None:
        self._broker = broker
        self._channel = channel
        self.failure: PublishFailure | None = None

    async def publish(self, command: RabbitPublishCommand) -> None:
        """Publish the message that the middlewares have made.

        Raises:
            DriverError: The message was not published.
        """
        broker: Any = self._broker
        producer, options = broker.config.producer, command.message_options
        message = await AioPikaParser.encode_message(
            command.body,
            reply_to=command.reply_to or None,
            headers=command.headers,
            correlation_id=command.correlation_id,
            serializer=producer.serializer,
            codec=producer.codec,
            **options,
        )
        await self._channel.publish(
            [
                RabbitMessage(
                    command.exchange.name,
                    command.destination,
                    message.body,
                    message.properties,
                    self._on_result,
                )
            ]
        )
        if self.failure is not None:
            raise self.failure.error

    def _on_result(self, failure: PublishFailure | None) -> None:
        self.failure = failure
