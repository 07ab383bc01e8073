"""The two queues between Trio and the loop: one wake-up for a burst."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import trio
import trio.testing
from tests.support.faststream_loop import running_loop

from goevent_faststream._bridge.queues import LONG_BURST_ITEMS, ToLoopQueue, ToTrioQueue


class CountingToken:
    """A token of Trio that counts its calls."""

    def __init__(self) -> None:
        self.token = trio.lowlevel.current_trio_token()
        self.calls = 0

    def run_sync_soon(self, *args: Any) -> None:
        self.calls += 1
        self.token.run_sync_soon(*args)


async def test_burst_to_trio_wakes_it_once_and_not_while_it_is_awake() -> None:
    token = CountingToken()
    to_trio: ToTrioQueue[int] = ToTrioQueue(token)  # type: ignore[arg-type]

    async def burst(count: int) -> None:
        for n in range(count):
            to_trio.post(n)

    async with running_loop() as loop_thread:
        await loop_thread.call(burst, 50)
        await loop_thread.call(asyncio.sleep, 0)
        assert token.calls == 1
        await to_trio.wait()
        await loop_thread.call(burst, 50)
        assert token.calls == 1  # Trio has not slept since, so it looks again by itself
        assert [*to_trio.items] == [*range(50)] * 2
        to_trio.items.clear()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(to_trio.wait)
            await trio.testing.wait_all_tasks_blocked()
            await loop_thread.call(burst, 500)
        await loop_thread.call(asyncio.sleep, 0)
        assert token.calls == 2
        assert [*to_trio.items] == [*range(500)]


async def test_long_burst_wakes_trio_before_its_end() -> None:
    token = CountingToken()
    to_trio: ToTrioQueue[int] = ToTrioQueue(token)  # type: ignore[arg-type]
    calls: list[int] = []

    async def burst() -> None:
        for n in range(LONG_BURST_ITEMS):
            calls.append(token.calls)
            to_trio.post(n)
        calls.append(token.calls)

    async with running_loop() as loop_thread:
        await loop_thread.call(burst)
    assert calls == [*[0] * LONG_BURST_ITEMS, 1]


async def test_burst_to_the_loop_wakes_it_once() -> None:
    received: list[list[int]] = []
    calls: list[Any] = []
    async with running_loop() as loop_thread:

        class CountingLoop:
            def call_soon_threadsafe(self, *args: Any) -> None:
                calls.append(args)
                loop_thread.loop.call_soon_threadsafe(*args)

        async def hold() -> None:
            held.set()
            go.wait(5)

        held, go = threading.Event(), threading.Event()
        to_loop: ToLoopQueue[int] = ToLoopQueue(CountingLoop(), received.append)  # type: ignore[arg-type]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(loop_thread.call, hold)
            nursery.start_soon(to_loop.wake_loop)
            assert await trio.to_thread.run_sync(held.wait, 5)
            for n in range(LONG_BURST_ITEMS - 1):
                to_loop.post(n)
                assert not calls
            await trio.testing.wait_all_tasks_blocked()
            assert len(calls) == 1
            for n in range(LONG_BURST_ITEMS - 1, 2 * LONG_BURST_ITEMS):
                to_loop.post(n)  # the loop was woken and has not looked yet
            go.set()
            await loop_thread.call(asyncio.sleep, 0)
            assert received == [[*range(2 * LONG_BURST_ITEMS)]]
            assert len(calls) == 1
            to_loop.post(-1)
            await trio.testing.wait_all_tasks_blocked()
            await loop_thread.call(asyncio.sleep, 0)
            assert received[1:] == [[-1]]
            nursery.cancel_scope.cancel()


async def test_long_burst_wakes_the_loop_before_its_end() -> None:
    received: list[list[int]] = []
    async with running_loop() as loop_thread:
        to_loop: ToLoopQueue[int] = ToLoopQueue(loop_thread.loop, received.append)
        for n in range(LONG_BURST_ITEMS):
            to_loop.post(n)
        await loop_thread.call(asyncio.sleep, 0)
    assert received == [[*range(LONG_BURST_ITEMS)]]


async def test_items_posted_to_an_ended_loop_are_dropped() -> None:
    received: list[list[int]] = []
    async with running_loop() as loop_thread:
        to_loop: ToLoopQueue[int] = ToLoopQueue(loop_thread.loop, received.append)
    for n in range(LONG_BURST_ITEMS):
        to_loop.post(n)
    assert received == []


def test_post_after_the_end_of_trio_is_dropped() -> None:
    async def make() -> ToTrioQueue[int]:
        return ToTrioQueue(trio.lowlevel.current_trio_token())

    queue = trio.run(make)
    queue.post(1)
    assert [*queue.items] == [1]
