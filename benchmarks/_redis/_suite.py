"""The parent: starts the processes, interleaves the rounds, and prints figures and ratios."""

import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks._redis._child import READY
from benchmarks._redis._server import server

REPOSITORY = Path(__file__).resolve().parents[2]
SUBJECT = "goevent"
LINK = "goevent's link"
CONTENDERS = {
    SUBJECT: "_goevent",
    "FastStream": "_faststream",
    "redis.asyncio": "_redis_asyncio",
    LINK: "_link",
}
PACKAGES = {"FastStream": "faststream", "redis.asyncio": "redis"}
PAUSE = 0.005
HANGS_AFTER = 30.0


@dataclass(frozen=True)
class Effort:
    """How long it takes; the slow ones get fewer messages."""

    messages: int
    slow_messages: int
    seconds: float
    latencies: int


FULL = Effort(messages=40_000, slow_messages=15_000, seconds=1.5, latencies=300)
QUICK = Effort(messages=5_000, slow_messages=1_000, seconds=0.2, latencies=20)


@dataclass(frozen=True)
class Scenario:
    """One column: what is measured, and by how much goevent is to be better."""

    id: str
    title: str
    more_is_better: bool
    goals: dict[str, float]
    take: Callable[[str, str, Effort], float]


@contextmanager
def _child(contender: str, job: str, address: str, *numbers: float) -> Generator[Any]:
    command = [sys.executable, "-m", "benchmarks._redis._child", CONTENDERS[contender], job]
    with subprocess.Popen(
        [*command, address, *map(str, numbers)],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        try:
            yield child
        finally:
            child.kill()


def _wait_until_ready(child: Any) -> None:
    if (said := child.stdout.readline().strip()) != READY:
        child.kill()
        raise RuntimeError(f"{child.args} was not ready, but said {said!r}")


def _figure(child: Any) -> float:
    said, _ = child.communicate(timeout=HANGS_AFTER)
    if child.returncode:
        raise RuntimeError(f"{child.args} failed")
    return float(json.loads(said.splitlines()[-1])["figure"])


def _receive(contender: str, address: str, effort: Effort) -> float:
    count = effort.slow_messages if contender == "FastStream" else effort.messages
    with (
        _child(contender, "flood", address, count) as sender,
        _child(contender, "receive", address, count) as receiver,
    ):
        _wait_until_ready(sender)
        _wait_until_ready(receiver)
        sender.communicate("\n", timeout=HANGS_AFTER)
        return _figure(receiver)


def _publish(contender: str, address: str, effort: Effort) -> float:
    with _child(contender, "publish", address, effort.seconds) as child:
        return _figure(child)


def _latency(contender: str, address: str, effort: Effort) -> float:
    with _child(contender, "listen", address, effort.latencies) as listener:
        _wait_until_ready(listener)
        with _child(contender, "speak", address, effort.latencies, PAUSE):
            return _figure(listener)


SCENARIOS = (
    Scenario(
        "receive",
        "receive and run a listener, messages/s",
        True,
        {"FastStream": 12, "redis.asyncio": 1},
        _receive,
    ),
    Scenario(
        "publish",
        "publish and wait, 64 tasks, messages/s",
        True,
        {"FastStream": 8, "redis.asyncio": 6},
        _publish,
    ),
    Scenario(
        "latency",
        "publish to remote listener, median us",
        False,
        {"FastStream": 0.5, "redis.asyncio": 1},
        _latency,
    ),
)

Figures = dict[tuple[str, str], dict[int, float]]


def run(console: Console, *, rounds: int, quick: bool) -> int:
    """Measure everything, print it, and return 1 if a process failed."""
    effort = QUICK if quick else FULL
    contenders = [
        name for name in CONTENDERS if name not in PACKAGES or find_spec(PACKAGES[name]) is not None
    ]
    figures: Figures = {}
    failures: list[str] = []
    with server() as address:
        for index in range(rounds):
            for scenario in SCENARIOS:
                for name in random.sample(contenders, len(contenders)):
                    try:
                        figure = scenario.take(name, address, effort)
                    except (RuntimeError, subprocess.TimeoutExpired, ValueError) as error:
                        failures.append(f"{scenario.id} {name}: {error}")
                    else:
                        figures.setdefault((scenario.id, name), {})[index] = figure
        _show(console, figures, contenders, rounds)
        _show_names(console, address)
        _show_redis_benchmark(console, address, effort)
    for failure in failures:
        console.print(f"[red]failed[/]: {failure}", markup=True, soft_wrap=True)
    return 1 if failures else 0


def _ratios(figures: Figures, scenario: str, peer: str) -> list[float]:
    ours, theirs = figures.get((scenario, SUBJECT), {}), figures.get((scenario, peer), {})
    return [ours[index] / theirs[index] for index in ours if index in theirs]


def _show(console: Console, figures: Figures, contenders: list[str], rounds: int) -> None:
    console.print(
        f"Redis pub/sub: one server, medians of {rounds} interleaved rounds, each figure from "
        "fresh processes. An event is 150 bytes of JSON, and each contender puts its own envelope "
        f"around it. In brackets: the median of the rounds' ratios {SUBJECT} / peer.",
        soft_wrap=True,
    )
    table = Table()
    table.add_column("")
    for scenario in SCENARIOS:
        table.add_column(scenario.title, justify="right")
    for name in contenders:
        cells: list[str] = []
        for scenario in SCENARIOS:
            taken = figures.get((scenario.id, name))
            text = f"{median(taken.values()):,.0f}" if taken else ""
            ratios = _ratios(figures, scenario.id, name) if name != SUBJECT else []
            cells.append(f"{text} ({median(ratios):.2f})" if ratios else text)
        table.add_row(name, *cells)
    console.print(table)
    for scenario in SCENARIOS:
        for peer, bound in scenario.goals.items():
            if ratios := _ratios(figures, scenario.id, peer):
                ratio = median(ratios)
                reached = ratio >= bound if scenario.more_is_better else ratio <= bound
                sign = "≥" if scenario.more_is_better else "≤"
                console.print(
                    f"goal {scenario.id} {sign} {bound:g} x {peer}: {ratio:.2f} "
                    f"({min(ratios):.2f} to {max(ratios):.2f}), "
                    f"{'reached' if reached else 'NOT reached'}",
                    highlight=False,
                )


def _show_names(console: Console, address: str) -> None:
    with _child(SUBJECT, "names", address) as child:
        said, _ = child.communicate(timeout=HANGS_AFTER)
    told = json.loads(said.splitlines()[-1])
    console.print(
        f"10,000 event names: {told['connections']} connection(s), {told['figure']:,.0f} bytes "
        "each in the process (goal: 1 connection, at most 1,024 bytes)",
        highlight=False,
    )


def _show_redis_benchmark(console: Console, address: str, effort: Effort) -> None:
    """Show what the server's own tool gets, with 64 requests under way on one connection."""
    tool = shutil.which("redis-benchmark")
    if tool is None:
        return
    host, port = address.split(":")
    asked = f"-h {host} -p {port} -c 1 -P 64 -n {effort.messages} --csv publish bench.order"
    said = subprocess.run(
        [tool, *asked.split(), "x" * 150], capture_output=True, text=True, check=True
    ).stdout
    rate = float(said.splitlines()[-1].split('","')[1])
    console.print(
        f"redis-benchmark, PUBLISH, one connection, 64 in a row: {rate:,.0f} messages/s",
        highlight=False,
    )
