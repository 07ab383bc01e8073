"""What is printed and what is written."""

import json
import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks._contenders import BY_NAME as CONTENDER, CONTENDERS
from benchmarks._runner import SUBJECT, Results
from benchmarks._workloads import BY_ID as WORKLOAD, GOALS, LABELS, SECTIONS, Goal, Pair, Section


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 20 else f"{value:.1f}"


def _cell(results: Results, pair: Pair, divide_by: int) -> str:
    if pair in results.failures:
        return "[red]failed[/]"
    figure = results.median(pair)
    if figure is None:
        return ""
    text = _figure(figure / divide_by)
    if pair[1] == SUBJECT:
        return f"[bold]{text}[/]"
    ratio = results.ratio(pair, (pair[0], SUBJECT))
    return text if ratio is None else f"{text} [dim]({ratio:.2f}x)[/]"


def _section_table(section: Section, results: Results) -> Table | None:
    names = [name for name in CONTENDER if not section.contenders or name in section.contenders]
    pairs = [(workload, name) for _, workload in section.columns for name in names]
    known = {pair for pair in pairs if pair in results.figures or pair in results.failures}
    if not known:
        return None
    table = Table()
    table.add_column("")
    for heading, _ in section.columns:
        table.add_column(heading, justify="right")
    for contender in CONTENDERS:
        if not any(name == contender.name for _, name in known):
            continue
        cells = [
            _cell(
                results,
                (workload, contender.name),
                WORKLOAD[workload].size if section.per_delivery else 1,
            )
            for _, workload in section.columns
        ]
        style = "bold" if contender.name == SUBJECT else ""
        table.add_row(contender.name, *cells, style=style)
    return table


def reached(goal: Goal, results: Results) -> bool | None:
    """Tell whether a goal is reached; None if it was not measured."""
    measured = results.measured(goal)
    if not measured:
        return None
    return median(measured) >= goal.bound if goal.at_least else median(measured) <= goal.bound


def _goal_text(goal: Goal) -> str:
    sign = "≥" if goal.at_least else "≤"
    aim = f" (aim {goal.aim:g})" if goal.aim is not None else ""
    return f"{sign} {goal.bound:g} {goal.unit}{aim}"


def _goal_number(value: float, unit: str) -> str:
    return f"{value:.2f}" if unit == "x" else f"{value:,.0f}"


def _goals_table(results: Results) -> Table:
    table = Table()
    for heading in ("workload: against", "goal", "measured", "range of rounds"):
        table.add_column(heading, justify="left" if "workload" in heading else "right")
    table.add_column("reached")
    table.add_column("its fastest use", justify="right")
    for goal in GOALS:
        measured, verdict = results.measured(goal), reached(goal, results)
        if verdict is None:
            table.add_row(goal.title, _goal_text(goal), "", "", "not measured", "")
            continue
        low, high = min(measured), max(measured)
        fastest = ""
        if goal.fastest is not None and goal.bottom is not None:
            ratio = results.ratio(goal.fastest, goal.bottom)
            fastest = "" if ratio is None else f"{ratio:.2f} ({goal.fastest[1]})"
        table.add_row(
            goal.title,
            _goal_text(goal),
            _goal_number(median(measured), goal.unit),
            f"{_goal_number(low, goal.unit)} to {_goal_number(high, goal.unit)}",
            "[green]yes[/]" if verdict else "[red]NO[/]",
            fastest,
        )
    return table


def missing_peers() -> list[str]:
    """Return the packages that would have to be installed for a full comparison."""
    return sorted({c.distribution for c in CONTENDERS if c.distribution and c.is_missing()})


def _notes(console: Console, shown: Sequence[str]) -> None:
    console.print("[bold]What each contender is, and does not do[/]")
    for contender in CONTENDERS:
        if contender.name not in shown:
            continue
        console.print(f"[bold]{contender.name}[/]: {escape(contender.note)}", soft_wrap=True)
        reasons: dict[str, list[str]] = {}
        for kind, reason in contender.cannot.items():
            # What only goevent distinguishes needs no excuse.
            if kind not in ("sync_await", "adhoc_names"):
                reasons.setdefault(reason, []).append(LABELS[kind])
        for reason, kinds in reasons.items():
            console.print(f"    blank in {', '.join(kinds)}: {reason}", style="dim", soft_wrap=True)


def show(console: Console, results: Results, *, rounds: int, quick: bool) -> None:
    """Print every table that has figures, the goals, and the notes."""
    console.print(
        f"Medians of {rounds} interleaved rounds, each figure from a fresh process on one core, "
        "its best timed loop after warm-up. The garbage collector is on. One event object is made "
        "outside the loop, for every contender. In brackets: the median of the rounds' ratios "
        f"peer / {SUBJECT}; above 1, {SUBJECT} is faster or smaller.",
        soft_wrap=True,
    )
    if quick:
        console.print("[yellow]--quick: few iterations and smaller sizes. A smoke test only.[/]")
    for section in SECTIONS:
        table = _section_table(section, results)
        if table is not None:
            console.print(f"\n[bold]{section.title}[/]")
            console.print(table)
            if section.remark:
                console.print(section.remark, style="dim", soft_wrap=True)
    console.print("\n[bold]Goals[/]")
    console.print(_goals_table(results))
    console.print()
    _notes(console, sorted({name for _, name in (*results.figures, *results.failures)}))
    for (workload, name), reason in results.failures.items():
        console.print(f"[red]failed[/]: {workload} {name}: {escape(reason)}", soft_wrap=True)


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


def write_json(path: Path, results: Results, *, rounds: int, quick: bool) -> None:
    """Write all rounds, medians, ratios and goals."""
    document = {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "rounds": rounds,
        "quick": quick,
        "machine": _machine(),
        "results": [
            {
                "workload": workload,
                "contender": name,
                "unit": "bytes" if WORKLOAD[workload].unit == "bytes" else "ns per dispatch",
                "rounds": list(figures.values()),
                "median": results.median((workload, name)),
                "ratio": results.ratio((workload, name), (workload, SUBJECT)),
            }
            for (workload, name), figures in results.figures.items()
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
        "failures": {f"{w}:{name}": reason for (w, name), reason in results.failures.items()},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
