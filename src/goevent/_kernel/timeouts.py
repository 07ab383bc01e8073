"""The timeouts: cancel the runs of listeners that take longer than `ListenerOptions.timeout`.

They also end the waits of requests, which note their deadlines in the same way.

A `TimeLimit` stands around each such run on a worker. `Timeouts`, one for each scheduler, runs in a
task of the scheduler's nursery and cancels the scopes of the workers that are overdue.

Theory of operation. A cancel scope of its own for each event would cost 6 microseconds, and moving
the deadline of one long-lived scope still 3, because Trio keeps deadlines in a heap. So a worker
keeps one scope without a deadline around all its listeners, and only notes the deadline of the
current run. The task of `Timeouts` sleeps until the earliest deadline that was noted since it last
looked, cancels the scopes that are overdue, and sleeps on until the earliest deadline left. A run
that ends in time just clears its note, so the task wakes in vain at most once per timeout.

A cancelled scope stays cancelled, and the next listener must not run in it. So the worker replaces
its scope when, and only when, it was cancelled.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Protocol

import trio
from trio.lowlevel import enable_ki_protection

from .._trio_internals import cancel_status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType

    from .worker import Worker


class TimedWait(Protocol):
    """A wait with a deadline, by the clock of the scheduler."""

    deadline: float

    def expire(self) -> None:
        """End the wait: its deadline has passed."""
        ...


class Timeouts:
    """The timeouts of one scheduler.

    Attributes:
        waits: Returns the waits with a deadline.
    """

    def __init__(self) -> None:
        self.waits: Callable[[], Iterable[TimedWait]] = tuple
        self._clock: Callable[[], float] = trio.current_time
        self._wake_time = inf
        self._sleep: trio.CancelScope | None = None

    def watch(self, worker: Worker, seconds: float) -> None:
        """Cancel the current run of a worker if it does not end within `seconds`."""
        worker.deadline = self._wake_in(seconds)

    def watch_wait(self, wait: TimedWait, seconds: float) -> None:
        """End a wait, which is one of `waits`, if it does not end within `seconds`."""
        wait.deadline = self._wake_in(seconds)

    def _wake_in(self, seconds: float) -> float:
        """Look at the deadlines after some seconds; return that time."""
        deadline = self._clock() + seconds
        if deadline < self._wake_time:
            self._wake_time = deadline
            # The task of `run` may not have begun to sleep yet; then it reads `_wake_time` itself.
            if self._sleep is not None:
                self._sleep.deadline = trio.current_time() + seconds
        return deadline

    @enable_ki_protection
    async def run(
        self, clock: Callable[[], float], workers: Callable[[], Iterable[Worker]]
    ) -> None:
        """Watch the workers until cancelled.

        Args:
            clock: Tells the time, at less cost than `trio.current_time`.
            workers: Returns the current workers.
        """
        self._clock = clock
        self._wake_time = inf
        try:
            while True:
                rest = self._wake_time - clock()
                with trio.CancelScope(deadline=trio.current_time() + rest) as self._sleep:
                    await trio.sleep_forever()
                self._cancel_overdue(clock(), workers())
        finally:
            self._sleep = None

    def _cancel_overdue(self, now: float, workers: Iterable[Worker]) -> None:
        self._wake_time = inf
        for worker in workers:
            if worker.deadline <= now and worker.scope is not None:
                # Once is enough, even for a listener that ignores its cancellation.
                worker.deadline = inf
                worker.scope.cancel()
            elif worker.deadline < self._wake_time:
                self._wake_time = worker.deadline
        for wait in [*self.waits()]:
            if wait.deadline <= now:
                wait.deadline = inf
                wait.expire()
            elif wait.deadline < self._wake_time:
                self._wake_time = wait.deadline


class TimeLimit:
    """Cancels the block inside it after some seconds, with the scope of the worker.

    Args:
        timeouts: The timeouts of the worker's scheduler.
        worker: The worker that runs the block.
        seconds: The timeout.
        error: Returns the error to raise if the block was cancelled.
    """

    __slots__ = ("_error", "_own", "_seconds", "_timeouts", "_worker")

    def __init__(
        self, timeouts: Timeouts, worker: Worker, seconds: float, error: Callable[[], Exception]
    ) -> None:
        self._timeouts = timeouts
        self._worker = worker
        self._seconds = seconds
        self._error = error
        self._own: OwnTimeLimit | None = None

    def __enter__(self) -> None:
        worker = self._worker
        # As `worker.in_own_scope`, with one call less for each event that has a timeout.
        if cancel_status(worker.task) is not worker.status or worker.deadline < inf:
            # Middleware has opened a scope inside the worker's. The worker could not replace its
            # own scope without leaving that one, so this run gets a scope of its own. So does one
            # limit inside another one.
            self._own = OwnTimeLimit(self._seconds, self._error)
            self._own.__enter__()
            return
        if worker.scope is None:
            worker.renew_scope()
        self._timeouts.watch(worker, self._seconds)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        if self._own is not None:
            return self._own.__exit__(kind, error, traceback)
        worker = self._worker
        worker.deadline = inf
        scope = worker.scope
        if scope is None or not scope.cancel_called:
            return None
        return leave_cancelled(worker, kind, error, traceback, self._error)


def leave_cancelled(
    worker: Worker,
    kind: type[BaseException] | None,
    error: BaseException | None,
    traceback: TracebackType | None,
    replacement: Callable[[], Exception],
) -> bool | None:
    """Leave the cancelled scope of a worker, which gets a new one.

    Args:
        worker: The worker.
        kind: The class of `error`.
        error: The exception that leaves the run; None if it has completed.
        traceback: Its traceback.
        replacement: Returns the error to raise in place of the cancellation.
    """
    scope = worker.scope
    if scope is None or not worker.in_own_scope:
        return None  # the listener left a scope open; the scheduler cleans up
    rest: BaseException | None = error
    try:
        if scope.__exit__(kind, error, traceback):
            rest = None
    except Exception as left:  # noqa: BLE001 - raised besides the cancellation
        rest = left
    finally:
        worker.renew_scope()
    # A listener that completed although it was cancelled (in the same moment, or because it
    # ignores cancellation) has completed.
    if error is not None and (rest is None or issubclass(type(rest), Exception)):
        raise replacement() from rest
    return None


class OwnTimeLimit:
    """Cancels the block inside it after some seconds, with a scope of its own.

    For awaited inline listeners, which run on no worker, and for runs inside a scope of middleware.
    """

    __slots__ = ("_error", "_scope", "_seconds")

    def __init__(self, seconds: float, error: Callable[[], Exception]) -> None:
        self._seconds = seconds
        self._error = error
        self._scope = trio.CancelScope()

    def __enter__(self) -> None:
        self._scope.deadline = trio.current_time() + self._seconds
        self._scope.__enter__()

    def cancel(self, reason: str) -> None:
        """Cancel the block before its time."""
        self._scope.cancel(reason)

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
        if late and error is not None and (rest is None or issubclass(type(rest), Exception)):
            raise self._error() from rest
        return None
