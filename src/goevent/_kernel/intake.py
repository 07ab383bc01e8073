"""The intake: decides whether the bus takes an event now, and from which caller.

It owns the state of the bus (new, open, draining, closed), the thread that the bus runs on, and how
deep inline listeners are nested. It is also the `DispatchKernel` that handles and routes refer to.
The dispatcher is an intake itself; `SpecialDispatch` and `InlineCalls` ask it; the session
opens, drains and closes it.

Theory of operation. `_owner` folds three questions into one comparison, which is all that the hot
path of the dispatcher pays: is the bus open, is this its thread, and does no listener dispatch? It
holds the id of the bus's thread while all three are true. A dispatch that does not find its own
thread id there takes the slow way, which asks the questions one by one, and looks for the event
that causes it. At all other times `_owner` holds:

* the handle whose inline listeners run, or the envelope of one that the driver has brought and that
  has no handle; once such an event has caused another one, its `Cause` instead;
* the worker whose step runs: the event is that of its lane;
* `UNKNOWN_CALLER`: any task may be inside a listener. A listener is suspended and has child tasks,
  or a thread with a timeout; or an inline `async def` runs. Also while the bus traces its events;
* 0: the bus is not open to every caller.

Each of these is put there once for a dispatch, a step or a child task. So a dispatch outside of
listeners pays nothing for causes.

While a bus drains, it takes events from its own listeners and from its driver only. So a caller
that is not inside an inline listener has to be found in the scheduler or among the dispatches that
await inline listeners; see `reentrancy`.
"""

# The internals of handles are for the kernel and the ports, not for users.
# pyright: reportPrivateUsage=false

from __future__ import annotations

from contextlib import contextmanager
from math import inf
from threading import get_ident
from typing import TYPE_CHECKING, TypeAlias

from .._cause import CORRELATION_ID_HEADER, Cause, is_id
from .._errors import BusClosed, BusForked, NestingError, require_trio
from .._handle import DispatchHandle, IdGenerator
from .._options.middleware import HOOK_NAMES, hooks_of
from .._wire.envelope import Envelope
from .actor import names_of
from .backpressure import Backpressure
from .reentrancy import Reentrancy, awaited_depth, enclosing_dispatches
from .routing import Router
from .tracer import Tracer
from .worker import Worker

if TYPE_CHECKING:
    from collections.abc import Collection, Generator
    from contextlib import AbstractContextManager

    from trio.lowlevel import Task

    from .._config import Config
    from .._delivery import Delivery
    from .._handle import HandleDetails
    from .route import Route
    from .scheduler import Scheduler
    from .supervisor import Supervisor

NO_THREAD = -1
"""The id of no thread. The bus of the parent process has it as its home thread in a fork."""

UNKNOWN_CALLER = -2
"""In place of the id of a thread: every dispatch has to look for the listener that makes it."""

InlineEvent: TypeAlias = DispatchHandle | Envelope | Cause
"""The event whose inline listeners run, in one of three forms."""
Owner: TypeAlias = int | Worker | InlineEvent
"""What `_owner` holds."""


