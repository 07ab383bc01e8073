"""Wrappers: the steps of a listener's run around its handler, one function for each option.

`ListenerPlanner` composes them at registration. Each takes the call of a listener and returns one
that does more. A call takes the event; that of a listener with a mailbox is an `async def`.
"""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, Any

from trio.lowlevel import current_task

from .._errors import ListenerTimeout
from .._kernel.context import InContext
from .._kernel.timeouts import TimeLimit
from .._options.middleware import within, within_async
from .._options.results import refuse_unrun

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._kernel.scheduler import Scheduler
    from .._options.middleware import Hook

    Call = Callable[[Any], Any]


def as_async(handler: Call) -> Call:
    """Return an `async def` that calls a `def`, for a listener with a mailbox."""

    async def call(event: Any) -> object:
        return handler(event)

    return call


def with_slow_warning(handler: Call, slow_after: float, warn: Callable[[float], None]) -> Call:
    """Return an inline call that warns if it takes longer than `slow_after` seconds."""

    def call(event: Any) -> object:
        start = perf_counter()
        try:
            return handler(event)
        finally:
            if (seconds := perf_counter() - start) > slow_after:
                warn(seconds)

    return call


def with_timeout(call: Call, seconds: float, listener: str, scheduler: Scheduler) -> Call:
    """Return a call that is cancelled after `seconds` and then raises `ListenerTimeout`."""
    workers, timeouts = scheduler.workers, scheduler.timeouts

    def error() -> ListenerTimeout:
        return ListenerTimeout(f"{listener} took longer than {seconds:g} s")

    async def run(event: Any) -> object:
        with TimeLimit(timeouts, workers[current_task()], seconds, error):
            return await call(event)

    return run


def with_middleware(call: Call, hooks: tuple[Hook, ...], scheduler: Scheduler) -> Call:
    """Return a call with middleware around each run."""

    # `call` is inside the hooks, and its result is checked there, so that they see the failure.
    async def run(event: Any) -> None:
        with within(hooks, scheduler.delivery()):
            if (result := await call(event)) is not None:
                refuse_unrun(result)

    async def run_async(event: Any) -> None:
        async with within_async(hooks, scheduler.delivery()):
            if (result := await call(event)) is not None:
                refuse_unrun(result)

    return run_async if any(hook.suspends for hook in hooks) else run


def with_context(call: Call, scheduler: Scheduler) -> Call:
    """Return a call that runs in the context of the dispatcher, or in a copy of the worker's."""

    async def run(event: Any) -> object:
        return await InContext(scheduler.context(), call(event))

    return run
