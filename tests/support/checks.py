"""Small helpers that most tests of the core need."""

from __future__ import annotations

from goevent import EventError, Ledger


def ignore_error(error: EventError) -> None:
    """Be an `on_error` callback of a test that expects failures."""


def adds_up(ledger: Ledger) -> bool:
    """Tell whether every accepted delivery has exactly one end."""
    ends = (ledger.completed, ledger.failed, ledger.dropped, ledger.abandoned)
    return min(ends) >= 0 and sum(ends) == ledger.accepted
