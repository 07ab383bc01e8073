"""By hand on Trio: one task and one memory channel per listener."""

import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from time import perf_counter
from typing import TypeAlias

import trio
import trio.testing

from benchmarks.core.measure import Effort, measure_async, traced_bytes
from benchmarks.core.scenario import Payload, Scenarios

Listener: TypeAlias = Callable[[object], Awaitable[None]]


async def _plain(event: object) -> None:
    pass


async def _pausing(event: object) -> None:
    await trio.lowlevel.checkpoint()


class Mailboxes:
    """Memory channels with a task each, and a countdown over all of them."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.left = 0
        self.done = trio.Event()
        self.channels: list[trio.MemorySendChannel[object]] = []
        self._nursery = nursery

    def add(self, listener: Listener) -> None:
        """Start the actor of one listener."""
        send, receive = trio.open_memory_channel[object](math.inf)
        self.channels.append(send)
        self._nursery.start_soon(self._serve, receive, listener)

    async def _serve(self, receive: trio.MemoryReceiveChannel[object], listener: Listener) -> None:
        async for event in receive:
            await listener(event)
            self.left -= 1
            if not self.left:
                self.done.set()


@asynccontextmanager
async def _mailboxes(count: int, listener: Listener) -> AsyncIterator[Mailboxes]:
    async with trio.open_nursery() as nursery:
        boxes = Mailboxes(nursery)
        for _ in range(count):
            boxes.add(listener)
        await trio.testing.wait_all_tasks_blocked()
        yield boxes
        nursery.cancel_scope.cancel()


async def _wait_for_all(size: int, effort: Effort, listener: Listener) -> float:
    event = Payload(7)
    async with _mailboxes(size, listener) as boxes:
        channels = boxes.channels

        async def body(count: int) -> float:
            start = perf_counter()
            for _ in range(count):
                boxes.left = size
                boxes.done = trio.Event()
                for channel in channels:
                    channel.send_nowait(event)
                await boxes.done.wait()
            return perf_counter() - start

        return await measure_async(body, effort)


async def _burst_and_drain(size: int, effort: Effort) -> float:
    event, burst = Payload(7), effort.burst
    async with _mailboxes(size, _plain) as boxes:
        channels = boxes.channels

        async def body(count: int) -> float:
            start = perf_counter()
            for _ in range(count):
                boxes.left = size * burst
                boxes.done = trio.Event()
                for _ in range(burst):
                    for channel in channels:
                        channel.send_nowait(event)
                await boxes.done.wait()
            return perf_counter() - start

        return await measure_async(body, effort) / burst


async def _queued_bytes(effort: Effort, shared: Payload | None) -> float:
    async def parked(event: object) -> None:
        await trio.sleep_forever()

    async with _mailboxes(1, parked) as boxes:
        channel = boxes.channels[0]
        channel.send_nowait(Payload(7))
        await trio.testing.wait_all_tasks_blocked()
        before = traced_bytes()
        for _ in range(effort.population):
            channel.send_nowait(shared or Payload(7))
        return (traced_bytes() - before) / effort.population


async def _idle_bytes(effort: Effort) -> float:
    async with _mailboxes(1, _plain) as boxes:
        before = traced_bytes()
        for _ in range(effort.population):
            boxes.add(_plain)
        await trio.testing.wait_all_tasks_blocked()
        return (traced_bytes() - before) / effort.population


SCENARIOS: Scenarios = {
    "wait": lambda size, effort: trio.run(_wait_for_all, size, effort, _plain),
    "suspend": lambda size, effort: trio.run(_wait_for_all, size, effort, _pausing),
    "drain": lambda size, effort: trio.run(_burst_and_drain, size, effort),
    "queued": lambda _, effort: trio.run(_queued_bytes, effort, None),
    "queued_shared": lambda _, effort: trio.run(_queued_bytes, effort, Payload(7)),
    "idle_one_name": lambda _, effort: trio.run(_idle_bytes, effort),
}
