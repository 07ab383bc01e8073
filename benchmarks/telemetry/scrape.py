"""`python -m benchmarks scrape`: the cost of a scrape by Prometheus.

For a bus with many listeners, each with an event name of its own, it prints the time of a scrape by
each way, and the longest pause of the event loop during a scrape. A task that does nothing but
yield measures the pauses: the time between two of its steps. Both are CPU time of the process, so
that other processes on the machine do not count; the row without a scrape shows the smallest pause
that can be measured. Each figure is the median of the scrapes, with the best one in brackets. The
JSON has microseconds.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from statistics import median
from time import process_time
from urllib.request import urlopen

import trio
from prometheus_client import CollectorRegistry, start_http_server

from benchmarks.brokers.harness import number_of_rounds, suite_parser
from benchmarks.report.brokers import write_figures
from goevent import Event, GoEvent
from goevent.telemetry.prometheus import SnapshotCollector, metrics_page

SIZES = (1_000, 10_000)
SCRAPES_PER_ROUND = 5
IDLE_SECONDS = 0.01

Scrape = Callable[[], Awaitable[object]]


@dataclass
class Figures:
    """The figures of one way to scrape, in seconds, one of each per round."""

    times: list[float] = field(default_factory=list[float])
    pauses: list[float] = field(default_factory=list[float])

    def __str__(self) -> str:
        return "   ".join(
            f"{name} {1e3 * median(values):7.2f} ms ({1e3 * min(values):.2f})"
            for name, values in (("takes", self.times), ("longest pause", self.pauses))
        )


@dataclass
class Ticker:
    """A task that yields again and again; `longest` is the longest time between two steps."""

    longest: float = 0.0

    async def run(self) -> None:
        last = process_time()
        while True:
            await trio.lowlevel.checkpoint()
            now = process_time()
            self.longest = max(self.longest, now - last)
            last = now


async def ignore(_: object) -> None:
    """Do nothing with an event."""


async def filled(bus: GoEvent, size: int) -> None:
    """Give a bus listeners, and each of them one event."""
    bus.subscribe(lambda _: None, "inline")
    for number in range(size):
        bus.subscribe(ignore, f"orders.n{number}", name=f"billing.listener_{number}")
        bus.dispatch_nowait(Event(f"orders.n{number}"))
    await bus.wait()


async def measure(size: int, rounds: int) -> dict[str, Figures]:
    """Return the figures of each way for a bus of a size."""
    bus = GoEvent()
    registry = CollectorRegistry()
    collector = SnapshotCollector(bus)
    registry.register(collector)
    server, thread = start_http_server(0, "127.0.0.1", registry=registry)
    url = f"http://127.0.0.1:{server.server_port}/metrics"

    def get() -> bytes:
        with urlopen(url) as response:
            return bytes(response.read())

    async def take_snapshot() -> None:
        bus.snapshot()

    ways: dict[str, Scrape] = {
        "no scrape": lambda: trio.sleep(IDLE_SECONDS),
        "bus.snapshot()": take_snapshot,
        "metrics_page(bus)": lambda: metrics_page(bus, registry=None),
        "collector.text(), thread": lambda: trio.to_thread.run_sync(collector.text),
        "start_http_server": lambda: trio.to_thread.run_sync(get),
    }
    figures = {way: Figures() for way in ways}
    ticker = Ticker()
    try:
        async with bus, trio.open_nursery() as nursery:
            await filled(bus, size)
            for _ in range(rounds):
                for way, scrape in ways.items():
                    start = process_time()
                    await scrape()
                    figures[way].times.append(process_time() - start)
            nursery.start_soon(ticker.run)
            for _ in range(rounds):
                for way, scrape in ways.items():
                    await trio.lowlevel.checkpoint()
                    ticker.longest = 0.0
                    await scrape()
                    await trio.lowlevel.checkpoint()
                    figures[way].pauses.append(ticker.longest)
            nursery.cancel_scope.cancel()
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    return figures


def main(arguments: list[str]) -> int:
    """Run the command line."""
    parser = suite_parser("scrape", "Measure scrapes by Prometheus.")
    parser.add_argument("--listeners", type=int, nargs="*", help="the sizes of the buses")
    chosen = parser.parse_args(arguments)
    taken: dict[str, dict[str, list[float]]] = {}
    for size in chosen.listeners or (SIZES[:1] if chosen.quick else SIZES):
        print(f"{size:,} listeners")
        found = trio.run(measure, size, number_of_rounds(chosen) * SCRAPES_PER_ROUND)
        for way, figures in found.items():
            print(f"  {way:26} {figures}")
            for part, seconds in (("time", figures.times), ("pause", figures.pauses)):
                taken.setdefault(f"{size}:{part}", {})[way] = [1e6 * each for each in seconds]
    if chosen.json:
        write_figures(chosen.json, taken)
    return 0
