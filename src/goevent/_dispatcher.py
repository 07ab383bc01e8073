"""The dispatcher: takes an event to all its listeners, on the task that brings it.

Its turn has two steps. *Commit*, without yielding: the event goes into every mailbox on its route,
or, if one of them has no room, into none. Then the *inline calls*, in the order of registration. So
an event that an inline listener dispatches cannot overtake the one that caused it.

`dispatch_nowait` is the hot path of the library, about 200 ns, and holds only what every dispatch
needs. One comparison finds everything unusual: `_owner` is the bus's thread while the bus is open
and no inline call is under way, and 0 at all other times.
"""

from __future__ import annotations

from contextlib import nullcontext
from threading import get_ident
from time import perf_counter
from typing import TYPE_CHECKING, Any

from trio.lowlevel import (
    checkpoint,
    checkpoint_if_cancelled,
    current_clock,
    current_task,
    enable_ki_protection,
    wait_task_rescheduled,
)

from ._errors import (
    BusClosed,
    EventAbandoned,
    EventError,
    GoEventError,
    NestingError,
    forget_caller,
)
from ._event import AdHocEvent
from ._handle import DispatchHandle
from ._listener import no_event_type
from ._mailbox import Mailboxes
from ._room import NoRoom, RoomWait, let_in
from ._routing import Router
from ._task_state import is_cancelled
from ._waits import Waits

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from trio.lowlevel import Task

    from ._actor import Actor
    from ._crew import Crew
    from ._handle import Notes
    from ._registry import EventRegistry
    from ._routing import Route
    from ._supervisor import Supervisor

BREATH = 0.0002  # seconds of dispatching between two yields to Trio


