"""By hand on asyncio: one task and one queue per listener."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from time import perf_counter
from typing import TypeAlias

from benchmarks.core.measure import Effort, measure_async, traced_bytes
from benchmarks.core.scenario import Payload, Scenarios

Listener: TypeAlias = Callable[[object], Awaitable[None]]


async def _plain(event: object) -> None:
    pass


async def _pausing(event: object) -> None:
    await asyncio.sleep(0)


class Mailboxes:
    """Queues with a task each, and a countdown over all of them."""

    def __init__(self) -> None:
        self.left = 0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.queues: list[asyncio.Queue[object]] = []
        self._tasks: list[asyncio.Task[None]] = []

    def add(self, listener: Listener) -> None:
        """Start the actor of one listener."""
        queue: asyncio.Queue[object] = asyncio.Queue()
        self.queues.append(queue)
        self._tasks.append(asyncio.create_task(self._serve(queue, listener)))

    async def _serve(self, queue: asyncio.Queue[object], listener: Listener) -> None:
        while True:
            await listener(await queue.get())
            self.left -= 1
            if not self.left:
                self.done.set_result(None)

    async def stop(self) -> None:
        """Cancel the actors."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def _mailboxes(count: int, listener: Listener) -> AsyncIterator[Mailboxes]:
    boxes = Mailboxes()
    for _ in range(count):
        boxes.add(listener)
    await asyncio.sleep(0)
    try:
        yield boxes
    finally:
        await boxes.stop()


async def _wait_for_all(size: int, effort: Effort, listener: Listener) -> float:
    loop, event = asyncio.get_running_loop(), Payload(7)
    async with _mailboxes(size, listener) as boxes:
        queues = boxes.queues

        async def body(count: int) -> float:
            start = perf_counter()
            for _ in range(count):
                boxes.left = size
                boxes.done = loop.create_future()
                for queue in queues:
                    queue.put_nowait(event)
                await boxes.done
            return perf_counter() - start

        return await measure_async(body, effort)


async def _burst_and_drain(size: int, effort: Effort) -> float:
    loop, event, burst = asyncio.get_running_loop(), Payload(7), effort.burst
    async with _mailboxes(size, _plain) as boxes:
        queues = boxes.queues

        async def body(count: int) -> float:
            start = perf_counter()
            for _ in range(count):
                boxes.left = size * burst
                boxes.done = loop.create_future()
                for _ in range(burst):
                    for queue in queues:
                        queue.put_nowait(event)
                await boxes.done
            return perf_counter() - start

        return await measure_async(body, effort) / burst


async def _queued_bytes(effort: Effort, shared: Payload | None) -> float:
    gate = asyncio.Event()

    async def parked(event: object) -> None:
        await gate.wait()

    async with _mailboxes(1, parked) as boxes:
        queue = boxes.queues[0]
        queue.put_nowait(Payload(7))
        await asyncio.sleep(0.01)
        before = traced_bytes()
        for _ in range(effort.population):
            queue.put_nowait(shared or Payload(7))
        return (traced_bytes() - before) / effort.population


async def _idle_bytes(effort: Effort) -> float:
    async with _mailboxes(1, _plain) as boxes:
        before = traced_bytes()
        for _ in range(effort.population):
            boxes.add(_plain)
        await asyncio.sleep(0)
        return (traced_bytes() - before) / effort.population


SCENARIOS: Scenarios = {
    "wait": lambda size, effort: asyncio.run(_wait_for_all(size, effort, _plain)),
    "suspend": lambda size, effort: asyncio.run(_wait_for_all(size, effort, _pausing)),
    "drain": lambda size, effort: asyncio.run(_burst_and_drain(size, effort)),
    "queued": lambda _, effort: asyncio.run(_queued_bytes(effort, None)),
    "queued_shared": lambda _, effort: asyncio.run(_queued_bytes(effort, Payload(7))),
    "idle_one_name": lambda _, effort: asyncio.run(_idle_bytes(effort)),
}
