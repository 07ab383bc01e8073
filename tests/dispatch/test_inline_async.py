"""Inline `async def` listeners: awaited by the dispatcher, before `dispatch` returns."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import trio
from tests.support.checks import ignore_error
from tests.support.events import REGISTRY, Ping, Pong
from tests.support.limits import HANG_SECONDS
from trio.testing import MockClock, wait_all_tasks_blocked

from goevent import (
    BusClosed,
    Config,
    DeadlockError,
    DispatchHandle,
    Event,
    EventAbandoned,
    EventDropped,
    GoEvent,
    Ledger,
    ListenerTimeout,
    MemoryDriver,
    MemoryHub,
    NestingError,
    Retry,
    Supervision,
    current_delivery,
)

# -- order


async def test_dispatch_returns_after_its_inline_async_listeners(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    ended: list[float] = []

    @bus.listener(Ping, async_=False)
    async def slow(event: Ping) -> None:
        await trio.sleep(3)
        ended.append(trio.current_time())

    start = trio.current_time()
    handle = await bus.dispatch(Ping())
    assert handle.done
    assert ended == [start + 3] == [trio.current_time()]
    assert bus.snapshot().ledger == Ledger(accepted=1, completed=1)


async def test_sync_and_async_inline_listeners_run_by_priority_and_then_by_registration(
    bus: GoEvent,
) -> None:
    seen: list[str] = []

    def add(name: str, priority: int | None, *, suspends: bool) -> None:
        def plain(event: Ping) -> None:
            seen.append(name)

        async def awaited(event: Ping) -> None:
            await trio.sleep(0)
            seen.append(name)

        if suspends:
            bus.subscribe(awaited, Ping, async_=False, priority=priority)
        else:
            bus.subscribe(plain, Ping, priority=priority)

    add("a", None, suspends=True)
    add("b", None, suspends=False)
    add("c", 5, suspends=False)
    add("d", 5, suspends=True)
    add("e", -1, suspends=True)
    add("f", 0, suspends=False)
    await bus.dispatch(Ping())
    assert seen == ["c", "d", "a", "b", "f", "e"]


async def test_one_inline_async_listener_runs_at_a_time_for_one_dispatch(bus: GoEvent) -> None:
    seen: list[str] = []

    for name in "ab":

        @bus.listener(Ping, async_=False)
        async def note(event: Ping, name: str = name) -> None:
            seen.append(f"{name} begins")
            await trio.sleep(0)
            seen.append(f"{name} ends")

    await bus.dispatch(Ping())
    assert seen == ["a begins", "a ends", "b begins", "b ends"]


async def test_mailbox_listeners_have_the_event_before_inline_async_listeners_run(
    bus: GoEvent,
) -> None:
    order: list[str] = []
    ran = trio.Event()

    @bus.listener(Ping, async_=False)
    async def awaited(event: Ping) -> None:
        await ran.wait()
        order.append("awaited")

    @bus.listener(Ping)
    async def mailbox(event: Ping) -> None:
        order.append("mailbox")
        ran.set()

    with trio.fail_after(HANG_SECONDS):
        handle = await bus.dispatch(Ping())
    assert handle.done
    assert order == ["mailbox", "awaited"]


async def test_the_handle_is_pending_until_inline_async_listeners_have_ended(
    bus: GoEvent,
) -> None:
    go = trio.Event()
    seen: list[DispatchHandle] = []
    waited: list[str] = []

    @bus.listener(Ping, async_=False)
    async def awaited(event: Ping) -> None:
        seen.append(current_delivery().handle)
        await go.wait()

    async def wait(handle: DispatchHandle) -> None:
        await handle.wait()
        waited.append("handle")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(bus.dispatch, Ping())
        await wait_all_tasks_blocked()
        (handle,) = seen
        assert (handle.pending, handle.done) == (1, False)
        nursery.start_soon(wait, handle)
        await wait_all_tasks_blocked()
        assert waited == []
        go.set()
    assert handle.done
    assert waited == ["handle"]


async def test_two_tasks_may_dispatch_to_an_inline_async_listener_at_once(bus: GoEvent) -> None:
    working = 0
    most = 0
    go = trio.Event()

    @bus.listener(Ping, async_=False)
    async def awaited(event: Ping) -> None:
        nonlocal working, most
        working += 1
        most = max(most, working)
        await go.wait()
        working -= 1

    async with trio.open_nursery() as nursery:
        for n in range(3):
            nursery.start_soon(bus.dispatch, Ping(n))
        await wait_all_tasks_blocked()
        go.set()
    assert most == 3


# -- failures


async def test_a_failure_is_on_the_handle_and_the_others_run(bus: GoEvent) -> None:
    seen: list[str] = []
    cause = ValueError("broken")

    @bus.listener(Ping, async_=False, name="fails")
    async def fails(event: Ping) -> None:
        await trio.sleep(0)
        raise cause

    @bus.listener(Ping, async_=False)
    async def behind(event: Ping) -> None:
        seen.append("behind")

    handle = await bus.dispatch(Ping())
    (error,) = handle.errors
    assert (error.listener, error.error, error.attempts) == ("fails", cause, 1)
    assert seen == ["behind"]
    ledger = await bus.close()
    assert ledger == Ledger(accepted=2, completed=1, failed=1)


async def test_a_group_of_exceptions_is_one_failure(bus: GoEvent) -> None:
    @bus.listener(Ping, async_=False)
    async def fails(event: Ping) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail, "a")
            nursery.start_soon(fail, "b")

    async def fail(what: str) -> None:
        raise ValueError(what)

    (error,) = (await bus.dispatch(Ping())).errors
    assert isinstance(error.error, ExceptionGroup)
    assert bus.errors == (error,)


async def test_a_timeout_fails_the_event_after_the_listeners_own_cleanup(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    cleaned: list[float] = []

    @bus.listener(Ping, async_=False, timeout=2, name="slow")
    async def slow(event: Ping) -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(1)
            cleaned.append(trio.current_time())

    start = trio.current_time()
    handle = await bus.dispatch(Ping())
    (error,) = handle.errors
    assert isinstance(error.error, ListenerTimeout)
    assert str(error.error) == "slow took longer than 2 s"
    assert cleaned == [start + 3]


async def test_a_listener_that_raises_while_its_timeout_cancels_it_has_timed_out(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    cause = ValueError("on the way out")

    @bus.listener(Ping, async_=False, timeout=2)
    async def slow(event: Ping) -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise cause

    (error,) = (await bus.dispatch(Ping())).errors
    assert isinstance(error.error, ListenerTimeout)
    assert error.error.__cause__ is cause


async def test_a_child_task_that_raises_while_the_timeout_cancels_it_is_the_cause(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    async def child() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("on the way out")

    @bus.listener(Ping, async_=False, timeout=2)
    async def slow(event: Ping) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(child)
            await trio.sleep_forever()

    (error,) = (await bus.dispatch(Ping())).errors
    assert isinstance(error.error, ListenerTimeout)
    assert isinstance(error.error.__cause__, ExceptionGroup)


async def test_a_listener_that_ignores_its_timeout_and_ends_has_succeeded(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    @bus.listener(Ping, async_=False, timeout=2)
    async def stubborn(event: Ping) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(5)

    handle = await bus.dispatch(Ping())
    assert handle.errors == ()


async def test_a_timeout_does_not_cancel_the_dispatching_task(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    @bus.listener(Ping, async_=False, timeout=2)
    async def slow(event: Ping) -> None:
        await trio.sleep_forever()

    for _ in range(2):
        (error,) = (await bus.dispatch(Ping())).errors
        assert isinstance(error.error, ListenerTimeout)
        await trio.sleep(10)


async def test_a_failed_attempt_is_retried_before_dispatch_returns(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    attempts: list[tuple[int, float]] = []

    @bus.listener(Ping, async_=False, retry=Retry(attempts=3, backoff=1, jitter=0))
    async def flaky(event: Ping) -> None:
        attempts.append((current_delivery().attempt, trio.current_time() - start))
        if len(attempts) < 3:
            raise ValueError("not yet")

    start = trio.current_time()
    handle = await bus.dispatch(Ping())
    assert handle.errors == ()
    assert attempts == [(1, 0), (2, 1), (3, 3)]
    assert bus.snapshot().ledger == Ledger(accepted=1, completed=1)


async def test_the_last_attempts_failure_has_all_causes(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    @bus.listener(
        Ping, async_=False, timeout=1, retry=Retry(attempts=2, backoff=1, jitter=0), name="slow"
    )
    async def slow(event: Ping) -> None:
        if current_delivery().attempt == 1:
            raise ValueError("first")
        await trio.sleep_forever()

    start = trio.current_time()
    (error,) = (await bus.dispatch(Ping())).errors
    assert error.attempts == 2
    assert [type(cause) for cause in error.causes] == [ValueError, ListenerTimeout]
    assert trio.current_time() - start == 2


async def test_a_back_off_is_visible_in_the_snapshot(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    @bus.listener(Ping, async_=False, retry=Retry(attempts=2, backoff=10, jitter=0))
    async def flaky(event: Ping) -> None:
        if current_delivery().attempt == 1:
            raise ValueError("not yet")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(bus.dispatch, Ping())
        await trio.sleep(5)
        assert [each.state for each in bus.snapshot().listeners] == ["backing off"]
    assert [each.state for each in bus.snapshot().listeners] == ["idle"]


async def test_unregistering_during_a_back_off_ends_the_retries(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    runs: list[int] = []

    async def fails(event: Ping) -> None:
        runs.append(event.n)
        raise ValueError("again")

    registration = bus.subscribe(
        fails, Ping, async_=False, retry=Retry(attempts=5, backoff=10, jitter=0)
    )
    async with trio.open_nursery() as nursery:

        async def unregister() -> None:
            await trio.sleep(1)
            registration.unregister()

        nursery.start_soon(unregister)
        start = trio.current_time()
        handle = await bus.dispatch(Ping())
        assert trio.current_time() - start == 1
    assert len(handle.errors) == 1
    assert runs == [0]
    ledger = await bus.close()
    assert ledger == Ledger(accepted=1, failed=1)


async def test_stop_unregisters_and_dispatch_goes_on(bus: GoEvent) -> None:
    runs: list[int] = []

    @bus.listener(Ping, async_=False, supervision=Supervision("stop"))
    async def fails(event: Ping) -> None:
        runs.append(event.n)
        raise ValueError("once is enough")

    (await bus.dispatch(Ping(1))).errors  # noqa: B018 - looked at
    await bus.dispatch(Ping(2))
    assert runs == [1]
    ledger = await bus.close()
    assert ledger == Ledger(accepted=1, failed=1)


async def test_a_listener_that_leaves_a_scope_open_fails_and_its_dispatcher_is_as_it_was(
    bus: GoEvent,
) -> None:
    left: list[trio.CancelScope] = []

    @bus.listener(Ping, async_=False)
    async def untidy(event: Ping) -> None:
        scope = trio.CancelScope()
        scope.__enter__()
        left.append(scope)

    with trio.CancelScope() as outer:
        (error,) = (await bus.dispatch(Ping())).errors
        assert isinstance(error.error, RuntimeError)
        assert "left a cancel scope or a nursery open" in str(error.error)
        left[0].cancel()
        await trio.sleep(0)  # outside of the scope that the listener left open
    assert not outer.cancelled_caught


@pytest.mark.parametrize("timeout", [None, 60.0])
async def test_a_listener_that_leaves_a_nursery_open_fails_and_its_children_are_cancelled(
    bus: GoEvent, timeout: float | None
) -> None:
    ended: list[str] = []

    async def child() -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.append("child")

    @bus.listener(Ping, async_=False, timeout=timeout)
    async def untidy(event: Ping) -> None:
        nursery = await trio.open_nursery().__aenter__()
        nursery.start_soon(child)
        await trio.sleep(0)

    with trio.fail_after(HANG_SECONDS):
        (error,) = (await bus.dispatch(Ping())).errors
    assert isinstance(error.error, RuntimeError)
    assert "left a cancel scope or a nursery open" in str(error.error)
    assert ended == ["child"]


async def test_a_listener_that_leaves_a_scope_open_and_raises_leaves_none_open(
    bus: GoEvent,
) -> None:
    @bus.listener(Ping, async_=False)
    async def untidy(event: Ping) -> None:
        trio.CancelScope().__enter__()
        raise ValueError("and left")

    with trio.CancelScope():
        (error,) = (await bus.dispatch(Ping())).errors
        assert isinstance(error.error, RuntimeError)
        assert repr(error.error.__cause__) == "ValueError('and left')"


async def test_a_listener_that_is_cancelled_inside_a_scope_it_left_open_leaves_none_open(
    bus: GoEvent,
) -> None:
    with trio.CancelScope() as outer:

        @bus.listener(Ping, async_=False)
        async def untidy(event: Ping) -> None:
            trio.CancelScope().__enter__()
            outer.cancel()
            await trio.sleep_forever()

        await bus.dispatch(Ping())
    assert outer.cancelled_caught
    assert [error.outcome for error in bus.errors] == ["abandoned"]
    ledger = await bus.close()
    assert ledger == Ledger(accepted=1, abandoned=1)


async def test_a_child_that_fails_while_the_dispatch_is_cancelled_is_a_failure_of_the_listener(
    bus: GoEvent,
) -> None:
    async def child() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("on the way out")

    @bus.listener(Ping, async_=False)
    async def parent(event: Ping) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(child)
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(bus.dispatch, Ping())
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    (error,) = bus.errors
    assert error.outcome == "failed"
    assert "on the way out" in error.details
    ledger = await bus.close()
    assert ledger == Ledger(accepted=1, failed=1)


async def test_context_variables_of_the_listener_stay_its_own(bus: GoEvent) -> None:
    from contextvars import ContextVar

    variable: ContextVar[int] = ContextVar("inline.variable", default=0)
    seen: list[int] = []

    for _ in range(2):

        @bus.listener(Ping, async_=False)
        async def sets(event: Ping) -> None:
            seen.append(variable.get())
            variable.set(7)
            await trio.sleep(0)
            seen.append(variable.get())

    variable.set(3)
    await bus.dispatch(Ping())
    assert seen == [3, 7, 3, 7]
    assert variable.get() == 3


# -- cancellation


async def test_cancelling_the_dispatcher_abandons_the_running_listener_and_the_rest(
    bus: GoEvent,
) -> None:
    ran: list[str] = []
    handles: list[DispatchHandle] = []

    @bus.listener(Ping, name="before")
    def before(event: Ping) -> None:
        ran.append("before")

    @bus.listener(Ping, async_=False, name="running")
    async def running(event: Ping) -> None:
        handles.append(current_delivery().handle)
        await trio.sleep_forever()

    @bus.listener(Ping, name="behind")
    def behind(event: Ping) -> None:
        ran.append("behind")

    @bus.listener(Ping, async_=False, name="last")
    async def last(event: Ping) -> None:
        ran.append("last")

    @bus.listener(Ping, name="mailbox")
    async def mailbox(event: Ping) -> None:
        ran.append("mailbox")

    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bus.dispatch, Ping())
            await wait_all_tasks_blocked()
            scope.cancel()
    (handle,) = handles
    assert handle.done
    await handle.wait()
    assert ran == ["before", "mailbox"] or ran == ["mailbox", "before"]
    assert {(error.listener, error.outcome) for error in handle.errors} == {
        ("running", "abandoned"),
        ("behind", "abandoned"),
        ("last", "abandoned"),
    }
    assert len(handle.errors) == 3
    assert all(isinstance(error, EventAbandoned) for error in handle.errors)
    ledger = await bus.close()
    assert ledger == Ledger(accepted=5, completed=2, abandoned=3)


async def test_cancelling_the_dispatcher_in_a_back_off_abandons_with_the_cause(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    handles: list[DispatchHandle] = []

    @bus.listener(Ping, async_=False, retry=Retry(attempts=3, backoff=10, jitter=0))
    async def flaky(event: Ping) -> None:
        handles.append(current_delivery().handle)
        raise ValueError("not yet")

    with trio.move_on_after(1):
        await bus.dispatch(Ping())
    (handle,) = handles
    assert handle.done
    (error,) = handle.errors
    assert error.outcome == "abandoned"
    assert repr(error.error) == "ValueError('not yet')"
    ledger = await bus.close()
    assert ledger == Ledger(accepted=1, abandoned=1)


async def test_a_cancelled_listener_that_raises_has_failed_and_the_rest_is_abandoned(
    bus: GoEvent,
) -> None:
    handles: list[DispatchHandle] = []

    @bus.listener(Ping, async_=False)
    async def raises(event: Ping) -> None:
        handles.append(current_delivery().handle)
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("while cancelled")

    @bus.listener(Ping, async_=False)
    async def behind(event: Ping) -> None:
        await trio.sleep(0)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(bus.dispatch, Ping())
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    (handle,) = handles
    assert handle.done
    assert [error.outcome for error in handle.errors] == ["failed", "abandoned"]
    ledger = await bus.close()
    assert ledger == Ledger(accepted=2, failed=1, abandoned=1)


async def test_a_dispatch_that_is_cancelled_before_it_begins_reaches_no_listener(
    bus: GoEvent,
) -> None:
    ran: list[Event] = []

    @bus.listener(Ping, async_=False)
    async def note(event: Ping) -> None:
        ran.append(event)

    with trio.CancelScope() as scope:
        scope.cancel()
        await bus.dispatch(Ping())
    assert ran == []
    assert (await bus.close()) == Ledger()


# -- the end of the bus


async def test_closing_waits_for_a_listener_that_runs_in_a_task_of_the_application() -> None:
    bus = GoEvent(Config(registry=REGISTRY))
    go = trio.Event()
    ended: list[str] = []
    async with trio.open_nursery() as nursery, bus:

        @bus.listener(Ping, async_=False)
        async def awaited(event: Ping) -> None:
            await go.wait()
            ended.append("listener")

        async def close() -> None:
            ledger = await bus.close()
            assert ledger == Ledger(accepted=1, completed=1)
            ended.append("close")

        nursery.start_soon(bus.dispatch, Ping())
        await wait_all_tasks_blocked()
        nursery.start_soon(close)
        await wait_all_tasks_blocked()
        assert ended == []
        go.set()
    assert ended == ["listener", "close"]


async def test_closing_cancels_a_listener_that_takes_too_long_and_not_its_dispatcher(
    autojump_clock: MockClock,
) -> None:
    bus = GoEvent(Config(registry=REGISTRY, close_timeout=3))
    handles: list[DispatchHandle] = []
    ran: list[str] = []
    start = trio.current_time()
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            async with bus:

                @bus.listener(Ping, async_=False, name="slow")
                async def slow(event: Ping) -> None:
                    await trio.sleep_forever()

                @bus.listener(Ping, async_=False, name="next")
                async def behind(event: Ping) -> None:
                    ran.append("next")
                    await trio.sleep_forever()

                @bus.listener(Ping, name="last")
                def last(event: Ping) -> None:
                    ran.append("last")

                async def dispatch() -> None:
                    handles.append(await bus.dispatch(Ping()))

                nursery.start_soon(dispatch)
                await wait_all_tasks_blocked()
                ledger = await bus.close()
            assert trio.current_time() - start == 3
    (handle,) = handles
    assert handle.done
    assert ran == []
    assert [(error.listener, error.outcome) for error in handle.errors] == [
        ("slow", "abandoned"),
        ("next", "abandoned"),
        ("last", "abandoned"),
    ]
    assert ledger == Ledger(accepted=3, abandoned=3)
    assert bus.errors


async def test_leaving_by_an_exception_cancels_a_listener_in_a_task_of_the_application(
    autojump_clock: MockClock,
) -> None:
    bus = GoEvent(Config(registry=REGISTRY))
    handles: list[DispatchHandle] = []
    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        with pytest.raises(KeyError):  # noqa: PT012
            async with bus:

                @bus.listener(Ping, async_=False)
                async def slow(event: Ping) -> None:
                    await trio.sleep_forever()

                async def dispatch() -> None:
                    handles.append(await bus.dispatch(Ping()))

                nursery.start_soon(dispatch)
                await wait_all_tasks_blocked()
                raise KeyError("out")
    (handle,) = handles
    (error,) = handle.errors
    assert error.outcome == "abandoned"
    assert "the bus ended" in error.reason
    assert trio.current_time() == start
    assert bus.snapshot().ledger == Ledger(accepted=1, abandoned=1)


async def test_a_listener_that_ignores_its_cancellation_does_not_keep_the_bus_from_ending(
    autojump_clock: MockClock,
) -> None:
    bus = GoEvent(Config(registry=REGISTRY, close_timeout=1))
    handles: list[DispatchHandle] = []
    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        async with bus:

            @bus.listener(Ping, async_=False)
            async def stubborn(event: Ping) -> None:
                handles.append(current_delivery().handle)
                with trio.CancelScope(shield=True):
                    await trio.sleep(100)

            nursery.start_soon(bus.dispatch, Ping())
            await wait_all_tasks_blocked()
        assert 1 <= trio.current_time() - start <= 10
        (handle,) = handles
        await handle.wait()
    assert handle.done


async def test_an_inline_async_listener_may_dispatch_while_the_bus_drains(bus: GoEvent) -> None:
    go = trio.Event()
    seen: list[Event] = []
    bus.subscribe(seen.append, Pong)

    @bus.listener(Ping, async_=False)
    async def relay(event: Ping) -> None:
        await go.wait()
        await bus.dispatch(Pong(1))
        bus.dispatch_nowait(Pong(2))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bus.dispatch, Pong(3))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(bus.dispatch, Ping())
        await wait_all_tasks_blocked()
        nursery.start_soon(bus.close)
        await wait_all_tasks_blocked()
        assert bus.snapshot().state == "draining"
        with pytest.raises(BusClosed):
            await bus.dispatch(Pong(4))
        go.set()
    assert seen == [Pong(1), Pong(2), Pong(3)]


async def test_a_dispatch_that_gets_room_as_the_bus_ends_runs_nothing_after_the_end() -> None:
    for _ in range(20):  # the order of the two tasks is random
        bus = GoEvent(Config(registry=REGISTRY))
        handles: list[DispatchHandle] = []
        go, done = trio.Event(), trio.Event()

        async def full(event: Ping, go: trio.Event = go, done: trio.Event = done) -> None:
            await go.wait()
            done.set()

        async def awaited(event: Ping, done: trio.Event = done) -> None:
            if done.is_set():
                await trio.sleep_forever()

        async def dispatch(bus: GoEvent = bus, handles: list[DispatchHandle] = handles) -> None:
            with suppress(BusClosed):
                handles.append(await bus.dispatch(Ping()))

        async with trio.open_nursery() as nursery:
            with pytest.raises(KeyError):  # noqa: PT012
                async with bus:
                    bus.subscribe(full, Ping, mailbox=1)
                    bus.subscribe(awaited, Ping, async_=False)
                    await dispatch()
                    await wait_all_tasks_blocked()
                    await dispatch()
                    nursery.start_soon(dispatch)
                    await wait_all_tasks_blocked()
                    go.set()
                    await done.wait()
                    raise KeyError("out")
        assert all(handle.done for handle in handles)
        ledger = bus.snapshot().ledger
        assert ledger.accepted == ledger.completed + ledger.abandoned == 2 * len(handles)
        assert len(handles) in (2, 3)
        assert bus.errors


async def test_wait_covers_inline_async_listeners(bus: GoEvent) -> None:
    go = trio.Event()
    order: list[str] = []

    @bus.listener(Ping, async_=False)
    async def awaited(event: Ping) -> None:
        await go.wait()
        order.append("listener")

    async def wait() -> None:
        await bus.wait()
        order.append("wait")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(bus.dispatch, Ping())
        await wait_all_tasks_blocked()
        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        assert order == []
        go.set()
    assert order == ["listener", "wait"]


# -- nesting


async def test_a_nested_dispatch_is_awaited_before_the_outer_one_returns(bus: GoEvent) -> None:
    order: list[str] = []

    @bus.listener(Ping, async_=False)
    async def outer(event: Ping) -> None:
        order.append("outer begins")
        await bus.dispatch(Pong())
        order.append("outer ends")

    @bus.listener(Pong, async_=False)
    async def inner(event: Pong) -> None:
        await trio.sleep(0)
        order.append("inner")

    await bus.dispatch(Ping())
    assert order == ["outer begins", "inner", "outer ends"]


@pytest.mark.parametrize("limit", [1, 10, 100, 150])
@pytest.mark.parametrize("suspends", [False, True])
async def test_an_endless_loop_ends_with_a_nesting_error(limit: int, suspends: bool) -> None:
    bus = GoEvent(Config(registry=REGISTRY, max_nesting=limit))
    deepest = 0

    async with bus:

        @bus.listener(Ping, async_=False)
        async def again(event: Ping) -> None:
            nonlocal deepest
            deepest = max(deepest, event.n)
            if suspends:
                await trio.sleep(0)
            await bus.dispatch(Ping(event.n + 1))

        await bus.dispatch(Ping(1))
        (error,) = bus.errors
        assert isinstance(error.error, NestingError), error.details
        ledger = await bus.close()
    # An awaited listener counts as five levels, since it needs as many more frames.
    assert deepest == -(-limit // 5)
    assert ledger == Ledger(accepted=deepest, completed=deepest - 1, failed=1)


@pytest.mark.parametrize("limit", [100, 150])
async def test_a_loop_through_another_event_ends_with_a_nesting_error(limit: int) -> None:
    bus = GoEvent(Config(registry=REGISTRY, max_nesting=limit))
    async with bus:

        @bus.listener(Ping, async_=False, timeout=60)
        async def ping(event: Ping) -> None:
            await bus.dispatch(Pong())

        @bus.listener(Pong, async_=False, retry=Retry(on=KeyError))
        async def pong(event: Pong) -> None:
            async with trio.open_nursery():
                await bus.dispatch(Ping())

        await bus.dispatch(Ping())
        (error,) = bus.errors
        assert error.error is not None
        assert "NestingError" in error.details
        assert "RecursionError" not in error.details


@pytest.mark.parametrize("options", [{}, {"when": bool}, {"name": "x", "priority": 1}])
async def test_a_loop_of_plain_listeners_inside_an_async_one_ends_with_a_nesting_error(
    options: dict[str, Any],
) -> None:
    bus = GoEvent(Config(registry=REGISTRY, max_nesting=150))
    async with bus:

        @bus.listener(Ping, async_=False)
        async def ping(event: Ping) -> None:
            bus.dispatch_nowait(Pong())

        @bus.listener(Pong, **options)
        def pong(event: Pong) -> None:
            bus.dispatch_nowait(Pong())

        await bus.dispatch(Ping())
        (error,) = bus.errors
        assert isinstance(error.error, NestingError), error.details


# -- deadlocks


async def test_a_listener_that_waits_for_its_own_handle_gets_a_deadlock_error(bus: GoEvent) -> None:
    @bus.listener(Ping, async_=False)
    async def selfish(event: Ping) -> None:
        await current_delivery().handle.wait()

    with trio.fail_after(HANG_SECONDS):
        (error,) = (await bus.dispatch(Ping())).errors
    assert isinstance(error.error, DeadlockError)


async def test_a_child_task_that_waits_for_the_handle_of_its_listener_gets_a_deadlock_error(
    bus: GoEvent,
) -> None:
    @bus.listener(Ping, async_=False)
    async def selfish(event: Ping) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(current_delivery().handle.wait)

    with trio.fail_after(HANG_SECONDS):
        (error,) = (await bus.dispatch(Ping())).errors
    assert "DeadlockError" in error.details


async def test_a_nested_listener_that_waits_for_the_outer_handle_gets_a_deadlock_error(
    bus: GoEvent,
) -> None:
    outer_handle: list[DispatchHandle] = []

    @bus.listener(Ping, async_=False)
    async def outer(event: Ping) -> None:
        outer_handle.append(current_delivery().handle)
        await bus.dispatch(Pong())

    @bus.listener(Pong, async_=False, name="inner")
    async def inner(event: Pong) -> None:
        await outer_handle[0].wait()

    with trio.fail_after(HANG_SECONDS):
        await bus.dispatch(Ping())
    (error,) = bus.errors
    assert error.listener == "inner"
    assert isinstance(error.error, DeadlockError)


@pytest.mark.parametrize("method", ["wait", "close"])
async def test_waiting_for_the_bus_inside_a_listener_is_refused(bus: GoEvent, method: str) -> None:
    @bus.listener(Ping, async_=False)
    async def inside(event: Ping) -> None:
        await getattr(bus, method)()

    with trio.fail_after(HANG_SECONDS):
        (error,) = (await bus.dispatch(Ping())).errors
    assert isinstance(error.error, RuntimeError)
    assert not isinstance(error.error, DeadlockError)
    assert "it would never end" in str(error.error)


async def test_a_listener_may_wait_for_the_handle_of_an_event_that_it_dispatched(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    order: list[str] = []

    @bus.listener(Ping, async_=False)
    async def outer(event: Ping) -> None:
        handle = await bus.dispatch(Pong())
        await handle.wait()
        order.append("outer")

    @bus.listener(Pong)
    async def mailbox(event: Pong) -> None:
        await trio.sleep(1)
        order.append("mailbox")

    with trio.fail_after(5):
        (await bus.dispatch(Ping())).raise_errors()
    assert order == ["mailbox", "outer"]


async def test_a_mailbox_listener_may_wait_for_the_handle_of_an_inline_async_one_elsewhere(
    bus: GoEvent,
) -> None:
    go = trio.Event()
    order: list[str] = []
    handles: list[DispatchHandle] = []

    @bus.listener(Ping, async_=False)
    async def awaited(event: Ping) -> None:
        handles.append(current_delivery().handle)
        await go.wait()
        order.append("awaited")

    @bus.listener(Pong)
    async def waits(event: Pong) -> None:
        await handles[0].wait()
        order.append("waits")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(bus.dispatch, Ping())
        await wait_all_tasks_blocked()
        handle = await bus.dispatch(Pong())
        await wait_all_tasks_blocked()
        go.set()
        await handle.wait()
    handle.raise_errors()
    assert order == ["awaited", "waits"]


async def test_a_mailbox_listener_with_context_may_wait_for_the_handle_that_caused_its_event(
    bus: GoEvent,
) -> None:
    order: list[str] = []
    handles: list[DispatchHandle] = []

    @bus.listener(Ping, async_=False)
    async def awaited(event: Ping) -> None:
        handles.append(current_delivery().handle)
        await bus.dispatch(Pong())
        await wait_all_tasks_blocked()
        order.append("awaited")

    @bus.listener(Pong, context=True)
    async def waits(event: Pong) -> None:
        await handles[0].wait()
        order.append("waits")

    with trio.fail_after(HANG_SECONDS):
        await bus.dispatch(Ping())
        await bus.wait()
    assert bus.errors == ()
    assert order == ["awaited", "waits"]


async def test_a_mailbox_listener_that_dispatches_to_an_inline_async_one_waits_for_it(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    order: list[str] = []

    @bus.listener(Ping)
    async def mailbox(event: Ping) -> None:
        await bus.dispatch(Pong())
        order.append("mailbox")

    @bus.listener(Pong, async_=False)
    async def awaited(event: Pong) -> None:
        await trio.sleep(1)
        order.append("awaited")

    with trio.fail_after(5):
        handle = await bus.dispatch(Ping())
        await handle.wait()
    handle.raise_errors()
    assert order == ["awaited", "mailbox"]


async def test_an_inline_async_listener_called_by_a_mailbox_listener_cannot_wait_for_its_event(
    bus: GoEvent,
) -> None:
    handles: list[DispatchHandle] = []

    @bus.listener(Ping)
    async def mailbox(event: Ping) -> None:
        handles.append(current_delivery().handle)
        await bus.dispatch(Pong())

    @bus.listener(Pong, async_=False, name="inner")
    async def awaited(event: Pong) -> None:
        await handles[0].wait()

    with trio.fail_after(HANG_SECONDS):
        await bus.dispatch(Ping())
        await bus.wait()
    (error,) = bus.errors
    assert error.listener == "inner"
    assert isinstance(error.error, DeadlockError)


@pytest.mark.parametrize("kind", [{}, {"thread": True}])
async def test_dispatch_nowait_to_an_inline_async_listener_is_a_type_error(
    bus: GoEvent, kind: dict[str, Any]
) -> None:
    ran: list[Event] = []

    @bus.listener(Ping, async_=False, name="awaited")
    async def awaited(event: Ping) -> None:
        ran.append(event)

    bus.subscribe(ran.append, Ping, **kind)
    with pytest.raises(TypeError, match=r"awaited is async and runs inline.*await bus\.dispatch"):
        bus.dispatch_nowait(Ping())
    assert ran == []
    assert (await bus.close()) == Ledger()


# -- other ways to dispatch


async def test_dispatch_from_a_thread_returns_after_inline_async_listeners(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    ended: list[str] = []

    @bus.listener(Ping, async_=False)
    async def awaited(event: Ping) -> None:
        await trio.sleep(0)
        ended.append("listener")

    def dispatch() -> DispatchHandle:
        handle = bus.dispatch_from_thread(Ping())
        ended.append("dispatch")
        return handle

    handle = await trio.to_thread.run_sync(dispatch)
    assert handle.done
    assert ended == ["listener", "dispatch"]


async def test_a_thread_is_released_when_the_bus_ends_during_its_inline_async_listener(
    autojump_clock: MockClock,
) -> None:
    bus = GoEvent(Config(registry=REGISTRY, close_timeout=1))
    running = trio.Event()
    handles: list[DispatchHandle] = []

    def dispatch() -> None:
        handles.append(bus.dispatch_from_thread(Ping()))

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery, bus:

            @bus.listener(Ping, async_=False)
            async def slow(event: Ping) -> None:
                running.set()
                await trio.sleep_forever()

            nursery.start_soon(trio.to_thread.run_sync, dispatch)
            while not running.is_set():
                await trio.lowlevel.checkpoint()
    (handle,) = handles
    assert [error.outcome for error in handle.errors] == ["abandoned"]


async def test_events_of_another_bus_are_awaited_one_after_another() -> None:
    hub = MemoryHub()
    one = GoEvent(Config(registry=REGISTRY, driver=MemoryDriver(hub)))
    two = GoEvent(Config(registry=REGISTRY, driver=MemoryDriver(hub)))
    seen: list[str] = []
    async with one, two:

        @two.listener(Ping, async_=False)
        async def awaited(event: Ping) -> None:
            seen.append(f"{event.n} begins")
            for _ in range(3):
                await trio.sleep(0)
            seen.append(f"{event.n} ends")

        await two.ready()
        for n in (1, 2):
            await one.dispatch(Ping(n))
        await one.close()
        await wait_all_tasks_blocked()
        ledger = await two.close()
    assert seen == ["1 begins", "1 ends", "2 begins", "2 ends"]
    assert ledger == Ledger(accepted=2, completed=2)


async def test_a_bus_that_ends_during_an_event_of_another_bus_abandons_it(
    autojump_clock: MockClock,
) -> None:
    hub = MemoryHub()
    one = GoEvent(Config(registry=REGISTRY, driver=MemoryDriver(hub)))
    two = GoEvent(Config(registry=REGISTRY, driver=MemoryDriver(hub), close_timeout=1))
    two.on_error(ignore_error)
    handles: list[DispatchHandle] = []
    with trio.fail_after(60):
        async with one, two:

            @two.listener(Ping, async_=False)
            async def awaited(event: Ping) -> None:
                handles.append(current_delivery().handle)
                await trio.sleep_forever()

            await two.ready()
            await one.dispatch(Ping())
            await wait_all_tasks_blocked()
            ledger = await two.close()
    (handle,) = handles
    assert handle.done
    assert ledger == Ledger(accepted=1, abandoned=1)


# -- other options


async def test_listeners_registered_during_a_run_get_the_next_event(bus: GoEvent) -> None:
    seen: list[int] = []

    @bus.listener(Ping, async_=False)
    async def awaited(event: Ping) -> None:
        if event.n == 1:
            bus.subscribe(lambda event: seen.append(event.n), Ping)

    await bus.dispatch(Ping(1))
    await bus.dispatch(Ping(2))
    assert seen == [2]


async def test_a_listener_unregistered_while_another_one_runs_before_it_still_runs(
    bus: GoEvent,
) -> None:
    seen: list[str] = []

    @bus.listener(Ping, async_=False)
    async def first(event: Ping) -> None:
        second.unregister()
        await trio.sleep(0)

    second = bus.subscribe(lambda event: seen.append("second"), Ping)
    await bus.dispatch(Ping())
    await bus.dispatch(Ping())
    assert seen == ["second"]
    ledger = await bus.close()
    assert ledger == Ledger(accepted=3, completed=3)


@pytest.mark.parametrize("kind", [{}, {"async_": False}])
async def test_the_ledger_counts_listeners_that_leave_while_a_dispatch_awaits_another(
    bus: GoEvent, kind: dict[str, Any]
) -> None:
    go = trio.Event()
    ran: list[str] = []

    @bus.listener(Ping, async_=False)
    async def first(event: Ping) -> None:
        await go.wait()

    def plain(event: Ping) -> None:
        ran.append("once")

    async def awaited(event: Ping) -> None:
        ran.append("once")

    bus.subscribe(awaited if kind else plain, Ping, once=True, **kind)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bus.dispatch, Ping())
        await wait_all_tasks_blocked()
        for _ in range(3):  # each registration folds the counters into the ledger
            bus.subscribe(ignore_event, Pong).unregister()
        go.set()
    assert ran == ["once"]
    ledger = await bus.close()
    assert ledger == Ledger(accepted=2, completed=2)


async def test_unregistering_a_running_listener_keeps_its_run_in_the_ledger(bus: GoEvent) -> None:
    go = trio.Event()

    async def awaited(event: Ping) -> None:
        await go.wait()

    registration = bus.subscribe(awaited, Ping, async_=False)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bus.dispatch, Ping())
        await wait_all_tasks_blocked()
        registration.unregister()
        bus.subscribe(ignore_event, Pong).unregister()
        go.set()
    ledger = await bus.close()
    assert ledger == Ledger(accepted=1, completed=1)


def ignore_event(event: Event) -> None:
    """Be a listener."""


async def test_dispatch_waits_for_room_before_its_inline_async_listeners_run(
    bus: GoEvent,
) -> None:
    go = trio.Event()
    ran: list[int] = []

    @bus.listener(Ping, mailbox=1)
    async def slow(event: Ping) -> None:
        await go.wait()

    @bus.listener(Ping, async_=False)
    async def awaited(event: Ping) -> None:
        ran.append(event.n)

    await bus.dispatch(Ping(1))
    await wait_all_tasks_blocked()
    await bus.dispatch(Ping(2))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bus.dispatch, Ping(3))
        await wait_all_tasks_blocked()
        assert ran == [1, 2]
        go.set()
    assert ran == [1, 2, 3]


async def test_a_registration_that_is_dropped_in_a_mailbox_settles_the_handle(
    bus: GoEvent,
) -> None:
    go = trio.Event()

    async def mailbox(event: Ping) -> None:
        await go.wait()

    registration = bus.subscribe(mailbox, Ping)

    @bus.listener(Ping, async_=False)
    async def awaited(event: Ping) -> None:
        await trio.sleep(0)

    await bus.dispatch(Ping())
    await wait_all_tasks_blocked()
    second = await bus.dispatch(Ping())
    assert second.pending == 1
    registration.unregister()
    assert second.done
    assert [type(error) for error in second.errors] == [EventDropped]
    go.set()
    await bus.wait()


async def test_a_run_is_visible_in_the_snapshot(bus: GoEvent) -> None:
    go = trio.Event()

    @bus.listener(Ping, async_=False, name="it")
    async def it(event: Ping) -> None:
        await go.wait()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(bus.dispatch, Ping())
        await wait_all_tasks_blocked()
        snapshot = bus.snapshot()
        (listener,) = snapshot.listeners
        assert (listener.inline, listener.in_flight, listener.state) == (True, 1, "running")
        assert listener.completed == 0
        assert snapshot.ledger == Ledger(accepted=1)
        go.set()
    (listener,) = bus.snapshot().listeners
    assert (listener.in_flight, listener.completed, listener.state) == (0, 1, "idle")


def runs(function: Callable[[], Any]) -> None:
    trio.run(function)


def test_ctrl_c_inside_an_inline_async_listener_leaves_the_bus() -> None:
    bus = GoEvent(Config(registry=REGISTRY))

    @bus.listener(Ping, async_=False)
    async def interrupted(event: Ping) -> None:
        raise KeyboardInterrupt

    async def main() -> None:
        async with bus:
            await bus.dispatch(Ping())

    with pytest.raises(KeyboardInterrupt):
        runs(main)
    assert bus.snapshot().ledger == Ledger(accepted=1, abandoned=1)
    assert bus.errors
