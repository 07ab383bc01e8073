"""The dispatcher: takes an event to all its listeners, on the task that dispatches it.

It owns the hot path of the library. The bus calls it for each event that is dispatched here, and
the inbox for each event that a driver brings. It must never know a driver.

Theory of operation. A dispatch has two steps. *Commit*, without yielding: the event goes into every
mailbox on its route or, if one of them has no room, into none. Then the *inline calls*, in the
order of registration. So an event that an inline listener dispatches cannot overtake the one that
caused it, and a cancelled dispatch has brought the event to all listeners or to none.

`dispatch_nowait` is that path. It takes about 200 ns, and has no step that only some events need.
One comparison with `_owner` finds the calls that need more checks; see `intake`. One look-up by the
class of the event finds its route; special routes are never in that table. `dispatch` takes the
same path unless it has to wait, and `_dispatch_slowly` in all other cases.
"""

# pyright: reportPrivateUsage=false, reportUnknownMemberType=false
# Trio's private `_cancel_status` is read here without a call of _trio_internals.

from __future__ import annotations

from math import inf
from threading import get_ident
from time import perf_counter
from typing import TYPE_CHECKING, Any, ClassVar, Literal, overload

from trio.lowlevel import (
    checkpoint,
    checkpoint_if_cancelled,
    current_task,
    enable_ki_protection,
)

from .._cause import Cause
from .._errors import BusForked, listener_failed
from .._foreign import forget_caller
from .._handle import DispatchHandle, arrived_handle, new_handle
from .._options.results import refuse_unrun
from .._trio_internals import RUNNING, turn
from .admission import Admission, no_room
from .inline_calls import InlineCalls
from .intake import Intake
from .special_dispatch import SpecialDispatch

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .._config import Config
    from .._handle import Scope
    from .._wire.envelope import Envelope
    from .actor import Actor
    from .route import Route
    from .scheduler import Scheduler
    from .supervisor import Supervisor
    from .tracer import Tracer

# How long tasks dispatch before one of them looks whether to yield to Trio. The interval may have
# begun in another task, so a task yields after twice as long at the latest.
YIELD_INTERVAL_SECONDS = 0.0001


@overload
def hot_path(*, waits: Literal[True]) -> Callable[[Dispatcher, object], DispatchHandle | None]: ...
@overload
def hot_path(*, waits: Literal[False]) -> Callable[[Dispatcher, object], DispatchHandle]: ...
def hot_path(*, waits: bool) -> Callable[[Dispatcher, object], DispatchHandle | None]:
    """Build the hot path: `dispatch_nowait`, or the same for a caller that can wait.

    A parameter would show in the signature that users see, and a call of a common function would
    cost a fifth of a dispatch. So one body makes two functions. They differ where the event takes
    a special route or has to wait for room: there the function for `dispatch` returns None and has
    changed nothing.
    """

    @enable_ki_protection
    def dispatch_nowait(self: Dispatcher, event: object) -> DispatchHandle | None:
        ident = get_ident()
        if ident != self._owner:
            return self._dispatch_nested(event, waits)
        try:
            route = self._routes[type(event)]
        except KeyError:
            route = None
        if route is None:
            route, event = self.router.find(event)
            if route.special:
                if waits:
                    return None
                return self.special_dispatch.dispatch_nowait(route, new_handle(route, event))
        handle = DispatchHandle()
        handle.event = event
        handle._route = route
        handle._details = None
        if actors := route.actors:
            room = route.free or route.room()
            if room > 0:
                # Only a mailbox that no other route fills is sure to have this room the next time.
                route.free = room - 1 if route.exclusive else 0
                handle._left = len(actors)
                scheduler = self.scheduler
                ready = scheduler.ready
                # Reading the clock costs a third of a dispatch. While workers are awake, only every
                # 16th event reads it.
                if not (scheduler.awake and room & 15):
                    scheduler.now = scheduler.clock()
                handle._since = scheduler.now
                for actor in route.mailboxes:
                    actor.mail.append(handle)
                    if not actor.scheduled:
                        actor.scheduled = True
                        ready.append(actor)
                if route.publisher is not None:
                    route.publisher.post(handle)
                route.mailed += 1
                if ready and not scheduler.awake:
                    scheduler.wake_workers()
            elif not self.admission.commit(route, handle):
                if waits:
                    return None
                raise no_room(route)
        else:
            handle._left = 0
        # While inline listeners run, their own dispatches find the event that causes them.
        self._owner = handle
        try:
            for call in route.calls:
                if (result := call(event)) is not None:
                    refuse_unrun(result)
            route.called += 1
            return handle
        except Exception as error:  # noqa: BLE001 - every failure of a listener is reported
            failure = error
        finally:
            self._owner = ident
        try:
            return self._carry_on(route, handle, call, failure)  # pyright: ignore
        finally:
            # This frame lives in the traceback, which lives in the handle: a cycle without this.
            del handle, failure

    return dispatch_nowait


