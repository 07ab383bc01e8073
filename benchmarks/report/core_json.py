"""The JSON of the suite within one process: all rounds, medians, ratios and goals."""

import json
import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median

from benchmarks.core.against import BEFORE, Comparison
from benchmarks.core.contenders import CONTENDERS
from benchmarks.core.runner import SUBJECT, Results
from benchmarks.core.workloads.options import OPTIONS
from benchmarks.core.workloads.table import BY_ID as WORKLOAD, GOALS, Pair
from benchmarks.report.core import reached


def _machine() -> dict[str, object]:
    packages = {
        c.distribution: c.installed_version()
        for c in CONTENDERS
        if c.distribution and not c.is_missing()
    }
    return {
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "packages": {"trio": version("trio"), **packages},
    }


def write_json(
    path: Path,
    results: Results,
    *,
    rounds: int,
    quick: bool,
    comparison: Comparison | None = None,
) -> None:
    """Write all rounds, medians and ratios; the goals, or what was compared."""
    against = {"ref": comparison.ref, "commit": comparison.commit} if comparison else None
    compared_with = BEFORE if comparison else SUBJECT
    document: dict[str, object] = {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "rounds": rounds,
        "quick": quick,
        "machine": _machine(),
        "against": against,
        "results": [
            {
                "workload": workload,
                "contender": name,
                "unit": "bytes" if WORKLOAD[workload].unit == "bytes" else "ns per dispatch",
                "rounds": list(figures.values()),
                "median": results.median((workload, name)),
                "ratio": results.ratio((workload, name), (workload, compared_with)),
            }
            for (workload, name), figures in results.figures.items()
        ],
        "not_available": _by_name(results.unavailable),
        "failures": _by_name(results.failures),
    }
    if comparison is None:
        document |= _of_all_contenders(results)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _by_name(reasons: Mapping[Pair, str]) -> dict[str, str]:
    return {f"{workload}:{name}": reason for (workload, name), reason in reasons.items()}


def _of_all_contenders(results: Results) -> dict[str, object]:
    return {
        "options": [
            {
                "option": option.title,
                "with": option.with_it,
                "without": option.without,
                "ratio": results.ratio((option.with_it, SUBJECT), (option.without, SUBJECT)),
            }
            for option in OPTIONS
        ],
        "goals": [
            {
                "goal": goal.title,
                "bound": goal.bound,
                "at_least": goal.at_least,
                "unit": goal.unit,
                "measured": median(measured) if (measured := results.measured(goal)) else None,
                "reached": reached(goal, results),
            }
            for goal in GOALS
        ],
        "blanks": {c.name: dict(c.cannot) for c in CONTENDERS if c.cannot},
        "notes": {c.name: c.note for c in CONTENDERS},
    }
