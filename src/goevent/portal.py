"""The portal: a bus in a thread of its own, for programs that do not run on Trio.

`Portal` owns the thread, the run loop of Trio in it and the open bus. Threads and asyncio tasks of
the program call its methods. It ends with its `with` or `async with` block.

Theory of operation. A call from outside appends to one queue. If no wake-up is under way, it also
wakes the *pump*, a task of the portal's nursery. So many events cost one wake-up. The pump takes
them in order, and never waits: an event that has to wait, for room in a mailbox for example, gets a
task of its own. Later events of the same name then queue behind that task, so they keep their
order, and an event of another name does not wait for them. A batch always gets a task. It begins
once it is the first one in the queue of each of its names. The end of an event is noted by its
handle in Trio's thread, without a task. Waiting threads are woken by an event of `threading`, and
the futures of one asyncio loop together, with one call of `call_soon_threadsafe`.

anyio's blocking portal does not serve here. It starts a task for each call, and Trio runs new tasks
in random order, so the events of one thread would not keep their order. Its caller waits for the
start of that task, which blocks an asyncio loop. After a fork, a call in the child waits forever.

Locks. `Portal._lock` protects what both sides use. It is held for a few steps, and never while
other code runs, except signal handlers: they may dispatch, so the lock is reentrant. A fork may
copy it while it is held. So every method looks for a fork first.
"""

# The portal belongs to the bus: it uses the dispatcher and the end of handles directly.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import inspect
import logging
import sys
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Generator, Iterable
from concurrent.futures import Future
from contextvars import Context, copy_context
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload

import trio

from ._batch_handle import BatchHandle
from ._bus import GoEvent
from ._errors import BusClosed, EventError
from ._events.event import AnyEvent
from ._handle import DispatchHandle

if TYPE_CHECKING:
    import asyncio

T = TypeVar("T")

MAX_WAITING_EVENTS = 10_000
"""The number of events that the bus may not have taken yet, before `dispatch` waits for it."""

_NO_ASYNCIO = (
    "await needs a running asyncio loop: use wait() in a thread; on Trio use the bus, not a portal"
)
_log = logging.getLogger("goevent")


