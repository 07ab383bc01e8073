"""The parent: for each broker, starts the processes, interleaves the rounds, prints the ratios."""

import argparse
import json
import random
import secrets
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks._brokers._child import READY
from benchmarks._brokers._contender import Scene
from benchmarks._brokers._places import FLUSHING, PLACES, Place
from benchmarks._brokers._servers import SERVERS, Missing, clear

REPOSITORY = Path(__file__).resolve().parents[2]
ROUNDS = 5
SUBJECT, PEER, MSGSPEC = "goevent", "FastStream", "FastStream, msgspec"
CONTENDERS = {
    SUBJECT: "_goevent",
    PEER: "_faststream",
    MSGSPEC: "_faststream_msgspec",
    FLUSHING: "_faststream_flushing",
}
JOBS = {"receive": "receive, listener, acknowledge", "publish": "publish and wait, 64 tasks"}
HANGS_AFTER = 60.0
SECONDS = 2.0

Figures = dict[str, dict[str, list[float]]]


def main(arguments: list[str]) -> int:
    """Run the command line; the exit code is 1 if a process failed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks brokers",
        description="goevent over FastStream's brokers beside FastStream itself.",
    )
    parser.add_argument("only", nargs="*", choices=[[], *PLACES], help="these rows; default: all")
    parser.add_argument("--quick", action="store_true", help="one round of a tenth of the events")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--json", metavar="FILE", help="also write the figures of all rounds")
    chosen = parser.parse_args(arguments)
    rounds, part = (1, 10) if chosen.quick else (max(1, chosen.rounds), 1)
    print(
        f"medians of {rounds} interleaved round(s), each figure from fresh processes; an event is "
        "150 bytes of JSON.\nFastStream's handler takes a model of pydantic, or of msgspec's "
        "serializer; goevent's listener is a def\nthat takes a typed event from a JSON envelope, "
        "and each publish has a handle that is waited for."
    )
    told: dict[str, Figures] = {}
    failed = False
    for name in chosen.only or PLACES:
        try:
            told[name] = measure(name, rounds, part)
        except Missing as why:
            print(f"\n{PLACES[name].title}: SKIPPED, {why}")
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            failed = True
            print(f"\n{PLACES[name].title}: FAILED, {error}")
        else:
            show(PLACES[name], told[name])
    if chosen.json:
        Path(chosen.json).write_text(json.dumps(told, indent=1))
    return 1 if failed else 0


def measure(name: str, rounds: int, part: int) -> Figures:
    """Return the figures of one broker.

    Raises:
        Missing: there is no such broker here, or goevent does not speak to it.
    """
    place = PLACES[name]
    _refuse_unmapped(place)
    figures: Figures = {job: {} for job in JOBS}
    with SERVERS[place.server]() as addr:
        for _ in range(rounds):
            for job in JOBS:
                contenders = contenders_of(place, job)
                for contender in random.sample(contenders, len(contenders)):
                    scene = Scene(name, addr, f"bench-{secrets.token_hex(4)}")
                    try:
                        figure = take(job, contender, scene, part, figures)
                    finally:
                        clear(place.server, addr, scene.tag)
                    figures[job].setdefault(contender, []).append(figure)
    return figures


def contenders_of(place: Place, job: str) -> list[str]:
    """Return who takes part."""
    if job == "publish":
        return [SUBJECT, PEER, *([FLUSHING] if place.flushing else [])]
    return [SUBJECT, PEER, MSGSPEC]


def _refuse_unmapped(place: Place) -> None:
    if find_spec("faststream") is None:
        raise Missing('faststream is not installed: pip install -e ".[dev,bench]"')
    from goevent_faststream import MAPPINGS

    scheme = place.goevent.partition("://")[0]
    if not any(scheme in mapping.schemes for mapping in MAPPINGS):
        raise Missing(f"goevent has no dialect for {scheme}:// yet")


def take(job: str, contender: str, scene: Scene, part: int, figures: Figures) -> float:
    """Return one figure, from processes of its own."""
    if job == "publish":
        with _child(contender, "publish", SECONDS / part, scene) as child:
            return _figure(child)
    count = PLACES[scene.broker].messages // part
    with (
        _child(contender, "flood", count, scene) as sender,
        _child(contender, "receive", count, scene) as receiver,
    ):
        _wait_until_ready(sender)
        _wait_until_ready(receiver)
        sender.stdin.write("\n")
        sender.stdin.flush()
        figure = _figure(receiver)
        figures.setdefault("flood", {}).setdefault(contender, []).append(_figure(sender))
        return figure


@contextmanager
def _child(contender: str, job: str, number: float, scene: Scene) -> Generator[Any]:
    command = [sys.executable, "-m", "benchmarks._brokers._child", CONTENDERS[contender], job]
    with subprocess.Popen(
        [*command, str(number), *scene],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
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


def show(place: Place, figures: Figures) -> None:
    """Print the rows of one broker, and the medians of the rounds' ratios beside their goals."""
    floods = [figure for each in figures.get("flood", {}).values() for figure in each]
    print(f"\n{place.title}: {place.notes}")
    print(f"  sent to receivers at {min(floods):,.0f}/s or more")
    for job, title in JOBS.items():
        print(f"  {title:36}{'events/s':>10}{'goevent is':>13}{'rounds':>15}  goal")
        ours = figures[job][SUBJECT]
        for name in contenders_of(place, job):
            theirs = figures[job][name]
            row = f"    {name:34}{median(theirs):>10,.0f}"
            if name != SUBJECT:
                ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
                ratio = median(ratios)
                row += f"{ratio:>11.2f} x{min(ratios):>8.2f} - {max(ratios):<5.2f}"
                goals = place.publish if job == "publish" else {PEER: place.receive}
                if goal := goals.get(name):
                    row += f" {goal:g} x: {'met' if ratio >= goal else 'MISSED'}"
            print(row)
