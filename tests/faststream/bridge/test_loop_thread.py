"""The loop_thread: an asyncio loop in a thread of its own, as structured as any task of Trio."""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
import trio
import trio.testing
from trio.testing import wait_all_tasks_blocked

from goevent import DriverError
from goevent_faststream import IslandClosed
from goevent_faststream._adapter.contract import Arrival
from goevent_faststream._bridge.loop_side import Freed, LoopSide
from goevent_faststream._bridge.loop_thread import LoopThread
from goevent_faststream._bridge.queues import LONG_BURST_ITEMS, ToLoopQueue, ToTrioQueue


def loop_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("loop ")]


@asynccontextmanager
async def running(
    told: list[Exception] | None = None, name: str = "loop 0"
) -> AsyncGenerator[LoopThread]:
    rescues: list[str] = []

    async def rescue() -> None:
        rescues.append(await where())

    loop_thread = LoopThread(name, (told if told is not None else []).append, rescue)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(loop_thread.run)
        await loop_thread.wait_started()
        try:
            yield loop_thread
        except trio.Cancelled:  # the loop has crashed
            assert rescues == [name]
            raise
        assert not rescues
        nursery.cancel_scope.cancel()


def leaf(error: BaseException) -> BaseException:
    """Return the one exception in groups of one."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    group = cast("BaseExceptionGroup[BaseException]", error)
    (only,) = group.exceptions
    return leaf(only)


async def where() -> str:
    return threading.current_thread().name


async def fail(error: BaseException) -> None:
    raise error


async def test_coroutine_runs_in_the_loop_thread_and_no_thread_is_left() -> None:
    async with running() as loop_thread:
        assert await loop_thread.call(where) == "loop 0"
        assert loop_threads() == ["loop 0"]
    assert loop_threads() == []
    with pytest.raises(IslandClosed):
        await loop_thread.call(where)


async def test_several_loop_threads_run_side_by_side() -> None:
    async with running(name="loop 1") as one, running(name="loop 2") as other:
        assert [await one.call(where), await other.call(where)] == ["loop 1", "loop 2"]
    assert loop_threads() == []


async def test_exception_of_a_coroutine_is_raised_in_its_caller() -> None:
    async with running() as loop_thread:
        with pytest.raises(KeyError, match="gone"):
            await loop_thread.call(fail, KeyError("gone"))
        assert await loop_thread.call(where) == "loop 0"


async def test_cancelled_call_cancels_the_coroutine_and_does_not_wait_for_it() -> None:
    ended = threading.Event()
    begun = threading.Event()

    async def stubborn() -> None:
        begun.set()
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            ended.set()
            raise

    async with running() as loop_thread:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(loop_thread.call, stubborn)
            assert await trio.to_thread.run_sync(begun.wait, 5)
            nursery.cancel_scope.cancel()
        assert await trio.to_thread.run_sync(ended.wait, 5)


async def test_calls_under_way_end_with_the_loop_thread() -> None:
    errors: list[Exception] = []

    async def ask(loop_thread: LoopThread) -> None:
        try:
            await loop_thread.call(asyncio.sleep, 3600)
        except IslandClosed as error:
            errors.append(error)

    async with trio.open_nursery() as nursery, running() as loop_thread:
        nursery.start_soon(ask, loop_thread)
        await wait_all_tasks_blocked()
    assert len(errors) == 1
    assert loop_threads() == []


async def crash_in(loop_thread: LoopThread, work: Coroutine[Any, Any, None]) -> None:
    async def start() -> None:
        tasks.append(asyncio.get_running_loop().create_task(work))

    tasks: list[Any] = []
    await loop_thread.call(start)
    await trio.sleep_forever()


async def test_crash_of_the_loop_is_a_driver_error() -> None:
    with pytest.raises(ExceptionGroup) as caught:
        async with running() as loop_thread:
            await crash_in(loop_thread, fail(SystemExit(3)))
    error = leaf(caught.value)
    assert isinstance(error, DriverError)
    assert isinstance(error.__cause__, SystemExit)
    assert loop_threads() == []


async def end_unnoticed(loop_thread: LoopThread) -> None:
    """End the loop while Trio's thread is busy and cannot notice."""
    (thread,) = [each for each in threading.enumerate() if each.name == "loop 0"]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(loop_thread.call, asyncio.sleep, 3600)
        await wait_all_tasks_blocked()
        loop_thread.loop.call_soon_threadsafe(sys.exit)
        thread.join()
        with pytest.raises(IslandClosed):
            await loop_thread.call(where)
        nursery.cancel_scope.cancel()  # cancels a call whose loop is gone
    await trio.sleep_forever()


async def test_call_to_a_loop_that_ended_unnoticed_raises_island_closed() -> None:
    with pytest.raises(ExceptionGroup) as caught:
        async with running() as loop_thread:
            await end_unnoticed(loop_thread)
    assert isinstance(leaf(caught.value), DriverError)


async def test_unhandled_error_on_the_loop_is_reported() -> None:
    told: list[Exception] = []

    async def let_it_fail() -> None:
        asyncio.get_running_loop().call_soon(lambda: 1 // 0)

    async with running(told) as loop_thread:
        await loop_thread.call(let_it_fail)
        with trio.fail_after(5):
            while not told:
                await loop_thread.call(asyncio.sleep, 0)
    assert isinstance(told[0], ZeroDivisionError)


def test_keyboard_interrupt_ends_trio_and_the_loop_thread() -> None:
    async def main() -> None:
        async with running():
            signal.raise_signal(signal.SIGINT)
            await trio.sleep(60)

    with pytest.raises((KeyboardInterrupt, BaseExceptionGroup)) as caught:
        trio.run(main)
    assert isinstance(leaf(caught.value), KeyboardInterrupt)
    assert loop_threads() == []


def test_keyboard_interrupt_as_the_thread_starts_leaves_no_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start = threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        start(thread)
        if thread.name == "loop 0":
            signal.raise_signal(signal.SIGINT)

    async def main() -> None:
        async with running():
            await trio.sleep(60)

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises((KeyboardInterrupt, BaseExceptionGroup)) as caught:
        trio.run(main)
    assert isinstance(leaf(caught.value), KeyboardInterrupt)
    assert loop_threads() == []


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

    async with running() as loop_thread:
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

    async with running() as loop_thread:
        await loop_thread.call(burst)
    assert calls == [*[0] * LONG_BURST_ITEMS, 1]


async def test_burst_to_the_loop_wakes_it_once() -> None:
    received: list[list[int]] = []
    calls: list[Any] = []
    async with running() as loop_thread:

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
    async with running() as loop_thread:
        to_loop: ToLoopQueue[int] = ToLoopQueue(loop_thread.loop, received.append)
        for n in range(LONG_BURST_ITEMS):
            to_loop.post(n)
        await loop_thread.call(asyncio.sleep, 0)
    assert received == [[*range(LONG_BURST_ITEMS)]]


async def test_items_posted_to_an_ended_loop_are_dropped() -> None:
    received: list[list[int]] = []
    async with running() as loop_thread:
        to_loop: ToLoopQueue[int] = ToLoopQueue(loop_thread.loop, received.append)
    for n in range(LONG_BURST_ITEMS):
        to_loop.post(n)
    assert received == []


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
