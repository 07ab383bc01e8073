"""Inline `async def` listeners: awaited by the task that dispatches, one after another.

One `InlineTurn` for each dispatch that reaches such listeners. It is over when all inline listeners
of the event have run, when the dispatch is cancelled, or when the bus ends; whatever has not run by
then is abandoned, so the event is settled in any case.
"""

from __future__ import annotations

from collections import deque
from contextlib import nullcontext
from contextvars import copy_context
from math import inf
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol

import trio
from trio.lowlevel import current_task

from .._delivery import Delivery, finder
from .._errors import EventAbandoned, failure_of, forget_caller
from .._options.middleware import within_async
from .._trio_internals import cancel_status, close_leftovers
from .context import InContext
from .recovery import raised
from .reentrancy import enclosing_dispatches
from .timeouts import OwnTimeLimit

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from contextvars import Context

    from .._errors import EventError
    from .._handle import DispatchHandle
    from .actor import Actor
    from .failures import Failures
    from .routing import Route


class InlineHost(Protocol):
    """What a turn needs of the inline calls."""

    slow_after: float

    def call(self, actor: Actor, handle: DispatchHandle) -> None:
        """Run an inline `def`."""
        ...

    def shown(self, delivery: Delivery) -> Callable[[], Delivery | None]:
        """Return what finds `delivery` for all that happens inside it now."""
        ...

    def warn_slow(self, name: str, seconds: float) -> None: ...


class InlineTurn:
    """The inline listeners of one event, some of which have to be awaited."""

    __slots__ = (
        "_errors",
        "_failures",
        "_handle",
        "_host",
        "_over",
        "_running",
        "_scope",
        "_todo",
    )

    def __init__(
        self, chosen: Route, handle: DispatchHandle, host: InlineHost, failures: Failures
    ) -> None:
        self._todo: deque[Actor] = deque(chosen.inline)  # an awaited one that runs is the first
        self._handle = handle
        self._host = host
        self._failures = failures
        self._scope = trio.CancelScope()
        self._errors: list[Exception] = []
        self._running: Actor | None = None
        self._over = False

    async def run(self) -> None:
        """Run the listeners; on cancellation, abandon those that have not run."""
        try:
            with self._scope:
                while self._todo and not self._scope.cancel_called:
                    if self._todo[0].options.awaited:
                        await self._await(self._todo[0])
                    else:
                        self._call(self._todo.popleft())
        finally:
            self.end()

    def cancel(self) -> None:
        """Cancel the listener that runs, and run no other, as the bus ends."""
        self._scope.cancel()

    def end(self) -> None:
        """Abandon what has not run, also what will not stop running, and settle the event."""
        if self._over:
            return
        self._over = True
        who = "the bus ended" if self._scope.cancel_called else "its dispatch was cancelled"
        while self._todo:
            actor = self._todo.popleft()
            running = actor is self._running
            causes = raised(self._errors) if running else ()
            error = EventAbandoned(
                self._handle.event_name,
                actor.name,
                causes[-1] if causes else None,
                reason=f"{who} {'while' if running else 'before'} the listener ran",
                earlier=causes[:-1],
                started=running,
            )
            actor.pending_inline -= 1
            self._failures.fail(actor, self._handle, error)
        self._handle.settle_one()

    def _call(self, actor: Actor) -> None:
        start = perf_counter()
        self._host.call(actor, self._handle)
        if (taken := perf_counter() - start) > self._host.slow_after:
            self._host.warn_slow(actor.name, taken)

    async def _await(self, actor: Actor) -> None:
        """Run an `async def`, with its retries."""
        self._running = actor
        failures = self._errors = []
        while True:
            try:
                await self._attempt(actor, Delivery(actor.name, self._handle, len(failures) + 1))
                return self._succeeded(actor)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is reported
                forget_caller(error)
                failures.append(error)
            except BaseExceptionGroup as group:
                failure, rest = group.split(Exception)
                if failure is not None:
                    failures.append(failure)
                    self._failed(actor, failures)
                raise (rest or group) from None
            if actor.recovery is None or not await actor.recovery.again(actor, failures):
                break
        final = self._failed(actor, failures)
        if actor.recovery is not None and not self._over:
            await actor.recovery.supervise(actor, final)
        return None

    def _succeeded(self, actor: Actor) -> None:
        if not self._over:
            self._todo.popleft()
            actor.pending_inline -= 1

    def _failed(self, actor: Actor, failures: list[Exception]) -> EventError:
        earlier = raised(failures[:-1])
        failure = failure_of(self._handle.event_name, actor.name, failures[-1], earlier)
        # After the bus has given the event up, it is in the books as abandoned already.
        self._failures.fail(None if self._over else actor, self._handle, failure)
        self._succeeded(actor)
        return failure

    async def _attempt(self, actor: Actor, delivery: Delivery) -> None:
        context = copy_context()
        context.run(finder.set, self._host.shown(delivery))
        context.run(enclosing_dispatches.set, (*enclosing_dispatches.get(), delivery.handle))
        run = run_within(actor, delivery)
        if actor.options.hooks:
            run = tidily(run)
        await Watched(context, run, actor.name, self._host)


class Watched(InContext):
    """Warns of a listener that holds up all other tasks for too long."""

    __slots__ = ("_host", "_name", "_step")

    def __init__(
        self, context: Context, coroutine: Coroutine[Any, Any, None], name: str, host: InlineHost
    ) -> None:
        super().__init__(context, coroutine)
        self._step = coroutine.send
        self._name = name
        self._host = host

    def __next__(self) -> Any:
        return self.send(None)

    def send(self, value: Any) -> Any:
        start = perf_counter()
        try:
            return self._run(self._step, value)
        finally:
            if (taken := perf_counter() - start) > self._host.slow_after:
                self._host.warn_slow(self._name, taken)


async def run_within(actor: Actor, delivery: Delivery) -> None:
    """Run a listener once, within its middleware and its timeout."""
    traits = actor.options
    async with within_async(traits.hooks, delivery) if traits.hooks else nullcontext():
        if traits.timeout == inf:
            await tidily(actor.call(delivery.event))
        else:
            late = f"{actor.name} took longer than {traits.timeout:g} s"
            with OwnTimeLimit(traits.timeout, lambda: late):
                await tidily(actor.call(delivery.event))


async def tidily(run: Coroutine[Any, Any, None]) -> None:
    """Await what must leave the dispatcher's task as it was, and close what it leaves open there.

    Raises:
        RuntimeError: it has left something open.
    """
    task = current_task()
    status = cancel_status(task)
    raising: BaseException | None = None
    try:
        await run
    except (Exception, trio.Cancelled, BaseExceptionGroup) as error:
        if cancel_status(task) is status:
            raise
        raising = error
    if cancel_status(task) is status:
        return
    rest = await close_leftovers(task, status, raising)
    if rest is not None and not isinstance(rest, Exception):
        raise rest
    raise RuntimeError(
        "the listener left a cancel scope or a nursery open on the task of its dispatcher"
    ) from rest
