"""The chaos run starts a broker once more that leaves a group without an answer."""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from benchmarks.chaos import run
from benchmarks.chaos.drivers import DRIVERS
from benchmarks.chaos.run import ChaosPlan, ChaosRun
from tests.support.limits import HANG_SECONDS

PLAN = ChaosPlan(events=1, rate=1.0, producers=1, consumers=1, kills={})


class HungServer:
    """A broker whose group settles its events only after another start.

    Attributes:
        starts: How often it was started.
    """

    url = ""

    def __init__(self) -> None:
        self.starts = 0

    @property
    def process(self) -> HungServer:
        """The process."""
        return self

    def prepare(self) -> None:
        """Do nothing."""

    def await_writes(self) -> None:
        """Do nothing."""

    def kill(self) -> None:
        """Do nothing."""

    def start(self) -> None:
        """Count a start."""
        self.starts += 1

    def unsettled(self) -> int:
        """Return 5 until it was started."""
        return 0 if self.starts else 5


@pytest.mark.parametrize(("joins_hang", "seconds"), [(True, HANG_SECONDS), (False, 0.2)])
def test_hung_group_gets_another_start_where_the_broker_needs_it(
    joins_hang: bool, seconds: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "HUNG_SECONDS", 0.0)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    server: Any = HungServer()
    driver = replace(DRIVERS["kafka"], server=lambda: server, joins_hang=joins_hang)
    left = ChaosRun(driver, PLAN)._settle(  # pyright: ignore[reportPrivateUsage]
        time.monotonic() + seconds
    )
    assert (left, server.starts) == ((0, 1) if joins_hang else (5, 0))
