"""The loop side of an open bus: the host of the adapter.

It sends arrivals and notices to Trio, each through a queue of its own, and receives the requests
of the Trio side burst by burst.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

from goevent import DriverConnectionError, DriverError

from .._adapter.contract import Adapter, Arrival, Decision, Outgoing
from .queues import ToTrioQueue

UNLIMITED = 1 << 30
LAST_WORDS = 0.75  # seconds to tell the last ends, as the bus ends


@dataclass(frozen=True, slots=True)
class Freed:
    """So many arrivals are with their listeners, and the broker hears no more of them."""

    count: int


@dataclass(frozen=True, slots=True)
class Report:
    """Something for the supervisor."""

    error: Exception
    event_name: str


@dataclass(frozen=True, slots=True)
class End:
    """The end of the bus."""

    error: DriverError


LoopNotice = Outgoing | Report | End
LoopRequest = Outgoing | Decision | Freed


class LoopSide:
    """The island's side of one open bus.

    Attributes:
        connected: False while the client tries to reach the broker; Trio may look.
    """

    def __init__(
        self,
        adapter: Adapter,
        broker: str,
        prefetch: int,
        arrivals: ToTrioQueue[Arrival],
        news: ToTrioQueue[LoopNotice],
    ) -> None:
        self.connected = False
        self._adapter = adapter
        self._broker = broker
        self._room = prefetch
        self._arrivals = arrivals
        self._news = news
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._decisions: list[Decision] = []
        self._telling = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    # -- as the host of the adapter

    async def deliver(self, arrival: Arrival) -> None:
        """Hand an arrival over, when there is room."""
        if self._room <= 0 or self._waiting:
            await self._turn()
        self._room -= 1
        self._arrivals.post(arrival)

    def capacity(self) -> int:
        """Return how many more may be handed over without waiting."""
        return 0 if self._waiting else max(0, self._room)

    async def wait_for_capacity(self) -> None:
        """Wait until there is room for one more."""
        if self.capacity() <= 0:
            await self._turn()
            self._wake()

    def report(self, error: Exception, event_name: str = "") -> None:
        """Tell the supervisor."""
        self._news.post(Report(error, event_name))

    def connection_changed(self, connected: bool, reason: str = "") -> None:
        """Take note of a connection that is lost, or back."""
        if connected == self.connected:
            return
        self.connected = connected
        if connected:
            text = f"connected to {self._broker} again"
        else:
            text = f"the connection to {self._broker} is lost"
        self.report(DriverConnectionError(f"{text}: {reason}" if reason else text))

    def fail(self, error: DriverError) -> None:
        """End the bus."""
        self.connected = False
        self._news.post(End(error))

    async def _turn(self) -> None:
        """Wait for room, first come, first served."""
        while self._room <= 0:
            future = asyncio.get_running_loop().create_future()
            self._waiting.append(future)
            try:
                await future
            except asyncio.CancelledError:
                self._waiting.remove(future)
                self._wake()  # it may have been woken, and then it is another's turn
                raise
            self._waiting.remove(future)

    def _wake(self) -> None:
        for future in list(self._waiting)[: self._room]:
            if not future.done():
                future.set_result(None)

    # -- what Trio sends

    def receive(self, burst: list[LoopRequest]) -> None:
        """Take over what has come from Trio."""
        outgoing: list[Outgoing] = []
        for request in burst:
            if isinstance(request, Outgoing):
                outgoing.append(request)
            elif isinstance(request, Decision):
                self._decisions.append(request)
                self._room += 1
            else:
                self._room += request.count
        if outgoing:
            self._start(self._publish(outgoing))
        if self._decisions and not self._telling.locked():
            self._start(self.tell())
        if self._waiting:
            self._wake()

    async def close(self, *, tells: bool) -> None:
        """Hold nobody back any more, as the bus ends, and tell the last ends.

        Args:
            tells: there is somebody to tell; not for long, as a broker that does not answer has to
                be left, too.
        """
        self._room += UNLIMITED
        self._wake()
        if tells and self.connected:
            try:
                async with asyncio.timeout(LAST_WORDS):
                    await self.tell()
            except TimeoutError:
                for task in [*self._tasks]:
                    task.cancel()

    async def tell(self) -> None:
        """Tell the broker all that there is to tell; returns when it is told."""
        async with self._telling:
            while self._decisions:
                decisions, self._decisions = self._decisions, []
                try:
                    await self._adapter.settle(decisions)
                except DriverError as error:
                    self.report(error)

    async def _publish(self, outgoing: list[Outgoing]) -> None:
        await self._adapter.publish(outgoing)

    def _start(self, work: object) -> None:
        if not asyncio.iscoroutine(work):
            raise TypeError("only a coroutine can be started")
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.fail(DriverError(f"the driver for {self._broker} has failed: {error!r}"))
