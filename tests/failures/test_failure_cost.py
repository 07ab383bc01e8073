"""The price of a failure: its text is made once, and only when its exception is given up.

The tests count calls and executed instructions; none measures time.
"""

from __future__ import annotations

import gc
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tests.support.checks import ignore_error
from tests.support.work import count_instructions
from trio.testing import wait_all_tasks_blocked

from goevent import Event, EventError, GoEvent, Supervision
from goevent._errors import MAX_KEPT_FRAMES, listener_failed
from goevent._kernel.supervisor import MAX_LIVE_ERRORS, MAX_LOGGED_ERRORS


class Ping(Event, name="failures.ping"):
    n: int = 0


class Printed(Exception):
    """Counts how often the text of any instance is made."""

    texts = 0

    def __str__(self) -> str:
        Printed.texts += 1
        return str(self.args[0])


@pytest.fixture(autouse=True)
def _no_texts_yet() -> None:
    Printed.texts = 0


def fail(event: Ping) -> None:
    raise Printed(event.n)


async def fail_async(event: Ping) -> None:
    raise Printed(event.n)


async def settled(bus: GoEvent) -> None:
    await bus.wait()


async def not_at_all(bus: GoEvent) -> None:
    """Leave the callbacks behind."""


@pytest.mark.parametrize("after_each", [settled, not_at_all])
@pytest.mark.parametrize("listener", [fail, fail_async])
async def test_the_text_of_a_failure_is_made_once_for_the_log_and_the_callbacks(
    bus: GoEvent,
    listener: Callable[[Ping], object],
    after_each: Callable[[GoEvent], Awaitable[None]],
) -> None:
    failures = 3 * MAX_LIVE_ERRORS  # they fit into a mailbox
    told: list[EventError] = []
    bus.subscribe(listener, Ping, async_=listener is not fail)
    bus.on_error(told.append)
    for n in range(failures):
        bus.dispatch_nowait(Ping(n))
        await after_each(bus)
    await bus.wait()
    await wait_all_tasks_blocked()
    assert len(told) == failures
    assert Printed.texts <= failures
    reasons = [f"Printed: {n}" for n in range(failures)]
    assert [error.reason for error in told] == [error.reason for error in bus.errors] == reasons


async def test_callbacks_that_lag_get_the_first_errors_live_and_the_later_ones_as_text(
    bus: GoEvent,
) -> None:
    told: list[EventError] = []
    bus.subscribe(fail, Ping)
    bus.on_error(told.append)
    handles = [bus.dispatch_nowait(Ping(n)) for n in range(MAX_LIVE_ERRORS + 5)]
    await wait_all_tasks_blocked()
    live = [handle.errors[0] for handle in handles]
    assert told[:MAX_LIVE_ERRORS] == live[:MAX_LIVE_ERRORS]
    for text, error in zip(told[MAX_LIVE_ERRORS:], live[MAX_LIVE_ERRORS:], strict=True):
        assert text.error is None
        assert error.error is not None
        assert str(text) == str(error)
        assert text.args == error.args == ("failures.ping", "fail")
        assert text.attempts == error.attempts == 1


