"""The dispatcher: takes an event to all its listeners, on the task that brings it.

Its turn has two steps. *Commit*, without yielding: the event goes into every mailbox on its route,
or, if one of them has no room, into none. Then the *inline calls*, in the order of registration. So
an event that an inline listener dispatches cannot overtake the one that caused it.

`dispatch_nowait` is the hot path of the library, about 200 ns, and holds only what every dispatch
needs. One comparison finds everything unusual: `_owner` is the bus's thread while the bus is open
and no inline call is under way, and 0 at all other times.
"""

# pyright: reportPrivateUsage=false, reportUnknownMemberType=false
# Whether the task is cancelled is read here without the detour over _task_state.

from __future__ import annotations

from math import inf
from threading import get_ident
from time import perf_counter
from typing import TYPE_CHECKING, Any

from trio.lowlevel import checkpoint, current_task, enable_ki_protection

from .._errors import BusClosed, EventError, forget_caller
from .._events.event import AdHocEvent
from .._handle import DispatchHandle, IdGenerator
from .._options.signature import explain_unregistered
from .._trio_internals import RUNNING, turn
from .admission import Admission
from .backpressure import Backpressure, NoRoom, WaitingDispatch
from .inline_async import levels, underway
from .reentrancy import Reentrancy
from .routing import Router
from .special_dispatch import Special, SpecialDispatch, too_deep

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager

    from trio.lowlevel import Task

    from .._config import Config
    from .._delivery import Delivery
    from .._handle import HandleDetails
    from .actor import Actor
    from .routing import Route
    from .scheduler import Scheduler
    from .supervisor import Supervisor

# Seconds of dispatching until one asks whether to yield to Trio. What is left of them may be that
# of another task, so a task yields after twice as long at the latest.
BREATH = 0.0001


