"""The suite: contenders side by side on one server, in interleaved rounds."""

import argparse
import json
import random
import statistics
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from benchmarks._chaos._server import Server
from benchmarks._streams._meter import Measured

ROUNDS = 5
CONTENDERS = {"goevent": "goevent_redis", "faststream": "faststream", "redis_asyncio": "redis"}

# Each with what it is, how many events (of peers, fewer), and what goevent has to reach.
WORKLOADS: dict[str, tuple[str, int, int, dict[str, float]]] = {
    "consume": (
        "read, run a sync listener, acknowledge",
        50_000,
        5_000,
        {"faststream": 15.0, "redis_asyncio": 5.0},
    ),
    "wait": ("publish and wait, 64 tasks", 50_000, 10_000, {"faststream": 3.0}),
    "batch": ("publish in batches of 100", 50_000, 20_000, {"faststream": 5.0}),
}

Figures = dict[str, dict[str, list[Measured]]]


def main(arguments: list[str]) -> int:
    """Run the command line; the exit code is 1 if a contender failed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks streams", description="Durable events beside their peers."
    )
    parser.add_argument("--quick", action="store_true", help="one round of a tenth of the events")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--aof", action="store_true", help="a server that keeps what it accepts")
    parser.add_argument("--json", metavar="FILE", help="also write the figures of all rounds")
    chosen = parser.parse_args(arguments)
    rounds, part = (1, 10) if chosen.quick else (max(1, chosen.rounds), 1)
    present = [name for name, package in CONTENDERS.items() if find_spec(package)]
    figures: Figures = {workload: {name: [] for name in present} for workload in WORKLOADS}
    for _ in range(rounds):
        for workload, (_, ours, theirs, _) in WORKLOADS.items():
            for name in random.sample(present, len(present)):
                count = (ours if name == "goevent" else theirs) // part
                figures[workload][name].append(measure(name, workload, count, aof=chosen.aof))
    show(figures, rounds, aof=chosen.aof)
    if chosen.json:
        Path(chosen.json).write_text(json.dumps(figures, indent=1))
    return 0


def measure(contender: str, workload: str, count: int, *, aof: bool) -> Measured:
    """Return what the events of one contender have cost on a server of its own."""
    with Server("everysec" if aof else None) as server:
        command = [sys.executable, "-m", "benchmarks._streams._child"]
        arguments = [contender, workload, server.addr, str(count)]
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{contender} failed at {workload}:\n{done.stderr[-2000:]}")
    return Measured(*map(float, done.stdout.split()))


def show(figures: Figures, rounds: int, *, aof: bool) -> None:
    """Print medians, and the medians of the rounds' ratios beside their goals."""
    print(f"medians of {rounds} interleaved round(s), {'with' if aof else 'without'} AOF")
    for workload, (title, _, _, goals) in WORKLOADS.items():
        print(f"\n{title:42}{'events/s':>10}{'CPU us':>8}{'goevent is':>13}{'rounds':>15}  goal")
        ours = figures[workload]["goevent"]
        for name, theirs in figures[workload].items():
            rate = statistics.median(each.rate for each in theirs)
            cpu = statistics.median(each.cpu for each in theirs)
            row = f"  {name:40}{rate:>10,.0f}{cpu:>8.1f}"
            if name != "goevent":
                ratios = [a.rate / b.rate for a, b in zip(ours, theirs, strict=True)]
                ratio = statistics.median(ratios)
                row += f"{ratio:>11.1f} x{min(ratios):>8.1f} - {max(ratios):<4.1f}"
                if goal := goals.get(name):
                    row += f"  {goal:g} x: {'met' if ratio >= goal else 'MISSED'}"
            print(row)
