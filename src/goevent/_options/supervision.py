"""What becomes of a listener that failed, when all its attempts are used up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .retry import check_count, check_seconds, drawn

Strategy = Literal["resume", "restart", "stop", "escalate"]
STRATEGIES = ("resume", "restart", "stop", "escalate")


@dataclass(frozen=True, slots=True)
class Supervision:
    """What the supervisor does about a listener that failed, as Akka's supervisor strategies.

    Whatever the strategy, the failed event is reported once and does not run again; the events in
    the mailbox stay there.

    Attributes:
        strategy: `"resume"` (default) goes on with the next event. `"restart"` waits, has the
            listener rebuilt by its factory if it has one, and goes on. `"stop"` unregisters the
            listener. `"escalate"` ends the bus: the `EventError` leaves `async with bus`.
        max_restarts: restarts within the window that are fine; the failure after these escalates.
        within: seconds of the window.
        backoff: seconds before a restart that follows no other; they double from restart to
            restart in the window. An inline `def` is rebuilt at once; `dispatch` does not wait.
        max_backoff: seconds that such a pause never exceeds.
        jitter: the part of each pause that is drawn by chance, from 0 to 1.
    """

    strategy: Strategy = "resume"
    max_restarts: int = 5
    within: float = 60.0
    backoff: float = 0.1
    max_backoff: float = 30.0
    jitter: float = 0.0

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise ValueError(
                f"a supervision strategy is one of {', '.join(STRATEGIES)}, not {self.strategy!r}"
            )
        check_count("max_restarts", self.max_restarts, at_least=1)
        check_seconds("within", self.within, positive=True)
        check_seconds("backoff", self.backoff)
        check_seconds("max_backoff", self.max_backoff)
        if self.max_backoff < self.backoff:
            raise ValueError(
                f"max_backoff ({self.max_backoff}) is shorter than backoff ({self.backoff})"
            )
        if not 0 <= self.jitter <= 1:
            raise ValueError(f"jitter is a part from 0 to 1, not {self.jitter!r}")

    def pause(self, restarts: int) -> float:
        """Return the seconds to wait before so many-th restart in the window."""
        return drawn(self.backoff, self.max_backoff, self.jitter, restarts)
