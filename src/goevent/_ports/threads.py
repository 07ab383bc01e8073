"""The way in for other threads."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextvars import Context, copy_context
from typing import Any

import outcome
import trio
from trio.lowlevel import TrioToken

from .._errors import BusClosed
from .._handle import DispatchHandle


class ThreadPort:
    """Takes events from foreign threads into an open bus, one task of its nursery for each."""

    def __init__(
        self,
        token: TrioToken,
        nursery: trio.Nursery,
        dispatch: Callable[[Any], Awaitable[DispatchHandle]],
    ) -> None:
        self._token = token
        self._nursery = nursery
        self._dispatch = dispatch
        self._lock = threading.Lock()
        self._waiting: set[Future[DispatchHandle]] = set()
        self._scopes: set[trio.CancelScope] = set()  # of the tasks that dispatch
        self._open = True

    def dispatch(self, event: Any) -> DispatchHandle:
        """Dispatch on the bus's thread, and block this one until that is done."""
        future: Future[DispatchHandle] = Future()
        with self._lock:
            if not self._open:
                raise BusClosed("the bus is closed and takes no events")
            self._waiting.add(future)
        try:
            self._token.run_sync_soon(self._enter, future, event, copy_context())
        except trio.RunFinishedError:
            raise BusClosed("the bus's event loop has ended") from None
        try:
            return future.result()
        finally:
            with self._lock:
                self._waiting.discard(future)

    def _enter(self, future: Future[DispatchHandle], event: Any, context: Context) -> None:
        if self._open:
            with self._lock:
                self._waiting.discard(future)  # `_serve` will tell what became of the event
            context.run(self._nursery.start_soon, self._serve, future, event)

    async def _serve(self, future: Future[DispatchHandle], event: Any) -> None:
        with trio.CancelScope() as scope:
            self._scopes.add(scope)
            result = await outcome.acapture(self._dispatch, event)
            self._scopes.discard(scope)
            if future.done():
                return
            if isinstance(result, outcome.Value):
                future.set_result(result.value)
            elif isinstance(result.error, Exception):
                future.set_exception(result.error)
            else:
                future.set_exception(BusClosed("the bus ended before it took the event"))
                result.unwrap()

    def cancel(self) -> None:
        """Give up the dispatches that still wait for something, middleware perhaps."""
        for scope in self._scopes:
            scope.cancel()

    def close(self) -> None:
        """Send everybody away who still waits; no thread stays blocked."""
        with self._lock:
            self._open = False
            waiting = tuple(self._waiting)
        for future in waiting:
            if not future.done():
                future.set_exception(BusClosed("the bus closed before it took the event"))
