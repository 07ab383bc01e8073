"""Tells calls that come from inside listeners, and refuses those that would wait for themselves.

A listener that has a mailbox, or that dispatch awaits, may itself wait: for room in a mailbox or
for a handle. What it must never do is to wait for itself, directly or by way of others.
"""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING

from trio.lowlevel import current_task

from .._errors import DeadlockError
from .inline_async import underway
from .waits_for_graph import WaitsForGraph

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable
    from contextlib import AbstractContextManager

    from trio.lowlevel import Task

    from .._handle import DispatchHandle
    from .actor import Actor, Lane
    from .backpressure import WaitingDispatch
    from .routing import Route, Router
    from .scheduler import Scheduler
    from .special_dispatch import SpecialDispatch


class Reentrancy:
    """The listeners of one bus that may call it while they run."""

    def __init__(
        self, scheduler: Scheduler, router: Router, special_dispatch: SpecialDispatch
    ) -> None:
        self._scheduler = scheduler
        self._router = router
        self._special_dispatch = special_dispatch
        self._waits = WaitsForGraph()
        self.departed: Callable[[], Iterable[Actor]] = tuple  # who may still have mail
        # Who waits for room, and what raises when it waits in vain.
        self._for_room: dict[WaitingDispatch, tuple[Actor | Lane, Callable[[], None]]] = {}

    def inside(self) -> Actor | Lane | None:
        """Return the actor inside whose listener the caller runs, if it has a mailbox."""
        task = current_task()
        if self._scheduler.suspended or task in self._scheduler.workers:
            return self._scheduler.owner(task)
        return None

    def are_here(self) -> bool:
        """Tell whether the caller runs inside a listener that may suspend."""
        return self.inside() is not None or self._special_dispatch.waits_inside()

    def refuse(self, verb: str) -> None:
        """Raise what says that a listener cannot wait for its own bus."""
        if self.are_here():
            actor = self.inside()
            name = "an inline listener" if actor is None else actor.name
            raise RuntimeError(f"{name} cannot {verb} the bus that runs it: it would never end")

    def at_work(self) -> list[Actor]:
        """Return who may hold events, also listeners that were unregistered with them."""
        return [*self._router.actors(), *self.departed()]

    def waiting(self, handle: DispatchHandle, task: Task) -> AbstractContextManager[None]:
        """Guard a wait for a handle by a task that may run inside a listener.

        Raises:
            DeadlockError: it would never end.
        """
        if handle in underway.get():
            raise DeadlockError(
                f"the handle of {handle.event_name!r} waits for this very listener to end"
            )
        actor = self._scheduler.owner(task)
        if actor is None:
            return nullcontext()
        return self._waits.edge(
            actor,
            lambda: [tuple(other.needed_for_event(handle)) for other in self.at_work()],
            f"the handle of {handle.event_name!r}",
        )

    @contextmanager
    def waiting_for_room(
        self, waiter: WaitingDispatch, actor: Actor | Lane | None
    ) -> Generator[None]:
        """Guard a wait for room by a dispatch, which an actor's listener may have made.

        Raises:
            DeadlockError: it would never end.
        """
        if actor is None:
            yield
            return

        def needs() -> list[tuple[Actor | Lane, ...]]:
            return [other.needed_for_room for other in waiter.needs()]

        what = f"room for {waiter.route.name!r}"
        self._for_room[waiter] = actor, partial(self._waits.check, actor, needs, what)
        try:
            with self._waits.edge(actor, needs, what):
                yield
        finally:
            del self._for_room[waiter]

    def admitted(self, route: Route, handle: DispatchHandle) -> None:
        """Look who waits for room in vain, now that others were let in before.

        Their events may stand in order behind the one of a listener that itself waits for room.
        """
        if self._for_room:
            lanes = [lane for lane, _ in self._for_room.values()]
            if any(
                lane in lanes for actor in route.actors for lane in actor.needed_for_event(handle)
            ):
                for waiter, (_, check) in tuple(self._for_room.items()):
                    try:
                        check()
                    except DeadlockError as error:
                        waiter.refuse(error)
