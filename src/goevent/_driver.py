"""What the bus asks of a driver: to take events to other buses, and to bring theirs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol, runtime_checkable

import trio

Deliver = Callable[[Any], Awaitable[None]]


@runtime_checkable
class Driver(Protocol):
    """Takes events to other buses and brings theirs."""

    @property
    def connected(self) -> bool:
        """True if there may be other buses; otherwise nothing below is called."""
        ...

    async def run(self, deliver: Deliver, *, task_status: trio.TaskStatus[None]) -> None:
        """Receive until cancelled; started once events of other buses can arrive."""
        ...

    async def publish(self, event: Any) -> None:
        """Hand an event to the other buses."""
        ...
