"""`python -m benchmarks docs`: writes figures into the README, the docs and the charts.

Each figure that they show stands between two markers and comes from `benchmarks/figures.json`. A
test compares the pages with it, so no figure is older than the run that its page names.
"""

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.brokers.faststream.rows import FASTSTREAM, FLUSHING, ROWS
from benchmarks.codec import GOEVENT, JSON, MSGSPEC
from benchmarks.core.contenders import BY_NAME as CONTENDERS
from benchmarks.core.runner import SUBJECT
from benchmarks.report.brokers import report_console
from benchmarks.report.chaos import chaos_limits, chaos_table, reduced_runs
from benchmarks.report.charts import Bar, Group, chart
from benchmarks.report.codec import SIZES_IN_DOCS, codec_table
from benchmarks.report.costs import (
    conversations_table,
    page_cost,
    portal_table,
    scrape_table,
    telemetry_table,
)
from benchmarks.report.figures import load, reduced, save
from benchmarks.report.goals import goals_on_terminal, goals_table

ROOT = Path(__file__).resolve().parents[2]
PAGES = (
    ROOT / "README.md",
    ROOT / "docs/operate/performance.md",
    ROOT / "docs/operate/guarantees-tested.md",
    ROOT / "docs/start/for-faststream-users.md",
    ROOT / "docs/use/conversations.md",
    ROOT / "docs/use/other-frameworks.md",
    ROOT / "docs/operate/observe.md",
    ROOT / "docs/operate/live-page.md",
)
CHARTS = ROOT / "docs/img/charts"
SUITES = (
    *("kernel", "codec", "redis", "streams", "brokers"),
    *("conversations", "telemetry", "scrape", "portal", "web"),
)
"""The suites whose figures stand in the pages, beside those of the chaos."""
PART = re.compile(r"<!-- figures: ([\w-]+) -->\n.*?<!-- end -->", re.DOTALL)

LIBRARIES = {
    SUBJECT: "goevent",
    "pyee": "pyee",
    "psygnal": "psygnal",
    "blinker": "blinker",
    "pykka": "pykka",
    "aiopubsub": "aiopubsub",
    "aiopubsub-hub": "aiopubsub's hub",
    "lahja": "lahja",
    "bubus": "bubus",
    "abxbus": "abxbus",
    "trio-tasks": "by hand, on Trio",
}
"""The contenders that the tables show, and their names there."""

KERNEL_TABLES: Mapping[str, Mapping[str, str]] = {
    "sync": {
        "sync-1": "1 listener",
        "sync-10": "10 listeners",
        "sync-100": "100 listeners",
        "sync_await-1": "1, `await dispatch`",
        "raises-1": "1 that raises",
    },
    "wait": {
        "wait-1": "1 listener",
        "wait-10": "10 listeners",
        "suspend-10": "10 that suspend once",
    },
    "drain": {"drain-1": "1 listener", "drain-10": "10 listeners"},
    "come-and-go": {
        "come_and_go-100": "100 listeners",
        "come_and_go-1000": "1,000 listeners",
        "come_and_go-10000": "10,000 listeners",
    },
}
CHARTED = ("sync", "wait", "drain")
"""The tables of the kernel that have a chart."""
SUMMARY = (
    ("sync-10", "10 sync listeners, ns"),
    ("wait-10", "10 async listeners, dispatch and wait, ns"),
    ("drain-10", "10 async listeners, dispatch in bursts, ns"),
)
"""The workloads in the chart of the README."""
CODEC_BARS = (GOEVENT, MSGSPEC, JSON)
CODEC_CHART = ("flat:Event:1000", "nested:Event:10000")
START_UP = (
    ("import-1", 1e6, "ms", "`from goevent import GoEvent`, if Trio and msgspec are there"),
    ("open_and_close-1", 1e3, "µs", "opening and closing a bus"),
    ("snapshot-10000", 1e6, "ms", "`bus.snapshot()` of 10,000 listeners"),
)
"""A workload, the ns of its unit, the unit and the title."""

