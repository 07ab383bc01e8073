"""Inline `async def` listeners: awaited by the task that dispatches, one after another.

Special dispatch makes one `InlineTurn` for each dispatch that reaches such listeners. The turn ends
when all inline listeners of the event have run, when the dispatch is cancelled, or when the bus
ends. The listeners that have not run by then are abandoned, so the event is settled in any case.

A listener runs on the task of its dispatcher, so it must leave that task as it was: in the same
cancel scopes, with no nursery open. It runs in a context of its own.
"""

# The internals of handles are for the kernel and the ports, not for users.
# pyright: reportPrivateUsage=false

from __future__ import annotations

from collections import deque
from contextlib import nullcontext
from contextvars import copy_context
from math import inf
from time import perf_counter
from typing import TYPE_CHECKING, Any, cast

import trio
from trio.lowlevel import current_task

from .._delivery import Delivery, finder
from .._errors import EventAbandoned, ListenerTimeout, failure_of
from .._foreign import forget_caller, split
from .._options.middleware import within_async
from .._options.results import refuse_unrun
from .._trio_internals import cancel_status, close_leftovers
from .context import InContext
from .recovery import raised
from .reentrancy import enclosing_dispatches
from .timeouts import OwnTimeLimit

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from contextvars import Context

    from .._errors import EventError
    from .._handle import DispatchHandle
    from .actor import Actor
    from .failures import Failures
    from .inline_calls import InlineCalls
    from .route import Route


class InlineTurn:
    """The inline listeners of one event, some of which are `async def`.

    Args:
        route: The route of the event.
        handle: The event.
        inline_calls: Runs the inline `def` listeners.
        failures: The failures of the bus.
    """

    __slots__ = (
        "_ended",
        "_errors",
        "_failures",
        "_handle",
        "_inline_calls",
        "_remaining",
        "_running",
        "_scope",
    )

    def __init__(
        self, route: Route, handle: DispatchHandle, inline_calls: InlineCalls, failures: Failures
    ) -> None:
        # An awaited listener stays the first one while it runs.
        self._remaining: deque[Actor] = deque(route.inline)
        self._handle = handle
        self._inline_calls = inline_calls
        self._failures = failures
        self._scope = trio.CancelScope()
        self._errors: list[Exception] = []
        self._running: Actor | None = None
        self._ended = False

    async def run(self) -> None:
        """Run the listeners in order; abandon the rest if the dispatch or the bus is cancelled."""
        try:
            with self._scope:
                while self._remaining and not self._scope.cancel_called:
                    if self._remaining[0].options.awaited:
                        await self._await(self._remaining[0])
                    else:
                        self._call(self._remaining.popleft())
        finally:
            self.end()

    def cancel(self) -> None:
        """Cancel the running listener and run no other one, because the bus ends."""
        self._scope.cancel()

    def end(self) -> None:
        """Abandon the listeners that have not finished, and settle the event; once.

        The bus calls it too, for a listener that was cancelled and does not stop.
        """
        if self._ended:
            return
        # First: a listener that was given up and ends later must not be counted again.
        self._ended = True
        end = "the bus ended" if self._scope.cancel_called else "its dispatch was cancelled"
        while self._remaining:
            actor = self._remaining.popleft()
            running = actor is self._running
            causes = raised(self._errors) if running else ()
            error = EventAbandoned(
                self._handle.event_name,
                actor.name,
                causes[-1] if causes else None,
                reason=f"{end} {'while' if running else 'before'} the listener ran",
                earlier=causes[:-1],
                started=running,
            )
            actor.pending_inline -= 1
            self._failures.fail(actor, self._handle, error)
        self._handle._settle_one()

    def _call(self, actor: Actor) -> None:
        start = perf_counter()
        self._inline_calls.call(actor, self._handle)
        if (taken := perf_counter() - start) > self._inline_calls.slow_after:
            self._inline_calls.warn_slow(actor.name, taken)

    async def _await(self, actor: Actor) -> None:
        """Run an `async def`, with its retries."""
        self._running = actor
        failures = self._errors = []
        while True:
            try:
                await self._attempt(actor, Delivery(actor.name, self._handle, len(failures) + 1))
                return self._finished(actor)
            except Exception as error:  # noqa: BLE001 - it is reported
                forget_caller(error)
                failures.append(error)
            # The part of the group that is an Exception is the failure of the listener. The rest,
            # such as a cancellation of the dispatch, goes on to the dispatcher's task.
            except BaseExceptionGroup as group:
                failure, rest = split(group)
                if failure is not None:
                    failures.append(cast("Exception", failure))
                    self._failed(actor, failures)
                raise (group if rest is None else rest) from None
            if actor.recovery is None or not await actor.recovery.wait_for_retry(actor, failures):
                break
        final = self._failed(actor, failures)
        if actor.recovery is not None and not self._ended:
            await actor.recovery.supervise(actor, final)
        return None

    def _finished(self, actor: Actor) -> None:
        if not self._ended:
            self._remaining.popleft()
            actor.pending_inline -= 1

    def _failed(self, actor: Actor, failures: list[Exception]) -> EventError:
        earlier = raised(failures[:-1])
        failure = failure_of(self._handle.event_name, actor.name, failures[-1], earlier)
        # If the bus has given the event up, the ledger counts it as abandoned already.
        self._failures.fail(None if self._ended else actor, self._handle, failure)
        self._finished(actor)
        return failure

    async def _attempt(self, actor: Actor, delivery: Delivery) -> None:
        # A copy, so that the variables of the kernel stay out of the dispatcher's context.
        context = copy_context()
        context.run(finder.set, self._inline_calls.shown(delivery))
        context.run(enclosing_dispatches.set, (*enclosing_dispatches.get(), delivery.handle))
        run: Coroutine[Any, Any, object] = run_within(actor, delivery)
        # Middleware stands outside of the listener, and may leave something open itself.
        if actor.options.hooks:
            run = closing_leftovers(run)
        await SlowWatch(context, run, actor.name, self._inline_calls)


