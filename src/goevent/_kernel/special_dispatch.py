"""The special_dispatch: brings events along routes that are more than calls and mailboxes.

The dispatcher's hot path knows two ways to bring an event: call, or append to a mailbox. Routes
with middleware, filters, listeners that take one event only or inline coroutines are special; it
never finds those in its table, and hands their events over to the special_dispatch.
"""

from __future__ import annotations

from contextlib import nullcontext
from contextvars import copy_context
from time import perf_counter
from typing import TYPE_CHECKING

import trio

from .._delivery import Delivery, finder
from .._errors import (
    EventError,
    EventVetoed,
    HookFailed,
    NestingError,
    Vetoed,
    describe,
    failure_of,
    forget_caller,
)
from .._handle import DispatchHandle
from .._options.middleware import hooks_of, within, within_async
from .._options.signature import allow_interrupt
from .backpressure import NoRoom
from .inline_async import InlineTurn, levels, underway

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .._options.middleware import Hook, Middleware
    from .actor import Actor
    from .dispatcher import Dispatcher
    from .failures import Failures
    from .routing import Route


class SpecialDispatch:
    """The special_dispatch of one bus."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        failures: Failures,
        middleware: tuple[Middleware, ...],
        slow_after: float,
    ) -> None:
        self.hooks: tuple[Hook, ...] = hooks_of(middleware, "around_dispatch")
        self.arrival_hooks: tuple[Hook, ...] = hooks_of(middleware, "around_delivery")
        for hook in self.hooks + self.arrival_hooks:
            allow_interrupt(hook.function)
        self._suspends = any(hook.suspends for hook in self.hooks)
        self.handles: dict[DispatchHandle, InlineTurn] = {}  # of dispatches that await listeners
        self._dispatcher = dispatcher
        self._failures = failures
        self.slow_after: float = slow_after
        self._ending = False
        self._idle = trio.lowlevel.ParkingLot()

    # -- one event

    def conduct_nowait(self, route: Route, event: object) -> DispatchHandle:
        """Bring an event to its listeners, without waiting for anything.

        Raises:
            TypeError: a listener, or middleware, has to be awaited.
        """
        if self._suspends or route.awaits:
            awaited = [f"{hook.name}.around_dispatch" for hook in self.hooks if hook.suspends]
            awaited += [actor.name for actor in route.inline if actor.options.awaited]
            raise TypeError(
                f"{', '.join(awaited)} is async and runs inline: use `await bus.dispatch(...)`"
            )
        handle = begun(route, event)
        if not self.hooks:
            self._bring(handle)
            return handle
        try:
            with within(self.hooks, handle):
                self._bring(handle)
        except (Vetoed, HookFailed) as error:
            self._report(handle, error)
        return handle

    def _bring(self, handle: DispatchHandle) -> None:
        chosen = self._chosen(handle)
        self._dispatcher.admission.commit(chosen, handle)
        self._call_all(chosen, handle)

    async def conduct(
        self,
        route: Route,
        event: object,
        headers: Mapping[str, str] | None = None,
        *,
        deliveries: int = 1,
    ) -> DispatchHandle:
        """Bring an event to its listeners, waiting for room and for inline coroutines.

        One with headers has arrived from another bus, and does not go there again.
        """
        arrived = headers is not None
        handle = begun(route.local if arrived else route, event)
        if headers:
            handle.headers.update(headers)
        if deliveries > 1:
            handle.ensure_details().deliveries = deliveries
        hooks = self.arrival_hooks if arrived else self.hooks
        try:
            async with within_async(hooks, handle) if hooks else nullcontext():
                chosen = await self._committed(handle, arrived=arrived)
                if chosen.awaits:
                    await self._await_all(chosen, handle)
                else:
                    self.call_timed(chosen, handle)
        except (Vetoed, HookFailed) as error:
            self._report(handle, error)
        return handle

    async def _committed(self, handle: DispatchHandle, *, arrived: bool) -> Route:
        """Put the event into the mailboxes, and return the route that it takes."""
        self._dispatcher.check_intake(arrived=arrived)
        chosen = self._chosen(handle, arrived=arrived)
        if chosen.awaits and levels() >= self._dispatcher.max_nesting:
            raise too_deep(len(underway.get()))
        try:
            self._dispatcher.admission.commit(chosen, handle)
            return chosen
        except NoRoom:
            pass  # waiting inside this handler would make it the context of what is raised then
        return await self._dispatcher.room(chosen, handle, arrived=arrived)

    def _chosen(self, handle: DispatchHandle, *, arrived: bool = False) -> Route:
        """Return the event's route with the listeners that want it now."""
        router = self._dispatcher.router
        route = router.named(handle.event_name)
        if arrived:
            route = route.local
        wanted = [actor for actor in route.listeners if self._wanted(actor, handle)]
        listeners = [actor for actor in wanted if actor.active]  # a predicate may dispatch, too
        for actor in listeners:
            if actor.options.contextual:
                details = handle.ensure_details()
                if details.context is None:
                    details.context = copy_context()
                    details.context.run(finder.set, self._dispatcher.delivery)
                    details.context.run(underway.set, ())
        if len(listeners) == len(route.listeners) and route.special:
            return route
        return router.chosen(route, listeners)

    def _wanted(self, actor: Actor, handle: DispatchHandle) -> bool:
        when = actor.options.when
        if when is None:
            return True
        owner = self._dispatcher.enter_inline()
        try:
            return bool(when(handle.event))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is reported
            forget_caller(error)
            failure = error
        finally:
            self._dispatcher.leave_inline(owner)
        reason = f"its predicate (when=) raised {describe(failure)}"
        actor.accepted += 1
        self._failures.fail(
            actor, handle, EventError(handle.event_name, actor.name, failure, reason=reason)
        )
        return False

    def _report(self, handle: DispatchHandle, error: Vetoed | HookFailed) -> None:
        """Put what middleware around the dispatch raised on the handle."""
        name = error.middleware
        if isinstance(error, Vetoed):
            veto = EventVetoed(handle.event_name, name, reason=error.reason)
            self._failures.fail(None, handle, veto)
        else:
            failure = EventError(handle.event_name, name, error.error)
            self._failures.fail(None, handle, failure)

    # -- inline listeners

    def call_timed(self, chosen: Route, handle: DispatchHandle) -> DispatchHandle:
        """Run inline listeners that are no `async def`, and warn of slow ones."""
        start = perf_counter()
        self._call_all(chosen, handle)
        self._dispatcher.warn_if_slow(chosen, perf_counter() - start)
        return handle

    def _call_all(self, chosen: Route, handle: DispatchHandle) -> None:
        todo = iter(chosen.inline)
        try:
            for actor in todo:
                self.call(actor, handle)
        finally:
            for actor in todo:  # after a KeyboardInterrupt, say
                actor.pending_inline -= 1
                actor.abandoned += 1

    def call(self, actor: Actor, handle: DispatchHandle) -> None:
        """Run an inline `def`."""
        failure = None
        ended = False
        owner = self._dispatcher.enter_inline()
        try:
            if actor.options.hooks:
                copy_context().run(self._call_within, actor, handle)
            else:
                actor.call(handle.event)
            ended = True
        except Exception as error:  # noqa: BLE001 - whatever it is, it is reported
            forget_caller(error)
            failure = failure_of(handle.event_name, actor.name, error)
            ended = True
        finally:
            self._dispatcher.leave_inline(owner)
            actor.pending_inline -= 1
            actor.abandoned += not ended  # a KeyboardInterrupt, say
        if failure is not None:
            self._failures.fail(actor, handle, failure)
            if actor.recovery is not None:
                actor.recovery.supervise_inline(failure)

    def _call_within(self, actor: Actor, handle: DispatchHandle) -> None:
        delivery = Delivery(actor.name, handle)
        finder.set(self.shown(delivery))
        with within(actor.options.hooks, delivery):
            actor.call(handle.event)

    def shown(self, delivery: Delivery) -> Callable[[], Delivery | None]:
        """Return what finds `delivery`, save for inline listeners that are called inside it."""
        dispatcher = self._dispatcher
        level = dispatcher.level
        return lambda: delivery if dispatcher.level <= level else None

    async def _await_all(self, chosen: Route, handle: DispatchHandle) -> None:
        """Run inline listeners of which some are async; the handle is not done before that."""
        turn = self.handles[handle] = InlineTurn(chosen, handle, self, self._failures)
        if self._ending:
            turn.cancel()
        await turn.run()

    def ended(self, handle: DispatchHandle) -> None:
        """Take note that a turn is over."""
        del self.handles[handle]
        if not self.handles:
            self._idle.unpark_all()

    def warn_slow(self, name: str, seconds: float) -> None:
        """Say that a listener has held up all other tasks."""
        self._dispatcher.scheduler.warn_slow(name, seconds)

    # -- the end

    def waits_inside(self) -> bool:
        """Tell whether the caller runs inside a listener that a dispatch of this bus awaits."""
        return bool(self.handles) and any(handle in self.handles for handle in underway.get())

    def open(self) -> None:
        self._ending = False

    def cancel(self) -> None:
        """Cancel the listeners that dispatches await, as the bus ends."""
        self._ending = True
        for turn in self.handles.values():
            turn.cancel()

    def give_up(self) -> None:
        """Settle what is still in the hands of listeners that will not stop."""
        for turn in [*self.handles.values()]:
            turn.end()

    async def quiet(self) -> None:
        """Wait until no dispatch awaits a listener."""
        while self.handles:
            await self._idle.park()


class Special(Exception):
    """The event takes a route that only the special_dispatch knows how to go."""

    def __init__(self, route: Route, event: object) -> None:
        super().__init__(route.name)
        self.route = route
        self.event = event


def begun(route: Route, event: object) -> DispatchHandle:
    """Return the handle of a dispatch that has brought the event to nobody yet."""
    handle = DispatchHandle()
    handle.event, handle.route, handle.details, handle.left, handle.since = (
        event,
        route,
        None,
        0,
        0.0,
    )
    return handle


def too_deep(depth: int) -> NestingError:
    return NestingError(
        f"listeners dispatch {depth} levels deep inside each other; if that is no endless loop, "
        "use an async listener, or raise Config.max_nesting"
    )
