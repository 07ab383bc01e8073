"""Callables: finds the functions inside a callable of the application, and tells their kind.

A callable may be a function, a method, a `functools.partial`, a wrapper made by a decorator, or an
object with `__call__`. The checks of listeners and of other callbacks ask here at registration
whether one is an `async def` or a generator function.
"""

from __future__ import annotations

import inspect
import types
from functools import partial, partialmethod
from typing import TYPE_CHECKING, Any

from .._foreign import describe_value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MAX_NESTED_FUNCTIONS = 100
"""The functions that are looked at in one callable; objects may make up a new one at each look."""

METHODS: tuple[type, ...] = (types.MethodType, staticmethod, classmethod, partialmethod)


def unwrap_partial(handler: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function inside nested `functools.partial` objects."""
    while isinstance(handler, partial):
        handler = handler.func
    return handler


def is_async(handler: Callable[..., Any]) -> bool:
    """Tell whether a handler is an `async def`, or an object whose `__call__` is one."""
    handler = unwrap_partial(handler)
    return is_kind(inspect.iscoroutinefunction, handler) or is_kind(
        inspect.iscoroutinefunction,
        getattr(handler, "__call__", None),  # noqa: B004 - its kind is asked for, not its presence
    )


def is_kind(check: Callable[[object], bool], function: object) -> bool:
    """Tell whether a function is of a kind; an object that cannot be looked at is of none."""
    try:
        return check(function)
    except Exception:  # noqa: BLE001 - `inspect` reads attributes, which may have code
        return False


def functions_in(handler: object) -> Iterator[Any]:
    """Yield a callable and the functions inside it, the outermost first.

    An `async def` is the last one on its way: it awaits or iterates the functions inside it.
    """
    pending = [handler]
    for _ in range(MAX_NESTED_FUNCTIONS):
        if not pending:
            return
        found: Any = unwrap_partial(pending.pop())  # type: ignore[arg-type]
        if isinstance(found, METHODS):
            pending.append(getattr(found, "__func__", None) or getattr(found, "func", None))
            continue
        yield found
        if is_kind(inspect.iscoroutinefunction, found):
            continue
        # `functools.wraps` leaves the wrapped function here. Objects that answer to every name
        # have no such attribute of their own.
        if inspect.getattr_static(found, "__wrapped__", None) is not None:
            pending.append(getattr(found, "__wrapped__", None))
        if not isinstance(found, types.FunctionType | types.BuiltinFunctionType | type):
            call = class_attribute(found, "__call__")
            # An async `__call__` decides, not the function that the object wraps.
            if is_async(found):
                return
            if isinstance(call, (types.FunctionType, partial, *METHODS)):
                pending.append(call)


def class_attribute(found: object, name: str) -> Any:
    """Return an attribute of the class of an object without running code of the class."""
    return inspect.getattr_static(type(found), name, None)


def refuse_generator(handler: object, name: str) -> None:
    """Refuse a generator function: a call of it runs no code.

    Args:
        handler: The callable.
        name: The name of the callable, for the error message.

    Raises:
        TypeError: It is a generator function or an async generator function, or has one inside.
    """
    for function in functions_in(handler):
        if is_kind(inspect.isgeneratorfunction, function):
            kind = "a generator function"
        elif is_kind(inspect.isasyncgenfunction, function):
            kind = "an async generator function"
        else:
            continue
        inner = getattr(function, "__qualname__", "")
        if inner and inner != name:
            kind = f"or wraps {kind}, {inner}"
        raise TypeError(
            f"{name} is {kind}: calling it runs none of its code; "
            "write a `def` or an `async def` without `yield`"
        )


def refuse_suspending(option: str, function: object) -> None:
    """Refuse a function that has to answer at once, but is an `async def` or a generator function.

    Args:
        option: The name of the option that holds the function.
        function: The function.

    Raises:
        TypeError: It cannot answer at once.
    """
    if not isinstance(function, type) and is_async(function):  # type: ignore[arg-type]
        raise TypeError(
            f"{option} is called during dispatch and cannot be async: {describe_value(function)}"
        )
    refuse_generator(function, option)
