"""Listeners that block: each run in a worker thread, one after another unless it is concurrent."""

from __future__ import annotations

import logging
from threading import Lock, get_ident
from typing import TYPE_CHECKING, Any

import trio
from trio.lowlevel import current_task

from .._delivery import finder
from .._kernel.timeouts import TimeLimit

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._kernel.actor import Actor, Lane
    from .._kernel.scheduler import Scheduler

logger = logging.getLogger("goevent")


def run_in_thread(
    handler: Callable[[Any], Any],
    actor: Actor,
    scheduler: Scheduler,
    limiter: trio.CapacityLimiter,
    timeout: float | None,
) -> Callable[[Any], Any]:
    """Give a `def` the shape of an `async def` that runs it in a thread."""

    def bind(event: Any) -> Callable[[], None]:
        delivery = scheduler.delivery()

        def work() -> None:
            # The thread has a copy of the worker's context, and what it calls in the event loop has
            # a copy of the thread's.
            thread, elsewhere = get_ident(), finder.get()
            finder.set(lambda: delivery if get_ident() == thread else elsewhere())
            scheduler.threads.add(thread)
            try:
                handler(event)
            finally:
                scheduler.threads.discard(thread)

        return work

    async def run(event: Any) -> None:
        await trio.to_thread.run_sync(bind(event), limiter=limiter)

    if timeout is None:
        return run

    async def run_limited(event: Any) -> None:
        worker = scheduler.workers[current_task()]
        call = ThreadCall(bind(event), actor, scheduler, worker.actor, limiter)
        scheduler.spawn(call.run)
        with TimeLimit(scheduler.timeouts, worker, timeout, lambda: call.complaint(timeout)):
            await call.wait()

    return run_limited


class ThreadCall:
    """One run with a timeout, in a task of the scheduler's nursery: it outlives the listener's patience.

    A thread cannot be stopped. One that is late is left to run on: it is counted, it keeps its
    place in the limiter, its end is logged, and the bus does not end before it.
    """

    def __init__(
        self,
        work: Callable[[], None],
        actor: Actor,
        scheduler: Scheduler,
        lane: Actor | Lane | None,
        limiter: trio.CapacityLimiter,
    ) -> None:
        self._work = work
        self._actor = actor
        self._scheduler = scheduler
        self.lane: Actor | Lane | None = lane  # whose work it does, until that gives up waiting
        self._limiter = limiter
        self._scope = trio.CancelScope()
        self._turn = Lock()  # for whoever is first: the thread to start, or who waits to give up
        self._stray = False
        self._error: Exception | None = None
        self._ended = trio.Event()

    async def run(self) -> None:
        """Run it, to the end of the thread."""
        task = current_task()
        self._scheduler.side_tasks[task] = self
        try:
            with self._scope:
                await trio.to_thread.run_sync(self._in_thread, limiter=self._limiter)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is reported
            self._error = error
        finally:
            self._ended.set()
            del self._scheduler.side_tasks[task]
        if self._stray:
            self._actor.stray_threads -= 1
            logger.warning(
                "the thread of %s has ended, after its event was given up",
                self._actor.name,
                exc_info=self._error,
            )

    def _in_thread(self) -> None:
        if self._turn.acquire(blocking=False):
            self._work()

    async def wait(self) -> None:
        """Wait for the end; a cancelled wait gives up on the thread."""
        try:
            await self._ended.wait()
        finally:
            if not self._ended.is_set():
                self._scope.cancel()  # it may still wait for a place in the limiter
                self._stray = not self._turn.acquire(blocking=False)
                self._actor.stray_threads += self._stray
                self.lane = None
        if self._error is not None:
            raise self._error

    def complaint(self, timeout: float) -> str:
        """Say what has become of a run that was given up."""
        late = f"{self._actor.name} took longer than {timeout:g} s"
        if self._stray:
            return f"{late}; a thread cannot be stopped, and runs on"
        return f"{late} to get a thread"
