"""The worker: one task that runs listeners for the scheduler.

The scheduler owns its workers: it spawns one when listeners are ready and no worker is free, and
retires it when a listener has not left the task as it was.

Theory of operation. The scheduler has to know when a listener suspends, because then the worker's
task is blocked and another one has to run the other listeners. Driving each call of a listener by
hand would show it, but would cost 150 ns a call. Instead the worker drives the *loop* by hand, the
coroutine that calls all the listeners (`Scheduler.loop`). While listeners do not suspend, the loop
does not either, and the worker sees nothing and costs nothing. When a step of the loop ends while
an actor is set, its listener has suspended, and the worker counts itself as suspended until its
next step.

While a step runs, the intake has the worker as the caller of every dispatch. So a dispatch inside a
listener finds the event that causes it, and a step pays for that, not an event.

Listeners share the task of the worker. Around them there may be a cancel scope, with which
`timeouts` cancels a run. It stays open from one listener to the next, so a run pays nothing for it.
"""

# The worker and the intake share `_owner`.
# pyright: reportPrivateUsage=false

from __future__ import annotations

from functools import partial
from math import inf
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol, Self, cast

import trio
from trio.lowlevel import enable_ki_protection

from .._trio_internals import (
    cancel_status,
    close_leftovers,
    has_child_tasks,
    request_to_park,
)

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Coroutine, Generator
    from contextvars import Context
    from types import TracebackType

    from trio.lowlevel import Abort, Task

    from .actor import Actor, Lane
    from .backpressure import Backpressure

SLICE_SECONDS = 0.0002
"""How long a worker runs listeners between two yields to Trio."""


class CallerNote(Protocol):
    """The part of the intake that workers use: its note of the listener that runs.

    Attributes:
        _owner: The worker whose step runs; see `intake`.
        _outside: The value of `_owner` outside of steps and inline calls.
    """

    _owner: Any
    _outside: int

    def begin_search(self) -> None: ...
    def end_search(self) -> None: ...


class WorkerScheduler(Protocol):
    """The part of the scheduler that its workers use."""

    caller: CallerNote
    ready: deque[Actor | Lane]
    awake: int
    suspended: int
    slow_after: float
    backpressure: Backpressure

    def loop(self, worker: Worker) -> Coroutine[Any, Any, None]: ...
    def abort_park(self, worker: Worker, _: object) -> Abort: ...
    def wake_workers(self) -> None: ...
    def warn_slow(self, name: str, seconds: float) -> None: ...


