"""Middleware: hooks that run around dispatches, deliveries and the runs of listeners.

A hook is a generator function with one `yield`. The code above the yield runs before the hooked
operation, the code below it runs after it, and an exception of the operation is raised at the
yield. This is the form of a `contextlib.contextmanager`, with one difference: a hook cannot swallow
an exception. If it catches the exception at its yield, the exception is raised again after the
hook; if it raises another one, that one is attributed to the hook.

The kernel enters all hooks of an operation with `within` or `within_async`. These attribute
exceptions: an exception of a hook leaves as `HookFailed`, a `Veto` as `Vetoed`, and an exception of
the hooked operation as itself.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Union, cast

import trio

from .._errors import HookFailed, Veto, Vetoed
from .._events.event_types import short_name
from .._foreign import (
    cause_of,
    describe_value,
    is_group,
    leaf_ids,
    raise_unchanged,
    set_traceback,
    split,
    text_of,
    traceback_of,
)
from .results import refuse_unrun

if TYPE_CHECKING:
    from .._delivery import Delivery, SettledEvent
    from .._handle import DispatchHandle

HOOK_NAMES = (
    *("around_dispatch", "around_publish", "around_delivery", "around_call", "around_settle"),
)
# The hooks that have no task of their own to wait in.
SYNC_HOOK_NAMES = ("around_publish", "around_settle")
BIND_NAME = "bind_driver"


class AroundDispatch(Protocol):
    """Middleware around the dispatches of a bus.

    Example:
        >>> class AddTenant:
        ...     def around_dispatch(self, handle: DispatchHandle):
        ...         handle.headers["tenant"] = "acme"
        ...         yield
        >>> bus = GoEvent(Config(middleware=(AddTenant(),)))
    """

    def around_dispatch(self, handle: DispatchHandle, /) -> Iterator[None] | AsyncIterator[None]:
        """Run around one dispatch.

        The code above the yield runs before the event reaches any listener or driver. The code
        below it runs after the inline listeners. The hook may fill `handle.headers`.

        Raises:
            Veto: Raised above the yield, it keeps the event from all listeners and from the driver.
        """
        ...


class AroundPublish(Protocol):
    """Middleware around the way of events to the broker.

    Example:
        >>> class CountUnconfirmed:
        ...     unconfirmed = 0
        ...     def around_publish(self, handles: Sequence[DispatchHandle]):
        ...         self.unconfirmed += len(handles)
        ...         try:
        ...             yield
        ...         finally:
        ...             self.unconfirmed -= len(handles)
        >>> bus = GoEvent(Config(middleware=(CountUnconfirmed(),)))
    """

    def around_publish(self, handles: Sequence[DispatchHandle], /) -> Iterator[None]:
        """Run around the publishing of one event, or of events that go to the driver together.

        The code above the yield runs on the dispatching task, when the events are committed to the
        driver, inside of `around_dispatch`. The code below it runs later, on another task and in
        another context, when the broker has answered for all of the events: their `receipt` is
        known then. It runs in any case, at the end of the bus at the latest. The hook must not
        wait, so it is a `def`. It does not run on a bus that has no broker.

        Args:
            handles: The handles of the events; more than one only for events of `dispatch_many`.

        Raises:
            GoEventError: At the yield, the event was not published, or was abandoned because the
                bus ended. For several handles it is an `ExceptionGroup`. A `Veto` comes too late
                and counts as a failure of the hook.
        """
        ...


class AroundDelivery(Protocol):
    """Middleware around the events that arrive from other buses.

    Example:
        >>> class OnlyOurTenant:
        ...     def around_delivery(self, handle: DispatchHandle):
        ...         if handle.headers.get("tenant") != "acme":
        ...             raise Veto("another tenant")
        ...         yield
        >>> bus = GoEvent(Config(middleware=(OnlyOurTenant(),)))
    """

    def around_delivery(self, handle: DispatchHandle, /) -> Iterator[None] | AsyncIterator[None]:
        """Run around one event that a driver delivers, as `around_dispatch` around a dispatch.

        Raises:
            Veto: Raised above the yield, it keeps the event from all listeners of this bus.
        """
        ...


class AroundCall(Protocol):
    """Middleware around the runs of listeners.

    Example:
        >>> class CountRuns:
        ...     runs = 0
        ...     def around_call(self, delivery: Delivery):
        ...         self.runs += 1
        ...         yield
        >>> bus = GoEvent(Config(middleware=(CountRuns(),)))
    """

    def around_call(self, delivery: Delivery, /) -> Iterator[None] | AsyncIterator[None]:
        """Run around one attempt of one listener on one event.

        The hook runs in the context of the listener, so the listener sees the context variables
        that the hook sets.

        Raises:
            Veto: Raised above the yield, it keeps the event from this listener.
        """
        ...


class AroundSettle(Protocol):
    """Middleware around the settlement of events that a durable broker has delivered.

    Example:
        >>> class CountSettled:
        ...     settled = 0
        ...     def around_settle(self, settled: SettledEvent):
        ...         self.settled += not settled.errors
        ...         yield
        >>> bus = GoEvent(Config(middleware=(CountSettled(),)))
    """

    def around_settle(self, settled: SettledEvent, /) -> Iterator[None]:
        """Run around the call that tells the driver that all listeners are done with an event.

        The driver decides on its verdict in that call, and carries it out afterwards. The hook must
        not wait, so it is a `def`. It does not run for a broker that expects no settlement, nor for
        events that reached no listener because they could not be decoded.
        """
        ...


class BindsDriver(Protocol):
    """Middleware that wants to know the driver of each bus.

    Example:
        >>> class NameDriver:
        ...     def bind_driver(self, driver: Driver):
        ...         return CountRuns(type(driver).__name__)
        >>> class CountRuns:
        ...     def __init__(self, driver: str) -> None:
        ...         self.driver, self.runs = driver, 0
        ...     def around_call(self, delivery: Delivery):
        ...         self.runs += 1
        ...         yield
        >>> bus = GoEvent(Config(middleware=(NameDriver(),)))
    """

    def bind_driver(self, driver: Any, /) -> Middleware:
        """Return the middleware with the hooks for one bus; called when the bus is made.

        Args:
            driver: The `Driver` of the bus. It does not run yet.
        """
        ...


Middleware = Union[  # noqa: UP007 - shown in the docs
    AroundDispatch, AroundPublish, AroundDelivery, AroundCall, AroundSettle, BindsDriver
]


def check_middleware(middleware: Iterable[Any]) -> tuple[Any, ...]:
    """Return middleware as a tuple, after a check of the hooks of each object.

    Raises:
        TypeError: An object has no hook, or a hook is not a generator function.
    """
    if not isinstance(middleware, Iterable):
        raise TypeError(f"middleware must be a tuple of objects, not {middleware!r}")
    checked = tuple(middleware)
    for each in checked:
        if isinstance(each, type):
            raise TypeError(f"middleware must be an object: write {short_name(each)}()")
        hooks = [name for name in HOOK_NAMES if hasattr(each, name)]
        if not hooks and not hasattr(each, BIND_NAME):
            raise TypeError(
                f"{describe_value(each)} is not middleware: it has none of {', '.join(HOOK_NAMES)}"
            )
        for name in hooks:
            function = getattr(each, name)
            if not (inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)):
                raise TypeError(
                    f"{short_name(type(each))}.{name} has no `yield`; the code above the yield "
                    "runs before the event is processed, the code below it runs afterwards"
                )
            if name in SYNC_HOOK_NAMES and inspect.isasyncgenfunction(function):
                raise TypeError(f"{short_name(type(each))}.{name} cannot wait: make it a `def`")
    return checked


def bind_middleware(middleware: tuple[Any, ...], driver: object) -> tuple[Any, ...]:
    """Return the middleware of one bus, in which objects with `bind_driver` are replaced.

    Raises:
        TypeError: `bind_driver` has not returned middleware.
    """
    return tuple(
        check_middleware((each.bind_driver(driver),))[0] if hasattr(each, BIND_NAME) else each
        for each in middleware
    )


class Hook:
    """One hook of one middleware object.

    Attributes:
        name: The name of the middleware's class, for error messages.
        function: The bound generator function.
        suspends: True if the function is an async generator function.
    """

    __slots__ = ("function", "name", "suspends")

    def __init__(self, middleware: Any, function: Callable[[Any], Any]) -> None:
        self.name: str = short_name(type(middleware))
        self.function: Callable[[Any], Any] = function
        self.suspends: bool = inspect.isasyncgenfunction(function)

    def forget_callers(self, error: BaseException) -> None:
        """Remove the kernel's frames, which are above those of the hook, from a traceback.

        These frames refer to the handle, and the handle refers to the error. Without this, error
        and handle would keep each other alive until the garbage collector runs.
        """
        code = getattr(self.function, "__code__", None)
        entry = traceback_of(error)
        while entry is not None and entry.tb_frame.f_code is not code:
            entry = entry.tb_next
        if entry is not None:
            set_traceback(error, entry)


def hooks_of(middleware: Iterable[Any], name: str) -> tuple[Hook, ...]:
    """Return the hooks of one name, the outermost first."""
    return tuple(Hook(each, getattr(each, name)) for each in middleware if hasattr(each, name))


class ErrorAttribution:
    """Records which hook of one operation raised an exception.

    If no hook is recorded for an exception, the hooked operation raised it.
    """

    __slots__ = ("_error", "_hook", "_vetoed")

    def __init__(self) -> None:
        self._hook: Hook | None = None
        self._error: BaseException | None = None
        self._vetoed = False

    def record_entry(self, hook: Hook, raised: Exception) -> None:
        """Record an exception that a hook raised above its yield."""
        self._hook, self._error, self._vetoed = hook, raised, issubclass(type(raised), Veto)

    def record_exit(self, hook: Hook, raised: Exception, error: BaseException | None) -> bool:
        """Record an exception that a hook raised at its yield or below.

        Args:
            hook: The hook.
            raised: The exception that left the hook.
            error: The exception of the hooked operation, which was raised at the yield.

        Returns:
            False if `error` must be raised in place of `raised`, because both are the same failure.
        """
        # A nursery inside the hook wraps `error` in a group, and a cancel scope may leave only a
        # part of a group. Both are still the failure of the hooked operation, so the two are
        # compared by the exceptions in them and not by identity.
        if not leaf_ids(raised) <= leaf_ids(error):
            # A veto below the yield comes too late, so it counts as a failure.
            self._hook, self._error, self._vetoed = hook, raised, False
            return True
        # `raised` is an Exception. If `error` is not one, the hook has turned a group with a
        # cancellation into one without, and only the reduced group can go on.
        return not issubclass(type(error), Exception)

    def raise_attributed(self, error: Exception) -> None:
        """Raise `Vetoed` or `HookFailed` if a hook raised `error`; otherwise return.

        Raises:
            Vetoed: A hook raised `error` as a `Veto` above its yield.
            HookFailed: A hook raised `error`.
        """
        hook, recorded = self._hook, self._error
        # The error refers to this object by its traceback.
        self._error = None
        # An outer hook or the operation may have raised another exception meanwhile. Then the
        # recorded one is its context, and the hook is not at fault.
        if hook is not None and recorded is error:
            hook.forget_callers(error)
            if self._vetoed:
                raise Vetoed(hook.name, text_of(error)) from error
            raise HookFailed(hook.name, error) from error


def check_swallowed(error: BaseException) -> None:
    """Refuse a hook that swallows a cancellation.

    A swallowed `Exception` is raised again after the hook. A `trio.Cancelled` cannot be raised
    again: its cancel scope may be inside the hook and have ended, so nothing would catch it.

    Raises:
        RuntimeError: `error` is a cancellation.
    """
    # A group that has nothing but cancellations and exceptions. One with a KeyboardInterrupt, for
    # example, is raised again like a failure.
    lost = is_group(error) and split(error, (trio.Cancelled, Exception))[1] is None
    if type(error) is trio.Cancelled or (lost and not issubclass(type(error), Exception)):
        raise RuntimeError(
            "the hook swallowed a trio.Cancelled at its yield; for a timeout, use trio.fail_after"
        )


# The sync and the async functions stay two, and so do the two stacks below. One for both would have
# to await in the sync case, where a dispatch must not suspend. They do the work of
# `contextlib.contextmanager` and `ExitStack`, which set attributes of the exceptions that pass, and
# so fail on one that refuses it.


def begin(generator: Any) -> None:
    """Run the part of a sync hook above its yield."""
    try:
        yielded = next(generator)
    except StopIteration:
        raise RuntimeError("generator didn't yield") from None
    if yielded is not None:
        try:
            refuse_unrun(yielded, "the hook")
        except TypeError:
            generator.close()
            raise


def finish(generator: Any, error: BaseException | None) -> None:
    """Run the part of a sync hook below its yield.

    Args:
        generator: The generator of the hook.
        error: The exception to raise at the yield, or None. If the hook raises it again or swallows
            it, this function returns.
    """
    entry = None if error is None else traceback_of(error)
    try:
        if error is None:
            next(generator)
        else:
            generator.throw(error)
    except StopIteration as end:
        swallowed = error is not None and end is not error
        if error is None and end.value is not None:
            refuse_unrun(end.value, "the hook")
    except BaseException as raised:
        if error is None or not is_same(raised, error):
            raise
        set_traceback(error, entry)
        swallowed = False
    else:
        generator.close()
        raise RuntimeError("generator didn't stop")
    if swallowed and error is not None:
        check_swallowed(error)


async def begin_async(generator: Any) -> None:
    """Run the part of an async hook above its yield."""
    try:
        yielded = await anext(generator)
    except StopAsyncIteration:
        raise RuntimeError("generator didn't yield") from None
    if yielded is not None:
        try:
            refuse_unrun(yielded, "the hook")
        except TypeError:
            await generator.aclose()
            raise


async def finish_async(generator: Any, error: BaseException | None) -> None:
    """Run the part of an async hook below its yield, as `finish`."""
    entry = None if error is None else traceback_of(error)
    try:
        if error is None:
            await anext(generator)
        else:
            await generator.athrow(error)
    except StopAsyncIteration as end:
        swallowed = error is not None and end is not error
    except BaseException as raised:
        if error is None or not is_same(raised, error):
            raise
        set_traceback(error, entry)
        swallowed = False
    else:
        await generator.aclose()
        raise RuntimeError("generator didn't stop")
    if swallowed and error is not None:
        check_swallowed(error)


def is_same(raised: BaseException, error: BaseException) -> bool:
    """Tell whether a generator has raised the exception that was thrown into it."""
    # Python wraps these two on their way out of a generator.
    wrapped = issubclass(type(error), (StopIteration, StopAsyncIteration))
    return raised is error or (
        wrapped and type(raised) is RuntimeError and cause_of(raised) is error
    )


class HookStack:
    """The hooks of one operation that were entered, for the two stacks below."""

    __slots__ = ("_attribution", "_entered", "_hooks", "_subject")

    def __init__(self, hooks: tuple[Hook, ...], subject: Any) -> None:
        self._hooks = hooks
        self._subject = subject
        self._attribution: ErrorAttribution | None = None  # most operations need none
        self._entered: list[tuple[Hook, Any]] = []

    def _attributed(self) -> ErrorAttribution:
        if self._attribution is None:
            self._attribution = ErrorAttribution()
        return self._attribution

    def _failed_entry(self, hook: Hook, error: BaseException) -> None:
        if issubclass(type(error), Exception):
            self._attributed().record_entry(hook, cast("Exception", error))

    def _failed_exit(
        self, hook: Hook, raised: BaseException, error: BaseException | None
    ) -> BaseException | None:
        """Return the exception that goes on to the next hook."""
        if not issubclass(type(raised), Exception):
            return raised
        goes_on = self._attributed().record_exit(hook, cast("Exception", raised), error)
        return raised if goes_on else error

    def _raise(self, leaving: BaseException | None) -> None:
        if leaving is None:
            return
        try:
            if self._attribution is not None and issubclass(type(leaving), Exception):
                self._attribution.raise_attributed(cast("Exception", leaving))
            raise_unchanged(leaving)
        finally:
            del leaving  # this frame and the traceback would keep each other alive


class SyncHookStack(HookStack, AbstractContextManager[None]):
    """Enters the sync hooks of one operation and leaves them in reverse order."""

    __slots__ = ()

    def __enter__(self) -> None:
        for hook in self._hooks:
            try:
                generator = hook.function(self._subject)
                begin(generator)
            except BaseException as error:  # noqa: BLE001 - `_raise` raises it again
                self._failed_entry(hook, error)
                # `__exit__` of this object is not called, so the outer hooks are left here.
                self._raise(self._leave(error))
            else:
                self._entered.append((hook, generator))

    def _leave(self, error: BaseException | None) -> BaseException | None:
        """Leave the hooks that were entered; return the exception that goes on."""
        while self._entered:
            hook, generator = self._entered.pop()
            try:
                finish(generator, error)
            except BaseException as raised:  # noqa: BLE001 - the caller raises it
                error = self._failed_exit(hook, raised, error)
        return error

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        leaving = self._leave(error)
        if leaving is not error:
            self._raise(leaving)


class AsyncHookStack(HookStack, AbstractAsyncContextManager[None]):
    """Enters the sync and async hooks of one operation and leaves them in reverse order."""

    __slots__ = ()

    async def __aenter__(self) -> None:
        for hook in self._hooks:
            try:
                generator = hook.function(self._subject)
                if hook.suspends:
                    await begin_async(generator)
                else:
                    begin(generator)
            except BaseException as error:  # noqa: BLE001 - `_raise` raises it again
                self._failed_entry(hook, error)
                self._raise(await self._leave(error))
            else:
                self._entered.append((hook, generator))

    async def _leave(self, error: BaseException | None) -> BaseException | None:
        """Leave the hooks that were entered; return the exception that goes on."""
        while self._entered:
            hook, generator = self._entered.pop()
            try:
                if hook.suspends:
                    await finish_async(generator, error)
                else:
                    finish(generator, error)
            except BaseException as raised:  # noqa: BLE001 - the caller raises it
                error = self._failed_exit(hook, raised, error)
        return error

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        leaving = await self._leave(error)
        if leaving is not error:
            self._raise(leaving)


def within(hooks: tuple[Hook, ...], subject: Any) -> AbstractContextManager[None]:
    """Return a context manager that runs sync hooks around its block.

    Args:
        hooks: The hooks, the outermost first.
        subject: The argument of the hooks: a `DispatchHandle` or a `Delivery`.

    Raises:
        Vetoed: A hook raised `Veto` above its yield.
        HookFailed: A hook raised another exception of its own.
    """
    return SyncHookStack(hooks, subject)


def within_async(hooks: tuple[Hook, ...], subject: Any) -> AbstractAsyncContextManager[None]:
    """Return an async context manager that runs sync and async hooks around its block.

    Args:
        hooks: The hooks, the outermost first.
        subject: The argument of the hooks: a `DispatchHandle` or a `Delivery`.

    Raises:
        Vetoed: A hook raised `Veto` above its yield.
        HookFailed: A hook raised another exception of its own.
    """
    return AsyncHookStack(hooks, subject)