REDIS_ROWS = (
    ("redis", "receive", "pub/sub: receive and run a `def` listener, events/s"),
    ("redis", "publish", "pub/sub: publish and wait for the server, 64 tasks, events/s"),
    ("redis", "publish_alone", "pub/sub: publish and wait for the server, one task, events/s"),
    ("redis", "batches", "pub/sub: publish in batches of 100, events/s"),
    ("redis", "latency", "pub/sub: publish to a listener in another process, median µs"),
    ("streams", "consume", "Streams: read, run a `def` listener, acknowledge, events/s"),
    ("streams", "wait", "Streams: publish and wait, 64 tasks, events/s"),
    ("streams", "wait_alone", "Streams: publish and wait, one task, events/s"),
    ("streams", "batch", "Streams: publish in batches of 100, events/s"),
)
REDIS_PEERS = {
    "FastStream": ("FastStream", "faststream"),
    "redis.asyncio, no bus": ("redis.asyncio", "redis_asyncio"),
    "a bare socket on Trio": ("bare socket",),
}
BROKER_JOBS = {
    "receive": "receive and run a `def` listener",
    "publish": "publish and wait, 64 tasks",
    "batches": "publish in batches of 100",
}

ALT = {
    "sync": "Nanoseconds per dispatch to sync listeners, by library: the table has the figures.",
    "wait": "Nanoseconds per dispatch and wait with async listeners, by library.",
    "drain": "Nanoseconds per dispatch without a wait, by library.",
    "summary": "goevent beside other libraries: the tables have the figures.",
    "codec": "Nanoseconds per message: goevent's JSON codec, msgspec and the json module.",
    "redis": "Events per second over Redis: goevent, FastStream, redis.asyncio.",
    "brokers": "Events per second over the brokers of FastStream: goevent beside FastStream.",
}


def main(arguments: list[str]) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks docs",
        description="Write the figures into the README, the docs and the charts.",
    )
    for suite in SUITES:
        parser.add_argument(f"--{suite}", type=Path, metavar="FILE", help="its --json, taken anew")
    parser.add_argument(
        "--chaos",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="replaces its drivers",
    )
    chosen = vars(parser.parse_args(arguments))
    document = load()
    for suite in SUITES:
        if (path := chosen[suite]) is not None:
            document[suite] = reduced(suite, json.loads(path.read_text(encoding="utf-8")))
    for path in chosen["chaos"]:
        runs = reduced_runs(json.loads(path.read_text(encoding="utf-8")))
        document["chaos"] = document.get("chaos", {}) | runs
    save(document)
    for page in PAGES:
        page.write_text(written(page.read_text(encoding="utf-8"), document), encoding="utf-8")
    CHARTS.mkdir(exist_ok=True)
    for name, svg in charts(document).items():
        (CHARTS / f"{name}.svg").write_text(svg, encoding="utf-8")
    report_console().print(goals_on_terminal(document))
    return 0


def written(page: str, document: Mapping[str, Any]) -> str:
    """Return a page with its figures written anew."""
    found = parts(document)
    return PART.sub(
        lambda part: f"<!-- figures: {part[1]} -->\n\n{found[part[1]]}\n\n<!-- end -->", page
    )


def parts(document: Mapping[str, Any]) -> dict[str, str]:
    """Return the text of each part of the pages, under its name."""
    kernel = document["kernel"]["medians"]
    tables = {name: _kernel_table(kernel, columns) for name, columns in KERNEL_TABLES.items()}
    return {
        **tables,
        "peers": _peers(document["kernel"]["packages"]),
        "kernel-run": _run(document["kernel"]),
        "codec": table(codec_table(document["codec"]["medians"])),
        "codec-run": _run(document["codec"]),
        "redis-run": _run(document["redis"]),
        "brokers-run": _run(document["brokers"]),
        "memory": (
            f"A queued event with its handle takes {kernel['queued-1'][SUBJECT]:,.0f} bytes. An "
            f"idle async listener takes {kernel['idle_names-1'][SUBJECT]:,.0f} bytes."
        ),
        "start-up": _start_up(kernel),
        "left-out": _left_out(),
        "goals": table(goals_table(document)),
        "beside-faststream": _beside_faststream(document["brokers"]["medians"]),
        "actors": _actors(kernel),
        "names": _names(kernel),
        "redis": _redis_table(document),
        "brokers": _brokers_table(document["brokers"]["medians"]),
        "conversations": table(conversations_table(document["conversations"]["medians"])),
        "conversations-run": _run(document["conversations"]),
        "portal": table(portal_table(document["portal"]["medians"])),
        "portal-run": _run(document["portal"]),
        "telemetry": table(telemetry_table(document["telemetry"]["cpu"])),
        "telemetry-run": _run(document["telemetry"]),
        "scrape": table(scrape_table(document["scrape"]["medians"])),
        "scrape-run": _run(document["scrape"]),
        "page": f"{page_cost(document['web']['medians'])} {_run(document['web'])}",
        "chaos": table(chaos_table(document["chaos"])),
        "chaos-limits": chaos_limits(document["chaos"]),
    }


