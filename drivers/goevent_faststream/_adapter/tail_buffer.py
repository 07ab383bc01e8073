"""The buffer of a tail whose broker keeps no events.

Such a broker cannot be held back, and a client that holds back for it would lose the messages of
listeners, too. So the callback of a subscription adds events here and never waits. Beyond the bound
the events of a slow reader are dropped, and counted in the next one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

from goevent.drivers import TailedEvent

MAX_BUFFERED_EVENTS = 1000
MAX_BUFFERED_BYTES = 4 << 20


class TailBuffer:
    """The events that wait for a slow reader of one tail; used on the loop side."""

    def __init__(self) -> None:
        self._events: deque[TailedEvent] = deque()
        self._bytes = 0
        self._missed = 0
        self._added = asyncio.Event()

    def add(self, event: TailedEvent) -> None:
        """Add an event, or drop it if too many are waiting; never waits."""
        events = self._events
        is_full = len(events) >= MAX_BUFFERED_EVENTS or self._bytes >= MAX_BUFFERED_BYTES
        if is_full:
            self._missed += 1
            return
        if self._missed:
            event = replace(event, missed=self._missed)
            self._missed = 0
        events.append(event)
        self._bytes += len(event.data)
        self._added.set()

    async def show_all(self, show: Callable[[TailedEvent], Coroutine[Any, Any, None]]) -> None:
        """Show the events in order, until cancelled."""
        while True:
            await self._added.wait()
            self._added.clear()
            while self._events:
                event = self._events.popleft()
                self._bytes -= len(event.data)
                await show(event)
