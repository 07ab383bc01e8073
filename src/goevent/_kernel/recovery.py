"""What follows when a listener has failed: another attempt, and in the end its supervision.

One for each listener that asks for a retry or a supervision strategy. Whoever runs the listener
asks here after each failure: the scheduler for those with a mailbox, the special_dispatch for inline ones.
"""

from __future__ import annotations

from collections import deque
from math import inf
from typing import TYPE_CHECKING, Protocol

import trio

from .._errors import EventError, HookFailed, Vetoed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .._options.retry import Retry
    from .._options.supervision import Supervision
    from .actor import Actor


class RecoverableRun(Protocol):
    """What runs a listener: a lane, or an inline call."""

    state: str

    @property
    def listener(self) -> Actor: ...


class Recovery:
    """The retries and the supervision of one listener."""

    def __init__(
        self,
        retry: Retry | None,
        supervision: Supervision,
        clock: Callable[[], float],
        *,
        rebuild: Callable[[], EventError | None],
        stop: Callable[[], None],
        escalate: Callable[[EventError], None],
    ) -> None:
        self.restarts: int = 0
        self._retry = retry
        self._supervision = supervision
        self._clock = clock
        self._rebuild = rebuild
        self._stop = stop
        self._escalate = escalate
        self._window: deque[float] = deque()  # when it was restarted
        self._naps: set[trio.CancelScope] = set()
        self._unregistered = False

    def reset(self) -> None:
        """Forget what was, as the bus is opened again."""
        self.restarts = 0
        self._window.clear()

    # -- another attempt

    async def again(self, run: RecoverableRun, failures: list[Exception]) -> bool:
        """Wait for the time of another attempt, and tell whether there is to be one."""
        retry = self._retry
        error = failures[-1]
        if retry is None or len(failures) >= retry.attempts or isinstance(error, Vetoed):
            return False
        if isinstance(error, HookFailed):
            error = error.error
        try:
            if not retry.covers(error):
                return False
        except Exception as broken:  # noqa: BLE001 - a predicate of the user's
            failures[-1] = HookFailed(f"the retry predicate of {run.listener.name}", broken)
            return False
        return await self._nap(run, retry.pause(len(failures)), "backing off")

    async def _nap(self, run: RecoverableRun, seconds: float, state: str) -> bool:
        """Sleep, unless the listener is unregistered; tell whether it still is to run."""
        if self._unregistered:  # a listener that has got the only event it takes is not, yet
            return False
        nap = trio.CancelScope()
        self._naps.add(nap)
        run.state = state
        try:
            with nap:
                await trio.sleep(seconds)
        finally:
            self._naps.discard(nap)
            run.state = ""
        return not self._unregistered

    def wake(self) -> None:
        """End all pauses, as the listener was unregistered."""
        self._unregistered = True
        for nap in self._naps:
            nap.cancel()

    # -- supervision

    async def supervise(self, run: RecoverableRun, error: EventError | None) -> None:
        """Do about a listener what is to be done when an event has failed for good."""
        while error is not None and (pause := self._decide(error)) is not None:
            state = "escalating" if pause == inf else "restarting"
            if not await self._nap(run, pause, state):
                return
            error = self._rebuild()

    def supervise_inline(self, error: EventError | None) -> None:
        """Do as `supervise` for a listener that runs inline, and whose dispatch does not wait."""
        while error is not None and self._decide(error) not in (None, inf):
            error = self._rebuild()

    def _decide(self, error: EventError) -> float | None:
        """Apply the strategy; the seconds before a restart, None to go on, infinity not to."""
        supervision = self._supervision
        if error.outcome != "failed" or supervision.strategy == "resume":
            return None
        if supervision.strategy == "stop":
            self._stop()
            return None
        if supervision.strategy == "restart":
            now, window = self._clock(), self._window
            while window and window[0] <= now - supervision.within:
                window.popleft()
            if len(window) < supervision.max_restarts:
                window.append(now)
                self.restarts += 1
                return supervision.pause(len(window))
        self._escalate(error)
        return inf


def raised(failures: Sequence[Exception]) -> tuple[Exception, ...]:
    """Return what was raised, without the wrapper that names middleware."""
    return tuple(error.error if isinstance(error, HookFailed) else error for error in failures)
