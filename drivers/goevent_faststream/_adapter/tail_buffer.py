"""The buffer of a tail whose broker keeps no events.

Such a broker cannot be held back, and a client that holds back for it would lose the messages of
listeners, too. So the callback of a subscription adds events here and never waits. Beyond the bound
the events of a slow reader are dropped. The newest one is always kept and has their count, so that
a reader that has caught up knows of all of them, even if no further event is published.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import replace

from goevent.drivers import TailedEvent

from .contract import ShowEvent

MAX_BUFFERED_EVENTS = 1000
MAX_BUFFERED_BYTES = 4 << 20


class TailBuffer:
    """The events that wait for a slow reader of one tail; used on the loop side."""

    def __init__(self) -> None:
        self._events: deque[TailedEvent] = deque()
        self._bytes = 0
        # The newest event, while the buffer is full; and how many before it were dropped.
        self._newest: TailedEvent | None = None
        self._missed = 0
        self._added = asyncio.Event()

    def add(self, event: TailedEvent) -> None:
        """Add an event; if too many are waiting, the newest so far is dropped; never waits."""
        if self._newest is not None:
            self._missed += 1
        self._newest = event
        self._admit_newest()

    async def show_all(self, show: ShowEvent) -> None:
        """Show the events in order, until cancelled."""
        while True:
            await self._added.wait()
            self._added.clear()
            while self._events:
                event = self._events.popleft()
                self._bytes -= len(event.data)
                self._admit_newest()
                await show(event)

    def _admit_newest(self) -> None:
        """Let the newest event in if there is room, with the count of the dropped ones."""
        event = self._newest
        if event is None or len(self._events) >= MAX_BUFFERED_EVENTS:
            return
        if self._bytes >= MAX_BUFFERED_BYTES:
            return
        self._newest = None
        if self._missed:
            event = replace(event, missed=self._missed)
            self._missed = 0
        self._events.append(event)
        self._bytes += len(event.data)
        self._added.set()
