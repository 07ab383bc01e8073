"""Rolling restarts under load: each durable driver hands its events over, and repeats none."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks.chaos.servers.contract import GRACE_SECONDS
from tests.support.chaos import chaos

RESTARTS = 4


# TODO(#16): on these, few events of thousands come with the mark of a repeat, although no listener
# has had them before. No event has run twice so far.
MARKED = pytest.mark.xfail(reason="an event that has not run may be marked", strict=False)


@pytest.mark.parametrize(
    "driver",
    [
        pytest.param("streams", marks=MARKED),
        "streams+partitions",
        "jetstream",
        pytest.param("rabbitmq", marks=MARKED),
    ],
)
async def test_consumers_that_are_restarted_in_turn_repeat_no_event(
    tmp_path: Path, driver: str
) -> None:
    counts = await chaos(tmp_path, driver, f"--rolling --events 1600 --restarts {RESTARTS}")
    assert counts["accepted"] == 1600
    assert not counts["lost"] + counts["flagged"] + counts["overtaken"]
    assert not counts["duplicates"] + counts["pending"]
    assert counts["unclean"] == []
    assert len(counts["stops"]) == RESTARTS
    assert max(counts["stops"]) < GRACE_SECONDS
