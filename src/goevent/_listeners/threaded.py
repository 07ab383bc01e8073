"""Listeners with `thread=True`: each run of their `def` has a worker thread.

`ListenerPlanner` wraps the handler with `run_in_thread`. Without a timeout, the worker of the
scheduler just waits for the thread. With a timeout, the run must be able to outlast the worker's
wait, because a thread cannot be stopped. Then a `ThreadRun` in the scheduler's nursery owns the
thread, and the worker waits for the `ThreadRun`.

A thread that is still running after its timeout is called stray. It keeps its place in the limiter,
a snapshot counts it, its end is logged, and the bus does not close before it has ended.
"""

from __future__ import annotations

import logging
from threading import Lock, get_ident
from typing import TYPE_CHECKING, Any

import trio
from trio.lowlevel import current_task

from .._delivery import finder
from .._errors import ListenerTimeout
from .._foreign import forget_caller, log
from .._kernel.timeouts import TimeLimit
from .._options.results import refuse_unrun

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._kernel.actor import Actor, Lane
    from .._kernel.scheduler import Scheduler
    from .wrappers import Call

logger = logging.getLogger("goevent")

# The exception of a handler, on its way out of its thread. In a tuple, because Trio looks at the
# class of a result, and an exception may have code for that.
Failed = tuple[Exception] | tuple[()]


def run_in_thread(
    handler: Call,
    actor: Actor,
    scheduler: Scheduler,
    limiter: trio.CapacityLimiter,
    timeout: float | None,
) -> Call:
    """Return an `async def` that calls a `def` in a worker thread.

    Args:
        handler: The `def` of the user.
        actor: The actor of the listener.
        scheduler: The scheduler of the bus.
        limiter: Limits the threads of the bus.
        timeout: The timeout of a run in seconds, the wait for a thread included; or None.
    """

    def bind(event: Any) -> Callable[[], Failed]:
        delivery = scheduler.delivery()

        def work() -> Failed:
            # The thread has a copy of the worker's context, and code that it runs in the event loop
            # has a copy of the thread's. So the finder answers for this thread itself and leaves
            # all other threads to the earlier finder.
            thread, find_elsewhere = get_ident(), finder.get()
            finder.set(lambda: delivery if get_ident() == thread else find_elsewhere())
            scheduler.threads.add(thread)
            try:
                if (result := handler(event)) is not None:
                    refuse_unrun(result)
            # Trio's way out of a thread sets attributes of the exception. One that refuses this
            # would end the thread, and nothing would wake the task that waits for it.
            except Exception as error:  # noqa: BLE001 - the task raises it
                forget_caller(error)
                return (error,)
            else:
                return ()
            finally:
                scheduler.threads.discard(thread)

        return work

    async def run(event: Any) -> None:
        raise_failed(await trio.to_thread.run_sync(bind(event), limiter=limiter))

    if timeout is None:
        return run

    async def run_with_timeout(event: Any) -> None:
        worker = scheduler.workers[current_task()]
        thread_run = ThreadRun(bind(event), actor, scheduler, worker.actor, limiter)
        scheduler.spawn(thread_run.run)
        with TimeLimit(
            scheduler.timeouts, worker, timeout, lambda: thread_run.timeout_error(timeout)
        ):
            await thread_run.wait()

    return run_with_timeout


class ThreadRun:
    """One run with a timeout: a task in the scheduler's nursery, which owns the thread.

    Attributes:
        lane: The lane whose event the thread processes; None once that lane has given up.
    """

    def __init__(
        self,
        work: Callable[[], Failed],
        actor: Actor,
        scheduler: Scheduler,
        lane: Actor | Lane | None,
        limiter: trio.CapacityLimiter,
    ) -> None:
        self._work = work
        self._actor = actor
        self._scheduler = scheduler
        self.lane: Actor | Lane | None = lane
        self._limiter = limiter
        self._scope = trio.CancelScope()
        # Decides the race between the thread that starts and the worker that gives up. The first
        # one to acquire it wins, and it is never released. So the handler either does not run at
        # all, or the thread is stray.
        self._started_or_given_up = Lock()
        self._stray = False
        self._failed: Failed = ()
        self._ended = trio.Event()

    async def run(self) -> None:
        """Run the thread to its end."""
        task = current_task()
        self._scheduler.add_side_task(task, self)
        try:
            with self._scope:
                self._failed = await trio.to_thread.run_sync(
                    self._work_unless_given_up, limiter=self._limiter
                )
        finally:
            self._ended.set()
            self._scheduler.remove_side_task(task)
        if self._stray:
            self._actor.stray_threads -= 1
            log(
                logger,
                logging.WARNING,
                "the thread of %s has ended, long after the timeout of its event",
                self._actor.name,
                error=self._failed[0] if self._failed else None,
            )

    def _work_unless_given_up(self) -> Failed:
        return self._work() if self._started_or_given_up.acquire(blocking=False) else ()

    async def wait(self) -> None:
        """Wait for the end of the thread. If the wait is cancelled, give up on the thread.

        Raises:
            Exception: The handler raised it.
        """
        try:
            await self._ended.wait()
        finally:
            if not self._ended.is_set():
                # The task may still wait for a place in the limiter.
                self._scope.cancel()
                self._stray = not self._started_or_given_up.acquire(blocking=False)
                self._actor.stray_threads += self._stray
                self.lane = None
        failed, self._failed = self._failed, ()
        raise_failed(failed)

    def timeout_error(self, timeout: float) -> ListenerTimeout:
        """Return the error of a run that was given up."""
        late = f"{self._actor.name} took longer than {timeout:g} s"
        if self._stray:
            return ListenerTimeout(f"{late}; its thread cannot be stopped and runs on")
        return ListenerTimeout(f"{late} to get a thread")


def raise_failed(failed: Failed) -> None:
    """Raise the exception of a handler, if there is one."""
    if failed:
        try:
            raise failed[0]
        finally:
            del failed  # this frame and the traceback would keep each other alive