async def test_the_supervisor_is_woken_once_for_a_burst_of_failures(
    bus: GoEvent, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[EventError] = []
    bus.subscribe(fail, Ping)
    bus.on_error(told.append)
    await wait_all_tasks_blocked()
    supervisor: Any = bus._supervisor  # pyright: ignore[reportPrivateUsage]
    wakes = 0

    class CountedLot:
        """The parking lot of the supervisor's task, which is parked in the real one."""

        def __init__(self, lot: Any) -> None:
            self._lot = lot

        def unpark(self) -> None:
            nonlocal wakes
            wakes += 1
            self._lot.unpark()

        async def park(self) -> None:
            await self._lot.park()

    monkeypatch.setattr(supervisor, "_mailed", CountedLot(supervisor._mailed))
    for burst in range(1, 4):
        for n in range(10):
            bus.dispatch_nowait(Ping(n))
        assert wakes == burst
        await wait_all_tasks_blocked()
        assert len(told) == 10 * burst


async def test_a_failure_costs_the_same_however_many_are_kept(bus: GoEvent) -> None:
    bus.subscribe(fail, Ping)
    bus.on_error(ignore_error)
    work: list[int] = []
    for failures in (2 * MAX_LIVE_ERRORS, MAX_LOGGED_ERRORS + 10):
        while bus.error_count < failures:
            bus.dispatch_nowait(Ping(1))
        work.append(count_instructions(lambda: bus.dispatch_nowait(Ping(1))))
    # The last one is among those that no callback gets, so it costs less.
    assert work[1] <= work[0]


async def test_the_call_that_failed_is_found_among_equal_ones(bus: GoEvent) -> None:
    """Two bound methods of one object are equal, and one of them fails the second time."""

    class Moody:
        calls = 0

        def run(self, event: Ping) -> None:
            self.calls += 1
            if self.calls == 2:
                raise Printed(event.n)

    moody = Moody()
    for name in ("first", "second", "third"):
        bus.subscribe(moody.run, Ping, name=name)
    handle = bus.dispatch_nowait(Ping())
    assert [error.listener for error in handle.errors] == ["second"]
    assert moody.calls == 3
    assert [(each.completed, each.failed) for each in bus.snapshot().listeners] == [
        (1, 0),
        (0, 1),
        (1, 0),
    ]


@pytest.mark.parametrize("earlier", [(), (OSError("first"), OSError("second"))])
def test_the_short_way_to_an_error_sets_all_that_its_constructor_sets(
    earlier: tuple[OSError, ...],
) -> None:
    cause = ValueError("third")
    made = listener_failed("failures.ping", "fail", cause, earlier)
    expected = EventError("failures.ping", "fail", cause, earlier=earlier)
    assert type(made) is EventError
    assert (made.args, str(made)) == (expected.args, str(expected))
    assert made.__cause__ is expected.__cause__ is cause
    assert made.__suppress_context__ == expected.__suppress_context__
    for name in EventError.__slots__:
        assert getattr(made, name) == getattr(expected, name)


async def test_the_last_of_several_calls_fails_and_is_supervised(bus: GoEvent) -> None:
    seen: list[int] = []
    bus.subscribe(lambda event: seen.append(event.n), Ping)
    bus.subscribe(fail, Ping, supervision=Supervision("stop"))
    bus.on_error(ignore_error)
    handles = [bus.dispatch_nowait(Ping(n)) for n in range(2)]
    assert [len(handle.errors) for handle in handles] == [1, 0]
    assert seen == [0, 1]
    ledger = bus.snapshot().ledger
    assert (ledger.accepted, ledger.completed, ledger.failed) == (3, 2, 1)


# -- the lines of a traceback that was given up


def deep(event: Ping) -> None:
    deeper(MAX_KEPT_FRAMES + 5)


def deeper(depth: int) -> None:
    if depth:
        deeper(depth - 1)
    raise Printed(
        0,
    )


def across_lines(event: Ping) -> None:
    values = [
        1,
        int(
            "no number",
        ),
    ]
    raise Printed(values)


def in_a_comprehension(event: Ping) -> None:
    raise Printed([1 // each for each in (1, 0)])


def compiled(event: Ping) -> None:
    exec("1\n\n\nraise ValueError('line four')", {})


@pytest.mark.parametrize("listener", [fail, deep, across_lines, in_a_comprehension, compiled])
async def test_an_old_error_keeps_the_lines_of_its_traceback(
    bus: GoEvent, listener: Callable[[Ping], object]
) -> None:
    bus.on_error(ignore_error)
    bus.subscribe(listener, Ping)
    handles = [bus.dispatch_nowait(Ping(n)) for n in range(MAX_LIVE_ERRORS + 2)]
    old, live = bus.errors[0], handles[0].errors[0]
    assert old is bus.errors[0]
    assert old.error is None
    assert live.error is not None
    expected: list[tuple[str, int | None, str]] = []
    entry = live.error.__traceback__
    while entry is not None and len(expected) < MAX_KEPT_FRAMES:
        code = entry.tb_frame.f_code
        expected.append((code.co_filename, entry.tb_lineno, code.co_name))
        entry = entry.tb_next
    assert [*old._frames] == expected  # pyright: ignore[reportPrivateUsage]
    for file, line, function in expected:
        assert f'File "{file}", line {line}, in {function}' in old.details
    assert old.details.endswith(live.reason)


async def test_errors_as_text_are_not_tracked_by_the_garbage_collector(bus: GoEvent) -> None:
    bus.subscribe(deep, Ping)
    bus.on_error(ignore_error)
    for n in range(3 * MAX_LIVE_ERRORS):
        bus.dispatch_nowait(Ping(n))
    for _ in range(3):  # a tuple of tuples is untracked after those in it
        gc.collect()
    kept = bus._supervisor._kept  # pyright: ignore[reportPrivateUsage]
    assert len(kept) == 2 * MAX_LIVE_ERRORS
    assert not any(map(gc.is_tracked, kept))
    assert len(bus.errors) == 3 * MAX_LIVE_ERRORS
