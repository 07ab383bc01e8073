"""The goals of all suites beside their figures, from `figures.json`: for the docs and the terminal.

A ratio here is that of the medians in the tables of the docs. The report of a run shows the median
of the rounds' ratios, which differs from it by the noise of the machine.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from benchmarks.brokers.faststream.rows import FASTSTREAM, ROWS
from benchmarks.brokers.harness import BrokerJob
from benchmarks.brokers.pubsub import suite as pubsub
from benchmarks.brokers.streams import suite as streams
from benchmarks.codec import GOEVENT, JSON, MSGSPEC
from benchmarks.core.runner import SUBJECT
from benchmarks.core.workloads.table import GOALS
from benchmarks.report.codec import MOST_OF_MSGSPEC, SHAPES_WITH_GOAL

Medians = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class MeasuredGoal:
    """A goal and its figure.

    Args:
        title: The compared figures.
        bound: The figure to reach.
        unit: "x" for a ratio, or the unit of both figures.
        measured: The figure.
        at_least: Whether more is better.
    """

    title: str
    bound: float
    unit: str
    measured: float
    at_least: bool

    @property
    def is_met(self) -> bool:
        """Whether the goal is reached."""
        return self.measured >= self.bound if self.at_least else self.measured <= self.bound

    def cells(self) -> list[str]:
        """Return the line of a table: the title, the goal, the figure, the verdict."""
        sign = "≥" if self.at_least else "≤"
        unit = "\N{MULTIPLICATION SIGN}" if self.unit == "x" else self.unit
        digits = 2 if self.measured < 100 else 0
        return [
            self.title,
            f"{sign} {self.bound:,g} {unit}",
            f"{self.measured:,.{digits}f} {unit}",
            "met" if self.is_met else "**missed**",
        ]


HEAD = ["", "goal", "measured", ""]


def measured_goals(document: Mapping[str, Any]) -> list[MeasuredGoal]:
    """Return the goals of all suites that have a figure."""
    return [
        *_of_kernel(document["kernel"]["medians"]),
        *_of_codec(document["codec"]["medians"]),
        *_of_jobs("Redis pub/sub", document["redis"], pubsub.JOBS),
        *_of_jobs("Redis Streams", document["streams"], streams.JOBS),
        *_of_brokers(document["brokers"]["medians"]),
    ]


def goals_table(document: Mapping[str, Any]) -> list[list[str]]:
    """Return the lines of the table in the docs; the first one is its head."""
    return [HEAD, *(goal.cells() for goal in measured_goals(document))]


def goals_on_terminal(document: Mapping[str, Any]) -> Table:
    """Return the table for the terminal."""
    found = Table(*HEAD, title="Goals")
    for goal in measured_goals(document):
        *cells, verdict = goal.cells()
        found.add_row(*cells, f"[green]{verdict}[/]" if goal.is_met else "[red]MISSED[/]")
    return found


def _of_kernel(medians: Medians) -> Iterator[MeasuredGoal]:
    for goal in GOALS:
        workload, name = goal.top
        top = medians.get(workload, {}).get(name)
        bottom = (
            None if goal.bottom is None else medians.get(goal.bottom[0], {}).get(goal.bottom[1])
        )
        if top is None or (goal.bottom is not None and bottom is None):
            continue
        measured = top / goal.per
        if bottom is not None:
            measured = top - bottom if goal.difference else top / bottom
        yield MeasuredGoal(goal.title, goal.bound, goal.unit, measured, goal.at_least)


def _of_codec(medians: Medians) -> Iterator[MeasuredGoal]:
    for direction, most in MOST_OF_MSGSPEC.items():
        ratios = [
            taken[GOEVENT] / taken[MSGSPEC]
            for name, taken in medians.items()
            if _is_row(name, direction) and MSGSPEC in taken
        ]
        if ratios:
            title = f"JSON codec, {direction}, slowest flat or nested row: of the time of msgspec"
            yield MeasuredGoal(title, most, "x", max(ratios), at_least=False)
    ratios = [taken[GOEVENT] / taken[JSON] for taken in medians.values() if JSON in taken]
    if ratios:
        title = "codec, slowest row of all: of the time of `json`"
        yield MeasuredGoal(title, 1.0, "x", max(ratios), at_least=False)


def _is_row(name: str, direction: str) -> bool:
    fmt, shape, _, _, found = name.split(":")
    return fmt == "json" and shape in SHAPES_WITH_GOAL and found == direction


def _of_jobs(
    title: str, part: Mapping[str, Any], jobs: Mapping[str, BrokerJob]
) -> Iterator[MeasuredGoal]:
    medians: Medians = part["medians"]
    for name, job in jobs.items():
        found = medians.get(name, {})
        for peer, bound in job.goals.items():
            if SUBJECT in found and peer in found:
                ratio = found[SUBJECT] / found[peer]
                line = f"{title}, {job.title}: {PEERS.get(peer, peer)}"
                yield MeasuredGoal(line, bound, "x", ratio, job.more_is_better)
        cpu = part.get("cpu", {}).get(name, {}).get(SUBJECT)
        if job.most_cpu is not None and cpu is not None:
            line = f"{title}, {job.title}: CPU per event"
            yield MeasuredGoal(line, job.most_cpu, "µs", cpu, at_least=False)


PEERS = {"faststream": "FastStream", "redis_asyncio": "redis.asyncio"}
"""The names of contenders that are written otherwise in the docs."""


def _of_brokers(medians: Medians) -> Iterator[MeasuredGoal]:
    for name, row in ROWS.items():
        for job, goals in (("receive", {FASTSTREAM: row.receive}), ("publish", row.publish)):
            found = medians.get(f"{name}:{job}", {})
            for peer, bound in goals.items():
                if SUBJECT in found and peer in found:
                    ratio = found[SUBJECT] / found[peer]
                    line = f"{row.title}, {job}: {peer}"
                    yield MeasuredGoal(line, bound, "x", ratio, at_least=True)
