"""The thread port: lets other threads dispatch on an open bus, and ask for its snapshot.

`GoEvent.dispatch_from_thread` and `snapshot_from_thread` call it on the foreign thread. An event is
dispatched in a task of the bus's nursery, and the thread is blocked until the dispatch has
returned. The session opens the port with the bus and closes it before the nursery ends, so that no
thread stays blocked.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any, TypeVar

import trio
from trio.lowlevel import TrioToken

from .._errors import BusClosed
from .._handle import DispatchHandle

if TYPE_CHECKING:
    from concurrent.futures import Future

T = TypeVar("T")


class ThreadPort:
    """Accepts events from other threads, with one task of the bus's nursery for each."""

    def __init__(
        self,
        token: TrioToken,
        nursery: trio.Nursery,
        dispatch: Callable[[Any], Awaitable[DispatchHandle]],
    ) -> None:
        self._token = token
        self._nursery = nursery
        self._dispatch = dispatch
        # Protects `_open` and `_waiting`, which both sides use.
        self._lock = threading.Lock()
        # The calls whose event no task of the bus has yet.
        self._waiting: set[Future[DispatchHandle]] = set()
        # The scopes of the tasks that dispatch; used on the bus's thread only.
        self._scopes: set[trio.CancelScope] = set()
        self._open = True

    def dispatch(self, event: Any) -> DispatchHandle:
        """Dispatch on the bus's thread, and block the calling thread until that has returned.

        Raises:
            BusClosed: The bus is closed, or closed before it accepted the event.
            Exception: An exception of `dispatch`, unchanged.
        """
        from concurrent.futures import Future  # imported here: few programs use this port

        future: Future[DispatchHandle] = Future()
        with self._lock:
            if not self._open:
                raise BusClosed("the bus is closed and accepts no events")
            self._waiting.add(future)
        try:
            self._token.run_sync_soon(self._enter, future, event, copy_context())
        except trio.RunFinishedError:
            raise BusClosed("the event loop of the bus has ended") from None
        try:
            return future.result()
        finally:
            with self._lock:
                self._waiting.discard(future)

    def ask(self, question: Callable[[], T], timeout: float) -> T:
        """Call a function on the bus's thread, and block the calling thread until it has returned.

        It works while the bus closes, and afterwards for as long as the event loop runs.

        Args:
            question: The function; it must not wait.
            timeout: Seconds to wait for the event loop.

        Raises:
            TimeoutError: The event loop has not called the function in time, and never will.
            trio.RunFinishedError: The event loop has ended.
            Exception: An exception of the function, unchanged.
        """
        from concurrent.futures import Future

        future: Future[T] = Future()
        self._token.run_sync_soon(answer, future, question)
        try:
            return future.result(timeout)
        except TimeoutError:
            # An answer that came in this moment stays: then the future cannot be cancelled.
            if future.cancel():
                raise TimeoutError(
                    f"the event loop of the bus has not answered for {timeout:g} s"
                ) from None
        return future.result(timeout)

    def _enter(self, future: Future[DispatchHandle], event: Any, context: Context) -> None:
        # If the port has closed meanwhile, `close` has answered the future.
        if self._open:
            with self._lock:
                # From here on `_serve` answers the future.
                self._waiting.discard(future)
            context.run(self._nursery.start_soon, self._serve, future, event)

    async def _serve(self, future: Future[DispatchHandle], event: Any) -> None:
        with trio.CancelScope() as scope:
            self._scopes.add(scope)
            # A cancellation or a KeyboardInterrupt belongs to this task, not to the thread.
            failure: Exception = BusClosed("the bus ended before it accepted the event")
            handle: DispatchHandle | None = None
            try:
                handle = await self._dispatch(event)
            except Exception as error:  # noqa: BLE001 - the thread raises it
                failure = error
            finally:
                self._scopes.discard(scope)
                if future.done():
                    pass  # `close` has answered it
                elif handle is not None:
                    future.set_result(handle)
                else:
                    future.set_exception(failure)
                del failure  # the traceback keeps this frame

    def cancel(self) -> None:
        """Cancel the dispatches that still wait, for example for room or in middleware."""
        for scope in self._scopes:
            scope.cancel()

    def close(self) -> None:
        """Accept no more events, and raise `BusClosed` in the threads that wait for a task."""
        with self._lock:
            self._open = False
            waiting = tuple(self._waiting)
        for future in waiting:
            if not future.done():
                future.set_exception(BusClosed("the bus closed before it accepted the event"))


def answer(future: Future[T], question: Callable[[], T]) -> None:
    """Answer a question of another thread, unless that thread waits no longer."""
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = question()
    except Exception as error:  # noqa: BLE001 - the thread raises it
        future.set_exception(error)
    else:
        future.set_result(result)
