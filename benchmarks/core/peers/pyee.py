"""pyee: EventEmitter for sync listeners, AsyncIOEventEmitter for async ones."""

import asyncio
import random
from time import perf_counter

from pyee.asyncio import AsyncIOEventEmitter
from pyee.base import EventEmitter

from benchmarks.core.measure import Effort, measure, measure_async, traced_bytes
from benchmarks.core.peers.countdown import Countdown, Pause, asyncio_pause
from benchmarks.core.scenario import (
    FEW_NAMES,
    ListenerFailed,
    Payload,
    Scenarios,
    raising_listener,
    sync_listener,
)

NAME = "user.created"


def _sync(size: int, effort: Effort) -> float:
    emitter = EventEmitter()
    for _ in range(size):
        emitter.add_listener(NAME, sync_listener())
    event, emit = Payload(7), emitter.emit

    def body(count: int) -> float:
        start = perf_counter()
        for _ in range(count):
            emit(NAME, event)
        return perf_counter() - start

    return measure(body, effort)


def _raises(size: int, effort: Effort) -> float:
    emitter = EventEmitter()
    for _ in range(size):
        emitter.add_listener(NAME, raising_listener())
    event, emit = Payload(7), emitter.emit

    def body(count: int) -> float:
        failed = 0
        start = perf_counter()
        for _ in range(count):
            try:
                emit(NAME, event)
            except ListenerFailed:
                failed += 1
        return perf_counter() - start

    return measure(body, effort)


def _names(size: int, effort: Effort, in_use: int | None = None) -> float:
    emitter, listener = EventEmitter(), sync_listener()
    names = [f"bench.n{number}" for number in range(size)]
    for name in names:
        emitter.add_listener(name, listener)
    order = random.Random(7).sample(names, in_use or size)
    event, emit = Payload(7), emitter.emit

    def body(count: int) -> float:
        start = perf_counter()
        for _ in range(count):
            for name in order:
                emit(name, event)
        return perf_counter() - start

    return measure(body, effort) / len(order)


def _come_and_go(size: int, effort: Effort) -> float:
    emitter, listeners = EventEmitter(), [sync_listener() for _ in range(size)]
    order = random.Random(7).sample(listeners, size)
    event = Payload(7)

    def body(count: int) -> float:
        start = perf_counter()
        for _ in range(count):
            for listener in listeners:
                emitter.add_listener(NAME, listener)
            emitter.emit(NAME, event)
            for listener in order:
                emitter.remove_listener(NAME, listener)
        return perf_counter() - start

    return measure(body, effort) / size


async def _wait_for_all(size: int, effort: Effort, pause: Pause | None = None) -> float:
    emitter, countdown = AsyncIOEventEmitter(), Countdown()
    for _ in range(size):
        emitter.add_listener(NAME, countdown.listener(pause))
    event, emit = Payload(7), emitter.emit

    async def body(count: int) -> float:
        start = perf_counter()
        for _ in range(count):
            countdown.left = size
            done = countdown.done = asyncio.Event()
            emit(NAME, event)
            await done.wait()
        return perf_counter() - start

    return await measure_async(body, effort)


async def _burst_and_drain(size: int, effort: Effort) -> float:
    emitter, countdown = AsyncIOEventEmitter(), Countdown()
    for _ in range(size):
        emitter.add_listener(NAME, countdown.listener())
    event, emit, burst = Payload(7), emitter.emit, effort.burst

    async def body(count: int) -> float:
        start = perf_counter()
        for _ in range(count):
            countdown.left = size * burst
            done = countdown.done = asyncio.Event()
            for _ in range(burst):
                emit(NAME, event)
            await done.wait()
        return perf_counter() - start

    return await measure_async(body, effort) / burst


async def _queued_bytes(effort: Effort, shared: Payload | None) -> float:
    emitter, gate = AsyncIOEventEmitter(), asyncio.Event()

    async def parked(event: object) -> None:
        await gate.wait()

    emitter.add_listener(NAME, parked)
    emitter.emit(NAME, Payload(7))
    await asyncio.sleep(0)
    before = traced_bytes()
    for _ in range(effort.population):
        emitter.emit(NAME, shared or Payload(7))
    after = traced_bytes()
    gate.set()
    await emitter.wait_for_complete()
    return (after - before) / effort.population


def _idle_names(size: int, effort: Effort) -> float:
    async def idle(event: object) -> None:
        pass

    emitter = AsyncIOEventEmitter()
    names = [f"bench.n{number}" for number in range(effort.population)]
    emitter.add_listener(NAME, idle)
    before = traced_bytes()
    for name in names:
        emitter.add_listener(name, idle)
    return (traced_bytes() - before) / effort.population


SCENARIOS: Scenarios = {
    "sync": _sync,
    "raises": _raises,
    "come_and_go": _come_and_go,
    "names": _names,
    "few_names": lambda size, effort: _names(size, effort, FEW_NAMES),
    "wait": lambda size, effort: asyncio.run(_wait_for_all(size, effort)),
    "suspend": lambda size, effort: asyncio.run(_wait_for_all(size, effort, asyncio_pause)),
    "drain": lambda size, effort: asyncio.run(_burst_and_drain(size, effort)),
    "queued": lambda _, effort: asyncio.run(_queued_bytes(effort, None)),
    "queued_shared": lambda _, effort: asyncio.run(_queued_bytes(effort, Payload(7))),
    "idle_names": _idle_names,
}