class Dispatcher:
    """The dispatcher of one bus, and what it tells handles about it."""

    def __init__(
        self, registry: EventRegistry, crew: Crew, supervisor: Supervisor, max_nesting: int
    ) -> None:
        self.router: Router = Router(self)
        self._owner = 0
        self._routes = self.router.by_type
        self.crew = crew
        self.mailboxes: Mailboxes = Mailboxes(crew, supervisor)
        self._registry = registry
        self._supervisor = supervisor
        self._waits = Waits()
        self._max_nesting = max_nesting
        self._depth = 0
        self.home: int = 0  # the thread that the bus runs on, while it is open
        self._draining = False
        self._was_open = False
        self._breath_end = 0.0
        self._room_waits: list[RoomWait] = []

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
        return inline or self._depth > 0 or bool(self._room_waits)

    @property
    def on_home_thread(self) -> bool:
        return get_ident() == self.home

    def open(self) -> None:
        self._owner = self.home = get_ident()
        self._draining = False
        self._was_open = True
        self._depth = 0
        clock = current_clock()
        # Trio's own clock is this one plus an offset; another one is a test's.
        is_system = type(clock).__name__ == "SystemClock"
        self.crew.clock = perf_counter if is_system else clock.current_time

    def drain(self) -> None:
        """Take events from listeners only."""
        self._owner = 0
        self._draining = True
        self._refuse([waiter for waiter in self._room_waits if waiter.outside])

    def shut(self) -> None:
        """Take no events any more."""
        self._owner = self.home = 0
        self._refuse(self._room_waits)

    @staticmethod
    def _refuse(waiters: list[RoomWait]) -> None:
        for waiter in waiters[::-1]:  # the other way round, each would let in the one behind it
            waiter.refuse(closed())

    def reroute(self, actor: Actor, names: tuple[str, ...]) -> None:
        """Let dispatches that wait find their route again, as a listener on it is gone."""
        stale = [
            waiter
            for waiter in self._room_waits
            if waiter.route.name in names and actor in waiter.route.listeners
        ]
        for waiter in stale:  # all of them, or one would be let in where another steps out
            waiter.step_out()
        let_in([actor, *(other for waiter in stale for other in waiter.blocking)])

    def check_thread(self) -> None:
        if self.home and get_ident() != self.home:
            raise RuntimeError(
                "this bus runs on another thread; from here, call only bus.dispatch_from_thread()"
            )

    # -- dispatch

    @enable_ki_protection
    def dispatch_nowait(self, event: object) -> DispatchHandle:
        ident = get_ident()
        if ident != self._owner:
            return self._unusual(event, ident)
        try:
            route = self._routes[type(event)]
        except KeyError:
            route, event = self._find(event)
        handle = DispatchHandle()
        handle.event = event
        handle.route = route
        handle.notes = None
        if actors := route.actors:
            room = route.free or route.room()
            if room > 0:
                route.free = room - 1 if route.exclusive else 0
                handle.left = len(actors)
                crew = self.crew
                ready = crew.ready
                if not (crew.awake and room & 15):
                    crew.now = crew.clock()
                handle.since = crew.now
                for actor in actors:
                    actor.mail.append(handle)
                    if not actor.scheduled:
                        actor.scheduled = True
                        ready.append(actor)
                route.posted += 1
                if ready and not crew.awake:
                    crew.post()
            else:
                self.mailboxes.commit(route, handle)
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
        if perf_counter() > self._breath_end or is_cancelled(current_task()):
            await checkpoint()
            self._breath_end = perf_counter() + BREATH
        try:
            return self.dispatch_nowait(event)
        except NoRoom as full:
            route, handle = full.route, full.handle
        if not await self._room(route, handle):
            return await self.dispatch(event)
        return self._run_inline(route, handle)

    async def _room(self, route: Route, handle: DispatchHandle, *, arrived: bool = False) -> bool:
        """Wait until the event is in all mailboxes; False if the route has changed meanwhile."""
        actor = self._inside()
        waiter = RoomWait(route, handle, actor, arrived, self.mailboxes.put)
        edge: AbstractContextManager[None] = nullcontext()
        if actor is not None:
            edge = self._waits.edge(actor, waiter.needs, f"room for {route.name!r}")
        with edge:
            self._room_waits.append(waiter)
            try:
                return await waiter.wait()
            finally:
                self._room_waits.remove(waiter)

    def _unusual(self, event: object, ident: int) -> DispatchHandle:
        """Dispatch when the bus is not simply open, or inside an inline listener."""
        if not self.home:
            if self._was_open:
                raise closed()
            raise RuntimeError("dispatch needs an open bus: enter `async with bus` first")
        self.check_thread()
        if self._draining and not self._depth and self._inside() is None:
            raise closed()
        if self._depth >= self._max_nesting:
            raise NestingError(
                f"listeners dispatch {self._depth} levels deep inside each other; if that is no "
                "endless loop, use an async listener, or raise Config.max_nesting"
            )
        owner = self._owner
        self._depth += 1
        self._owner = ident
        try:
            return self.dispatch_nowait(event)
        finally:
            self._owner = owner
            self._depth -= 1

    def _find(self, event: object) -> tuple[Route, object]:
        """Return the route of an event whose class has not been dispatched before."""
        if isinstance(event, AdHocEvent):
            name = event.event_name
            if not self._registry.is_registered(name):
                return self.router.named(name), event
            event = self._registry.create(name, event.payload())
        known = self._registry.name_of(type(event))
        if known is None:
            raise TypeError(no_event_type(type(event)))
        cached = self._routes.get(type(event))
        return cached or self.router.cache(type(event), known), event

    # -- inline calls, when one of them has failed or the dispatch had to wait

    def _carry_on(
        self,
        route: Route,
        handle: DispatchHandle,
        call: Callable[[Any], Any],
        failure: Exception,
    ) -> DispatchHandle:
        failed = next(i for i, other in enumerate(route.calls) if other is call)
        self._inline_failed(route.inline[failed], handle, failure)
        try:
            return self._run_inline(route, handle, failed)
        finally:
            del handle, failure

    def _run_inline(
        self, route: Route, handle: DispatchHandle, failed: int | None = None
    ) -> DispatchHandle:
        """Make the inline calls, or those behind one that has failed."""
        failures = [] if failed is None else [route.inline[failed]]
        index = 0 if failed is None else failed + 1
        owner, self._owner = self._owner, 0
        level = 1 if failed is None else 0  # those behind a failed one are at its level
        self._depth += level
        try:
            while index < len(route.calls):
                try:
                    route.calls[index](handle.event)
                except Exception as error:  # noqa: BLE001 - whatever it is, it is reported
                    failures.append(route.inline[index])
                    self._inline_failed(route.inline[index], handle, error)
                index += 1
            return handle
        finally:
            self._owner = owner
            self._depth -= level
            # All at once, so that a snapshot taken by a listener adds up.
            route.ran += 1
            for actor in failures:
                actor.failed += 1
            for actor in route.inline[index:]:  # after a KeyboardInterrupt, say
                actor.abandoned += 1
            del handle

    def _inline_failed(self, actor: Actor, handle: DispatchHandle, failure: Exception) -> None:
        forget_caller(failure)
        actor.last_error = EventError(handle.event_name, actor.name, failure)
        self._supervisor.report(actor.last_error, handle)

    # -- what drivers bring, and what the bus asks

    async def deliver(self, event: object) -> None:
        """Take an event of another bus to the listeners of this one; it goes no further."""
        try:
            await checkpoint_if_cancelled()
            route, event = self._find(event)
            handle = DispatchHandle()
            handle.event, handle.route, handle.notes, handle.left = event, route.local, None, 0
            try:
                self.mailboxes.commit(route.local, handle)
            except NoRoom:
                if not await self._room(route.local, handle, arrived=True):
                    return await self.deliver(event)
            self._run_inline(route.local, handle)
        except (GoEventError, TypeError) as error:
            self._supervisor.report_loose(EventError(self._name_of(event), "driver", error))

    def lost(self, event: object) -> None:
        """Report an event of another bus that came too late."""
        reason = "the bus ended before it could be delivered"
        self._supervisor.report_loose(EventAbandoned(self._name_of(event), "driver", reason=reason))

    def _name_of(self, event: object) -> str:
        known = self._registry.name_of(type(event))
        return known or getattr(event, "event_name", "") or type(event).__qualname__

    @enable_ki_protection
    async def wait(self) -> None:
        """Wait until what was accepted before is settled."""
        self.refuse_inside("wait for")
        handles: list[DispatchHandle] = []
        for actor in self._at_work():
            if actor.hand is not None:
                handles.append(actor.hand)
            if len(actor.event_names) > 1:  # unregistering it for one of them may drop the last
                handles.extend(actor.mail)
            elif actor.mail:  # FIFO: when the last event is settled, so are those before it
                handles.append(actor.mail[-1])
        await checkpoint()
        for handle in handles:
            if handle.left > 0:
                await wait_task_rescheduled(handle.enlist(current_task()))

    # -- what handles ask

    def looked_at(self, notes: Notes) -> None:
        self._supervisor.looked_at(notes)

    def waiting(self, handle: DispatchHandle, task: Task) -> AbstractContextManager[None]:
        actor = self.crew.owner(task)
        if actor is None:
            return nullcontext()

        def needs() -> list[Actor]:
            return [other for other in self._at_work() if other.holds(handle)]

        return self._waits.edge(actor, needs, f"the handle of {handle.event_name!r}")

    def _at_work(self) -> list[Actor]:
        """Return who may hold events, also a listener that was unregistered while it ran."""
        running = (worker.actor for worker in self.crew.workers.values())
        found = {id(actor): actor for actor in (*self.router.actors(), *running) if actor}
        return list(found.values())

    def refuse_inside(self, verb: str) -> None:
        if (actor := self._inside()) is not None:
            raise RuntimeError(
                f"{actor.name} cannot {verb} the bus that runs it: it would never end"
            )

    def _inside(self) -> Actor | None:
        """Return the actor inside whose listener the caller runs."""
        task = current_task()
        if self.crew.suspended or task in self.crew.workers:
            return self.crew.owner(task)
        return None


def closed() -> BusClosed:
    return BusClosed("the bus is closed or closing and takes no events")
