"""`python -m benchmarks portal`: dispatch through the portal, beside dispatch on Trio.

All ways dispatch the same event to one listener with a mailbox. The ways take turns, round by
round, and the best round of each counts: a busy machine only makes a round slower.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio
from anyio.from_thread import start_blocking_portal

from goevent import Event, GoEvent
from goevent.portal import Portal, portal

EVENTS, QUICK_EVENTS = 4_000, 500
ROUNDS, QUICK_ROUNDS = 3, 1
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


WAYS: dict[str, Callable[[int], float]] = {
    f"Trio: dispatch, {PART} at once": on_trio,
    f"thread: portal, {PART} at once": from_thread,
    f"asyncio: portal, {PART} at once": in_asyncio(asyncio_many),
    "Trio: dispatch and wait": on_trio_each,
    "thread: portal, dispatch and wait": from_thread_each,
    "thread: anyio's portal, dispatch and wait": from_thread_by_anyio,
    "asyncio: portal, dispatch and await": in_asyncio(asyncio_each),
}


def main(arguments: list[str]) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks portal", description="Measure the portal."
    )
    parser.add_argument("--quick", action="store_true", help="smoke test")
    parser.add_argument("--json", metavar="FILE", help="also write JSON")
    chosen = parser.parse_args(arguments)
    count = QUICK_EVENTS if chosen.quick else EVENTS
    best = dict.fromkeys(WAYS, float("inf"))
    for _ in range(QUICK_ROUNDS if chosen.quick else ROUNDS):
        for name, way in WAYS.items():
            best[name] = min(best[name], way(count) / count)
    print(f"{'way':45} {'µs per event':>14} {'events/s':>12}")
    for name, seconds in best.items():
        print(f"{name:45} {seconds * MICROSECONDS:14.2f} {1 / seconds:12,.0f}")
    if chosen.json:
        Path(chosen.json).write_text(json.dumps(best, indent=2), encoding="utf-8")
    return 0
