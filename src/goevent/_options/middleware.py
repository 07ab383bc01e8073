"""Middleware: what stands around dispatches, deliveries and the runs of listeners.

A hook is a generator function with one `yield`. What is above the yield runs before, what is below
it runs after, and what fails inside is raised at the yield. It is the form of a
`contextlib.contextmanager`, and behaves as one, save that it cannot swallow a failure: whatever it
does about an exception at its yield, the exception goes on, or one that the hook is blamed for.
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

from .._errors import HookFailed, Veto, Vetoed, leaves

if TYPE_CHECKING:
    from .._delivery import Delivery
    from .._handle import DispatchHandle

HOOKS = ("around_dispatch", "around_delivery", "around_call")


class AroundDispatch(Protocol):
    """Middleware around the dispatches of a bus."""

    def around_dispatch(self, handle: DispatchHandle, /) -> Iterator[None] | AsyncIterator[None]:
        """Run around one dispatch: before the event goes anywhere, after the inline listeners.

        It may fill `handle.headers`, and raise `Veto`: then nobody gets the event.
        """
        ...


class AroundDelivery(Protocol):
    """Middleware around what arrives from other buses."""

    def around_delivery(self, handle: DispatchHandle, /) -> Iterator[None] | AsyncIterator[None]:
        """Run around one event that a driver brings, as `around_dispatch` does."""
        ...


class AroundCall(Protocol):
    """Middleware around the runs of listeners."""

    def around_call(self, delivery: Delivery, /) -> Iterator[None] | AsyncIterator[None]:
        """Run around one attempt of one listener on one event.

        It runs in the context of the listener, which sees the context variables it sets. It may
        raise `Veto`: then the listener does not get the event.
        """
        ...


Middleware = Union[AroundDispatch, AroundDelivery, AroundCall]  # noqa: UP007 - shown in the docs


def check_middleware(middleware: Iterable[Any]) -> tuple[Any, ...]:
    """Return middleware as a tuple, if each has hooks and all of them have the right form.

    Raises:
        TypeError: one has no hook, or a hook is no generator function.
    """
    if not isinstance(middleware, Iterable):
        raise TypeError(f"middleware is a tuple of objects, not {middleware!r}")
    chosen = tuple(middleware)
    for each in chosen:
        if isinstance(each, type):
            raise TypeError(f"middleware is an object; write {each.__qualname__}()")
        hooks = [name for name in HOOKS if hasattr(each, name)]
        if not hooks:
            raise TypeError(f"{each!r} is no middleware: it has none of {', '.join(HOOKS)}")
        for name in hooks:
            function = getattr(each, name)
            if not (inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)):
                raise TypeError(
                    f"{type(each).__qualname__}.{name} has no `yield`: what stands before it runs "
                    "before, what stands behind it runs after"
                )
    return chosen


class Hook:
    """One hook of one middleware."""

    __slots__ = ("enter", "function", "name", "suspends")

    def __init__(self, middleware: Any, function: Callable[[Any], Any]) -> None:
        self.name: str = type(middleware).__qualname__
        self.function: Callable[[Any], Any] = function
        self.suspends: bool = inspect.isasyncgenfunction(function)
        self.enter: Callable[[Any], Any] = (
            asynccontextmanager(function) if self.suspends else contextmanager(function)
        )

    def forget_callers(self, error: BaseException) -> None:
        """Take the frames above the hook's own off a traceback: they are the kernel's.

        They hold the handle, which holds the error: they would keep each other.
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


class Blame:
    """Who raised what comes out of the hooks; nobody, if it was what they stand around."""

    __slots__ = ("_error", "_hook", "_vetoed")

    def __init__(self) -> None:
        self._hook: Hook | None = None
        self._error: BaseException | None = None
        self._vetoed = False

    def entering(self, hook: Hook, raised: Exception) -> None:
        """Take note of what a hook raised above its yield."""
        self._hook, self._error, self._vetoed = hook, raised, isinstance(raised, Veto)

    def leaving(self, hook: Hook, raised: Exception, error: BaseException | None) -> bool:
        """Take note of what a hook raised at its yield or below; False if `error` is to go on.

        What a nursery of the hook has put into a group, or its cancel scope has left of one, is
        still the failure of what it stands around.
        """
        if not leaves(raised) <= leaves(error):
            self._hook, self._error, self._vetoed = hook, raised, False
            return True
        return not isinstance(error, Exception)

    def accuse(self, error: Exception) -> None:
        """Raise what says who raised `error`, if a hook did."""
        hook, culprit = self._hook, self._error
        self._error = None
        if hook is not None and culprit is error:
            hook.forget_callers(error)
            if self._vetoed:
                raise Vetoed(hook.name, str(error)) from error
            raise HookFailed(hook.name, error) from error


