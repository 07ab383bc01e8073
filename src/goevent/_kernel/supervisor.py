"""The supervisor: collects every failure of the bus and hands it to those who care.

Owned by the bus. Listeners' workers, dispatchers and drivers send to it by `report`, which records
at once; a task of its own runs the `on_error` callbacks, so that none of them delays a listener. It
is the last actor of the bus to stop.
"""

from __future__ import annotations

import inspect
import logging
import weakref
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import trio

from .._errors import EventError, EventVetoed

if TYPE_CHECKING:
    from .._handle import DispatchHandle, HandleDetails

OnError = Callable[[EventError], Any]

LOG_SIZE = 10_000
LIVE_SIZE = 100

logger = logging.getLogger("goevent")


class Supervisor:
    """The failures of one bus."""

    def __init__(self) -> None:
        self.count: int = 0
        self.callbacks: list[OnError] = []
        self.unhandled: OnError = self.log  # gets what nobody has looked at
        self.all_seen: Callable[[], None] = ignore_seen  # somebody has looked at all there is
        self._log: deque[EventError] = deque(maxlen=LOG_SIZE)
        self._unseen: dict[weakref.ref[HandleDetails], list[EventError]] = {}
        self._mail: deque[EventError] = deque()
        self._lost = 0
        self._busy = False
        self._running = False
        self._mailed = trio.lowlevel.ParkingLot()  # where the actor waits for mail
        self._flushed = trio.lowlevel.ParkingLot()  # where others wait for it to have none

    # -- recording

    def record(self, error: EventError, handle: DispatchHandle) -> None:
        """Record a failure on its handle and in the log; never blocks."""
        details = handle.ensure_details()
        details.add_error(error)
        if isinstance(error, EventVetoed):
            logger.info("%s", error)
            return
        self._log_error(error)
        if self.callbacks and self._running:
            self._hand_on(error)
        else:
            self._unseen.setdefault(weakref.ref(details, self._unlooked), []).append(error)

    def record_loose(self, error: EventError) -> None:
        """Record a failure that belongs to no dispatch of this bus."""
        self._log_error(error)
        if self.callbacks and self._running:
            self._hand_on(error)
        else:
            self.unhandled(error)

    def _log_error(self, error: EventError) -> None:
        self.count += 1
        log = self._log
        log.append(error)
        if len(log) > LIVE_SIZE:
            log[-LIVE_SIZE - 1] = log[-LIVE_SIZE - 1].as_text()

    def _hand_on(self, error: EventError) -> None:
        if len(self._mail) < LOG_SIZE:
            self._mail.append(error if len(self._mail) < LIVE_SIZE else error.as_text())
            self._mailed.unpark()
        else:
            self._lost += 1

    # -- what was seen

    @property
    def errors(self) -> tuple[EventError, ...]:
        self._unseen.clear()
        self.all_seen()
        return tuple(self._log)

    def clear(self) -> None:
        self._log.clear()
        self._unseen.clear()
        self.all_seen()

    def mark_seen(self, details: HandleDetails) -> None:
        self._unseen.pop(weakref.ref(details), None)

    def mark_raised(self, error: EventError) -> None:
        """Take note of an error that leaves `async with bus`, where somebody gets to see it."""
        for errors in self._unseen.values():
            if error in errors:
                errors.remove(error)

    def _unlooked(self, details: weakref.ref[HandleDetails]) -> None:
        """Log what failed on a handle that was dropped without anybody looking at it."""
        for error in self._unseen.pop(details, ()):
            self.unhandled(error)

    @staticmethod
    def log(error: EventError) -> None:
        logger.error("nobody handled: %s", error, exc_info=error.__cause__)

    # -- the actor

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Hand errors to the callbacks, one at a time, in the order of the failures."""
        self._running = True
        task_status.started()
        try:
            while True:
                while self._mail:
                    self._busy = True
                    await self._tell(self._mail.popleft())
                self._busy = False
                self._tell_lost()
                self._flushed.unpark_all()
                await self._mailed.park()
        finally:
            self._running = self._busy = False
            self._flushed.unpark_all()

    async def _tell(self, error: EventError) -> None:
        for callback in tuple(self.callbacks):
            try:
                result = callback(error)
                if inspect.isawaitable(result):
                    await result
            except Exception:
                logger.exception("an on_error callback failed on: %s", error)

    def _tell_lost(self) -> None:
        if self._lost:
            logger.error("on_error is too slow: %d errors never reached it", self._lost)
            self._lost = 0

    async def flush(self) -> None:
        """Wait until every callback has run; called when nothing can fail any more."""
        while self._running and (self._mail or self._busy):
            await self._flushed.park()

    def finish(self) -> None:
        """Log what nobody has looked at, and what no callback was told; the actor is to end."""
        self._running = False
        unseen = [error for errors in self._unseen.values() for error in errors]
        self._unseen.clear()
        for error in (*unseen, *self._mail):
            self.unhandled(error)
        self._mail.clear()
        self._tell_lost()


def ignore_seen() -> None:
    """Leave it at that: what was logged stays in the log."""
