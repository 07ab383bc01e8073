"""Special dispatch: takes events along routes that are more than calls and mailboxes.

The hot path of the dispatcher knows two ways to bring an event to a listener: call it, or append to
its mailbox. A route is special if it has middleware, a filter (`when=`), a listener that takes one
event only, a listener that runs in its dispatcher's context, or an inline `async def`. The
dispatcher never finds such a route in its table by class, and hands the event over to this module;
so does the inbox when there is middleware around deliveries.

One event passes through here once, in one direction: middleware, intake check, choice of the
listeners, admission, inline listeners. This module never calls back into the dispatcher.
"""

# The internals of handles are for the kernel and the ports, not for users.
# pyright: reportPrivateUsage=false

from __future__ import annotations

from contextlib import nullcontext
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

import trio

from .._delivery import finder
from .._errors import (
    EventError,
    EventVetoed,
    HookFailed,
    Vetoed,
)
from .._foreign import describe, forget_caller
from .._options.middleware import hooks_of, within, within_async
from .._options.results import AS_DEF, refuse_unrun
from .._options.signature import allow_interrupt
from .admission import no_room
from .inline_async import InlineTurn
from .intake import nested_too_deep
from .reentrancy import awaited_depth, enclosing_dispatches

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from .._handle import DispatchHandle
    from .._options.middleware import Hook, Middleware
    from .actor import Actor
    from .admission import Admission
    from .failures import Failures
    from .inline_calls import InlineCalls
    from .intake import Intake
    from .route import Route


