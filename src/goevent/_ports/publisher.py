"""The way out: takes what is dispatched here to the driver, in the order of dispatch.

To dispatch it is the mailbox of one more listener. If the driver can post, an event leaves in the
very step in which it is dispatched, and no task waits for the broker's reply. What cannot be posted
now waits for a worker of the scheduler, which awaits `Driver.publish`; until none does so any more,
everything goes that way, or it would overtake.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

from .._errors import EventError, forget_caller
from .._handle import HandleDetails
from .._kernel.actor import Actor, Lane
from .._kernel.mailbox import SharedMailbox
from ..drivers.contract import Capabilities, Receipt
from .message import MessageEncoding, OutgoingMessage

if TYPE_CHECKING:
    from .._config import Config
    from .._handle import DispatchHandle
    from .._kernel.failures import Failures
    from .._kernel.scheduler import Scheduler
    from ..drivers.contract import Driver
    from .inbox import BusInbox

CAPACITY = 1024


class EventPublisher(SharedMailbox[Lane]):
    """The events of one open bus on their way to its driver.

    Attributes:
        actor: the listener whose mailbox it is.
        posted: the events that the broker has not replied to yet.
        watchers: who waits until there are none.
    """

    def __init__(
        self,
        driver: Driver,
        capabilities: Capabilities,
        arrivals: BusInbox,
        config: Config,
        scheduler: Scheduler,
        failures: Failures,
    ) -> None:
        self.actor: Actor = Actor("driver", (), self._publish, inline=False, capacity=CAPACITY)
        super().__init__(self.actor.make_lanes(capabilities.in_flight), scheduler.ready.append)
        self.actor.share(self)
        self._driver = driver
        self._post = getattr(driver, "publish_nowait", None)
        self._in_flight = capabilities.in_flight
        self._encoding = MessageEncoding(
            arrivals, config.codec, config.registry.key_of, capabilities.max_size
        )
        self._scheduler = scheduler
        self._failures = failures
        self.posted: dict[DispatchHandle, None] = {}
        self.watchers = trio.lowlevel.ParkingLot()

    # -- as a mailbox

    @property
    def in_flight(self) -> list[DispatchHandle]:
        """The events that the driver has and the broker has not accepted yet."""
        return [*super().in_flight, *self.posted]

    def append(self, handle: DispatchHandle, /) -> None:
        busy = self._in_flight - len(self.free)
        if len(self.posted) + busy >= self._in_flight:
            self.keep(handle)  # the next reply lets it go
        elif busy or self._post is None or not self._posts(handle):
            super().append(handle)

    def clear(self) -> None:
        super().clear()
        self.posted.clear()
        self.watchers.unpark_all()

    async def quiet(self) -> None:
        """Wait until the broker has replied to everything that was posted."""
        while self.posted:
            await self.watchers.park()

    # -- to the driver

    def _posts(self, handle: DispatchHandle) -> bool:
        """Post an event; return False if the driver cannot now."""
        self.posted[handle] = None
        posting = Posting(handle.route.name, handle, self._encoding, self)
        try:
            self._post(posting, posting.replied)  # type: ignore[misc]
        except trio.WouldBlock:
            del self.posted[handle]
            return False
        except Exception as error:  # noqa: BLE001 - whatever it is, it is reported
            forget_caller(error)
            del self.posted[handle]
            self.failed(handle, error)
        return True

    def failed(self, handle: DispatchHandle, error: Exception) -> None:
        failure = EventError(handle.event_name, self.actor.name, error)
        self._failures.settle(self.actor, handle, failure)

    def go_on(self) -> None:
        """Post what waits, or leave it to workers; called when the broker has replied."""
        if self:
            self._let_go()
        if not self.posted:  # also if what waited has failed, or is left to workers
            self.watchers.unpark_all()

    def _let_go(self) -> None:
        busy = self._in_flight - len(self.free)
        posts = not busy
        while self and posts and len(self.posted) < self._in_flight:
            handle = self.popleft()
            posts = self._posts(handle)
            if not posts:
                self.appendleft(handle)
        if self and not posts:
            self.engage(min(len(self), self._in_flight - len(self.posted) - busy))
            if self._scheduler.ready and not self._scheduler.awake:
                self._scheduler.wake_workers()
        if not self.actor.limit:
            self._scheduler.backpressure.made_room(self.actor)

    async def _publish(self, _: Any) -> None:
        delivery = self._scheduler.delivery()
        if delivery is None:
            raise RuntimeError("publishing is a delivery")
        handle = delivery.handle
        message = OutgoingMessage(handle.route.name, handle, self._encoding)
        handle.ensure_details().receipt = await self._driver.publish(message)


class Posting(OutgoingMessage, eq=False):
    """An event that was posted, until the broker has replied."""

    _publisher: EventPublisher

    def replied(self, result: Receipt | Exception | None) -> None:
        """Settle the event, and post those that have waited for it."""
        publisher, handle = self._publisher, self._handle
        posted = publisher.posted
        if posted.pop(handle, self) is self:
            return  # the bus has ended, and given it up
        if isinstance(result, Exception):
            publisher.failed(handle, result)
        else:
            details = handle.details
            if not isinstance(details, HandleDetails):
                details = handle.ensure_details()
            details.receipt = result
            handle.left = left = handle.left - 1
            if not left:
                handle.wake()
        if publisher or not posted:
            publisher.go_on()
