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
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    AsyncExitStack,
    ExitStack,
    asynccontextmanager,
    contextmanager,
)
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Union, cast

import trio

from .._errors import HookFailed, Veto, Vetoed, leaf_ids
from .._events.event_types import short_name

if TYPE_CHECKING:
    from .._delivery import Delivery
    from .._handle import DispatchHandle

HOOK_NAMES = ("around_dispatch", "around_delivery", "around_call")


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


Middleware = Union[AroundDispatch, AroundDelivery, AroundCall]  # noqa: UP007 - shown in the docs


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
        if not hooks:
            raise TypeError(f"{each!r} is not middleware: it has none of {', '.join(HOOK_NAMES)}")
        for name in hooks:
            function = getattr(each, name)
            if not (inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)):
                raise TypeError(
                    f"{short_name(type(each))}.{name} has no `yield`; the code above the yield "
                    "runs before the event is processed, the code below it runs afterwards"
                )
    return checked


class Hook:
    """One hook of one middleware object.

    Attributes:
        name: The name of the middleware's class, for error messages.
        function: The bound generator function.
        suspends: True if the function is an async generator function.
        enter: Returns the context manager for one operation.
    """

    __slots__ = ("enter", "function", "name", "suspends")

    def __init__(self, middleware: Any, function: Callable[[Any], Any]) -> None:
        self.name: str = short_name(type(middleware))
        self.function: Callable[[Any], Any] = function
        self.suspends: bool = inspect.isasyncgenfunction(function)
        self.enter: Callable[[Any], Any] = (
            asynccontextmanager(function) if self.suspends else contextmanager(function)
        )

    def forget_callers(self, error: BaseException) -> None:
        """Remove the kernel's frames, which are above those of the hook, from a traceback.

        These frames refer to the handle, and the handle refers to the error. Without this, error
        and handle would keep each other alive until the garbage collector runs.
        """
        code = getattr(self.function, "__code__", None)
        entry = error.__traceback__
        while entry is not None and entry.tb_frame.f_code is not code:
            entry = entry.tb_next
        if entry is not None:
            error.__traceback__ = entry


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
        self._hook, self._error, self._vetoed = hook, raised, isinstance(raised, Veto)

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
        return not isinstance(error, Exception)

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
                raise Vetoed(hook.name, str(error)) from error
            raise HookFailed(hook.name, error) from error


def check_swallowed(error: BaseException | None) -> None:
    """Refuse a hook that swallows a cancellation.

    A swallowed `Exception` is raised again after the hook. A `trio.Cancelled` cannot be raised
    again: its cancel scope may be inside the hook and have ended, so nothing would catch it.

    Raises:
        RuntimeError: `error` is a cancellation.
    """
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        # The group has nothing but cancellations and exceptions. One with a KeyboardInterrupt, for
        # example, is raised again like a failure.
        lost = not isinstance(error, Exception) and not group.split((trio.Cancelled, Exception))[1]
    else:
        lost = isinstance(error, trio.Cancelled)
    if lost:
        raise RuntimeError(
            "the hook swallowed a trio.Cancelled at its yield; for a timeout, use trio.fail_after"
        )


# The sync and the async guard stay two classes, and so do the two stacks below. One class for both
# would have to await in the sync case, where a dispatch must not suspend.


class SyncHookGuard(AbstractContextManager[None]):
    """The context manager of one sync hook, with attribution of its exceptions."""

    __slots__ = ("_attribution", "_hook", "_manager")

    def __init__(self, hook: Hook, subject: Any, attribution: ErrorAttribution) -> None:
        self._hook = hook
        self._manager = hook.enter(subject)
        self._attribution = attribution

    def __enter__(self) -> None:
        try:
            self._manager.__enter__()
        except Exception as error:
            self._attribution.record_entry(self._hook, error)
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # It returns None even if the hook swallowed the exception, so the stack raises it again.
        try:
            if self._manager.__exit__(kind, error, traceback):
                check_swallowed(error)
        except Exception as raised:
            if self._attribution.record_exit(self._hook, raised, error):
                raise


class AsyncHookGuard(AbstractAsyncContextManager[None]):
    """The context manager of one async hook, with attribution of its exceptions."""

    __slots__ = ("_attribution", "_hook", "_manager")

    def __init__(self, hook: Hook, subject: Any, attribution: ErrorAttribution) -> None:
        self._hook = hook
        self._manager = hook.enter(subject)
        self._attribution = attribution

    async def __aenter__(self) -> None:
        try:
            await self._manager.__aenter__()
        except Exception as error:
            self._attribution.record_entry(self._hook, error)
            raise

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if await self._manager.__aexit__(kind, error, traceback):
                check_swallowed(error)
        except Exception as raised:
            if self._attribution.record_exit(self._hook, raised, error):
                raise


class SyncHookStack(AbstractContextManager[None]):
    """Enters the sync hooks of one operation and leaves them in reverse order."""

    __slots__ = ("_attribution", "_hooks", "_stack", "_subject")

    def __init__(self, hooks: tuple[Hook, ...], subject: Any) -> None:
        self._hooks = hooks
        self._subject = subject
        self._attribution = ErrorAttribution()
        self._stack = ExitStack()

    def __enter__(self) -> None:
        entered = False
        try:
            try:
                for hook in self._hooks:
                    guard = SyncHookGuard(hook, self._subject, self._attribution)
                    self._stack.enter_context(guard)
                entered = True
            finally:
                # A later hook failed. `__exit__` of this object is not called then, so the hooks
                # that were entered are left here.
                if not entered:
                    self._stack.__exit__(*sys.exc_info())
        except Exception as error:
            self._attribution.raise_attributed(error)
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self._stack.__exit__(kind, error, traceback)
        except Exception as raised:
            self._attribution.raise_attributed(raised)
            raise


class AsyncHookStack(AbstractAsyncContextManager[None]):
    """Enters the sync and async hooks of one operation and leaves them in reverse order."""

    __slots__ = ("_attribution", "_hooks", "_stack", "_subject")

    def __init__(self, hooks: tuple[Hook, ...], subject: Any) -> None:
        self._hooks = hooks
        self._subject = subject
        self._attribution = ErrorAttribution()
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> None:
        entered = False
        try:
            try:
                for hook in self._hooks:
                    if hook.suspends:
                        await self._stack.enter_async_context(
                            AsyncHookGuard(hook, self._subject, self._attribution)
                        )
                    else:
                        self._stack.enter_context(
                            SyncHookGuard(hook, self._subject, self._attribution)
                        )
                entered = True
            finally:
                if not entered:
                    await self._stack.__aexit__(*sys.exc_info())
        except Exception as error:
            self._attribution.raise_attributed(error)
            raise

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            await self._stack.__aexit__(kind, error, traceback)
        except Exception as raised:
            self._attribution.raise_attributed(raised)
            raise


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
