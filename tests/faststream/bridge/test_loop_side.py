"""The loop side: the capacity of a bus, and the deliveries that wait for it."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import trio

from goevent_faststream._adapter.contract import Arrival
from goevent_faststream._bridge.loop_side import Freed, LoopSide
from goevent_faststream._bridge.queues import ToTrioQueue


def test_cancelled_delivery_passes_its_capacity_to_the_next() -> None:
    async def on_loop(token: trio.lowlevel.TrioToken) -> None:
        arrivals: ToTrioQueue[Arrival] = ToTrioQueue(token)
        loop_side = LoopSide(cast("Any", None), "loop 0", 1, arrivals, ToTrioQueue(token))
        await loop_side.deliver(Arrival("first", "", b""))
        async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
            second = tasks.create_task(loop_side.deliver(Arrival("second", "", b"")))
            tasks.create_task(loop_side.deliver(Arrival("third", "", b"")))
            await asyncio.sleep(0)
            loop_side.receive([Freed(1)])
            second.cancel()
        assert [arrival.name for arrival in arrivals.items] == ["first", "third"]

    async def main() -> None:
        await trio.to_thread.run_sync(asyncio.run, on_loop(trio.lowlevel.current_trio_token()))

    trio.run(main)
