"""Timeouts: a listener that takes too long is cancelled, and no other one is."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextvars import ContextVar
from typing import Any, cast

import pytest
import trio
from tests.support.checks import ignore_error
from tests.support.limits import HANG_SECONDS
from tests.support.middleware import AsyncScopedCall, ScopedCall
from trio.testing import MockClock, wait_all_tasks_blocked

from goevent import (
    Config,
    Delivery,
    DispatchHandle,
    Event,
    EventRegistry,
    GoEvent,
    Ledger,
    ListenerOptions,
    ListenerTimeout,
    Supervision,
)

REGISTRY = EventRegistry()
VARIABLE: ContextVar[int] = ContextVar("VARIABLE", default=0)


class Job(Event, name="timeout.job", registry=REGISTRY):
    n: int = 0
    seconds: float = 0


class Other(Event, name="timeout.other", registry=REGISTRY):
    n: int = 0
    seconds: float = 0


@pytest.fixture(params=["mailbox", "awaited"])
def kind(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The two kinds of listeners that a timeout can cancel."""
    return {"async_": request.param == "mailbox"}


def the_timeout(handle: DispatchHandle) -> ListenerTimeout:
    (error,) = handle.errors
    assert error.outcome == "failed"
    assert isinstance(error.error, ListenerTimeout)
    return error.error


# -- one listener


async def test_a_listener_that_sleeps_is_cancelled_at_its_time(
    bus: GoEvent, autojump_clock: MockClock, kind: dict[str, Any]
) -> None:
    ended: list[float] = []

    @bus.listener(Job, timeout=2.5, name="sleeper", **kind)
    async def sleeper(event: Job) -> None:
        try:
            await trio.sleep(1000)
        finally:
            ended.append(trio.current_time() - began)

    began = trio.current_time()
    handle = await bus.dispatch(Job())
    await handle.wait()
    assert ended == [2.5]
    assert trio.current_time() == began + 2.5
    assert str(the_timeout(handle)) == "sleeper took longer than 2.5 s"
    assert isinstance(the_timeout(handle), trio.TooSlowError)
    assert the_timeout(handle).__cause__ is None


async def test_a_listener_that_is_in_time_is_not_cancelled(
    bus: GoEvent, autojump_clock: MockClock, kind: dict[str, Any]
) -> None:
    seen: list[int] = []

    @bus.listener(Job, timeout=2, **kind)
    async def quick(event: Job) -> None:
        await trio.sleep(1.9)
        seen.append(event.n)

    for n in range(5):
        await bus.dispatch(Job(n))
    await bus.wait()
    assert seen == [0, 1, 2, 3, 4]
    assert bus.error_count == 0


async def test_the_cleanup_of_a_listener_runs_to_its_end(
    bus: GoEvent, autojump_clock: MockClock, kind: dict[str, Any]
) -> None:
    seen: list[object] = []

    @bus.listener(Job, timeout=1, **kind)
    async def listen(event: Job) -> None:
        try:
            try:
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    await trio.sleep(3)
                seen.append(trio.current_time() - began)
        finally:
            try:
                await trio.sleep(10)  # not shielded: cancelled at once
            finally:
                seen.append("awaited in vain")

    began = trio.current_time()
    handle = await bus.dispatch(Job())
    await handle.wait()
    assert seen == [4, "awaited in vain"]
    assert trio.current_time() == began + 4
    the_timeout(handle)


async def test_a_listener_that_swallows_exceptions_is_cancelled_too(
    bus: GoEvent, autojump_clock: MockClock, kind: dict[str, Any]
) -> None:
    @bus.listener(Job, timeout=1, **kind)
    async def stubborn(event: Job) -> None:
        while True:
            try:
                await trio.sleep_forever()
            except Exception:
                pytest.fail("a cancellation is no Exception")

    with trio.fail_after(5):
        handle = await bus.dispatch(Job())
        await handle.wait()
    the_timeout(handle)


async def test_a_listener_that_ignores_cancellation_and_returns_has_succeeded(
    bus: GoEvent, autojump_clock: MockClock, kind: dict[str, Any]
) -> None:
    after: list[int] = []

    @bus.listener(Job, timeout=1, **kind)
    async def deaf(event: Job) -> None:
        if event.n == 0:
            with trio.CancelScope(shield=True):
                await trio.sleep(5)
        else:
            await trio.lowlevel.checkpoint()
            after.append(event.n)

    handles = [await bus.dispatch(Job(n)) for n in range(2)]
    await bus.wait()
    assert not handles[0].errors
    assert not handles[1].errors
    assert after == [1]


