"""The harness of the suites over brokers: child processes, interleaved rounds, figures and ratios.

A suite says which contenders do which jobs, and how one figure is taken from child processes. The
harness runs the rounds. All contenders of a job are measured one after another in each round, in
random order, so the drift of a machine affects all of them. A ratio is taken within a round, and
the reports show the median of the rounds' ratios.
"""

import argparse
import json
import random
import subprocess
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from tempfile import TemporaryFile
from typing import IO, Any

from benchmarks.brokers.child import READY
from benchmarks.brokers.contender import Measured, Place

REPOSITORY = Path(__file__).resolve().parents[2]
SUBJECT = "goevent"
DEFAULT_ROUNDS = 5
CHILD_TIMEOUT_SECONDS = 120.0
"""No limit on speed: a child that hangs must not hang the run."""


class MeasurementFailed(Exception):
    """A child process ended without a figure."""


class NotHere(Exception):
    """A server or a package that a measurement needs is not on this machine."""


@dataclass(frozen=True)
class BrokerContender:
    """A contender of a suite.

    Attributes:
        name: Its name in the report.
        module: Its module below `benchmarks.brokers`.
        package: The package that it needs beside the project's own.
    """

    name: str
    module: str
    package: str | None = None

    def is_installed(self) -> bool:
        """Return whether the package is installed."""
        return self.package is None or find_spec(self.package) is not None


@dataclass(frozen=True)
class BrokerJob:
    """A job that all contenders of a suite do.

    Attributes:
        title: Its heading in the report.
        goals: The ratio goevent / peer to reach, by peer.
        more_is_better: False for a latency.
        most_cpu: The most microseconds of CPU time for an event of goevent, as a goal.
    """

    title: str
    goals: Mapping[str, float]
    more_is_better: bool = True
    most_cpu: float | None = None


class Child:
    """A child process that does one job of one contender."""

    def __init__(self, process: subprocess.Popen[str], errors: IO[bytes], label: str) -> None:
        self._process = process
        self._errors = errors
        self._label = label

    def wait_until_ready(self) -> None:
        """Wait until the contender is subscribed, or has made its messages."""
        if self._process.stdout is None:
            raise RuntimeError("the output of a child is a pipe")
        if self._process.stdout.readline().strip() != READY:
            raise self._failure()

    def start(self) -> None:
        """Let a sender that is ready send its messages."""
        if self._process.stdin is None:
            raise RuntimeError("the input of a child is a pipe")
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def result(self) -> Measured:
        """Wait for the end and return the figure.

        Raises:
            MeasurementFailed: The process failed, or took too long.
        """
        try:
            output, _ = self._process.communicate(timeout=CHILD_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            raise MeasurementFailed(
                f"{self._label}: no figure after {CHILD_TIMEOUT_SECONDS:.0f} s"
            ) from None
        lines = output.splitlines()
        if self._process.returncode or not lines:
            raise self._failure()
        return Measured(**json.loads(lines[-1]))

    def _failure(self) -> MeasurementFailed:
        self._process.kill()
        self._process.wait()
        self._errors.seek(0)
        text = self._errors.read().decode(errors="replace")
        # The frame that is drawn around an exception group says nothing.
        lines = [line.strip(" |") for line in text.splitlines() if line.strip(" |+-")]
        return MeasurementFailed(f"{self._label}: {lines[-1] if lines else 'no output'}")


@contextmanager
def child(contender: BrokerContender, job: str, place: Place, *numbers: float) -> Generator[Child]:
    """Run a child process while the body runs; it is killed at the end."""
    command = [sys.executable, "-m", "benchmarks.brokers.child", contender.module, job, *place]
    with (
        TemporaryFile() as errors,
        subprocess.Popen(
            [*command, *map(str, numbers)],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as process,
    ):
        try:
            yield Child(process, errors, f"{contender.name} at {job}")
        finally:
            process.kill()


def measure(contender: BrokerContender, job: str, place: Place, *numbers: float) -> Measured:
    """Return the figure of a job that needs one process."""
    with child(contender, job, place, *numbers) as process:
        return process.result()


def measure_flood(
    contender: BrokerContender, place: Place, count: int
) -> tuple[Measured, Measured]:
    """Return the figures of a receiver, and of the process that sends to it as fast as it can."""
    with (
        child(contender, "flood", place, count) as sender,
        child(contender, "receive", place, count) as receiver,
    ):
        sender.wait_until_ready()
        receiver.wait_until_ready()
        sender.start()
        return receiver.result(), sender.result()


@dataclass
class BrokerFigures:
    """The figures of a suite by job, contender and round, and the failures."""

    rounds: dict[str, dict[str, dict[int, Measured]]] = field(
        default_factory=dict[str, dict[str, dict[int, Measured]]]
    )
    failures: list[str] = field(default_factory=list[str])

    def add(self, job: str, contender: str, index: int, measured: Measured) -> None:
        """Add the figure of one round."""
        self.rounds.setdefault(job, {}).setdefault(contender, {})[index] = measured

    def figures(self, job: str, contender: str) -> list[float]:
        """Return the figures of all rounds."""
        return [each.figure for each in self.rounds.get(job, {}).get(contender, {}).values()]

    def cpu(self, job: str, contender: str) -> float:
        """Return the median CPU time of an event, in us."""
        taken = self.rounds.get(job, {}).get(contender, {}).values()
        return median(each.cpu for each in taken if each.cpu is not None)

    def ratios(self, job: str, peer: str) -> list[float]:
        """Return goevent / peer for each round that has both."""
        contenders = self.rounds.get(job, {})
        ours, theirs = contenders.get(SUBJECT, {}), contenders.get(peer, {})
        return [ours[index].figure / theirs[index].figure for index in ours if index in theirs]

    def as_json(self) -> dict[str, Any]:
        """Return the figures of all rounds, with the CPU times where they are taken."""
        return {
            job: {
                name: [
                    each.figure if each.cpu is None else [each.figure, each.cpu]
                    for each in taken.values()
                ]
                for name, taken in contenders.items()
            }
            for job, contenders in self.rounds.items()
        }


def run_rounds(
    rounds: int,
    jobs: Mapping[str, Sequence[BrokerContender]],
    take: Callable[[str, BrokerContender, int, BrokerFigures], Measured],
) -> BrokerFigures:
    """Take a figure of each contender of each job in each round.

    Args:
        rounds: The number of rounds.
        jobs: The contenders of each job.
        take: Returns one figure; it may add further ones for the same round.
    """
    figures = BrokerFigures()
    for index in range(rounds):
        for job, contenders in jobs.items():
            for contender in random.sample(contenders, len(contenders)):
                try:
                    measured = take(job, contender, index, figures)
                except MeasurementFailed as failure:
                    figures.failures.append(str(failure))
                else:
                    figures.add(job, contender.name, index, measured)
    return figures


def suite_parser(suite: str, description: str) -> argparse.ArgumentParser:
    """Return a parser with the options that all suites over brokers have."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks {suite}", description=description)
    parser.add_argument("--quick", action="store_true", help="one round, with fewer events")
    parser.add_argument("--rounds", type=int, help=f"interleaved rounds (default {DEFAULT_ROUNDS})")
    parser.add_argument("--json", metavar="FILE", help="also write the figures of all rounds")
    return parser


def number_of_rounds(chosen: argparse.Namespace) -> int:
    """Return the number of rounds of a run."""
    return max(1, chosen.rounds or (1 if chosen.quick else DEFAULT_ROUNDS))
