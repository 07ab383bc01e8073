"""The pump of a portal: the task that dispatches the events of the queue.

`Portal` runs it in its nursery. It keeps the order of the events of each name; the room's docstring
explains how.
"""

# The portal belongs to the bus: it uses the dispatcher and the end of handles directly.
# pyright: reportPrivateUsage=false

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import trio

from ._call import PortalCall
from ._handle import failures_of, key_of
from ._waiters import PortalWaker

if TYPE_CHECKING:
    from .._batch_handle import BatchHandle
    from .._bus import GoEvent
    from .._errors import EventError
    from .._handle import DispatchHandle
    from ._handle import PortalHandle
    from ._queue import PortalQueue
    from ._thread import BusThread


class PortalPump:
    """Dispatches the events of one portal, begins its calls, and tells handles how events end.

    All methods run in Trio's thread.
    """

    def __init__(self, bus: GoEvent, thread: BusThread, queue: PortalQueue) -> None:
        self._bus = bus
        self._queue = queue
        self._lock = thread.lock
        self._waker = PortalWaker(thread.lock)
        # By the key of the events: those that wait. The first one of each has a task, or is a batch
        # that is not the first one elsewhere.
        self._queued: dict[object, deque[PortalHandle]] = {}

    async def run(self) -> None:
        """Take the items of the queue, in order, until it is closed and empty.

        Return when each event that had to wait has been dispatched, too. A cancellation leaves the
        items that remain to `refuse_rest`.
        """
        dispatcher, queue = self._bus._dispatcher, self._queue
        items, max_untold = queue.items, max(1, queue.max_waiting // 2)
        async with trio.open_nursery() as nursery:
            while True:
                # Before the items are looked at: a later one then wakes the pump again.
                queue.expect_items()
                taken = 0
                while items:
                    await dispatcher.take_turn()
                    item = items.popleft()
                    if isinstance(item, PortalCall):
                        queue.count_taken(taken)
                        taken = 0
                        item.context.run(nursery.start_soon, item.run, queue.calls.discard)
                    elif self._take(item, nursery):
                        taken += 1
                        if taken >= max_untold:
                            queue.count_taken(taken)
                            taken = 0
                queue.count_taken(taken)
                if not queue.is_open:
                    return
                await queue.wait_for_items()

    def refuse_rest(self, failure: BaseException | None) -> None:
        """Refuse everything that the bus has not finished, after the run of Trio.

        Args:
            failure: The failure of the bus.
        """
        handles, calls = self._queue.end(failure)
        for handle in handles:
            self._refuse(handle, self._queue.refusal())
        for call in calls:
            call.refuse(self._queue.refusal())

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

        A cancellation leaves the events to `refuse_rest`.
        """
        batch: BatchHandle | None = None
        try:
            if handle._keys is None:
                self._accept(handle, await self._bus.dispatch(handle.event))
            else:
                batch = handle._inner = await self._bus.dispatch_many(handle.event)
        except Exception as error:  # noqa: BLE001 - the caller of `wait` raises it
            self._refuse(handle, error)
        self._queue.count_taken(handle._size)
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
            self._queue.count_taken(1)
        del self._queued[key]

    async def _finish_batch(self, handle: PortalHandle, batch: BatchHandle) -> None:
        await batch.wait()
        self._finish(handle, failures_of(batch))

    def _accept(self, handle: PortalHandle, inner: DispatchHandle) -> None:
        handle._inner = inner
        if handle._taken is not None:
            self._waker.wake([handle._taken])
        if inner._left <= 0:
            self._finish(handle, inner._failed())
        else:
            inner._when_done(lambda errors: self._finish(handle, errors))

    def _refuse(self, handle: PortalHandle, reason: Exception) -> None:
        handle._refusal = reason
        if handle._taken is not None:
            self._waker.wake([handle._taken])
        self._finish(handle, ())

    def _finish(self, handle: PortalHandle, errors: tuple[EventError, ...]) -> None:
        """Note the end of an event, and wake those that wait for it."""
        with self._lock:
            waiters = handle._finish(errors)
            self._queue.unfinished.discard(handle)
        if waiters:
            self._waker.wake(waiters)
