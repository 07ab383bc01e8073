"""The reports of the suites over brokers: medians, ratios beside their goals, and JSON."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from benchmarks.brokers.faststream.rows import FASTSTREAM, BrokerRow
from benchmarks.brokers.harness import SUBJECT, BrokerContender, BrokerFigures, BrokerJob

LOG_COLUMNS = 132
"""The width of a report in a file or a CI log, which has no edge to wrap at."""

ROW_TITLES = {
    "receive": "receive, listener, acknowledge",
    "publish": "publish and wait, 64 tasks",
    "batches": "publish in batches of 100",
}


def report_console() -> Console:
    """Return the console for a report."""
    console = Console()
    return console if console.is_terminal else Console(width=LOG_COLUMNS)


def write_figures(path: str, document: object) -> None:
    """Write the figures of all rounds as JSON."""
    Path(path).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def show_pubsub(
    figures: BrokerFigures, jobs: Mapping[str, BrokerJob], contenders: Sequence[str], rounds: int
) -> None:
    """Print one row for each contender, and the goals."""
    console = report_console()
    console.print(
        f"Redis pub/sub: one server, medians of {rounds} interleaved rounds, each figure from "
        "fresh processes. An event is 150 bytes of JSON, and each contender puts its own envelope "
        f"around it. In brackets: the median of the rounds' ratios {SUBJECT} / peer.",
        soft_wrap=True,
    )
    table = Table()
    table.add_column("")
    for column in jobs.values():
        table.add_column(column.title, justify="right")
    for name in contenders:
        table.add_row(name, *(_pubsub_cell(figures, job, name) for job in jobs))
    console.print(table)
    _show_goals(figures, jobs)


def _show_goals(figures: BrokerFigures, jobs: Mapping[str, BrokerJob]) -> None:
    console = report_console()
    for job, column in jobs.items():
        for peer, bound in column.goals.items():
            if ratios := figures.ratios(job, peer):
                ratio = median(ratios)
                reached = ratio >= bound if column.more_is_better else ratio <= bound
                sign = "≥" if column.more_is_better else "≤"
                console.print(
                    f"goal {job} {sign} {bound:g} x {peer}: {ratio:.2f} "
                    f"({min(ratios):.2f} to {max(ratios):.2f}), "
                    f"{'reached' if reached else 'NOT reached'}",
                    highlight=False,
                )


def _pubsub_cell(figures: BrokerFigures, job: str, name: str) -> str:
    taken = figures.figures(job, name)
    text = f"{median(taken):,.0f}" if taken else ""
    ratios = figures.ratios(job, name) if name != SUBJECT else []
    return f"{text} ({median(ratios):.2f})" if ratios else text


def show_jobs(
    figures: BrokerFigures,
    jobs: Mapping[str, BrokerJob],
    contenders: Mapping[str, Sequence[BrokerContender]],
    title: str,
) -> None:
    """Print one row for each job and contender, and the goals."""
    console = report_console()
    console.print(title, soft_wrap=True)
    table = Table("", "", "figure", f"{SUBJECT} / peer")
    for job, column in jobs.items():
        for each in contenders[job]:
            taken = figures.figures(job, each.name)
            ratios = figures.ratios(job, each.name) if each.name != SUBJECT else []
            shown = f"{median(ratios):.2f}" if ratios else ""
            table.add_row(column.title, each.name, f"{median(taken):,.1f}" if taken else "", shown)
    console.print(table)
    _show_goals(figures, jobs)


def show_streams(
    figures: BrokerFigures,
    jobs: Mapping[str, BrokerJob],
    contenders: Sequence[str],
    rounds: int,
    *,
    aof: bool,
) -> None:
    """Print a part for each job, with one line for each contender."""
    print(f"medians of {rounds} interleaved round(s), {'with' if aof else 'without'} AOF")
    for job, section in jobs.items():
        heading = f"{section.title:42}{'events/s':>10}{'CPU us':>8}{'goevent is':>13}"
        print(f"\n{heading}{'rounds':>15}  goal")
        for name in contenders:
            if not (rates := figures.figures(job, name)):
                continue
            row = f"  {name:40}{median(rates):>10,.0f}{figures.cpu(job, name):>8.1f}"
            if ratios := figures.ratios(job, name) if name != SUBJECT else []:
                ratio = median(ratios)
                row += f"{ratio:>11.1f} x{min(ratios):>8.1f} - {max(ratios):<4.1f}"
                if goal := section.goals.get(name):
                    row += f"  {goal:g} x: {'met' if ratio >= goal else 'MISSED'}"
            elif name == SUBJECT and section.most_cpu is not None:
                met = figures.cpu(job, name) <= section.most_cpu
                row += f"{'':31}CPU <= {section.most_cpu:g} us: {'met' if met else 'MISSED'}"
            print(row)


def show_row(row: BrokerRow, figures: BrokerFigures) -> None:
    """Print the lines of one of FastStream's brokers."""
    print(f"\n{row.title}: {row.notes}")
    floods = [
        figure
        for name in figures.rounds.get("flood", {})
        for figure in figures.figures("flood", name)
    ]
    if floods:
        print(f"  sent to receivers at {min(floods):,.0f}/s or more")
    for job, title in ROW_TITLES.items():
        print(f"  {title:36}{'events/s':>10}{'goevent is':>13}{'rounds':>15}  goal")
        goals = {"publish": row.publish, "receive": {FASTSTREAM: row.receive}}.get(job, {})
        for name in _in_order(figures.rounds.get(job, {})):
            line = f"    {name:34}{median(figures.figures(job, name)):>10,.0f}"
            if ratios := figures.ratios(job, name) if name != SUBJECT else []:
                ratio = median(ratios)
                line += f"{ratio:>11.2f} x{min(ratios):>8.2f} - {max(ratios):<5.2f}"
                if goal := goals.get(name):
                    line += f" {goal:g} x: {'met' if ratio >= goal else 'MISSED'}"
            print(line)
    for failure in figures.failures:
        print(f"  FAILED: {failure}")


def _in_order(names: Mapping[str, object]) -> list[str]:
    """Return goevent first, then its peers by name: rounds measure them in random order."""
    return sorted(names, key=lambda name: (name != SUBJECT, name))