class NoRoutes(dict[type, "Route"]):
    """The routes of a bus in a fork of its process: no event has one."""

    def __missing__(self, event_type: type) -> Route:
        raise BusForked


class Dispatcher(Intake):
    """The dispatcher of one bus; an intake itself, so that the hot path reads `_owner` directly.

    Attributes:
        track: Begins to track a dispatch on which the other buses report.
    """

    track: Callable[[DispatchHandle], Awaitable[None]]

    def __init__(self, config: Config, scheduler: Scheduler, supervisor: Supervisor) -> None:
        super().__init__(config, scheduler, supervisor)
        failures = scheduler.failures
        self._failures = failures
        self._routes = self.router.by_type
        self._yield_at = 0.0
        self._running: dict[str, Any] = {}
        self._last_turn: tuple[int, int] | None = None
        self.admission: Admission = Admission(
            scheduler, failures, self.backpressure, self.reentrancy
        )
        self._inline_calls = InlineCalls(self, failures)
        self.special_dispatch: SpecialDispatch = SpecialDispatch(
            self, self.admission, self._inline_calls, failures, config.middleware
        )

    def open(self) -> None:
        super().open()
        self.special_dispatch.open()
        self._yield_at = 0.0  # the bus may be on another thread than the last time

    def fork(self) -> None:
        super().fork()
        # The fork may have begun inside an inline listener, after which the hot path restores
        # `_owner`. It still finds no route then.
        self._routes = NoRoutes()
        # `dispatch` must not yield to the run loop before it refuses the event.
        self._yield_at, self._running = inf, {}

    # -- dispatch

    dispatch_nowait: ClassVar[Callable[[Dispatcher, object], DispatchHandle]] = hot_path(
        waits=False
    )
    _dispatch_at_once = hot_path(waits=True)

    @enable_ki_protection
    async def dispatch(self, event: object, *, scope: Scope = "local") -> DispatchHandle:
        if scope != "local":
            return await self._dispatch_tracked(event, scope)
        start = perf_counter()
        try:
            # Trio's context of the bus's thread. Its dict costs less to read than its attributes.
            yields = (
                start > self._yield_at or self._running["task"]._cancel_status.effectively_cancelled
            )
        except KeyError:
            yields = False  # this is another thread, which is refused below
        if yields:
            await self._yield_to_trio()
            start = perf_counter()
            self._note_yield(start)
        handle = None
        try:
            handle = self._dispatch_at_once(event)
            if handle is not None:
                return handle
        finally:
            del handle  # the traceback of a failure may keep this frame, and the handle has it
            if perf_counter() - start > self.slow_after:
                self.warn_if_slow(self.router.find(event)[0], perf_counter() - start)
        return await self._dispatch_slowly(event)

    async def _dispatch_tracked(self, event: object, scope: Scope) -> DispatchHandle:
        """Dispatch an event on which the other buses report."""
        if scope != "all":
            raise ValueError(f'scope is "local" or "all", not {scope!r}')
        await self.take_turn()
        self.check_nested()
        route, event = self.router.find(event)
        tracer = self.tracer
        started = 0.0 if tracer is None else tracer.now()
        handle = self.caused_handle(route, event)
        await self.track(handle)
        self.check_nested()
        route = self.router.named(route.name)
        if route.special:
            await self.special_dispatch.dispatch(handle)
        else:
            await self.bring(route, handle)
        if tracer is not None:
            tracer.note(handle, started)
        return handle

    async def take_turn(self) -> None:
        """Yield to other tasks if it is time to; always a cancellation point.

        Raises:
            RuntimeError: The caller is not a Trio task on the thread of the open bus.
        """
        if perf_counter() > self._yield_at:
            await self._yield_to_trio()
            self._note_yield(perf_counter())
        else:
            await checkpoint_if_cancelled()

    def _note_yield(self, now: float) -> None:
        if get_ident() == self.home_thread:
            self._yield_at = now + YIELD_INTERVAL_SECONDS
            self._running = vars(RUNNING)

    async def _yield_to_trio(self) -> None:
        """Yield, unless Trio has scheduled a task since a dispatch yielded last.

        A single event need not wait for all other tasks, and it is enough if one of the tasks that
        run in a tick yields.

        Raises:
            RuntimeError: The caller is not a Trio task on the thread of the open bus.
        """
        try:
            now = turn()
        except AttributeError:  # Trio has no running task here
            self.check_task()
            raise
        if now == self._last_turn or RUNNING.task._cancel_status.effectively_cancelled:
            await checkpoint()
        self._last_turn = turn()

    async def _dispatch_slowly(self, event: object) -> DispatchHandle:
        """Dispatch an event that needs special dispatch or room, or is the first of its class."""
        if get_ident() != self._owner:
            self.check_nested()
        tracer = self.tracer
        started = 0.0 if tracer is None else tracer.now()
        route, event = self.router.find(event)
        handle = self.caused_handle(route, event)
        try:
            if route.special:
                await self.special_dispatch.dispatch(handle)
            else:
                await self.bring(route, handle)
            if tracer is not None:
                tracer.note(handle, started)
            return handle
        finally:
            del handle  # as in `bring`

    def _dispatch_traced(self, tracer: Tracer, event: object, waits: bool) -> DispatchHandle | None:
        """Dispatch as `_dispatch_nested`, and note the event."""
        started = tracer.now()
        handle = self._dispatch_nested(event, waits, traced=True)
        if handle is not None:
            tracer.note(handle, started)
        return handle

    def _dispatch_nested(
        self, event: object, waits: bool, *, traced: bool = False
    ) -> DispatchHandle | None:
        """Dispatch inside a listener, or while the hot path may not.

        Like `hot_path`, it returns None and has changed nothing where the caller has to wait.

        Args:
            event: The event.
            waits: True if the caller can wait.
            traced: True if the caller notes the event.
        """
        if self.tracer is not None and not traced:
            return self._dispatch_traced(self.tracer, event, waits)
        self.check_nested()
        route = self._routes.get(type(event))
        if route is None:
            route, event = self.router.find(event)
            if route.special:
                if waits:
                    return None
                return self.special_dispatch.dispatch_nowait(
                    route, self.caused_handle(route, event)
                )
        handle = self.caused_handle(route, event)
        if route.actors and not self.admission.commit(route, handle):
            if waits:
                return None
            raise no_room(route)
        if not route.calls:
            route.called += 1
            return handle
        failure = None
        level = int(self._runs_inline)  # see `run_inline`
        owner, self._owner = self._owner, handle
        self._depth += level
        try:
            try:
                for call in route.calls:
                    if (result := call(event)) is not None:
                        refuse_unrun(result)
                route.called += 1
                return handle
            except Exception as error:  # noqa: BLE001 - every failure of a listener is reported
                failure = error
            return self._carry_on(route, handle, call, failure)  # pyright: ignore
        finally:
            self._owner = owner
            self._depth -= level
            del handle, failure  # as in `hot_path`

    def caused_handle(self, route: Route, event: object) -> DispatchHandle:
        """Return the handle of an event that the caller dispatches, with the cause of the event."""
        handle = new_handle(route, event)
        if (cause := self.cause()) is not None:
            handle._details = cause
        return handle

    async def bring(
        self, route: Route, handle: DispatchHandle, *, arrived: bool = False
    ) -> DispatchHandle:
        """Take an event along an ordinary route, waiting for room.

        Args:
            route: The route, which is not special.
            handle: The event.
            arrived: True if the driver has brought the event.

        Raises:
            BusClosed: The bus was closed while the event waited.
            DeadlockError: The caller is a listener that the full mailbox waits for in turn.
            MailboxFull: A mailbox under `overflow="error"` is full.
        """
        taken = route
        if route.actors and not self.admission.commit(route, handle):
            taken = await self.admission.wait_for_room(route, handle, arrived=arrived)
        try:
            if taken is route:
                return self.run_inline(route, handle)
            taken.counter.count += 1
            return self._inline_calls.call_all_timed(taken, handle)
        finally:
            del handle  # the traceback of a failure may keep this frame, and the handle has it

    # -- inline calls, when one of them has failed or the dispatch had to wait

    def _carry_on(
        self,
        route: Route,
        handle: DispatchHandle,
        call: Callable[[Any], Any],
        failure: Exception,
    ) -> DispatchHandle:
        calls = route.calls
        # By identity: to compare functions of the application may run their code.
        index = 0
        while calls[index] is not call:
            index += 1
        if index < len(calls) - 1:
            try:
                return self.run_inline(route, handle, index, failure)
            finally:
                del handle, failure
        # Nothing is left to call, so this does the rest of `run_inline` in fewer steps.
        owner, self._owner = self._owner, handle
        actor = route.inline[index]
        try:
            self._inline_failed(actor, handle, failure)
            return handle
        finally:
            self._owner = owner
            route.called += 1
            actor.accepted -= 1
            del handle, failure

    def run_inline(
        self,
        route: Route,
        handle: DispatchHandle,
        index: int = 0,
        failure: Exception | None = None,
    ) -> DispatchHandle:
        """Make the inline calls of an ordinary route.

        Args:
            route: The route.
            handle: The event; it is in the mailboxes already.
            index: The call to begin with.
            failure: The exception that this call has raised, if it was made already.
        """
        start = perf_counter()
        failures: list[Actor] = []
        calls, event = route.calls, handle.event
        fresh = failure is None
        # The calls after a failed one are as deep as it was. Outside of all inline calls, `_owner`
        # is enough to tell that one is under way.
        owner = self._owner
        # Usually a number: then the property need not be called.
        level = 0 if type(owner) is int else int(fresh and self._runs_inline)
        self._owner = handle
        self._depth += level
        try:
            while index < len(calls):
                try:
                    if failure is None and (result := calls[index](event)) is not None:
                        refuse_unrun(result)
                except Exception as error:  # noqa: BLE001 - every failure of a listener is reported
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
            route.called += 1
            for actor in failures:
                actor.accepted -= 1
            if index < len(calls):  # after a KeyboardInterrupt, say
                for actor in route.inline[index:]:
                    actor.abandoned += 1
            if fresh and (seconds := perf_counter() - start) > self.slow_after:
                self.warn_if_slow(route, seconds)
            del handle, failure

    def run_arrived(
        self, route: Route, event: object, envelope: Envelope, deliveries: int
    ) -> DispatchHandle | None:
        """Make the inline calls for an event of the driver, on an ordinary route without mailboxes.

        Nothing refers to the handle of such an event, so it gets one only when a call fails.

        Args:
            route: The route.
            event: The event.
            envelope: The envelope of the event.
            deliveries: The number of times that the broker has delivered the event.

        Returns:
            The handle with the errors, or None if no call has failed.
        """
        start = perf_counter()
        owner = self._owner
        level = 0 if type(owner) is int else int(self._runs_inline)  # see `run_inline`
        self._owner = envelope
        self._depth += level
        calls, index = route.calls, 0
        failure = handle = None
        try:
            for call in calls:
                try:
                    if (result := call(event)) is not None:
                        refuse_unrun(result)
                except Exception as error:  # noqa: BLE001 - every failure of a listener is reported
                    failure = error
                    break
                index += 1
            else:
                route.called += 1
                return None
            # Before the failure is reported: callbacks of the application may read the headers.
            cause = self._owner
            handle_id = cause.causation_id if isinstance(cause, Cause) else envelope.handle_id
            handle = arrived_handle(route, event, handle_id, envelope.headers, deliveries)
            return self.run_inline(route, handle, index, failure)
        finally:
            self._owner = owner
            self._depth -= level
            if index < len(calls) and failure is None:  # after a KeyboardInterrupt, say
                route.called += 1
                for actor in route.inline[index:]:
                    actor.abandoned += 1
            if (seconds := perf_counter() - start) > self.slow_after:
                self.warn_if_slow(route, seconds)
            del handle, failure

    def _inline_failed(self, actor: Actor, handle: DispatchHandle, failure: Exception) -> None:
        forget_caller(failure)
        error = listener_failed(handle._route.name, actor.name, failure)
        actor.accepted += 1
        self._failures.fail(actor, handle, error)
        if actor.recovery is not None:
            actor.recovery.supervise_inline(error)

    # -- waiting for everything

    @enable_ki_protection
    async def wait(self) -> None:
        """Wait until every event that was accepted so far is settled.

        Raises:
            RuntimeError: The caller runs inside a listener, which would wait for itself.
        """
        self.reentrancy.refuse_listener("wait for")
        handles: list[DispatchHandle] = [*self.underway]
        for actor in self.reentrancy.all_actors():
            handles.extend(actor.in_flight)
            if actor.exclusive and actor.lanes == (actor,):
                # First in, first out: when the last event is settled, so are those before it.
                if actor.mail:
                    handles.append(actor.mail[-1])
            else:
                # The last event may be dropped first, if the listener is unregistered for its name.
                handles.extend(actor.mail)
        if self.router.publisher is not None:
            handles.extend(self.router.publisher.posted)
        await checkpoint()
        for handle in handles:
            if handle._left > 0:
                await handle._park(current_task())