class Intake:
    """The intake of one bus.

    Attributes:
        home_thread: The id of the thread that the bus runs on while it is open, or 0. It is
            `NO_THREAD` in a fork of the process.
        underway: The handles of the dispatches that await inline listeners.
        max_nesting: How deep inline listeners may dispatch inside each other.
        slow_after: Seconds after which an inline listener is reported as slow.
        tracer: Notes the events; None outside of `tracing`.
    """

    def __init__(self, config: Config, scheduler: Scheduler, supervisor: Supervisor) -> None:
        self.scheduler = scheduler
        self._supervisor = supervisor
        hooked = {name for name in HOOK_NAMES if hooks_of(config.middleware, name)}
        self.router: Router = Router(
            self,
            config.registry,
            # An event has a handle, which middleware around publishing needs, on special routes
            # only.
            special=not hooked.isdisjoint(("around_dispatch", "around_publish")),
            special_arrivals=not hooked.isdisjoint(("around_delivery", "around_settle")),
        )
        self.reentrancy: Reentrancy = Reentrancy(scheduler, self.router)
        self.underway: Collection[DispatchHandle] = self.reentrancy.underway
        self.backpressure: Backpressure = scheduler.backpressure
        self.ids: IdGenerator = IdGenerator()
        self.max_nesting: int = config.max_nesting
        self.slow_after: float = inf if config.slow_after is None else config.slow_after
        self.home_thread: int = 0
        scheduler.caller = self
        self._owner: Owner = 0
        self._outside = 0
        # The listeners that may dispatch while none of their steps runs.
        self._searches = 0
        # Kept after the end of tracing, so that the traces can still be read.
        self.tracer: Tracer | None = None
        self._last_tracer: Tracer | None = None
        self._depth = 0
        self._draining = False
        self._was_open = False

    # -- the state of the bus

    @property
    def state(self) -> str:
        """`"new"`, `"open"`, `"draining"`, `"closed"` or `"forked"`."""
        if self.is_forked:
            return "forked"
        if self.home_thread:
            return "draining" if self._draining else "open"
        return "closed" if self._was_open else "new"

    @property
    def is_closing(self) -> bool:
        """True unless the bus is open to all callers."""
        return self._draining or self.home_thread <= 0

    @property
    def busy(self) -> bool:
        """True while inline listeners run, or dispatches refer to a route."""
        inline = self._runs_inline or self._depth > 0
        return inline or bool(self.backpressure or self.underway)

    @property
    def on_home_thread(self) -> bool:
        """True if the caller runs on the thread of the open bus."""
        return get_ident() == self.home_thread

    def open(self) -> None:
        """Take events from every caller on this thread."""
        self.home_thread = get_ident()
        self._draining = False
        self._was_open = True
        self._depth = self._searches = 0
        self._owner = 0
        self._renew_outside()
        self.ids.forget()

    @property
    def is_forked(self) -> bool:
        """True if the bus belongs to the parent of this process."""
        return self.home_thread == NO_THREAD

    def fork(self) -> None:
        """Refuse every caller from now on: this process is a fork of the one that owns the bus."""
        self._owner, self.home_thread = 0, NO_THREAD
        self._renew_outside()
        self.ids.forget()

    def drain(self) -> None:
        """Take events from listeners and from the driver only."""
        self._draining = True
        self._renew_outside()
        self.backpressure.refuse(bus_closed, inside_too=False)

    def close(self) -> None:
        """Take no more events."""
        if not self.is_forked:
            self.home_thread = 0
        self._renew_outside()
        self.backpressure.refuse(bus_closed, inside_too=True)

    def _renew_outside(self) -> None:
        """Set `_owner` for the time outside of steps and inline calls."""
        if self.home_thread <= 0 or self._draining:
            self._outside = 0
        elif self._searches or self.tracer is not None:
            self._outside = UNKNOWN_CALLER
        else:
            self._outside = self.home_thread
        if type(self._owner) is int:
            self._owner = self._outside

    # -- causes

    def begin_search(self) -> None:
        """Look for the listener of every dispatch, until `end_search` is called as often."""
        self._searches += 1
        if self._searches == 1:
            self._renew_outside()

    def end_search(self) -> None:
        """End a search that `begin_search` began."""
        self._searches -= 1
        if not self._searches:
            self._renew_outside()

    @contextmanager
    def tracing(self, max_events: int) -> Generator[None]:
        """Note the events of this bus during the block.

        Args:
            max_events: The number of the newest events that are kept.

        Raises:
            RuntimeError: An inline listener called this: its dispatch has begun without.
        """
        self.check_thread()
        if self._runs_inline:
            raise RuntimeError("an inline listener cannot begin to trace the bus that runs it")
        tracer = self.tracer
        if tracer is None:
            self.tracer = self._last_tracer = tracer = Tracer(lambda: self.scheduler.clock())
            self._renew_outside()
        tracer.blocks += 1
        tracer.max_events = max(tracer.max_events, max_events)
        try:
            yield
        finally:
            tracer.blocks -= 1
            if not tracer.blocks:
                self.tracer = None
                self._renew_outside()

    def traced(self) -> Tracer:
        """Return the tracer of the last `tracing` block.

        Raises:
            ValueError: There was none.
        """
        if self._last_tracer is None:
            raise ValueError("no event was traced: dispatch inside `with bus.tracing():`")
        return self._last_tracer

    @property
    def _runs_inline(self) -> bool:
        """True while an inline listener runs."""
        kind = type(self._owner)
        return kind is not int and kind is not Worker

    def cause(self) -> Cause | None:
        """Return the cause of an event that the caller dispatches; None outside of listeners."""
        owner = self._owner
        if isinstance(owner, Worker) and not self.underway:
            lane = owner.actor
            handle = None if lane is None else lane.current
        elif isinstance(owner, DispatchHandle):
            handle = owner
        elif isinstance(owner, Cause):
            return owner
        elif isinstance(owner, Envelope):
            # The next event has the same cause.
            self._owner = cause = cause_of_arrived(owner, self.ids)
            return cause
        else:
            handle = self.reentrancy.calling_event()
        return None if handle is None else handle._as_cause()

    # -- checks

    def check_process(self) -> None:
        """Refuse a caller in a fork of the process that owns the open bus.

        Raises:
            BusForked: This is a fork.
        """
        if self.home_thread == NO_THREAD:
            raise BusForked

    def check_thread(self) -> None:
        """Refuse a caller on another thread than that of the open bus, or in another process.

        Raises:
            BusForked: This is a fork of the bus's process.
            RuntimeError: This is another thread.
        """
        if self.home_thread and get_ident() != self.home_thread:
            self.check_process()
            raise RuntimeError(
                "this bus runs on another thread; from here, call only bus.dispatch_from_thread()"
            )

    def check_task(self) -> None:
        """Refuse a caller that is not a Trio task on the thread of the open bus.

        Raises:
            RuntimeError: This is another thread, or no Trio task is running on it.
        """
        self.check_thread()
        require_trio()

    def check_intake(self, *, arrived: bool = False) -> None:
        """Refuse an event that the bus does not take now from this caller.

        Args:
            arrived: True if the driver has brought the event.

        Raises:
            BusClosed: The bus is closed, or it drains and the caller is not one of its listeners.
            RuntimeError: The bus is not open yet, or this is another thread.
        """
        if not self.home_thread:
            if self._was_open:
                raise bus_closed()
            raise RuntimeError("dispatch needs an open bus: enter `async with bus` first")
        self.check_thread()
        if self._draining and not (
            arrived or self._runs_inline or self._depth or self.reentrancy.called_from_listener()
        ):
            raise bus_closed()

    def check_nested(self) -> None:
        """Refuse an event as `check_intake` does, or because listeners are nested too deep.

        Raises:
            BusClosed: The bus is closed, or it drains and the caller is not one of its listeners.
            NestingError: Listeners dispatch too deep inside each other.
            RuntimeError: The bus is not open yet, or this is another thread.
        """
        if self._draining or get_ident() != self.home_thread:
            self.check_intake()
        # The context is asked only while an `async def` runs inline.
        if self._depth + (awaited_depth() if self.underway else 0) >= self.max_nesting:
            raise nested_too_deep(self._depth + len(enclosing_dispatches.get()))

    # -- inline calls

    def enter_inline(self, handle: DispatchHandle) -> Owner:
        """Count dispatches as nested in those of an event until `leave_inline` is called.

        Returns:
            The argument for `leave_inline`.
        """
        # A nested call on a special route has many frames, so it counts twice.
        self._depth += 1 + self._runs_inline
        owner, self._owner = self._owner, handle
        return owner

    def leave_inline(self, owner: Owner) -> None:
        """End an inline call that `enter_inline` began."""
        self._owner = owner
        self._depth -= 1 + self._runs_inline

    @property
    def inline_depth(self) -> int:
        """The number of inline calls around the caller; 0 on a thread other than the bus's."""
        if get_ident() != self.home_thread:
            return 0
        return self._depth + self._runs_inline

    def delivery(self) -> Delivery | None:
        """Return the delivery that the calling listener works on.

        A plain inline listener has none: it would get that of the listener that dispatched.
        """
        if self.inline_depth:
            return None
        try:
            return self.scheduler.delivery()
        except RuntimeError:  # in a thread without Trio
            return None

    def warn_if_slow(self, route: Route, seconds: float) -> None:
        """Log that the inline listeners of a route have held up all other tasks, if they have."""
        if seconds > self.slow_after and route.inline:
            self.scheduler.warn_slow(names_of(route.inline, " or "), seconds)

    # -- calls from handles

    def waiting(self, handle: DispatchHandle, task: Task) -> AbstractContextManager[None]:
        """Guard a wait for a handle.

        Raises:
            DeadlockError: The wait would never end.
        """
        return self.reentrancy.guard_handle_wait(handle, task)

    def mark_seen(self, details: HandleDetails) -> None:
        """Record that the application has seen the errors of a handle."""
        self._supervisor.mark_seen(details)


def cause_of_arrived(envelope: Envelope, ids: IdGenerator) -> Cause:
    """Return the cause of the events that an event of the driver causes; it has no handle."""
    own = envelope.handle_id if is_id(envelope.handle_id) else ids.draw()
    first = envelope.headers.get(CORRELATION_ID_HEADER)
    return Cause(first if is_id(first) else own, own)


def bus_closed() -> BusClosed:
    """Return the error for an event that came too late."""
    return BusClosed(
        "the bus is closed or closing and takes no events; dispatch inside `async with bus`"
    )


def nested_too_deep(depth: int) -> NestingError:
    """Return the error for inline listeners that dispatch inside each other without an end."""
    return NestingError(
        f"listeners dispatch {depth} levels deep inside each other; if that is not an endless "
        "loop, use an async listener, or raise Config.max_nesting"
    )
