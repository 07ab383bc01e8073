"""The queue of a portal: events and calls on their way into the thread of the bus.

Callers outside put items in; the pump takes them out, in Trio's thread. It limits the events that
the bus has not taken, and refuses items while the bus is not open.
"""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING

import trio

from .._errors import BusClosed
from ._call import PortalCall
from ._handle import PortalHandle
from ._waiters import loop_runs_here

if TYPE_CHECKING:
    from ._thread import BusThread

MAX_WAITING_EVENTS = 10_000
"""The number of events that the bus may not have taken yet, before `dispatch` waits for it."""


class PortalQueue:
    """The events and calls that the bus of one portal has not taken, and those not finished.

    Args:
        thread: The thread of the bus.
        max_waiting: How many events the bus may not have taken yet before a caller waits.

    Attributes:
        items: What the pump takes next, from the left.
        max_waiting: As above.
        unfinished: The handles of the events that are not done.
        calls: The calls that have not returned.
        failure: The failure of the bus; None while it runs and after a normal end.
    """

    def __init__(self, thread: BusThread, max_waiting: int) -> None:
        if max_waiting < 1:
            raise ValueError(f"max_waiting must be at least 1, not {max_waiting}")
        self._thread = thread
        self._lock = thread.lock
        self._has_room = threading.Condition(self._lock)
        self._untaken = 0
        self._is_open = False
        self._wake_is_under_way = False
        self._awake = trio.Event()
        self.items: deque[PortalHandle | PortalCall] = deque()
        self.max_waiting = max_waiting
        self.unfinished: set[PortalHandle] = set()
        self.calls: set[PortalCall] = set()
        self.failure: BaseException | None = None

    # -- callers outside

    def put_when_room(self, handle: PortalHandle) -> None:
        """Queue an event or a batch; block the thread while the bus has not taken enough events.

        Raises:
            Exception: As for `put`.
            RuntimeError: The caller would have to wait, and its thread runs an asyncio loop.
        """
        with self._lock:
            if self._untaken >= self.max_waiting:
                self._wait_for_room()
            self.put(handle)

    def put(self, item: PortalHandle | PortalCall) -> None:
        """Queue an item for the pump, and wake the pump; never wait.

        Raises:
            BusClosed: The portal is not open, or its bus has failed.
            RuntimeError: This is the thread of the bus.
        """
        with self._lock:
            if not self._is_open:
                raise self.refusal()
            if self._thread.is_current:
                raise RuntimeError(
                    "this is the thread of the portal's bus: use the bus itself, as bus.dispatch"
                )
            if isinstance(item, PortalHandle):
                self._untaken += item._size
                self.unfinished.add(item)
            else:
                self.calls.add(item)
            self.items.append(item)
            if not self._wake_is_under_way:
                self._wake_is_under_way = True
                # If the bus has failed, nothing is woken. `end` gets the lock after this caller,
                # and returns the item as one to refuse.
                self._thread.run_soon(self._wake)

    def _wait_for_room(self) -> None:
        """Wait until the bus has taken an event; the caller holds the lock."""
        if self._thread.is_current:
            return  # `put` refuses it
        if loop_runs_here():
            raise RuntimeError(
                f"the bus has not taken {self._untaken} events yet, and this thread runs an "
                "asyncio loop that must not stand still: use await p.dispatch_async(event)"
            )
        while self._is_open and self._untaken >= self.max_waiting:
            self._has_room.wait()

    def refusal(self) -> BusClosed:
        """Return the error for an item that the bus does not take, or has not finished."""
        if not self._thread.has_started:
            return BusClosed("the portal is not open: use `with portal(bus) as p`")
        if self.failure is None:
            return BusClosed("the portal is closed and takes no events")
        failed = BusClosed(f"the bus of the portal has ended: {self.failure!r}")
        failed.__cause__ = self.failure
        return failed

    # -- Trio's thread

    def open(self) -> None:
        """Take items from now on."""
        with self._lock:
            self._is_open = True

    def close(self) -> None:
        """Take no more items; callers that wait for room raise, and the pump wakes to see it."""
        with self._lock:
            self._is_open = False
            self._has_room.notify_all()
        self._wake()

    @property
    def is_open(self) -> bool:
        """True while callers may put items in."""
        return self._is_open

    def expect_items(self) -> None:
        """Have the next item wake the pump; the pump calls it before it looks at the items."""
        self._wake_is_under_way = False
        self._awake = trio.Event()

    async def wait_for_items(self) -> None:
        """Wait until an item was put in after `expect_items`, or the queue is closed."""
        await self._awake.wait()

    def _wake(self) -> None:
        self._awake.set()

    def count_taken(self, count: int) -> None:
        """Give the room of events to callers that wait for it.

        Args:
            count: The number of events that the bus has taken.
        """
        if count:
            with self._lock:
                self._untaken -= count
                self._has_room.notify(count)

    def end(self, failure: BaseException | None) -> tuple[list[PortalHandle], list[PortalCall]]:
        """Take no more items, after the run of Trio; return all that is not finished.

        Args:
            failure: The failure of the bus.
        """
        with self._lock:
            self._is_open = False
            self.failure = failure
            self._has_room.notify_all()
            self.items.clear()
            return [*self.unfinished], [*self.calls]
