"""Crashes of the kernel: the bus survives a few of them with all events, and then ends loudly.

There is no way to cause them from outside, so these tests break a part of the kernel.
"""

# pyright: reportPrivateUsage=false

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import pytest
import trio
from tests.support.checks import adds_up, ignore_error
from tests.support.events import REGISTRY, Job, Other
from trio.testing import MockClock, wait_all_tasks_blocked

import goevent._kernel.failures
from goevent import Config, DispatchHandle, GoEvent, Ledger, Retry
from goevent._foreign import forget_caller
from goevent._kernel.backpressure import Backpressure


def by_three(event: Job) -> int:
    return event.n % 3


def by_nothing(event: Job) -> int:
    return 0


class KernelBugError(Exception):
    """The exception of a broken kernel."""


def make() -> GoEvent:
    bus = GoEvent(Config(registry=REGISTRY))
    bus.on_error(ignore_error)
    return bus


@contextmanager
def crashes() -> Generator[None]:
    """Expect that a crash of the kernel leaves the block."""
    crashed = False
    try:
        yield
    except KernelBugError:
        crashed = True
    assert crashed


class BrokenFunction:
    """Replaces a function of the kernel, and raises on some calls."""

    def __init__(self, function: Callable[..., Any], *calls: int) -> None:
        self._function = function
        self._calls = calls
        self.count = 0

    def __call__(self, *arguments: Any) -> Any:
        self.count += 1
        if not self._calls or self.count in self._calls:
            raise KernelBugError
        return self._function(*arguments)

    @property
    def method(self) -> Callable[..., Any]:
        """The same as a plain function, which can be the method of a class."""
        return lambda *arguments: self(*arguments)


def break_failures(monkeypatch: pytest.MonkeyPatch, *calls: int) -> None:
    """Break the handling of failed listeners."""
    broken = BrokenFunction(forget_caller, *calls)
    monkeypatch.setattr(goevent._kernel.failures, "forget_caller", broken)


async def listen(event: Job) -> None:
    """Return at once: if it suspended, waiting dispatches would admit themselves."""


async def fails(event: Job) -> None:
    raise ValueError


