"""The handle of one dispatch: who is still at work on the event, what failed, who waits.

Owned by whoever dispatched. Workers count it down; it wakes its waiters at zero. It is made for
every dispatch, so what only some need (errors, a second waiter, an id) lives in `HandleDetails`.
"""

from __future__ import annotations

import types
from os import urandom
from threading import get_ident
from typing import TYPE_CHECKING, Any, Protocol, cast

import msgspec
from trio.lowlevel import Task, checkpoint, current_task, enable_ki_protection, reschedule

from ._errors import EventError
from ._trio_internals import PARKED

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence

    Settle = Callable[[tuple[EventError, ...]], None]
    from contextlib import AbstractContextManager
    from contextvars import Context

    import outcome

IDS_PER_BLOCK = 256
"""Ids drawn at once: for each one alone, asking the system would cost half of a publish."""


class Ids:
    """Ids that nobody has drawn before. A forked process must not go on with those of another."""

    def __init__(self) -> None:
        self._drawn: list[str] = []

    def forget(self) -> None:
        """Draw anew, as this may be a fork of the process that drew."""
        self._drawn.clear()

    def draw(self) -> str:
        """Return 16 lower hex digits."""
        if not self._drawn:
            self._drawn = urandom(8 * IDS_PER_BLOCK).hex(" ", 8).split()
        return self._drawn.pop()


class WakeUp:
    """The outcome that wakes a parked task; an `outcome.Value` can be used but once."""

    __slots__ = ()

    def unwrap(self) -> None:
        return None


WAKE_UP = cast("outcome.Outcome[None]", WakeUp())


class Workers(Protocol):
    """Where listeners run: without any, a task is surely not inside a listener."""

    suspended: int
    workers: dict[Task, Any]


class Kernel(Protocol):
    """What a handle needs of the bus it comes from."""

    home: int  # the thread that the bus runs on
    ids: Ids
    underway: Mapping[DispatchHandle, object]  # the dispatches that await inline listeners

    @property
    def scheduler(self) -> Workers: ...
    def waiting(self, handle: DispatchHandle, task: Task) -> AbstractContextManager[None]:
        """Guard a wait from inside a listener, or raise `DeadlockError`."""
        ...

    def looked_at(self, notes: HandleDetails) -> None:
        """Take note that somebody has seen the errors of a handle."""
        ...


class Receipt(Protocol):
    """What a broker says of an event that it has accepted."""

    @property
    def id(self) -> str: ...
    @property
    def receivers(self) -> int | None: ...


class Origin(Protocol):
    """The route that the event took."""

    @property
    def name(self) -> str: ...
    @property
    def kernel(self) -> Kernel: ...
    @property
    def listeners(self) -> Sequence[object]: ...
    @property
    def unheard(self) -> bool: ...


class HandleDetails(msgspec.Struct, eq=False, weakref=True):
    """The part of a handle that most handles never need; it lives as long as its handle."""

    first: Task | None
    # Lists once something is in them: most events on their way to a broker need neither.
    waiters: list[Task] | tuple[()] = ()
    errors: list[EventError] | tuple[()] = ()
    id: str = ""
    headers: dict[str, str] | None = None
    receipt: Receipt | None = None
    settle: Settle | None = None  # the driver that brought the event
    deliveries: int = 1  # how often its broker has handed it out
    context: Context | None = None  # the dispatcher's, if a listener wants it

    def add_waiter(self, task: Task) -> None:
        if isinstance(self.waiters, list):
            self.waiters.append(task)
        else:
            self.waiters = [task]

    def remove_waiter(self, task: Task) -> None:
        if isinstance(self.waiters, list) and task in self.waiters:
            self.waiters.remove(task)

    def add_error(self, error: EventError) -> None:
        if isinstance(self.errors, list):
            self.errors.append(error)
        else:
            self.errors = [error]


