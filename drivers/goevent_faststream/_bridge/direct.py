"""The direct messages of an open bus, between Trio and the loop.

The Trio side owns one `DirectBridge`. Messages from the broker and the results of sent ones cross
to Trio in a queue of their own, with a task of its own, so that no message waits for a listener's
full mailbox. Messages to the broker cross in the queue of the publishes, where nothing waits.

Both directions are bounded by the bytes that wait. Beyond the bound a message to the broker fails,
and one from the broker is dropped and reported: direct messages arrive at most once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from time import perf_counter

import trio

from goevent import DriverConnectionError, DriverError
from goevent.drivers import DirectSent, TakeDirect

from .._adapter.contract import OutgoingDirect
from .queues import ToTrioQueue

SECONDS_BETWEEN_YIELDS = 0.0005
# Of all messages that wait in one direction. One of any size passes if no other one waits.
MAX_WAITING_BYTES = 64 << 20
# Each message counts as so many bytes more, because its object takes memory, too.
BYTES_PER_MESSAGE = 200


class DirectBridge:
    """The direct messages of one open bus.

    Args:
        broker: The name of the broker in errors.
        report: Called on the loop side with the report of lost messages.
    """

    def __init__(self, broker: str, report: Callable[[Exception], None]) -> None:
        self._broker = broker
        self._report = report
        self._items: ToTrioQueue[OutgoingDirect | tuple[str, bytes]] = ToTrioQueue(
            trio.lowlevel.current_trio_token()
        )
        # In Trio's thread.
        self._take: TakeDirect | None = None
        self._open: set[str] = set()
        self._unanswered: dict[OutgoingDirect, None] = {}
        self._unanswered_bytes = 0
        # Each of these counts has one thread that writes it. Their difference is what waits.
        self._arrived_bytes = self._taken_bytes = 0
        # On the loop side.
        self._is_dropping = False

    # -- in Trio's thread

    def open_addresses(self, addresses: Iterable[str], take: TakeDirect) -> None:
        """Hand over the messages to these addresses from now on."""
        self._take = take
        self._open.update(addresses)

    def close_addresses(self, addresses: Sequence[str]) -> None:
        """Hand over the messages to these addresses no more."""
        self._open.difference_update(addresses)

    def open_among(self, addresses: Iterable[str]) -> list[str]:
        """Return those of the addresses that are open."""
        return [address for address in addresses if address in self._open]

    def send(
        self, post: Callable[[OutgoingDirect], None], address: str, data: bytes, sent: DirectSent
    ) -> None:
        """Post a message for the loop.

        Args:
            post: Posts it; the adapter answers it.
        """
        size = len(data) + BYTES_PER_MESSAGE
        if self._unanswered and self._unanswered_bytes + size > MAX_WAITING_BYTES:
            text = f"{self._broker}: too many direct messages wait to be sent"
            sent(DriverError(text))
            return
        message = OutgoingDirect(address, data, sent, self._items.post)
        self._unanswered[message] = None
        self._unanswered_bytes += size
        post(message)

    async def hand_over(self) -> None:
        """Hand over messages and results as they come, until cancelled."""
        items = self._items.items
        while True:
            await self._items.wait()
            until = perf_counter() + SECONDS_BETWEEN_YIELDS
            while items:
                self._hand_over(items.popleft())
                if perf_counter() > until:
                    await trio.lowlevel.checkpoint()
                    until = perf_counter() + SECONDS_BETWEEN_YIELDS

    def _hand_over(self, item: OutgoingDirect | tuple[str, bytes]) -> None:
        if isinstance(item, OutgoingDirect):
            # The end may have answered it already.
            if item in self._unanswered:
                del self._unanswered[item]
                self._unanswered_bytes -= len(item.data) + BYTES_PER_MESSAGE
                item.sent(item.result)
            return
        address, data = item
        self._taken_bytes += len(data) + BYTES_PER_MESSAGE
        # It may have been closed while the message was on its way.
        if self._take is not None and address in self._open:
            self._take(address, data)

    def end(self) -> None:
        """Answer all messages that are not answered: the loop has ended."""
        for item in [*self._items.items]:
            if isinstance(item, OutgoingDirect):
                self._hand_over(item)
        self._items.items.clear()
        for message in [*self._unanswered]:
            del self._unanswered[message]
            text = f"{self._broker}: the bus has ended before the broker replied"
            message.sent(DriverConnectionError(text))
        self._unanswered_bytes = 0
        self._open.clear()

    # -- on the loop side

    def take(self, address: str, data: bytes) -> None:
        """Post a message that has come from the broker; drop it if too many wait."""
        size = len(data) + BYTES_PER_MESSAGE
        waiting_bytes = self._arrived_bytes - self._taken_bytes
        if waiting_bytes > 0 and waiting_bytes + size > MAX_WAITING_BYTES:
            # One report for a series, because very many reports would reach the supervisor.
            if not self._is_dropping:
                self._is_dropping = True
                text = f"{self._broker}: direct messages are lost, since too many wait already"
                self._report(DriverError(text))
            return
        self._is_dropping = False
        self._arrived_bytes += size
        self._items.post((address, data))