class Worker:
    """One task of a scheduler.

    The task awaits the worker, which drives the loop. To Trio and to debuggers the worker looks
    like a coroutine (`Task.iter_await_frames`).

    Attributes:
        actor: The actor of the running listener; None between two listeners.
        last_actor: The actor of the listener that ran last in this step; None while parked.
        has_suspended: True if the listener of the actor has suspended since its turn began.
        slice_end: When the worker has to yield to Trio.
        park_request: The request with which the worker parks, for `park`.
        status: The cancel status of the task between two listeners.
        scope: The cancel scope around the listeners; None until the first of them has a timeout.
        deadline: When the running listener has to be cancelled; set by `timeouts`.
    """

    __slots__ = (
        "_base_status",
        "_caller",
        "_clean",
        "_has_children",
        "_is_suspended",
        "_loop",
        "_scheduler",
        "_send",
        "actor",
        "deadline",
        "has_suspended",
        "last_actor",
        "park_request",
        "scope",
        "slice_end",
        "status",
        "task",
    )

    def __init__(self, scheduler: WorkerScheduler, task: Task, clean: Context) -> None:
        self.task: Task = task
        self.actor: Actor | Lane | None = None
        self.last_actor: Actor | Lane | None = None
        self.has_suspended: bool = False
        self.slice_end: float = 0.0
        self.park_request: object = request_to_park(partial(scheduler.abort_park, self))
        self.status: object = cancel_status(task)
        self._base_status = self.status  # outside of the worker's own scope
        self.scope: trio.CancelScope | None = None
        self.deadline: float = inf
        self._clean = clean
        self._scheduler = scheduler
        self._caller = scheduler.caller
        self._is_suspended = False
        self._has_children = False
        self._loop: Any = scheduler.loop(self)
        self._send = self._loop.send

    # -- the state of the task

    @property
    def in_own_scope(self) -> bool:
        """True if no scope is open inside the worker's own."""
        return cancel_status(self.task) is self.status

    @property
    def is_dirty(self) -> bool:
        """True if a listener has not left the task as it was."""
        return not self.in_own_scope or differ(self.task.context, self._clean)

    @property
    def is_cancelled(self) -> bool:
        """True if the scope around the listeners was cancelled."""
        scope = self.scope
        return scope is not None and scope.cancel_called

    def bound_run(self, deadline: float) -> None:
        """Cancel the running listener at a deadline, by Trio's clock; infinity takes it back."""
        if self.scope is not None:
            self.scope.deadline = deadline

    def cancel_run(self, reason: str) -> None:
        """Cancel the running listener; `timeouts.leave_cancelled` has to be called at its end."""
        if self.scope is not None:
            self.scope.cancel(reason)

    # -- driving the loop

    def __await__(self) -> Generator[Any, Any, None]:
        return cast("Generator[Any, Any, None]", self)

    def __iter__(self) -> Worker:
        return self

    def __next__(self) -> Any:
        return self.send(None)

    @enable_ki_protection
    def send(self, value: Any) -> Any:
        scheduler = self._scheduler
        if self._is_suspended:
            self._is_suspended = False
            scheduler.suspended -= 1
            scheduler.awake += 1
            if self._has_children:
                self._has_children = False
                self._caller.end_search()
        caller = self._caller
        caller._owner = self
        self.slice_end = perf_counter() + SLICE_SECONDS
        try:
            trap = self._send(value)
        finally:
            caller._owner = caller._outside
        over = perf_counter() - self.slice_end
        if over > scheduler.slow_after and self.last_actor is not None:
            scheduler.warn_slow(self.last_actor.name, over + SLICE_SECONDS)
        if (actor := self.actor) is not None:
            self._is_suspended = self.has_suspended = actor.suspends = True
            scheduler.suspended += 1
            scheduler.awake -= 1
            # The listener has child tasks, which may dispatch before its next step.
            if has_child_tasks(self.task):
                self._has_children = True
                caller.begin_search()
            # The mailbox has room: the event that the listener runs with was taken out of it.
            # Admitting a dispatch from here could wake this very task, and Trio does not know yet
            # that the task waits. So the dispatch is woken to admit itself.
            if not actor.limit:
                scheduler.backpressure.nudge(actor.listener)
            if scheduler.ready and not scheduler.awake:
                scheduler.wake_workers()
        else:
            self.last_actor = None  # a parked worker must not keep it alive
        return trap

    def throw(self, error: Any, *old_style: Any) -> Any:
        # Trio throws into a task for one reason only: it has awaited something foreign to Trio.
        self._send = partial(self._throw, error, *old_style)
        return self.send(None)

    def _throw(self, *error: Any) -> Any:
        self._send = self._loop.send
        return self._loop.throw(*error[:-1])

    def close(self) -> None:
        self._loop.close()

    @property
    def cr_frame(self) -> Any:
        return self._loop.cr_frame

    @property
    def cr_await(self) -> Any:
        return self._loop.cr_await

    # -- the cancel scope, which stays on the task from one listener to the next

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        return self.scope.__exit__(kind, error, traceback) if self.scope is not None else None

    def renew_scope(self) -> None:
        """Enter a new scope: there was none, or the old one was cancelled and left."""
        self.scope = trio.CancelScope()
        self.scope.__enter__()
        self.status = cancel_status(self.task)

    async def clean_up(self, error: BaseException | None) -> BaseException | None:
        """Close the scopes and nurseries that a listener left open; return the rest of `error`.

        The worker's own scope is closed too, because it may be cancelled: the worker retires.
        """
        rest = await close_leftovers(self.task, self._base_status, error)
        self.scope, self.status = None, self._base_status
        return rest


def differ(one: Context, other: Context) -> bool:
    """Compare two contexts; values that refuse to be compared count as different."""
    # Python compares values by identity first, so an unchanged one never gets this far.
    try:
        return one != other
    except Exception:  # noqa: BLE001 - raised by an __eq__ of the application
        return True
