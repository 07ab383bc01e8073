"""Results: refuses a coroutine, awaitable or generator that a call returned in place of running.

A call of a `def` that returns a coroutine or a generator has not run the code of it. The kernel
ignores the result of a listener, so such a listener would look completed. Everything that calls a
function of the application checks its result here, unless it is None.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import AsyncGenerator, Awaitable, Coroutine, Generator
from contextlib import suppress
from typing import Any

IN_ASYNC_DEF = "write an `async def` that awaits it"
NO_YIELD = "write a function without `yield`"
AS_DEF = "write a `def`"


def refuse_unrun(result: object, source: str = "the listener", remedy: str = IN_ASYNC_DEF) -> None:
    """Close and refuse an awaitable or a generator; ignore any other result.

    Args:
        result: The object that a function has returned.
        source: The function, for the error message.
        remedy: The advice for a function that returns an awaitable.

    Raises:
        TypeError: The result is an awaitable or a generator.
    """
    cls: type[object] = type(result)
    # Not isinstance: it would run the `__class__` of a foreign object.
    if not is_unrun(cls):
        return
    kind, remedy = kind_of(cls, remedy)
    with suppress(Exception):
        close(result, cls)
    raise TypeError(f"{source} returned {kind}, and its code did not run: {remedy}")


def is_unrun(cls: type[object]) -> bool:
    """Tell whether the objects of a class are awaitables or generators."""
    return issubclass(cls, (Awaitable, Generator, AsyncGenerator))


def kind_of(cls: type[object], remedy: str) -> tuple[str, str]:
    """Return the name of the kind of an object that did not run, and the remedy."""
    if issubclass(cls, AsyncGenerator):
        return "an async generator", NO_YIELD
    if issubclass(cls, Coroutine):
        return "a coroutine", remedy
    if issubclass(cls, Awaitable):
        return f"an awaitable {cls.__name__}", remedy
    return "a generator", NO_YIELD


def close(result: Any, cls: type[object]) -> None:
    """Close an object that did not run, so that Python does not warn of a missing `await`."""
    if issubclass(cls, types.CoroutineType):
        # One that has begun belongs to the code that has begun it.
        if inspect.getcoroutinestate(result) == inspect.CORO_CREATED:
            result.close()
    elif issubclass(cls, AsyncGenerator):
        # The first step closes a generator that has not begun; another one is left to its owner.
        if getattr(result, "ag_frame", None) is None or not result.ag_running:
            step = result.aclose()
            with suppress(StopIteration):
                step.send(None)
            step.close()
    elif hasattr(cls, "close"):
        result.close()
    else:
        # An awaitable around a coroutine, say: the iterator that would run it closes it.
        iterator: Any = result.__await__()
        if hasattr(iterator, "close"):
            iterator.close()