class DispatchHandle:
    """What became of one dispatched event, as Go's `goevent.DispatchHandle`.

    Inline listeners have run when you get it; the others are counted in `pending`.

    Attributes:
        event: the event that was dispatched.
    """

    __slots__ = ("event", "left", "notes", "route", "since")

    # Set by the dispatcher, not by an __init__, which would double the price of a dispatch.
    event: object
    left: int  # below zero when a listener finished after its event was abandoned
    route: Origin
    since: float
    notes: Task | HandleDetails | None

    @property
    def event_name(self) -> str:
        """The name under which the event was dispatched."""
        return self.route.name

    @property
    def id(self) -> str:
        """16 lower hex digits, drawn when first asked for."""
        notes = self.noted()
        if not notes.id:
            notes.id = self.route.kernel.ids.draw()
        return notes.id

    @property
    def headers(self) -> dict[str, str]:
        """What travels with the event, besides it; middleware around dispatch may fill it."""
        notes = self.noted()
        if notes.headers is None:
            notes.headers = {}
        return notes.headers

    @property
    def receipt(self) -> str:
        """What the broker calls the event, once it has accepted it; empty before, and without."""
        notes = self.notes
        receipt = notes.receipt if isinstance(notes, HandleDetails) else None
        return "" if receipt is None else receipt.id

    @property
    def receivers(self) -> int | None:
        """How many others the broker sent the event to; None if it does not tell, or not yet."""
        notes = self.notes
        receipt = notes.receipt if isinstance(notes, HandleDetails) else None
        return None if receipt is None else receipt.receivers

    @property
    def pending(self) -> int:
        """How many listeners have not finished with the event yet."""
        return max(self.left, 0)

    @property
    def done(self) -> bool:
        """True once every listener has finished, failed, or will not get the event any more."""
        return self.left <= 0

    @property
    def errors(self) -> tuple[EventError, ...]:
        """What failed so far, in the order in which it failed."""
        notes = self.notes
        if not isinstance(notes, HandleDetails) or not notes.errors:
            return ()
        self.route.kernel.looked_at(notes)
        return tuple(notes.errors)

    def raise_errors(self) -> None:
        """Raise what failed so far.

        Raises:
            ExceptionGroup: of `EventError`s, when at least one listener failed.
        """
        if errors := self.errors:
            raise ExceptionGroup(f"{len(errors)} listener(s) failed on {self.event_name!r}", errors)

    @enable_ki_protection
    async def wait(self) -> None:
        """Wait until every listener has finished with the event.

        Always a checkpoint. Cancelling the wait changes nothing about the event. It always ends: a
        delivery that is dropped, unregistered or abandoned is finished, and `errors` says so.

        Raises:
            DeadlockError: the caller runs inside a listener which that event is waiting for.
            RuntimeError: this is not the bus's thread.
        """
        if self.left <= 0:
            await checkpoint()
        else:
            task = current_task()
            kernel = self.route.kernel
            scheduler = kernel.scheduler
            if kernel.home != get_ident():
                raise RuntimeError("this handle can be waited for on its bus's thread only")
            if scheduler.suspended or task in scheduler.workers or kernel.underway:
                with kernel.waiting(self, task):
                    await self.parked(task)
            else:
                await self.parked(task)

    @types.coroutine
    def parked(self, task: Task) -> Generator[object, outcome.Outcome[None], None]:
        """Park the running task until nothing is left."""
        notes = self.notes
        if notes is None:
            self.notes = task
        elif type(notes) is HandleDetails and notes.first is None and not notes.waiters:
            notes.first = task
        else:
            self.noted().add_waiter(task)
        task.custom_sleep_data = self
        try:
            (yield PARKED).unwrap()
        except BaseException:
            self._forget(task)
            raise

    def _forget(self, task: Task) -> None:
        notes = self.notes
        if notes is task:
            self.notes = None
        elif isinstance(notes, HandleDetails):
            if notes.first is task:
                notes.first = None
            else:
                notes.remove_waiter(task)

    def _rouse(self, task: Task) -> None:
        """Wake a task, unless it is cancelled and has not run since."""
        if task.custom_sleep_data is self:
            reschedule(task, WAKE_UP)

    def noted(self) -> HandleDetails:
        notes = self.notes
        if not isinstance(notes, HandleDetails):
            self.notes = notes = HandleDetails(notes)
        return notes

    def when_done(self, settle: Settle) -> None:
        """Have a function called with the errors, once, when every listener has finished."""
        if self.left <= 0:
            settle(self._failed())
        else:
            self.noted().settle = settle

    def _failed(self) -> tuple[EventError, ...]:
        return tuple(self.notes.errors) if isinstance(self.notes, HandleDetails) else ()

    def wake(self) -> None:
        """Wake everybody who waits; called once, when nothing is left."""
        notes = self.notes
        if type(notes) is Task:
            self.notes = None
            self._rouse(notes)
        elif isinstance(notes, HandleDetails):
            if notes.first is not None:
                first, notes.first = notes.first, None
                self._rouse(first)
            if notes.waiters:
                waiters, notes.waiters = notes.waiters, ()
                for task in waiters:
                    self._rouse(task)
            if notes.settle is not None:
                settle, notes.settle = notes.settle, None
                settle(self._failed())

    def settle_one(self) -> None:
        """Count one delivery as finished; the cold twin of what workers do inline."""
        self.left -= 1
        if not self.left:
            self.wake()

    def __repr__(self) -> str:
        state = "done" if self.done else f"{self.pending} pending"
        notes = self.notes
        failed = len(notes.errors) if isinstance(notes, HandleDetails) else 0
        return f"<DispatchHandle {self.event_name!r} {state}, {failed} error(s)>"
