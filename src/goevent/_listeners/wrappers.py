"""What a run of a listener is made of, besides the listener: the parts that options ask for."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, Any

from trio.lowlevel import current_task

from .._kernel.context import InContext
from .._kernel.timeouts import TimeLimit
from .._options.middleware import within_async

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._kernel.scheduler import Scheduler
    from .._options.middleware import Hook

    Call = Callable[[Any], Any]


def as_async(handler: Call) -> Call:
    """Give a `def` the shape of an `async def`, for a listener with a mailbox."""

    async def call(event: Any) -> None:
        handler(event)

    return call


def timed(handler: Call, threshold: float, warn: Callable[[float], None]) -> Call:
    """Warn of each run of an inline `def` that takes too long."""

    def call(event: Any) -> None:
        start = perf_counter()
        try:
            handler(event)
        finally:
            if (taken := perf_counter() - start) > threshold:
                warn(taken)

    return call


def limited(call: Call, seconds: float, name: str, scheduler: Scheduler) -> Call:
    """Cancel each run that takes too long."""
    workers, timeouts = scheduler.workers, scheduler.timeouts

    def complaint() -> str:
        return f"{name} took longer than {seconds:g} s"

    async def run(event: Any) -> None:
        with TimeLimit(timeouts, workers[current_task()], seconds, complaint):
            await call(event)

    return run


def around(call: Call, hooks: tuple[Hook, ...], scheduler: Scheduler) -> Call:
    """Have middleware stand around each run."""

    async def run(event: Any) -> None:
        async with within_async(hooks, scheduler.delivery()):
            await call(event)

    return run


def within_context(call: Call, scheduler: Scheduler) -> Call:
    """Run in the context of the dispatcher, or in a copy of the worker's."""

    async def run(event: Any) -> None:
        await InContext(scheduler.context(), call(event))

    return run
