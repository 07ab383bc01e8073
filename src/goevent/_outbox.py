"""The way out: takes what is dispatched here to the driver, in the order of dispatch.

To dispatch it is the mailbox of one more listener. If the driver can post, an event leaves in the
very step in which it is dispatched, and no task waits for the broker's reply. What cannot be posted
now waits for a worker of the crew, which awaits `Driver.publish`; until none does so any more,
everything goes that way, or it would overtake.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

from ._actor import Actor
from ._driver import Capabilities, Receipt
from ._errors import EventError, forget_caller
from ._handle import Notes
from ._lanes import SharedMailbox
from ._message import Desk, OutgoingMessage
from ._room import let_in

if TYPE_CHECKING:
    from ._arrivals import Arrivals
    from ._config import Config
    from ._crew import Crew
    from ._driver import Driver
    from ._handle import DispatchHandle
    from ._supervisor import Supervisor

CAPACITY = 1024


class Outbox(SharedMailbox):
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
        arrivals: Arrivals,
        config: Config,
        crew: Crew,
        supervisor: Supervisor,
    ) -> None:
        self.actor: Actor = Actor("driver", (), self._publish, inline=False, capacity=CAPACITY)
        super().__init__(self.actor, capabilities.in_flight, crew.ready)
        self.actor.share(self)
        self._driver = driver
        self._post = getattr(driver, "publish_nowait", None)
        self._in_flight = capabilities.in_flight
        self._desk = Desk(arrivals, config.codec, config.registry.key_of, capabilities.max_size)
        self._crew = crew
        self._supervisor = supervisor
        self.posted: dict[DispatchHandle, None] = {}
        self.watchers = trio.lowlevel.ParkingLot()

    # -- as a mailbox

    @property
    def held(self) -> list[DispatchHandle]:
        """The events that the driver has and the broker has not accepted yet."""
        return [*super().held, *self.posted]

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
        posting = Posting(handle.route.name, handle, self._desk, self)
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
        self._supervisor.report(failure, handle, self.actor)
        handle.settle_one()

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
            if self._crew.ready and not self._crew.awake:
                self._crew.post()
        if self.actor.queue:
            let_in((self.actor,))

    async def _publish(self, _: Any) -> None:
        delivery = self._crew.delivery()
        if delivery is None:
            raise RuntimeError("publishing is a delivery")
        handle = delivery.handle
        message = OutgoingMessage(handle.route.name, handle, self._desk)
        handle.noted().receipt = await self._driver.publish(message)


class Posting(OutgoingMessage, eq=False):
    """An event that was posted, until the broker has replied."""

    _outbox: Outbox

    def replied(self, result: Receipt | Exception | None) -> None:
        """Settle the event, and post those that have waited for it."""
        outbox, handle = self._outbox, self._handle
        posted = outbox.posted
        if posted.pop(handle, self) is self:
            return  # the bus has ended, and given it up
        if isinstance(result, Exception):
            outbox.failed(handle, result)
        else:
            notes = handle.notes
            if not isinstance(notes, Notes):
                notes = handle.noted()
            notes.receipt = result
            handle.left = left = handle.left - 1
            if not left:
                handle.wake()
        if outbox or not posted:
            outbox.go_on()
