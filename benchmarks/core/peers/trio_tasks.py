"""By hand on Trio, the least possible: one task and one deque per listener, parked receivers."""

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from time import perf_counter
from typing import TypeAlias

import trio
import trio.testing
from trio.lowlevel import Abort, RaiseCancelT, Task, reschedule, wait_task_rescheduled

from benchmarks.core.measure import Effort, measure_async, traced_bytes
from benchmarks.core.scenario import Payload, Scenarios

Listener: TypeAlias = Callable[[object], Awaitable[None]]


async def _plain(event: object) -> None:
    pass


async def _pausing(event: object) -> None:
    await trio.lowlevel.checkpoint()


def _abort(_: RaiseCancelT) -> Abort:
    return Abort.SUCCEEDED


class Mailbox:
    """What has come for one listener, and its task while that is parked."""

    __slots__ = ("mail", "parked")

    def __init__(self) -> None:
        self.mail: deque[object] = deque()
        self.parked: Task | None = None


class Mailboxes:
    """Deques with a task each, and a countdown that wakes the task which dispatches."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.left = 0
        self.boxes: list[Mailbox] = []
        self._nursery = nursery
        self._caller = trio.lowlevel.current_task()

    def add(self, listener: Listener) -> None:
        """Start the actor of one listener."""
        box = Mailbox()
        self.boxes.append(box)
        self._nursery.start_soon(self._serve, box, listener)

    async def _serve(self, box: Mailbox, listener: Listener) -> None:
        mail = box.mail
        while True:
            while mail:
                await listener(mail.popleft())
                self.left -= 1
                if not self.left:
                    reschedule(self._caller)
            box.parked = trio.lowlevel.current_task()
            await wait_task_rescheduled(_abort)


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

        async def body(count: int) -> float:
            start = perf_counter()
            for _ in range(count):
                boxes.left = size
                for box in boxes.boxes:
                    box.mail.append(event)
                    task = box.parked
                    if task is not None:
                        box.parked = None
                        reschedule(task)
                await wait_task_rescheduled(_abort)
            return perf_counter() - start

        return await measure_async(body, effort)


async def _burst_and_drain(size: int, effort: Effort) -> float:
    event, burst = Payload(7), effort.burst
    async with _mailboxes(size, _plain) as boxes:

        async def body(count: int) -> float:
            start = perf_counter()
            for _ in range(count):
                boxes.left = size * burst
                for _ in range(burst):
                    for box in boxes.boxes:
                        box.mail.append(event)
                        task = box.parked
                        if task is not None:
                            box.parked = None
                            reschedule(task)
                await wait_task_rescheduled(_abort)
            return perf_counter() - start

        return await measure_async(body, effort) / burst


async def _queued_bytes(effort: Effort, shared: Payload | None) -> float:
    async def parked(event: object) -> None:
        await trio.sleep_forever()

    async with _mailboxes(1, parked) as boxes:
        mail = boxes.boxes[0].mail
        before = traced_bytes()
        for _ in range(effort.population):
            mail.append(shared or Payload(7))
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
