"""The questions of operators to RabbitMQ, for both adapters: they change nothing at the server.

`RabbitInspection` is owned by an adapter. A tail has a channel and a queue of its own, bound to the
exchange that all events go to, so no group misses an event. AMQP lists no queues: the lag is that
of the queues whose names follow from event names, which the caller gives or this bus listens to.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from aiormq.exceptions import ChannelAccessRefused, ChannelClosed, ChannelPreconditionFailed

from goevent import DriverError, UnsupportedError, compile_pattern
from goevent.drivers import Backlog, Finding, TailedEvent

from .._adapter.connectivity import DISCONNECT_SECONDS, REPLY_SECONDS
from .._adapter.contract import ShowEvent
from .._adapter.properties import merge_headers
from .connection import RabbitConnection
from .errors import RABBIT_ERRORS, REFUSALS, to_driver_error
from .link import RECONNECT_PAUSE_SECONDS
from .names import RabbitNames, binding_key
from .receiver import HIDDEN_HEADERS, header_text
from .topology import GroupTopology, ServerObject, checked_key, is_missing

PATTERNS = "**"  # the name of the patterns queue in backlogs
TAIL_PREFETCH_EVENTS = 100
# The events that the server keeps for a slow reader of a tail; then the oldest ones go.
MAX_TAIL_EVENTS = 10_000
MAX_TAIL_BYTES = 64 << 20


class RabbitInspection:
    """The questions, for one bus.

    Args:
        exchange: The exchange that all events go to.
        prefix: Precedes the event name in each routing key.
        subscribed: The names and patterns that this bus listens to now.
        topology: The exchanges and queues of the bus's own group; None without one.
        group: The bus's own group.
    """

    def __init__(
        self,
        connection: RabbitConnection,
        exchange: ServerObject,
        prefix: str,
        subscribed: Iterable[str],
        topology: GroupTopology | None = None,
        group: str | None = None,
    ) -> None:
        self._connection = connection
        self._exchange = exchange
        self._prefix = prefix
        self._subscribed = subscribed
        self._topology = topology
        self._group = group

    # -- tail

    async def tail(self, pattern: str, show: ShowEvent, started: Callable[[], None]) -> None:
        """Show the events that are published from now on, until cancelled.

        Raises:
            DriverError: The server refuses it, or does not answer.
        """
        key = checked_key(self._prefix + binding_key(pattern))
        matches = compile_pattern(pattern)
        has_started = False

        def begin() -> None:
            nonlocal has_started
            if not has_started:
                has_started = True
                started()

        while True:
            try:
                await self._connection.wait_until_up()
                await self._show_from_queue(key, matches, show, begin)
            except REFUSALS as error:
                # The queue is gone, or a right is missing: only the second lasts.
                if not has_started or isinstance(error, ChannelAccessRefused):
                    raise to_driver_error(error) from error
            except (TimeoutError, DriverError, *RABBIT_ERRORS) as error:
                if not has_started:
                    raise to_driver_error(error) from error
            await asyncio.sleep(RECONNECT_PAUSE_SECONDS)

    async def _show_from_queue(
        self,
        key: str,
        matches: Callable[[str], object],
        show: ShowEvent,
        started: Callable[[], None],
    ) -> None:
        """Show the events of one queue, until the channel is closed."""
        # None says that the server has cancelled the consumer.
        arrived: asyncio.Queue[Any] = asyncio.Queue()

        async def on_message(message: Any) -> None:
            arrived.put_nowait(message)

        async def on_cancelled(_: Any) -> None:
            arrived.put_nowait(None)

        channel = await self._connection.open_channel()
        try:
            channel.on_consumer_cancel_callbacks.add(on_cancelled)
            async with asyncio.timeout(REPLY_SECONDS):
                await channel.basic_qos(prefetch_count=TAIL_PREFETCH_EVENTS)
                reply = await channel.queue_declare(
                    "",
                    exclusive=True,
                    auto_delete=True,
                    arguments={
                        "x-max-length": MAX_TAIL_EVENTS,
                        "x-max-length-bytes": MAX_TAIL_BYTES,
                    },
                )
                await channel.queue_bind(reply.queue, self._exchange.name, key)
                await channel.basic_consume(reply.queue, on_message)
            started()
            closing = channel.closing
            while True:
                getting = asyncio.ensure_future(arrived.get())
                try:
                    await asyncio.wait({getting, closing}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    if not getting.done():
                        getting.cancel()
                if not getting.done() or getting.cancelled():
                    return
                message = getting.result()
                if message is None:
                    return
                name = message.delivery.routing_key.removeprefix(self._prefix)
                # The binding key of a pattern with `**` is wider than the pattern.
                if matches(name):
                    await show(_tailed(name, message))
                await channel.basic_ack(message.delivery.delivery_tag, wait=False)
        finally:
            with suppress(TimeoutError, *RABBIT_ERRORS):
                async with asyncio.timeout(DISCONNECT_SECONDS):
                    await channel.close()

    # -- lag

    async def lag(self, group: str, names: Sequence[str] = ()) -> Sequence[Backlog]:
        """Return the events that wait for a group under names.

        The server tells how many events are ready, and not how many are delivered and
        unacknowledged: `pending` is 0, and the ages are unknown.

        Raises:
            UnsupportedError: No names are given, and the bus listens to nothing.
            DriverError: The server does not answer.
        """
        asked = [*dict.fromkeys([*names, *self._subscribed])]
        if not asked:
            raise UnsupportedError(
                "RabbitMQ does not list the queues of a group: name the events, or ask with a "
                "bus that listens to them, such as goevent lag module:bus"
            )
        of_group = self._names_of(group)
        # The queue of patterns also exists if only another bus of the group has patterns.
        queues = {name: of_group.queue(name) for name in asked if "*" not in name}
        queues[PATTERNS] = of_group.patterns
        found: list[Backlog] = []
        for name, queue in sorted(queues.items()):
            count = await self._count(queue)
            if count is not None:
                found.append(Backlog(event_name=name, lag=count))
        return found

    async def _count(self, queue: str) -> int | None:
        """Return how many events are ready in a queue; None if there is no such queue."""
        try:
            reply = await self._connection.request(ServerObject("queue", queue).find)
        except ChannelAccessRefused as error:
            raise to_driver_error(error) from error
        except ChannelClosed:
            return None
        except (TimeoutError, *RABBIT_ERRORS) as error:
            raise to_driver_error(error) from error
        return int(reply.message_count or 0)

    def _names_of(self, group: str) -> RabbitNames:
        if self._topology is not None and group == self._group:
            return self._topology.names
        return RabbitNames(self._exchange.name, f"{self._exchange.name}:{group}")

    # -- check

    async def check(self, names: Sequence[str]) -> Sequence[Finding]:
        """Look for missing rights, blocked publishers, and queues that do not keep events.

        Raises:
            DriverError: The server does not answer.
        """
        found: list[Finding] = []
        reason = self._connection.publishing.blocked_reason
        if reason is not None:
            found.append(
                _error(f"RabbitMQ has blocked publishers: {reason}; free memory or disk there")
            )
        try:
            if await is_missing(self._connection.request, self._exchange):
                found.append(_error(f"{self._exchange} is missing, and with it all bindings"))
            else:
                found += await self._find_refusals(names)
            if self._topology is not None:
                found += await self._find_wrong_queues(self._topology, names)
        except (TimeoutError, *RABBIT_ERRORS) as error:
            raise to_driver_error(error) from error
        return found

    async def _find_refusals(self, names: Sequence[str]) -> list[Finding]:
        """Ask for bindings to be removed that do not exist: the server checks the rights first."""
        exchange, key = self._exchange.name, f"goevent-check.{uuid.uuid4().hex}"
        found: list[Finding] = []

        async def unbind_exchange(channel: Any) -> None:
            await channel.exchange_unbind(exchange, exchange, key)

        if (refusal := await self._refusal(unbind_exchange)) is not None:
            found.append(_error(f"this user may not publish or listen to events: {refusal}"))
        if self._topology is None:
            return found
        for queue in {self._topology.queue(name).name: None for name in names}:

            async def unbind_queue(channel: Any, queue: str = queue) -> None:
                await channel.queue_unbind(queue, exchange, key)

            if (refusal := await self._refusal(unbind_queue)) is not None:
                found.append(_error(f"this user may not bind the queue {queue!r}: {refusal}"))
        return found

    async def _refusal(self, request: Callable[[Any], Awaitable[None]]) -> str | None:
        """Return the server's reason if a right is missing; None if the request is allowed."""
        try:
            await self._connection.request(request)
        except ChannelAccessRefused as error:
            return str(error)
        except ChannelClosed:
            pass  # the queue does not exist yet
        return None

    async def _find_wrong_queues(
        self, topology: GroupTopology, names: Sequence[str]
    ) -> list[Finding]:
        found: list[Finding] = []
        dead_letters = next(each for each in topology.objects if each.kind == "queue")
        needed = {queue.name: queue for queue in map(topology.queue, names)}
        for queue in (dead_letters, *needed.values()):
            if await is_missing(self._connection.request, queue):
                # The queue of a name is created by the first bus that listens to it.
                if queue is dead_letters:
                    found.append(
                        _warning(f"{queue} is missing: events that are given up would be lost")
                    )
                continue
            try:
                # It exists, so this creates nothing, and the server compares the properties.
                await self._connection.request(queue.declare)
            except ChannelPreconditionFailed as error:
                found.append(
                    _warning(
                        f"{queue} has other properties than this bus declares, so it may not "
                        f"survive a restart, or count deliveries: {error}"
                    )
                )
            except ChannelClosed:
                pass  # this user may not declare it, which is fine for one that exists
        return found


def _tailed(name: str, message: Any) -> TailedEvent:
    properties = message.header.properties
    time = properties.timestamp
    if isinstance(time, datetime) and time.tzinfo is None:
        time = time.replace(tzinfo=UTC)
    headers: dict[str, Any] = properties.headers or {}
    return TailedEvent(
        event_name=name,
        data=message.body,
        id=properties.message_id or "",
        headers=merge_headers(
            {
                key: header_text(value)
                for key, value in headers.items()
                if key not in HIDDEN_HEADERS
            },
            properties.content_type,
            properties.correlation_id,
        ),
        time=time if isinstance(time, datetime) else None,
    )


def _error(text: str) -> Finding:
    return Finding(severity="error", text=" ".join(text.split()))


def _warning(text: str) -> Finding:
    return Finding(severity="warning", text=" ".join(text.split()))
