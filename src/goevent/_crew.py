"""The crew: a few worker tasks that run all the listener actors.

How actors get to run is this module's secret; others see `post` (an actor has mail) and `quiet`
(nothing left to do). One task per actor would do the same, three times slower for many listeners.

An actor with mail stands in `ready`. A worker takes it and runs its events until the mailbox is
empty or a time slice is over. When a listener suspends, its worker is suspended with it, and if
other actors are ready another worker is woken. So there are never more workers than listeners, and
one is enough while listeners do not suspend. Workers live in a nursery of the crew's own task,
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
from collections import deque
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any, cast

import trio
from trio.lowlevel import (
    Abort,
    Task,
    checkpoint,
    current_task,
    enable_ki_protection,
    reschedule,
    wait_task_rescheduled,
)

from ._errors import EventError, forget_caller
from ._handle import WOKEN
from ._parking import park, request_to_park
from ._room import let_in
from ._task_state import cancel_status, close_leftovers

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from ._actor import Actor
    from ._handle import DispatchHandle

    Report = Callable[[EventError, DispatchHandle, Actor | None], None]

BURST = range(16)  # events between two looks at the clock
SLICE = 0.0002  # seconds of listeners' work between two yields to Trio


class Worker:
    """One task of the crew. Awaits its loop, and tells the crew when a listener suspends in it.

    Driving every listener by hand would show the same and cost 150 ns a call; this costs nothing
    for listeners that do not suspend. It looks like a coroutine to `Task.iter_await_frames`.
    """

    __slots__ = ("_away", "_crew", "_loop", "_send", "actor", "rest", "slept", "slice_end", "task")

    def __init__(self, crew: Crew, task: Task) -> None:
        self.task: Task = task
        self.actor: Actor | None = None  # whose listener runs
        self.slept: bool = False  # it suspended
        self.slice_end: float = 0.0
        self.rest: object = request_to_park(partial(crew.leave, self))
        self._crew = crew
        self._away = False
        self._loop: Any = crew.loop(self)
        self._send = self._loop.send

    def __await__(self) -> Generator[Any, Any, None]:
        return cast("Generator[Any, Any, None]", self)

    def __iter__(self) -> Worker:
        return self

    def __next__(self) -> Any:
        return self.send(None)

    @enable_ki_protection
    def send(self, value: Any) -> Any:
        crew = self._crew
        if self._away:
            self._away = False
            crew.suspended -= 1
            crew.awake += 1
            self.slice_end = 0.0
        trap = self._send(value)
        if (actor := self.actor) is not None:
            self._away = self.slept = actor.suspends = True
            crew.suspended += 1
            crew.awake -= 1
            # Letting it in could wake this very task, of which Trio does not know that it waits.
            if actor.queue:
                actor.queue[0].nudge()
            if crew.ready and not crew.awake:
                crew.post()
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


class Crew:
    """The workers of one bus, from `async with bus` until it closes."""

    def __init__(self, report: Report) -> None:
        self.ready: deque[Actor] = deque()
        self.awake: int = 0  # workers that will look at `ready` before they park
        self.suspended: int = 0  # workers suspended inside a listener
        self.surplus: bool = False  # there may be more workers than listeners
        # By which the age of mail is told. While workers are awake the time is not read for every
        # event: it costs as much as a third of a dispatch, and every event would carry its own.
        self.clock: Callable[[], float] = perf_counter
        self.now: float = 0.0
        self.workers: dict[Task, Worker] = {}
        self.open: bool = False
        self._idle: list[Worker] = []
        self._watchers: list[Task] = []
        self._report = report
        self._clean = contextvars.Context()

    @enable_ki_protection
    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Be the crew until cancelled."""
        self._clean = contextvars.copy_context()
        # The first use of decimal sets a context variable; no listener is to blame for that.
        self._clean.run(decimal.getcontext)
        self.ready.clear()
        self.awake = self.suspended = 0
        try:
            async with trio.open_nursery() as self._nursery:
                self.open = True
                self._nursery.start_soon(self._stay_open)
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

    def post(self) -> None:
        """Get workers going; called with actors ready and no worker awake."""
        self._wake()
        if len(self.ready) > 1:
            for _ in range(sum([actor.suspends for actor in self.ready]) - 1):
                self._wake()

    def owner(self, task: Task | None) -> Actor | None:
        """Return the actor inside whose listener `task` runs, directly or as a child task."""
        while task is not None:
            if worker := self.workers.get(task):
                return worker.actor
            nursery = task.parent_nursery
            task = nursery.parent_task if nursery is not None else None
        return None

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

    def _wake(self) -> None:
        if not self.open:
            return
        self.awake += 1
        if self._idle:
            reschedule(self._idle.pop().task, WOKEN)
        else:
            self._clean.run(self._nursery.start_soon, self._work)

    @enable_ki_protection
    async def _work(self) -> None:
        worker = Worker(self, current_task())
        self.workers[worker.task] = worker
        try:
            await worker
        finally:
            del self.workers[worker.task]
            self.awake -= 1
            self._look_around()

    def _look_around(self) -> None:
        """Before a worker goes: see that the others suffice, and tell who waits for quiet."""
        if self.ready:
            if not self.awake and self.open:
                self.post()
        elif self._watchers and not (self.open and (self.awake or self.suspended)):
            watchers, self._watchers = self._watchers, []
            for task in watchers:
                reschedule(task, WOKEN)

    def leave(self, worker: Worker, _: object) -> Abort:
        """Let Trio cancel a parked worker: nobody may wake it any more."""
        self._idle.remove(worker)
        self.awake += 1  # on its way out
        return Abort.SUCCEEDED

    @enable_ki_protection
    async def loop(self, worker: Worker) -> None:
        ready, task, clean = self.ready, worker.task, self._clean
        context, status = task.context, task._cancel_status
        late = False
        while True:
            worker.slice_end = 0.0  # it begins with the first look at the clock
            while ready:
                actor = ready.popleft()
                mail, call = actor.mail, actor.call
                worker.slept = False
                worker.actor = actor
                while mail:
                    for _ in BURST:
                        actor.hand = handle = mail.popleft()
                        try:
                            await call(handle.event)
                            dirty = context != clean
                        except Exception as error:  # noqa: BLE001 - whatever it is, it is reported
                            if task._cancel_status is not status or differ(context, clean):
                                return await self._misbehaved(worker, actor, handle, status, error)
                            self._failed(actor, handle, error)
                        except (trio.Cancelled, BaseExceptionGroup) as error:
                            return await self._interrupted(worker, actor, handle, status, error)
                        else:
                            if dirty or task._cancel_status is not status:
                                return await self._misbehaved(worker, actor, handle, status, None)
                        handle.left = left = handle.left - 1
                        if not left and handle.notes is not None:
                            handle.wake()
                        if not mail:
                            break
                    if actor.queue:
                        let_in((actor,))
                    if mail or ready:
                        now = perf_counter()
                        if late := now > worker.slice_end > 0.0:
                            break
                        worker.slice_end = worker.slice_end or now + SLICE
                actor.hand = worker.actor = handle = None  # type: ignore[assignment]
                if not worker.slept:
                    actor.suspends = False
                if mail:
                    ready.append(actor)
                else:
                    actor.scheduled = False
                if late:
                    late = False
                    await checkpoint()
                    worker.slice_end = 0.0
            if self.surplus:
                self.surplus = False
                return None
            self.awake -= 1
            self._idle.append(worker)
            if self._watchers:
                self._look_around()
            await park(worker.rest)

    def _put_back(self, actor: Actor) -> None:
        if actor.queue:
            let_in((actor,))
        if actor.mail:
            self.ready.append(actor)
        else:
            actor.scheduled = False

    def _failed(self, actor: Actor, handle: DispatchHandle, error: BaseException) -> None:
        forget_caller(error)
        late = actor.hand is not handle  # the bus gave the event up before the listener did
        self._report(
            EventError(handle.event_name, actor.name, error), handle, None if late else actor
        )

    async def _misbehaved(
        self,
        worker: Worker,
        actor: Actor,
        handle: DispatchHandle,
        status: object,
        error: BaseException | None,
    ) -> None:
        """Report a listener that did not leave its worker as it was, and clean up after it."""
        left_open = cancel_status(worker.task) is not status
        what = "a cancel scope or a nursery open" if left_open else "a context variable set"
        rest = await close_leftovers(worker.task, status, error)
        failure = RuntimeError(f"the listener left {what} on a task it shares with other listeners")
        failure.__cause__ = rest
        self._failed(actor, handle, failure)
        self._settle(worker, actor, handle)
        if rest is not None and not isinstance(rest, Exception):
            raise split(rest)[1] or rest

    async def _interrupted(
        self,
        worker: Worker,
        actor: Actor,
        handle: DispatchHandle,
        status: object,
        error: BaseException,
    ) -> None:
        """Pass on a cancellation, or what else is no Exception; what is one is reported."""
        if cancel_status(worker.task) is not status:
            return await self._misbehaved(worker, actor, handle, status, error)
        failure, rest = split(error)
        if failure is not None:
            self._failed(actor, handle, failure)
            self._settle(worker, actor, handle)
        if rest is not None:
            raise rest
        return None

    def _settle(self, worker: Worker, actor: Actor, handle: DispatchHandle) -> None:
        actor.hand = worker.actor = None
        self._put_back(actor)
        handle.settle_one()


def differ(one: contextvars.Context, other: contextvars.Context) -> bool:
    """Compare two contexts, whose values may refuse to be compared."""
    try:
        return one != other
    except Exception:  # noqa: BLE001 - equal values are not compared at all
        return True


def split(error: BaseException) -> tuple[Exception | None, BaseException | None]:
    """Return the part of `error` that is an Exception, and the rest."""
    if isinstance(error, BaseExceptionGroup):
        return cast("BaseExceptionGroup[BaseException]", error).split(Exception)
    return None, error
