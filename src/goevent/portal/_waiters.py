"""The waiters: threads and asyncio tasks that wait for a handle of a portal.

A `PortalHandle` makes them. The pump has `PortalWaker` wake them, from Trio's thread. asyncio is
imported only in a program that uses it.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio

_NO_ASYNCIO = (
    "await needs a running asyncio loop: use wait() in a thread; on Trio use the bus, not a portal"
)


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


PortalWaiter = ThreadWaiter | AsyncioWaiter


class PortalWaker:
    """Wakes the waiters of one portal, the tasks of one asyncio loop together.

    Args:
        lock: The lock of the portal.
    """

    def __init__(self, lock: threading.RLock) -> None:
        self._lock = lock
        # The loops that a call is under way to, with the futures that it will resolve.
        self._to_resolve: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}

    def wake(self, waiters: Sequence[PortalWaiter]) -> None:
        """Wake threads at once, and have asyncio loops wake their tasks."""
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
