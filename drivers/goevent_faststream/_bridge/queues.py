"""The two queues between the asyncio loop and Trio, with one wake-up for a burst of items.

Theory of operation
-------------------

To wake the other thread means to write to a socket, after which the interpreter soon switches
threads. So a queue does not wake it for the first item of a burst. It waits for the end of the
current step of its own scheduler, and wakes the other side then, or earlier once `LONG_BURST_ITEMS`
items are there and the other side may as well begin. While the other side is awake or about to be
woken, appending costs nothing more: the receiver takes all items before it sleeps again.

Each queue has two flags. `_announced` says that a wake-up is planned, `_called` that it has been
sent. The receiver clears both before it looks at the items for the last time. An item that is
appended earlier is seen by that look, and one that is appended later finds the flags cleared and
plans a wake-up. So no item is left behind without a wake-up.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Generic, TypeVar

import trio

T = TypeVar("T")

LONG_BURST_ITEMS = 100


class ToTrioQueue(Generic[T]):
    """Items from the loop for one task of Trio.

    Attributes:
        items: The items. The receiving task takes them from the left.
    """

    def __init__(self, token: trio.lowlevel.TrioToken) -> None:
        self.items: deque[T] = deque()
        self._token = token
        self._announced = False
        self._called = False
        self._woken = trio.Event()

    def post(self, item: T) -> None:
        """Append an item; called on the loop side. Never blocks."""
        items = self.items
        items.append(item)
        if not self._announced:
            self._announced = True
            try:
                asyncio.get_running_loop().call_soon(self._call)
            except RuntimeError:
                # A report from a garbage collection in another thread, which has no loop.
                self._call()
        elif len(items) >= LONG_BURST_ITEMS and not self._called:
            self._call()

    def _call(self) -> None:
        if not self._called:
            self._called = True
            # Garbage of the loop may be collected, and report something, after the end of Trio.
            with suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self._wake)

    def _wake(self) -> None:
        self._woken.set()

    async def wait(self) -> None:
        """Wait until there are items; always a checkpoint. Called by the one receiving task."""
        items = self.items
        if items:
            await trio.lowlevel.checkpoint()
        while not items:
            # The order matters: clear the flags, then look again.
            self._called = self._announced = False
            if not items:
                await self._woken.wait()
                self._woken = trio.Event()


class ToLoopQueue(Generic[T]):
    """Items from Trio for the loop.

    Args:
        receive: Called on the loop with all items of a burst.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, receive: Callable[[list[T]], None]) -> None:
        self._items: deque[T] = deque()
        self._loop = loop
        self._receive = receive
        self._announced = False
        self._called = False
        self._idle = trio.lowlevel.ParkingLot()

    def post(self, item: T) -> None:
        """Append an item; called in Trio's thread. Never blocks; dropped if the loop has ended."""
        self._items.append(item)
        if not self._announced:
            self._announced = True
            self._idle.unpark()
        elif len(self._items) >= LONG_BURST_ITEMS:
            self._call()

    def post_all(self, items: Iterable[T]) -> None:
        """Append items, which the loop gets together; called in Trio's thread. Never blocks."""
        # One call of `extend` keeps the other thread from taking a part of them.
        self._items.extend(items)
        if not self._announced:
            self._announced = True
            self._idle.unpark()
        elif len(self._items) >= LONG_BURST_ITEMS:
            self._call()

    async def wake_loop(self) -> None:
        """Wake the loop for posted items, until cancelled.

        Trio runs this task after the tasks that are about to post in the current step.
        """
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
        """Hand all items to `receive`; called on the loop side."""
        # The order matters: clear the flags, then look at the items.
        self._called = self._announced = False
        items = self._items
        burst: list[T] = []
        while items:
            burst.append(items.popleft())
        if burst:
            self._receive(burst)
