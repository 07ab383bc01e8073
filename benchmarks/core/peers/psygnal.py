"""psygnal with its asyncio backend, and its sync signals."""

import asyncio
import random
from time import perf_counter

import psygnal

from benchmarks.core.measure import Effort, measure, measure_async, traced_bytes
from benchmarks.core.peers.countdown import Countdown, Pause, asyncio_pause
from benchmarks.core.scenario import Payload, Scenarios, raising_listener, sync_listener


class Source:
    """The object whose signal is emitted."""

    user_created = psygnal.Signal(object)


async def start_backend() -> None:
    """Start the one task that runs every async listener."""
    backend = psygnal.set_async_backend("asyncio")
    while not backend.running.is_set():
        await asyncio.sleep(0)


def _sync(size: int, effort: Effort) -> float:
    signal = Source().user_created
    for _ in range(size):
        signal.connect(sync_listener())
    event, emit = Payload(7), signal.emit

    def body(count: int) -> float:
        start = perf_counter()
        for _ in range(count):
            emit(event)
        return perf_counter() - start

    return measure(body, effort)


def _raises(size: int, effort: Effort) -> float:
    signal = Source().user_created
    for _ in range(size):
        signal.connect(raising_listener())
    event, emit = Payload(7), signal.emit

    def body(count: int) -> float:
        failed = 0
        start = perf_counter()
        for _ in range(count):
            try:
                emit(event)
            except psygnal.EmitLoopError:
                failed += 1
        return perf_counter() - start

    return measure(body, effort)


def _come_and_go(size: int, effort: Effort) -> float:
    signal, listeners = Source().user_created, [sync_listener() for _ in range(size)]
    order = random.Random(7).sample(listeners, size)
    event = Payload(7)

    def body(count: int) -> float:
        start = perf_counter()
        for _ in range(count):
            for listener in listeners:
                signal.connect(listener)
            signal.emit(event)
            for listener in order:
                signal.disconnect(listener)
        return perf_counter() - start

    return measure(body, effort) / size


async def _wait_for_all(size: int, effort: Effort, pause: Pause | None = None) -> float:
    await start_backend()
    source, countdown = Source(), Countdown()
    for _ in range(size):
        source.user_created.connect(countdown.listener(pause))
    event, emit = Payload(7), source.user_created.emit

    async def body(count: int) -> float:
        start = perf_counter()
        for _ in range(count):
            countdown.left = size
            done = countdown.done = asyncio.Event()
            emit(event)
            await done.wait()
        return perf_counter() - start

    return await measure_async(body, effort)


async def _burst_and_drain(size: int, effort: Effort) -> float:
    await start_backend()
    source, countdown = Source(), Countdown()
    for _ in range(size):
        source.user_created.connect(countdown.listener())
    event, emit, burst = Payload(7), source.user_created.emit, effort.burst

    async def body(count: int) -> float:
        start = perf_counter()
        for _ in range(count):
            countdown.left = size * burst
            done = countdown.done = asyncio.Event()
            for _ in range(burst):
                emit(event)
            await done.wait()
        return perf_counter() - start

    return await measure_async(body, effort) / burst


async def _queued_bytes(effort: Effort, shared: Payload | None) -> float:
    await start_backend()
    source, gate = Source(), asyncio.Event()

    async def parked(event: object) -> None:
        await gate.wait()

    source.user_created.connect(parked)
    source.user_created.emit(Payload(7))
    await asyncio.sleep(0)
    before = traced_bytes()
    for _ in range(effort.population):
        source.user_created.emit(shared or Payload(7))
    return (traced_bytes() - before) / effort.population


async def _idle_bytes(effort: Effort) -> float:
    await start_backend()

    async def idle(event: object) -> None:
        pass

    source = Source()
    source.user_created.connect(idle)
    before = traced_bytes()
    for _ in range(effort.population):
        source.user_created.connect(idle)
    return (traced_bytes() - before) / effort.population


SCENARIOS: Scenarios = {
    "sync": _sync,
    "raises": _raises,
    "come_and_go": _come_and_go,
    "wait": lambda size, effort: asyncio.run(_wait_for_all(size, effort)),
    "suspend": lambda size, effort: asyncio.run(_wait_for_all(size, effort, asyncio_pause)),
    "drain": lambda size, effort: asyncio.run(_burst_and_drain(size, effort)),
    "queued": lambda _, effort: asyncio.run(_queued_bytes(effort, None)),
    "queued_shared": lambda _, effort: asyncio.run(_queued_bytes(effort, Payload(7))),
    "idle_one_name": lambda _, effort: asyncio.run(_idle_bytes(effort)),
}
