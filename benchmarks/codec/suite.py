"""`python -m benchmarks codec`: the codecs beside msgspec, pydantic and `json`.

All contenders run in one process. A round measures the contenders of a row one after another, in
random order, before the next row. A ratio is taken within a round; the report shows the median of
the rounds' ratios.
"""

import argparse
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from time import perf_counter, process_time
from typing import TypeAlias

from benchmarks.codec.contenders import CodecJob, contenders_of
from benchmarks.codec.kinds import AD_HOC, KINDS
from benchmarks.codec.shapes import SHAPES
from benchmarks.report.brokers import write_figures
from benchmarks.report.codec import show_codec

DEFAULT_ROUNDS = 9
TARGET_SECONDS = 0.001
QUICK_TARGET_SECONDS = 0.0002
WARM_UP_TARGETS = 100
"""The duration of the warm-up, in targets."""
MAX_COUNT = 1 << 20
REPEATS = 7
"""The timed loops of a figure; the best one counts."""
SIZES = {100: "100 B", 1_000: "1 KB", 10_000: "10 KB", 100_000: "100 KB"}
KIND_SIZES = (1_000, 10_000)
DIRECTIONS = ("encode", "decode")

CodecFigures: TypeAlias = dict[str, dict[str, list[float]]]
"""The figures of all rounds in ns, by row and contender."""


@dataclass(frozen=True)
class CodecRow:
    """One row: a message that all contenders write and read.

    Attributes:
        fmt: "json" or "msgpack".
        shape: The title of the shape.
        kind: The title of the kind of class.
        size: The size of the event data as JSON, in bytes.
    """

    fmt: str
    shape: str
    kind: str
    size: int

    def name(self, direction: str) -> str:
        """Return the name of the row in the JSON."""
        return f"{self.fmt}:{self.shape}:{self.kind}:{self.size}:{direction}"


def rows() -> Iterator[CodecRow]:
    """Return all rows: every shape in every size, then every kind of class, then MessagePack."""
    for shape in SHAPES:
        for size in SIZES:
            yield CodecRow("json", shape, "Event", size)
    for kind in (*KINDS, AD_HOC):
        if kind != "Event":
            for shape in ("flat", "nested"):
                for size in KIND_SIZES:
                    yield CodecRow("json", shape, kind, size)
    for shape in ("flat", "nested"):
        for size in SIZES:
            yield CodecRow("msgpack", shape, "Event", size)


def main(arguments: list[str]) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks codec",
        description="The codecs beside msgspec, pydantic and the json module.",
    )
    parser.add_argument("--quick", action="store_true", help="one round, briefly: a smoke test")
    parser.add_argument("--rounds", type=int, help=f"interleaved rounds (default {DEFAULT_ROUNDS})")
    parser.add_argument("--json", metavar="FILE", help="also write the figures of all rounds")
    parser.add_argument(
        "--only", metavar="PATTERN", default="*", help="glob over rows, as 'json:nested:*:100000:*'"
    )
    chosen = parser.parse_args(arguments)
    rounds = max(1, chosen.rounds or (1 if chosen.quick else DEFAULT_ROUNDS))
    target = QUICK_TARGET_SECONDS if chosen.quick else TARGET_SECONDS
    figures = measure_rows(chosen.only, rounds, target)
    if not figures:
        print(f"Nothing matches {chosen.only!r}. A row: json:nested:Event:1000:encode")
        return 2
    show_codec(figures, rounds)
    if chosen.json:
        write_figures(chosen.json, figures)
    return 0


def measure_rows(pattern: str, rounds: int, target_seconds: float) -> CodecFigures:
    """Return the figures of the rows whose name matches a glob."""
    figures: CodecFigures = {}
    for row in rows():
        directions = [each for each in DIRECTIONS if fnmatch(row.name(each), pattern)]
        if not directions:
            continue
        values = SHAPES[row.shape].of_size(row.size)
        jobs = contenders_of(SHAPES[row.shape], row.kind, values, fmt=row.fmt)
        for direction in directions:
            figures[row.name(direction)] = _interleaved(jobs, direction, rounds, target_seconds)
    return figures


def _interleaved(
    jobs: Mapping[str, CodecJob], direction: str, rounds: int, target_seconds: float
) -> dict[str, list[float]]:
    calls: dict[str, Callable[[], object]] = {
        name: getattr(job, direction) for name, job in jobs.items()
    }
    counts = {name: _calibrated(call, target_seconds) for name, call in calls.items()}
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name in random.sample(list(calls), len(calls)):
            best = min(_seconds(calls[name], counts[name]) for _ in range(REPEATS))
            taken[name].append(best / counts[name] * 1e9)
    return taken


def _calibrated(call: Callable[[], object], target_seconds: float) -> int:
    """Return the number of calls that take about the target, after a warm-up."""
    # CPython adapts its bytecode in the first ten thousands of calls.
    started = perf_counter()
    while perf_counter() - started < WARM_UP_TARGETS * target_seconds:
        _seconds(call, 10)
    count = 1
    while (elapsed := _seconds(call, count)) < target_seconds / 4 and count < MAX_COUNT:
        count *= 2
    return max(1, round(count * target_seconds / max(elapsed, 1e-9)))


def _seconds(call: Callable[[], object], count: int) -> float:
    """Return the CPU time of some calls: another process on the core does not count."""
    repeated = [None] * count
    started = process_time()
    for _ in repeated:
        call()
    return process_time() - started
