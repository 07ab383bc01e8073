"""pyee's TrioEventEmitter."""

from time import perf_counter

import trio
import trio.testing
from pyee.trio import TrioEventEmitter

from benchmarks.core.measure import Effort, measure_async, traced_bytes
from benchmarks.core.peers.countdown import Countdown, Pause, trio_pause
from benchmarks.core.scenario import Payload, Scenarios

NAME = "user.created"


async def _wait_for_all(size: int, effort: Effort, pause: Pause | None = None) -> float:
    countdown, event = Countdown(), Payload(7)
    async with TrioEventEmitter() as emitter:
        for _ in range(size):
            emitter.add_listener(NAME, countdown.listener(pause))
        emit = emitter.emit

        async def body(count: int) -> float:
            start = perf_counter()
            for _ in range(count):
                countdown.left = size
                done = countdown.done = trio.Event()
                emit(NAME, event)
                await done.wait()
            return perf_counter() - start

        return await measure_async(body, effort)


async def _burst_and_drain(size: int, effort: Effort) -> float:
    countdown, event, burst = Countdown(), Payload(7), effort.burst
    async with TrioEventEmitter() as emitter:
        for _ in range(size):
            emitter.add_listener(NAME, countdown.listener())
        emit = emitter.emit

        async def body(count: int) -> float:
            start = perf_counter()
            for _ in range(count):
                countdown.left = size * burst
                done = countdown.done = trio.Event()
                for _ in range(burst):
                    emit(NAME, event)
                await done.wait()
            return perf_counter() - start

        return await measure_async(body, effort) / burst


async def _queued_bytes(effort: Effort, shared: Payload | None) -> float:
    gate = trio.Event()

    async def parked(event: object) -> None:
        await gate.wait()

    async with TrioEventEmitter() as emitter:
        emitter.add_listener(NAME, parked)
        emitter.emit(NAME, Payload(7))
        await trio.testing.wait_all_tasks_blocked()
        before = traced_bytes()
        for _ in range(effort.population):
            emitter.emit(NAME, shared or Payload(7))
        after = traced_bytes()
        gate.set()
    return (after - before) / effort.population


SCENARIOS: Scenarios = {
    "wait": lambda size, effort: trio.run(_wait_for_all, size, effort),
    "suspend": lambda size, effort: trio.run(_wait_for_all, size, effort, trio_pause),
    "drain": lambda size, effort: trio.run(_burst_and_drain, size, effort),
    "queued": lambda _, effort: trio.run(_queued_bytes, effort, None),
    "queued_shared": lambda _, effort: trio.run(_queued_bytes, effort, Payload(7)),
}