class SlowWatch(InContext):
    """Awaits a listener in a context, and warns if one of its steps blocks the event loop."""

    __slots__ = ("_inline_calls", "_name", "_step")

    def __init__(
        self,
        context: Context,
        coroutine: Coroutine[Any, Any, object],
        name: str,
        inline_calls: InlineCalls,
    ) -> None:
        super().__init__(context, coroutine)
        self._step = coroutine.send
        self._name = name
        self._inline_calls = inline_calls

    def __next__(self) -> Any:
        return self.send(None)

    def send(self, value: Any) -> Any:
        start = perf_counter()
        try:
            return self._run(self._step, value)
        finally:
            if (taken := perf_counter() - start) > self._inline_calls.slow_after:
                self._inline_calls.warn_slow(self._name, taken)


async def run_within(actor: Actor, delivery: Delivery) -> None:
    """Run a listener once, within its middleware and its timeout."""
    options = actor.options
    async with within_async(options.hooks, delivery) if options.hooks else nullcontext():
        if options.timeout == inf:
            result = await closing_leftovers(actor.call(delivery.event))
        else:
            late = f"{actor.name} took longer than {options.timeout:g} s"
            with OwnTimeLimit(options.timeout, lambda: ListenerTimeout(late)):
                result = await closing_leftovers(actor.call(delivery.event))
        if result is not None:
            refuse_unrun(result)


async def closing_leftovers(run: Coroutine[Any, Any, object]) -> object:
    """Await a run, and close the scopes and nurseries that it leaves open on the running task.

    Returns:
        The result of the run.

    Raises:
        RuntimeError: The run has left one open.
    """
    task = current_task()
    status = cancel_status(task)
    raised_error: BaseException | None = None
    result: object = None
    try:
        result = await run
    except (Exception, trio.Cancelled, BaseExceptionGroup) as error:
        if cancel_status(task) is status:
            raise
        raised_error = error
    if cancel_status(task) is status:
        return result
    rest = await close_leftovers(task, status, raised_error)
    if rest is not None and not issubclass(type(rest), Exception):
        raise rest
    raise RuntimeError(
        "the listener left a cancel scope or a nursery open on the task of its dispatcher"
    ) from rest
