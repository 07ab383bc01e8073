"""psygnal with its Trio backend."""

from time import perf_counter

import psygnal
import trio
import trio.testing

from benchmarks.core.measure import Effort, measure_async, traced_bytes
from benchmarks.core.peers.countdown import Countdown, Pause, trio_pause
from benchmarks.core.scenario import Payload, Scenarios


class Source:
    """The object whose signal is emitted."""

    user_created = psygnal.Signal(object)


async def _start_backend(nursery: trio.Nursery) -> None:
    backend = psygnal.set_async_backend("trio")
    nursery.start_soon(backend.run)
    await trio.testing.wait_all_tasks_blocked()


async def _wait_for_all(size: int, effort: Effort, pause: Pause | None = None) -> float:
    async with trio.open_nursery() as nursery:
        await _start_backend(nursery)
        source, countdown = Source(), Countdown()
        for _ in range(size):
            source.user_created.connect(countdown.listener(pause))
        event, emit = Payload(7), source.user_created.emit

        async def body(count: int) -> float:
            start = perf_counter()
            for _ in range(count):
                countdown.left = size
                done = countdown.done = trio.Event()
                emit(event)
                await done.wait()
            return perf_counter() - start

        figure = await measure_async(body, effort)
        nursery.cancel_scope.cancel()
    return figure


async def _burst_and_drain(size: int, effort: Effort) -> float:
    async with trio.open_nursery() as nursery:
        await _start_backend(nursery)
        source, countdown = Source(), Countdown()
        for _ in range(size):
            source.user_created.connect(countdown.listener())
        event, emit, burst = Payload(7), source.user_created.emit, effort.burst

        async def body(count: int) -> float:
            start = perf_counter()
            for _ in range(count):
                countdown.left = size * burst
                done = countdown.done = trio.Event()
                for _ in range(burst):
                    emit(event)
                await done.wait()
            return perf_counter() - start

        figure = await measure_async(body, effort) / burst
        nursery.cancel_scope.cancel()
    return figure


async def _queued_bytes(effort: Effort, shared: Payload | None) -> float:
    gate = trio.Event()

    async def parked(event: object) -> None:
        await gate.wait()

    async with trio.open_nursery() as nursery:
        await _start_backend(nursery)
        source = Source()
        source.user_created.connect(parked)
        source.user_created.emit(Payload(7))
        await trio.testing.wait_all_tasks_blocked()
        before = traced_bytes()
        for _ in range(effort.population):
            source.user_created.emit(shared or Payload(7))
        after = traced_bytes()
        nursery.cancel_scope.cancel()
    return (after - before) / effort.population


SCENARIOS: Scenarios = {
    "wait": lambda size, effort: trio.run(_wait_for_all, size, effort),
    "suspend": lambda size, effort: trio.run(_wait_for_all, size, effort, trio_pause),
    "drain": lambda size, effort: trio.run(_burst_and_drain, size, effort),
    "queued": lambda _, effort: trio.run(_queued_bytes, effort, None),
    "queued_shared": lambda _, effort: trio.run(_queued_bytes, effort, Payload(7)),
}
