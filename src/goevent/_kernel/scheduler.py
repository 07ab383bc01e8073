"""The scheduler: a few worker tasks that run all the listener actors.

How actors get to run is this module's secret; others see `post` (an actor has mail) and `quiet`
(nothing left to do). One task per actor would do the same, three times slower for many listeners.

An actor with mail stands in `ready`. A worker takes it and runs its events until the mailbox is
empty or a time slice is over. When a listener suspends, its worker is suspended with it, and if
other actors are ready another worker is woken. So there are never more workers than listeners, and
one is enough while listeners do not suspend. Workers live in a nursery of the scheduler's own task,
which the bus starts and cancels; each was spawned in the context of `async with bus`.

A worker is shared, so after each call it must be as it was before: same context, same cancel
scopes, no nursery left open. If it is not, what was left open is closed, the listener gets an error
and the worker ends, never to be reused.
"""

# pyright: reportPrivateUsage=false
# Trio's private `_cancel_status` is read here without the detour over _task_state.

from __future__ import annotations

import contextvars
import decimal
import logging
from collections import deque
from math import inf
from time import perf_counter
from typing import TYPE_CHECKING, Protocol

import trio
from trio.lowlevel import (
    Abort,
    Task,
    checkpoint,
    current_clock,
    current_task,
    enable_ki_protection,
    reschedule,
    wait_task_rescheduled,
)

from .._delivery import Delivery, finder
from .._handle import WAKE_UP
from .._trio_internals import park
from .backpressure import Backpressure
from .failures import FailedRuns
from .timeouts import Timeouts
from .worker import Worker

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .._errors import EventError
    from .actor import Actor, Lane
    from .failures import Failures

logger = logging.getLogger("goevent")

BURST = range(16)  # events between two looks at the clock


class SideTask(Protocol):
    """What does a listener's work in a task of its own; with no lane, nobody waits for it."""

    @property
    def lane(self) -> Actor | Lane | None: ...


