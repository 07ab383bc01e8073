"""lahja: one AsyncioEndpoint without connections, default broadcast."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Any

from lahja.asyncio.endpoint import AsyncioEndpoint
from lahja.common import BaseEvent, BroadcastConfig

from benchmarks.core.measure import Effort, measure_async, traced_bytes
from benchmarks.core.peers.countdown import Countdown
from benchmarks.core.scenario import Scenarios, raising_listener, sync_listener

Make = Callable[[], Callable[[Any], Any]]


class UserCreated(BaseEvent):  # type: ignore[misc, unused-ignore]
    """The event; lahja marks it as bound when it is sent."""

    def __init__(self, user_id: int) -> None:
        self.user_id = user_id


def plain() -> Callable[[object], Awaitable[None]]:
    """Make an async listener that does nothing."""

    async def listener(event: object) -> None:
        pass

    return listener


def pausing() -> Callable[[object], Awaitable[None]]:
    """Make an async listener that suspends once."""

    async def listener(event: object) -> None:
        await asyncio.sleep(0)

    return listener


async def broadcast(
    size: int, effort: Effort, make: Make, config: BroadcastConfig | None = None
) -> float:
    """Measure `await endpoint.broadcast(event)`, which returns when all listeners are done."""
    async with AsyncioEndpoint("bench").run() as endpoint:
        for _ in range(size):
            endpoint.subscribe(UserCreated, make())
        await asyncio.sleep(0.01)
        event, send = UserCreated(7), endpoint.broadcast

        async def body(count: int) -> float:
            start = perf_counter()
            for _ in range(count):
                # A second broadcast of one event is a BindError; clearing the flag costs 10 ns,
                # a new event 150 ns that no other contender pays.
                event.is_bound = False
                await send(event, config)
            return perf_counter() - start

        return await measure_async(body, effort)


async def _come_and_go(size: int, effort: Effort) -> float:
    async with AsyncioEndpoint("bench").run() as endpoint:
        listeners = [sync_listener() for _ in range(size)]
        order = random.Random(7).sample(range(size), size)
        event = UserCreated(7)

        async def body(count: int) -> float:
            start = perf_counter()
            for _ in range(count):
                found = [endpoint.subscribe(UserCreated, listener) for listener in listeners]
                event.is_bound = False
                await endpoint.broadcast(event)
                for number in order:
                    found[number].unsubscribe()
            return perf_counter() - start

        return await measure_async(body, effort) / size


async def _burst_and_drain(size: int, effort: Effort) -> float:
    countdown, burst = Countdown(), effort.burst
    async with AsyncioEndpoint("bench").run() as endpoint:
        for _ in range(size):
            endpoint.subscribe(UserCreated, countdown.listener())
        await asyncio.sleep(0.01)
        send = endpoint.broadcast_nowait

        async def body(count: int) -> float:
            start = perf_counter()
            for _ in range(count):
                countdown.left = size * burst
                done = asyncio.Event()
                countdown.done = done
                for _ in range(burst):
                    send(UserCreated(7))
                await done.wait()
            return perf_counter() - start

        return await measure_async(body, effort) / burst


async def _queued_bytes(effort: Effort) -> float:
    gate = asyncio.Event()

    async def parked(event: object) -> None:
        await gate.wait()

    async with AsyncioEndpoint("bench").run() as endpoint:
        endpoint.subscribe(UserCreated, parked)
        await asyncio.sleep(0.01)
        before = traced_bytes()
        for _ in range(effort.population):
            endpoint.broadcast_nowait(UserCreated(7))
        # The tasks run up to the gate: an event waits in a started listener, not in a queue.
        await asyncio.sleep(0.01)
        after = traced_bytes()
        gate.set()
        await asyncio.sleep(0.01)
    return (after - before) / effort.population


async def _idle_bytes(effort: Effort) -> float:
    async def idle(event: object) -> None:
        pass

    async with AsyncioEndpoint("bench").run() as endpoint:
        endpoint.subscribe(UserCreated, idle)
        await asyncio.sleep(0.01)
        before = traced_bytes()
        for _ in range(effort.population):
            endpoint.subscribe(UserCreated, idle)
        return (traced_bytes() - before) / effort.population


SCENARIOS: Scenarios = {
    "sync": lambda size, effort: asyncio.run(broadcast(size, effort, sync_listener)),
    "raises": lambda size, effort: asyncio.run(broadcast(size, effort, raising_listener)),
    "come_and_go": lambda size, effort: asyncio.run(_come_and_go(size, effort)),
    "wait": lambda size, effort: asyncio.run(broadcast(size, effort, plain)),
    "suspend": lambda size, effort: asyncio.run(broadcast(size, effort, pausing)),
    "drain": lambda size, effort: asyncio.run(_burst_and_drain(size, effort)),
    "queued": lambda _, effort: asyncio.run(_queued_bytes(effort)),
    "idle_one_name": lambda _, effort: asyncio.run(_idle_bytes(effort)),
}
