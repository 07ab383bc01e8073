"""Recovery: the retries of one listener, and its supervision when the last attempt has failed.

A listener that asks for a retry or for a supervision strategy has one. The code that runs the
listener calls it after each failure: the scheduler for a listener with a mailbox, dispatch for an
inline one.

Theory of operation. `wait_for_retry` decides after each failed attempt whether there will be
another one, and sleeps for the pause before it. `supervise` applies the strategy to an event that
has failed for good: go on with the next event, stop the listener, rebuild it after a pause, or
escalate, which ends the bus. If the rebuilding fails, the listener has failed once more. Restarts
are counted in a sliding window; one restart too many within it escalates.

Every pause runs in a cancel scope of its own. Unregistering the listener ends all pauses at once.
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


class RecoverableRun(Protocol):
    """The actor or the lane of a failed run; shows the state of its pause."""

    state: str

    @property
    def name(self) -> str: ...


class Recovery:
    """The retries and the supervision of one listener.

    Args:
        retry: The options of the retries; None for no retries.
        supervision: The strategy and its limits.
        clock: Tells the time for the window of restarts.
        rebuild: Makes the listener anew; returns the error if that fails.
        stop: Unregisters the listener.
        escalate: Ends the bus with an error.

    Attributes:
        restarts: How often the listener was restarted since the bus was opened.
    """

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
        self._restart_times: deque[float] = deque()
        self._pauses: set[trio.CancelScope] = set()
        self._unregistered = False

    def reset(self) -> None:
        """Forget all restarts, because the bus is opened again."""
        self.restarts = 0
        self._restart_times.clear()

    # -- another attempt

    async def wait_for_retry(self, run: RecoverableRun, failures: list[Exception]) -> bool:
        """Pause before another attempt; return False at once if there will be none.

        Args:
            run: The actor or the lane that runs the listener.
            failures: The exceptions of all attempts so far. The last one is replaced if the
                predicate of the retry fails on it.
        """
        retry = self._retry
        error = failures[-1]
        if retry is None or len(failures) >= retry.attempts or type(error) is Vetoed:
            return False
        # The predicate of the application gets the exception of its middleware, not our wrapper.
        error = unwrapped(error)
        try:
            if not retry.covers(error):
                return False
        except Exception as broken:  # noqa: BLE001 - raised by a predicate of the application
            failures[-1] = HookFailed(f"the retry predicate of {run.name}", broken)
            return False
        return await self._pause(run, retry.pause(len(failures)), "backing off")

    async def _pause(self, run: RecoverableRun, seconds: float, state: str) -> bool:
        """Sleep; return False if the listener was unregistered before or meanwhile."""
        # A listener with `once` is off its routes, but `wake` is not called for it: the only event
        # that it takes may be retried.
        if self._unregistered:
            return False
        pause = trio.CancelScope()
        self._pauses.add(pause)
        run.state = state
        try:
            with pause:
                await trio.sleep(seconds)
        finally:
            self._pauses.discard(pause)
            run.state = ""
        return not self._unregistered

    def wake(self) -> None:
        """End all pauses, because the listener was unregistered."""
        self._unregistered = True
        for pause in self._pauses:
            pause.cancel()

    # -- supervision

    async def supervise(self, run: RecoverableRun, error: EventError | None) -> None:
        """Apply the strategy when an event has failed for good; returns after the restart.

        Args:
            run: The actor or the lane that ran the listener.
            error: The failure; None does nothing.
        """
        while error is not None and (pause := self._decide(error)) is not None:
            # An escalated listener sleeps until the bus, which is ending, cancels it.
            state = "escalating" if pause == inf else "restarting"
            if not await self._pause(run, pause, state):
                return
            error = self._rebuild()

    def supervise_inline(self, error: EventError | None) -> None:
        """Apply the strategy to an inline listener without pauses; its dispatch cannot wait."""
        # The pause is left out: the dispatch runs the next listeners in the same step.
        while error is not None and self._decide(error) not in (None, inf):
            error = self._rebuild()

    def _decide(self, error: EventError) -> float | None:
        """Apply the strategy; return the seconds before a restart.

        None means that the listener goes on without a restart, infinity that the bus ends.
        """
        supervision = self._supervision
        if error.outcome != "failed" or supervision.strategy == "resume":
            return None
        if supervision.strategy == "stop":
            self._stop()
            return None
        if supervision.strategy == "restart":
            now, recent = self._clock(), self._restart_times
            while recent and recent[0] <= now - supervision.within:
                recent.popleft()
            if len(recent) < supervision.max_restarts:
                recent.append(now)
                self.restarts += 1
                return supervision.pause(len(recent))
        self._escalate(error)
        return inf


def raised(failures: Sequence[Exception]) -> tuple[Exception, ...]:
    """Return the exceptions that were raised, without the wrappers that name middleware."""
    return tuple(map(unwrapped, failures))


def unwrapped(error: Exception) -> Exception:
    """Return the exception that was raised, without the wrapper that names middleware."""
    # By the type: the class of a foreign exception may say anything of itself.
    return error.error if type(error) is HookFailed else error
