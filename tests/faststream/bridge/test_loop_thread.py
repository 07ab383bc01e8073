"""An asyncio loop in a thread of its own, as structured as any task of Trio."""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from collections.abc import Coroutine
from typing import Any, cast

import pytest
import trio
from tests.support.faststream_loop import loop_threads, running_loop, thread_name
from tests.support.limits import HANG_SECONDS
from trio.testing import wait_all_tasks_blocked

from goevent import DriverError
from goevent_faststream import IslandClosed
from goevent_faststream._bridge.loop_thread import LoopThread


def only_leaf(error: BaseException) -> BaseException:
    """Return the one exception in groups of one."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    group = cast("BaseExceptionGroup[BaseException]", error)
    (only,) = group.exceptions
    return only_leaf(only)


async def raise_error(error: BaseException) -> None:
    raise error


async def test_coroutine_runs_in_the_loop_thread_and_no_thread_is_left() -> None:
    async with running_loop() as loop_thread:
        assert await loop_thread.call(thread_name) == "loop 0"
        assert loop_threads() == ["loop 0"]
    assert loop_threads() == []
    with pytest.raises(IslandClosed):
        await loop_thread.call(thread_name)


async def test_several_loop_threads_run_side_by_side() -> None:
    async with running_loop(name="loop 1") as one, running_loop(name="loop 2") as other:
        assert [await one.call(thread_name), await other.call(thread_name)] == ["loop 1", "loop 2"]
    assert loop_threads() == []


async def test_exception_of_a_coroutine_is_raised_in_its_caller() -> None:
    async with running_loop() as loop_thread:
        with pytest.raises(KeyError, match="gone"):
            await loop_thread.call(raise_error, KeyError("gone"))
        assert await loop_thread.call(thread_name) == "loop 0"


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

    async with running_loop() as loop_thread:
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

    async with trio.open_nursery() as nursery, running_loop() as loop_thread:
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
        async with running_loop() as loop_thread:
            await crash_in(loop_thread, raise_error(SystemExit(3)))
    error = only_leaf(caught.value)
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
            await loop_thread.call(thread_name)
        nursery.cancel_scope.cancel()  # cancels a call whose loop is gone
    await trio.sleep_forever()


async def test_call_to_a_loop_that_ended_unnoticed_raises_island_closed() -> None:
    with pytest.raises(ExceptionGroup) as caught:
        async with running_loop() as loop_thread:
            await end_unnoticed(loop_thread)
    assert isinstance(only_leaf(caught.value), DriverError)


async def test_unhandled_error_on_the_loop_is_reported() -> None:
    reports: list[Exception] = []

    async def let_it_fail() -> None:
        asyncio.get_running_loop().call_soon(lambda: 1 // 0)

    async with running_loop(reports) as loop_thread:
        await loop_thread.call(let_it_fail)
        with trio.fail_after(HANG_SECONDS):
            while not reports:
                await loop_thread.call(asyncio.sleep, 0)
    assert isinstance(reports[0], ZeroDivisionError)


def test_keyboard_interrupt_ends_trio_and_the_loop_thread() -> None:
    async def main() -> None:
        async with running_loop():
            signal.raise_signal(signal.SIGINT)
            await trio.sleep(60)

    with pytest.raises((KeyboardInterrupt, BaseExceptionGroup)) as caught:
        trio.run(main)
    assert isinstance(only_leaf(caught.value), KeyboardInterrupt)
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
        async with running_loop():
            await trio.sleep(60)

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises((KeyboardInterrupt, BaseExceptionGroup)) as caught:
        trio.run(main)
    assert isinstance(only_leaf(caught.value), KeyboardInterrupt)
    assert loop_threads() == []
