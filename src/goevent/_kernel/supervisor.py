"""The supervisor: records every failure of the bus and passes it to the `on_error` callbacks.

Owned by the bus. `Failures.fail` calls `record`, and the inbox calls `record_loose` for a failure
that belongs to no dispatch. Both record at once and never block. The supervisor's own task runs the
callbacks, so no callback delays a listener. It is the last actor of the bus to stop.

Without a callback, an error counts as handled once the application has looked at it, on its handle
or in `bus.errors`. An unseen error is logged when its handle is garbage, or when the bus closes.
The `ErrorLog` limits the rate of equal ones.
"""

# The internals of handles are for the kernel and the ports, not for users.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import inspect
import logging
import weakref
from collections import deque
from collections.abc import Callable
from itertools import islice
from time import perf_counter
from typing import TYPE_CHECKING, Any

import trio

from .._errors import DriverError, EventError, EventVetoed, error_from, text_of
from .._foreign import log
from .._handle import HandleDetails
from .._options.results import refuse_unrun
from .error_log import ErrorLog, ids_of

if TYPE_CHECKING:
    from .._errors import ErrorText, FrameLine
    from .._handle import DispatchHandle

OnError = Callable[[EventError], Any]

MAX_LOGGED_ERRORS = 10_000
MAX_LIVE_ERRORS = 100
"""The newest errors, which keep their exceptions; older ones are kept as text."""
CALLBACK_SLICE_SECONDS = 0.001
"""How long the supervisor runs callbacks between two yields to Trio."""

logger = logging.getLogger("goevent")


