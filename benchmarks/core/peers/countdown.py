"""How a caller learns that all listeners are done, with libraries that do not tell."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol, TypeAlias

import trio

Listener: TypeAlias = Callable[[object], Awaitable[None]]
Pause: TypeAlias = Callable[[], Awaitable[None]]

asyncio_pause: Pause = partial(asyncio.sleep, 0)
trio_pause: Pause = trio.lowlevel.checkpoint


class Flag(Protocol):
    """An asyncio.Event or a trio.Event."""

    def set(self) -> object:
        """Wake the waiter."""


class Countdown:
    """Counts deliveries that are still due.

    The caller sets `left` and a new `done` before it dispatches, then waits for `done`.
    """

    __slots__ = ("done", "left")

    done: Flag
    left: int

    def listener(self, pause: Pause | None = None) -> Listener:
        """Make an async listener that counts itself down, and pauses first when asked."""
        if pause is None:

            async def listener(event: object) -> None:
                self.left -= 1
                if not self.left:
                    self.done.set()

        else:

            async def listener(event: object) -> None:
                await pause()
                self.left -= 1
                if not self.left:
                    self.done.set()

        return listener
