"""The two queues between an asyncio loop and Trio, each with one wake-up for a burst."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

import trio

T = TypeVar("T")

LONG_BURST_ITEMS = 100  # at which the other side is woken before the burst has ended


class ToTrioQueue(Generic[T]):
    """What comes from the loop side and waits for one task of Trio.

    To call Trio is to write to a socket, at which the interpreter changes over to Trio's thread.
    So that does not happen for the first item of a burst, but when the step of the loop that lays
    them down has ended, or when so many lie there that Trio may as well begin.
    """

    def __init__(self, token: trio.lowlevel.TrioToken) -> None:
        self.items: deque[T] = deque()
        self._token = token
        self._announced = False
        self._called = False
        self._news = trio.Event()

    def post(self, item: T) -> None:
        """Lay something down; from the loop side."""
        items = self.items
        items.append(item)
        if not self._announced:
            self._announced = True
            try:
                asyncio.get_running_loop().call_soon(self._call)
            except RuntimeError:  # it comes from a collection of garbage in another thread
                self._call()
        elif len(items) >= LONG_BURST_ITEMS and not self._called:
            self._call()

    def _call(self) -> None:
        if not self._called:
            self._called = True
            self._token.run_sync_soon(self._arrive)

    def _arrive(self) -> None:
        self._news.set()

    async def wait(self) -> None:
        """Wait until there is something; nobody is called before the next time."""
        items = self.items
        if items:
            await trio.lowlevel.checkpoint()
        while not items:
            # In this order: what is laid down from here on calls, what was before is in `items`.
            self._called = self._announced = False
            if not items:
                await self._news.wait()
                self._news = trio.Event()


class ToLoopQueue(Generic[T]):
    """What comes from Trio and waits for the loop of the island.

    To call the loop is to write to a socket, too. So a task does it, after those that are about to
    post in this turn of Trio, or whoever posts so much that the island may as well begin.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, receive: Callable[[list[T]], None]) -> None:
        self._items: deque[T] = deque()
        self._loop = loop
        self._receive = receive
        self._announced = False
        self._called = False
        self._idle = trio.lowlevel.ParkingLot()

    def post(self, item: T) -> None:
        """Lay something down; from Trio. If the loop has ended, it is lost."""
        self._items.append(item)
        if not self._announced:
            self._announced = True
            self._idle.unpark()
        elif len(self._items) >= LONG_BURST_ITEMS:
            self._call()

    async def wake_loop(self) -> None:
        """Call the loop for what is posted, until cancelled; what is posted then waits."""
        while True:
            if self._announced:
                self._call()
            await self._idle.park()

    def _call(self) -> None:
        if not self._called:
            self._called = True
            try:
                self._loop.call_soon_threadsafe(self.flush)
            except RuntimeError:
                self._items.clear()

    def flush(self) -> None:
        """Take over all that there is; on the loop side."""
        # In this order: what is laid down from here on calls, what was before is in `items`.
        self._called = self._announced = False
        items = self._items
        burst: list[T] = []
        while items:
            burst.append(items.popleft())
        if burst:
            self._receive(burst)
