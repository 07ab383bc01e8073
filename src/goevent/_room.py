"""A dispatch that waits for room: back-pressure, first come, first served.

It stands in the queue of every `overflow="block"` mailbox on its route. When it is first in all of
them and all have room, whoever made the last room commits it, in that very step, or nudges it to
commit itself; it keeps its place until then, so it can neither be overtaken nor be cancelled
half-way.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import outcome
import trio
from trio.lowlevel import Abort, Task, current_task, reschedule, wait_task_rescheduled

from ._handle import WOKEN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ._actor import Actor
    from ._handle import DispatchHandle
    from ._routing import Route


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
        actor: Actor | None,
        arrived: bool,
        put: Callable[[Route, DispatchHandle], None],
    ) -> None:
        self.route = route
        # Neither from inside a listener nor from another bus: refused once the bus drains.
        self.outside: bool = actor is None and not arrived
        self.blocking: list[Actor] = [other for other in route.actors if other.overflow == "block"]
        self._put = partial(put, route, handle)
        self._task: Task | None = None  # while it is parked
        self._result: outcome.Outcome[bool] | None = None
        self._cancelled = False

    async def wait(self) -> bool:
        """Return True when the event is in the mailboxes, False if it has to be routed anew."""
        self.route.free = 0  # nobody overtakes
        for actor in self.blocking:
            actor.enqueue(self)
        try:
            while self._result is None:
                let_in(self.blocking)
                if self._result is None:
                    self._task = current_task()
                    await wait_task_rescheduled(self._abort)
            return self._result.unwrap()
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

    def admit(self) -> None:
        """Commit the event; there is room."""
        self._go(outcome.capture(lambda: self._put() is None))

    def step_out(self) -> None:
        """Let the dispatch look for its route again; who stood behind it has to be let in."""
        self._go(outcome.Value(False))

    def refuse(self, error: Exception) -> None:
        self._go(outcome.Error(error))
        let_in(self.blocking)

    def _go(self, result: outcome.Outcome[bool]) -> None:
        if self._result is not None:
            return
        self._result = result
        for actor in self.blocking:
            actor.dequeue(self)
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


def let_in(actors: Iterable[Actor]) -> None:
    """Admit the dispatches that have queued longest, while there is room for them."""
    todo = list(actors)
    while todo:
        actor = todo.pop()
        while actor.queue and (waiter := actor.queue[0]).has_room():
            waiter.admit()
            todo.extend(waiter.blocking)
