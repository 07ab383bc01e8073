"""The handle of a portal: the progress of an event, or of a batch, for callers outside.

`Portal` makes it, and the pump fills it in Trio's thread. Threads and asyncio tasks wait for it.
"""

# The portal belongs to the bus: it uses the end of handles directly.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import threading
from collections.abc import Generator
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any, Self

from .._errors import EventError
from .._handle import DispatchHandle
from ._waiters import AsyncioWaiter, PortalWaiter, ThreadWaiter, running_loop

if TYPE_CHECKING:
    from .._batch_handle import BatchHandle
    from ._thread import BusThread


class PortalHandle:
    """The progress of an event, or of a batch, that was dispatched through a portal.

    Threads call `wait`; asyncio tasks await the handle. Both return when every listener of the bus
    has finished the event, as `DispatchHandle.wait` does, and both raise if the bus refused it.

    Attributes:
        event: The event; the tuple of events for a batch.

    Example:
        >>> from goevent.portal import portal
        >>> with portal(GoEvent()) as p:
        ...     handle = p.dispatch(Event("order.paid", {"order_id": 7}))
        ...     handle.wait(timeout=5.0)
        ...     handle.done
        True
    """

    __slots__ = (
        "_context",
        "_done",
        "_errors",
        "_inner",
        "_keys",
        "_refusal",
        "_size",
        "_taken",
        "_thread",
        "_waiters",
        "event",
    )

    def __init__(self, thread: BusThread, event: Any, *, is_batch: bool = False) -> None:
        self.event: Any = event
        self._thread = thread
        # Middleware and contextual listeners see the context of the caller, such as its span.
        self._context: Context = copy_context()
        # The number of events, and the keys of a batch; None for a single event.
        self._size = 1
        self._keys: tuple[object, ...] | None = None
        if is_batch:
            self._size = len(event)
            self._keys = tuple(dict.fromkeys(key_of(each) for each in event))
        self._done = False
        self._errors: tuple[EventError, ...] = ()
        self._refusal: BaseException | None = None
        self._inner: DispatchHandle | BatchHandle | None = None
        # Those that wait until the event is taken, and until it is done.
        self._taken: AsyncioWaiter | None = None
        self._waiters: list[PortalWaiter] | None = None

    @property
    def done(self) -> bool:
        """True once every listener has finished or failed, or the bus has refused the event."""
        return self._done

    @property
    def errors(self) -> tuple[EventError, ...]:
        """The failures of listeners so far, in their order. A refusal is raised by `wait`."""
        inner = self._inner
        found = self._errors if self._done or inner is None else failures_of(inner)
        if found and inner is not None:
            # Tell the bus that the application has seen them. A bus whose thread has ended has
            # logged them.
            self._thread.check_process()
            self._thread.run_soon(_look_at_errors, inner)
        return found

    def raise_errors(self) -> None:
        """Raise the refusal, or the failures so far; return if there is neither.

        Raises:
            ExceptionGroup: At least one listener failed. The group holds `EventError`s.
            Exception: The bus refused the event; see `GoEvent.dispatch`.
        """
        if self._refusal is not None:
            raise self._refusal
        if errors := self.errors:
            raise ExceptionGroup(f"{len(errors)} listener(s) failed", errors)

    def wait(self, timeout: float | None = None) -> None:
        """Block this thread until every listener has finished the event.

        Ctrl-C interrupts it in the main thread, and changes nothing for the event.

        Args:
            timeout: The seconds to wait; None to wait as long as it takes.

        Raises:
            BusForked: This process is a fork of the portal's.
            RuntimeError: This is the thread of the bus, or one that runs an asyncio loop: it would
                stand still. Await the handle there.
            TimeoutError: The time has passed. The event goes on.
            Exception: The bus refused the event; see `GoEvent.dispatch`.
        """
        self._thread.check_blocking("wait", "await the handle")
        waiter = ThreadWaiter()
        if self._add_waiter(waiter):
            try:
                # `math.inf` means forever, as in Trio; a lock takes no such number.
                longest = None if timeout is None else min(timeout, threading.TIMEOUT_MAX)
                if not waiter.event.wait(longest):
                    raise TimeoutError(f"the event was not done within {timeout:g} s")
            finally:
                self._remove_waiter(waiter)
        if self._refusal is not None:
            raise self._refusal

    def __await__(self) -> Generator[Any, None, Self]:
        """Wait in an asyncio task; a cancelled wait changes nothing for the event."""
        return self._wait_in_asyncio().__await__()

    async def _wait_in_asyncio(self) -> Self:
        self._thread.check_process()
        waiter = AsyncioWaiter(running_loop())
        if self._add_waiter(waiter):
            try:
                await waiter.future
            finally:
                self._remove_waiter(waiter)
        if self._refusal is not None:
            raise self._refusal
        return self

    def _add_waiter(self, waiter: PortalWaiter) -> bool:
        """Have a waiter woken when the event is done; False if it is done already."""
        with self._thread.lock:
            if self._done:
                return False
            if self._waiters is None:
                self._waiters = []
            self._waiters.append(waiter)
            return True

    def _remove_waiter(self, waiter: PortalWaiter) -> None:
        self._thread.check_process()
        with self._thread.lock:
            if self._waiters is not None and waiter in self._waiters:
                self._waiters.remove(waiter)

    def _finish(self, errors: tuple[EventError, ...]) -> list[PortalWaiter]:
        """Note the end of the event, and return its waiters; the caller holds the lock."""
        self._errors = errors
        self._done = True
        waiters, self._waiters = self._waiters, None
        return waiters or []

    def __repr__(self) -> str:
        state = "done" if self._done else "taken" if self._inner is not None else "waiting"
        return f"<PortalHandle {state}, {len(self._errors)} error(s)>"


def key_of(event: Any) -> object:
    """Return the name of an event, or its class; its order is kept among those of the same key."""
    name = getattr(event, "event_name", None)
    return name if name and isinstance(name, str) else event.__class__


def failures_of(inner: DispatchHandle | BatchHandle) -> tuple[EventError, ...]:
    """Return the failures so far, without telling the bus that they were seen."""
    if isinstance(inner, DispatchHandle):
        return inner._failed()
    return tuple(error for handle in inner.failed for error in handle._failed())


def _look_at_errors(inner: DispatchHandle | BatchHandle) -> None:
    """Have the bus know that the errors were seen."""
    inner.errors  # noqa: B018 - the property tells the bus