class Supervisor:
    """The recorded failures of one bus.

    Attributes:
        count: All failures since the bus was made.
        callbacks: The `on_error` callbacks.
        unhandled: Called with each error that the application has not looked at.
        all_seen: Called when the application has looked at all errors.
    """

    def __init__(self) -> None:
        self.count: int = 0
        self.callbacks: list[OnError] = []
        self._error_log = ErrorLog()
        self.unhandled: OnError = self.log
        self.all_seen: Callable[[], None] = ignore_seen
        # The log: the newest errors with their exceptions, and the older ones as text.
        self._live: deque[EventError] = deque()
        self._kept: deque[EventError | ErrorText] = deque(
            maxlen=MAX_LOGGED_ERRORS - MAX_LIVE_ERRORS
        )
        self._unseen: dict[weakref.ref[HandleDetails], list[EventError]] = {}
        self._mail: deque[EventError | ErrorText] = deque()
        self._lost = 0
        self._busy = False
        self._running = False
        self._mailed = trio.lowlevel.ParkingLot()  # the supervisor's task waits for mail here
        self._flushed = trio.lowlevel.ParkingLot()  # others wait here until there is no mail left

    # -- recording

    def record(self, error: EventError, handle: DispatchHandle) -> None:
        """Record a failure on its handle and in the log.

        A veto is not a failure: it is only recorded on the handle.
        """
        if (details := handle._details) is None:  # written out, as most failures pass here
            ids = handle._route.kernel.ids
            error._ids = own = ids.drawn.pop() if ids.drawn else ids.draw()
            handle._details = details = HandleDetails(None, errors=[error], id=own)
        else:
            details = handle._add_error(error)
            error._ids = handle.id, handle.correlation_id, handle.causation_id
        if isinstance(error, EventVetoed):
            log(logger, logging.INFO, "%s", error, extra=ids_of(error))
        elif not self._keep(error):
            # The weak reference tells when the handle is garbage: then nothing can show its errors.
            self._unseen.setdefault(weakref.ref(details, self._log_unseen), []).append(error)

    def record_loose(self, error: EventError) -> None:
        """Record a failure that belongs to no dispatch of this bus."""
        if not self._keep(error):
            self.unhandled(error)

    def _keep(self, error: EventError) -> bool:
        """Put a failure into the log; return True if the callbacks will get it too."""
        # Every failure passes here, so this is one function.
        self.count += 1
        live = self._live
        live.append(error)
        if len(live) > MAX_LIVE_ERRORS:
            oldest = live.popleft()
            self._kept.append(oldest._text or text_of(oldest))
        if not self.callbacks or not self._running:
            return False
        mail = self._mail
        if not mail:
            mail.append(error)
            # The supervisor's task waits for mail only when it has none.
            self._mailed.unpark()
        elif len(mail) < MAX_LIVE_ERRORS:
            mail.append(error)
        # A callback that is too slow must not make the bus keep every exception and its frames.
        elif len(mail) < MAX_LOGGED_ERRORS:
            mail.append(text_of(error))
        else:
            self._lost += 1
        return True

    # -- errors that the application has looked at

    @property
    def errors(self) -> tuple[EventError, ...]:
        """The newest errors, oldest first; reading them marks all as seen."""
        self._unseen.clear()
        self.all_seen()
        lines: dict[tuple[int, int], FrameLine] = {}
        count, kept, live = self.count, tuple(self._kept), tuple(self._live)
        errors = [error_from(each, lines) for each in kept]
        # Kept as errors from now on, so that the next look finds the same objects. To make them
        # may run the garbage collector, and with it code of the application that fails.
        if self.count == count:
            self._kept = deque(errors, self._kept.maxlen)
        return (*errors, *live)

    def newest(self, count: int) -> tuple[EventError, ...]:
        """Return the newest errors, oldest first, without marking them as seen.

        Args:
            count: The largest number to return; at most `MAX_LIVE_ERRORS` are.
        """
        live = self._live
        return tuple(islice(live, max(0, len(live) - count), None))

    def clear(self) -> None:
        """Forget all errors; `count` stays."""
        self._live.clear()
        self._kept.clear()
        self._unseen.clear()
        self.all_seen()

    def mark_seen(self, details: HandleDetails) -> None:
        """Mark the errors of a handle as seen."""
        self._unseen.pop(weakref.ref(details), None)

    def mark_raised(self, error: EventError) -> None:
        """Mark an error as seen, because `async with bus` raises it."""
        for errors in self._unseen.values():
            if error in errors:
                errors.remove(error)

    def fork(self) -> None:
        """Forget the errors that the parent process reports; this one is a fork of it."""
        self._unseen.clear()
        self._mail.clear()

    def record_unraised(self, error: EventError | DriverError) -> None:
        """Record an error that does not leave `async with bus`, because the body's own one does."""
        if isinstance(error, DriverError):
            self.record_loose(EventError("", "driver", error))
        elif not self.callbacks:
            # `mark_raised` has marked it as seen.
            self.unhandled(error)

    def _log_unseen(self, details: weakref.ref[HandleDetails]) -> None:
        """Log the unseen errors of a handle that is garbage."""
        for error in self._unseen.pop(details, ()):
            self.unhandled(error)

    def log(self, error: EventError) -> None:
        """Log an error that the application has not handled."""
        self._error_log.write("nobody handled", error, error.__cause__)

    # -- the actor

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Pass errors to the callbacks, one at a time, in the order of the failures."""
        self._running = True
        task_status.started()
        try:
            while True:
                slice_end = perf_counter() + CALLBACK_SLICE_SECONDS
                while self._mail:
                    self._busy = True
                    await self._run_callbacks(error_from(self._mail.popleft(), {}))
                    # A callback may itself dispatch an event that fails, and so on for ever.
                    if self._mail and perf_counter() > slice_end:
                        await trio.lowlevel.checkpoint()
                        slice_end = perf_counter() + CALLBACK_SLICE_SECONDS
                self._busy = False
                self._log_lost()
                self._flushed.unpark_all()
                await self._mailed.park()
        finally:
            # `flush` must not wait for a task that has ended.
            self._running = self._busy = False
            self._flushed.unpark_all()

    async def _run_callbacks(self, error: EventError) -> None:
        for callback in tuple(self.callbacks):
            try:
                result = callback(error)
                if inspect.isawaitable(result):
                    result = await result
                if result is not None:
                    refuse_unrun(result, "the callback")
            except Exception as broken:  # noqa: BLE001 - it is logged
                self._error_log.write("an on_error callback failed on", error, broken)

    def _log_lost(self) -> None:
        if self._lost:
            text = "on_error is too slow: %d errors never reached it"
            log(logger, logging.ERROR, text, self._lost)
            self._lost = 0

    async def flush(self) -> None:
        """Wait until every callback has run; called when no failure can follow."""
        while self._running and (self._mail or self._busy):
            await self._flushed.park()

    def finish(self) -> None:
        """Log the unseen errors, and the errors that reached no callback."""
        # No callback gets an error any more: the task that runs them is about to be cancelled.
        self._running = False
        unseen = [error for errors in self._unseen.values() for error in errors]
        self._unseen.clear()
        for error in (*unseen, *self._mail):
            self.unhandled(error_from(error, {}))
        self._mail.clear()
        self._log_lost()
        self._error_log.finish()


def ignore_seen() -> None:
    """Do nothing: errors that were logged stay in the log."""
