"""The filters of the bus at the server: they are requested in batches, and again from time to time.

The adapter owns one `MqttSubscriptions`, decides which filters there are, and tells it of each new
connection. All messages go into the one queue of the connection, whichever filter brought them.

A server may accept some filters of a request and refuse others. It may also grant a lower quality
of service than was asked for, and it may answer late or never. None of this ends the connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from typing import Any

import zmqtt
from zmqtt._internal.packets.subscribe import SubscriptionRequest
from zmqtt._internal.subscription_index import SubscriptionEntry

from goevent import DriverError

from .._adapter.connectivity import REPLY_SECONDS
from .arrivals import MessageQueue
from .connection import QOS, MqttConnection, to_driver_error
from .limits import OversizedPacket, filter_error
from .reason_codes import MIN_FAILURE_CODE, reason_text

# Some servers, as AWS IoT, end the connection of a client that asks for more at once.
MAX_FILTERS_PER_REQUEST = 8
MAX_REQUESTS_IN_FLIGHT = 16
# The bytes of a request beside its filters, and of each filter beside its text.
REQUEST_BYTES = 16
FILTER_BYTES = 3

Refusals = dict[str, str]
"""The refused filters, each with the reason."""


class MqttSubscriptions:
    """The filters that the server has, or should have.

    Args:
        topic: The topic, or filter of topics, that a filter of the bus stands for.
        share: The beginning of a shared subscription, or "".
        qos: The quality of service; the owner acknowledges messages of QoS 1.
    """

    def __init__(
        self,
        connection: MqttConnection,
        topic: Callable[[str], str],
        share: str,
        qos: zmqtt.QoS = QOS,
    ) -> None:
        self._connection = connection
        self._topic = topic
        self._share = share
        self._qos = qos
        # Each with its last refusal; None if the server has accepted it.
        self._filters: dict[str, str | None] = {}
        # The filters that the server may have from an earlier connection, and that are not needed.
        self._unneeded: set[str] = set()
        self._queue: MessageQueue | None = None
        self._is_downgraded = False

    def __len__(self) -> int:
        return len(self._filters)

    def clear(self) -> None:
        """Forget everything, for another opening of the bus."""
        self._filters.clear()
        self._unneeded.clear()
        self._queue = None
        self._is_downgraded = False

    def attach(self, queue: MessageQueue) -> None:
        """Take the queue of a new connection; called before anything arrives on it."""
        self._queue = queue
        self._register(self._filters)

    # -- changes

    async def add(self, filters: Collection[str]) -> None:
        """Subscribe to filters. If the server refuses one, none of them remains.

        Raises:
            DriverError: The server refuses a filter, or does not answer.
        """
        if not filters:
            return
        # They must be known before the first message arrives.
        self._register(filters)
        refusals: Refusals = {}
        is_done = False
        try:
            refusals = await self._connection.run_shielded(self._request(filters))
            is_done = not refusals
        finally:
            if not is_done:
                self._forget(filters)
                # The server may have those that it has not refused.
                self._unneeded.update(filters)
        if refusals:
            self._unneeded.difference_update(refusals)
            await self._connection.run_shielded(self._cancel([*self._unneeded]))
            first = next(iter(refusals))
            raise self._error(refusals[first], first, len(refusals))
        self._unneeded.difference_update(filters)
        self._filters.update(dict.fromkeys(filters))

    async def remove(self, filters: Collection[str]) -> None:
        """Unsubscribe from filters.

        Raises:
            DriverError: The server does not answer; the next connection tries again.
        """
        self.change_later((), filters)
        if filters:
            await self._connection.run_shielded(self._cancel(filters))
            self._forget(filters)

    async def remove_all(self) -> None:
        """Unsubscribe from all filters; messages that have arrived still go into the queue.

        Raises:
            DriverError: The server does not answer.
        """
        filters = [*self._filters]
        self._filters.clear()
        if filters and self._connection.is_up:
            await self._connection.run_shielded(self._cancel(filters))

    def change_later(self, added: Collection[str], removed: Collection[str]) -> None:
        """Change the filters while there is no connection; the next one gets the difference."""
        self._filters.update(dict.fromkeys(added))
        for each in removed:
            self._filters.pop(each, None)
        self._unneeded.update(removed)
        self._unneeded.difference_update(added)

    async def restore(self) -> None:
        """Subscribe on a new connection; a filter that is refused is reported and keeps none back.

        Raises:
            DriverError: The server does not answer.
        """
        if self._unneeded:
            # Otherwise a continued session fills its window with their messages.
            await self._cancel([*self._unneeded])
        await self.renew()

    async def renew(self) -> None:
        """Subscribe to all filters again: the server may have lost some.

        Raises:
            DriverError: The server does not answer.
        """
        asked = [*self._filters]
        refusals = await self._connection.run_shielded(self._request(asked))
        new: dict[str, list[str]] = {}
        for each in asked:
            # It may have been removed meanwhile.
            if each in self._filters:
                reason = refusals.get(each)
                if reason is not None and reason != self._filters[each]:
                    new.setdefault(reason, []).append(each)
                self._filters[each] = reason
        for reason, group in new.items():
            self._connection.host.report(self._error(reason, group[0], len(group)))

    def _error(self, reason: str, filter_: str, count: int) -> DriverError:
        return filter_error(self._full(filter_), reason, others=count - 1)

    # -- requests

    def _register(self, filters: Collection[str]) -> None:
        """Lead the messages of filters into the queue."""
        entries = {
            self._full(each): SubscriptionEntry(
                queue=self._queue,  # type: ignore[arg-type]
                auto_ack=False,
                actual_filter=self._topic(each),
            )
            for each in filters
        }
        self._connection.client._protocol._state.subscriptions.add_many(entries)

    def _forget(self, filters: Collection[str]) -> None:
        index = self._connection.client._protocol._state.subscriptions
        for each in filters:
            index.remove(self._full(each))

    def _full(self, filter_: str) -> str:
        return f"{self._share}{self._topic(filter_)}"

    async def _request(self, filters: Collection[str]) -> Refusals:
        """Subscribe to filters; return those that the server refuses.

        Raises:
            DriverError: The server does not answer, or the connection is lost.
        """
        limits, protocol = self._connection.limits, self._connection.client._protocol
        refusals: Refusals = {}
        for each in filters:
            if (reason := limits.filter_refusal(self._full(each))) is not None:
                refusals[each] = reason
        is_downgraded = False

        async def ask(batch: Sequence[str]) -> None:
            nonlocal is_downgraded
            try:
                async with asyncio.timeout(REPLY_SECONDS):
                    answer = await protocol._send_subscribe(self._requests(batch), None)
            except zmqtt.MQTTSubscribeError as error:
                codes = {each: error.failures.get(self._full(each)) for each in batch}
                refused = {each: code for each, code in codes.items() if code is not None}
                refusals.update({each: reason_text(code) for each, code in refused.items()})
                # The client tells nothing of the others. They are asked for again, for their QoS.
                if accepted := [each for each in batch if each not in refused]:
                    await ask(accepted)
            except OversizedPacket as error:
                refusals.update(dict.fromkeys(batch, str(error)))
            else:
                is_downgraded |= min(answer.return_codes, default=self._qos) < self._qos

        await self._send_batches([each for each in filters if each not in refusals], ask)
        self._note_granted(is_downgraded)
        return refusals

    def _requests(self, batch: Sequence[str]) -> list[SubscriptionRequest]:
        options: dict[str, Any] = {}
        if self._connection.has_properties:
            # A retained message is an old one, kept by the server for new subscribers.
            options["retain_handling"] = zmqtt.RetainHandling.DO_NOT_SEND
        return [
            SubscriptionRequest(topic_filter=self._full(each), qos=self._qos, **options)
            for each in batch
        ]

    def _note_granted(self, is_downgraded: bool) -> None:
        if is_downgraded and not self._is_downgraded:
            self._connection.host.report(
                DriverError(
                    "MQTT: the server delivers with QoS 0 only, so events may be lost on the way: "
                    "allow QoS 1 for this client"
                )
            )
        self._is_downgraded = is_downgraded

    async def _cancel(self, filters: Collection[str]) -> None:
        """Unsubscribe from filters; a refusal is reported.

        Raises:
            DriverError: The server does not answer, or the connection is lost.
        """
        protocol = self._connection.client._protocol
        refusals: Refusals = {}

        async def ask(batch: Sequence[str]) -> None:
            async with asyncio.timeout(REPLY_SECONDS):
                answer = await protocol._send_unsubscribe([self._full(each) for each in batch])
            # MQTT 3.1.1 sends no codes.
            for each, code in zip(batch, answer.reason_codes, strict=False):
                if code >= MIN_FAILURE_CODE:
                    refusals[each] = reason_text(code)

        await self._send_batches(filters, ask)
        self._unneeded.difference_update(filters)
        if refusals:
            first = next(iter(refusals))
            text = f"MQTT: the server refuses to unsubscribe from {self._full(first)!r}"
            if len(refusals) > 1:
                text += f" and {len(refusals) - 1} others"
            self._connection.host.report(DriverError(f"{text}: {refusals[first]}"))

    async def _send_batches(
        self, filters: Collection[str], ask: Callable[[Sequence[str]], Awaitable[None]]
    ) -> None:
        """Send requests for filters, some at a time."""
        batches = self._batches(filters)

        async def send_rest() -> None:
            for batch in batches:
                await ask(batch)

        try:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(min(MAX_REQUESTS_IN_FLIGHT, len(filters))):
                    tasks.create_task(send_rest())
        except ExceptionGroup as group:
            error = group.exceptions[0]
            raise to_driver_error(error) from error

    def _batches(self, filters: Collection[str]) -> Iterator[Sequence[str]]:
        """Yield filters that fit into one request each."""
        max_bytes = self._connection.limits.max_packet_bytes
        batch: list[str] = []
        size = REQUEST_BYTES
        for each in filters:
            added = len(self._full(each).encode()) + FILTER_BYTES
            if batch and (len(batch) == MAX_FILTERS_PER_REQUEST or size + added > max_bytes):
                yield batch
                batch, size = [], REQUEST_BYTES
            batch.append(each)
            size += added
        if batch:
            yield batch
