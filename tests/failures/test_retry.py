"""Retries: the attempts of a failed event, the pauses between them, and the final error."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from contextvars import ContextVar

import pytest
import trio
from tests.support.checks import ignore_error
from tests.support.events import REGISTRY, Job
from trio.testing import MockClock, wait_all_tasks_blocked

from goevent import (
    Config,
    DispatchHandle,
    EventAbandoned,
    EventError,
    GoEvent,
    Ledger,
    ListenerTimeout,
    Registration,
    Retry,
    Supervision,
    current_delivery,
)

VARIABLE: ContextVar[int] = ContextVar("VARIABLE", default=0)


def steady(attempts: int = 3, backoff: float = 1, **options: float) -> Retry:
    return Retry(attempts=attempts, backoff=backoff, jitter=0, **options)  # type: ignore[arg-type]


class Flaky:
    """A listener that fails on its first attempts, and records the time of each."""

    def __init__(self, failures: int = 1000, error: Callable[[int], Exception] = ValueError):
        self.attempts: list[tuple[int, int, float]] = []
        self._failures = failures
        self._error = error

    async def __call__(self, event: Job) -> None:
        attempt = current_delivery().attempt
        self.attempts.append((event.n, attempt, trio.current_time()))
        await trio.lowlevel.checkpoint()
        if attempt <= self._failures:
            raise self._error(attempt)

    @property
    def times(self) -> list[float]:
        return [time for _, _, time in self.attempts]


def the_error(handle: DispatchHandle) -> EventError:
    (error,) = handle.errors
    return error


# -- when


async def test_the_pause_doubles_from_attempt_to_attempt_up_to_max_backoff(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    flaky = Flaky()
    bus.subscribe(flaky, Job, retry=steady(7, 0.5, max_backoff=5))
    began = trio.current_time()
    handle = await bus.dispatch(Job())
    await handle.wait()
    pauses = [0.5, 1, 2, 4, 5, 5]
    assert flaky.times == [began + sum(pauses[:n]) for n in range(7)]
    assert [attempt for _, attempt, _ in flaky.attempts] == [1, 2, 3, 4, 5, 6, 7]
    assert trio.current_time() == began + sum(pauses)
    assert the_error(handle).attempts == 7


async def test_no_backoff_is_no_pause(bus: GoEvent, autojump_clock: MockClock) -> None:
    flaky = Flaky()
    bus.subscribe(flaky, Job, retry=steady(5, 0))
    began = trio.current_time()
    handle = await bus.dispatch(Job())
    await handle.wait()
    assert flaky.times == [began] * 5
    assert the_error(handle).attempts == 5


@pytest.mark.parametrize("jitter", [0.25, 1.0])
async def test_jitter_shortens_each_pause_by_at_most_its_part(
    bus: GoEvent, autojump_clock: MockClock, jitter: float
) -> None:
    flaky = Flaky()
    bus.subscribe(flaky, Job, retry=Retry(attempts=5, backoff=2, max_backoff=8, jitter=jitter))
    random.seed(7)
    pauses: list[list[float]] = [[], [], [], []]
    for _ in range(50):
        flaky.attempts.clear()
        handle = await bus.dispatch(Job())
        await handle.wait()
        the_error(handle)
        for n in range(4):
            pauses[n].append(flaky.times[n + 1] - flaky.times[n])
    for full, drawn in zip([2, 4, 8, 8], pauses, strict=True):
        assert full * (1 - jitter) - 1e-6 <= min(drawn) < max(drawn) <= full + 1e-6
        assert max(drawn) - min(drawn) > full * jitter / 2  # each pause is drawn on its own


async def test_a_back_off_delays_the_events_behind_it(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    flaky = Flaky(failures=1)
    bus.subscribe(flaky, Job, retry=steady())
    began = trio.current_time()
    for n in range(3):
        bus.dispatch_nowait(Job(n))
    await bus.wait()
    assert [(n, attempt, time - began) for n, attempt, time in flaky.attempts] == [
        (0, 1, 0),
        (0, 2, 1),
        (1, 1, 1),
        (1, 2, 2),
        (2, 1, 2),
        (2, 2, 3),
    ]
    assert bus.error_count == 0


async def test_with_concurrency_only_the_failed_event_pauses(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    seen: list[tuple[int, float]] = []

    @bus.listener(Job, retry=steady(), concurrency=2, ordering_key=False)
    async def listen(event: Job) -> None:
        seen.append((event.n, trio.current_time() - began))
        if event.n == 0 and current_delivery().attempt == 1:
            raise ValueError

    began = trio.current_time()
    for n in range(4):
        bus.dispatch_nowait(Job(n))
    await bus.wait()
    assert seen == [(0, 0), (1, 0), (2, 0), (3, 0), (0, 1)]


async def test_with_an_ordering_key_a_retried_event_holds_its_key_only(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    seen: list[tuple[int, float]] = []

    @bus.listener(Job, retry=steady(), ordering_key=lambda event: event.n % 2)
    async def listen(event: Job) -> None:
        seen.append((event.n, trio.current_time() - began))
        if event.n == 0 and current_delivery().attempt == 1:
            raise ValueError

    began = trio.current_time()
    for n in range(4):
        bus.dispatch_nowait(Job(n))
    await bus.wait()
    assert seen == [(0, 0), (1, 0), (3, 0), (0, 1), (2, 1)]


async def test_a_back_off_delays_no_other_listener(bus: GoEvent, autojump_clock: MockClock) -> None:
    flaky = Flaky(failures=1)
    bus.subscribe(flaky, Job, retry=steady(backoff=5))
    times: list[float] = []

    @bus.listener(Job)
    async def other(event: Job) -> None:
        times.append(trio.current_time())

    began = trio.current_time()
    await bus.dispatch(Job())
    await bus.wait()
    assert times == [began]
    assert flaky.times == [began, began + 5]


# -- which failures


@pytest.mark.parametrize(
    ("retry", "attempts"),
    [
        (Retry(on=KeyError, jitter=0), 3),
        (Retry(on=(KeyError, OSError), jitter=0), 3),
        (Retry(on=LookupError, jitter=0), 3),
        (Retry(on=ValueError, jitter=0), 1),
        (Retry(on=(), jitter=0), 1),
        (Retry(not_on=KeyError, jitter=0), 1),
        (Retry(not_on=(OSError, LookupError), jitter=0), 1),
        (Retry(not_on=ValueError, jitter=0), 3),
        (Retry(on=LookupError, not_on=IndexError, jitter=0), 3),
        (Retry(on=lambda error: isinstance(error, KeyError), jitter=0), 3),
        (Retry(on=lambda error: False, jitter=0), 1),
        (Retry(on=lambda error: True, not_on=KeyError, jitter=0), 1),
        (Retry(on=lambda error: error.args[0] < 2, jitter=0), 2),
    ],
)
async def test_only_exceptions_that_the_policy_covers_are_retried(
    bus: GoEvent, autojump_clock: MockClock, retry: Retry, attempts: int
) -> None:
    flaky = Flaky(error=KeyError)
    bus.subscribe(flaky, Job, retry=retry)
    handle = await bus.dispatch(Job())
    await handle.wait()
    assert the_error(handle).attempts == len(flaky.attempts) == attempts


async def test_an_exception_that_is_covered_on_one_attempt_and_not_on_the_next(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    errors: list[Exception] = [KeyError(), OSError(), KeyError()]
    flaky = Flaky(error=lambda attempt: errors[attempt - 1])
    bus.subscribe(flaky, Job, retry=steady(9, on=KeyError))  # type: ignore[arg-type]  # pyright: ignore
    handle = await bus.dispatch(Job())
    await handle.wait()
    assert the_error(handle).causes == (errors[0], errors[1])


async def test_a_predicate_that_raises_is_named_and_ends_the_attempts(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    def broken(error: Exception) -> bool:
        raise ZeroDivisionError("in the predicate")

    flaky = Flaky(error=KeyError)
    bus.subscribe(flaky, Job, retry=Retry(on=broken), name="flaky")
    handles = [bus.dispatch_nowait(Job(n)) for n in range(2)]
    await bus.wait()
    assert [(n, attempt) for n, attempt, _ in flaky.attempts] == [(0, 1), (1, 1)]
    for handle in handles:
        error = the_error(handle)
        assert "predicate of flaky" in error.listener
        assert isinstance(error.error, ZeroDivisionError)
        assert isinstance(error.error.__context__, KeyError)  # the argument of the predicate
        assert error.attempts == 1


async def test_a_predicate_that_raises_on_the_second_failure_keeps_the_first(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    def broken(error: Exception) -> bool:
        return bool(1 // (2 - error.args[0]))

    bus.subscribe(Flaky(error=KeyError), Job, retry=steady(5, on=broken))  # type: ignore[arg-type]  # pyright: ignore
    handle = await bus.dispatch(Job())
    await handle.wait()
    error = the_error(handle)
    assert error.attempts == 2
    assert [type(cause) for cause in error.causes] == [KeyError, ZeroDivisionError]


# -- attempts in errors and snapshots


async def test_an_event_that_succeeds_in_the_end_has_no_error(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    flaky = Flaky(failures=2)
    bus.subscribe(flaky, Job, retry=steady())
    handle = await bus.dispatch(Job())
    await handle.wait()
    assert len(flaky.attempts) == 3
    assert handle.errors == ()
    assert bus.snapshot().ledger == Ledger(accepted=1, completed=1)
    assert bus.error_count == 0


async def test_the_error_has_the_causes_of_all_attempts_with_their_tracebacks(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    errors = [ValueError(n) for n in range(3)]
    bus.subscribe(Flaky(error=lambda attempt: errors[attempt - 1]), Job, retry=steady(), name="it")
    handle = await bus.dispatch(Job())
    await handle.wait()
    error = the_error(handle)
    assert error.causes == tuple(errors)
    assert error.error is errors[2]
    assert str(error) == "it failed on 'test.job' after 3 attempts: ValueError: 2"
    for cause in errors:
        assert cause.__traceback__ is not None
        assert cause.__traceback__.tb_frame.f_code is Flaky.__call__.__code__


async def test_the_attempt_starts_at_one_again_with_the_next_event(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    flaky = Flaky(failures=1)
    bus.subscribe(flaky, Job, retry=steady())
    for n in range(2):
        await bus.dispatch(Job(n))
    await bus.wait()
    assert [(n, attempt) for n, attempt, _ in flaky.attempts] == [(0, 1), (0, 2), (1, 1), (1, 2)]


async def test_the_attempt_is_visible_in_children_of_the_listener(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    seen: list[int] = []

    async def child() -> None:
        seen.append(current_delivery().attempt)

    @bus.listener(Job, retry=steady(2))
    async def listen(event: Job) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(child)
        raise ValueError

    handle = await bus.dispatch(Job())
    await handle.wait()
    assert seen == [1, 2]
    assert the_error(handle).attempts == 2


async def test_the_snapshot_says_that_a_listener_is_backing_off(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    bus.subscribe(Flaky(failures=1), Job, retry=steady())
    states: list[str] = []
    bus.dispatch_nowait(Job())
    for _ in range(3):
        await trio.sleep(0.4)
        (listener,) = bus.snapshot().listeners
        states.append(listener.state)
        assert listener.in_flight == int(listener.state != "idle")
    assert states == ["backing off", "backing off", "idle"]


async def test_the_errors_of_the_bus_have_one_entry_for_all_attempts(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    told: list[EventError] = []
    bus.on_error(told.append)
    bus.subscribe(Flaky(), Job, retry=steady(4))
    handle = await bus.dispatch(Job())
    await bus.wait()
    await wait_all_tasks_blocked()
    assert bus.errors == tuple(told) == (the_error(handle),)
    assert bus.snapshot().ledger == Ledger(accepted=1, failed=1)


# -- the end of the bus or of the listener during a back-off


async def test_a_drain_waits_for_a_back_off(autojump_clock: MockClock) -> None:
    flaky = Flaky(failures=1)
    async with GoEvent(Config(registry=REGISTRY)) as bus:
        bus.subscribe(flaky, Job, retry=steady(backoff=5))
        handle = await bus.dispatch(Job())
    assert handle.done
    assert not handle.errors
    assert [attempt for _, attempt, _ in flaky.attempts] == [1, 2]


async def test_close_during_a_back_off_settles_the_event(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    bus.on_error(ignore_error)
    bus.subscribe(Flaky(error=KeyError), Job, retry=steady(backoff=100, max_backoff=100))
    handles = [bus.dispatch_nowait(Job(n)) for n in range(2)]
    began = trio.current_time()
    ledger = await bus.close(timeout=3)
    assert trio.current_time() == began + 3
    assert ledger == Ledger(accepted=2, abandoned=2)
    errors = [the_error(handle) for handle in handles]
    assert all(isinstance(error, EventAbandoned) for error in errors)
    assert [type(error.error) for error in errors] == [KeyError, type(None)]
    assert "after attempt 1" in errors[0].reason


async def test_unregistering_during_a_back_off_ends_it_at_once(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    flaky = Flaky()
    registration = bus.subscribe(flaky, Job, retry=steady(5, backoff=100, max_backoff=100))
    handles = [bus.dispatch_nowait(Job(n)) for n in range(2)]
    await trio.sleep(1)
    began = trio.current_time()
    registration.unregister()
    await bus.wait()
    assert trio.current_time() == began
    assert [(the_error(handle).outcome, handle.errors[0].attempts) for handle in handles] == [
        ("failed", 1),
        ("dropped", 1),
    ]
    assert len(flaky.attempts) == 1


async def test_an_attempt_after_unregistering_itself_is_the_last(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    registrations: list[Registration] = []
    seen: list[int] = []

    async def listen(event: Job) -> None:
        seen.append(event.n)
        registrations[0].unregister()
        raise ValueError

    registrations.append(bus.subscribe(listen, Job, retry=steady(backoff=100, max_backoff=100)))
    began = trio.current_time()
    handle = await bus.dispatch(Job())
    await handle.wait()
    assert trio.current_time() == began
    assert seen == [0]
    assert the_error(handle).attempts == 1


async def test_a_listener_that_takes_one_event_only_tries_that_again(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    flaky = Flaky(failures=2)
    bus.subscribe(flaky, Job, retry=steady(), once=True)
    handles = [bus.dispatch_nowait(Job(n)) for n in range(2)]
    await handles[0].wait()
    assert [(n, attempt) for n, attempt, _ in flaky.attempts] == [(0, 1), (0, 2), (0, 3)]
    assert not handles[0].errors


async def cancelled_in_second_attempt(
    bus: GoEvent, second: Callable[[], Awaitable[None]]
) -> tuple[DispatchHandle, Ledger]:
    """Close the bus during the second attempt of an event whose first attempt has failed."""
    bus.on_error(ignore_error)
    attempts: list[int] = []

    @bus.listener(Job, retry=steady())
    async def listen(event: Job) -> None:
        attempts.append(current_delivery().attempt)
        if attempts == [1]:
            raise KeyError
        await second()

    handle = await bus.dispatch(Job())
    await trio.sleep(2)
    ledger = await bus.close(timeout=1)
    assert attempts == [1, 2]
    return handle, ledger


async def fail_when_cancelled() -> None:
    try:
        await trio.sleep_forever()
    finally:
        raise OSError


async def test_cancellation_during_an_attempt_is_no_failure_of_it(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    handle, ledger = await cancelled_in_second_attempt(bus, trio.sleep_forever)
    assert ledger == Ledger(accepted=1, abandoned=1)
    error = the_error(handle)
    assert isinstance(error, EventAbandoned)
    assert isinstance(error.error, KeyError)


async def test_an_attempt_that_fails_while_it_is_cancelled_with_the_bus(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    handle, ledger = await cancelled_in_second_attempt(bus, fail_when_cancelled)
    assert handle.done
    assert ledger.accepted == ledger.failed + ledger.abandoned == 1
    assert [type(cause) for cause in the_error(handle).causes] == [KeyError, OSError]


async def test_children_of_an_attempt_that_fail_while_the_bus_is_cancelled(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    async def second() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail_when_cancelled)
            nursery.start_soon(trio.sleep_forever)

    handle, ledger = await cancelled_in_second_attempt(bus, second)
    assert handle.done
    assert ledger == Ledger(accepted=1, failed=1)
    error = the_error(handle)
    assert error.attempts == 2
    assert isinstance(error.error, ExceptionGroup)


# -- with other options, and with listeners that misbehave


async def test_the_timeout_is_that_of_one_attempt(bus: GoEvent, autojump_clock: MockClock) -> None:
    times: list[float] = []

    @bus.listener(Job, retry=steady(), timeout=10)
    async def slow(event: Job) -> None:
        times.append(trio.current_time() - began)
        await trio.sleep_forever()

    began = trio.current_time()
    handle = await bus.dispatch(Job())
    await handle.wait()
    assert times == [0, 11, 23]
    assert trio.current_time() == began + 33
    assert [type(cause) for cause in the_error(handle).causes] == [ListenerTimeout] * 3


async def test_an_attempt_after_a_timeout_may_succeed(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    @bus.listener(Job, retry=steady(), timeout=10)
    async def slow_at_first(event: Job) -> None:
        await trio.sleep(15 if current_delivery().attempt == 1 else 5)

    began = trio.current_time()
    handles = [bus.dispatch_nowait(Job(n)) for n in range(2)]
    await bus.wait()
    assert trio.current_time() == began + 2 * (10 + 1 + 5)
    assert not any(handle.errors for handle in handles)


async def test_a_policy_may_exclude_timeouts(bus: GoEvent, autojump_clock: MockClock) -> None:
    @bus.listener(Job, retry=Retry(not_on=ListenerTimeout), timeout=10)
    async def slow(event: Job) -> None:
        await trio.sleep_forever()

    handle = await bus.dispatch(Job())
    await handle.wait()
    assert the_error(handle).attempts == 1


@pytest.mark.parametrize("fails", [False, True])
async def test_a_second_attempt_that_leaves_a_scope_open_is_the_last(
    bus: GoEvent, autojump_clock: MockClock, fails: bool
) -> None:
    flaky = Flaky(failures=0)

    @bus.listener(Job, retry=steady(5))
    async def listen(event: Job) -> None:
        if event.n == 1:
            return await flaky(event)
        if current_delivery().attempt == 1:
            raise KeyError
        trio.CancelScope().__enter__()
        if fails:
            raise OSError
        return None

    handles = [bus.dispatch_nowait(Job(n)) for n in range(2)]
    await bus.wait()
    error = the_error(handles[0])
    assert "left a cancel scope" in error.reason
    assert error.attempts == 2
    assert isinstance(error.causes[0], KeyError)
    assert flaky.attempts  # on another worker
    assert bus.snapshot().ledger == Ledger(accepted=2, completed=1, failed=1)


async def test_a_second_attempt_that_leaves_a_cancelled_scope_open(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    flaky = Flaky(failures=0)

    @bus.listener(Job, retry=steady(5))
    async def listen(event: Job) -> None:
        if event.n == 1:
            return await flaky(event)
        if current_delivery().attempt == 1:
            raise KeyError
        scope = trio.CancelScope()
        scope.__enter__()
        scope.cancel()
        await trio.lowlevel.checkpoint()
        return None

    handles = [bus.dispatch_nowait(Job(n)) for n in range(2)]
    await bus.wait()
    error = the_error(handles[0])
    assert error.outcome == "failed"
    assert "left a cancel scope" in error.reason
    assert error.attempts == 2
    assert flaky.attempts
    assert bus.snapshot().ledger == Ledger(accepted=2, completed=1, failed=1)


async def test_a_second_attempt_that_leaves_a_nursery_open(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    cancelled: list[int] = []

    async def child() -> None:
        try:
            await trio.sleep_forever()
        finally:
            cancelled.append(1)

    @bus.listener(Job, retry=steady(5))
    async def listen(event: Job) -> None:
        if current_delivery().attempt == 1:
            raise KeyError
        nursery = await trio.open_nursery().__aenter__()
        nursery.start_soon(child)
        await wait_all_tasks_blocked()

    handle = await bus.dispatch(Job())
    await handle.wait()
    assert cancelled == [1]
    assert the_error(handle).attempts == 2


async def test_a_second_attempt_that_sets_a_context_variable(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    seen: list[int] = []

    @bus.listener(Job, retry=steady(5))
    async def listen(event: Job) -> None:
        seen.append(VARIABLE.get())
        if event.n == 0:
            if current_delivery().attempt == 1:
                raise KeyError
            VARIABLE.set(7)

    handles = [bus.dispatch_nowait(Job(n)) for n in range(2)]
    await bus.wait()
    error = the_error(handles[0])
    assert "context variable" in error.reason
    assert error.attempts == 2
    assert seen == [0, 0, 0]
    assert not handles[1].errors


async def test_retries_of_a_blocking_listener(bus: GoEvent, autojump_clock: MockClock) -> None:
    attempts: list[int] = []

    @bus.listener(Job, async_=True, retry=steady())
    def listen(event: Job) -> None:
        attempts.append(current_delivery().attempt)
        if len(attempts) < 3:
            raise KeyError

    handle = await bus.dispatch(Job())
    await handle.wait()
    assert attempts == [1, 2, 3]
    assert not handle.errors


async def test_retries_of_an_awaited_listener_delay_its_dispatch(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    flaky = Flaky()
    bus.subscribe(flaky, Job, async_=False, retry=steady())
    began = trio.current_time()
    handle = await bus.dispatch(Job())
    assert trio.current_time() == began + 3
    assert [attempt for _, attempt, _ in flaky.attempts] == [1, 2, 3]
    error = the_error(handle)
    assert error.attempts == 3
    assert all(cause.__traceback__ is not None for cause in error.causes)


async def test_only_the_last_failure_counts_for_supervision(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    flaky = Flaky(failures=2)
    bus.subscribe(flaky, Job, retry=steady(), supervision=Supervision("stop"))
    handle = await bus.dispatch(Job())
    await handle.wait()
    assert not handle.errors
    assert len(bus.snapshot().listeners) == 1


async def test_a_bus_that_is_opened_again_retries_again(autojump_clock: MockClock) -> None:
    flaky = Flaky(failures=1)
    bus = GoEvent(Config(registry=REGISTRY))
    bus.subscribe(flaky, Job, retry=steady(backoff=100, max_backoff=100))
    bus.on_error(ignore_error)
    async with bus:
        await bus.dispatch(Job(0))
        await trio.sleep(1)
        await bus.close(0)
    async with bus:
        handle = await bus.dispatch(Job(1))
        await handle.wait()
        assert not handle.errors
    assert [(n, attempt) for n, attempt, _ in flaky.attempts] == [(0, 1), (1, 1), (1, 2)]
