"""bubus: one EventBus; an event is awaited until its handlers are done.

The history is one event: each dispatch scans it, and the default of 50 makes that four times as
slow. Handlers in parallel are slower where none of them suspends.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable
from time import perf_counter

# Its default level writes one line per event.
os.environ["BUBUS_LOGGING_LEVEL"] = "ERROR"

from bubus import BaseEvent, EventBus

from benchmarks.core.measure import Effort, measure_async
from benchmarks.core.scenario import Scenarios

# It refuses the 51st queued event.
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


async def _wait_for_all(size: int, effort: Effort, *, pause: bool = False) -> float:
    bus = EventBus("bench", max_history_size=1)
    for number in range(size):
        bus.on(UserCreated, _handler(number, pause=pause))

    async def body(count: int) -> float:
        start = perf_counter()
        for _ in range(count):
            await bus.dispatch(UserCreated(user_id=7))
        return perf_counter() - start

    figure = await measure_async(body, effort)
    await bus.stop()
    return figure


async def _burst_and_drain(size: int, effort: Effort) -> float:
    bus = EventBus("bench", max_history_size=1)
    for number in range(size):
        bus.on(UserCreated, _handler(number, pause=False))

    async def body(count: int) -> float:
        start = perf_counter()
        for _ in range(count):
            for _ in range(BURST):
                last = bus.dispatch(UserCreated(user_id=7))
            # It runs events in order; wait_until_idle() polls and would cost more.
            await last
        return perf_counter() - start

    figure = await measure_async(body, effort) / BURST
    await bus.stop()
    return figure


SCENARIOS: Scenarios = {
    "wait": lambda size, effort: asyncio.run(_wait_for_all(size, effort)),
    "suspend": lambda size, effort: asyncio.run(_wait_for_all(size, effort, pause=True)),
    "drain": lambda size, effort: asyncio.run(_burst_and_drain(size, effort)),
}
