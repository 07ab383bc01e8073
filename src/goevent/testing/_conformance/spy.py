"""A driver under observation: what it is asked for, hands over and is told about."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import trio

from ... import Capabilities, Driver, Envelope, Inbox, Message, Receipt, Settlement

Settle = Callable[[Settlement], None]


@dataclass(slots=True, eq=False)
class Handed:
    """One event that a driver has handed over.

    Attributes:
        told: the driver wants to hear of the end.
        deliveries: how often it was handed over, this time included, says the driver.
        settlements: what it was told, so far.
    """

    event_name: str
    told: bool
    deliveries: int = 1
    settlements: list[Settlement] = field(default_factory=list[Settlement])

    @property
    def outcomes(self) -> tuple[str, ...]:
        """What went wrong with it, once it is settled."""
        return tuple(error.outcome for end in self.settlements for error in end.errors)


class SpiedInbox:
    """An inbox that takes note of what is handed over and settled."""

    def __init__(self, inbox: Inbox, handed: list[Handed], stir: Callable[[], None]) -> None:
        self._inbox = inbox
        self._handed = handed
        self._stir = stir

    @property
    def origin(self) -> str:
        return self._inbox.origin

    def renew_origin(self) -> str:
        return self._inbox.renew_origin()

    def is_own(self, envelope: Envelope) -> bool:
        return self._inbox.is_own(envelope)

    async def receive(
        self, name: str, data: bytes, settle: Settle | None = None, *, deliveries: int = 1
    ) -> None:
        settle = self._noting(name, settle, deliveries)
        await self._inbox.receive(name, data, settle, deliveries=deliveries)

    async def deliver(
        self, envelope: Envelope, settle: Settle | None = None, *, deliveries: int = 1
    ) -> None:
        settle = self._noting(envelope.event_name, settle, deliveries)
        await self._inbox.deliver(envelope, settle, deliveries=deliveries)

    def deliver_nowait(
        self, envelope: Envelope, settle: Settle | None = None, *, deliveries: int = 1
    ) -> bool:
        handed = Handed(envelope.event_name, settle is not None, deliveries)
        noting = self._noting_in(handed, settle)
        delivered = self._inbox.deliver_nowait(envelope, noting, deliveries=deliveries)
        if delivered:
            self._handed.append(handed)
            self._stir()
        return delivered

    def decode(self, name: str, data: bytes) -> Envelope:
        return self._inbox.decode(name, data)

    def report(self, error: Exception, event_name: str = "") -> None:
        self._inbox.report(error, event_name)

    def lost(self, event_name: str) -> object:
        return self._inbox.lost(event_name)

    def _noting(self, name: str, settle: Settle | None, deliveries: int) -> Settle:
        handed = Handed(name, settle is not None, deliveries)
        self._handed.append(handed)
        self._stir()
        return self._noting_in(handed, settle)

    def _noting_in(self, handed: Handed, settle: Settle | None) -> Settle:
        def note(end: Settlement) -> None:
            handed.settlements.append(end)
            self._stir()
            if settle is not None:
                settle(end)

        return note


class Spy:
    """A driver that passes everything on to another one, and takes note of it.

    Attributes:
        handed: what the driver has handed over, in order, own echoes included.
        published: the names of the events that the driver was asked to publish.
        dropped: the names and patterns that it has confirmed not to receive any more.
    """

    schemes: tuple[str, ...] = ()

    def __init__(self, driver: Driver, stir: Callable[[], None]) -> None:
        self._driver = driver
        self._stir = stir
        self.handed: list[Handed] = []
        self.published: list[str] = []
        self.dropped: list[str] = []

    @property
    def capabilities(self) -> Capabilities:
        return self._driver.capabilities

    @classmethod
    def from_url(cls, url: str) -> Self:
        raise NotImplementedError("a spy is put on a driver")

    async def run(
        self, inbox: Inbox, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        await self._driver.run(SpiedInbox(inbox, self.handed, self._stir), task_status=task_status)

    async def subscribe(self, names: Sequence[str]) -> None:
        await self._driver.subscribe(names)

    async def unsubscribe(self, names: Sequence[str]) -> None:
        await self._driver.unsubscribe(names)
        self.dropped.extend(names)
        self._stir()

    async def publish(self, message: Message) -> Receipt | None:
        self.published.append(message.event_name)
        return await self._driver.publish(message)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._driver, name)  # one of those that a driver may have or not
        return self._noting(method) if name == "publish_nowait" else method

    def _noting(self, post: Callable[..., None]) -> Callable[..., None]:
        def publish_nowait(message: Message, replied: Callable[[Any], None]) -> None:
            post(message, replied)
            self.published.append(message.event_name)

        return publish_nowait
