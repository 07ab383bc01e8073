"""The scheduler: runs all listener actors of a bus on a few worker tasks.

The bus owns one scheduler and starts its `run` with `async with`. The dispatcher appends actors to
`ready` and calls `wake_workers`; `quiet` waits until nothing is left to do. Nothing outside of this
module and `worker` knows how actors get to run: one task per actor would give the same result, but
three times slower for many listeners.

Theory of operation. An actor is *scheduled* from its first event on until its mailbox is empty: it
stands in `ready`, or a worker has it. A worker takes the actor at the front, runs its events until
the mailbox is empty or the worker's time slice is over, and appends an actor that has events left
to the back. It yields to Trio once per slice, not per event, and parks when `ready` is empty.

When a listener suspends, its worker is suspended with it. If other actors are ready and no other
worker is *awake* (running, or on its way to look at `ready`), another one is woken or spawned. So
there are never more workers than lanes, and listeners that do not suspend need only one. Each
change of a worker's state is counted in `awake` and `suspended`, so a dispatch finds out with one
comparison whether it has to wake a worker.

A task is shared by listeners, so a listener must leave it as it was: the same context, the same
cancel scopes, no open nursery. The loop compares after each event. If a listener has left anything
behind, it is closed, the listener gets an error, and the worker retires. A worker also retires when
a listener was unregistered, because there may be one worker too many (`surplus`).

Workers are spawned in a nursery of the scheduler's own task, in the context of `async with bus`:
otherwise a worker would inherit the context of the request that happened to need it.
"""

# pyright: reportPrivateUsage=false
# The loop reads Trio's private `_cancel_status` inline; `_trio_internals` says why.
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
from .._foreign import log
from .._handle import WAKE_UP
from .._options.results import refuse_unrun
from .._trio_internals import park
from .actor import Actor
from .backpressure import Backpressure
from .failures import FailedRuns
from .timeouts import Timeouts
from .worker import SLICE_SECONDS, CallerNote, Worker

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from .._errors import EventError
    from .actor import Lane
    from .failures import Failures

logger = logging.getLogger("goevent")

BURST = range(16)
"""The events that a worker runs between two looks at the clock."""


class SideTask(Protocol):
    """A task beside the workers that does the work of a listener.

    Attributes:
        lane: The lane of the listener; None once the listener no longer waits for the task.
    """

    @property
    def lane(self) -> Actor | Lane | None: ...