def charts(document: Mapping[str, Any]) -> dict[str, str]:
    """Return each chart under its name."""
    kernel = document["kernel"]["medians"]
    groups = {
        name: [
            _group(_chart_title(title), kernel[workload], LIBRARIES)
            for workload, title in KERNEL_TABLES[name].items()
            if len(kernel.get(workload, {})) > 1
        ]
        for name in CHARTED
    }
    groups["summary"] = [
        *(_group(title, kernel[workload], LIBRARIES) for workload, title in SUMMARY),
        *(
            _group(_chart_title(title), _redis_medians(document, suite, job))
            for suite, job, title in REDIS_ROWS[:2]
        ),
    ]
    groups["codec"] = _codec_groups(document["codec"]["medians"])
    groups["redis"] = [
        _group(_chart_title(title), _redis_medians(document, suite, job))
        for suite, job, title in _redis_rows(document)
    ]
    groups["brokers"] = [
        _group(f"{row.title}: {title.replace('`', '')}", medians)
        for name, row in ROWS.items()
        for job, title in BROKER_JOBS.items()
        if (medians := _broker_medians(document["brokers"]["medians"], name, job))
    ]
    return {name: chart(ALT[name], found) for name, found in groups.items()}


def _chart_title(title: str) -> str:
    """Return the title of a table's row as it fits above the bars."""
    short = title.replace("`", "").replace(" for the server", "")
    short = short.replace("read, run a def listener, acknowledge", "receive and acknowledge")
    return short.replace("publish to a listener in another process", "to another process")


def _group(
    title: str, medians: Mapping[str, float], names: Mapping[str, str] | None = None
) -> Group:
    known = names or {name: name for name in medians}
    bars = [
        Bar(label, medians[name], name == SUBJECT)
        for name, label in known.items()
        if name in medians
    ]
    return Group(title, bars)


def _run(suite: Mapping[str, Any]) -> str:
    rounds = "one round" if suite["rounds"] == 1 else f"{suite['rounds']} interleaved rounds"
    return (
        f"Taken on {suite['when']} with CPython {suite['python']} and Trio {suite['trio']}; "
        f"medians of {rounds}."
    )


def _peers(packages: Mapping[str, str]) -> str:
    versions = [f"{name} {packages[name]}" for name in LIBRARIES if name in packages]
    return f"Compared with {', '.join(versions)}."


