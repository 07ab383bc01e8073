"""Back-pressure: dispatches that wait for room in mailboxes, and the queues they wait in.

The dispatcher enters a dispatch here when a mailbox with `overflow="block"` has no room. The
scheduler and the publisher call `made_room` when they have taken events from a mailbox.

Theory of operation. Each mailbox without room has a first-come-first-served queue of dispatches. A
dispatch stands in the queues of all `overflow="block"` mailboxes on its route, because it commits
to all of them at once or to none. It is admitted when it is the first in each of its queues and
each of these mailboxes has room.

The task that made the last room admits the dispatch: it commits the event in that same step and
only then wakes the task that waits. So no newcomer can take the room in between, and a cancelled
wait means for certain that nothing was sent. While a mailbox has a queue its actor's `limit` is 0;
this one number sends every newcomer to the back of the queue.

A dispatch that leaves the front of a queue (admitted, refused or cancelled) may let the next one
in, in each of the queues that it stood in. `Backpressure.admit` follows these consequences to the
end.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import outcome
from trio.lowlevel import Abort, Task, current_task, reschedule, wait_task_rescheduled

from .._handle import WAKE_UP

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .._handle import DispatchHandle
    from .actor import Actor, Lane
    from .route import Route


class WaitingDispatch:
    """One dispatch that waits for room.

    Attributes:
        route: The route that the event will take. Once the dispatch is admitted, the route leads to
            no listener that was unregistered while the dispatch waited.
        from_outside: True if neither a listener nor another bus dispatches: such a dispatch is
            refused once the bus drains.
        mailboxes: The actors of the mailboxes that have to have room.
        blocker: The actor of a mailbox that last kept the dispatch from being admitted.
    """

    def __init__(
        self,
        backpressure: Backpressure,
        route: Route,
        handle: DispatchHandle,
        actor: Actor | Lane | None,
        arrived: bool,
        put: Callable[[Route, DispatchHandle], None],
    ) -> None:
        self.route: Route = route
        self.from_outside: bool = actor is None and not arrived
        self.mailboxes: dict[Actor, None] = {
            other: None for other in route.actors if other.overflow == "block"
        }
        self.blocker: Actor | None = None
        self.cancelled: bool = False
        self._backpressure = backpressure
        self._handle = handle
        self._put = put
        self._task: Task | None = None  # while it is parked
        self._result: outcome.Outcome[None] | None = None
        self._decided = False
        self._departures = backpressure.departures

    # -- the waiting task

    async def wait_for_result(self) -> Route:
        """Park until the dispatch is admitted or refused; return the route that it has taken."""
        while self._result is None:
            self._backpressure.admit(self.mailboxes)
            if self._result is None:
                self._task = current_task()
                await wait_task_rescheduled(self._abort)
        self._result.unwrap()
        return self.route

    def _abort(self, _: object) -> Abort:
        # The dispatches behind this one are admitted when its task runs. To admit them may need a
        # new worker, and Trio cannot spawn one here, in the middle of cancelling many tasks.
        self._task = None
        self.cancelled = True
        self._backpressure.leave_queues(self)
        return Abort.SUCCEEDED

    def _wake(self) -> None:
        if self._task is not None:
            task, self._task = self._task, None
            reschedule(task, WAKE_UP)

    # -- the decision

    @property
    def undecided(self) -> bool:
        """True until the dispatch is admitted, refused or cancelled."""
        return not (self._decided or self.cancelled)

    def admit(self) -> None:
        """Commit the event; all mailboxes have room."""
        self._decide(lambda: outcome.capture(self._commit))

    def _commit(self) -> None:
        if self._departures != self._backpressure.departures:
            name, listeners = self.route.name, self.route.listeners
            left = [actor for actor in listeners if actor.listens_to(name)]
            if len(left) < len(listeners):
                self.route = self.route.with_listeners(left)
        self._put(self.route, self._handle)

    def refuse(self, error: Exception) -> None:
        """Have the dispatch raise an error, and admit the dispatches behind it."""
        self._decide(lambda: outcome.Error(error))
        self._backpressure.admit(self.mailboxes)

    def _decide(self, result: Callable[[], outcome.Outcome[None]]) -> None:
        if self._decided:
            return
        # Before the commit: it may unregister listeners, which comes back here for other waits.
        self._decided = True
        self._backpressure.leave_queues(self)
        self._result = result()
        self._wake()

    def nudge(self) -> None:
        """Wake the task to admit itself, if there is room."""
        if self._task is not None and self._backpressure.may_admit(self):
            self._wake()

    # -- for the search for deadlocks

    def needs(self) -> list[Actor]:
        """Return the actors that have to take events before this dispatch can be admitted."""
        found: list[Actor] = []
        waiting: list[WaitingDispatch] = [self]
        for waiter in waiting:  # grows by the dispatches before these in a queue
            for actor in waiter.mailboxes:
                ahead = self._backpressure.ahead_of(waiter, actor)
                if not actor.has_room(len(ahead)):
                    found.append(actor)
                waiting += [other for other in ahead if other not in waiting]
        return found


class Backpressure:
    """The waiting dispatches of one bus.

    Attributes:
        departures: How often a listener was unregistered, for one name at least.
    """

    def __init__(self) -> None:
        self.departures: int = 0
        self._waiting: list[WaitingDispatch] = []
        self._queues: dict[Actor, deque[WaitingDispatch]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    async def wait(self, waiter: WaitingDispatch) -> Route:
        """Wait until the event is in all mailboxes; return the route that it has taken."""
        self._waiting.append(waiter)
        # The room that the route has counted in advance must not let another dispatch overtake.
        waiter.route.free = 0
        for actor in waiter.mailboxes:
            self._queues.setdefault(actor, deque()).append(waiter)
            actor.limit = 0
        try:
            return await waiter.wait_for_result()
        finally:
            try:
                if waiter.cancelled:
                    self.admit(waiter.mailboxes)
            finally:
                self._waiting.remove(waiter)

    # -- the queues

    def leave_queues(self, waiter: WaitingDispatch) -> None:
        """Take a dispatch out of all its queues."""
        for actor in waiter.mailboxes:
            self._leave_queue(waiter, actor)

    def _leave_queue(self, waiter: WaitingDispatch, actor: Actor) -> None:
        queue = self._queues.get(actor)
        if queue is not None and waiter in queue:
            queue.remove(waiter)
            if not queue:
                del self._queues[actor]
                actor.limit = actor.capacity

    def ahead_of(self, waiter: WaitingDispatch, actor: Actor) -> list[WaitingDispatch]:
        """Return the dispatches before this one in a queue, or all if it has not joined yet."""
        queue = list(self._queues.get(actor, ()))
        return queue[: queue.index(waiter)] if waiter in queue else queue

    def may_admit(self, waiter: WaitingDispatch) -> bool:
        """Tell whether a dispatch is first in all its queues, with room in all mailboxes."""
        # Its last blocker first: for a dispatch to many listeners it is most often still the one.
        blocker, waiter.blocker = waiter.blocker, None
        if blocker is not None and blocker in waiter.mailboxes and self._blocks(blocker, waiter):
            waiter.blocker = blocker
            return False
        for actor in waiter.mailboxes:
            if self._blocks(actor, waiter):
                waiter.blocker = actor
                return False
        return True

    def _blocks(self, actor: Actor, waiter: WaitingDispatch) -> bool:
        queue = self._queues.get(actor)
        return queue is None or queue[0] is not waiter or not actor.has_room()

    # -- admission

    def made_room(self, actor: Actor) -> None:
        """Admit the dispatches for which a mailbox has room now."""
        self.admit((actor,))

    def admit(self, actors: Iterable[Actor]) -> None:
        """Admit the first dispatches in the queues of these mailboxes, while there is room."""
        todo = list(actors)
        while todo:
            actor = todo.pop()
            while (queue := self._queues.get(actor)) and self.may_admit(waiter := queue[0]):
                waiter.admit()
                todo.extend(waiter.mailboxes)

    def nudge(self, actor: Actor) -> None:
        """Have the first dispatch in a queue admit itself, in its own task.

        For a caller that cannot admit it: the commit might wake the very task that calls, and Trio
        does not know yet that this task is about to wait.
        """
        if queue := self._queues.get(actor):
            queue[0].nudge()

    def refuse(self, error: Callable[[], Exception], *, inside_too: bool) -> None:
        """Refuse the dispatches that wait; without `inside_too` only those from outside."""
        # The last one first: in the other order each refusal would admit the next dispatch.
        for waiter in self._waiting[::-1]:
            if inside_too or waiter.from_outside:
                waiter.refuse(error())

    def leave_out(self, actor: Actor) -> None:
        """Let the dispatches that wait do without an unregistered listener.

        They keep their places in all other queues. Their routes change when they are admitted.
        """
        self.departures += 1
        stale = [
            waiter
            for waiter in self._queues.get(actor, ())
            if not actor.listens_to(waiter.route.name)
        ]
        # All leave the queue before one is admitted. Otherwise one could be admitted although
        # another one that leaves still stands before it.
        for waiter in stale:
            self._leave_queue(waiter, actor)
            del waiter.mailboxes[actor]
        for waiter in stale:
            if waiter.undecided and self.may_admit(waiter):
                waiter.admit()
                self.admit(waiter.mailboxes)
        self.admit((actor,))