async def test_a_listener_that_ignores_cancellation_for_a_while(
    bus: GoEvent, autojump_clock: MockClock, kind: dict[str, Any]
) -> None:
    times: list[float] = []

    @bus.listener(Job, timeout=1, **kind)
    async def slow_to_hear(event: Job) -> None:
        times.append(trio.current_time() - began)
        if event.n == 0:
            with trio.CancelScope(shield=True):
                await trio.sleep(5)
            await trio.lowlevel.checkpoint()

    began = trio.current_time()
    handles = [await bus.dispatch(Job(n)) for n in range(2)]
    await bus.wait()
    the_timeout(handles[0])
    assert not handles[1].errors
    assert times == [0, 5]


async def test_an_exception_raised_during_the_cancellation_is_the_cause(
    bus: GoEvent, autojump_clock: MockClock, kind: dict[str, Any]
) -> None:
    @bus.listener(Job, timeout=1, **kind)
    async def fails(event: Job) -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise OSError("in the cleanup")

    handle = await bus.dispatch(Job())
    await handle.wait()
    assert isinstance(the_timeout(handle).__cause__, OSError)


async def test_children_that_fail_while_they_are_cancelled_are_the_cause(
    bus: GoEvent, autojump_clock: MockClock, kind: dict[str, Any]
) -> None:
    async def child(n: int) -> None:
        try:
            await trio.sleep_forever()
        finally:
            if n:
                raise OSError(n)

    @bus.listener(Job, timeout=1, **kind)
    async def parent(event: Job) -> None:
        async with trio.open_nursery() as nursery:
            for n in range(3):
                nursery.start_soon(child, n)

    handle = await bus.dispatch(Job())
    await handle.wait()
    cause = the_timeout(handle).__cause__
    assert isinstance(cause, ExceptionGroup)
    assert {str(error) for error in cast("ExceptionGroup[OSError]", cause).exceptions} == {"1", "2"}


async def test_children_of_a_listener_are_cancelled_with_it(
    bus: GoEvent, autojump_clock: MockClock, kind: dict[str, Any]
) -> None:
    ended: list[int] = []

    async def child(n: int) -> None:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
        finally:
            ended.append(n)

    @bus.listener(Job, timeout=1, **kind)
    async def parent(event: Job) -> None:
        async with trio.open_nursery() as nursery:
            for n in range(3):
                nursery.start_soon(child, n)

    handle = await bus.dispatch(Job())
    await handle.wait()
    assert sorted(ended) == [0, 1, 2]
    assert the_timeout(handle).__cause__ is None


async def test_an_error_before_the_deadline_is_no_timeout(
    bus: GoEvent, autojump_clock: MockClock, kind: dict[str, Any]
) -> None:
    @bus.listener(Job, timeout=2, **kind)
    async def fails(event: Job) -> None:
        await trio.sleep(1)
        raise OSError

    handle = await bus.dispatch(Job())
    await handle.wait()
    (error,) = handle.errors
    assert isinstance(error.error, OSError)


async def test_a_listener_may_use_timeouts_of_its_own(
    bus: GoEvent, autojump_clock: MockClock, kind: dict[str, Any]
) -> None:
    seen: list[str] = []

    @bus.listener(Job, timeout=10, **kind)
    async def listen(event: Job) -> None:
        with trio.move_on_after(1):
            await trio.sleep_forever()
        seen.append("moved on")
        with trio.fail_after(2):
            await trio.sleep_forever()

    handle = await bus.dispatch(Job())
    await handle.wait()
    (error,) = handle.errors
    assert seen == ["moved on"]
    assert type(error.error) is trio.TooSlowError


async def test_a_listener_that_leaves_a_scope_open_and_is_overdue(
    bus: GoEvent, autojump_clock: MockClock, kind: dict[str, Any]
) -> None:
    seen: list[int] = []

    @bus.listener(Job, timeout=1, **kind)
    async def listen(event: Job) -> None:
        if event.n == 0:
            trio.CancelScope().__enter__()
            await trio.sleep_forever()
        await trio.lowlevel.checkpoint()
        seen.append(event.n)

    with trio.fail_after(50):
        handles = [await bus.dispatch(Job(n)) for n in range(2)]
        await bus.wait()
    (error,) = handles[0].errors
    assert error.outcome == "failed"
    assert seen == [1]
    assert not handles[1].errors
    assert bus.snapshot().ledger == Ledger(accepted=2, completed=1, failed=1)


