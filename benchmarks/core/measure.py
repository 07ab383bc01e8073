"""One figure inside one process: warm up, calibrate, best of k, with the garbage collector on.

A body runs the operation `count` times and returns the seconds that it took. The plan decides the
counts. It is a generator, which a sync and an async loop drive.
"""

import gc
import tracemalloc
from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass
from typing import TypeAlias

Body: TypeAlias = Callable[[int], float]
AsyncBody: TypeAlias = Callable[[int], Awaitable[float]]


@dataclass(frozen=True)
class Effort:
    """The duration of the measurement in one process.

    Args:
        warm_up: Seconds of untimed running before the first timed loop.
        target: Seconds one timed loop should take.
        repeats: Timed loops; the best one counts.
        burst: Events that are dispatched before a drain is awaited.
        population: Objects over which memory is averaged.
    """

    warm_up: float
    target: float
    repeats: int
    burst: int
    population: int


FULL = Effort(warm_up=0.03, target=0.025, repeats=5, burst=3_000, population=10_000)
QUICK = Effort(warm_up=0.002, target=0.002, repeats=2, burst=300, population=1_000)


def _plan(effort: Effort) -> Generator[int, float, float]:
    count, spent = 1, 0.0
    while True:
        elapsed = yield count
        spent += elapsed
        if elapsed < effort.target / 4:
            count *= 2
        elif spent >= effort.warm_up:
            break
    count = max(1, round(count * effort.target / elapsed))
    best = float("inf")
    for _ in range(effort.repeats):
        elapsed = yield count
        best = min(best, elapsed / count)
    return best * 1e9


def measure(body: Body, effort: Effort) -> float:
    """Return the best time of one operation of `body`, in ns."""
    plan = _plan(effort)
    count = next(plan)
    while True:
        try:
            count = plan.send(body(count))
        except StopIteration as stop:
            return float(stop.value)


async def measure_async(body: AsyncBody, effort: Effort) -> float:
    """Return the best time of one operation of the async `body`, in ns."""
    plan = _plan(effort)
    count = next(plan)
    while True:
        elapsed = await body(count)
        try:
            count = plan.send(elapsed)
        except StopIteration as stop:
            return float(stop.value)


def traced_bytes() -> int:
    """Return the bytes of all live Python objects, after a full collection.

    The first call starts the tracing: call it once before the objects are made, once after.
    """
    if not tracemalloc.is_tracing():
        tracemalloc.start()
    gc.collect()
    return tracemalloc.get_traced_memory()[0]
