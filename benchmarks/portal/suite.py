"""`python -m benchmarks portal`: dispatch through the portal, beside dispatch on Trio.

All ways dispatch the same event to one listener with a mailbox. The ways take turns, round by
round, and a figure is the median of the rounds.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from statistics import median

import trio
from anyio.from_thread import start_blocking_portal

from benchmarks.brokers.harness import number_of_rounds, suite_parser
from benchmarks.report.brokers import write_figures
from goevent import Event, GoEvent
from goevent.portal import Portal, portal

EVENTS, QUICK_EVENTS = 4_000, 500
PART = 500
"""The events that are under way at once, where they are not awaited one by one."""

MICROSECONDS = 1e6


class Measured(Event, name="benchmark.portal"):
    number: int


def measured_bus() -> GoEvent:
    bus = GoEvent()

    @bus.listener(Measured)
    async def listen(event: Measured) -> None: ...

    return bus


def on_trio(count: int) -> float:
    async def main() -> float:
        async with measured_bus() as bus:
            start = time.perf_counter()
            for number in range(0, count, PART):
                for each in range(number, number + PART):
                    await bus.dispatch(Measured(each))
                await bus.wait()
            return time.perf_counter() - start

    return trio.run(main)


def on_trio_each(count: int) -> float:
    async def main() -> float:
        async with measured_bus() as bus:
            start = time.perf_counter()
            for number in range(count):
                await (await bus.dispatch(Measured(number))).wait()
            return time.perf_counter() - start

    return trio.run(main)


def from_thread(count: int) -> float:
    with portal(measured_bus()) as p:
        start = time.perf_counter()
        for number in range(0, count, PART):
            handles = [p.dispatch(Measured(each)) for each in range(number, number + PART)]
            handles[-1].wait()
        return time.perf_counter() - start


def from_thread_each(count: int) -> float:
    with portal(measured_bus()) as p:
        start = time.perf_counter()
        for number in range(count):
            p.dispatch(Measured(number)).wait()
        return time.perf_counter() - start


def from_thread_by_anyio(count: int) -> float:
    bus = measured_bus()

    async def dispatch(event: Measured) -> None:
        await (await bus.dispatch(event)).wait()

    with start_blocking_portal("trio") as p, p.wrap_async_context_manager(bus):
        start = time.perf_counter()
        for number in range(count):
            p.call(dispatch, Measured(number))
        return time.perf_counter() - start


def in_asyncio(body: Callable[[Portal, int], Awaitable[None]]) -> Callable[[int], float]:
    def measure(count: int) -> float:
        async def main() -> float:
            async with portal(measured_bus()) as p:
                start = time.perf_counter()
                await body(p, count)
                return time.perf_counter() - start

        return asyncio.run(main())

    return measure


async def asyncio_many(p: Portal, count: int) -> None:
    for number in range(0, count, PART):
        handles = [p.dispatch(Measured(each)) for each in range(number, number + PART)]
        for handle in handles:
            await handle


async def asyncio_each(p: Portal, count: int) -> None:
    for number in range(count):
        await p.dispatch(Measured(number))


JOBS: dict[str, dict[str, Callable[[int], float]]] = {
    "many": {
        "Trio": on_trio,
        "thread": from_thread,
        "asyncio": in_asyncio(asyncio_many),
    },
    "each": {
        "Trio": on_trio_each,
        "thread": from_thread_each,
        "asyncio": in_asyncio(asyncio_each),
        "anyio": from_thread_by_anyio,
    },
}
"""Dispatches of many events at once, or of one at a time with its wait, by each way."""


def main(arguments: list[str]) -> int:
    """Run the command line."""
    chosen = suite_parser("portal", "Measure the portal.").parse_args(arguments)
    count = QUICK_EVENTS if chosen.quick else EVENTS
    taken: dict[str, dict[str, list[float]]] = {
        job: {way: [] for way in ways} for job, ways in JOBS.items()
    }
    for _ in range(number_of_rounds(chosen)):
        for job, ways in JOBS.items():
            for way, measure in ways.items():
                taken[job][way].append(MICROSECONDS * measure(count) / count)
    print(f"{'':16} {'µs per event':>14} {'events/s':>12}")
    for job, figures in taken.items():
        for way, values in figures.items():
            each = median(values)
            print(f"{job + ', ' + way:16} {each:14.2f} {MICROSECONDS / each:12,.0f}")
    if chosen.json:
        write_figures(chosen.json, taken)
    return 0
