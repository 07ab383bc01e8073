"""A tail: the events that an adapter shows on the loop, for a reader in Trio.

The Trio side makes one `Tail` for each `tail` of the driver, and runs it beside the bus until the
reader leaves or the bus closes. The events cross in a queue of their own, apart from the arrivals.
Its bound is counted on the loop: an adapter that shows more waits in `show` until the reader has
taken some. So a slow reader holds back the broker, and never the listeners of the bus.

Any program may publish under a topic, subject or routing key that is no event name. Such a message
is no event, and is not shown.
"""

from __future__ import annotations

import asyncio

import trio

from goevent import BusForked, DriverConnectionError, DriverError, compile_pattern
from goevent.drivers import TailedEvent

from .._adapter.contract import TailsEvents
from .loop_thread import LoopThread
from .queues import ToTrioQueue

# The events that wait for a reader, and their bytes. One of any size passes if no other one waits.
MAX_WAITING_EVENTS = 1000
MAX_WAITING_BYTES = 16 << 20
# How many the reader takes before the loop hears of it, while more of them wait.
TAKEN_PER_CALL = MAX_WAITING_EVENTS // 4


class BridgedTail(trio.abc.ReceiveChannel[TailedEvent]):
    """The end of the reader; its `receive` raises the error of the adapter, if there was one."""

    def __init__(self, tail: Tail, events: trio.MemoryReceiveChannel[TailedEvent]) -> None:
        self._tail = tail
        self._events = events

    async def receive(self) -> TailedEvent:
        """Receive the next event.

        Raises:
            BusForked: The process is a fork of the one that opened the bus.
            DriverError: The broker shows no more events.
            trio.EndOfChannel: The bus has closed.
        """
        if self._tail.is_forked:
            raise BusForked
        try:
            return await self._events.receive()
        except trio.EndOfChannel:
            if self._tail.error is None:
                raise
            raise self._tail.error from None

    async def aclose(self) -> None:
        """Take no more events."""
        await self._events.aclose()


class Tail:
    """The events that match one pattern, from the loop to one reader.

    Args:
        broker: The name of the broker in errors.

    Attributes:
        events: The end of the reader.
        error: The error that has ended the tail.
        is_forked: Whether this process is a fork of the one that runs the loop.
    """

    def __init__(
        self, inspection: TailsEvents, broker: str, loop_thread: LoopThread, pattern: str
    ) -> None:
        self.error: DriverError | None = None
        self.is_forked = False
        self._inspection = inspection
        self._broker = broker
        self._loop_thread = loop_thread
        self._pattern = pattern
        self._token = trio.lowlevel.current_trio_token()
        self._scope = trio.CancelScope()
        self._settled = trio.Event()
        self._ended = trio.Event()
        self._is_started = False
        self._shown: ToTrioQueue[TailedEvent | None] = ToTrioQueue(self._token)
        self._send, receive = trio.open_memory_channel[TailedEvent](0)
        self.events = BridgedTail(self, receive)
        # On the loop side.
        self._free_events, self._free_bytes = MAX_WAITING_EVENTS, MAX_WAITING_BYTES
        self._turn = asyncio.Lock()
        self._room = asyncio.Event()

    # -- in Trio's thread

    async def run(self) -> None:
        """Show events until the reader leaves; raises nothing, for the bus goes on."""
        with self._scope:
            try:
                async with self._send, trio.open_nursery() as nursery:
                    nursery.start_soon(self._pass_on)
                    try:
                        await self._loop_thread.call(
                            self._inspection.tail, self._pattern, self._show, self._on_started
                        )
                    except DriverError as error:
                        self.error = error
                    except Exception as error:  # noqa: BLE001 - the reader gets it
                        self.error = DriverError(f"{self._broker} shows no more events: {error!r}")
                        self.error.__cause__ = error
                    else:
                        self.error = DriverError(f"{self._broker} shows no more events")
                    # The reader gets the events that came before the error, and then the error.
                    self._shown.post(None)
            finally:
                self._settled.set()
                self._ended.set()

    async def wait_started(self, seconds: float) -> None:
        """Wait until the broker has confirmed.

        Raises:
            DriverConnectionError: It has not confirmed in time, or the bus has closed.
            DriverError: The broker refuses it.
        """
        with trio.move_on_after(seconds) as limit:
            await self._settled.wait()
        if limit.cancelled_caught:
            raise DriverConnectionError(
                f"{self._broker} has not answered a request within {seconds:g} s"
            )
        if not self._is_started:
            raise self.error or DriverConnectionError(f"the bus of {self._broker} has closed")

    async def stop(self) -> None:
        """Show no more; returns when `run` has ended, and does not wait for the broker."""
        self._scope.cancel()
        with trio.CancelScope(shield=True):
            await self._ended.wait()

    def fork(self) -> None:
        """Show no more: this process is a fork of the one that runs the loop."""
        self.is_forked = True

    async def _pass_on(self) -> None:
        items = self._shown.items
        taken = taken_bytes = 0
        while True:
            await self._shown.wait()
            while items:
                event = items.popleft()
                if event is None:
                    return
                try:
                    await self._send.send(event)
                except trio.BrokenResourceError:
                    # The reader has closed its end.
                    self._scope.cancel()
                    return
                taken += 1
                taken_bytes += len(event.data)
                if taken >= TAKEN_PER_CALL or not items:
                    self._loop_thread.call_soon(self._free, taken, taken_bytes)
                    taken = taken_bytes = 0

    def _start(self) -> None:
        self._is_started = True
        self._settled.set()

    # -- on the loop side

    def _on_started(self) -> None:
        self._token.run_sync_soon(self._start)

    async def _show(self, event: TailedEvent) -> None:
        if not _is_event_name(event.event_name):
            return
        async with self._turn:
            while self._free_events <= 0 or self._free_bytes <= 0:
                self._room.clear()
                await self._room.wait()
            self._free_events -= 1
            self._free_bytes -= len(event.data)
            self._shown.post(event)

    def _free(self, events: int, event_bytes: int) -> None:
        self._free_events += events
        self._free_bytes += event_bytes
        self._room.set()


def _is_event_name(text: str) -> bool:
    try:
        compile_pattern(text)
    except ValueError:
        return False
    return "*" not in text
