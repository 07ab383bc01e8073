"""Reentrancy: calls to the bus that come from inside its own listeners.

A listener that has a mailbox, or that its dispatch awaits, may itself wait for the bus: for room in
a mailbox, or for a handle. It must never wait for its own end, directly or through other listeners.
This module finds the listener inside which a caller runs, tells it apart from callers outside, and
refuses a wait that could never end. The intake, the admission and the bus ask it; special dispatch
tells it which dispatches await inline listeners.
"""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING

from trio.lowlevel import current_task, in_trio_task

from .._errors import DeadlockError
from .waits_for_graph import WaitsForGraph

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable
    from contextlib import AbstractContextManager

    from trio.lowlevel import Task

    from .._handle import DispatchHandle
    from .actor import Actor, Lane
    from .backpressure import WaitingDispatch
    from .route import Route
    from .routing import Router
    from .scheduler import Scheduler

# The handles of the dispatches that await inline listeners, inside which the current task runs.
enclosing_dispatches: ContextVar[tuple[DispatchHandle, ...]] = ContextVar(
    "goevent.enclosing_dispatches", default=()
)

# The levels of nesting of one awaited inline listener: it needs more frames than a call.
LEVELS_PER_AWAITED_LISTENER = 5


def awaited_depth() -> int:
    """Return the levels of nesting that the awaited inline listeners around the caller add."""
    return LEVELS_PER_AWAITED_LISTENER * len(enclosing_dispatches.get())


class Reentrancy:
    """The listeners of one bus that may call it while they run.

    Attributes:
        underway: The handles of the dispatches that await inline listeners.
        unregistered: Returns the listeners that were unregistered and may still hold events.
    """

    def __init__(self, scheduler: Scheduler, router: Router) -> None:
        self._scheduler = scheduler
        self._router = router
        self._graph = WaitsForGraph()
        self.underway: set[DispatchHandle] = set()
        self.unregistered: Callable[[], Iterable[Actor]] = tuple
        # Each wait for room by a listener, and the check that raises once it can never end.
        self._room_waits: dict[WaitingDispatch, tuple[Actor | Lane, Callable[[], None]]] = {}

    # -- the caller

    def calling_actor(self) -> Actor | Lane | None:
        """Return the actor of the listener that the caller runs inside, if it has a mailbox."""
        task = current_task()
        if self._scheduler.suspended or task in self._scheduler.workers:
            return self._scheduler.owner(task)
        return None

    def calling_event(self) -> DispatchHandle | None:
        """Return the event of the listener that the caller runs inside, unless it is inline `def`.

        None outside of Trio's tasks, too: there, nothing can be inside a listener.
        """
        if self.underway:
            for handle in reversed(enclosing_dispatches.get()):
                if handle in self.underway:
                    return handle
        lane = self.calling_actor() if in_trio_task() else None
        return None if lane is None else lane.current

    def called_from_listener(self) -> bool:
        """Tell whether the caller runs inside a listener that may suspend."""
        return self.calling_actor() is not None or self._called_from_awaited_listener()

    def _called_from_awaited_listener(self) -> bool:
        underway = self.underway
        return bool(underway) and any(handle in underway for handle in enclosing_dispatches.get())

    def refuse_listener(self, verb: str) -> None:
        """Refuse a call that no listener may make, because it waits for all of them.

        Raises:
            RuntimeError: The caller runs inside a listener.
        """
        if self.called_from_listener():
            actor = self.calling_actor()
            name = "an inline listener" if actor is None else actor.name
            raise RuntimeError(f"{name} cannot {verb} the bus that runs it: it would never end")

    def all_actors(self) -> list[Actor]:
        """Return the actors that may hold events, with those that were unregistered meanwhile."""
        return [*self._router.actors(), *self.unregistered()]

    # -- waits

    def guard_handle_wait(self, handle: DispatchHandle, task: Task) -> AbstractContextManager[None]:
        """Guard a wait for a handle by a task that may run inside a listener.

        Raises:
            DeadlockError: The wait would never end.
        """
        if handle in enclosing_dispatches.get():
            raise DeadlockError(
                f"the handle of {handle.event_name!r} waits for this very listener to end"
            )
        actor = self._scheduler.owner(task)
        if actor is None:
            return nullcontext()
        return self._graph.edge(
            actor,
            lambda: [tuple(other.needed_for_event(handle)) for other in self.all_actors()],
            f"the handle of {handle.event_name!r}",
        )

    @contextmanager
    def guard_room_wait(
        self, waiter: WaitingDispatch, actor: Actor | Lane | None
    ) -> Generator[None]:
        """Guard a wait for room by a dispatch, which may come from an actor's listener.

        Raises:
            DeadlockError: The wait would never end.
        """
        if actor is None:
            yield
            return

        def needs() -> list[tuple[Actor | Lane, ...]]:
            return [other.needed_for_room for other in waiter.needs()]

        what = f"room for {waiter.route.name!r}"
        self._room_waits[waiter] = actor, partial(self._graph.check, actor, needs, what)
        try:
            with self._graph.edge(actor, needs, what):
                yield
        finally:
            del self._room_waits[waiter]

    def recheck_room_waits(self, route: Route, handle: DispatchHandle) -> None:
        """Refuse the waits for room that can no longer end since an event was admitted.

        The event of one listener may now be queued behind that of another listener, which itself
        waits for room. Neither wait was a deadlock when it began.
        """
        if self._room_waits:
            lanes = [lane for lane, _ in self._room_waits.values()]
            if any(
                lane in lanes for actor in route.actors for lane in actor.needed_for_event(handle)
            ):
                for waiter, (_, check) in tuple(self._room_waits.items()):
                    try:
                        check()
                    except DeadlockError as error:
                        waiter.refuse(error)
