"""Lifespans: the functions of the application around each opening of a bus.

`GoEvent` registers them, enters them before its session starts, and leaves them after its session
has ended. So a connection that a lifespan function opens is there before the driver connects and
before a listener runs, and closes after the drain.

Theory of operation. The functions nest as `async with` blocks do: entered in the order of
registration, left in the reverse order, in the task that opens the bus. So a function may hold a
nursery or a cancel scope open around its `yield`. An error that ends the bus is raised at the
`yield`, because a nursery has to see it. An error of the application is never exchanged for another
one: if the function catches it, or its nursery puts a group around it, the error leaves all the
same. Only a cancellation may end in the function, because its cancel scope may have caused it.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any, TypeAlias, cast

import trio
from trio.lowlevel import enable_ki_protection

from ._events.event_types import short_name
from ._foreign import describe_value, is_group, leaf_ids, leaves, log, traceback_of
from ._options.callables import functions_in, is_kind, unwrap_partial
from ._options.signature import allow_interrupt, handler_name
from ._session import holds_only_cancellations

logger = logging.getLogger("goevent")

Opening: TypeAlias = AsyncIterator[object] | AbstractAsyncContextManager[object, Any]
"""The result of a lifespan function: that of an async generator, or an async context manager."""

HOW_TO_WRITE = "write an `async def` with one `yield`, which takes no argument or the bus"


class Lifespans:
    """The lifespan functions of one bus."""

    def __init__(self) -> None:
        self._functions: list[tuple[str, Callable[[Any], Any]]] = []
        self._entered: list[tuple[str, AbstractAsyncContextManager[object, Any]]] = []
        self.entering = False

    @property
    def entered(self) -> bool:
        """True while functions are entered that have to be left."""
        return bool(self._entered)

    def add(self, function: Callable[..., Any]) -> None:
        """Register a function.

        Raises:
            TypeError: It is no async generator function and makes no async context manager, or it
                takes more than the bus.
        """
        make = context_maker(function)
        takes_bus = takes_one_argument(function)
        for inner in functions_in(function):
            allow_interrupt(inner)
        self._functions.append((handler_name(function), make if takes_bus else lambda _bus: make()))

    @enable_ki_protection
    async def enter(self, bus: object) -> None:
        """Enter all functions. If one fails, those before it are left again.

        Raises:
            Exception: The exception of the function, with a note that names it.
        """
        self.entering = True
        try:
            for name, make in self._functions:
                try:
                    context = make(bus)
                    await context.__aenter__()
                except Exception as error:
                    error.add_note(f"while the lifespan function {name} was entered")
                    raise
                self._entered.append((name, context))
        finally:
            self.entering = False

    @enable_ki_protection
    async def leave(self, error: BaseException | None) -> BaseException | None:
        """Leave all functions that were entered, the last one first.

        Args:
            error: The error that ends the bus, or None.

        Returns:
            The error that is to leave `async with bus`. It is the given one if that is more than a
            cancellation; then the failures of the functions are logged. Otherwise it is the failure
            of the functions.
        """
        own = None if error is None or holds_only_cancellations(error) else error
        current = error
        failures: list[tuple[str, BaseException]] = []
        while self._entered:
            name, context = self._entered.pop()
            raised = await leave_context(context, current)
            if raised is None:
                # The function has caught the error. That of the application leaves all the same.
                current = own if own is not None else newest(failures)
                continue
            failure = without(raised, leaf_ids(current))
            if failure is None:
                current = own or newest(failures) or raised
            elif is_cancellation(failure):
                current = own or newest(failures) or failure
            else:
                failure.add_note(f"while the lifespan function {name} was left")
                if own is None or isinstance(failure, Exception):
                    failures.append((name, failure))
                else:  # a KeyboardInterrupt or a SystemExit goes before all others
                    failures.append(("async with bus", own))
                    own = failure
                current = own or failure
        if own is not None:
            for name, failure in failures:
                text = "another error ends the bus, and %s failed, too"
                log(logger, logging.ERROR, text, name, error=failure)
            return own
        errors = [failure for _, failure in failures]
        if len(errors) > 1:
            return BaseExceptionGroup("several lifespan functions failed", errors)
        return errors[0] if errors else current


@enable_ki_protection
async def leave_context(
    context: AbstractAsyncContextManager[object, Any], error: BaseException | None
) -> BaseException | None:
    """Leave an async context manager; return the error that leaves it, or None."""
    try:
        if error is None:
            await context.__aexit__(None, None, None)
            return None
        caught = await context.__aexit__(type(error), error, traceback_of(error))
    except BaseException as raised:  # noqa: BLE001 - `Lifespans.leave` returns it to be raised
        return raised
    return None if caught else error


def newest(failures: list[tuple[str, BaseException]]) -> BaseException | None:
    """Return the newest failure, or None."""
    return failures[-1][1] if failures else None


def is_cancellation(error: BaseException) -> bool:
    """Tell whether an error holds nothing but cancellations."""
    return all(isinstance(each, trio.Cancelled) for each in leaves(error))


def without(error: BaseException, known: set[int]) -> BaseException | None:
    """Return the part of an error that is not known yet, without cancellations beside errors.

    Args:
        error: An exception or a group.
        known: The ids of the known exceptions.
    """
    if not is_group(error):
        return None if id(error) in known else error
    new = [each for each in leaves(error) if id(each) not in known]
    real = [each for each in new if not isinstance(each, trio.Cancelled)] or new
    if not real:
        return None
    if len(real) == len([*leaves(error)]):
        return error
    return real[0] if len(real) == 1 else BaseExceptionGroup("in a lifespan function", real)


# -- registration


def context_maker(function: Any) -> Callable[..., Any]:
    """Return what makes an async context manager from a lifespan function.

    Raises:
        TypeError: The object is no lifespan function. The message says how to write one.
    """
    if inspect.iscoroutine(function):
        function.close()
    if is_result(function):
        hint = "is no function; leave out the (), which call the function"
        raise wrong_lifespan(describe_value(function), hint)
    if not callable(function):
        raise wrong_lifespan(describe_value(function), "is no function")
    if isinstance(function, type):
        if hasattr(function, "__aenter__") and hasattr(function, "__aexit__"):
            return function
        raise wrong_lifespan(short_name(function), "is no class of async context managers")
    name, inner = handler_name(function), unwrap_partial(function)
    if is_kind(inspect.isasyncgenfunction, inner):
        return asynccontextmanager(cast("Callable[..., AsyncGenerator[object]]", function))
    if is_kind(inspect.iscoroutinefunction, inner):
        raise wrong_lifespan(name, "has no `yield`")
    if is_kind(inspect.isgeneratorfunction, inner):
        raise wrong_lifespan(name, "is a `def`")
    # `contextlib.asynccontextmanager` leaves the async generator function in `__wrapped__`.
    found: Iterator[Any] = functions_in(function)
    if any(is_kind(inspect.isasyncgenfunction, each) for each in found):
        return partial(function)
    raise wrong_lifespan(name, "is neither an async generator function nor made of one")


def is_result(value: object) -> bool:
    """Tell whether an object is what a call of a lifespan function returns."""
    return (
        isinstance(value, AbstractAsyncContextManager)
        or inspect.isasyncgen(value)
        or inspect.iscoroutine(value)
    )


def takes_one_argument(function: Callable[..., Any]) -> bool:
    """Tell whether a lifespan function is called with the bus.

    Raises:
        TypeError: It can be called neither without an argument nor with one.
    """
    signature = inspect.signature(function)
    for arguments in ((), (None,)):
        try:
            signature.bind(*arguments)
        except TypeError:
            continue
        return bool(arguments)
    name = short_name(function) if isinstance(function, type) else handler_name(function)
    raise wrong_lifespan(name, f"takes {signature}")


def wrong_lifespan(name: str, mistake: str) -> TypeError:
    """Return the error for an object that is no lifespan function."""
    return TypeError(
        f"a lifespan function surrounds the open bus, and {name} {mistake}: {HOW_TO_WRITE}"
    )
