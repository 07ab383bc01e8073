"""Supervision: the reaction to a listener that failed after all its attempts.

The kernel's recovery applies the strategy after the failure was reported.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .._suggestions import suggest_options
from .retry import check_backoff, check_choice, check_count, check_seconds, jittered_pause

Strategy = Literal["resume", "restart", "stop", "escalate"]
STRATEGIES = ("resume", "restart", "stop", "escalate")


@suggest_options
@dataclass(frozen=True, slots=True)
class Supervision:
    """The reaction of the supervisor to a failed listener, as Akka's supervisor strategies.

    With every strategy, the failed event is reported once and does not run again, and the events in
    the mailbox stay there.

    Example:
        >>> bus = GoEvent()
        >>> @bus.listener("order.paid", supervision=Supervision("restart", max_restarts=3))
        ... async def send_invoice(event: Event) -> None: ...

    Attributes:
        strategy: `"resume"` (default) goes on with the next event. `"restart"` pauses, has the
            factory of the listener build a new one if it has a factory, and goes on. `"stop"`
            unregisters the listener. `"escalate"` ends the bus: the `EventError` leaves
            `async with bus`.
        max_restarts: The number of restarts that are allowed within the window. The next failure
            after them escalates.
        within: The length of the window in seconds.
        backoff: The pause in seconds before a restart that follows no other restart in the window.
            It doubles from restart to restart. An inline `def` is rebuilt without a pause, because
            `dispatch` does not wait.
        max_backoff: The longest pause in seconds.
        jitter: The part of each pause that is random, from 0 to 1.

    Raises:
        TypeError: A value has the wrong type.
        ValueError: A value is out of range, or the strategy is unknown.
    """

    strategy: Strategy = "resume"
    max_restarts: int = 5
    within: float = 60.0
    backoff: float = 0.1
    max_backoff: float = 30.0
    jitter: float = 0.0

    def __post_init__(self) -> None:
        check_choice("strategy", self.strategy, STRATEGIES)
        check_count("max_restarts", self.max_restarts, at_least=1)
        check_seconds("within", self.within, positive=True)
        check_backoff(self.backoff, self.max_backoff, self.jitter)

    def pause(self, restarts: int) -> float:
        """Return the pause in seconds before the given restart in the window; 1 is the first."""
        return jittered_pause(self.backoff, self.max_backoff, self.jitter, restarts)
