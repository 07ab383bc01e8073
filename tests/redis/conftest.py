"""Fixtures of the tests on Redis."""

from __future__ import annotations

import pytest


@pytest.fixture
def brief_downtime(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let publishes and subscriptions of pub/sub wait a second for a connection, not five."""
    monkeypatch.setattr("goevent_redis._pubsub.driver.MAX_DOWNTIME_SECONDS", 1.0)
