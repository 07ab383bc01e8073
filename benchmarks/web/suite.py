"""`python -m benchmarks web`: the cost of the live page.

First the processor time that the page takes: a bus with 100 listeners, of which each has an event
in every period, with the page served and read by five readers from another process, and without.
Then the throughput of the same bus as it takes events as fast as it can, about 50,000 per second on
a quiet machine, in pairs of rounds with the page and without. The first figure holds on a busy
machine, too; the second one needs a quiet one.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial

import trio

from benchmarks.brokers.harness import number_of_rounds, suite_parser
from benchmarks.report.brokers import write_figures
from goevent import Config, Event, EventRegistry, GoEvent
from goevent.web import serve_http

LISTENERS = 100
READERS = 5
BATCH_EVENTS = 200
SECONDS, QUICK_SECONDS = 4.0, 0.2
REGISTRY = EventRegistry()


class Ticked(Event, name="bench.ticked", registry=REGISTRY):
    n: int


def make_bus() -> GoEvent:
    """Return a bus with listeners that do nothing."""
    bus = GoEvent(Config(registry=REGISTRY))

    async def listener(event: Ticked) -> None: ...

    for number in range(LISTENERS):
        bus.subscribe(listener, Ticked, name=f"listener {number}")
    return bus


@asynccontextmanager
async def watched(bus: GoEvent) -> AsyncGenerator[None]:
    """Serve the page to readers in another process while the body runs."""
    async with trio.open_nursery() as nursery:
        url: str = await nursery.start(serve_http, bus, "127.0.0.1:0")
        host, _, port = url.removeprefix("http://").rstrip("/").partition(":")
        command = [sys.executable, "-m", "benchmarks.web.readers", host, port, str(READERS)]
        run = partial(
            trio.run_process, command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, check=False
        )
        readers: trio.Process = await nursery.start(run)
        assert readers.stdin is not None
        assert readers.stdout is not None
        said = b""
        while b"ready" not in said:
            part = await readers.stdout.receive_some()
            if not part:
                raise RuntimeError("the readers have ended")
            said += part
        yield
        await readers.stdin.aclose()
        await readers.wait()
        nursery.cancel_scope.cancel()


async def work(bus: GoEvent, seconds: float) -> tuple[float, float]:
    """Dispatch for some seconds; return events per second of the processor and of the clock."""
    event, done = Ticked(n=1), 0
    began, used = time.perf_counter(), time.process_time()
    while time.perf_counter() - began < seconds:
        for _ in range(BATCH_EVENTS):
            await bus.dispatch(event)
        await bus.wait()
        done += BATCH_EVENTS
    return done / (time.process_time() - used), done / (time.perf_counter() - began)


async def trickle(bus: GoEvent, seconds: float) -> float:
    """Dispatch ten events per second; return the share of a processor that the process takes."""
    began, used = time.perf_counter(), time.process_time()
    while (passed := time.perf_counter() - began) < seconds:
        await bus.dispatch(Ticked(n=1))
        await trio.sleep(0.1)
    return (time.process_time() - used) / passed


async def measure_page(rounds: int, seconds: float) -> list[float]:
    """Print the share of a processor that the page takes; return it for each round, in percent."""
    shares: list[float] = []
    for _ in range(rounds):
        async with make_bus() as bus:
            alone = await trickle(bus, seconds)
        async with make_bus() as bus, watched(bus):
            shares.append(100 * (await trickle(bus, seconds) - alone))
    print(
        f"the page with {READERS} readers takes {statistics.median(shares):.2f} % of a processor "
        f"(median of {rounds}, {LISTENERS} listeners)"
    )
    return shares


async def measure_throughput(rounds: int, seconds: float) -> list[float]:
    """Print the throughput with the page and without; return the cost of each pair, in percent."""
    costs: list[float] = []
    for number in range(rounds + 1):
        async with make_bus() as bus:
            alone = await work(bus, seconds)
        async with make_bus() as bus, watched(bus):
            seen = await work(bus, seconds)
        if number == 0:
            continue  # warms up
        costs.append(100 * (1 - seen[0] / alone[0]))
        print(
            f"round {number}: {alone[1]:,.0f} events/s alone, {seen[1]:,.0f} with {READERS} readers"
            f"; by processor time {alone[0]:,.0f} and {seen[0]:,.0f}"
        )
    cost = statistics.median(costs)
    print(f"the page costs {cost:.1f} % of the throughput (median of {rounds} pairs)")
    return costs


def main(arguments: list[str]) -> int:
    """Run the command line."""
    parser = suite_parser("web", "Measure the live page.")
    parser.add_argument("--seconds", type=float, help="of each measurement")
    chosen = parser.parse_args(arguments)
    rounds = number_of_rounds(chosen)
    seconds = chosen.seconds or (QUICK_SECONDS if chosen.quick else SECONDS)
    taken = {
        "share": {"page": trio.run(measure_page, rounds, seconds)},
        "throughput": {"page": trio.run(measure_throughput, rounds, seconds)},
    }
    if chosen.json:
        write_figures(chosen.json, taken)
    return 0
