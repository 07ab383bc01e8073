"""What the bus asks of a driver: to take events to other buses, and to bring theirs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import trio

Deliver = Callable[[Any, Mapping[str, str]], Awaitable[None]]
Lost = Callable[[Any], None]


@runtime_checkable
class Driver(Protocol):
    """Takes events to other buses and brings theirs."""

    @property
    def connected(self) -> bool:
        """True if there may be other buses; otherwise nothing below is called."""
        ...

    async def run(
        self, deliver: Deliver, lost: Lost, *, task_status: trio.TaskStatus[None]
    ) -> None:
        """Receive until stopped or cancelled; started once events of other buses can arrive.

        What arrived and could not be delivered because of a cancellation is handed to `lost`.
        """
        ...

    def stop(self) -> None:
        """Receive no more; `run` returns when what has arrived is delivered."""
        ...

    async def publish(self, event: Any, headers: Mapping[str, str]) -> None:
        """Hand an event to the other buses, with what middleware has put on it."""
        ...