class SpecialDispatch:
    """The special dispatch of one bus.

    Attributes:
        arrival_hooks: The middleware around events that a driver brings.
        publish_hooks: The middleware around the way of events to the driver.
        settle_hooks: The middleware around the settlements of events that a driver has brought.
    """

    def __init__(
        self,
        intake: Intake,
        admission: Admission,
        inline_calls: InlineCalls,
        failures: Failures,
        middleware: tuple[Middleware, ...],
    ) -> None:
        self._hooks: tuple[Hook, ...] = hooks_of(middleware, "around_dispatch")
        self.arrival_hooks: tuple[Hook, ...] = hooks_of(middleware, "around_delivery")
        self.publish_hooks: tuple[Hook, ...] = hooks_of(middleware, "around_publish")
        self.settle_hooks: tuple[Hook, ...] = hooks_of(middleware, "around_settle")
        hooks = self._hooks + self.arrival_hooks + self.publish_hooks + self.settle_hooks
        for hook in hooks:
            allow_interrupt(hook.function)
        self._suspends = any(hook.suspends for hook in self._hooks)
        self._arrivals_suspend = any(hook.suspends for hook in self.arrival_hooks)
        self._intake = intake
        self._router = intake.router
        self._reentrancy = intake.reentrancy
        self._admission = admission
        self._inline_calls = inline_calls
        self._failures = failures
        self._turns: dict[DispatchHandle, InlineTurn] = {}
        self._ending = False
        self._all_ended = trio.lowlevel.ParkingLot()

    # -- one event

    def dispatch_nowait(self, route: Route, handle: DispatchHandle) -> DispatchHandle:
        """Take an event to its listeners without waiting for anything.

        Raises:
            MailboxFull: A mailbox under `overflow="error"` is full.
            TypeError: A listener, or middleware, would have to be awaited.
            trio.WouldBlock: A mailbox is full, and the dispatch would have to wait.
        """
        self.refuse_awaited(route)
        if not self._hooks:
            self._bring_nowait(handle)
            return handle
        brought = False
        try:
            with within(self._hooks, handle):
                self._bring_nowait(handle)
                brought = True
        except (Vetoed, HookFailed) as error:
            self._report_middleware(handle, error, brought)
        return handle

    def refuse_awaited(self, route: Route) -> None:
        """Refuse a route on which a listener, or middleware, would have to be awaited.

        Raises:
            TypeError: It is such a route.
        """
        if self._suspends or route.awaits:
            awaited = [f"{hook.name}.around_dispatch" for hook in self._hooks if hook.suspends]
            awaited += [actor.name for actor in route.inline if actor.options.awaited]
            raise TypeError(
                f"{', '.join(awaited)} is async and runs inline: use `await bus.dispatch(...)`"
            )

    def _bring_nowait(self, handle: DispatchHandle) -> None:
        # Middleware may have forked: this may be the child now.
        self._intake.check_process()
        chosen = self._chosen_route(handle, self._router.named(handle._route.name))
        if not self._admission.commit(chosen, handle):
            raise no_room(chosen)
        self._count(chosen, handle)
        self._inline_calls.call_all(chosen, handle)

    async def dispatch(self, handle: DispatchHandle, *, arrived: bool = False) -> DispatchHandle:
        """Take an event to its listeners, waiting for room and for inline `async def` listeners.

        Args:
            handle: The event.
            arrived: True if the driver has brought the event: it is not published again.

        Raises:
            BusClosed: The bus was closed while middleware or the event itself had to wait.
            DeadlockError: The caller is a listener that the full mailbox waits for in turn.
            MailboxFull: A mailbox under `overflow="error"` is full.
            NestingError: Awaited inline listeners dispatch too deep inside each other.
        """
        hooks = self.arrival_hooks if arrived else self._hooks
        brought = False
        try:
            if self._arrivals_suspend if arrived else self._suspends:
                if not arrived:
                    self._release_batch()
                async with within_async(hooks, handle):
                    chosen = await self._admit(handle, arrived=arrived)
                    brought = True
                    await self._run_inline(chosen, handle)
            else:
                with within(hooks, handle) if hooks else nullcontext():
                    chosen = await self._admit(handle, arrived=arrived)
                    brought = True
                    if chosen.inline:
                        await self._run_inline(chosen, handle)
        except (Vetoed, HookFailed) as error:
            self._report_middleware(handle, error, brought)
        return handle

    @property
    def has_hooks(self) -> bool:
        """True if there is middleware around dispatches."""
        return bool(self._hooks)

    def around(self, handle: DispatchHandle) -> AbstractAsyncContextManager[None]:
        """Return the middleware around the dispatch of an event that goes another way.

        Raises:
            Vetoed: Middleware keeps the event from its way.
            HookFailed: Middleware has failed.
        """
        return within_async(self._hooks, handle) if self._hooks else nullcontext()

    async def _admit(self, handle: DispatchHandle, *, arrived: bool) -> Route:
        """Put an event into the mailboxes of the listeners that want it; return their route."""
        # Middleware may have waited: the bus may be closed, and the route another one.
        self._intake.check_intake(arrived=arrived)
        route = self._router.named(handle._route.name)
        chosen = self._chosen_route(handle, route.local if arrived else route)
        if chosen.awaits and awaited_depth() >= self._intake.max_nesting:
            raise nested_too_deep(len(enclosing_dispatches.get()))
        if not self._admission.commit(chosen, handle):
            chosen = await self._admission.wait_for_room(chosen, handle, arrived=arrived)
        self._count(chosen, handle)
        return chosen

    async def _run_inline(self, chosen: Route, handle: DispatchHandle) -> None:
        """Run the inline listeners of an event that is in the mailboxes."""
        if chosen.awaits:
            self._release_batch()
            await self._await_all(chosen, handle)
        else:
            self._inline_calls.call_all_timed(chosen, handle)

    def _count(self, chosen: Route, handle: DispatchHandle) -> None:
        """Count an event that is in the mailboxes, and note which listeners got it."""
        chosen.counter.count += 1
        if chosen is handle._route:
            return
        if chosen.unheard:
            # The event has listeners, although none wanted it. Without any, a durable driver would
            # give it to another bus.
            handle._ensure_details().listeners = 0
        else:
            handle._route = chosen

    def may_wait(self, route: Route) -> bool:
        """Tell whether an event that the driver brings along a route may have to wait."""
        return (
            self._arrivals_suspend
            or bool(route.awaits)
            or any(actor.blocks_dispatch for actor in route.actors)
        )

    def bring_arrived(self, route: Route, handle: DispatchHandle) -> None:
        """Take an event that the driver has brought, and that need not wait, to its listeners.

        Args:
            route: The route of the handle.
            handle: The event.

        Raises:
            MailboxFull: A mailbox under `overflow="error"` is full.
        """
        brought = False
        try:
            with within(self.arrival_hooks, handle):
                self._intake.check_process()
                # Not a newer route: a listener that middleware has registered since may be an
                # `async def` that runs inline.
                chosen = self._chosen_route(handle, route)
                # Without a check for room, which `may_wait` has made. An event that middleware has
                # dispatched since can have filled a mailbox, but it is too late to wait.
                self._admission.put(chosen, handle)
                self._count(chosen, handle)
                brought = True
                if chosen.inline:
                    self._inline_calls.call_all_timed(chosen, handle)
        except (Vetoed, HookFailed) as error:
            self._report_middleware(handle, error, brought)

    def _release_batch(self) -> None:
        """Have the earlier events of a batch published before code of the application is awaited.

        That code may wait for their effect, or for ever.
        """
        if self._router.publisher is not None:
            self._router.publisher.release()

    def _report_middleware(
        self, handle: DispatchHandle, error: Vetoed | HookFailed, brought: bool
    ) -> None:
        """Record on the handle that middleware around the dispatch has vetoed it, or has failed.

        Args:
            handle: The event.
            error: The exception of the middleware.
            brought: True if the event has reached its listeners before.
        """
        name = error.middleware
        if not brought:
            handle._ensure_details().listeners = 0
        if isinstance(error, Vetoed):
            failure: EventError = EventVetoed(handle.event_name, name, reason=error.reason)
        else:
            failure = EventError(handle.event_name, name, error.error)
        self._failures.fail(None, handle, failure)

    # -- the listeners that want the event

    def _chosen_route(self, handle: DispatchHandle, route: Route) -> Route:
        """Return the route of an event with those of its listeners that want it now."""
        all_listeners = route.listeners
        wanted = [
            actor
            for actor in all_listeners
            if actor.options.when is None or self._wants(actor.options.when, actor, handle)
        ]
        # Only now: a filter may itself dispatch, and so unregister a listener with `once=True`.
        listeners = [actor for actor in wanted if actor.active]
        for actor in listeners:
            if actor.options.contextual:
                self._keep_context(handle)
        if len(listeners) == len(all_listeners) and route.special:
            return route
        return route.with_listeners(listeners)

    def _keep_context(self, handle: DispatchHandle) -> None:
        """Keep the dispatcher's context for the listeners that run in it."""
        details = handle._ensure_details()
        if details.context is None:
            details.context = copy_context()
            details.context.run(finder.set, self._intake.delivery)
            details.context.run(enclosing_dispatches.set, ())

    def _wants(self, when: Callable[[Any], object], actor: Actor, handle: DispatchHandle) -> bool:
        """Ask the filter of a listener; a filter that raises refuses the event."""
        owner = self._intake.enter_inline(handle)
        try:
            answer = when(handle.event)
            if answer is not True and answer is not False:
                refuse_unrun(answer, "it", AS_DEF)
            return bool(answer)
        except Exception as error:  # noqa: BLE001 - every failure of a filter is reported
            forget_caller(error)
            failure = error
        finally:
            self._intake.leave_inline(owner)
        reason = f"its predicate (when=) raised {describe(failure)}"
        actor.accepted += 1
        self._failures.fail(
            actor, handle, EventError(handle.event_name, actor.name, failure, reason=reason)
        )
        return False

    # -- inline `async def` listeners

    async def _await_all(self, chosen: Route, handle: DispatchHandle) -> None:
        """Run inline listeners, some of them async; the handle is done when they have ended."""
        turn = InlineTurn(chosen, handle, self._inline_calls, self._failures)
        self._turns[handle] = turn
        self._reentrancy.underway.add(handle)
        self._intake.begin_search()
        if self._ending:
            turn.cancel()
        try:
            await turn.run()
        finally:
            self._forget(handle)

    def _forget(self, handle: DispatchHandle) -> None:
        # Called a second time if the bus gave up a listener that ends later.
        if self._turns.pop(handle, None) is not None:
            self._intake.end_search()
        self._reentrancy.underway.discard(handle)
        if not self._turns:
            self._all_ended.unpark_all()

    # -- the end of the bus

    @property
    def busy(self) -> bool:
        """True while a dispatch awaits inline listeners."""
        return bool(self._turns)

    def open(self) -> None:
        """Let dispatches await listeners again, because the bus opens."""
        self._ending = False

    def cancel(self) -> None:
        """Cancel the listeners that dispatches await, because the bus ends."""
        self._ending = True
        for turn in self._turns.values():
            turn.cancel()

    def give_up(self) -> None:
        """Settle the events of listeners that were cancelled and run on."""
        for handle, turn in [*self._turns.items()]:
            turn.end()
            self._forget(handle)

    async def quiet(self) -> None:
        """Wait until no dispatch awaits a listener."""
        while self._turns:
            await self._all_ended.park()
