"""Small helpers that most tests of the core need."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest

from goevent import EventError, Ledger


def ignore_error(error: EventError) -> None:
    """Be an `on_error` callback of a test that expects failures."""


def adds_up(ledger: Ledger) -> bool:
    """Tell whether every accepted delivery has exactly one end."""
    ends = (ledger.completed, ledger.failed, ledger.dropped, ledger.abandoned)
    return min(ends) >= 0 and sum(ends) == ledger.accepted


def always(event: object) -> bool:
    """Be a `when` that accepts every event."""
    return True


def unavailable(reason: str) -> NoReturn:
    """Skip the test because a tool does not run here, or fail it in CI."""
    if os.environ.get("CI") or os.environ.get("GOEVENT_REQUIRE_BROKERS"):
        pytest.fail(reason)
    pytest.skip(reason)
