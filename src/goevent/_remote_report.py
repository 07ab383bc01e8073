"""The reports of other buses about an event; `DispatchHandle.remote` has them."""

from __future__ import annotations

from dataclasses import dataclass

from ._errors import RemoteError


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteReport:
    """The outcome of an event at the listeners of another bus.

    Attributes:
        bus: The id of the bus; empty if it is unknown.
        completed: The number of listeners that have completed the event.
        failed: The number of listeners that have failed.
        dropped: The number of listeners for which the event was dropped.
        abandoned: The number of listeners that the end of their bus has cut off.
        errors: The failures of the listeners, at most 100.
        missing: Why there is no report; empty if there is one.
        weight: The receivers for which the broker counts the bus.
    """

    bus: str = ""
    completed: int = 0
    failed: int = 0
    dropped: int = 0
    abandoned: int = 0
    errors: tuple[RemoteError, ...] = ()
    missing: str = ""
    weight: int = 1


@dataclass(frozen=True, slots=True)
class RemoteOutcome:
    """Whether all other buses have reported on an event.

    Its text is `complete` or `partial(missing=2)`.

    Attributes:
        missing: The number of buses, or of receivers, that have not reported.
    """

    missing: int = 0

    @property
    def complete(self) -> bool:
        """True if no report is missing."""
        return not self.missing

    def __str__(self) -> str:
        return f"partial(missing={self.missing})" if self.missing else "complete"