async def test_the_current_event_is_reported_once_and_the_mailbox_is_kept(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_failures(monkeypatch)
    async with make() as bus:
        seen: list[int] = []

        @bus.listener(Job, name="unlucky")
        async def unlucky(event: Job) -> None:
            seen.append(event.n)
            if event.n == 1:
                raise ValueError

        handles = [bus.dispatch_nowait(Job(n)) for n in range(5)]
        with trio.fail_after(5):
            await bus.wait()
        assert seen == [0, 1, 2, 3, 4]
        assert [len(handle.errors) for handle in handles] == [0, 1, 0, 0, 0]
        (error,) = handles[1].errors
        assert (error.listener, error.outcome) == ("unlucky", "failed")
        assert "the bus itself failed" in error.reason
        assert isinstance(error.error, KernelBugError)
        assert bus.snapshot().ledger == Ledger(accepted=5, completed=4, failed=1)
        assert bus.error_count == 1


async def test_five_crashes_within_ten_seconds_are_survived(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_failures(monkeypatch)
    async with make() as bus:
        bus.subscribe(fails, Job)
        for _ in range(4):
            for n in range(5):
                bus.dispatch_nowait(Job(n))
                await bus.wait()
            await trio.sleep(10.001)
        assert bus.error_count == 20
        assert bus.snapshot().state == "open"


async def test_the_sixth_crash_within_ten_seconds_ends_the_bus(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_failures(monkeypatch)
    bus = make()
    handles: list[DispatchHandle] = []
    with crashes():
        async with bus:
            bus.subscribe(fails, Job)
            for n in range(7):
                handles.append(bus.dispatch_nowait(Job(n)))
                if n < 5:
                    await trio.sleep(1.5)
                    assert len(handles[n].errors) == 1
            with trio.fail_after(10):
                await trio.sleep_forever()
    outcomes = [[error.outcome for error in handle.errors] for handle in handles]
    assert outcomes == [["failed"]] * 5 + [["abandoned"]] * 2
    assert bus.snapshot().ledger == Ledger(accepted=7, failed=5, abandoned=2)


async def test_crashes_long_ago_do_not_count(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_failures(monkeypatch)
    async with make() as bus:
        bus.subscribe(fails, Job)
        for n in range(30):
            bus.dispatch_nowait(Job(n))
            await trio.sleep(2.01)  # 10.05 s for five pauses
        assert bus.error_count == 30


async def test_crashes_before_the_bus_was_opened_again_do_not_count(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_failures(monkeypatch)
    bus = make()
    bus.subscribe(fails, Job)
    for _ in range(2):
        async with bus:
            for n in range(5):
                bus.dispatch_nowait(Job(n))
            await bus.wait()
    assert bus.error_count == 10


async def test_other_listeners_go_on_after_a_crash(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_failures(monkeypatch)
    async with make() as bus:
        seen: list[int] = []
        bus.subscribe(fails, Job)

        @bus.listener(Job, Other)
        async def other(event: Job | Other) -> None:
            await trio.sleep(1)
            seen.append(event.n)

        bus.dispatch_nowait(Other(7))
        await wait_all_tasks_blocked()
        for n in range(3):
            bus.dispatch_nowait(Job(n))
        with trio.fail_after(20):
            await bus.wait()
        assert seen == [7, 0, 1, 2]
        assert bus.error_count == 3


@pytest.mark.parametrize("keyed", [False, True])
async def test_a_lane_that_crashes_is_free_again(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, keyed: bool
) -> None:
    break_failures(monkeypatch)
    async with make() as bus:
        running = most = 0

        @bus.listener(Job, concurrency=2, ordering_key=by_three if keyed else False)
        async def listen(event: Job) -> None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await trio.sleep(1)
            running -= 1
            if event.n in (1, 2, 5):
                raise ValueError

        handles = [bus.dispatch_nowait(Job(n)) for n in range(12)]
        began = trio.current_time()
        with trio.fail_after(50):
            await bus.wait()
        # The last events may be of one key, which has but one lane.
        assert 6 <= trio.current_time() - began <= 8
        assert most == 2
        assert [n for n, handle in enumerate(handles) if handle.errors] == [1, 2, 5]
        assert bus.snapshot().ledger == Ledger(accepted=12, completed=9, failed=3)


@pytest.mark.parametrize("options", [{}, {"concurrency": 2}, {"ordering_key": by_nothing}])
@pytest.mark.parametrize("broken", [(1,), (2,), (1, 2), (1, 3)])
async def test_a_crash_between_two_events_fails_neither(
    autojump_clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    options: dict[str, Any],
    broken: tuple[int, ...],
) -> None:
    """It happens when a waiting dispatch is admitted, after an event was settled."""
    async with make() as bus:
        seen: list[int] = []
        handles: list[DispatchHandle] = []

        @bus.listener(Job, mailbox=1, **options)
        async def listen(event: Job) -> None:
            seen.append(event.n)

        async def dispatch(n: int) -> None:
            handles.append(await bus.dispatch(Job(n)))

        made_room = BrokenFunction(Backpressure.made_room, *broken)
        monkeypatch.setattr(Backpressure, "made_room", made_room.method)
        with trio.fail_after(50):
            async with trio.open_nursery() as nursery:
                for n in range(6):
                    nursery.start_soon(dispatch, n)
            await bus.wait()
        assert made_room.count >= max(broken)
        assert sorted(seen) == [0, 1, 2, 3, 4, 5]
        assert not any(handle.errors for handle in handles)
        assert bus.snapshot().ledger == Ledger(accepted=6, completed=6)
        assert len(caplog.records) == len(broken)
        assert all("the bus itself failed" in record.message for record in caplog.records)


async def test_a_crash_that_repeats_itself_during_the_recovery_ends_the_bus(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    handles: list[DispatchHandle] = []
    bus = make()
    monkeypatch.setattr(Backpressure, "made_room", BrokenFunction(Backpressure.made_room).method)
    with trio.fail_after(50), crashes():
        async with bus:
            bus.subscribe(listen, Job, mailbox=1)
            for n in range(6):
                handles.append(await bus.dispatch(Job(n)))
    assert all(handle.done for handle in handles)
    assert adds_up(bus.snapshot().ledger)


async def test_a_crash_while_an_event_is_tried_again(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_failures(monkeypatch, 2)  # with the second failure
    async with make() as bus:
        seen: list[int] = []

        @bus.listener(Job, retry=Retry(attempts=3, jitter=0))
        async def listen(event: Job) -> None:
            seen.append(event.n)
            if event.n == 0:
                raise ValueError

        handles = [bus.dispatch_nowait(Job(n)) for n in range(2)]
        with trio.fail_after(5):
            await bus.wait()
        assert seen == [0, 0, 1]
        (error,) = handles[0].errors
        assert isinstance(error.error, KernelBugError)
        assert not handles[1].errors
        assert bus.snapshot().ledger == Ledger(accepted=2, completed=1, failed=1)


async def test_a_crash_while_the_bus_drains(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_failures(monkeypatch)
    bus = make()
    async with bus:
        bus.subscribe(fails, Job)
        handles = [bus.dispatch_nowait(Job(n)) for n in range(3)]
    assert [handle.errors[0].outcome for handle in handles] == ["failed"] * 3
    assert bus.snapshot().ledger == Ledger(accepted=3, failed=3)