class Scheduler:
    """The workers of one bus, from `async with bus` until it closes.

    Attributes:
        ready: The scheduled actors that no worker has.
        awake: The workers that will look at `ready` before they park.
        suspended: The workers that are suspended inside a listener.
        surplus: True if there may be more workers than listeners.
        clock: The clock for the age of events and for timeouts.
        now: The time of the last dispatch that read the clock.
        tidy: Called before a worker parks, to forget unregistered listeners that had an event when
            they left; None if there are none.
        side_tasks: The tasks beside the workers that do the work of listeners.
        threads: The ids of the threads that do the work of listeners.
        caller: The intake, which notes the listener that runs; it sets itself.
    """

    caller: CallerNote

    def __init__(self, failures: Failures, slow_after: float | None) -> None:
        self.ready: deque[Actor | Lane] = deque()
        self.awake: int = 0
        self.suspended: int = 0
        self.surplus: bool = False
        self.tidy: Callable[[], None] | None = None
        # While workers are awake, a dispatch takes `now` and does not read the clock. Reading it
        # costs a third of a dispatch, and each event would need a float of its own.
        self.clock: Callable[[], float] = perf_counter
        self.now: float = 0.0
        self.workers: dict[Task, Worker] = {}
        self.side_tasks: dict[Task, SideTask] = {}
        self.threads: set[int] = set()
        self.timeouts: Timeouts = Timeouts()
        self.failures: Failures = failures
        self.backpressure: Backpressure = Backpressure()
        self.slow_after: float = inf if slow_after is None else slow_after
        self.open: bool = False
        self._idle: list[Worker] = []
        self._quiet_waiters: list[Task] = []
        self._failed_runs = FailedRuns(failures, self.requeue)
        self._clean = contextvars.Context()
        self._escalated = False

    @enable_ki_protection
    async def run(
        self,
        find_delivery: Callable[[], Delivery | None],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Run the workers until cancelled.

        Args:
            find_delivery: Returns the result of `current_delivery` inside a listener.
            task_status: The `task_status` of `trio.Nursery.start`.
        """
        clock = current_clock()
        # Trio's system clock is `perf_counter` plus an offset. Any other clock belongs to a test.
        is_system = type(clock).__name__ == "SystemClock"
        self.clock = perf_counter if is_system else clock.current_time
        self._clean = contextvars.copy_context()
        # The first use of decimal in a context sets a variable there. Do it now: a listener that
        # is the first to use decimal must not look as if it had left its worker dirty.
        self._clean.run(decimal.getcontext)
        self._clean.run(finder.set, find_delivery)
        self.ready.clear()
        self._failed_runs.reset()
        self.awake = self.suspended = 0
        self._escalated = False
        try:
            async with trio.open_nursery() as self._nursery:
                self.open = True
                task_status.started()
                try:
                    # This task holds the nursery open while there are no workers.
                    await self.timeouts.run(self.clock, self.workers.values)
                finally:
                    self.open = False  # spawn no more: the nursery may be cancelled
        finally:
            self.open = False
            self.ready.clear()
            self._check_idle()

    # -- for the dispatcher, the listeners and the bus

    def wake_workers(self) -> None:
        """Wake a worker; called with actors in `ready` and no worker awake."""
        self._wake_one()
        # Each listener that suspended the last time will block its worker again, so it gets one.
        if len(self.ready) > 1:
            for _ in range(sum([actor.suspends for actor in self.ready]) - 1):
                self._wake_one()

    def owner(self, task: Task | None) -> Actor | Lane | None:
        """Return the actor of the listener that `task` runs, directly or as a child task."""
        while task is not None:
            if worker := self.workers.get(task):
                return worker.actor
            if side_task := self.side_tasks.get(task):
                return side_task.lane
            nursery = task.parent_nursery
            task = nursery.parent_task if nursery is not None else None
        return None

    def delivery(self) -> Delivery | None:
        """Return the delivery of the listener inside which the caller runs."""
        lane = self.owner(current_task())
        if lane is None or lane.current is None:
            return None
        return Delivery(lane.name, lane.current, lane.attempt)

    def context(self) -> contextvars.Context:
        """Return a context for a listener that must not run in that of its worker.

        It is a copy of the dispatcher's context if the listener asks for it, otherwise of the
        worker's.
        """
        lane = self.workers[current_task()].actor
        if lane is not None and lane.current is not None and lane.listener.options.contextual:
            context = lane.current._ensure_details().context
            if context is not None:
                return context.copy()
        return contextvars.copy_context()

    def add_side_task(self, task: Task, side_task: SideTask) -> None:
        """Have a task beside the workers count as one that runs a listener."""
        self.side_tasks[task] = side_task
        self.caller.begin_search()

    def remove_side_task(self, task: Task) -> None:
        """Forget a task that has done the work of a listener."""
        del self.side_tasks[task]
        self.caller.end_search()

    def spawn(self, function: Callable[[], Awaitable[None]]) -> None:
        """Run a function in a task beside the workers; it is cancelled when the bus ends."""
        self._nursery.start_soon(function)

    def escalate(self, error: EventError) -> bool:
        """End the bus with an error; return False if the bus is ending already."""
        if self._escalated or not self.open:
            return False
        self._escalated = True
        self._clean.run(self._nursery.start_soon, raise_error, error)
        return True

    def suspended_for(self) -> dict[Actor, float]:
        """Return the seconds since the last step of each listener all of whose lanes are suspended.

        The time is that of the system's clock, even in a test with another one.
        """
        # The worker notes when a step has to end, and a suspended one has had no step since. So
        # nothing is noted for each event.
        now = perf_counter() + SLICE_SECONDS
        suspended: dict[Actor, float] = {}
        last_steps: dict[Actor, list[float]] = {}
        for worker in self.workers.values():
            lane = worker.actor
            # Properties would be a call for each of perhaps thousands of listeners.
            if isinstance(lane, Actor):
                suspended[lane] = now - worker.slice_end
            elif lane is not None:
                last_steps.setdefault(lane.listener, []).append(worker.slice_end)
        for actor, ends in last_steps.items():
            if len(ends) == len(actor.lanes):
                suspended[actor] = now - max(ends)
        return suspended

    def warn_slow(self, name: str, seconds: float) -> None:
        """Log that a listener has blocked the event loop for too long."""
        log(
            logger,
            logging.WARNING,
            "%s held the event loop for %.3f s; thread=True runs a `def` in a thread, and an "
            "`async def` can await trio.to_thread.run_sync",
            name,
            seconds,
        )

    async def quiet(self) -> None:
        """Wait until no listener runs and no event is queued."""
        while self.open and (self.ready or self.awake or self.suspended):
            task = current_task()

            def abort(_: object, task: Task = task) -> Abort:
                self._quiet_waiters.remove(task)
                return Abort.SUCCEEDED

            self._quiet_waiters.append(task)
            await wait_task_rescheduled(abort)

    def fork(self, actors: Iterable[Actor]) -> None:
        """Run no more listeners: this process is a fork of the one that owns the bus.

        Args:
            actors: The listeners, whose events the parent process runs them with.
        """
        self.open = False
        self.ready.clear()
        for actor in actors:
            for lane in actor.lanes:
                lane.mail.clear()

    def wake_quiet_waiters(self) -> None:
        """Let the tasks that wait in `quiet` look again."""
        waiters, self._quiet_waiters = self._quiet_waiters, []
        for task in waiters:
            reschedule(task, WAKE_UP)

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
            self._check_idle()

    def _check_idle(self) -> None:
        """Wake a worker for `ready` after one has gone, or the tasks in `quiet`."""
        if self.ready:
            if not self.awake and self.open:
                self.wake_workers()
        elif self._quiet_waiters and not (self.open and (self.awake or self.suspended)):
            self.wake_quiet_waiters()

    def abort_park(self, worker: Worker, _: object) -> Abort:
        """Let Trio cancel a parked worker; no dispatch may wake it any more."""
        self._idle.remove(worker)
        # The worker counts as awake until its task has ended; then `_work` uncounts it.
        self.awake += 1
        return Abort.SUCCEEDED

    @enable_ki_protection
    async def loop(self, worker: Worker) -> None:
        """Run the listeners of ready actors; the worker drives this coroutine.

        It returns when the worker has to retire.
        """
        # The hottest code of the bus. Everything that each event needs is a local variable, and
        # settling an event is written out here (as in `DispatchHandle._settle_one`).
        ready, task, clean, failed_runs = self.ready, worker.task, self._clean, self._failed_runs
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
                            if (result := await call(handle.event)) is not None:
                                refuse_unrun(result)
                            # A comparison that raises ends below like a listener that raises, and
                            # `is_dirty` then says that the context has changed.
                            dirty = context != clean
                        except Exception as error:  # noqa: BLE001 - it is reported
                            if worker.is_dirty:
                                return await failed_runs.left_dirty(worker, actor, handle, error)
                            if actor.listener.recovery is not None:
                                if not await failed_runs.recover(worker, actor, handle, error):
                                    return None
                                status, call = worker.status, actor.call
                                if mail:
                                    continue
                                break
                            failed_runs.failed(actor, handle, error)
                        except (trio.Cancelled, BaseExceptionGroup) as error:
                            return await failed_runs.interrupted(worker, actor, handle, error)
                        else:
                            if dirty or task._cancel_status is not status:
                                # A listener with a timeout may have got the worker a new scope.
                                if dirty or task._cancel_status is not worker.status:
                                    return await failed_runs.left_dirty(worker, actor, handle, None)
                                status = worker.status
                        handle._left = left = handle._left - 1
                        if not left and handle._details is not None:
                            handle._wake()
                        if not mail:
                            break
                    if not actor.limit:
                        # The event is settled. Should the next call fail, it must not be reported.
                        actor.current = None
                        backpressure.made_room(actor.listener)
                    # Without other work the worker parks, which is a yield too.
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
            if self.tidy is not None:
                self.tidy()
            if self.surplus:
                self.surplus = False
                return None
            # A parked worker must keep nothing of its last listener alive.
            actor = mail = call = result = None  # type: ignore[assignment]
            self.awake -= 1
            self._idle.append(worker)
            if self._quiet_waiters:
                self._check_idle()
            await park(worker.park_request)

    def requeue(self, actor: Actor | Lane) -> None:
        """Schedule an actor again after its worker has retired, if it has events."""
        if not actor.limit:
            self.backpressure.made_room(actor.listener)
        if actor.mail:
            self.ready.append(actor)
        else:
            actor.scheduled = False


async def raise_error(error: Exception) -> None:
    raise error
