"""What a run of a listener is made of, besides the listener: the parts that options ask for."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, Any, cast

from trio.lowlevel import current_task

from .._kernel.worker import TimeLimit
from .._options.middleware import within_async

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator
    from contextvars import Context

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
    workers = scheduler.workers

    def complaint() -> str:
        return f"{name} took longer than {seconds:g} s"

    async def run(event: Any) -> None:
        with TimeLimit(workers[current_task()], seconds, complaint):
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


class InContext:
    """Awaits a coroutine in a context of its own; as `Task.context`, but for a part of a task."""

    __slots__ = ("_coroutine", "_run")

    def __init__(self, context: Context, coroutine: Coroutine[Any, Any, None]) -> None:
        self._run = context.run
        self._coroutine = coroutine

    def __await__(self) -> Generator[Any, Any, None]:
        return cast("Generator[Any, Any, None]", self)

    def __iter__(self) -> InContext:
        return self

    def __next__(self) -> Any:
        return self._run(self._coroutine.send, None)

    def send(self, value: Any) -> Any:
        return self._run(self._coroutine.send, value)

    def throw(self, *error: Any) -> Any:
        return self._run(self._coroutine.throw, *error)

    def close(self) -> None:
        self._coroutine.close()

    @property
    def cr_frame(self) -> Any:
        return getattr(self._coroutine, "cr_frame", None)

    @property
    def cr_await(self) -> Any:
        return getattr(self._coroutine, "cr_await", None)
