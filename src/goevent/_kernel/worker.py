"""A worker: one task of the scheduler, and the cancel scope by which it gives up a listener.

Owned by the scheduler, which spawns it when listeners are ready and no worker is free, and retires it
when a listener has not left it as it was.
"""

# pyright: reportPrivateUsage=false
# Trio's private `_cancel_status` is read here without the detour over _task_state.

from __future__ import annotations

from functools import partial
from math import inf
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol, Self, cast

import trio
from trio.lowlevel import enable_ki_protection

from .._errors import ListenerTimeout
from .._trio_internals import close_leftovers, request_to_park

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable, Coroutine, Generator
    from contextvars import Context
    from types import TracebackType

    from trio.lowlevel import Abort, Task

    from .actor import Actor, Lane
    from .backpressure import Backpressure
    from .timeouts import Timeouts

SLICE = 0.0002  # seconds of listeners' work between two yields to Trio


class Employer(Protocol):
    """What a worker needs of its scheduler."""

    ready: deque[Actor | Lane]
    awake: int
    suspended: int
    slow_after: float
    timeouts: Timeouts
    backpressure: Backpressure

    def loop(self, worker: Worker) -> Coroutine[Any, Any, None]: ...
    def leave(self, worker: Worker, _: object) -> Abort: ...
    def post(self) -> None: ...
    def warn_of(self, name: str, seconds: float) -> None: ...


class Worker:
    """One task of the scheduler. Awaits its loop, and tells the scheduler when a listener suspends in it.

    Driving every listener by hand would show the same and cost 150 ns a call; this costs nothing
    for listeners that do not suspend. It looks like a coroutine to `Task.iter_await_frames`.
    """

    __slots__ = (
        "_away",
        "_clean",
        "_loop",
        "_outside",
        "_scheduler",
        "_send",
        "actor",
        "due",
        "last",
        "rest",
        "scope",
        "slept",
        "slice_end",
        "status",
        "task",
    )

    def __init__(self, scheduler: Employer, task: Task, clean: Context) -> None:
        self.task: Task = task
        self.actor: Actor | Lane | None = None  # whose listener runs
        self.last: Actor | Lane | None = None  # whose listener ran last
        self.slept: bool = False  # it suspended
        self.slice_end: float = 0.0
        self.rest: object = request_to_park(partial(scheduler.leave, self))
        self.status: object = task._cancel_status  # as it must be between two listeners
        self._outside = self.status  # of its own scope
        self.scope: trio.CancelScope | None = None  # around listeners; once one has a timeout
        self.due: float = inf  # when the running listener has to be cancelled
        self._clean = clean
        self._scheduler = scheduler
        self._away = False
        self._loop: Any = scheduler.loop(self)
        self._send = self._loop.send

    @property
    def changed(self) -> bool:
        """True if a listener has not left the task as it was."""
        return self.task._cancel_status is not self.status or differ(self.task.context, self._clean)

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
        if self._away:
            self._away = False
            scheduler.suspended -= 1
            scheduler.awake += 1
        self.slice_end = perf_counter() + SLICE
        trap = self._send(value)
        over = perf_counter() - self.slice_end
        if over > scheduler.slow_after and self.last is not None:
            scheduler.warn_of(self.last.name, over + SLICE)
        if (actor := self.actor) is not None:
            self._away = self.slept = actor.suspends = True
            scheduler.suspended += 1
            scheduler.awake -= 1
            # Letting it in could wake this very task, of which Trio does not know that it waits.
            if not actor.limit:
                scheduler.backpressure.nudge(actor.listener)
            if scheduler.ready and not scheduler.awake:
                scheduler.post()
        return trap

    def throw(self, error: Any, *old_style: Any) -> Any:
        # Trio throws only to tell that something else than Trio was awaited.
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

    # -- its cancel scope, which stays on the task from one listener to the next

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        return self.scope.__exit__(kind, error, traceback) if self.scope is not None else None

    async def clean_up(self, error: BaseException | None) -> BaseException | None:
        """Leave all scopes, also its own, as that may be cancelled; returns the rest of `error`."""
        rest = await close_leftovers(self.task, self._outside, error)
        self.scope, self.status = None, self._outside
        return rest

    def renew(self) -> None:
        """Enter a new scope, as the old one is cancelled, or there was none."""
        self.scope = trio.CancelScope()
        self.scope.__enter__()
        self.status = self.task._cancel_status


class TimeLimit:
    """Cancels what the listener of a worker does within it, after some seconds.

    A scope for every event would cost 6 microseconds, and moving the deadline of one scope 3. So a
    worker has one scope for all its listeners, and the scheduler's timeouts cancels it when one is
    overdue. Then, and only then, it is replaced.
    """

    __slots__ = ("_complaint", "_own", "_seconds", "_worker")

    def __init__(self, worker: Worker, seconds: float, complaint: Callable[[], str]) -> None:
        self._worker = worker
        self._seconds = seconds
        self._complaint = complaint
        self._own: OwnTimeLimit | None = None

    def __enter__(self) -> None:
        worker = self._worker
        if worker.task._cancel_status is not worker.status:
            # Middleware has opened a scope, which the worker's cannot be inside of and outlast.
            self._own = OwnTimeLimit(self._seconds, self._complaint)
            self._own.__enter__()
            return
        if worker.scope is None:
            worker.renew()
        worker._scheduler.timeouts.watch(worker, self._seconds)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        if self._own is not None:
            return self._own.__exit__(kind, error, traceback)
        worker = self._worker
        worker.due = inf
        scope = worker.scope
        if scope is None or not scope.cancel_called:
            return None
        if worker.task._cancel_status is not worker.status:
            return None  # the listener left something open; the scheduler sees to it
        rest: BaseException | None = error
        try:
            if scope.__exit__(kind, error, traceback):
                rest = None
        except Exception as left:  # noqa: BLE001 - what was raised besides the cancellation
            rest = left
        finally:
            worker.renew()
        # One that got done after all, in the very moment or by ignoring it, got done.
        if error is not None and (rest is None or isinstance(rest, Exception)):
            raise ListenerTimeout(self._complaint()) from rest
        return None


class OwnTimeLimit:
    """As `TimeLimit`, with a scope of its own, for where no worker's is at hand."""

    __slots__ = ("_complaint", "_scope", "_seconds")

    def __init__(self, seconds: float, complaint: Callable[[], str]) -> None:
        self._seconds = seconds
        self._complaint = complaint
        self._scope = trio.CancelScope()

    def __enter__(self) -> None:
        self._scope.deadline = trio.current_time() + self._seconds
        self._scope.__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        late = self._scope.cancel_called
        rest: BaseException | None = error
        try:
            if self._scope.__exit__(kind, error, traceback):
                rest = None
        except Exception as left:
            if not late:
                raise
            rest = left
        if late and error is not None and (rest is None or isinstance(rest, Exception)):
            raise ListenerTimeout(self._complaint()) from rest
        return None


def differ(one: Context, other: Context) -> bool:
    """Compare two contexts, whose values may refuse to be compared."""
    try:
        return one != other
    except Exception:  # noqa: BLE001 - equal values are not compared at all
        return True
