"""abxbus, the successor of bubus: one EventBus; `now()` runs an event and waits for its handlers.

Without a history and without time-outs, which is its fastest documented use. Handlers and events in
parallel are slower where no handler suspends.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable
from time import perf_counter

os.environ["ABXBUS_LOGGING_LEVEL"] = "ERROR"

from abxbus import BaseEvent, EventBus

from benchmarks.core.measure import Effort, measure_async
from benchmarks.core.scenario import Scenarios

# More events at once are accepted, but each costs more the more there are.
BURST = 40


class UserCreated(BaseEvent[None]):  # type: ignore[misc, unused-ignore]
    """The event: a pydantic model with an id, times and results."""

    user_id: int


def _handler(number: int, *, pause: bool) -> Callable[[UserCreated], Awaitable[None]]:
    async def plain(event: UserCreated) -> None:
        pass

    async def pausing(event: UserCreated) -> None:
        await asyncio.sleep(0)

    handler = pausing if pause else plain
    # It warns about two handlers of one name.
    handler.__name__ = f"handler_{number}"
    return handler


def _bus(size: int, *, pause: bool = False) -> EventBus:
    bus = EventBus("bench", max_history_size=0, event_timeout=0.0)
    for number in range(size):
        bus.on(UserCreated, _handler(number, pause=pause))
    return bus


async def _wait_for_all(size: int, effort: Effort, *, pause: bool = False) -> float:
    bus = _bus(size, pause=pause)

    async def body(count: int) -> float:
        start = perf_counter()
        for _ in range(count):
            await bus.emit(UserCreated(user_id=7)).now()
        return perf_counter() - start

    figure = await measure_async(body, effort)
    await bus.destroy()
    return figure


async def _burst_and_drain(size: int, effort: Effort) -> float:
    bus = _bus(size)

    async def body(count: int) -> float:
        start = perf_counter()
        for _ in range(count):
            for _ in range(BURST):
                last = bus.emit(UserCreated(user_id=7))
            # It runs events in order.
            await last.wait()
        return perf_counter() - start

    figure = await measure_async(body, effort) / BURST
    await bus.destroy()
    return figure


SCENARIOS: Scenarios = {
    "wait": lambda size, effort: asyncio.run(_wait_for_all(size, effort)),
    "suspend": lambda size, effort: asyncio.run(_wait_for_all(size, effort, pause=True)),
    "drain": lambda size, effort: asyncio.run(_burst_and_drain(size, effort)),
}
