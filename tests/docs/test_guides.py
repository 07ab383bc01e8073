"""Statements of the guides that no other test covers."""

from __future__ import annotations

import contextvars
import threading
from dataclasses import dataclass
from types import NoneType

import pytest
import trio
from tests.support.limits import HANG_SECONDS

from goevent import (
    DeadlockError,
    EventError,
    GoEvent,
    ListenerTimeout,
    Retry,
    Supervision,
    current_delivery,
    register_event_type,
)

request: contextvars.ContextVar[str] = contextvars.ContextVar("request", default="none")


@register_event_type(name="guides.asked")
@dataclass(frozen=True)
class Asked:
    n: int = 0


@register_event_type(name="guides.answered")
@dataclass(frozen=True)
class Answered:
    n: int = 0


TIMEOUTS = pytest.mark.parametrize("timeout", [None, HANG_SECONDS], ids=["untimed", "timed"])


# -- threads of listeners


@TIMEOUTS
async def test_a_listener_in_a_thread_may_dispatch_while_the_bus_drains(
    timeout: float | None,
) -> None:
    bus = GoEvent()
    answers: list[int] = []

    @bus.listener(Asked, thread=True, timeout=timeout)
    def answer(event: Asked) -> None:
        trio.from_thread.run(trio.sleep, 0)  # lets the bus begin to drain
        bus.dispatch_from_thread(Answered(event.n))
        trio.from_thread.run(bus.dispatch, Answered(-event.n))

    @bus.listener(Answered)
    async def note(event: Answered) -> None:
        answers.append(event.n)

    async with bus:
        await bus.dispatch(Asked(1))
        await bus.dispatch(Asked(2))
        assert bus.errors == ()
    assert answers == [1, -1, 2, -2]
    assert bus.errors == ()


@TIMEOUTS
async def test_a_thread_that_would_wait_for_its_own_mailbox_gets_a_deadlock_error(
    timeout: float | None,
) -> None:
    bus = GoEvent()
    failures: list[DeadlockError] = []

    @bus.listener(Asked, thread=True, mailbox=1, timeout=timeout)
    def ask(event: Asked) -> None:
        if event.n:
            try:
                for _ in range(2):
                    bus.dispatch_from_thread(Asked())
            except DeadlockError as error:
                failures.append(error)

    with trio.fail_after(HANG_SECONDS):
        async with bus:
            await bus.dispatch(Asked(1))
    assert len(failures) == 1
    assert bus.errors == ()


@TIMEOUTS
async def test_an_inline_listener_is_not_taken_for_the_thread_that_dispatched(
    timeout: float | None,
) -> None:
    bus = GoEvent()
    seen: list[str] = []

    @bus.listener(Asked, thread=True, timeout=timeout)
    def answer(event: Asked) -> None:
        seen.append(current_delivery().event_name)
        bus.dispatch_from_thread(Answered())
        trio.from_thread.run(bus.dispatch, Answered())
        seen.append(current_delivery().event_name)

    @bus.listener(Answered)
    def inline(event: Answered) -> None:
        with pytest.raises(RuntimeError, match="no current delivery"):
            current_delivery()

    async with bus:
        await bus.dispatch(Asked())
    assert seen == ["guides.asked", "guides.asked"]
    assert bus.errors == ()


async def test_the_context_of_a_thread_that_dispatches_reaches_listeners_that_ask_for_it() -> None:
    bus = GoEvent()
    seen: list[str] = []

    @bus.listener(Asked, context=True)
    async def note(event: Asked) -> None:
        seen.append(request.get())

    def work() -> None:
        request.set("from the thread")
        bus.dispatch_from_thread(Asked())

    async with bus:
        await trio.to_thread.run_sync(work)
    assert seen == ["from the thread"]


# -- once, with a retry


async def test_the_only_event_of_a_listener_is_tried_again(autojump_clock: object) -> None:
    bus = GoEvent()
    attempts: list[tuple[int, int]] = []

    @bus.listener(Asked, once=True, retry=Retry(attempts=3))
    async def answer(event: Asked) -> None:
        attempts.append((event.n, current_delivery().attempt))
        if len(attempts) < 3:
            raise ValueError("not yet")

    async with bus:
        await bus.dispatch(Asked(1))
        await bus.dispatch(Asked(2))
        ledger = await bus.close()
    assert attempts == [(1, 1), (1, 2), (1, 3)]
    assert (ledger.accepted, ledger.completed) == (1, 1)


# -- an error that ends the bus


async def ended(bus: GoEvent, *events: Asked) -> EventError:
    """Dispatch events, one of which ends the bus; return the error that leaves the bus."""
    with trio.fail_after(HANG_SECONDS):
        try:
            async with bus:
                for event in events:
                    await bus.dispatch(event)
                await trio.sleep_forever()
        except EventError as error:
            return error


async def test_an_error_that_leaves_the_bus_is_not_logged_as_well(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bus = GoEvent()

    @bus.listener(Asked, supervision=Supervision("escalate"))
    async def fail(event: Asked) -> None:
        raise ValueError("no")

    await ended(bus, Asked())
    assert caplog.records == []


async def test_an_error_that_comes_too_late_to_leave_the_bus_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bus = GoEvent()
    both = trio.Event()

    @bus.listener(Asked, concurrency=2, supervision=Supervision("escalate"))
    async def fail(event: Asked) -> None:
        if event.n:
            both.set()
        await both.wait()
        raise ValueError(event.n)

    await ended(bus, Asked(0), Asked(1))
    assert len(caplog.records) == 1


async def test_a_bus_that_ends_says_so_in_its_snapshot() -> None:
    bus = GoEvent()
    states: list[str] = []

    @bus.listener(Asked, supervision=Supervision("escalate"))
    async def fail(event: Asked) -> None:
        raise ValueError("no")

    @bus.on_error
    def look(error: EventError) -> None:
        states.append(bus.snapshot().listeners[0].state)

    await ended(bus, Asked())
    assert states == ["escalating"]


# -- a thread that checks for cancellation


@TIMEOUTS
async def test_a_thread_can_check_whether_it_should_stop(timeout: float | None) -> None:
    bus = GoEvent()
    started = threading.Event()
    stopped = threading.Event()

    @bus.listener(Asked, thread=True, timeout=timeout and 0.01)
    def work(event: Asked) -> None:
        started.set()
        try:
            while True:
                trio.from_thread.check_cancelled()
                stopped.wait(0.001)
        finally:
            stopped.set()

    with trio.fail_after(HANG_SECONDS):
        async with bus:
            handle = await bus.dispatch(Asked())
            if timeout is None:
                await trio.to_thread.run_sync(started.wait)
                await bus.close(timeout=0.01)
            await handle.wait()
            (error,) = handle.errors
            assert isinstance(error.error, ListenerTimeout if timeout else NoneType)
    # On a busy machine the time can be over before the listener gets its thread.
    assert stopped.is_set() or not started.is_set()
