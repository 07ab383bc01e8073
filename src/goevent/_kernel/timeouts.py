"""The timeouts: cancels the listeners that take longer than their timeout.

A task of the scheduler. Workers note when their listener is due; the timeouts sleeps until the
earliest time that was ever noted, looks who is overdue, and sleeps on. So a timeout costs an event
next to nothing, and a wake-up in vain once per timeout at the most.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

import trio
from trio.lowlevel import enable_ki_protection

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .worker import Worker


class Timeouts:
    """The timeouts of one scheduler."""

    def __init__(self) -> None:
        self._clock: Callable[[], float] = trio.current_time
        self._wakes = inf
        self._nap: trio.CancelScope | None = None

    def watch(self, worker: Worker, seconds: float) -> None:
        """Cancel what `worker` does if it is not finished in so many seconds."""
        worker.due = due = self._clock() + seconds
        if due < self._wakes:
            self._wakes = due
            if self._nap is not None:
                self._nap.deadline = trio.current_time() + seconds

    @enable_ki_protection
    async def run(
        self, clock: Callable[[], float], workers: Callable[[], Iterable[Worker]]
    ) -> None:
        """Watch `workers` until cancelled; `clock` is a quick way to tell the time."""
        self._clock = clock
        self._wakes = inf
        try:
            while True:
                rest = self._wakes - clock()
                with trio.CancelScope(deadline=trio.current_time() + rest) as self._nap:
                    await trio.sleep_forever()
                self._look(clock(), workers())
        finally:
            self._nap = None

    def _look(self, now: float, workers: Iterable[Worker]) -> None:
        self._wakes = inf
        for worker in workers:
            if worker.due <= now and worker.scope is not None:
                worker.due = inf
                worker.scope.cancel()
            elif worker.due < self._wakes:
                self._wakes = worker.due
