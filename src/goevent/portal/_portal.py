"""`Portal`: the thread, the run of Trio in it and the open bus, from opening to closing.

Its public methods are called from outside; they hand the events and calls to the queue. The methods
of the thread run the bus, and the pump in a nursery beside it.
"""

# The portal belongs to the bus: it cuts its drain short.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import Future
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload

import trio

from .._errors import BusClosed
from ._call import PortalCall
from ._handle import PortalHandle
from ._pump import PortalPump
from ._queue import MAX_WAITING_EVENTS, PortalQueue
from ._thread import BusThread
from ._waiters import AsyncioWaiter, loop_runs_here, running_loop

if TYPE_CHECKING:
    import asyncio

    from .._bus import GoEvent
    from .._events.event import AnyEvent

T = TypeVar("T")

_log = logging.getLogger("goevent")


class Portal:
    """A bus that runs in a thread of its own; made by `portal`.

    All methods may be called from any thread but that of the bus, and from asyncio tasks where they
    say so. Listeners run in the bus's thread, and use the bus itself.

    Args:
        bus: The bus. Nothing else may open it.
        max_waiting: How many events the bus may not have taken yet before `dispatch` waits.
    """

    def __init__(self, bus: GoEvent, *, max_waiting: int = MAX_WAITING_EVENTS) -> None:
        self._bus = bus
        self._thread = BusThread(bus)
        self._queue = PortalQueue(self._thread, max_waiting)
        self._pump = PortalPump(bus, self._thread, self._queue)
        self._nursery: trio.Nursery | None = None
        self._closing = trio.Event()
        self._close_now = False
        self._opening = trio.CancelScope()
        self._pumped = trio.Event()
        self._started: Future[None] = Future()
        self._ended: Future[None] = Future()

    @property
    def bus(self) -> GoEvent:
        """The bus. While the portal is open, only listeners and `call` may use it."""
        return self._bus

    # -- calls from outside

    def dispatch(self, event: AnyEvent) -> PortalHandle:
        """Dispatch an event from any thread, and return at once.

        The events of one name reach the listeners in the order of the calls. If the bus has not
        taken 10,000 events yet, because its mailboxes are full, this blocks the thread until it has
        taken one. A thread with a running asyncio loop is never blocked; use `dispatch_async` there
        to be held back. Inline listeners, and those with `context=True`, run in a copy of the
        caller's context, and a span that is current in it is the parent of the event's span.

        Args:
            event: The event.

        Returns:
            The handle. If the bus refuses the event, its `wait` raises the reason.

        Raises:
            BusClosed: The portal is closed, or its bus has failed; the cause is the failure.
            BusForked: This process is a fork of the portal's.
            RuntimeError: This is the thread of the bus, or an asyncio loop runs here and the bus
                has not taken 10,000 events yet.
        """
        self._thread.check_process()
        handle = PortalHandle(self._thread, event)
        self._queue.put_when_room(handle)
        return handle

    async def dispatch_async(self, event: AnyEvent) -> PortalHandle:
        """Dispatch an event from an asyncio task, and wait until the bus has taken it.

        As `await bus.dispatch(event)`: when it returns, inline listeners have run, and the others
        have the event in their mailboxes. A cancelled wait leaves the event dispatched.

        Args:
            event: The event.

        Returns:
            The handle.

        Raises:
            BusClosed: The portal is closed, or its bus has failed; the cause is the failure.
            BusForked: This process is a fork of the portal's.
            RuntimeError: No asyncio loop runs here, or this is the thread of the bus.
            Exception: The bus refused the event; see `GoEvent.dispatch`.
        """
        self._thread.check_process()
        handle = PortalHandle(self._thread, event)
        taken = handle._taken = AsyncioWaiter(running_loop())
        self._queue.put(handle)
        await taken.future
        if handle._refusal is not None:
            raise handle._refusal
        return handle

    def dispatch_many(self, events: Iterable[AnyEvent]) -> PortalHandle:
        """Dispatch many events together, as `GoEvent.dispatch_many`; return at once.

        It keeps its place among the events of each name, and waits for room as `dispatch` does. A
        batch may be larger than that room.

        Args:
            events: The events. The iterable is read in this thread.

        Returns:
            One handle for all of them.

        Raises:
            BusClosed: The portal is closed, or its bus has failed; the cause is the failure.
            BusForked: This process is a fork of the portal's.
            RuntimeError: This is the thread of the bus, or an asyncio loop runs here and the bus
                has not taken 10,000 events yet.
        """
        self._thread.check_process()
        handle = PortalHandle(self._thread, tuple(events), is_batch=True)
        self._queue.put_when_room(handle)
        return handle

    @overload
    def call(self, function: Callable[..., Awaitable[T]], *args: Any) -> T: ...
    @overload
    def call(self, function: Callable[..., T], *args: Any) -> T: ...
    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function in the bus's thread, and block this thread until it has returned.

        Use it for the other methods of the bus: `p.call(bus.snapshot)`, `p.call(bus.wait)`.

        Args:
            function: A function, or an `async def` for Trio.
            args: Its arguments.

        Raises:
            BusClosed: The portal is closed, or was closed before the function returned.
            BusForked: This process is a fork of the portal's.
            RuntimeError: This is the thread of the bus, or one that runs an asyncio loop.
            Exception: The exception of the function.
        """
        self._thread.check_blocking("call", "await call_async")
        call = PortalCall(function, args)
        self._queue.put(call)
        try:
            return call.result.result()
        except BaseException:
            if not call.result.done():
                self._thread.run_soon(call.scope.cancel)
            raise

    @overload
    async def call_async(self, function: Callable[..., Awaitable[T]], *args: Any) -> T: ...
    @overload
    async def call_async(self, function: Callable[..., T], *args: Any) -> T: ...
    async def call_async(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function in the bus's thread, and wait for it in an asyncio task.

        A cancelled wait cancels the function, and does not wait for its end.

        Args:
            function: A function, or an `async def` for Trio.
            args: Its arguments.

        Raises:
            BusClosed: The portal is closed, or was closed before the function returned.
            BusForked: This process is a fork of the portal's.
            RuntimeError: No asyncio loop runs here, or this is the thread of the bus.
            Exception: The exception of the function.
        """
        self._thread.check_process()
        running_loop()
        import asyncio

        call = PortalCall(function, args)
        self._queue.put(call)
        try:
            return await asyncio.shield(asyncio.wrap_future(call.result))
        except asyncio.CancelledError:
            self._thread.run_soon(call.scope.cancel)
            raise

    # -- the thread of the bus

    def _run(self) -> None:
        """Be the thread: run Trio and the bus until the portal is closed."""
        failure: BaseException | None = None
        try:
            trio.run(self._main)
        # Not swallowed: it leaves the `with` block, in another thread.
        except BaseException as error:  # noqa: BLE001
            failure = error
        self._pump.refuse_rest(failure)
        if not self._started.done():
            self._started.set_exception(failure or BusClosed("the bus has ended"))
        self._ended.set_result(None)

    async def _main(self) -> None:
        self._thread.note_token()
        # A `_close` that came too early to reach this run has set this before.
        if self._close_now:
            return
        with self._opening:
            async with self._bus:
                await self._serve()

    async def _serve(self) -> None:
        """Take items until the portal is closed, and then drain within the timeout of the bus."""
        left = 0.0
        async with trio.open_nursery() as self._nursery:
            self._queue.open()
            self._nursery.start_soon(self._run_pump)
            self._started.set_result(None)
            await self._closing.wait()
            self._queue.close()
            with trio.move_on_after(self._bus._config.close_timeout) as scope:
                await self._pumped.wait()
            left = max(0.0, scope.deadline - trio.current_time())
            # The calls and the events that still wait end with the drain.
            self._nursery.cancel_scope.cancel()
        await self._bus.close(0.0 if self._close_now else left)

    async def _run_pump(self) -> None:
        await self._pump.run()
        self._pumped.set()

    # -- opening and closing

    def _close(self, *, now: bool) -> None:
        """Ask the bus to close; with `now`, its listeners are cancelled, or its opening."""
        self._close_now = self._close_now or now
        # Before the run of Trio this reaches nothing; then `_main` sees `_close_now`.
        self._thread.run_soon(self._close_in_loop)

    def _close_in_loop(self) -> None:
        self._closing.set()
        if not self._close_now:
            return
        if self._nursery is None:
            self._opening.cancel()
            return
        self._nursery.cancel_scope.cancel()
        session = self._bus._session
        if session is not None and session._drain_scope is not None:
            session._drain_scope.deadline = trio.current_time()

    def _raise_failure(self, error: BaseException | None) -> None:
        """Raise the failure of the bus, unless the block has an error of its own."""
        failure = self._queue.failure
        if failure is None:
            return
        if error is None or isinstance(error, BusClosed):
            raise failure
        _log.error("the bus of a portal failed: %r", failure)

    def __enter__(self) -> Self:
        if loop_runs_here():
            raise RuntimeError("an asyncio loop runs in this thread: use `async with portal(bus)`")
        self._thread.start(self._run)
        try:
            self._started.result()
        except BaseException:  # the failure of the bus, or Ctrl-C
            self._close_and_wait(now=True)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._thread.is_forked:
            return  # the thread is that of the parent
        self._close_and_wait(now=error is not None)
        self._raise_failure(error)

    def _close_and_wait(self, *, now: bool) -> None:
        try:
            self._close(now=now)
            self._ended.result()
        except BaseException:  # Ctrl-C
            self._close(now=True)
            self._ended.result()
            raise
        finally:
            self._thread.join()  # it has nothing left to do

    async def __aenter__(self) -> Self:
        running_loop()
        self._thread.start(self._run)
        try:
            await self._in_asyncio(self._started)
        except BaseException:  # the failure of the bus, or a cancellation
            await self._in_asyncio(self._ended)
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._thread.is_forked:
            return
        self._close(now=error is not None)
        await self._in_asyncio(self._ended)
        self._raise_failure(error)

    async def _in_asyncio(self, future: Future[None]) -> None:
        """Wait for a future of the thread; a cancellation closes the bus at once, and waits on."""
        import asyncio

        wrapped = asyncio.wrap_future(future)
        cancelled: asyncio.CancelledError | None = None
        while not wrapped.done():
            try:
                await asyncio.wait([wrapped])
            except asyncio.CancelledError as error:
                cancelled = error
                self._close(now=True)
        if cancelled is not None:
            wrapped.exception()  # otherwise asyncio would log that nobody has looked at it
            raise cancelled
        wrapped.result()


def portal(bus: GoEvent, *, max_waiting: int = MAX_WAITING_EVENTS) -> Portal:
    """Run a bus in a thread of its own, for programs that do not run on Trio.

    The result is a context manager: `with` for programs of threads, `async with` for programs on
    asyncio. The block opens the bus and raises what opening raises. Its end closes the bus: the
    listeners have `Config.close_timeout` seconds to finish. After an exception in the block, and
    after Ctrl-C, they are cancelled at once. If the bus fails meanwhile, later dispatches raise
    `BusClosed`, and the block raises the failure.

    A process that forks while the portal is open, as `gunicorn --preload` does, cannot use it in
    the child: all methods raise `BusForked` there. Make the portal in each worker.

    Args:
        bus: The bus. Nothing else may open it.
        max_waiting: How many events the bus may not have taken yet before `dispatch` waits.

    Raises:
        ValueError: `max_waiting` is below 1.

    Example:
        >>> bus = GoEvent()
        >>> @bus.listener("order.paid")
        ... async def send_invoice(event: Event) -> None: ...
        >>> with portal(bus) as p:
        ...     p.dispatch(Event("order.paid", {"order_id": 7})).wait()
    """
    return Portal(bus, max_waiting=max_waiting)
