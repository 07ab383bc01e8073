"""Blocking listeners: each run in a worker thread, in order, and never in the way of others.

No clock knows whether a thread has begun. So these tests have their threads wait at a gate, and
set a mock clock by hand when all of them are there.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from contextvars import ContextVar
from typing import Self

import pytest
import trio
from tests.support.checks import ignore_error
from tests.support.events import REGISTRY, Job, Other
from tests.support.limits import HANG_SECONDS
from tests.support.middleware import ScopedCall
from trio.testing import MockClock, wait_all_tasks_blocked

from goevent import (
    BusClosed,
    Config,
    Delivery,
    DispatchHandle,
    GoEvent,
    Ledger,
    ListenerTimeout,
    Retry,
    Supervision,
    current_delivery,
)

VARIABLE: ContextVar[int] = ContextVar("VARIABLE", default=0)


@pytest.fixture
def bus_config() -> Config:
    return Config(registry=REGISTRY, threads=3)


class ThreadGate:
    """A gate at which a blocking listener waits."""

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self.gate = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.gate.set()  # a test that fails must not wait for its threads

    def block(self) -> None:
        self.entered.release()
        assert self.gate.wait(HANG_SECONDS)

    async def has_entered(self) -> None:
        entered = await trio.to_thread.run_sync(lambda: self.entered.acquire(timeout=HANG_SECONDS))
        assert entered


# -- one event at a time, in another thread


@pytest.mark.parametrize("timeout", [None, 1000.0])
async def test_a_blocking_listener_runs_in_another_thread_in_order(
    bus: GoEvent, timeout: float | None
) -> None:
    seen: list[int] = []
    threads: set[int] = set()
    running = 0

    @bus.listener(Job, thread=True, timeout=timeout)
    def blocking(event: Job) -> None:
        nonlocal running
        running += 1
        assert running == 1
        threads.add(threading.get_ident())
        seen.append(event.n)
        running -= 1

    for n in range(30):
        await bus.dispatch(Job(n))
    await bus.wait()
    assert seen == list(range(30))
    assert threading.get_ident() not in threads
    assert bus.snapshot().ledger == Ledger(accepted=30, completed=30)


async def test_a_blocking_listener_delays_no_other(bus: GoEvent) -> None:
    seen: list[int] = []
    with ThreadGate() as gate:

        @bus.listener(Job, thread=True)
        def blocking(event: Job) -> None:
            gate.block()

        @bus.listener(Job)
        async def other(event: Job) -> None:
            await trio.lowlevel.checkpoint()
            seen.append(event.n)

        handle = await bus.dispatch(Job(1))
        await gate.has_entered()
        await wait_all_tasks_blocked()
        assert seen == [1]
        assert handle.pending == 1
        (listener, _) = bus.snapshot().listeners
        assert (listener.state, listener.in_flight) == ("running", 1)
        gate.gate.set()
        await handle.wait()


async def test_the_bus_limits_the_threads_that_run_together(bus: GoEvent) -> None:
    lock = threading.Lock()
    running = most = 0
    with ThreadGate() as gate:
        for name in "abcde":

            @bus.listener(Job, thread=True, name=name)
            def blocking(event: Job) -> None:
                nonlocal running, most
                with lock:
                    running += 1
                    most = max(most, running)
                gate.block()
                with lock:
                    running -= 1

        handle = await bus.dispatch(Job())
        for _ in range(3):
            await gate.has_entered()
        await wait_all_tasks_blocked(0.01)
        assert not gate.entered.acquire(blocking=False)
        gate.gate.set()
        await handle.wait()
        assert most == 3


async def test_concurrency_is_that_many_threads(bus: GoEvent) -> None:
    with ThreadGate() as gate:

        @bus.listener(Job, thread=True, concurrency=2)
        def blocking(event: Job) -> None:
            gate.block()

        for n in range(4):
            await bus.dispatch(Job(n))
        for _ in range(2):
            await gate.has_entered()
        await wait_all_tasks_blocked(0.01)
        assert not gate.entered.acquire(blocking=False)
        assert bus.snapshot().listeners[0].in_flight == 2
        gate.gate.set()
        await bus.wait()


async def test_keys_are_in_order_across_threads(bus: GoEvent) -> None:
    seen: dict[int, list[int]] = {0: [], 1: [], 2: []}

    @bus.listener(Job, thread=True, ordering_key=lambda event: event.n % 3)
    def blocking(event: Job) -> None:
        seen[event.n % 3].append(event.n)

    for n in range(60):
        await bus.dispatch(Job(n))
    await bus.wait()
    assert seen == {rest: list(range(rest, 60, 3)) for rest in range(3)}


# -- failures


@pytest.mark.parametrize("timeout", [None, 1000.0])
async def test_an_exception_in_a_thread_is_the_error_of_its_event(
    bus: GoEvent, timeout: float | None
) -> None:
    @bus.listener(Job, thread=True, timeout=timeout, name="blocking")
    def blocking(event: Job) -> None:
        if event.n == 1:
            raise ValueError("in the thread")

    handles = [await bus.dispatch(Job(n)) for n in range(3)]
    await bus.wait()
    assert [len(handle.errors) for handle in handles] == [0, 1, 0]
    (error,) = handles[1].errors
    assert error.listener == "blocking"
    assert isinstance(error.error, ValueError)
    assert "raise ValueError" in error.details


async def test_a_thread_is_tried_again_and_knows_its_attempt(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    attempts: list[int] = []

    @bus.listener(Job, thread=True, retry=Retry(attempts=3, jitter=0))
    def blocking(event: Job) -> None:
        attempts.append(current_delivery().attempt)
        if len(attempts) < 3:
            raise ValueError

    handle = await bus.dispatch(Job())
    await handle.wait()
    assert attempts == [1, 2, 3]
    assert not handle.errors


async def test_a_thread_that_fails_may_stop_its_listener(bus: GoEvent) -> None:
    @bus.listener(Job, thread=True, supervision=Supervision("stop"))
    def blocking(event: Job) -> None:
        raise ValueError

    handles = [bus.dispatch_nowait(Job(n)) for n in range(3)]
    await bus.wait()
    outcomes = [handle.errors[0].outcome for handle in handles]
    assert outcomes == ["failed", "dropped", "dropped"]


# -- timeouts


async def test_a_late_thread_runs_on_and_is_counted_until_it_ends(
    bus: GoEvent, mock_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[int] = []
    with ThreadGate() as gate:

        @bus.listener(Job, thread=True, timeout=5, name="slow")
        def slow(event: Job) -> None:
            if event.n == 0:
                gate.block()
            seen.append(event.n)

        handles = [bus.dispatch_nowait(Job(n)) for n in range(2)]
        await gate.has_entered()
        mock_clock.jump(4.9)
        await wait_all_tasks_blocked(0.01)
        assert not handles[0].done
        mock_clock.jump(0.2)
        await handles[0].wait()
        (error,) = handles[0].errors
        assert isinstance(error.error, ListenerTimeout)
        assert "slow took longer than 5 s" in error.reason
        assert "runs on" in error.reason
        await handles[1].wait()  # the next one does not wait for the thread
        assert seen == [1]
        assert bus.snapshot().listeners[0].strays == 1
        assert not caplog.records
        gate.gate.set()
    await ended(bus)
    assert seen == [1, 0]
    (record,) = caplog.records
    assert "the thread of slow has ended" in record.message
    assert bus.snapshot().ledger == Ledger(accepted=2, completed=1, failed=1)


async def ended(bus: GoEvent) -> None:
    """Wait until no stray thread is running. Only the log reports their end."""
    for _ in range(round(HANG_SECONDS) * 100):
        if not any(listener.strays for listener in bus.snapshot().listeners):
            return
        await trio.to_thread.run_sync(threading.Event().wait, 0.01)
    pytest.fail("a thread has not ended")


async def test_the_error_of_a_late_thread_is_in_the_log(
    bus: GoEvent, mock_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    with ThreadGate() as gate:

        @bus.listener(Job, thread=True, timeout=5, name="slow")
        def slow(event: Job) -> None:
            gate.block()
            raise ValueError("much later")

        handle = await bus.dispatch(Job())
        await gate.has_entered()
        mock_clock.jump(6)
        await handle.wait()
        assert len(handle.errors) == 1
        gate.gate.set()
    await ended(bus)
    assert "much later" in caplog.text
    assert bus.error_count == 1


async def test_a_late_thread_keeps_its_place_in_the_limiter(
    bus: GoEvent, mock_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    started: list[int] = []
    with ThreadGate() as gate:

        @bus.listener(Job, thread=True, timeout=5, name="slow")
        def slow(event: Job) -> None:
            started.append(event.n)
            gate.block()

        handles: list[DispatchHandle] = []
        for n in range(5):
            handles.append(bus.dispatch_nowait(Job(n)))
            if n < 3:
                await gate.has_entered()
            else:
                await wait_all_tasks_blocked(0.01)
            mock_clock.jump(6)
            await handles[n].wait()
        assert bus.snapshot().listeners[0].strays == 3
        reasons = [handle.errors[0].reason for handle in handles]
        assert ["runs on" in reason for reason in reasons] == [True] * 3 + [False] * 2
        assert ["to get a thread" in reason for reason in reasons] == [False] * 3 + [True] * 2
        gate.gate.set()
    await ended(bus)
    assert started == [0, 1, 2]  # an event that has timed out does not run later
    assert len(caplog.records) == 3


async def test_a_thread_that_is_in_time_is_not_stray(
    bus: GoEvent, caplog: pytest.LogCaptureFixture
) -> None:
    @bus.listener(Job, thread=True, timeout=1000)
    def quick(event: Job) -> None:
        """Return at once."""

    for n in range(20):
        await bus.dispatch(Job(n))
    await bus.wait()
    assert bus.snapshot().listeners[0].strays == 0
    assert not caplog.records


# -- calls from a thread


@pytest.mark.parametrize("timeout", [None, 1000.0])
async def test_a_thread_may_dispatch_and_wait_by_way_of_trio(
    bus: GoEvent, timeout: float | None
) -> None:
    seen: list[str] = []

    @bus.listener(Other)
    async def other(event: Other) -> None:
        seen.append(f"other {event.n}")

    async def round_trip(n: int) -> None:
        handle = await bus.dispatch(Other(n))
        await handle.wait()

    @bus.listener(Job, thread=True, timeout=timeout)
    def blocking(event: Job) -> None:
        trio.from_thread.run_sync(bus.dispatch_nowait, Other(1))
        trio.from_thread.run(round_trip, 2)
        seen.append("blocking")
        bus.dispatch_from_thread(Other(3))

    handle = await bus.dispatch(Job())
    await handle.wait()
    await bus.wait()
    assert not handle.errors
    assert seen == ["other 1", "other 2", "blocking", "other 3"]


@pytest.mark.parametrize("timeout", [None, 1000.0])
async def test_a_thread_of_a_draining_bus_may_dispatch(timeout: float | None) -> None:
    seen: list[int] = []
    bus = GoEvent(Config(registry=REGISTRY))
    with ThreadGate() as gate:
        async with bus, trio.open_nursery() as nursery:

            @bus.listener(Other)
            async def other(event: Other) -> None:
                seen.append(event.n)

            @bus.listener(Job, thread=True, timeout=timeout)
            def blocking(event: Job) -> None:
                gate.block()
                trio.from_thread.run(bus.dispatch, Other(1))
                trio.from_thread.run_sync(bus.dispatch_nowait, Other(2))

            handle = await bus.dispatch(Job())
            await gate.has_entered()
            nursery.start_soon(bus.close)
            await wait_all_tasks_blocked(0.01)
            with pytest.raises(BusClosed):
                await bus.dispatch(Other(9))
            gate.gate.set()
    assert not handle.errors
    assert seen == [1, 2]


@pytest.mark.parametrize("timeout", [None, 1000.0])
async def test_a_thread_that_waits_for_its_own_event_gets_an_error(
    bus: GoEvent, timeout: float | None
) -> None:
    @bus.listener(Job, thread=True, timeout=timeout)
    def blocking(event: Job) -> None:
        trio.from_thread.run(current_delivery().handle.wait)

    handle = await bus.dispatch(Job())
    with trio.fail_after(HANG_SECONDS):
        await handle.wait()
    (error,) = handle.errors
    assert "would wait forever" in error.reason


@pytest.mark.parametrize("timeout", [None, 1000.0])
async def test_the_delivery_is_known_in_the_thread(bus: GoEvent, timeout: float | None) -> None:
    seen: list[tuple[str, object, int]] = []

    @bus.listener(Job, thread=True, timeout=timeout, name="blocking")
    def blocking(event: Job) -> None:
        delivery = current_delivery()
        seen.append((delivery.listener, delivery.event, delivery.attempt))
        assert delivery.handle is trio.from_thread.run_sync(current_delivery).handle

    handle = await bus.dispatch(Job(7))
    await handle.wait()
    assert not handle.errors
    assert seen == [("blocking", Job(7), 1)]


@pytest.mark.parametrize("timeout", [None, 1000.0])
async def test_a_thread_with_the_context_option_has_its_dispatchers_context_variables(
    bus: GoEvent, timeout: float | None
) -> None:
    seen: list[tuple[str, int]] = []

    @bus.listener(Job, thread=True, timeout=timeout)
    def without(event: Job) -> None:
        seen.append(("without", VARIABLE.get()))
        VARIABLE.set(100)

    @bus.listener(Job, thread=True, timeout=timeout, context=True)
    def contextual(event: Job) -> None:
        seen.append(("contextual", VARIABLE.get()))
        VARIABLE.set(200)

    VARIABLE.set(7)
    for n in range(2):
        handle = await bus.dispatch(Job(n))
        await handle.wait()
        assert not handle.errors
    assert sorted(seen) == [("contextual", 7)] * 2 + [("without", 0)] * 2


class Setting:
    """Middleware that sets a context variable."""

    async def around_call(self, delivery: Delivery) -> AsyncIterator[None]:
        VARIABLE.set(11)
        yield


@pytest.mark.parametrize("timeout", [None, 1000.0])
async def test_the_thread_sees_what_middleware_sets(bus: GoEvent, timeout: float | None) -> None:
    seen: list[int] = []

    @bus.listener(Job, thread=True, timeout=timeout, middleware=(Setting(), ScopedCall()))
    def blocking(event: Job) -> None:
        seen.append(VARIABLE.get())

    for n in range(2):
        handle = await bus.dispatch(Job(n))
        await handle.wait()
        assert not handle.errors
    assert seen == [11, 11]


async def test_a_late_thread_inside_middleware_with_a_scope(
    bus: GoEvent, mock_clock: MockClock
) -> None:
    with ThreadGate() as gate:

        @bus.listener(Job, thread=True, timeout=5, middleware=(ScopedCall(),))
        def slow(event: Job) -> None:
            if event.n == 0:
                gate.block()

        handles = [bus.dispatch_nowait(Job(n)) for n in range(2)]
        await gate.has_entered()
        mock_clock.jump(6)
        await handles[0].wait()
        await handles[1].wait()
        assert [len(handle.errors) for handle in handles] == [1, 0]
        gate.gate.set()
    await ended(bus)


# -- the end of the bus


@pytest.mark.parametrize("timeout", [None, 1000.0])
async def test_a_drain_waits_for_a_thread(timeout: float | None) -> None:
    bus = GoEvent(Config(registry=REGISTRY))
    seen: list[int] = []
    with ThreadGate() as gate:
        async with bus:

            @bus.listener(Job, thread=True, timeout=timeout)
            def blocking(event: Job) -> None:
                gate.block()
                seen.append(event.n)

            handle = await bus.dispatch(Job(1))
            await gate.has_entered()
            gate.gate.set()
    assert seen == [1]
    assert not handle.errors
    assert bus.snapshot().ledger == Ledger(accepted=1, completed=1)


@pytest.mark.parametrize("timeout", [None, 1e6])
async def test_a_bus_with_a_late_thread_does_not_end_before_it(
    mock_clock: MockClock, timeout: float | None
) -> None:
    bus = GoEvent(Config(registry=REGISTRY))
    bus.on_error(ignore_error)
    seen: list[str] = []
    with ThreadGate() as gate:
        async with bus:

            @bus.listener(Job, thread=True, timeout=timeout)
            def blocking(event: Job) -> None:
                gate.block()
                seen.append("thread")

            handles = [await bus.dispatch(Job(n)) for n in range(2)]
            await gate.has_entered()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(bus.close, 1)
                for _ in range(2):  # the close timeout, and the time for cleanup
                    await wait_all_tasks_blocked(0.01)
                    mock_clock.jump(3)
            ledger = bus.snapshot().ledger
            assert ledger == Ledger(accepted=2, abandoned=2)
            assert all(handle.done for handle in handles)
            seen.append("closed")
            gate.gate.set()
        seen.append("left")
    assert seen == ["closed", "thread", "left"]
    assert bus.snapshot().ledger == ledger
    assert [len(handle.errors) for handle in handles] == [1, 1]


async def test_unregistering_lets_a_thread_finish(bus: GoEvent) -> None:
    seen: list[int] = []
    with ThreadGate() as gate:

        def blocking(event: Job) -> None:
            gate.block()
            seen.append(event.n)

        registration = bus.subscribe(blocking, Job, thread=True)
        handles = [bus.dispatch_nowait(Job(n)) for n in range(2)]
        await gate.has_entered()
        registration.unregister()
        assert handles[1].errors[0].outcome == "dropped"
        assert handles[0].pending == 1
        gate.gate.set()
        await handles[0].wait()
        assert not handles[0].errors
    assert seen == [0]


def test_the_limiter_works_in_another_event_loop() -> None:
    bus = GoEvent(Config(registry=REGISTRY, threads=1))
    seen: list[int] = []

    @bus.listener(Job, thread=True)
    def blocking(event: Job) -> None:
        seen.append(event.n)

    async def run(n: int) -> None:
        async with bus:
            await bus.dispatch(Job(n))

    for n in range(3):
        trio.run(run, n)
    assert seen == [0, 1, 2]