class PortalHandle:
    """The progress of an event, or of a batch, that was dispatched through a portal.

    Threads call `wait`; asyncio tasks await the handle. Both return when every listener of the bus
    has finished the event, as `DispatchHandle.wait` does, and both raise if the bus refused it.

    Attributes:
        event: The event; the tuple of events for a batch.

    Example:
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
        "_portal",
        "_refusal",
        "_size",
        "_taken",
        "_waiters",
        "event",
    )

    def __init__(self, owner: Portal, event: Any) -> None:
        self.event: Any = event
        self._portal = owner
        # Middleware and contextual listeners see the context of the caller, such as its span.
        self._context: Context = copy_context()
        # The number of events, and the queues that a batch waits in; None for a single event.
        self._size = 1
        self._keys: tuple[object, ...] | None = None
        self._done = False
        self._errors: tuple[EventError, ...] = ()
        self._refusal: BaseException | None = None
        self._inner: DispatchHandle | BatchHandle | None = None
        # Those that wait until the event is taken, and until it is done.
        self._taken: AsyncioWaiter | None = None
        self._waiters: list[Waiter] | None = None

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
            self._portal._mark_seen(inner)
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
        self._portal._check_blocking("wait", "await the handle")
        waiter = ThreadWaiter()
        if self._portal._add_waiter(self, waiter):
            try:
                # `math.inf` means forever, as in Trio; a lock takes no such number.
                longest = None if timeout is None else min(timeout, threading.TIMEOUT_MAX)
                if not waiter.event.wait(longest):
                    raise TimeoutError(f"the event was not done within {timeout:g} s")
            finally:
                self._portal._remove_waiter(self, waiter)
        if self._refusal is not None:
            raise self._refusal

    def __await__(self) -> Generator[Any, None, Self]:
        """Wait in an asyncio task; a cancelled wait changes nothing for the event."""
        return self._wait_in_asyncio().__await__()

    async def _wait_in_asyncio(self) -> Self:
        self._portal._check_process()
        waiter = AsyncioWaiter(running_loop())
        if self._portal._add_waiter(self, waiter):
            try:
                await waiter.future
            finally:
                self._portal._remove_waiter(self, waiter)
        if self._refusal is not None:
            raise self._refusal
        return self

    def __repr__(self) -> str:
        state = "done" if self._done else "taken" if self._inner is not None else "waiting"
        return f"<PortalHandle {state}, {len(self._errors)} error(s)>"


class ThreadWaiter:
    """A thread that waits for a handle."""

    __slots__ = ("event",)

    def __init__(self) -> None:
        self.event: threading.Event = threading.Event()


class AsyncioWaiter:
    """An asyncio task that waits for a handle."""

    __slots__ = ("future", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop: asyncio.AbstractEventLoop = loop
        self.future: asyncio.Future[None] = loop.create_future()


Waiter = ThreadWaiter | AsyncioWaiter


class Portal:
    """A bus that runs in a thread of its own; made by `portal`.

    All methods may be called from any thread but that of the bus, and from asyncio tasks where they
    say so. Listeners run in the bus's thread, and use the bus itself.

    Args:
        bus: The bus. Nothing else may open it.
        max_waiting: How many events the bus may not have taken yet before `dispatch` waits.
    """

    def __init__(self, bus: GoEvent, *, max_waiting: int = MAX_WAITING_EVENTS) -> None:
        if max_waiting < 1:
            raise ValueError(f"max_waiting must be at least 1, not {max_waiting}")
        self._bus = bus
        self._max_waiting = max_waiting
        self._lock = threading.RLock()
        self._has_room = threading.Condition(self._lock)
        self._queue: deque[PortalHandle | PortalCall] = deque()
        self._untaken = 0
        self._awake = False
        self._is_open = False
        self._thread: threading.Thread | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        self._nursery: trio.Nursery | None = None
        self._work = trio.Event()
        self._closing = trio.Event()
        self._close_now = False
        self._opening = trio.CancelScope()
        self._pumped = trio.Event()
        # By the key of the events: those that wait. The first one of each has a task, or is a batch
        # that is not the first one elsewhere.
        self._queued: dict[object, deque[PortalHandle]] = {}
        self._calls: set[PortalCall] = set()
        self._unfinished: set[PortalHandle] = set()
        self._to_resolve: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
        self._started: Future[None] = Future()
        self._ended: Future[None] = Future()
        self._failure: BaseException | None = None

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
        self._check_process()
        handle = PortalHandle(self, event)
        with self._lock:
            if self._untaken >= self._max_waiting:
                self._wait_for_room()
            self._put(handle)
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
        self._check_process()
        handle = PortalHandle(self, event)
        taken = handle._taken = AsyncioWaiter(running_loop())
        with self._lock:
            self._put(handle)
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
        self._check_process()
        handle = PortalHandle(self, tuple(events))
        handle._size = len(handle.event)
        handle._keys = tuple(dict.fromkeys(key_of(event) for event in handle.event))
        with self._lock:
            if self._untaken >= self._max_waiting:
                self._wait_for_room()
            self._put(handle)
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
        self._check_blocking("call", "await call_async")
        call = PortalCall(function, args)
        with self._lock:
            self._put(call)
        try:
            return call.result.result()
        except BaseException:
            if not call.result.done():
                self._cancel(call)
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
        self._check_process()
        running_loop()
        import asyncio

        call = PortalCall(function, args)
        with self._lock:
            self._put(call)
        try:
            return await asyncio.shield(asyncio.wrap_future(call.result))
        except asyncio.CancelledError:
            self._cancel(call)
            raise

    def _put(self, item: PortalHandle | PortalCall) -> None:
        """Queue an item for the pump, and wake the pump; the caller holds the lock."""
        if not self._is_open or self._token is None:
            raise self._refusal()
        if self._thread is threading.current_thread():
            raise RuntimeError(
                "this is the thread of the portal's bus: use the bus itself, as bus.dispatch"
            )
        if isinstance(item, PortalHandle):
            self._untaken += item._size
            self._unfinished.add(item)
        else:
            self._calls.add(item)
        self._queue.append(item)
        if not self._awake:
            self._awake = True
            try:
                self._token.run_sync_soon(self._wake)
            except trio.RunFinishedError:
                # The bus has failed. `_end` gets the lock after the caller, and refuses the item.
                return

    def _wait_for_room(self) -> None:
        """Wait until the bus has taken an event; the caller holds the lock."""
        if self._thread is threading.current_thread():
            return  # `_put` refuses it
        if loop_runs_here():
            raise RuntimeError(
                f"the bus has not taken {self._untaken} events yet, and this thread runs an "
                "asyncio loop that must not stand still: use await p.dispatch_async(event)"
            )
        while self._is_open and self._untaken >= self._max_waiting:
            self._has_room.wait()

    def _refusal(self) -> BusClosed:
        if self._thread is None:
            return BusClosed("the portal is not open: use `with portal(bus) as p`")
        if self._failure is None:
            return BusClosed("the portal is closed and takes no events")
        failed = BusClosed(f"the bus of the portal has ended: {self._failure!r}")
        failed.__cause__ = self._failure
        return failed

    def _cancel(self, call: PortalCall) -> None:
        token = self._token
        if token is not None:
            try:
                token.run_sync_soon(call.scope.cancel)
            except trio.RunFinishedError:
                return  # then it has ended

    def _check_process(self) -> None:
        self._bus._dispatcher.check_process()

    def _check_blocking(self, method: str, instead: str) -> None:
        self._check_process()
        if self._thread is threading.current_thread():
            raise RuntimeError(f"{method} would block the thread of the portal's bus")
        if loop_runs_here():
            raise RuntimeError(f"{method} would block the asyncio loop of this thread: {instead}")

    # -- handles; the other side of their waits

    def _add_waiter(self, handle: PortalHandle, waiter: Waiter) -> bool:
        """Have a waiter woken when a handle is done; False if it is done already."""
        with self._lock:
            if handle._done:
                return False
            if handle._waiters is None:
                handle._waiters = []
            handle._waiters.append(waiter)
            return True

    def _remove_waiter(self, handle: PortalHandle, waiter: Waiter) -> None:
        self._check_process()
        with self._lock:
            if handle._waiters is not None and waiter in handle._waiters:
                handle._waiters.remove(waiter)

    def _mark_seen(self, inner: DispatchHandle | BatchHandle) -> None:
        """Tell the bus that the application has seen the errors, so that it does not log them."""
        self._check_process()
        token = self._token
        if token is not None:
            try:
                token.run_sync_soon(_look_at_errors, inner)
            except trio.RunFinishedError:
                return  # the bus has logged them at its end

    # -- the thread of the bus

    def _run(self) -> None:
        """Be the thread: run Trio and the bus until the portal is closed."""
        failure: BaseException | None = None
        try:
            trio.run(self._main)
        # Not swallowed: it leaves the `with` block, in another thread.
        except BaseException as error:  # noqa: BLE001
            failure = error
        self._end(failure)
        if not self._started.done():
            self._started.set_exception(failure or BusClosed("the bus has ended"))
        self._ended.set_result(None)

    async def _main(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        # A `_close` that has found no token has set this before.
        if self._close_now:
            return
        with self._opening:
            async with self._bus:
                await self._serve()

    async def _serve(self) -> None:
        """Take items until the portal is closed, and then drain within the timeout of the bus."""
        left = 0.0
        async with trio.open_nursery() as self._nursery:
            with self._lock:
                self._is_open = True
            self._nursery.start_soon(self._pump)
            self._started.set_result(None)
            await self._closing.wait()
            with self._lock:
                self._is_open = False
                self._has_room.notify_all()
            with trio.move_on_after(self._bus._config.close_timeout) as scope:
                await self._pumped.wait()
            left = max(0.0, scope.deadline - trio.current_time())
            # The calls and the events that still wait end with the drain.
            self._nursery.cancel_scope.cancel()
        await self._bus.close(0.0 if self._close_now else left)

    def _end(self, failure: BaseException | None) -> None:
        """Refuse everything that the bus has not finished; the thread ends."""
        with self._lock:
            self._is_open = False
            self._failure = failure
            self._has_room.notify_all()
            handles, calls = [*self._unfinished], [*self._calls]
            self._queue.clear()
        for handle in handles:
            self._refuse(handle, self._refusal())
        for call in calls:
            self._calls.discard(call)
            if not call.result.done():
                call.result.set_exception(self._refusal())

    def _wake(self) -> None:
        self._work.set()

    async def _pump(self) -> None:
        """Take the items of the queue, in order, until the portal closes and the queue is empty."""
        dispatcher, queue = self._bus._dispatcher, self._queue
        async with trio.open_nursery() as nursery:
            while True:
                # Before the queue is looked at: a later item then wakes the pump again.
                self._awake = False
                self._work = trio.Event()
                taken = 0
                while queue:
                    await dispatcher.take_turn()
                    item = queue.popleft()
                    if isinstance(item, PortalCall):
                        self._count_taken(taken)
                        taken = 0
                        item.context.run(nursery.start_soon, item.run, self)
                    elif self._take(item, nursery):
                        taken += 1
                        if taken >= self._max_waiting // 2:
                            self._count_taken(taken)
                            taken = 0
                self._count_taken(taken)
                if self._closing.is_set():
                    break
                await self._work.wait()
        self._pumped.set()

    def _take(self, handle: PortalHandle, nursery: trio.Nursery) -> bool:
        """Dispatch one event without waiting; False if it has to wait, as a batch always does."""
        if handle._keys is not None:
            for key in handle._keys:
                self._queued.setdefault(key, deque()).append(handle)
            self._begin_batch(handle, nursery)
            return False
        key = key_of(handle.event)
        if (behind := self._queued.get(key)) is not None:
            behind.append(handle)
            return False
        if self._dispatch_at_once(handle):
            return True
        self._queued[key] = deque([handle])
        self._begin(handle, (key,), nursery)
        return False

    def _dispatch_at_once(self, handle: PortalHandle) -> bool:
        """Dispatch one event, or refuse it; False if it has to wait."""
        try:
            inner = handle._context.run(self._bus._dispatcher._dispatch_at_once, handle.event)
        except Exception as error:  # noqa: BLE001 - the caller of `wait` raises it
            self._refuse(handle, error)
            return True
        if inner is None:
            return False
        self._accept(handle, inner)
        return True

    def _begin(self, handle: PortalHandle, keys: tuple[object, ...], nursery: trio.Nursery) -> None:
        """Give an event or a batch a task, in the context of its caller."""
        handle._context.run(nursery.start_soon, self._dispatch_waiting, handle, keys, nursery)

    def _begin_batch(self, batch: PortalHandle, nursery: trio.Nursery) -> None:
        """Begin a batch if it is the first one in each of its queues."""
        keys = batch._keys or ()
        if all(self._queued[key][0] is batch for key in keys):
            self._begin(batch, keys, nursery)

    async def _dispatch_waiting(
        self, handle: PortalHandle, keys: tuple[object, ...], nursery: trio.Nursery
    ) -> None:
        """Dispatch what has to wait, and then what waits behind it.

        A cancellation leaves the events to `_end`.
        """
        batch: BatchHandle | None = None
        try:
            if handle._keys is None:
                self._accept(handle, await self._bus.dispatch(handle.event))
            else:
                batch = handle._inner = await self._bus.dispatch_many(handle.event)
        except Exception as error:  # noqa: BLE001 - the caller of `wait` raises it
            self._refuse(handle, error)
        self._count_taken(handle._size)
        if batch is not None:
            nursery.start_soon(self._finish_batch, handle, batch)
        for key in keys:
            await self._advance(key, nursery)

    async def _advance(self, key: object, nursery: trio.Nursery) -> None:
        """Take the first one from a queue, and dispatch those that need not wait any more."""
        queue = self._queued[key]
        queue.popleft()
        # No checkpoint may come between the removal and the look at the next one: otherwise two
        # tasks could begin it.
        while queue:
            handle = queue[0]
            if handle._keys is not None:
                self._begin_batch(handle, nursery)
                return
            await self._bus._dispatcher.take_turn()
            if not self._dispatch_at_once(handle):
                self._begin(handle, (key,), nursery)
                return
            queue.popleft()
            self._count_taken(1)
        del self._queued[key]

    async def _finish_batch(self, handle: PortalHandle, batch: BatchHandle) -> None:
        await batch.wait()
        self._finish(handle, failures_of(batch))

    def _accept(self, handle: PortalHandle, inner: DispatchHandle) -> None:
        handle._inner = inner
        if handle._taken is not None:
            self._wake_waiters([handle._taken])
        if inner._left <= 0:
            self._finish(handle, inner._failed())
        else:
            inner._when_done(lambda errors: self._finish(handle, errors))

    def _refuse(self, handle: PortalHandle, reason: Exception) -> None:
        handle._refusal = reason
        if handle._taken is not None:
            self._wake_waiters([handle._taken])
        self._finish(handle, ())

    def _finish(self, handle: PortalHandle, errors: tuple[EventError, ...]) -> None:
        """Note the end of an event, and wake those that wait for it."""
        with self._lock:
            handle._errors = errors
            handle._done = True
            self._unfinished.discard(handle)
            waiters, handle._waiters = handle._waiters, None
        if waiters:
            self._wake_waiters(waiters)

    def _wake_waiters(self, waiters: list[Waiter]) -> None:
        """Wake threads, and the tasks of each loop together."""
        loops: list[asyncio.AbstractEventLoop] = []
        with self._lock:
            for waiter in waiters:
                if isinstance(waiter, ThreadWaiter):
                    waiter.event.set()
                elif waiter.loop in self._to_resolve:
                    self._to_resolve[waiter.loop].append(waiter.future)
                else:
                    self._to_resolve[waiter.loop] = [waiter.future]
                    loops.append(waiter.loop)
        for loop in loops:
            try:
                loop.call_soon_threadsafe(self._resolve_all, loop)
            except RuntimeError:
                # The loop is closed, and its tasks with it.
                with self._lock:
                    self._to_resolve.pop(loop, None)

    def _resolve_all(self, loop: asyncio.AbstractEventLoop) -> None:
        """Resolve the futures of a loop; called in its thread."""
        with self._lock:
            futures = self._to_resolve.pop(loop, [])
        for future in futures:
            if not future.done():
                future.set_result(None)

    def _count_taken(self, count: int) -> None:
        if count:
            with self._lock:
                self._untaken -= count
                self._has_room.notify(count)

    # -- opening and closing

    def _start(self) -> None:
        if self._thread is not None:
            raise RuntimeError("a portal is used once: make another one")
        self._check_process()
        # A daemon, so that a program which never leaves the block can end.
        self._thread = threading.Thread(
            target=copy_context().run, args=(self._run,), name="goevent portal", daemon=True
        )
        self._thread.start()

    def _close(self, *, now: bool) -> None:
        """Ask the bus to close; with `now`, its listeners are cancelled, or its opening."""
        self._close_now = self._close_now or now
        token = self._token
        if token is None:
            return  # `_main` looks at `_close_now` once it has set the token
        try:
            token.run_sync_soon(self._close_in_loop)
        except trio.RunFinishedError:
            return  # it has closed

    def _close_in_loop(self) -> None:
        self._closing.set()
        self._work.set()
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
        failure = self._failure
        if failure is None:
            return
        if error is None or isinstance(error, BusClosed):
            raise failure
        _log.error("the bus of a portal failed: %r", failure)

    def __enter__(self) -> Self:
        if loop_runs_here():
            raise RuntimeError("an asyncio loop runs in this thread: use `async with portal(bus)`")
        self._start()
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
        if self._bus._dispatcher.is_forked:
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
            if self._thread is not None:
                self._thread.join()  # it has nothing left to do

    async def __aenter__(self) -> Self:
        running_loop()
        self._start()
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
        if self._bus._dispatcher.is_forked:
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


class PortalCall:
    """A function that runs in the bus's thread for a caller outside."""

    __slots__ = ("_args", "_function", "context", "result", "scope")

    def __init__(self, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self._function = function
        self._args = args
        self.context: Context = copy_context()
        self.scope: trio.CancelScope = trio.CancelScope()
        self.result: Future[Any] = Future()

    async def run(self, owner: Portal) -> None:
        """Call the function, and answer the caller."""
        try:
            with self.scope:
                result = self._function(*self._args)
                if inspect.isawaitable(result):
                    result = await result
                self.result.set_result(result)
        except Exception as error:  # noqa: BLE001 - the caller raises it
            self.result.set_exception(error)
        finally:
            owner._calls.discard(self)
            if not self.result.done():
                self.result.set_exception(BusClosed("the portal closed before the call returned"))


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


def running_loop() -> asyncio.AbstractEventLoop:
    """Return the asyncio loop that runs in this thread.

    Raises:
        RuntimeError: There is none.
    """
    import asyncio

    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise RuntimeError(_NO_ASYNCIO) from None


def loop_runs_here() -> bool:
    """Tell whether an asyncio loop runs in this thread; asyncio is not imported for that."""
    asyncio = sys.modules.get("asyncio")
    return asyncio is not None and asyncio._get_running_loop() is not None


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
