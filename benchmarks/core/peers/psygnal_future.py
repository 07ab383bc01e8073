"""psygnal with its asyncio backend and the cheapest completion a user could write."""

import asyncio
from collections.abc import Awaitable, Callable
from time import perf_counter

from benchmarks.core.measure import Effort, measure_async
from benchmarks.core.peers.countdown import Pause, asyncio_pause
from benchmarks.core.peers.psygnal import Source, start_backend
from benchmarks.core.scenario import Payload, Scenarios


async def _wait_for_all(size: int, effort: Effort, pause: Pause | None = None) -> float:
    await start_backend()
    loop = asyncio.get_running_loop()
    left = 0
    done: asyncio.Future[None] = loop.create_future()

    def make_listener() -> Callable[[object], Awaitable[None]]:
        async def plain(event: object) -> None:
            nonlocal left
            left -= 1
            if not left:
                done.set_result(None)

        async def pausing(event: object) -> None:
            nonlocal left
            assert pause is not None
            await pause()
            left -= 1
            if not left:
                done.set_result(None)

        return plain if pause is None else pausing

    source = Source()
    for _ in range(size):
        source.user_created.connect(make_listener())
    event, emit = Payload(7), source.user_created.emit

    async def body(count: int) -> float:
        nonlocal left, done
        start = perf_counter()
        for _ in range(count):
            left = size
            done = loop.create_future()
            emit(event)
            await done
        return perf_counter() - start

    return await measure_async(body, effort)


SCENARIOS: Scenarios = {
    "wait": lambda size, effort: asyncio.run(_wait_for_all(size, effort)),
    "suspend": lambda size, effort: asyncio.run(_wait_for_all(size, effort, asyncio_pause)),
}
