"""Checks that a deadlock is found when it arises, and by the listeners that are part of it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio

from goevent import DeadlockError


@asynccontextmanager
async def at_once() -> AsyncGenerator[None]:
    """Fail if time has to pass. Mocked time passes only while all tasks wait, as in a deadlock."""
    began = trio.current_time()
    with trio.fail_after(5):
        yield
    assert trio.current_time() == began


class DeadlockCatcher:
    """Collects the deadlock errors that listeners get."""

    def __init__(self) -> None:
        self.errors: list[DeadlockError] = []

    async def __call__(self, wait: Callable[[], Awaitable[object]]) -> None:
        try:
            await wait()
        except DeadlockError as error:
            self.errors.append(error)

    def __str__(self) -> str:
        return "\n".join(map(str, self.errors))
