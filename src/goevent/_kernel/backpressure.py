"""A dispatch that waits for room: back-pressure, first come, first served.

It stands in the queue of every `overflow="block"` mailbox on its route. When it is first in all of
them and all have room, whoever made the last room commits it, in that very step, or nudges it to
commit itself; it keeps its place until then, so it can neither be overtaken nor be cancelled
half-way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import outcome
import trio
from trio.lowlevel import Abort, Task, current_task, reschedule, wait_task_rescheduled

from .._handle import WOKEN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .._handle import DispatchHandle
    from .actor import Actor
    from .mailbox import Lane
    from .routing import Route


class NoRoom(trio.WouldBlock):
    """`dispatch_nowait` would have to wait for room; carries what a wait needs."""

    def __init__(self, route: Route, handle: DispatchHandle) -> None:
        full = ", ".join(actor.name for actor in route.actors if actor.blocked)
        super().__init__(f"{route.name!r} was not dispatched: no room in the mailbox of {full}")
        self.route = route
        self.handle = handle


class RoomWait:
    """One parked dispatch."""

    def __init__(
        self,
        route: Route,
        handle: DispatchHandle,
        actor: Actor | Lane | None,
        arrived: bool,
        put: Callable[[Route, DispatchHandle], None],
    ) -> None:
        self.route: Route = route
        # Neither from inside a listener nor from another bus: refused once the bus drains.
        self.outside: bool = actor is None and not arrived
        self.blocking: list[Actor] = [other for other in route.actors if other.overflow == "block"]
        self._handle = handle
        self._put = put
        self._task: Task | None = None  # while it is parked
        self._result: outcome.Outcome[None] | None = None
        self._decided = False
        self._cancelled = False

    async def wait(self) -> Route:
        """Return when the event is in the mailboxes, with the route that it has taken.

        It is not the same route if listeners were unregistered meanwhile.
        """
        self.route.free = 0  # nobody overtakes
        for actor in self.blocking:
            actor.enqueue(self)
        try:
            while self._result is None:
                let_in(self.blocking)
                if self._result is None:
                    self._task = current_task()
                    await wait_task_rescheduled(self._abort)
            self._result.unwrap()
            return self.route
        finally:
            if self._cancelled:
                let_in(self.blocking)

    def nudge(self) -> None:
        """Have it admitted by its own task, if there is room; for who may not wake others now."""
        if self._task is not None and self.has_room():
            task, self._task = self._task, None
            reschedule(task, WOKEN)

    def needs(self) -> list[Actor]:
        """Return the listeners that must go on before this dispatch can."""
        found: list[Actor] = []
        waiters: list[RoomWait] = [self]
        for waiter in waiters:  # grows by those who stand before it somewhere
            for actor in waiter.blocking:
                ahead = waiter.ahead(actor)
                if len(actor.mail) + len(ahead) >= actor.capacity:
                    found.append(actor)
                waiters += [other for other in ahead if other not in waiters]
        return found

    def ahead(self, actor: Actor) -> list[RoomWait]:
        """Return who stands before it in the queue of a mailbox, or would if it stood there."""
        queue = list(actor.queue or ())
        return queue[: queue.index(self)] if self in queue else queue

    def has_room(self) -> bool:
        return all(
            actor.queue is not None and actor.queue[0] is self and len(actor.mail) < actor.capacity
            for actor in self.blocking
        )

    @property
    def waits(self) -> bool:
        """False once it is decided what becomes of it."""
        return not (self._decided or self._cancelled)

    def leave_out(self, actor: Actor) -> None:
        """Wait on without a listener that is gone, with the same place in all queues."""
        self.route = self.route.without(actor)
        if actor in self.blocking:
            self.blocking.remove(actor)
            actor.dequeue(self)

    def admit(self) -> None:
        """Commit the event; there is room."""
        self._decide(lambda: outcome.capture(self._put, self.route, self._handle))

    def refuse(self, error: Exception) -> None:
        self._decide(lambda: outcome.Error(error))
        let_in(self.blocking)

    def _decide(self, result: Callable[[], outcome.Outcome[None]]) -> None:
        if self._decided:
            return
        self._decided = True  # before the commit, which may unregister listeners and let others in
        for actor in self.blocking:
            actor.dequeue(self)
        self._result = result()
        if self._task is not None:
            task, self._task = self._task, None
            reschedule(task, WOKEN)

    def _abort(self, _: object) -> Abort:
        # Who stood behind it is let in when its task runs: that may need a new worker, and Trio, in
        # the middle of cancelling many tasks, bears no new ones.
        self._task = None
        self._cancelled = True
        for actor in self.blocking:
            actor.dequeue(self)
        return Abort.SUCCEEDED


class Backpressure:
    """The dispatches of one bus that wait for room."""

    def __init__(self) -> None:
        self._waiters: list[RoomWait] = []

    def __len__(self) -> int:
        return len(self._waiters)

    async def wait(self, waiter: RoomWait) -> Route:
        """Wait until the event is in all mailboxes; returns the route that it has taken."""
        self._waiters.append(waiter)
        try:
            return await waiter.wait()
        finally:
            self._waiters.remove(waiter)

    def refuse(self, error: Callable[[], Exception], *, inside_too: bool) -> None:
        """Send away who still waits, or only those that come neither from listeners nor buses."""
        # From the last one on: the other way round, each would let in the one behind it.
        for waiter in self._waiters[::-1]:
            if inside_too or waiter.outside:
                waiter.refuse(error())

    def leave_out(self, actor: Actor) -> None:
        """Let dispatches that wait go on without a listener that is gone."""
        stale = [
            waiter
            for waiter in self._waiters
            if waiter.waits
            and actor in waiter.route.listeners
            and not actor.covers(waiter.route.name)
        ]
        for waiter in stale:  # all of them, or one would be let in where another stands before it
            waiter.leave_out(actor)
        for waiter in stale:
            if not waiter.blocking:
                waiter.admit()
        let_in([actor, *(other for waiter in stale for other in waiter.blocking)])


def let_in(actors: Iterable[Actor]) -> None:
    """Admit the dispatches that have queued longest, while there is room for them."""
    todo = list(actors)
    while todo:
        actor = todo.pop()
        while actor.queue and (waiter := actor.queue[0]).has_room():
            waiter.admit()
            todo.extend(waiter.blocking)
