"""A dispatch that waits for room: back-pressure, first come, first served.

It stands in the queue of every `overflow="block"` mailbox on its route. When it is first in all of
them and all have room, whoever made the last room commits it, in that very step; so it can neither
be overtaken nor be cancelled half-way.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import outcome
import trio
from trio.lowlevel import Abort, Task, current_task, reschedule, wait_task_rescheduled

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
        put: Callable[[Route, DispatchHandle], None],
    ) -> None:
        self._route = route
        self.actor = actor  # inside whose listener the dispatch was called
        self.blocking = [other for other in route.actors if other.overflow == "block"]
        self._put = partial(put, route, handle)
        self._task: Task | None = None

    async def wait(self) -> bool:
        """Return True when the event is in the mailboxes, False if it has to be routed anew."""
        self._task = current_task()
        self._route.free = 0  # nobody overtakes
        for actor in self.blocking:
            actor.enqueue(self)
        return bool(await wait_task_rescheduled(self._abort))

    def needs(self) -> list[Actor]:
        """Return the listeners that must go on before this dispatch can."""
        return [
            actor
            for actor in self.blocking
            if len(actor.mail) >= actor.capacity or (actor.queue and actor.queue[0] is not self)
        ]

    def has_room(self) -> bool:
        return all(
            actor.queue is not None and actor.queue[0] is self and len(actor.mail) < actor.capacity
            for actor in self.blocking
        )

    def admit(self) -> None:
        """Commit the event; there is room."""
        self._go(outcome.capture(lambda: self._put() is None))

    def retry(self) -> None:
        """Let the dispatch look for its route again, because a listener is gone."""
        self._go(outcome.Value(False))
        let_in(self.blocking)

    def refuse(self, error: Exception) -> None:
        self._go(outcome.Error(error))
        let_in(self.blocking)

    def _go(self, result: outcome.Outcome[bool]) -> None:
        task, self._task = self._task, None
        for actor in self.blocking:
            actor.dequeue(self)
        if task is not None:
            reschedule(task, result)

    def _abort(self, _: object) -> Abort:
        self._task = None
        self.leave()
        return Abort.SUCCEEDED

    def leave(self) -> None:
        """Stand in no queue any more, and let those behind step up."""
        for actor in self.blocking:
            actor.dequeue(self)
        let_in(self.blocking)


def let_in(actors: Iterable[Actor]) -> None:
    """Admit the dispatches that have queued longest, while there is room for them."""
    todo = list(actors)
    while todo:
        actor = todo.pop()
        while actor.queue and (waiter := actor.queue[0]).has_room():
            waiter.admit()
            todo.extend(waiter.blocking)
