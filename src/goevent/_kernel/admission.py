"""Admission: puts an event into the mailboxes on its route, into all of them or into none.

The dispatcher fills mailboxes by itself as long as they have room. It calls admission when one of
them is full; special dispatch and the inbox call it with each event. The `overflow` of a listener
decides about an event for its full mailbox: the dispatch waits for room, the dispatch fails, or an
event is dropped. Admission also settles the events that no listener will run: dropped events, and
those that are left when the bus ends.

Nothing here yields between the check for room and the last append, so an event is in all mailboxes
or in none.
"""

# The internals of handles are for the kernel and the ports, not for users.
# pyright: reportPrivateUsage=false

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from .._errors import EventAbandoned, EventDropped, MailboxFull
from .actor import names_of
from .backpressure import WaitingDispatch
from .stream_actor import StreamActor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .._handle import DispatchHandle
    from .actor import Actor
    from .backpressure import Backpressure
    from .failures import Failures
    from .reentrancy import Reentrancy
    from .route import Route
    from .scheduler import Scheduler


class Admission:
    """The admission of one bus.

    Attributes:
        unregister_now: Unregisters a listener that has got its last event.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        failures: Failures,
        backpressure: Backpressure,
        reentrancy: Reentrancy,
    ) -> None:
        self._scheduler = scheduler
        self._failures = failures
        self._backpressure = backpressure
        self._reentrancy = reentrancy
        self.unregister_now: Callable[[Actor], None] = keep_registered

    # -- into the mailboxes

    def commit(self, route: Route, handle: DispatchHandle) -> bool:
        """Put an event into all mailboxes on its route, unless it has to wait for room.

        Returns:
            False if it has to wait: then it was put nowhere.

        Raises:
            MailboxFull: A mailbox under `overflow="error"` is full; the event was put nowhere.
        """
        if not route.special and (room := route.free or route.room()) > 0:
            # As in the hot path of the dispatcher: most events need no more.
            route.free = room - 1 if route.exclusive else 0
            handle._left = len(route.actors)
            scheduler = self._scheduler
            ready = scheduler.ready
            if not (scheduler.awake and room & 15):
                scheduler.now = scheduler.clock()
            handle._since = scheduler.now
            for actor in route.mailboxes:
                actor.mail.append(handle)
                if not actor.scheduled:
                    actor.scheduled = True
                    ready.append(actor)
            if route.publisher is not None:
                route.publisher.post(handle)
            route.mailed += 1
            if ready and not scheduler.awake:
                scheduler.wake_workers()
            return True
        for actor in route.actors:
            if actor.blocks_dispatch:
                return False
        self.put(route, handle)
        return True

    async def wait_for_room(
        self, route: Route, handle: DispatchHandle, *, arrived: bool = False
    ) -> Route:
        """Wait until an event is in all mailboxes.

        Args:
            route: The route of the event; one of its mailboxes has no room.
            handle: The handle of the event.
            arrived: True if the driver has brought the event.

        Returns:
            The route that the event took: without the listeners that were unregistered meanwhile.

        Raises:
            BusClosed: The bus was closed meanwhile.
            DeadlockError: The caller is a listener that the full mailbox waits for in turn.
            MailboxFull: A mailbox under `overflow="error"` is full; the event was put nowhere.
        """
        if route.publisher is not None:
            # The wait may be for the answers to events of the same batch.
            route.publisher.release()
        actor = self._reentrancy.calling_actor()
        waiter = WaitingDispatch(self._backpressure, route, handle, actor, arrived, self._admit)
        with self._reentrancy.guard_room_wait(waiter, actor):
            taken = await self._backpressure.wait(waiter)
        if taken is not route:
            handle._route = taken
        return taken

    def _admit(self, route: Route, handle: DispatchHandle) -> None:
        # Called by the task that made the room, in the same step. So no later dispatch overtakes,
        # and the waiting task cannot be cancelled between its turn and the put.
        self.put(route, handle)
        self._reentrancy.recheck_room_waits(route, handle)

    def put(self, route: Route, handle: DispatchHandle) -> None:
        """Put an event into all mailboxes on its route, without regard to waiting dispatches.

        Under `overflow="block"`, a full mailbox takes it too.

        Raises:
            MailboxFull: A mailbox under `overflow="error"` is full; the event was put nowhere.
        """
        scheduler = self._scheduler
        full = {actor: None for actor in route.actors if len(actor.mail) >= actor.capacity}
        for actor in full:
            if actor.overflow == "error":
                raise MailboxFull(f"{route.name!r} not dispatched: {actor.name} has no room for it")
        handle._left = len(route.actors) + route.awaits
        handle._since = scheduler.now = scheduler.clock()
        if route.special:
            for actor in route.listeners:
                actor.accepted += 1
                actor.pending_inline += actor.inline
        else:
            route.mailed += 1
        for actor in route.mailboxes:
            if actor in full:
                if actor.overflow == "drop_new":
                    self.drop(handle, actor, "its mailbox was full")
                    continue
                if actor.overflow == "drop_old":
                    self._drop_oldest(actor)
            actor.mail.append(handle)
            if not actor.scheduled:
                actor.scheduled = True
                scheduler.ready.append(actor)
        if route.publisher is not None:
            route.publisher.post(handle)
        # In the same step, or the next dispatch would reach the listener a second time.
        for actor in route.once:
            self.unregister_now(actor)
        if scheduler.ready and not scheduler.awake:
            scheduler.wake_workers()

    # -- events that no listener will run

    def drop(self, handle: DispatchHandle, actor: Actor, reason: str) -> None:
        """Settle an event that was taken out of a mailbox, or that was never put into it."""
        error = EventDropped(handle.event_name, actor.name, reason=reason)
        self._failures.settle(actor, handle, error)

    def _drop_oldest(self, actor: Actor) -> None:
        handle = actor.mail.popleft()
        reason = "a newer event took its place"
        error = EventDropped(handle.event_name, actor.name, reason=reason)
        # The delivery to a stream has ended already.
        end = self._failures.fail if actor.settles_on_arrival else self._failures.settle
        end(actor, handle, error)

    def abandon(self, actor: Actor, posted: Sequence[DispatchHandle] = ()) -> None:
        """Settle all events that an actor still holds, because the bus has ended.

        Args:
            actor: The actor.
            posted: For the publisher's actor, the events that it has handed to the driver.
        """
        if isinstance(actor, StreamActor):
            # All its deliveries have ended. Its consumers still take the events that wait.
            self.unregister_now(actor)
            return
        running = [*actor.in_flight, *posted]
        waiting = [*actor.mail]
        actor.mail.clear()
        for lane in actor.lanes:
            lane.current = None
            lane.scheduled = False
        for handle, started in (*((h, True) for h in running), *((h, False) for h in waiting)):
            reason = f"the bus ended {'while' if started else 'before'} the listener ran"
            error = EventAbandoned(handle.event_name, actor.name, reason=reason, started=started)
            self._failures.settle(actor, handle, error)


def no_room(route: Route) -> trio.WouldBlock:
    """Return the error for an event that would have to wait for room."""
    full = names_of([actor for actor in route.actors if actor.blocks_dispatch], ", ")
    return trio.WouldBlock(f"{route.name!r} was not dispatched: no room in the mailbox of {full}")


def keep_registered(actor: Actor) -> None:
    """Do nothing; the default until the listeners of the bus exist."""