class Scheduler:
    """The workers of one bus, from `async with bus` until it closes."""

    def __init__(self, failures: Failures, slow_after: float | None) -> None:
        self.ready: deque[Actor | Lane] = deque()
        self.awake: int = 0  # workers that will look at `ready` before they park
        self.suspended: int = 0  # workers suspended inside a listener
        self.surplus: bool = False  # there may be more workers than listeners
        # By which the age of mail is told. While workers are awake the time is not read for every
        # event: it costs as much as a third of a dispatch, and every event would carry its own.
        self.clock: Callable[[], float] = perf_counter
        self.now: float = 0.0
        self.workers: dict[Task, Worker] = {}
        self.side_tasks: dict[Task, SideTask] = {}  # tasks next to them that do a listener's work
        self.threads: set[int] = set()  # that do a listener's work
        self.timeouts: Timeouts = Timeouts()
        self.failures: Failures = failures
        self.backpressure: Backpressure = Backpressure()
        self.slow_after: float = inf if slow_after is None else slow_after
        self.open: bool = False
        self._idle: list[Worker] = []
        self._watchers: list[Task] = []
        self._failed_runs = FailedRuns(failures, self.requeue)
        self._clean = contextvars.Context()
        self._escalated = False

    @enable_ki_protection
    async def run(
        self,
        find: Callable[[], Delivery | None],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Be the scheduler until cancelled; `find` is what listeners get as `current_delivery`."""
        clock = current_clock()
        # Trio's own clock is this one plus an offset; another one is a test's.
        is_system = type(clock).__name__ == "SystemClock"
        self.clock = perf_counter if is_system else clock.current_time
        self._clean = contextvars.copy_context()
        # The first use of decimal sets a context variable; no listener is to blame for that.
        self._clean.run(decimal.getcontext)
        self._clean.run(finder.set, find)
        self.ready.clear()
        self._failed_runs.reset()
        self.awake = self.suspended = 0
        self._escalated = False
        try:
            async with trio.open_nursery() as self._nursery:
                self.open = True
                self._nursery.start_soon(self._stay_open)
                self._nursery.start_soon(self.timeouts.run, self.clock, self.workers.values)
                task_status.started()
        finally:
            self.open = False
            self.ready.clear()
            self._look_around()

    @enable_ki_protection
    async def _stay_open(self) -> None:
        """Keep the nursery open without workers, and call for none once it may have closed."""
        try:
            await trio.sleep_forever()
        finally:
            self.open = False

    # -- what the dispatcher uses

    def wake_workers(self) -> None:
        """Get workers going; called with actors ready and no worker awake."""
        self._wake_one()
        if len(self.ready) > 1:
            for _ in range(sum([actor.suspends for actor in self.ready]) - 1):
                self._wake_one()

    def owner(self, task: Task | None) -> Actor | Lane | None:
        """Return the actor inside whose listener `task` runs, directly or as a child task."""
        while task is not None:
            if worker := self.workers.get(task):
                return worker.actor
            if guest := self.side_tasks.get(task):
                return guest.lane
            nursery = task.parent_nursery
            task = nursery.parent_task if nursery is not None else None
        return None

    def delivery(self) -> Delivery | None:
        """Return what the listener works on inside which the caller runs."""
        lane = self.owner(current_task())
        if lane is None or lane.current is None:
            return None
        return Delivery(lane.name, lane.current, lane.attempt)

    def context(self) -> contextvars.Context:
        """Return the context for a listener that does not run in its worker's."""
        lane = self.workers[current_task()].actor
        if lane is not None and lane.current is not None and lane.listener.options.contextual:
            context = lane.current.ensure_details().context
            if context is not None:
                return context.copy()
        return contextvars.copy_context()

    def spawn(self, function: Callable[[], Awaitable[None]]) -> None:
        """Run something next to the workers, until it ends or the bus does."""
        self._nursery.start_soon(function)

    def escalate(self, error: EventError) -> bool:
        """End the bus with an error; False if it ends already, as only the first one counts."""
        if self._escalated or not self.open:
            return False
        self._escalated = True
        self._clean.run(self._nursery.start_soon, fail, error)
        return True

    def warn_slow(self, name: str, seconds: float) -> None:
        """Say that a listener has held up all other tasks."""
        logger.warning("%s held the event loop for %.3f s", name, seconds)

    async def quiet(self) -> None:
        """Wait until no listener runs and no mail waits."""
        while self.open and (self.ready or self.awake or self.suspended):
            task = current_task()

            def abort(_: object, task: Task = task) -> Abort:
                self._watchers.remove(task)
                return Abort.SUCCEEDED

            self._watchers.append(task)
            await wait_task_rescheduled(abort)

    # -- the workers

    def _wake_one(self) -> None:
        if not self.open:
            return
        self.awake += 1
        if self._idle:
            reschedule(self._idle.pop().task, WAKE_UP)
        else:
            self._clean.run(self._nursery.start_soon, self._work)

    @enable_ki_protection
    async def _work(self) -> None:
        worker = Worker(self, current_task(), self._clean)
        self.workers[worker.task] = worker
        try:
            with worker:
                await worker
        except Exception as crash:  # noqa: BLE001 - it is counted, and reported
            self._failed_runs.crashed(worker, crash, self.clock())
        finally:
            del self.workers[worker.task]
            self.awake -= 1
            self._look_around()

    def _look_around(self) -> None:
        """Before a worker goes: see that the others suffice, and tell who waits for quiet."""
        if self.ready:
            if not self.awake and self.open:
                self.wake_workers()
        elif self._watchers and not (self.open and (self.awake or self.suspended)):
            watchers, self._watchers = self._watchers, []
            for task in watchers:
                reschedule(task, WAKE_UP)

    def leave(self, worker: Worker, _: object) -> Abort:
        """Let Trio cancel a parked worker: nobody may wake it any more."""
        self._idle.remove(worker)
        self.awake += 1  # on its way out
        return Abort.SUCCEEDED

    @enable_ki_protection
    async def loop(self, worker: Worker) -> None:
        ready, task, clean, after = self.ready, worker.task, self._clean, self._failed_runs
        backpressure = self.backpressure
        context, status = task.context, worker.status
        late = False
        while True:
            while ready:
                actor = ready.popleft()
                mail, call = actor.mail, actor.call
                worker.has_suspended = False
                worker.actor = worker.last_actor = actor
                while mail:
                    for _ in BURST:
                        actor.current = handle = mail.popleft()
                        try:
                            await call(handle.event)
                            dirty = context != clean
                        except Exception as error:  # noqa: BLE001 - whatever it is, it is reported
                            if worker.is_dirty:
                                return await after.misbehaved(worker, actor, handle, error)
                            if actor.listener.recovery is not None:
                                if not await after.recover(worker, actor, handle, error):
                                    return None
                                status, call = worker.status, actor.call
                                if mail:
                                    continue
                                break
                            after.failed(actor, handle, error)
                        except (trio.Cancelled, BaseExceptionGroup) as error:
                            return await after.interrupted(worker, actor, handle, error)
                        else:
                            if dirty or task._cancel_status is not status:
                                if dirty or task._cancel_status is not worker.status:
                                    return await after.misbehaved(worker, actor, handle, None)
                                status = worker.status  # it has a timeout, and a new scope for it
                        handle.left = left = handle.left - 1
                        if not left and handle.details is not None:
                            handle.wake()
                        if not mail:
                            break
                    if not actor.limit:
                        actor.current = None  # it is settled, should this fail
                        backpressure.made_room(actor.listener)
                    if mail or ready:
                        now = perf_counter()
                        if late := now > worker.slice_end:
                            break
                actor.current = worker.actor = handle = None
                if not worker.has_suspended:
                    actor.suspends = False
                if mail:
                    ready.append(actor)
                else:
                    actor.scheduled = False
                if late:
                    late = False
                    await checkpoint()
            if self.surplus:
                self.surplus = False
                return None
            self.awake -= 1
            self._idle.append(worker)
            if self._watchers:
                self._look_around()
            await park(worker.park_request)

    def requeue(self, actor: Actor | Lane) -> None:
        """Go on with an actor later, if it has mail."""
        if not actor.limit:
            self.backpressure.made_room(actor.listener)
        if actor.mail:
            self.ready.append(actor)
        else:
            actor.scheduled = False


async def fail(error: Exception) -> None:
    raise error
