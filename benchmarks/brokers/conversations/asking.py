"""The loops of all contenders: some tasks that ask again and again, on asyncio or on Trio."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from statistics import median

import trio

from benchmarks.brokers.contender import Measured

WARM_UP_SECONDS = 0.3

Ask = Callable[[], Awaitable[object]]


class Latencies:
    """The time that each request takes.

    Attributes:
        seconds: These times, of the requests since `begin`.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.seconds: list[float] = []
        self._start = self._deadline = 0.0

    def begin(self, *, warm_up: bool) -> None:
        """Forget the requests so far."""
        self.seconds = []
        self._start = time.perf_counter()
        self._deadline = self._start + (WARM_UP_SECONDS if warm_up else self._seconds)

    async def repeat(self, ask: Ask) -> None:
        """Ask until the time is over."""
        while (start := time.perf_counter()) < self._deadline:
            await ask()
            self.seconds.append(time.perf_counter() - start)

    def rate(self) -> Measured:
        """Return the requests per second."""
        return Measured(len(self.seconds) / (time.perf_counter() - self._start))

    def middle(self) -> Measured:
        """Return the median time in us."""
        return Measured(1e6 * median(self.seconds))


async def ask_on_asyncio(ask: Ask, seconds: float, tasks: int) -> Latencies:
    """Ask from some tasks of asyncio."""
    latencies = Latencies(seconds)
    for warm_up in (True, False):
        latencies.begin(warm_up=warm_up)
        await asyncio.gather(*(latencies.repeat(ask) for _ in range(tasks)))
    return latencies


async def ask_on_trio(ask: Ask, seconds: float, tasks: int) -> Latencies:
    """Ask from some tasks of Trio."""
    latencies = Latencies(seconds)
    for warm_up in (True, False):
        latencies.begin(warm_up=warm_up)
        async with trio.open_nursery() as nursery:
            for _ in range(tasks):
                nursery.start_soon(latencies.repeat, ask)
    return latencies
