"""pykka: one thread and one mailbox per actor; the loop over the actors is ours."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any

import pykka

from benchmarks.core.measure import Effort, measure, traced_bytes
from benchmarks.core.scenario import Payload, Scenarios


class Idle(pykka.ThreadingActor):  # type: ignore[misc, unused-ignore]
    """An actor that does nothing with its messages."""

    def on_receive(self, message: Any) -> None:
        pass


class Parked(pykka.ThreadingActor):  # type: ignore[misc, unused-ignore]
    """An actor that stays in its first message until the gate opens."""

    def __init__(self, gate: threading.Event) -> None:
        super().__init__()
        self._gate = gate

    def on_receive(self, message: Any) -> None:
        self._gate.wait()


@contextmanager
def _actors(count: int) -> Iterator[list[pykka.ActorRef[Idle]]]:
    try:
        yield [Idle.start() for _ in range(count)]
    finally:
        pykka.ActorRegistry.stop_all()


def _wait(size: int, effort: Effort) -> float:
    event = Payload(7)
    with _actors(size) as actors:

        def body(count: int) -> float:
            start = perf_counter()
            for _ in range(count):
                pykka.get_all([actor.ask(event, block=False) for actor in actors])
            return perf_counter() - start

        return measure(body, effort)


def _drain(size: int, effort: Effort) -> float:
    event, burst = Payload(7), effort.burst
    with _actors(size) as actors:

        def body(count: int) -> float:
            start = perf_counter()
            for _ in range(count):
                for _ in range(burst):
                    for actor in actors:
                        actor.tell(event)
                for actor in actors:
                    actor.ask(event)
            return perf_counter() - start

        return measure(body, effort) / burst


def _queued_bytes(effort: Effort, shared: Payload | None) -> float:
    gate = threading.Event()
    actor = Parked.start(gate)
    try:
        actor.tell(Payload(7))
        before = traced_bytes()
        for _ in range(effort.population):
            actor.tell(shared or Payload(7))
        return (traced_bytes() - before) / effort.population
    finally:
        gate.set()
        pykka.ActorRegistry.stop_all()


SCENARIOS: Scenarios = {
    "wait": _wait,
    "drain": _drain,
    "queued": lambda _, effort: _queued_bytes(effort, None),
    "queued_shared": lambda _, effort: _queued_bytes(effort, Payload(7)),
}
