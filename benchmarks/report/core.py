"""The report of the suite within one process: its tables, its goals and its notes."""

from collections.abc import Sequence
from statistics import median

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks.core.against import BEFORE, NOW, Comparison
from benchmarks.core.contenders import BY_NAME as CONTENDER, CONTENDERS
from benchmarks.core.runner import SUBJECT, Results
from benchmarks.core.workloads.options import OPTIONS, OPTIONS_REMARK, OPTIONS_TITLE
from benchmarks.core.workloads.table import (
    BY_ID as WORKLOAD,
    GOALS,
    LABELS,
    OWN,
    SECTIONS,
    WORKLOADS,
    Goal,
    Pair,
    Section,
)

QUICK_WARNING = "[yellow]--quick: few iterations and smaller sizes. A smoke test only.[/]"


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 20 else f"{value:.1f}"


def _plain_cell(results: Results, pair: Pair, divide_by: int = 1) -> str:
    if pair in results.failures:
        return "[red]failed[/]"
    if pair in results.unavailable:
        return "[yellow]not available[/]"
    figure = results.median(pair)
    return "" if figure is None else _figure(figure / divide_by)


def _cell(results: Results, pair: Pair, divide_by: int) -> str:
    text = _plain_cell(results, pair, divide_by)
    if pair not in results.figures:
        return text
    if pair[1] == SUBJECT:
        return f"[bold]{text}[/]"
    ratio = results.ratio(pair, (pair[0], SUBJECT))
    return text if ratio is None else f"{text} [dim]({ratio:.2f}x)[/]"


def _section_table(section: Section, results: Results) -> Table | None:
    names = [name for name in CONTENDER if not section.contenders or name in section.contenders]
    pairs = [(workload, name) for _, workload in section.columns for name in names]
    known = {pair for pair in pairs if results.known(pair)}
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


def _range(values: Sequence[float], unit: str = "x") -> str:
    return f"{_number(min(values), unit)} to {_number(max(values), unit)}"


def _options_table(results: Results) -> Table | None:
    table = Table()
    for heading in ("option", "without", "with", "more", "with / without", "range of rounds"):
        table.add_column(heading, justify="left" if heading == "option" else "right")
    for option in OPTIONS:
        top, bottom = (option.with_it, SUBJECT), (option.without, SUBJECT)
        if not results.known(top):
            continue
        cells = ["", "", ""]
        if ratios := results.ratios(top, bottom):
            more = median(results.differences(top, bottom))
            cells = [_number(more, "ns"), f"{median(ratios):.2f}x", _range(ratios)]
        table.add_row(option.title, _plain_cell(results, bottom), _plain_cell(results, top), *cells)
    return table if table.rows else None


def reached(goal: Goal, results: Results) -> bool | None:
    """Return whether a goal is reached; None if it was not measured."""
    measured = results.measured(goal)
    if not measured:
        return None
    return median(measured) >= goal.bound if goal.at_least else median(measured) <= goal.bound


def _goal_text(goal: Goal) -> str:
    sign = "≥" if goal.at_least else "≤"
    return f"{sign} {goal.bound:g} {goal.unit}"


def _number(value: float, unit: str) -> str:
    return f"{value:.2f}" if unit in ("x", "ms") else f"{value:,.0f}"


def _goals_table(results: Results) -> Table:
    table = Table()
    for heading in ("workload: against", "goal", "measured", "range of rounds"):
        table.add_column(heading, justify="left" if "workload" in heading else "right")
    table.add_column("reached")
    table.add_column("its fastest use", justify="right")
    for goal in GOALS:
        measured, verdict = results.measured(goal), reached(goal, results)
        if verdict is None:
            missing = {goal.top, goal.bottom} & results.unavailable.keys()
            reason = "not available" if missing else "not measured"
            table.add_row(goal.title, _goal_text(goal), "", "", reason, "")
            continue
        fastest = ""
        if goal.fastest is not None and goal.bottom is not None:
            ratio = results.ratio(goal.fastest, goal.bottom)
            fastest = "" if ratio is None else f"{ratio:.2f} ({goal.fastest[1]})"
        table.add_row(
            goal.title,
            _goal_text(goal),
            _number(median(measured), goal.unit),
            _range(measured, goal.unit),
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
            if kind not in OWN:
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
        console.print(QUICK_WARNING)
    for section in SECTIONS:
        table = _section_table(section, results)
        if table is not None:
            console.print(f"\n[bold]{section.title}[/]")
            console.print(table)
            if section.remark:
                console.print(section.remark, style="dim", soft_wrap=True)
    if (options := _options_table(results)) is not None:
        console.print(f"\n[bold]{OPTIONS_TITLE}[/]")
        console.print(options)
        console.print(OPTIONS_REMARK, style="dim", soft_wrap=True, markup=False)
    console.print("\n[bold]Goals[/]")
    console.print(_goals_table(results))
    console.print()
    _notes(console, sorted({name for _, name in (*results.figures, *results.failures)}))
    _reasons(console, results)


def show_against(
    console: Console, results: Results, comparison: Comparison, *, rounds: int, quick: bool
) -> None:
    """Print one line for each workload: the working tree, the commit, and their ratio."""
    console.print(
        f"goevent of the working tree ({NOW}) and of {escape(comparison.ref)}, "
        f"{comparison.commit} ({BEFORE}). Medians of {rounds} interleaved rounds, each figure from "
        "a fresh process on one core, its best timed loop after warm-up. The ratio is the median "
        f"of the rounds' ratios; below 1, {NOW} is faster or smaller.",
        soft_wrap=True,
    )
    if quick:
        console.print(QUICK_WARNING)
    table = Table()
    for heading in ("workload", "each", NOW, BEFORE, f"{NOW} / {BEFORE}", "range of rounds"):
        table.add_column(heading, justify="right" if heading != "workload" else "left")
    for workload in WORKLOADS:
        now, before = (workload.id, NOW), (workload.id, BEFORE)
        if not (results.known(now) or results.known(before)):
            continue
        ratios = results.ratios(now, before)
        table.add_row(
            workload.id,
            workload.unit,
            _plain_cell(results, now),
            _plain_cell(results, before),
            f"{median(ratios):.2f}x" if ratios else "",
            _range(ratios) if ratios else "",
        )
    console.print(table)
    _reasons(console, results)


def _reasons(console: Console, results: Results) -> None:
    missing: dict[str, list[str]] = {}
    for (workload, name), reason in results.unavailable.items():
        missing.setdefault(reason, []).append(f"{workload} {name}")
    for reason, pairs in missing.items():
        text = escape(f"{', '.join(sorted(pairs))}: {reason}")
        console.print(f"[yellow]not available[/]: {text}", soft_wrap=True)
    for (workload, name), reason in results.failures.items():
        console.print(f"[red]failed[/]: {workload} {name}: {escape(reason)}", soft_wrap=True)