def _ratio(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def _kernel_table(medians: Mapping[str, Any], columns: Mapping[str, str]) -> str:
    lines = [["", *columns.values()]]
    for name, label in LIBRARIES.items():
        cells = [_kernel_cell(medians.get(workload, {}), name) for workload in columns]
        if any(cells):
            lines.append([label, *cells])
    return table(lines)


def _kernel_cell(figures: Mapping[str, float], name: str) -> str:
    if name not in figures:
        return ""
    text = f"{figures[name]:,.0f}"
    return text if name == SUBJECT else f"{text} ({_ratio(figures[name] / figures[SUBJECT])})"


def _start_up(medians: Mapping[str, Any]) -> str:
    lines = [["", "time"]]
    for workload, ns, unit, title in START_UP:
        if workload in medians:
            lines.append([title, f"{medians[workload][SUBJECT] / ns:,.3g} {unit}"])
    return table(lines)


def _left_out() -> str:
    """Return the list of the libraries, with the work that each leaves out."""
    names = [name for name in LIBRARIES if name != SUBJECT]
    return "\n".join(f"- **{LIBRARIES[name]}**: {CONTENDERS[name].note}" for name in names)


def _beside_faststream(medians: Mapping[str, Any]) -> str:
    ratios = []
    for name in ("nats", "jetstream", "rabbit", "kafka"):
        found = _broker_medians(medians, name, "receive")
        if FASTSTREAM in found:
            ratio = _ratio(found[SUBJECT] / found[FASTSTREAM])
            ratios.append(f"{ROWS[name].title.partition(',')[0]} {ratio} times")
    return f"With the same broker and options, goevent receives {', '.join(ratios)} as fast."


def _codec_groups(medians: Mapping[str, Any]) -> list[Group]:
    groups = []
    for row in CODEC_CHART:
        for direction in ("encode", "decode"):
            found = medians[f"json:{row}:{direction}"]
            shape, _, size = row.split(":")
            title = f"{shape}, {SIZES_IN_DOCS[size]}, {direction}"
            groups.append(_group(title, {name: found[name] for name in CODEC_BARS}))
    return groups


def _actors(medians: Mapping[str, Any]) -> str:
    sizes = (1, 10, 100, 1_000, 10_000)
    lines = [["actors", "ns per delivery, with its wait"]]
    for size in sizes:
        lines.append([f"{size:,}", f"{medians[f'wait-{size}'][SUBJECT] / size:,.0f}"])
    return table(lines)


def _names(medians: Mapping[str, Any]) -> str:
    lines = [["registered names", "ns per dispatch", "a dictionary of functions"]]
    for workload, title in (
        ("names-100", "100"),
        ("few_names-100000", "100,000, of which 100 are in use"),
        ("names-100000", "100,000, all in use, in random order"),
    ):
        figures = medians[workload]
        lines.append([title, f"{figures[SUBJECT]:,.0f}", f"{figures['bare calls']:,.0f}"])
    return table(lines)


def _redis_medians(document: Mapping[str, Any], suite: str, job: str) -> dict[str, float]:
    medians = document[suite]["medians"][job]
    peers = {
        label: medians[name]
        for label, names in REDIS_PEERS.items()
        for name in names
        if name in medians
    }
    return {SUBJECT: medians[SUBJECT], **peers}


def _redis_rows(document: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    return [row for row in REDIS_ROWS if row[1] in document[row[0]]["medians"]]


def _redis_table(document: Mapping[str, Any]) -> str:
    names = (SUBJECT, *REDIS_PEERS)
    lines = [["", *names]]
    for suite, job, title in _redis_rows(document):
        medians = _redis_medians(document, suite, job)
        cells = [_round(medians[name]) if name in medians else "" for name in names]
        lines.append([title, *cells])
    return table(lines)


def _broker_medians(medians: Mapping[str, Any], name: str, job: str) -> dict[str, float]:
    found: dict[str, float] = medians.get(f"{name}:{job}", {})
    return {peer: found[peer] for peer in (SUBJECT, FASTSTREAM, FLUSHING) if peer in found}


def _brokers_table(medians: Mapping[str, Any]) -> str:
    lines = [["", SUBJECT, FASTSTREAM, FLUSHING]]
    for name, row in ROWS.items():
        for job, title in BROKER_JOBS.items():
            if not (found := _broker_medians(medians, name, job)):
                continue
            cells = [_round(found[SUBJECT])]
            for peer in (FASTSTREAM, FLUSHING):
                ratio = f" ({_ratio(found[SUBJECT] / found[peer])})" if peer in found else ""
                cells.append(f"{_round(found[peer])}{ratio}" if peer in found else "")
            lines.append([f"{row.title}: {title}", *cells])
    return table(lines)


def _round(value: float) -> str:
    """Return a figure with three digits that mean something."""
    return f"{float(f'{value:.3g}'):,.0f}"


def table(lines: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; the first line is its head."""
    head, *rest = (f"| {' | '.join(cells)} |" for cells in lines)
    return "\n".join([head, "|" + "---|" * len(lines[0]), *rest])
