"""The table of the chaos run in the docs: one row for each driver, from the JSON of its run."""

from collections.abc import Mapping
from datetime import UTC, datetime
from statistics import median
from typing import Any

from benchmarks.chaos.drivers import DRIVERS

KINDS = {
    "consumer": "`kill -9` of a consumer",
    "freeze": "a frozen consumer",
    "server": "a killed broker",
    "stall": "a frozen broker",
    "outage": "an outage",
}
"""The interruptions, and their names behind a number and a multiplication sign."""

HEAD = [
    "",
    "accepted",
    "lost",
    "again",
    "of these unmarked",
    "out of order",
    "recovery, s: consumer",
    "broker",
    "CPU while down",
    "memory, MiB",
]


def reduced_runs(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of `figures.json` for the runs in a `--json` of the chaos."""
    return {name: _reduced(run) for name, run in document.items()}


def _reduced(run: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "when": datetime.now(UTC).date().isoformat(),
        "kills": run["kills"],
        "accepted": run["accepted"],
        "lost": len(run["lost"]),
        "again": run["duplicates"],
        "unmarked": len(run["unflagged"]),
        "overtaken": len(run["overtaken"]),
        "recoveries": {
            kind: [round(median(taken), 1), round(max(taken), 1)]
            for kind, taken in run["recoveries"].items()
        },
        "cpu": round(max(run["cpu_while_down"].values(), default=0.0), 1),
        "mib": round(run["peak_mib"]),
    }


def chaos_table(runs: Mapping[str, Any]) -> list[list[str]]:
    """Return the lines of the table; the first one is its head."""
    return [HEAD, *(_line(name, runs[name]) for name in DRIVERS if name in runs)]


def _line(name: str, run: Mapping[str, Any]) -> list[str]:
    driver = DRIVERS[name]
    return [
        driver.title,
        f"{run['accepted']:,}",
        f"{run['lost']:,}",
        f"{run['again']:,}",
        str(run["unmarked"]),
        str(run["overtaken"]) if driver.ordered else "",
        _recovery(run, "consumer"),
        _recovery(run, "server"),
        f"{run['cpu']:g} %" if run["kills"].get("outage") else "",
        str(run["mib"]),
    ]


def _recovery(run: Mapping[str, Any], kind: str) -> str:
    if kind not in run["recoveries"]:
        return ""
    middle, longest = run["recoveries"][kind]
    return f"{middle:g}, at most {longest:g}"


def chaos_limits(runs: Mapping[str, Any]) -> str:
    """Return the list of the runs, with the limits of each broker itself."""
    lines: list[str] = []
    for name, driver in DRIVERS.items():
        if name in runs:
            counts = runs[name]["kills"]
            counted = [(title, counts[kind]) for kind, title in KINDS.items() if counts.get(kind)]
            kills = (f"{n} \N{MULTIPLICATION SIGN} {title}" for title, n in counted)
            promise = "at least once" if driver.durable else "at most once"
            lines.append(
                f"- **{driver.title}** (`--driver {name}`, {promise}; {runs[name]['when']}): "
                f"{', '.join(kills)}. The broker itself: {driver.limits}."
            )
    return "\n".join(lines)
