"""The watchdog of a reader: it reports each silence once."""

from __future__ import annotations

import pytest

from goevent import DriverError
from goevent.drivers import ReadWatchdog


@pytest.fixture
def watchdog() -> ReadWatchdog:
    watchdog = ReadWatchdog("the topic 'a'", limit_seconds=10.0)
    watchdog.read(100.0)
    return watchdog


def test_a_silence_is_reported_once(watchdog: ReadWatchdog) -> None:
    assert watchdog.silence(109.9) is None
    report = watchdog.silence(110.0)
    assert isinstance(report, DriverError)
    assert str(report) == (
        "no successful fetch from the topic 'a' for 10 s: its events wait in the broker"
    )
    assert watchdog.silence(500.0) is None


def test_each_silence_is_reported(watchdog: ReadWatchdog) -> None:
    assert watchdog.silence(110.0)
    watchdog.read(200.0)
    assert watchdog.silence(209.0) is None
    assert watchdog.silence(215.0, reason="a refusal")
    assert watchdog.silence(216.0) is None


def test_the_last_failure_is_the_reason(watchdog: ReadWatchdog) -> None:
    assert str(watchdog.silence(110.0, reason="no right")).endswith(" for 10 s: no right")


def test_a_watchdog_without_a_fetch_counts_from_the_first_question() -> None:
    watchdog = ReadWatchdog("x", limit_seconds=10.0)
    assert watchdog.silence(1000.0) is None
    assert watchdog.silence(1009.0) is None
    assert watchdog.silence(1010.0)


def test_the_time_until_the_next_question(watchdog: ReadWatchdog) -> None:
    assert watchdog.seconds_left(104.0) == 6.0
    assert watchdog.seconds_left(110.5) > 0
    assert watchdog.silence(110.5)
    assert watchdog.seconds_left(110.5) == 10.0
    assert ReadWatchdog("x", limit_seconds=3.0).seconds_left(7.0) == 3.0
