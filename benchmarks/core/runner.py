"""The parent: it runs a fresh process for each pair, in interleaved rounds."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from statistics import median
from typing import TypeAlias

from benchmarks.core.contenders import CONTENDERS, Contender
from benchmarks.core.scenario import NotAvailable
from benchmarks.core.workloads.table import WORKLOADS, Goal, Pair, Workload

Selection: TypeAlias = Sequence[tuple[Workload, list[Contender]]]

REPOSITORY = Path(__file__).resolve().parents[2]
SUBJECT = "goevent"
CHILD_TIMEOUT_SECONDS = 300.0
"""No limit on speed: a peer that hangs must not hang the run."""


@dataclass
class Results:
    """The figures of each pair by round, and the pairs that failed or are not available."""

    figures: dict[Pair, dict[int, float]] = field(default_factory=dict)
    failures: dict[Pair, str] = field(default_factory=dict)
    unavailable: dict[Pair, str] = field(default_factory=dict)

    def known(self, pair: Pair) -> bool:
        """Return whether a pair was run, with or without a figure."""
        return pair in self.figures or pair in self.failures or pair in self.unavailable

    def median(self, pair: Pair) -> float | None:
        """Return the median over the rounds."""
        rounds = self.figures.get(pair)
        return median(rounds.values()) if rounds else None

    def ratios(self, top: Pair, bottom: Pair) -> list[float]:
        """Return `top / bottom` for each round that has both."""
        above, below = self.figures.get(top, {}), self.figures.get(bottom, {})
        return [above[index] / below[index] for index in above if below.get(index)]

    def differences(self, top: Pair, bottom: Pair) -> list[float]:
        """Return `top - bottom` for each round that has both."""
        above, below = self.figures.get(top, {}), self.figures.get(bottom, {})
        return [above[index] - below[index] for index in above if index in below]

    def ratio(self, top: Pair, bottom: Pair) -> float | None:
        """Return the median of the rounds' ratios, in which drift between rounds cancels."""
        ratios = self.ratios(top, bottom)
        return median(ratios) if ratios else None

    def measured(self, goal: Goal) -> list[float]:
        """Return a goal's figure for each round."""
        if goal.bottom is None:
            return [figure / goal.per for figure in self.figures.get(goal.top, {}).values()]
        if goal.difference:
            return self.differences(goal.top, goal.bottom)
        return self.ratios(goal.top, goal.bottom)


def select(pattern: str | None, *, quick: bool) -> Selection:
    """Choose the pairs to run.

    Args:
        pattern: A glob over "workload:contender", or over either of the two.
        quick: Only contenders that a goal needs.
    """
    chosen: list[tuple[Workload, list[Contender]]] = []
    for workload in WORKLOADS:
        contenders = [
            contender
            for contender in CONTENDERS
            if contender.runs(workload)
            and (contender.quick or not quick)
            and not contender.is_missing()
            and _matches(pattern, workload.id, contender.name)
        ]
        if contenders:
            chosen.append((workload, contenders))
    return chosen


def _matches(pattern: str | None, workload: str, contender: str) -> bool:
    if pattern is None:
        return True
    names = [f"{workload}:{contender}"] if ":" in pattern else [workload, contender]
    return any(fnmatchcase(name, pattern) for name in names)


def run(
    selection: Selection,
    *,
    rounds: int,
    quick: bool,
    advance: Callable[[str], None],
) -> Results:
    """Measure every pair once per round, contenders of a workload next to each other.

    Args:
        selection: The pairs.
        rounds: The number of rounds; a workload may ask for fewer.
        quick: True for the smoke test.
        advance: Called with a label before each process.

    Raises:
        WrongSource: A contender was not imported from its `source`.
    """
    results, order = Results(), random.Random()
    for index in range(rounds):
        for workload, contenders in selection:
            if workload.max_rounds is not None and index >= workload.max_rounds:
                continue
            for contender in order.sample(contenders, len(contenders)):
                pair = (workload.id, contender.name)
                advance(f"round {index + 1}/{rounds} {workload.id} {contender.name}")
                if pair in results.failures or pair in results.unavailable:
                    continue
                try:
                    figure = _run_child(workload, contender, quick=quick)
                except NotAvailable as reason:
                    results.unavailable[pair] = str(reason)
                except ChildFailed as failure:
                    results.failures[pair] = str(failure)
                else:
                    results.figures.setdefault(pair, {})[index] = figure
    return results


class ChildFailed(Exception):
    """A measuring process ended without a figure."""


class WrongSource(Exception):
    """A process would have measured another goevent than the chosen one."""


def _run_child(workload: Workload, contender: Contender, *, quick: bool) -> float:
    # A contender with a source is goevent under another name, which the child does not know.
    name = SUBJECT if contender.source else contender.name
    command = [sys.executable, "-m", "benchmarks.core.child", workload.id, name]
    environment = dict(os.environ)
    if quick:
        command.append("--quick")
    if contender.source:
        command += ["--source", str(contender.source)]
        paths = [str(contender.source), environment.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    try:
        child = subprocess.run(
            command,
            cwd=REPOSITORY,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=CHILD_TIMEOUT_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise ChildFailed(f"no figure after {CHILD_TIMEOUT_SECONDS:.0f} s") from None
    lines = child.stdout.splitlines()
    if child.returncode or not lines:
        # The frame that is drawn around an exception group says nothing.
        errors = [line.strip(" |") for line in child.stderr.splitlines() if line.strip(" |+-")]
        raise ChildFailed(errors[-1] if errors else f"exit code {child.returncode}")
    answer: dict[str, str | float] = json.loads(lines[-1])
    if "wrong_source" in answer:
        raise WrongSource(answer["wrong_source"])
    if "not_available" in answer:
        raise NotAvailable(answer["not_available"])
    return float(answer["figure"])
