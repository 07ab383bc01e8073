"""Loop threads for the tests of the bridge."""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import trio

from goevent_faststream._bridge.loop_thread import LoopThread


def loop_threads() -> list[str]:
    """Return the names of the loop threads that run."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("loop ")]


@asynccontextmanager
async def running_loop(
    reports: list[Exception] | None = None, name: str = "loop 0"
) -> AsyncGenerator[LoopThread]:
    """Run a loop thread while the body runs, and check that it is rescued only after a crash.

    Args:
        reports: Gets the errors that no task has handled.
    """
    rescues: list[str] = []

    async def rescue() -> None:
        rescues.append(await thread_name())

    loop_thread = LoopThread(name, (reports if reports is not None else []).append, rescue)
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


async def thread_name() -> str:
    """Return the name of the thread that runs this."""
    return threading.current_thread().name
