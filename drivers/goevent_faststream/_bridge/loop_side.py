"""The loop side of an open bus: the host of the adapter.

It counts the arrivals that the bus holds, starts publishes and settlements as Trio asks for them,
and posts notices for Trio. All of it runs in the loop's thread.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

from goevent import DriverConnectionError, DriverError

from .._adapter.contract import (
    Adapter,
    Arrival,
    CarriesDirectMessages,
    Decision,
    DirectMessages,
    Outgoing,
    OutgoingDirect,
    failed_publish,
)
from .queues import ToTrioQueue

UNLIMITED_CAPACITY = 1 << 50
SETTLE_ON_CLOSE_SECONDS = 0.75


@dataclass(frozen=True, slots=True)
class Freed:
    """A request to free capacity, of a broker that expects no verdicts.

    Attributes:
        arrivals: The number of arrivals.
        body_bytes: The size of bodies in bytes. A large one is freed later than its arrival.
    """

    arrivals: int
    body_bytes: int


@dataclass(frozen=True, slots=True)
class LoopReport:
    """A notice for the supervisor."""

    error: Exception
    event_name: str


@dataclass(frozen=True, slots=True)
class LoopFailure:
    """The notice that the adapter cannot go on; the bus closes with the error."""

    error: DriverError


LoopNotice = Outgoing | LoopReport | LoopFailure
"""The items for Trio: an event whose result is known, a report, or the end."""

LoopRequest = Outgoing | OutgoingDirect | Decision | Freed
"""The items for the loop: an event or a direct message, a decision to carry out, freed capacity."""


class LoopSide:
    """The loop side of one open bus; the `AdapterHost` of its adapter.

    Args:
        broker: The name of the broker in reports.
        prefetch: The largest number of arrivals that the bus holds.
        prefetch_bytes: The largest size of their bodies together. An arrival is delivered while
            they are below it, so that one of any size passes.

    Attributes:
        connected: Whether the broker can be reached; Trio's thread may read it.
        direct_messages: The direct messages of the adapter; None if it carries none.
    """

    def __init__(
        self,
        adapter: Adapter,
        broker: str,
        prefetch: int,
        prefetch_bytes: int,
        arrivals: ToTrioQueue[Arrival],
        notices: ToTrioQueue[LoopNotice],
    ) -> None:
        self.connected = False
        self.direct_messages: DirectMessages | None = None
        if isinstance(adapter, CarriesDirectMessages):
            self.direct_messages = adapter.direct
        self._adapter = adapter
        self._broker = broker
        self._capacity = prefetch
        self._free_bytes = prefetch_bytes
        self._arrivals = arrivals
        self._notices = notices
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._decisions: list[Decision] = []
        self._settling = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    # -- the host of the adapter

    async def deliver(self, arrival: Arrival) -> None:
        """Post an arrival once there is capacity for it."""
        # A delivery that waits goes first, or arrivals would change their order.
        if self._capacity <= 0 or self._free_bytes <= 0 or self._waiting:
            await self._wait_in_order()
        self.deliver_nowait(arrival)
        if self._waiting:
            self._wake_first_waiting()

    def deliver_nowait(self, arrival: Arrival) -> None:
        """Post an arrival at once."""
        self._capacity -= 1
        self._free_bytes -= len(arrival.body)
        self._arrivals.post(arrival)

    def capacity(self) -> int:
        """Return how many arrivals can be delivered without waiting."""
        return 0 if self._waiting or self._free_bytes <= 0 else max(0, self._capacity)

    async def wait_for_capacity(self) -> None:
        """Wait until one more arrival can be delivered without waiting."""
        if self.capacity() <= 0:
            await self._wait_in_order()
            self._wake_first_waiting()

    def report(self, error: Exception, event_name: str = "") -> None:
        """Report an error to the supervisor."""
        self._notices.post(LoopReport(error, event_name))

    def connection_changed(self, connected: bool, reason: str = "") -> None:
        """Report that the connection is lost or back."""
        if connected == self.connected:
            return
        self.connected = connected
        if connected:
            text = f"connected to {self._broker} again"
        else:
            text = f"the connection to {self._broker} is lost"
        self.report(DriverConnectionError(f"{text}: {reason}" if reason else text))

    def fail(self, error: DriverError) -> None:
        """Close the bus with an error."""
        self.connected = False
        self._notices.post(LoopFailure(error))

    async def _wait_in_order(self) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        try:
            await future
        except asyncio.CancelledError:
            self._waiting.remove(future)
            # It may have been woken already: pass the wake-up to the next one.
            self._wake_first_waiting()
            raise
        self._waiting.remove(future)

    def _wake_first_waiting(self) -> None:
        """Wake the first delivery that waits, if there is capacity; it wakes the next one."""
        if self._waiting and self._capacity > 0 and self._free_bytes > 0:
            first = self._waiting[0]
            if not first.done():
                first.set_result(None)

    # -- requests of the Trio side

    def receive(self, burst: list[LoopRequest]) -> None:
        """Start the work that Trio asks for."""
        outgoing: list[Outgoing] = []
        direct: list[OutgoingDirect] = []
        for request in burst:
            # The adapter gets all events of a burst at once, in order.
            if isinstance(request, OutgoingDirect):
                direct.append(request)
            elif isinstance(request, Outgoing):
                outgoing.append(request)
            elif isinstance(request, Decision):
                self._decisions.append(request)
                self._capacity += 1
                self._free_bytes += len(request.arrival.body)
            else:
                self._capacity += request.arrivals
                self._free_bytes += request.body_bytes
        if direct:
            self._send_directly(direct)
        if outgoing:
            self._start(self._publish(outgoing))
        # One call of `settle` at a time; a call under way takes up the new decisions afterwards.
        if self._decisions and not self._settling.locked():
            self._start(self.settle_all())
        if self._waiting:
            self._wake_first_waiting()

    def _send_directly(self, burst: list[OutgoingDirect]) -> None:
        if self.direct_messages is not None:
            try:
                self.direct_messages.send(burst)
            except Exception as error:  # noqa: BLE001 - the messages fail with it, and not the bus
                for message in burst:
                    message.done(failed_publish(error))

    async def _publish(self, outgoing: list[Outgoing]) -> None:
        try:
            await self._adapter.publish(outgoing)
        except Exception as error:  # noqa: BLE001 - the events fail with it, and not the bus
            for each in outgoing:
                if not each.is_done:
                    each.done(failed_publish(error))

    async def close(self, *, settle: bool) -> None:
        """Stop holding back arrivals, and settle those that are decided.

        Args:
            settle: The broker expects verdicts. It gets them within a deadline, because a broker
                that does not answer must not keep the bus open.
        """
        self._capacity += UNLIMITED_CAPACITY
        self._free_bytes += UNLIMITED_CAPACITY
        self._wake_first_waiting()
        if settle and self.connected:
            try:
                async with asyncio.timeout(SETTLE_ON_CLOSE_SECONDS):
                    await self.settle_all()
            except TimeoutError:
                for task in [*self._tasks]:
                    task.cancel()

    async def settle_all(self) -> None:
        """Carry out all decisions; returns when the adapter has done so."""
        async with self._settling:
            while self._decisions:
                decisions, self._decisions = self._decisions, []
                try:
                    await self._adapter.settle(decisions)
                except DriverError as error:
                    self.report(error)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)

    def _task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.fail(DriverError(f"the driver for {self._broker} has failed: {error!r}"))
