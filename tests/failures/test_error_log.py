"""The rate of equal reports in the log."""

from __future__ import annotations

import logging
import re
from typing import Any

import pytest
import trio
from tests.support.checks import adds_up
from tests.support.events import REGISTRY, Ping, Pong
from trio.testing import MockClock

from goevent import Config, EventError, GoEvent, Supervision
from goevent._kernel import error_log
from goevent._kernel.error_log import MAX_BURST_REPORTS, SECONDS_PER_REPORT


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Any:
    caplog.set_level(logging.ERROR, "goevent")
    return lambda: [record.getMessage() for record in caplog.records if record.name == "goevent"]


def make(**config: Any) -> GoEvent:
    return GoEvent(Config(registry=REGISTRY, slow_after=None, **config))


def left_out(lines: list[str]) -> int:
    """Return the number of reports that the log says it has left out."""
    return sum(int(count) for line in lines for count in re.findall(r"leaves out (\d+)", line))


def reports(lines: list[str]) -> int:
    """Return the number of reports that are in the log themselves."""
    return sum("equal reports at the end" not in line for line in lines)


async def test_storm_of_equal_failures_is_a_few_lines_and_a_count(
    lines: Any, autojump_clock: MockClock
) -> None:
    storms = 5000
    bus = make()

    @bus.listener(Ping)
    async def again(event: Ping) -> None:
        if event.n < storms:
            await bus.dispatch(Ping(event.n + 1))
            raise ValueError(f"text {event.n} differs")

    async with bus:
        await bus.dispatch(Ping(1))
        while bus.snapshot().ledger.completed == 0:
            await bus.wait()
        assert len(lines()) <= MAX_BURST_REPORTS
        ledger = await bus.close()
    assert bus.error_count == len(bus.errors) == storms - 1
    assert adds_up(ledger)
    written = lines()
    assert len(written) <= MAX_BURST_REPORTS + 1
    assert reports(written) + left_out(written) == storms - 1
    assert written[-1] == (
        f"nobody handled: again failed on 'test.ping', ValueError: "
        f"the log leaves out {storms - 1 - MAX_BURST_REPORTS} equal reports at the end"
    )


async def test_handles_and_callbacks_get_every_failure(
    lines: Any, autojump_clock: MockClock
) -> None:
    bus = make()
    told: list[EventError] = []
    bus.on_error(told.append)

    @bus.listener(Ping)
    def fail(event: Ping) -> None:
        raise ValueError(event.n)

    async with bus:
        handles = [await bus.dispatch(Ping(n)) for n in range(1000)]
    assert all(len(handle.errors) == 1 for handle in handles)
    assert len(told) == 1000
    assert lines() == []


async def test_report_after_a_pause_tells_how_many_were_left_out(
    lines: Any, autojump_clock: MockClock
) -> None:
    bus = make()

    @bus.listener(Ping)
    def fail(event: Ping) -> None:
        raise ValueError(event.n)

    async with bus:
        for n in range(MAX_BURST_REPORTS + 7):
            await bus.dispatch(Ping(n))
        assert left_out(lines()) == 0
        await trio.sleep(SECONDS_PER_REPORT)
        await bus.dispatch(Ping(100))
        assert len(lines()) == MAX_BURST_REPORTS + 1
        assert lines()[-1].endswith(
            "ValueError: 100 (the log leaves out 7 equal reports before this one)"
        )
        # An hour later the whole burst is free again, and nothing was left out.
        await trio.sleep(3600)
        for n in range(MAX_BURST_REPORTS):
            await bus.dispatch(Ping(n))
    assert len(lines()) == 2 * MAX_BURST_REPORTS + 1
    assert left_out(lines()) == 7


async def test_report_of_the_driver_each_second_is_written_every_ten(
    lines: Any, autojump_clock: MockClock
) -> None:
    bus = make()
    async with bus:
        for second in range(200):
            bus._inbox.report(ConnectionError(f"try {second}"))  # pyright: ignore[reportPrivateUsage]
            await trio.sleep(1)
    written = lines()
    assert MAX_BURST_REPORTS < reports(written) <= MAX_BURST_REPORTS + 200 / SECONDS_PER_REPORT
    assert reports(written) + left_out(written) == 200


