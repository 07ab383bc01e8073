"""Rolling restarts under load: each durable driver hands its events over, and repeats none."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks.chaos.drivers import DRIVERS
from benchmarks.chaos.servers.contract import GRACE_SECONDS
from tests.support.chaos import chaos

RESTARTS = 4
# Three consumers, so one is restarted twice. The events take ten seconds.
SIZE = f"--events 1600 --rate 160 --producers 2 --consumers 3 --restarts {RESTARTS}"


@pytest.mark.parametrize(
    "driver",
    ["streams", "streams+partitions", "jetstream"],
)
async def test_consumers_that_are_restarted_in_turn_repeat_no_event(
    tmp_path: Path, driver: str
) -> None:
    counts = await chaos(tmp_path, driver, f"--rolling {SIZE}")
    assert counts["accepted"] == 1600
    assert not counts["lost"]
    if DRIVERS[driver].ordered:
        # Without that promise, a busy machine may run two events of an account in either order.
        assert not counts["overtaken"]
    assert not counts["flagged"]
    assert not counts["duplicates"] + counts["pending"]
    assert counts["unclean"] == []
    assert len(counts["stops"]) == RESTARTS
    assert max(counts["stops"]) < GRACE_SECONDS