async def test_a_listener_that_leaves_a_cancelled_scope_open_within_its_timeout(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    seen: list[int] = []

    @bus.listener(Job, timeout=1)
    async def listen(event: Job) -> None:
        if event.n == 0:
            scope = trio.CancelScope()
            scope.__enter__()
            scope.cancel()
        await trio.lowlevel.checkpoint()
        seen.append(event.n)

    with trio.fail_after(50):
        handles = [await bus.dispatch(Job(n)) for n in range(3)]
        await bus.wait()
    (error,) = handles[0].errors
    assert "left a cancel scope" in error.reason
    assert seen == [1, 2]
    assert bus.error_count == 1


# -- several listeners, which share workers


async def test_the_next_event_of_a_worker_is_not_cancelled_for_the_one_before(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    seen: list[tuple[str, int]] = []

    @bus.listener(Job, timeout=1)
    async def limited(event: Job) -> None:
        await trio.sleep(event.seconds)
        seen.append(("limited", event.n))

    @bus.listener(Other)
    async def unlimited(event: Other) -> None:
        await trio.sleep(event.seconds)
        seen.append(("unlimited", event.n))

    handles = [bus.dispatch_nowait(Job(n, seconds=2 * (n % 2))) for n in range(6)]
    await bus.wait()
    for n in range(3):
        handles.append(await bus.dispatch(Other(n, seconds=5)))
        await bus.wait()
    assert seen == [("limited", n) for n in (0, 2, 4)] + [("unlimited", n) for n in range(3)]
    assert [bool(handle.errors) for handle in handles] == [False, True] * 3 + [False] * 3


async def test_listeners_with_different_timeouts_share_workers(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    ended: dict[str, float] = {}

    def register(name: str, timeout: float | None) -> None:
        async def listen(event: Job) -> None:
            try:
                await trio.sleep(100)
            finally:
                ended[name] = round(trio.current_time() - began, 9)

        bus.subscribe(listen, Job, timeout=timeout, name=name)

    for name, timeout in (("five", 5), ("none", None), ("tenth", 0.1), ("one", 1), ("six", 6)):
        register(name, timeout)
    for _ in range(3):  # the same workers, in another order
        ended.clear()
        began = trio.current_time()
        handle = await bus.dispatch(Job())
        await handle.wait()
        assert ended == {"five": 5, "none": 100, "tenth": 0.1, "one": 1, "six": 6}
        assert list(ended) == ["tenth", "one", "five", "six", "none"]
        assert sorted(error.listener for error in handle.errors) == ["five", "one", "six", "tenth"]


async def test_a_short_timeout_that_begins_during_a_long_one_is_exact(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    ended: list[tuple[str, float]] = []

    async def sleep(name: str) -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.append((name, round(trio.current_time() - began, 9)))

    @bus.listener(Job, timeout=5)
    async def long(event: Job) -> None:
        await sleep("long")

    @bus.listener(Other, timeout=0.1)
    async def short(event: Other) -> None:
        await sleep("short")

    began = trio.current_time()
    handles: list[DispatchHandle] = [await bus.dispatch(Job())]
    for time in (1, 2.5, 4.95):
        await trio.sleep_until(began + time)
        handles.append(await bus.dispatch(Other()))
    await bus.wait()
    assert ended == [("short", 1.1), ("short", 2.6), ("long", 5), ("short", 5.05)]
    for handle in handles:
        the_timeout(handle)


async def test_the_task_of_the_timeouts_wakes_at_most_once_per_timeout(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    @bus.listener(Job, timeout=1)
    async def listen(event: Job) -> None:
        await trio.sleep(0.25)

    jumps: list[float] = []

    class Steps(trio.abc.Instrument):
        def before_task_step(self, task: trio.lowlevel.Task) -> None:
            if task.name.endswith("Session._run_scheduler"):  # it runs the timeouts
                jumps.append(trio.current_time())

    instrument = Steps()
    trio.lowlevel.add_instrument(instrument)
    for n in range(40):
        bus.dispatch_nowait(Job(n))
    began = trio.current_time()
    await bus.wait()
    await trio.sleep(10)
    trio.lowlevel.remove_instrument(instrument)
    assert trio.current_time() == began + 20
    assert len(jumps) <= 2 * (10 + 2)
    assert max(jumps) <= began + 11 + 0.001  # with nothing to watch, it sleeps


async def test_with_concurrency_each_event_has_its_own_timeout(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    ended: list[tuple[int, float]] = []

    @bus.listener(Job, timeout=2, concurrency=3)
    async def listen(event: Job) -> None:
        try:
            await trio.sleep(event.seconds)
        finally:
            ended.append((event.n, trio.current_time() - began))

    began = trio.current_time()
    handles = [bus.dispatch_nowait(Job(n, seconds=[9, 1, 3][n % 3])) for n in range(6)]
    await bus.wait()
    assert sorted(ended) == [(0, 2), (1, 1), (2, 2), (3, 3), (4, 3), (5, 4)]
    assert [bool(handle.errors) for handle in handles] == [True, False, True, True, False, True]


# -- with other options


async def test_a_timeout_in_the_context_of_the_dispatcher(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    seen: list[int] = []

    @bus.listener(Job, timeout=1, context=True)
    async def listen(event: Job) -> None:
        seen.append(VARIABLE.get())
        VARIABLE.set(100)
        await trio.sleep(event.seconds)

    VARIABLE.set(7)
    handles = [bus.dispatch_nowait(Job(n, seconds=2 * (n % 2))) for n in range(4)]
    await bus.wait()
    assert seen == [7, 7, 7, 7]
    assert [bool(handle.errors) for handle in handles] == [False, True, False, True]


@pytest.mark.parametrize("middleware", [AsyncScopedCall(), ScopedCall()])
async def test_a_timeout_inside_middleware_that_has_a_scope(
    bus: GoEvent,
    autojump_clock: MockClock,
    middleware: AsyncScopedCall | ScopedCall,
    kind: dict[str, Any],
) -> None:
    ended: list[tuple[int, float]] = []

    @bus.listener(Job, timeout=1, middleware=(middleware,), **kind)
    async def listen(event: Job) -> None:
        began = trio.current_time()
        try:
            await trio.sleep(event.seconds)
        finally:
            ended.append((event.n, trio.current_time() - began))

    with trio.fail_after(50):
        handles = [await bus.dispatch(Job(n, seconds=2 * (n % 2))) for n in range(4)]
        await bus.wait()
    assert ended == [(0, 0), (1, 1), (2, 0), (3, 1)]
    assert [bool(handle.errors) for handle in handles] == [False, True, False, True]
    the_timeout(handles[1])
    the_timeout(handles[3])


class ShortTimeout:
    """Middleware with a timeout of its own, which is shorter."""

    async def around_call(self, delivery: Delivery) -> AsyncIterator[None]:
        with trio.fail_after(1):
            yield


async def test_a_shorter_timeout_of_middleware_wins(
    bus: GoEvent, autojump_clock: MockClock, kind: dict[str, Any]
) -> None:
    @bus.listener(Job, timeout=2, middleware=(ShortTimeout(),), **kind)
    async def listen(event: Job) -> None:
        await trio.sleep(event.seconds)

    began = trio.current_time()
    with trio.fail_after(50):
        handles = [await bus.dispatch(Job(n, seconds=5 * (n % 2))) for n in range(4)]
        await bus.wait()
    assert trio.current_time() == began + 2
    for handle in (handles[1], handles[3]):
        (error,) = handle.errors
        assert error.listener == "ShortTimeout"
        assert type(error.error) is trio.TooSlowError
    assert not handles[0].errors
    assert not handles[2].errors


async def test_a_default_timeout_is_for_listeners_that_can_be_cancelled(
    autojump_clock: MockClock,
) -> None:
    config = Config(registry=REGISTRY, listener=ListenerOptions(timeout=1))
    async with GoEvent(config) as bus:
        seen: list[str] = []

        @bus.listener(Job)
        def inline(event: Job) -> None:
            seen.append("inline")

        @bus.listener(Job, timeout=3)
        async def longer(event: Job) -> None:
            await trio.sleep(2)
            seen.append("longer")

        @bus.listener(Job, name="default")
        async def default(event: Job) -> None:
            await trio.sleep(2)

        handle = await bus.dispatch(Job())
        await handle.wait()
        assert seen == ["inline", "longer"]
        assert [error.listener for error in handle.errors] == ["default"]


# -- the end of the bus


async def test_a_timeout_during_a_drain_ends_it_early(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    @bus.listener(Job, timeout=1)
    async def listen(event: Job) -> None:
        await trio.sleep_forever()

    bus.on_error(ignore_error)
    handles = [await bus.dispatch(Job(n)) for n in range(3)]
    began = trio.current_time()
    ledger = await bus.close(timeout=10)
    assert trio.current_time() == began + 3
    assert ledger == Ledger(accepted=3, failed=3)
    for handle in handles:
        the_timeout(handle)


async def test_a_timeout_at_the_moment_in_which_the_bus_ends(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    @bus.listener(Job, timeout=2)
    async def listen(event: Job) -> None:
        await trio.sleep_forever()

    bus.on_error(ignore_error)
    handles = [await bus.dispatch(Job(n)) for n in range(3)]
    await wait_all_tasks_blocked()
    ledger = await bus.close(timeout=2)
    assert ledger.accepted == ledger.failed + ledger.abandoned == 3
    assert all(len(handle.errors) == 1 for handle in handles)
    assert bus.error_count == 3


async def test_a_late_cleanup_after_a_timeout_that_outlasts_the_bus(
    autojump_clock: MockClock,
) -> None:
    ended: list[float] = []
    bus = GoEvent(Config(registry=REGISTRY))

    @bus.listener(Job, timeout=1)
    async def listen(event: Job) -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(20)
            ended.append(trio.current_time() - began)

    began = trio.current_time()
    async with bus:
        handle = await bus.dispatch(Job())
        await trio.sleep(2)
        ledger = await bus.close(timeout=1)
        assert trio.current_time() == began + 2 + 1 + 2  # and two seconds of grace
        assert handle.done
        assert ledger == Ledger(accepted=1, abandoned=1)
        assert handle.errors[0].outcome == "abandoned"
    assert ended == [20 + 1]
    assert bus.snapshot().ledger == ledger
    async with bus:
        await bus.dispatch(Job())
        await bus.wait()
        assert bus.snapshot().ledger == Ledger(accepted=1, failed=1)


def test_timeouts_are_exact_when_the_bus_is_opened_again_with_another_clock() -> None:
    bus = GoEvent(Config(registry=REGISTRY))
    times: list[float] = []

    @bus.listener(Job, timeout=1.5)
    async def listen(event: Job) -> None:
        began = trio.current_time()
        try:
            await trio.sleep(event.seconds)
        finally:
            times.append(trio.current_time() - began)

    async def run() -> bool:
        async with bus:
            handles = [await bus.dispatch(Job(seconds=seconds)) for seconds in (9, 1, 9)]
            await bus.wait()
            return [len(handle.errors) for handle in handles] == [1, 0, 1]

    for start in (1e6, 0, 5e3):  # time goes back, too
        clock = MockClock(autojump_threshold=0)
        clock.jump(start)
        assert trio.run(run, clock=clock)
    assert times == [1.5, 1, 1.5] * 3


async def test_a_timeout_by_the_real_clock(bus: GoEvent) -> None:
    @bus.listener(Job, timeout=0.05)
    async def listen(event: Job) -> None:
        await trio.sleep(event.seconds)

    began = trio.current_time()
    handles = [await bus.dispatch(Job(seconds=seconds)) for seconds in (30, 0, 30)]
    with trio.fail_after(HANG_SECONDS):
        await bus.wait()
    assert trio.current_time() - began >= 0.1
    assert [len(handle.errors) for handle in handles] == [1, 0, 1]


@pytest.mark.parametrize("catches", [False, True])
async def test_an_overdue_listener_that_leaves_a_scope_open_is_restarted(
    bus: GoEvent, autojump_clock: MockClock, catches: bool
) -> None:
    """The pause before the restart must not be cancelled with the listener."""
    times: list[float] = []

    @bus.listener(Job, timeout=1, supervision=Supervision("restart", backoff=3))
    async def listen(event: Job) -> None:
        times.append(trio.current_time() - began)
        if event.n == 0:
            trio.CancelScope().__enter__()
            with trio.CancelScope(shield=catches):
                await trio.sleep(2)

    began = trio.current_time()
    with trio.fail_after(50):
        handles = [bus.dispatch_nowait(Job(n)) for n in range(2)]
        await bus.wait()
    assert times == [0, 3 + (2 if catches else 1)]
    assert len(handles[0].errors) == 1
    assert not handles[1].errors