async def test_unequal_reports_do_not_share_a_limit(lines: Any, autojump_clock: MockClock) -> None:
    bus = make()
    kinds: list[Exception] = [ValueError(), KeyError(), ConnectionError()]

    def fail(event: Ping | Pong) -> None:
        raise kinds[event.n % len(kinds)]

    for name in ("one", "other"):
        bus.subscribe(fail, Ping, Pong, name=name)
    async with bus:
        for n in range(3 * MAX_BURST_REPORTS):
            await bus.dispatch(Ping(n))
            await bus.dispatch(Pong(n))
    assert len(lines()) == 2 * 2 * 3 * MAX_BURST_REPORTS
    assert left_out(lines()) == 0


async def test_failures_of_an_error_callback_are_limited(
    lines: Any, autojump_clock: MockClock
) -> None:
    bus = make()

    @bus.on_error
    def broken(error: EventError) -> None:
        raise KeyError(str(error))

    @bus.listener(Ping)
    def fail(event: Ping) -> None:
        raise ValueError(event.n)

    async with bus:
        for n in range(500):
            await bus.dispatch(Ping(n))
    written = lines()
    assert len(written) == MAX_BURST_REPORTS + 1
    assert reports(written) + left_out(written) == 500


async def test_memory_of_kinds_is_bounded_and_no_count_is_lost(
    lines: Any, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(error_log, "MAX_REMEMBERED_KINDS", 5)
    bus = make()

    def fail(event: Ping) -> None:
        raise ValueError(event.n)

    async with bus:
        for n in range(20):
            registration = bus.subscribe(fail, Ping, name=f"listener {n}")
            for _ in range(MAX_BURST_REPORTS + 2):
                await bus.dispatch(Ping(n))
            registration.unregister()
            assert len(bus._supervisor._error_log._kinds) <= 5  # pyright: ignore[reportPrivateUsage]
    assert left_out(lines()) == 20 * 2


def test_next_opening_of_a_bus_has_a_limit_of_its_own(lines: Any) -> None:
    bus = make()

    @bus.listener(Ping)
    def fail(event: Ping) -> None:
        raise ValueError(event.n)

    async def run() -> None:
        async with bus:
            for n in range(MAX_BURST_REPORTS + 3):
                await bus.dispatch(Ping(n))

    # The clock of the second run is behind that of the first one.
    trio.run(run, clock=MockClock(autojump_threshold=0))
    trio.run(run, clock=MockClock(autojump_threshold=0))
    assert len(lines()) == 2 * (MAX_BURST_REPORTS + 1)
    assert left_out(lines()) == 2 * 3


def test_report_after_the_end_of_the_event_loop_is_written(lines: Any) -> None:
    bus = make()

    @bus.listener(Ping)
    def fail(event: Ping) -> None:
        raise ValueError(event.n)

    async def run() -> None:
        async with bus:
            await bus.dispatch(Ping(1))

    trio.run(run)
    bus._supervisor.log(EventError("test.ping", "late", KeyError(1)))  # pyright: ignore[reportPrivateUsage]
    assert lines()[-1] == "nobody handled: late failed on 'test.ping': KeyError: 1"


def test_report_after_the_end_of_a_bus_silences_no_later_opening(lines: Any) -> None:
    bus = make()

    @bus.listener(Ping, async_=True, supervision=Supervision("escalate"))
    def fail(event: Ping) -> None:
        raise ValueError(event.n)

    async def run() -> None:
        async with bus:
            await trio.sleep(1_000)
            await bus.dispatch(Ping(1))
            try:
                await trio.sleep_forever()
            finally:
                # The error of the body leaves the bus, so the other one is written at its end.
                raise KeyError

    async def run_again() -> None:
        async with bus:
            await bus.dispatch(Ping(2))

    with pytest.raises(KeyError):
        trio.run(run, clock=MockClock(autojump_threshold=0))
    assert len(lines()) == 1
    bus.unregister_listeners_for_event(Ping)
    bus.subscribe(fail, Ping, async_=True)
    # The clock of this run is behind that of the first one.
    trio.run(run_again, clock=MockClock(autojump_threshold=0))
    assert [line for line in lines() if "ValueError: 2" in line]
