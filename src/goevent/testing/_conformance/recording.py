"""A driver that records the calls between the bus and another driver."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import trio

from ... import Capabilities, Driver, Envelope, Inbox, Message, Receipt, Settlement
from ...drivers import BatchReplied

Settle = Callable[[Settlement], None]


@dataclass(slots=True, eq=False)
class RecordedDelivery:
    """One event that a driver has delivered to the bus.

    Attributes:
        event_name: The name of the event.
        wants_settlement: True if the driver has passed a `settle` function.
        deliveries: The number of deliveries of the event, as the driver counts them.
        settlements: The settlements that the bus has made so far.
    """

    event_name: str
    wants_settlement: bool
    deliveries: int = 1
    settlements: list[Settlement] = field(default_factory=list[Settlement])

    @property
    def outcomes(self) -> tuple[str, ...]:
        """The outcomes of the errors in the settlements."""
        return tuple(error.outcome for end in self.settlements for error in end.errors)


class RecordingInbox:
    """An inbox that records deliveries and their settlements, and passes all calls on."""

    def __init__(
        self, inbox: Inbox, delivered: list[RecordedDelivery], notify: Callable[[], None]
    ) -> None:
        self._inbox = inbox
        self._delivered = delivered
        self._notify = notify

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
        settle = self._record(name, settle, deliveries)
        await self._inbox.receive(name, data, settle, deliveries=deliveries)

    async def deliver(
        self, envelope: Envelope, settle: Settle | None = None, *, deliveries: int = 1
    ) -> None:
        settle = self._record(envelope.event_name, settle, deliveries)
        await self._inbox.deliver(envelope, settle, deliveries=deliveries)

    def deliver_nowait(
        self, envelope: Envelope, settle: Settle | None = None, *, deliveries: int = 1
    ) -> bool:
        delivery = RecordedDelivery(envelope.event_name, settle is not None, deliveries)
        recording_settle = self._recording_settle(delivery, settle)
        accepted = self._inbox.deliver_nowait(envelope, recording_settle, deliveries=deliveries)
        # If the bus has not accepted it, the driver calls `deliver`, which records it.
        if accepted:
            self._delivered.append(delivery)
            self._notify()
        return accepted

    def decode(self, name: str, data: bytes) -> Envelope:
        return self._inbox.decode(name, data)

    def report(self, error: Exception, event_name: str = "") -> None:
        self._inbox.report(error, event_name)

    def lost(self, event_name: str) -> object:
        return self._inbox.lost(event_name)

    def _record(self, name: str, settle: Settle | None, deliveries: int) -> Settle:
        delivery = RecordedDelivery(name, settle is not None, deliveries)
        self._delivered.append(delivery)
        self._notify()
        return self._recording_settle(delivery, settle)

    def _recording_settle(self, delivery: RecordedDelivery, settle: Settle | None) -> Settle:
        def record(settlement: Settlement) -> None:
            delivery.settlements.append(settlement)
            self._notify()
            if settle is not None:
                settle(settlement)

        return record


class RecordingDriver:
    """A driver that records calls and passes them on to another driver.

    Attributes:
        delivered: The deliveries of the driver, in order. Echoes of own events are included.
        published: The names of the events that the driver was asked to publish.
        unsubscribed: The names and patterns whose unsubscription the driver has confirmed.
    """

    schemes: tuple[str, ...] = ()

    def __init__(self, driver: Driver, notify: Callable[[], None]) -> None:
        self._driver = driver
        self._notify = notify
        self.delivered: list[RecordedDelivery] = []
        self.published: list[str] = []
        self.unsubscribed: list[str] = []

    @property
    def capabilities(self) -> Capabilities:
        return self._driver.capabilities

    @classmethod
    def from_url(cls, url: str) -> Self:
        raise NotImplementedError("a RecordingDriver needs a driver and has no URL")

    async def run(
        self, inbox: Inbox, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        recording_inbox = RecordingInbox(inbox, self.delivered, self._notify)
        await self._driver.run(recording_inbox, task_status=task_status)

    async def subscribe(self, names: Sequence[str]) -> None:
        await self._driver.subscribe(names)

    async def unsubscribe(self, names: Sequence[str]) -> None:
        await self._driver.unsubscribe(names)
        self.unsubscribed.extend(names)
        self._notify()

    async def publish(self, message: Message) -> Receipt | None:
        self.published.append(message.event_name)
        return await self._driver.publish(message)

    def __getattr__(self, name: str) -> Any:
        # The optional methods of a driver: the bus must see those that the wrapped one has.
        method = getattr(self._driver, name)
        if name == "publish_nowait":
            return self._recording_publish(method)
        if name == "publish_many_nowait":
            return self._recording_publish_many(method)
        return method

    def _recording_publish(self, post: Callable[..., None]) -> Callable[..., None]:
        def publish_nowait(message: Message, replied: Callable[[Any], None]) -> None:
            # If it raises `trio.WouldBlock`, the bus calls `publish`, which records the event.
            post(message, replied)
            self.published.append(message.event_name)

        return publish_nowait

    def _recording_publish_many(self, post: Callable[..., int]) -> Callable[..., int]:
        def publish_many_nowait(messages: Sequence[Message], replied: BatchReplied) -> int:
            taken = post(messages, replied)
            self.published += [message.event_name for message in messages[:taken]]
            return taken

        return publish_many_nowait
