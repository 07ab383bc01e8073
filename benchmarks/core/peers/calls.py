"""The floor: calling functions in a loop."""

import random
from time import perf_counter

from benchmarks.core.measure import Effort, measure
from benchmarks.core.scenario import (
    FEW_NAMES,
    ListenerFailed,
    Payload,
    Scenarios,
    raising_listener,
    sync_listener,
)


def _sync(size: int, effort: Effort) -> float:
    listeners = [sync_listener() for _ in range(size)]
    event = Payload(7)

    def body(count: int) -> float:
        start = perf_counter()
        for _ in range(count):
            for listener in listeners:
                listener(event)
        return perf_counter() - start

    return measure(body, effort)


def _raises(size: int, effort: Effort) -> float:
    listeners = [raising_listener() for _ in range(size)]
    event = Payload(7)

    def body(count: int) -> float:
        failed = 0
        start = perf_counter()
        for _ in range(count):
            for listener in listeners:
                try:
                    listener(event)
                except ListenerFailed:
                    failed += 1
        return perf_counter() - start

    return measure(body, effort)


def _names(size: int, effort: Effort, in_use: int | None = None) -> float:
    listener = sync_listener()
    names = [f"bench.n{number}" for number in range(size)]
    table = {name: [listener] for name in names}
    event = Payload(7)
    order = random.Random(7).sample(names, in_use or size)

    def body(count: int) -> float:
        start = perf_counter()
        for _ in range(count):
            for name in order:
                for call in table[name]:
                    call(event)
        return perf_counter() - start

    return measure(body, effort) / len(order)


SCENARIOS: Scenarios = {
    "sync": _sync,
    "raises": _raises,
    "names": _names,
    "few_names": lambda size, effort: _names(size, effort, FEW_NAMES),
}
