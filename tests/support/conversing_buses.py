"""Buses that make requests of each other through a hub that loses, repeats and keeps messages."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import trio

from goevent import Config, Event, EventRegistry, GoEvent, MemoryDriver, MemoryHub
from goevent.drivers import DirectSent
from tests.support.checks import ignore_error

ASKED_REGISTRY = EventRegistry()


class PriceAsked(Event, name="price.asked", registry=ASKED_REGISTRY):
    sku: str = ""
    n: int = 0


def kind_of(data: bytes) -> str:
    """Return the kind of a direct message: `request` for an event."""
    found: object = msgspec.json.decode(data)
    assert isinstance(found, dict)
    return str(found.get("kind", "request"))  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]


class TappedDriver(MemoryDriver):
    """A driver of a hub whose sent messages a test can lose, repeat or keep.

    Attributes:
        lost: The kinds of messages that are lost.
        is_dead: True if all messages are lost, in both directions.
        kept: The kinds of messages that `release` sends.
        copies: How often each message is sent.
        sent_kinds: The kinds of all messages, in order.
    """

    def __init__(self, hub: MemoryHub) -> None:
        super().__init__(hub)
        self.lost: set[str] = set()
        self.kept: set[str] = set()
        self.is_dead = False
        self.copies = 1
        self.sent_kinds: list[str] = []
        self._waiting: list[Callable[[], None]] = []

    def send_directly(self, address: str, data: bytes, sent: DirectSent) -> None:
        kind = kind_of(data)
        self.sent_kinds.append(kind)
        if self.is_dead or kind in self.lost:
            sent(1)
        elif kind in self.kept:
            self._waiting.append(
                lambda: super(TappedDriver, self).send_directly(address, data, ignore_result)
            )
            sent(1)
        else:
            for _ in range(self.copies - 1):
                super().send_directly(address, data, ignore_result)
            super().send_directly(address, data, sent)

    async def open_addresses(self, addresses: object, take: Callable[[str, bytes], None]) -> None:
        def take_alive(address: str, data: bytes) -> None:
            if not self.is_dead:
                take(address, data)

        await super().open_addresses(addresses, take_alive)  # type: ignore[arg-type]

    def release(self) -> None:
        """Send the messages that were kept."""
        waiting, self._waiting, self.kept = self._waiting, [], set()
        for send in waiting:
            send()


def ignore_result(result: int | Exception | None) -> None:
    """Ignore what becomes of a message."""


class ConversingBus(GoEvent):
    """A bus on a hub.

    Attributes:
        tap: Its driver.
    """

    def __init__(self, hub: MemoryHub) -> None:
        self.tap: TappedDriver = TappedDriver(hub)
        super().__init__(Config(driver=self.tap, registry=ASKED_REGISTRY, slow_after=None))
        self.on_error(ignore_error)

    @property
    def under_way(self) -> int:
        """The entries of the tables of its conversations."""
        return self._conversations.under_way


class HeldPrices:
    """A responder that holds its requests, and takes note of those that were cancelled.

    Attributes:
        began: The number of requests with which it has begun.
        cancelled_at: When requests were cancelled, by Trio's clock.
        reasons: Why.
        go: Set to let it answer.
    """

    def __init__(self) -> None:
        self.began = 0
        self.cancelled_at: list[float] = []
        self.reasons: list[str] = []
        self.go = trio.Event()
        self._changed = trio.Event()

    async def respond(self, event: PriceAsked) -> int:
        """Answer when it is let go."""
        self.began += 1
        self._changed.set()
        try:
            await self.go.wait()
        except trio.Cancelled as cancelled:
            self.cancelled_at.append(trio.current_time())
            self.reasons.append(str(cancelled))
            self._changed.set()
            raise
        return event.n

    async def wait_begun(self, count: int = 1) -> None:
        """Wait until it has begun with so many requests."""
        while self.began < count:
            self._changed = trio.Event()
            await self._changed.wait()

    async def wait_cancelled(self, count: int = 1) -> None:
        """Wait until so many requests were cancelled."""
        while len(self.cancelled_at) < count:
            self._changed = trio.Event()
            await self._changed.wait()
