"""The figures that the README and the docs show: medians, taken from the JSON of the suites.

They stand in `benchmarks/figures.json`. A suite's part is replaced as a whole, with its date and
versions, so that figures of different runs never stand in one table.
"""

import json
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, TypeAlias

FIGURES = Path(__file__).resolve().parents[1] / "figures.json"

Medians: TypeAlias = dict[str, dict[str, float]]
"""The median of each contender, for each workload or job."""


def load(path: Path = FIGURES) -> dict[str, Any]:
    """Return all figures, by suite."""
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document


def save(document: Mapping[str, Any], path: Path = FIGURES) -> None:
    """Write all figures."""
    text = json.dumps(document, indent=1, ensure_ascii=False, sort_keys=True)
    path.write_text(text + "\n", encoding="utf-8")


def reduced(suite: str, document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of `figures.json` that holds the figures of a suite's `--json`."""
    if suite == "kernel":
        medians: Medians = {}
        for row in document["results"]:
            if row["median"] is not None:
                medians.setdefault(row["workload"], {})[row["contender"]] = round(row["median"], 1)
        machine: dict[str, Any] = document["machine"]
        return {
            "when": document["when"][:10],
            "python": machine["python"],
            "trio": machine["packages"]["trio"],
            "packages": machine["packages"],
            "rounds": document["rounds"],
            "medians": medians,
        }
    parts = {"": document} if suite != "brokers" else document
    return {
        "when": datetime.now(UTC).date().isoformat(),
        "python": platform.python_version(),
        "trio": version("trio"),
        "rounds": max(
            len(taken)
            for part in parts.values()
            for contenders in part.values()
            for taken in contenders.values()
        ),
        "medians": {
            f"{name}:{job}" if name else job: {
                contender: round(median(map(_figure, taken)), 1)
                for contender, taken in contenders.items()
                if taken
            }
            for name, part in parts.items()
            for job, contenders in part.items()
        },
        "cpu": _cpu_medians(parts),
    }


def _cpu_medians(parts: Mapping[str, Any]) -> Medians:
    """Return the CPU time of an event in us, for the jobs and contenders that have one."""
    found: Medians = {}
    for name, part in parts.items():
        for job, contenders in part.items():
            for contender, taken in contenders.items():
                times = [each[1] for each in taken if isinstance(each, list)]
                if times:
                    cpu = found.setdefault(f"{name}:{job}" if name else job, {})
                    cpu[contender] = round(median(times), 2)
    return found


def _figure(taken: float | list[float]) -> float:
    """Return a figure without the CPU time that some suites take beside it."""
    return taken[0] if isinstance(taken, list) else taken
