"""The loop side: the capacity of a bus, and the deliveries that wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, cast

import trio
from tests.support.limits import HANG_SECONDS

from goevent.drivers import ACK
from goevent_faststream._adapter.contract import Arrival, Decision
from goevent_faststream._bridge.loop_side import Freed, LoopSide
from goevent_faststream._bridge.queues import ToTrioQueue


class AnyAdapter:
    """An adapter that settles everything."""

    async def settle(self, _: object) -> None:
        """Settle."""


Names = Callable[[], list[str]]


def run_on_loop(
    test: Callable[[LoopSide, Names], Awaitable[None]], prefetch: int, prefetch_bytes: int = 1000
) -> None:
    """Run a test on an asyncio loop, with a loop side and the names of the delivered arrivals."""

    async def on_loop(token: trio.lowlevel.TrioToken) -> None:
        arrivals: ToTrioQueue[Arrival] = ToTrioQueue(token)
        adapter = cast("Any", AnyAdapter())
        loop_side = LoopSide(
            adapter, "loop", prefetch, prefetch_bytes, arrivals, ToTrioQueue(token)
        )
        loop_side.connected = True
        async with asyncio.timeout(HANG_SECONDS):
            await test(loop_side, lambda: [each.name for each in arrivals.items])

    async def main() -> None:
        await trio.to_thread.run_sync(asyncio.run, on_loop(trio.lowlevel.current_trio_token()))

    trio.run(main)


def arrival(name: str, size: int = 0) -> Arrival:
    return Arrival(name, "", bytes(size))


def test_cancelled_delivery_passes_its_capacity_to_the_next() -> None:
    async def test(loop_side: LoopSide, names: Names) -> None:
        await loop_side.deliver(arrival("first"))
        async with asyncio.TaskGroup() as tasks:
            second = tasks.create_task(loop_side.deliver(arrival("second")))
            tasks.create_task(loop_side.deliver(arrival("third")))
            await asyncio.sleep(0)
            loop_side.receive([Freed(1, 0)])
            second.cancel()
        assert names() == ["first", "third"]

    run_on_loop(test, prefetch=1)


def test_bytes_bound_the_arrivals_that_a_bus_holds() -> None:
    async def test(loop_side: LoopSide, names: Names) -> None:
        for name in ("a", "b", "c"):
            await loop_side.deliver(arrival(name, 400))
        assert loop_side.capacity() == 0
        waiting = asyncio.create_task(loop_side.deliver(arrival("d", 400)))
        await asyncio.sleep(0)
        loop_side.receive([Freed(1, 100)])
        await asyncio.sleep(0)
        # 1,100 of 1,000 bytes are held: there is room for more arrivals, but not for their bytes.
        assert names() == ["a", "b", "c"]
        loop_side.receive([Freed(0, 300)])
        await waiting
        assert names() == ["a", "b", "c", "d"]

    run_on_loop(test, prefetch=500)


def test_an_arrival_above_the_limit_passes_alone() -> None:
    async def test(loop_side: LoopSide, names: Names) -> None:
        await loop_side.deliver(arrival("huge", 5000))
        waiting = asyncio.create_task(loop_side.deliver(arrival("small", 1)))
        await asyncio.sleep(0)
        assert names() == ["huge"]
        loop_side.receive([Decision(arrival("huge", 5000), ACK)])
        await waiting
        assert names() == ["huge", "small"]

    run_on_loop(test, prefetch=500)


def test_waiting_deliveries_keep_their_order_while_bytes_come_back_one_by_one() -> None:
    async def test(loop_side: LoopSide, names: Names) -> None:
        await loop_side.deliver(arrival("0", 1000))
        async with asyncio.TaskGroup() as tasks:
            for number in range(1, 6):
                tasks.create_task(loop_side.deliver(arrival(str(number), 1000)))
            await asyncio.sleep(0)
            for count in range(2, 7):
                loop_side.receive([Freed(1, 1000)])
                if count == 3:
                    # A delivery that comes now waits behind the others.
                    tasks.create_task(loop_side.deliver(arrival("6", 1000)))
                for _ in range(3):
                    await asyncio.sleep(0)
                assert names() == [str(number) for number in range(count)]
            loop_side.receive([Freed(1, 1000)])
        assert names() == [str(number) for number in range(7)]

    run_on_loop(test, prefetch=500)


def test_wait_for_capacity_ends_when_bytes_are_freed() -> None:
    async def test(loop_side: LoopSide, names: Names) -> None:
        await loop_side.deliver(arrival("a", 1000))
        waiting = asyncio.create_task(loop_side.wait_for_capacity())
        for _ in range(3):
            await asyncio.sleep(0)
        assert not waiting.done()
        loop_side.receive([Freed(1, 1)])
        await waiting
        assert loop_side.capacity() == 500
        assert names() == ["a"]

    run_on_loop(test, prefetch=500)
