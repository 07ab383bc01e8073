"""The channel of a tail: the events that a broker shows, on their way to the one who looks.

A driver that answers `tail` makes one `TailChannel` for each call, by `running_tail`. A task of the
driver puts events in; the caller of `tail` takes them out. The channel is bounded in events and in
bytes, because a tail must not use up the memory of a program that only looks.

Theory of operation. An event that finds the channel full of other events waits as the newest one,
in the place of the one that was the newest before; that one is counted as missed. The newest event
moves into the channel as soon as there is room, and has the count. So a reader that has caught up
knows of every event that it has missed, even if no further event is published.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import trio

from .._errors import DriverError
from .inspection import TailedEvent

MAX_TAILED_EVENTS = 1000
"""How many events wait for a slow reader of a tail."""

MAX_TAILED_BYTES = 8 << 20
"""How many bytes of data the waiting events may have together."""


class TailChannel(trio.abc.ReceiveChannel[TailedEvent]):
    """The events of one tail; any number of tasks of one Trio run may receive from it.

    Args:
        max_events: How many events wait for the reader, besides the newest one.
        max_bytes: How many bytes of data they may have together. A single event may have more.
    """

    def __init__(
        self, *, max_events: int = MAX_TAILED_EVENTS, max_bytes: int = MAX_TAILED_BYTES
    ) -> None:
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._events: deque[TailedEvent] = deque()
        self._bytes = 0
        # The newest event, while the channel is full; and how many before it were missed.
        self._newest: TailedEvent | None = None
        self._missed = 0
        self._changed = trio.Event()
        self._closed = False
        self._failure: DriverError | None = None

    @property
    def has_room(self) -> bool:
        """True if one more event can be put in."""
        return not self._events or (
            len(self._events) < self._max_events and self._bytes < self._max_bytes
        )

    def put_nowait(self, event: TailedEvent) -> None:
        """Put an event in; if the reader is too slow, the newest event so far is missed for it."""
        if self._closed:
            return
        if self._newest is not None:
            self._missed += 1 + self._newest.missed
        self._newest = event
        self._admit_newest()

    async def put(self, event: TailedEvent) -> None:
        """Put an event in; waits for room. If it is cancelled, the event is not in."""
        await trio.lowlevel.checkpoint_if_cancelled()
        while not self.has_room and not self._closed:
            await self._changed.wait()
        self.put_nowait(event)

    def fail(self, error: DriverError) -> None:
        """Let the reader get an error once the waiting events are taken."""
        self._failure = error
        self._notify()

    async def receive(self) -> TailedEvent:
        """Return the next event; waits for it. Always a checkpoint.

        Raises:
            DriverError: The tail cannot go on.
            trio.ClosedResourceError: The channel, or the block of the tail, has ended.
        """
        await trio.lowlevel.checkpoint()
        while not self._events or self._closed:
            if self._closed:
                raise trio.ClosedResourceError
            if self._failure is not None:
                raise self._failure
            await self._changed.wait()
        event = self._events.popleft()
        self._bytes -= len(event.data)
        self._admit_newest()
        self._notify()
        return event

    def close(self) -> None:
        """Take no more events, and forget those that wait."""
        self._closed = True
        self._events.clear()
        self._newest = None
        self._bytes = 0
        self._notify()

    async def aclose(self) -> None:
        """Close the channel; the tail itself ends with its block."""
        self.close()
        await trio.lowlevel.checkpoint()

    def _admit_newest(self) -> None:
        """Let the newest event in if there is room, with the count of the missed ones."""
        event = self._newest
        if event is None or not self.has_room:
            return
        self._newest = None
        if self._missed:
            event = replace(event, missed=event.missed + self._missed)
            self._missed = 0
        self._events.append(event)
        self._bytes += len(event.data)
        self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


TailWork = Callable[[TailChannel, Callable[[], None]], Awaitable[None]]
"""The task of a tail: it puts events into the channel until it is cancelled.

It calls its second argument once, when the broker has confirmed that it shows events from now on. A
`DriverError` after that goes to the reader.
"""


@asynccontextmanager
async def running_tail(
    work: TailWork,
    *,
    max_events: int = MAX_TAILED_EVENTS,
    max_bytes: int = MAX_TAILED_BYTES,
) -> AsyncGenerator[TailChannel]:
    """Run the task of a tail while the block lasts; the block begins when it has started.

    The task belongs to a nursery of the block, and is gone when the block has ended.

    Args:
        work: The task, a `TailWork`.
        max_events: How many events wait for the reader.
        max_bytes: How many bytes of data they may have together.

    Raises:
        DriverError: The task could not start.

    Example:
        ::

            def tail(self, pattern):
                async def show(channel, started):
                    async with subscription(pattern) as messages:
                        started()
                        async for message in messages:
                            channel.put_nowait(TailedEvent(event_name=..., data=...))

                return running_tail(show)
    """
    channel = TailChannel(max_events=max_events, max_bytes=max_bytes)
    failure: Exception | None = None

    async def run(task_status: trio.TaskStatus[None]) -> None:
        has_started = False

        def started() -> None:
            nonlocal has_started
            has_started = True
            task_status.started()

        try:
            await work(channel, started)
        except DriverError as error:
            if not has_started:
                raise
            channel.fail(error)

    async with trio.open_nursery() as nursery:
        try:
            await nursery.start(run)
            yield channel
        except Exception as error:  # noqa: BLE001 - raised again, outside of the nursery
            failure = error
        finally:
            channel.close()
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
