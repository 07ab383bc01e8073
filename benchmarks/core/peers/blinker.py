"""blinker: send() for sync listeners, send_async() for async ones, awaited inline."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from time import perf_counter

from blinker import Namespace, Signal

from benchmarks.core.measure import Effort, measure, measure_async, traced_bytes
from benchmarks.core.scenario import (
    FEW_NAMES,
    ListenerFailed,
    Payload,
    Scenarios,
    raising_listener,
    sync_listener,
)


def _sync(size: int, effort: Effort) -> float:
    signal = Signal()
    for _ in range(size):
        signal.connect(sync_listener(), weak=False)
    event, send = Payload(7), signal.send

    def body(count: int) -> float:
        start = perf_counter()
        for _ in range(count):
            send(event)
        return perf_counter() - start

    return measure(body, effort)


def _raises(size: int, effort: Effort) -> float:
    signal = Signal()
    for _ in range(size):
        signal.connect(raising_listener(), weak=False)
    event, send = Payload(7), signal.send

    def body(count: int) -> float:
        failed = 0
        start = perf_counter()
        for _ in range(count):
            try:
                send(event)
            except ListenerFailed:
                failed += 1
        return perf_counter() - start

    return measure(body, effort)


def _names(size: int, effort: Effort, in_use: int | None = None) -> float:
    signals, listener = Namespace(), sync_listener()
    names = [f"bench.n{number}" for number in range(size)]
    for name in names:
        signals.signal(name).connect(listener)
    order = random.Random(7).sample(names, in_use or size)
    event, signal = Payload(7), signals.signal

    def body(count: int) -> float:
        start = perf_counter()
        for _ in range(count):
            for name in order:
                signal(name).send(event)
        return perf_counter() - start

    return measure(body, effort) / len(order)


def _come_and_go(size: int, effort: Effort) -> float:
    signal, listeners = Signal(), [sync_listener() for _ in range(size)]
    order = random.Random(7).sample(listeners, size)
    event = Payload(7)

    def body(count: int) -> float:
        start = perf_counter()
        for _ in range(count):
            for listener in listeners:
                signal.connect(listener, weak=False)
            signal.send(event)
            for listener in order:
                signal.disconnect(listener)
        return perf_counter() - start

    return measure(body, effort) / size


def _plain() -> Callable[[object], Awaitable[None]]:
    async def listener(event: object) -> None:
        pass

    return listener


def _pausing() -> Callable[[object], Awaitable[None]]:
    async def listener(event: object) -> None:
        await asyncio.sleep(0)

    return listener


async def _wait_for_all(
    size: int, effort: Effort, make: Callable[[], Callable[[object], Awaitable[None]]]
) -> float:
    signal = Signal()
    for _ in range(size):
        signal.connect(make(), weak=False)
    event, send = Payload(7), signal.send_async

    async def body(count: int) -> float:
        start = perf_counter()
        for _ in range(count):
            await send(event)
        return perf_counter() - start

    return await measure_async(body, effort)


def _idle_names(size: int, effort: Effort) -> float:
    async def idle(event: object) -> None:
        pass

    names = [f"bench.n{number}" for number in range(effort.population)]
    signals = Namespace()
    before = traced_bytes()
    for name in names:
        signals.signal(name).connect(idle)
    return (traced_bytes() - before) / effort.population


SCENARIOS: Scenarios = {
    "sync": _sync,
    "raises": _raises,
    "come_and_go": _come_and_go,
    "names": _names,
    "few_names": lambda size, effort: _names(size, effort, FEW_NAMES),
    "wait": lambda size, effort: asyncio.run(_wait_for_all(size, effort, _plain)),
    "suspend": lambda size, effort: asyncio.run(_wait_for_all(size, effort, _pausing)),
    "idle_names": _idle_names,
}
