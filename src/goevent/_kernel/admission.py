"""What happens to mail besides being read: overflow, dropping, and the end of the bus."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._errors import EventAbandoned, EventDropped, MailboxFull
from .backpressure import NoRoom

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._handle import DispatchHandle
    from .actor import Actor
    from .failures import Failures
    from .routing import Route
    from .scheduler import Scheduler


class Admission:
    """The mailboxes of one bus, seen from where they are not simply filled and emptied."""

    def __init__(self, scheduler: Scheduler, failures: Failures) -> None:
        self._scheduler = scheduler
        self._failures = failures
        self.spend: Callable[[Actor], None] = forget  # takes away a listener that has had its event

    def commit(self, route: Route, handle: DispatchHandle) -> None:
        """Put an event into the mailboxes on its route, of which one may have no room.

        Raises:
            NoRoom: the dispatch has to wait; nothing was put anywhere.
            MailboxFull: one under `overflow="error"` is full; nothing was put anywhere.
        """
        if any(actor.blocks_dispatch for actor in route.actors):
            raise NoRoom(route, handle)
        self.put(route, handle)

    def put(self, route: Route, handle: DispatchHandle) -> None:
        """Put an event into all mailboxes on its route, whoever queues for room in them.

        A listener that takes one event only is unregistered in the same step.

        Raises:
            MailboxFull: one under `overflow="error"` is full; nothing was put anywhere.
        """
        scheduler = self._scheduler
        full = [actor for actor in route.actors if not actor.has_room()]
        for actor in full:
            if actor.overflow == "error":
                raise MailboxFull(f"{route.name!r} not dispatched: {actor.name} has no room for it")
        handle.left = len(route.actors) + route.awaits
        handle.since = scheduler.now = scheduler.clock()
        if route.special:
            for actor in route.listeners:
                actor.accepted += 1
                actor.pending_inline += actor.inline
        else:
            route.posted += 1
        for actor in route.actors:
            if actor in full:
                if actor.overflow == "drop_new":
                    self.drop(handle, actor, "its mailbox was full")
                    continue
                self.drop(actor.mail.popleft(), actor, "a newer event took its place")
            actor.mail.append(handle)
            if not actor.scheduled:
                actor.scheduled = True
                scheduler.ready.append(actor)
        for actor in route.once:
            self.spend(actor)
        if scheduler.ready and not scheduler.awake:
            scheduler.wake_workers()

    def drop(self, handle: DispatchHandle, actor: Actor, reason: str) -> None:
        """Settle an event that was taken out of a mailbox, or never got in."""
        error = EventDropped(handle.event_name, actor.name, reason=reason)
        self._failures.settle(actor, handle, error)

    def abandon(self, actor: Actor) -> None:
        """Settle all that an actor will not get to any more, as the bus has ended."""
        hands = actor.in_flight
        handles = [*hands, *actor.mail]
        actor.mail.clear()
        for lane in actor.lanes:
            lane.current = None
            lane.scheduled = False
        for handle in handles:
            started = handle in hands
            reason = f"the bus ended {'while' if started else 'before'} the listener ran"
            error = EventAbandoned(handle.event_name, actor.name, reason=reason, started=started)
            self._failures.settle(actor, handle, error)


def forget(actor: Actor) -> None:
    """Leave it at that."""