class Dispatcher:
    """The dispatcher of one bus, and what it tells handles about it."""

    def __init__(self, config: Config, scheduler: Scheduler, supervisor: Supervisor) -> None:
        self._slow_after = inf if config.slow_after is None else config.slow_after
        self.special_dispatch: SpecialDispatch = SpecialDispatch(
            self, scheduler.failures, config.middleware, self._slow_after
        )
        self.underway: Mapping[DispatchHandle, object] = self.special_dispatch.handles
        self.router: Router = Router(self, special=bool(self.special_dispatch.hooks))
        self._owner = 0
        self._routes = self.router.by_type
        self.scheduler = scheduler
        self.admission: Admission = Admission(scheduler, scheduler.failures)
        self._registry = config.registry
        self._supervisor = supervisor
        self.reentrancy: Reentrancy = Reentrancy(scheduler, self.router, self.special_dispatch)
        self.max_nesting: int = config.max_nesting
        self._depth = 0
        self.ids: IdGenerator = IdGenerator()
        self.home: int = 0  # the thread that the bus runs on, while it is open
        self._draining = False
        self._was_open = False
        self._turn: tuple[int, int] | None = None
        self._breath_end = 0.0
        self.backpressure: Backpressure = scheduler.backpressure

    # -- intake

    @property
    def state(self) -> str:
        if self.home:
            return "draining" if self._draining else "open"
        return "closed" if self._was_open else "new"

    @property
    def busy(self) -> bool:
        """True while inline listeners run, or dispatches hold on to a route."""
        inline = bool(self.home) and not self._owner and not self._draining
        return inline or self._depth > 0 or bool(self.backpressure or self.special_dispatch.handles)

    @property
    def on_home_thread(self) -> bool:
        return get_ident() == self.home

    def open(self) -> None:
        self._owner = self.home = get_ident()
        self._draining = False
        self._was_open = True
        self._depth = 0
        self.ids.forget()
        self.special_dispatch.open()

    def drain(self) -> None:
        """Take events from listeners only."""
        self._owner = 0
        self._draining = True
        self.backpressure.refuse(closed, inside_too=False)

    def shut(self) -> None:
        """Take no events any more."""
        self._owner = self.home = 0
        self.backpressure.refuse(closed, inside_too=True)

    def check_thread(self) -> None:
        if self.home and get_ident() != self.home:
            raise RuntimeError(
                "this bus runs on another thread; from here, call only bus.dispatch_from_thread()"
            )

    # -- dispatch

    @enable_ki_protection
    def dispatch_nowait(self, event: object, waiting: bool = False) -> DispatchHandle:
        ident = get_ident()
        if ident != self._owner:
            return self._unusual(event, ident, waiting)
        try:
            route = self._routes[type(event)]
        except KeyError:
            route = None
        if route is None:
            route, event = self.find(event)
            if route.special:
                if waiting:
                    raise Special(route, event)
                return self.special_dispatch.conduct_nowait(route, event)
        handle = DispatchHandle()
        handle.event = event
        handle.route = route
        handle.details = None
        if actors := route.actors:
            room = route.free or route.room()
            if room > 0:
                route.free = room - 1 if route.exclusive else 0
                handle.left = len(actors)
                scheduler = self.scheduler
                ready = scheduler.ready
                if not (scheduler.awake and room & 15):
                    scheduler.now = scheduler.clock()
                handle.since = scheduler.now
                for actor in actors:
                    actor.mail.append(handle)
                    if not actor.scheduled:
                        actor.scheduled = True
                        ready.append(actor)
                route.posted += 1
                if ready and not scheduler.awake:
                    scheduler.wake_workers()
            else:
                self.admission.commit(route, handle)
        else:
            handle.left = 0
        self._owner = 0
        failure = None
        try:
            for call in route.calls:
                call(event)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is reported
            failure = error
        finally:
            self._owner = ident
        if failure is None:
            route.ran += 1
            return handle
        try:
            return self._carry_on(route, handle, call, failure)  # pyright: ignore
        finally:
            del handle, failure  # this frame lives in the traceback, which lives in the handle

    @enable_ki_protection
    async def dispatch(self, event: object) -> DispatchHandle:
        start = perf_counter()
        if start > self._breath_end or RUNNING.task._cancel_status.effectively_cancelled:
            await self._breathe()
            start = perf_counter()
            self._breath_end = start + BREATH
        try:
            try:
                return self.dispatch_nowait(event, True)
            finally:  # the handle must not be kept by this frame, which a failure may keep
                if perf_counter() - start > self._slow_after:
                    self.warn_if_slow(self.find(event)[0], perf_counter() - start)
        except NoRoom as full:
            route, handle = full.route, full.handle
        except Special as special:
            route, event, handle = special.route, special.event, None
        # Not inside the handlers, or theirs would be the context of what listeners raise.
        if handle is None:
            return await self.special_dispatch.conduct(route, event)
        return await self.finish(route, handle)

    async def _breathe(self) -> None:
        """Yield, unless Trio has given the task its turn since it, or another one, did so last.

        An event that comes alone need not wait for all other tasks, and one that yields for all
        that run in this tick is enough.
        """
        if turn() == self._turn or RUNNING.task._cancel_status.effectively_cancelled:
            await checkpoint()
        self._turn = turn()

    def warn_if_slow(self, route: Route, seconds: float) -> None:
        """Say that an inline listener has held up all other tasks, if one has."""
        if seconds > self._slow_after and route.inline:
            self.scheduler.warn_slow(" or ".join(actor.name for actor in route.inline), seconds)

    async def finish(
        self, route: Route, handle: DispatchHandle, *, arrived: bool = False
    ) -> DispatchHandle:
        """Wait for room, and make the inline calls."""
        taken = await self.room(route, handle, arrived=arrived)
        if taken is route:
            return self.run_inline(route, handle)
        return self.special_dispatch.call_timed(taken, handle)

    async def room(self, route: Route, handle: DispatchHandle, *, arrived: bool = False) -> Route:
        """Wait until the event is in all mailboxes; returns the route that it has taken."""
        actor = self.reentrancy.inside()
        waiter = WaitingDispatch(self.backpressure, route, handle, actor, arrived, self._admit)
        with self.reentrancy.waiting_for_room(waiter, actor):
            taken = await self.backpressure.wait(waiter)
        if taken is not route:
            handle.route = taken
        return taken

    def _admit(self, route: Route, handle: DispatchHandle) -> None:
        self.admission.put(route, handle)
        self.reentrancy.admitted(route, handle)

    def _unusual(self, event: object, ident: int, waiting: bool) -> DispatchHandle:
        """Dispatch when the bus is not simply open, or inside an inline listener."""
        self.check_intake()
        if self._depth + levels() >= self.max_nesting:
            raise too_deep(self._depth + len(underway.get()))
        owner = self._owner
        self._depth += 1
        self._owner = ident
        try:
            return self.dispatch_nowait(event, waiting)
        finally:
            self._owner = owner
            self._depth -= 1

    def check_intake(self, *, arrived: bool = False) -> None:
        """Raise what says why no event is taken now from where the caller is."""
        if not self.home:
            if self._was_open:
                raise closed()
            raise RuntimeError("dispatch needs an open bus: enter `async with bus` first")
        self.check_thread()
        if self._draining and not self._depth and not arrived and not self.reentrancy.are_here():
            raise closed()

    def find(self, event: object) -> tuple[Route, object]:
        """Return the route of an event whose class is not in the table, and the event."""
        if isinstance(event, AdHocEvent):
            name = event.event_name
            if not self._registry.is_registered(name):
                return self.router.named(name), event
            event = self._registry.create(name, event.payload())
        known = self._registry.name_of(type(event))
        if known is None:
            raise TypeError(explain_unregistered(type(event)))
        cached = self._routes.get(type(event))
        return cached or self.router.cache(type(event), known), event

    def enter_inline(self) -> int:
        """Enter an inline call: what it dispatches is nested; returns what leaving it needs."""
        owner, self._owner = self._owner, 0
        self._depth += 1
        return owner

    def leave_inline(self, owner: int) -> None:
        self._owner = owner
        self._depth -= 1

    # -- inline calls, when one of them has failed or the dispatch had to wait

    def _carry_on(
        self,
        route: Route,
        handle: DispatchHandle,
        call: Callable[[Any], Any],
        failure: Exception,
    ) -> DispatchHandle:
        failed = next(i for i, other in enumerate(route.calls) if other is call)
        try:
            return self.run_inline(route, handle, failed, failure)
        finally:
            del handle, failure

    def run_inline(
        self,
        route: Route,
        handle: DispatchHandle,
        index: int = 0,
        failure: Exception | None = None,
    ) -> DispatchHandle:
        """Make the inline calls, or see to one that has failed, and make those behind it."""
        start = perf_counter()
        failures: list[Actor] = []
        calls, event = route.calls, handle.event
        owner, self._owner = self._owner, 0
        level = 1 if failure is None else 0  # those behind a failed one are at its level
        self._depth += level
        try:
            while index < len(calls):
                try:
                    if failure is None:
                        calls[index](event)
                except Exception as error:  # noqa: BLE001 - whatever it is, it is reported
                    failure = error
                if failure is not None:
                    failures.append(route.inline[index])
                    self._inline_failed(route.inline[index], handle, failure)
                    failure = None
                index += 1
            return handle
        finally:
            self._owner = owner
            self._depth -= level
            # The route counts the deliveries only now, when all of them have been made: until
            # then a failed one counts itself, so that a snapshot taken by a listener adds up.
            route.ran += 1
            for actor in failures:
                actor.accepted -= 1
            if index < len(calls):  # after a KeyboardInterrupt, say
                for actor in route.inline[index:]:
                    actor.abandoned += 1
            if level and (seconds := perf_counter() - start) > self._slow_after:
                self.warn_if_slow(route, seconds)
            del handle, failure

    def _inline_failed(self, actor: Actor, handle: DispatchHandle, failure: Exception) -> None:
        forget_caller(failure)
        error = EventError(handle.event_name, actor.name, failure)
        actor.accepted += 1
        self.scheduler.failures.fail(actor, handle, error)
        if actor.recovery is not None:
            actor.recovery.supervise_inline(error)

    # -- what the bus and its handles ask

    @enable_ki_protection
    async def wait(self) -> None:
        """Wait until what was accepted before is settled."""
        self.reentrancy.refuse("wait for")
        handles: list[DispatchHandle] = [*self.special_dispatch.handles]
        for actor in self.reentrancy.at_work():
            handles.extend(actor.in_flight)
            if actor.exclusive and actor.lanes == (actor,):
                if actor.mail:  # FIFO: when the last event is settled, so are those before it
                    handles.append(actor.mail[-1])
            else:  # unregistering it for one of several events may drop the last
                handles.extend(actor.mail)
        await checkpoint()
        for handle in handles:
            if handle.left > 0:
                await handle.park(current_task())

    def mark_seen(self, details: HandleDetails) -> None:
        self._supervisor.mark_seen(details)

    def waiting(self, handle: DispatchHandle, task: Task) -> AbstractContextManager[None]:
        return self.reentrancy.waiting(handle, task)

    def delivery(self) -> Delivery | None:
        """Return what the caller's listener works on; an inline one would get its caller's."""
        if self.level:
            return None
        try:
            return self.scheduler.delivery()
        except RuntimeError:  # in a thread
            return None

    @property
    def level(self) -> int:
        """How deep the caller is in inline calls; other threads than the bus's are in none."""
        if get_ident() != self.home:
            return 0
        return self._depth + (not self._owner and not self._draining)


def closed() -> BusClosed:
    return BusClosed("the bus is closed or closing and takes no events")
