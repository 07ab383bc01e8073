"""The figures of conversations, the portal, telemetry, scrapes and the live page.

`pages` writes them into the docs. Each function takes the medians, or the CPU times, of one suite.
"""

from collections.abc import Mapping

Medians = Mapping[str, Mapping[str, float]]

PORTAL_WAYS = {
    "Trio": "`bus.dispatch` on Trio, without a portal",
    "thread": "the portal, from a thread",
    "asyncio": "the portal, from asyncio",
    "anyio": "anyio's blocking portal, from a thread",
}
CONVERSATION_JOBS = {
    "ask": "requests/s over Redis, 64 tasks",
    "ask_alone": "requests/s over Redis, one task",
    "ask_once": "one request over Redis, median µs",
    "ask_nats": "requests/s over NATS, 64 tasks",
    "wait_for_all": '`scope="all"` over Redis, 10 other buses, median µs',
    "request": "a request within one bus, µs",
    "stream": "an event in a stream, µs",
}
TELEMETRY_MODES = {
    "bare": "without middleware",
    "no-op tracer": "middleware without an SDK",
    "SDK": "middleware with an SDK and a batch exporter",
}
SCRAPE_WAYS = {
    "bus.snapshot()": "`bus.snapshot()`",
    "metrics_page(bus)": "`metrics_page(bus)`, in the event loop",
    "collector.text(), thread": "`collector.text()`, in a thread",
    "start_http_server": "`start_http_server` of prometheus-client",
}


def portal_table(medians: Medians) -> list[list[str]]:
    """Return the time of an event by each way."""
    lines = [["µs per event", "many at once", "one at a time, with its wait"]]
    for way, title in PORTAL_WAYS.items():
        cells = [medians[job].get(way) for job in ("many", "each")]
        lines.append([title, *("" if cell is None else f"{cell:,.1f}" for cell in cells)])
    return lines


def conversations_table(medians: Medians) -> list[list[str]]:
    """Return each figure of conversations, beside those of the peers of its job."""
    lines = [["", "goevent", "beside it"]]
    for job, title in CONVERSATION_JOBS.items():
        figures = medians[job]
        peers = [
            f"{name} {figure:,.0f}" if figure >= 100 else f"{name} {figure:,.1f}"
            for name, figure in sorted(figures.items())
            if name != "goevent"
        ]
        own = figures["goevent"]
        lines.append([title, f"{own:,.0f}" if own >= 100 else f"{own:,.1f}", ", ".join(peers)])
    return lines


def telemetry_table(cpu: Medians) -> list[list[str]]:
    """Return the CPU time of an event with each kind of telemetry."""
    peers = ("goevent", "FastStream")
    lines = [["µs of CPU per event", *peers]]
    for mode, title in TELEMETRY_MODES.items():
        cells = [cpu[mode].get(peer) for peer in peers]
        lines.append([title, *("" if cell is None else f"{cell:,.1f}" for cell in cells)])
    return lines


def scrape_table(medians: Medians) -> list[list[str]]:
    """Return the CPU time of a scrape, and the longest pause of the event loop meanwhile."""
    sizes = sorted({int(job.partition(":")[0]) for job in medians})
    lines = [["ms of CPU, and the longest pause", *(f"{size:,} listeners" for size in sizes)]]
    for way, title in SCRAPE_WAYS.items():
        cells = [
            " / ".join(f"{medians[f'{size}:{part}'][way] / 1000:.1f}" for part in ("time", "pause"))
            for size in sizes
        ]
        lines.append([title, *cells])
    return lines


def page_cost(medians: Medians) -> str:
    """Return the cost of the live page in a sentence."""
    share, lost = medians["share"]["page"], medians["throughput"]["page"]
    return (
        f"The page takes {max(0.0, share):.1f} % of a processor while the bus is nearly idle, and "
        f"{max(0.0, lost):.0f} % of the throughput of a busy one."
    )