def check_swallowed(error: BaseException | None) -> None:
    """Refuse what a hook must not keep to itself.

    A failure goes on all the same. A cancellation cannot: its scope may be the hook's own, and be
    over, so that nobody would catch it.
    """
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        lost = not isinstance(error, Exception) and not group.split((trio.Cancelled, Exception))[1]
    else:
        lost = isinstance(error, trio.Cancelled)
    if lost:
        raise RuntimeError(
            "a trio.Cancelled got lost at its yield; for a timeout, use trio.fail_after"
        )


class Guard(AbstractContextManager[None]):
    """One sync hook, entered."""

    __slots__ = ("_blame", "_hook", "_manager")

    def __init__(self, hook: Hook, subject: Any, blame: Blame) -> None:
        self._hook = hook
        self._manager = hook.enter(subject)
        self._blame = blame

    def __enter__(self) -> None:
        try:
            self._manager.__enter__()
        except Exception as error:
            self._blame.entering(self._hook, error)
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if self._manager.__exit__(kind, error, traceback):
                check_swallowed(error)
        except Exception as raised:
            if self._blame.leaving(self._hook, raised, error):
                raise


class AsyncGuard(AbstractAsyncContextManager[None]):
    """One async hook, entered."""

    __slots__ = ("_blame", "_hook", "_manager")

    def __init__(self, hook: Hook, subject: Any, blame: Blame) -> None:
        self._hook = hook
        self._manager = hook.enter(subject)
        self._blame = blame

    async def __aenter__(self) -> None:
        try:
            await self._manager.__aenter__()
        except Exception as error:
            self._blame.entering(self._hook, error)
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
            if self._blame.leaving(self._hook, raised, error):
                raise


class Within(AbstractContextManager[None]):
    """Sync hooks, around something."""

    __slots__ = ("_blame", "_hooks", "_stack", "_subject")

    def __init__(self, hooks: tuple[Hook, ...], subject: Any) -> None:
        self._hooks = hooks
        self._subject = subject
        self._blame = Blame()
        self._stack = ExitStack()

    def __enter__(self) -> None:
        entered = False
        try:
            try:
                for hook in self._hooks:
                    self._stack.enter_context(Guard(hook, self._subject, self._blame))
                entered = True
            finally:
                if not entered:
                    self._stack.__exit__(*sys.exc_info())
        except Exception as error:
            self._blame.accuse(error)
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
            self._blame.accuse(raised)
            raise


class WithinAsync(AbstractAsyncContextManager[None]):
    """Hooks of which some are async, around something."""

    __slots__ = ("_blame", "_hooks", "_stack", "_subject")

    def __init__(self, hooks: tuple[Hook, ...], subject: Any) -> None:
        self._hooks = hooks
        self._subject = subject
        self._blame = Blame()
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> None:
        entered = False
        try:
            try:
                for hook in self._hooks:
                    if hook.suspends:
                        guard = AsyncGuard(hook, self._subject, self._blame)
                        await self._stack.enter_async_context(guard)
                    else:
                        self._stack.enter_context(Guard(hook, self._subject, self._blame))
                entered = True
            finally:
                if not entered:
                    await self._stack.__aexit__(*sys.exc_info())
        except Exception as error:
            self._blame.accuse(error)
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
            self._blame.accuse(raised)
            raise


def within(hooks: tuple[Hook, ...], subject: Any) -> AbstractContextManager[None]:
    """Stand around something; raises `HookFailed` and `Vetoed` for what the hooks raise."""
    return Within(hooks, subject)


def within_async(hooks: tuple[Hook, ...], subject: Any) -> AbstractAsyncContextManager[None]:
    """Do as `within`, for hooks of which some are async."""
    return WithinAsync(hooks, subject)
