"""Supervision: resume, restart, stop and escalate after a failure."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar

import pytest
import trio
from tests.support.checks import adds_up, always, ignore_error
from tests.support.events import REGISTRY, Job, Other
from trio.testing import MockClock, wait_all_tasks_blocked

from goevent import (
    Config,
    DispatchHandle,
    EventError,
    GoEvent,
    Ledger,
    ListenerOptions,
    Retry,
    Supervision,
)

VARIABLE: ContextVar[int] = ContextVar("VARIABLE", default=0)


def make(supervision: Supervision | None = None) -> GoEvent:
    bus = GoEvent(Config(registry=REGISTRY, listener=ListenerOptions(supervision=supervision)))
    bus.on_error(ignore_error)
    return bus


@contextmanager
def escalates() -> Generator[list[EventError]]:
    """Expect that the failure of a listener leaves the block, alone."""
    caught: list[EventError] = []
    try:
        yield caught
    except EventError as error:
        caught.append(error)
    assert len(caught) == 1


def never(event: Job) -> bool:
    return False


def first(event: Job) -> bool:
    return event.n == 0


def restart(max_restarts: int = 1000, backoff: float = 1, **more: float) -> Supervision:
    return Supervision("restart", max_restarts=max_restarts, backoff=backoff, **more)


class Factory:
    """Makes listeners that fail on some events, and records the events and times of each."""

    def __init__(self, options: ListenerOptions, fails: Callable[[Job], bool] | None = None):
        self.made: list[float] = []
        self.seen: list[tuple[int, int]] = []
        self.options = options
        self.fails: Callable[[Job], bool] = fails or always
        self.broken_from = 1000
        self.broken_for = 0

    def __call__(self) -> Listening:
        self.made.append(trio.current_time())
        if self.broken_from < len(self.made) <= self.broken_from + self.broken_for:
            raise ConnectionError(len(self.made))
        return Listening(self)


class Listening:
    """A listener with a state that a restart forgets."""

    event_name = "test.job"

    def __init__(self, factory: Factory) -> None:
        self.factory = factory
        self.generation = len(factory.made)
        self.options = factory.options

    async def on_event(self, event: Job) -> None:
        self.factory.seen.append((self.generation, event.n))
        await trio.lowlevel.checkpoint()
        if self.factory.fails(event):
            raise ValueError(event.n)


class Inline(Listening):
    """The inline variant."""

    def on_event(self, event: Job) -> None:  # type: ignore[override]  # pyright: ignore
        self.factory.seen.append((self.generation, event.n))
        if self.factory.fails(event):
            raise ValueError(event.n)


# -- resume


@pytest.mark.parametrize("supervision", [None, Supervision(), Supervision("resume")])
async def test_resume_goes_on_with_the_next_event(
    autojump_clock: MockClock, supervision: Supervision | None
) -> None:
    async with make() as bus:
        factory = Factory(ListenerOptions(supervision=supervision))
        bus.register_listener(factory)
        handles = [bus.dispatch_nowait(Job(n)) for n in range(30)]
        await bus.wait()
        assert factory.seen == [(1, n) for n in range(30)]
        assert len(factory.made) == 1
        assert all(len(handle.errors) == 1 for handle in handles)
        assert bus.snapshot().listeners[0].restarts == 0


# -- restart


async def test_restart_rebuilds_the_listener_and_keeps_its_mailbox_and_order(
    autojump_clock: MockClock,
) -> None:
    async with make() as bus:
        factory = Factory(ListenerOptions(supervision=restart()), lambda event: event.n % 3 == 0)
        bus.register_listener(factory)
        handles = [bus.dispatch_nowait(Job(n)) for n in range(7)]
        began = trio.current_time()
        await bus.wait()
        assert factory.seen == [(1, 0), (2, 1), (2, 2), (2, 3), (3, 4), (3, 5), (3, 6)]
        assert [len(handle.errors) for handle in handles] == [1, 0, 0, 1, 0, 0, 1]
        await trio.sleep(100)
        assert factory.made == [began, began + 1, began + 1 + 2, began + 1 + 2 + 4]
        assert bus.snapshot().listeners[0].restarts == 3
        assert bus.snapshot().ledger == Ledger(accepted=7, completed=4, failed=3)


async def test_the_event_is_settled_before_the_pause(autojump_clock: MockClock) -> None:
    async with make() as bus:
        bus.register_listener(Factory(ListenerOptions(supervision=restart(backoff=20))))
        began = trio.current_time()
        handle = await bus.dispatch(Job())
        await handle.wait()
        assert trio.current_time() == began
        assert len(handle.errors) == 1
        (listener,) = bus.snapshot().listeners
        assert (listener.state, listener.restarts, listener.in_flight) == ("restarting", 1, 0)
        waiting = bus.dispatch_nowait(Job(1))
        await trio.sleep(19)
        assert waiting.pending == 1
        assert bus.snapshot().listeners[0].depth == 1
        await waiting.wait()
        assert trio.current_time() == began + 20


async def test_restarts_happen_at_exact_times_and_not_too_often(
    autojump_clock: MockClock,
) -> None:
    """A listener that always fails makes no busy loop."""
    async with make() as bus:
        supervision = restart(backoff=0.5, max_backoff=4)
        factory = Factory(ListenerOptions(supervision=supervision))
        bus.register_listener(factory)
        began = trio.current_time()
        for n in range(9):
            bus.dispatch_nowait(Job(n))
        await bus.wait()
        await trio.sleep(5)
        pauses = [0, 0.5, 1, 2, 4, 4, 4, 4, 4, 4]
        assert [time - began for time in factory.made] == [sum(pauses[: n + 1]) for n in range(10)]
        assert bus.error_count == 9


async def test_the_pause_is_short_again_when_earlier_restarts_have_left_the_window(
    autojump_clock: MockClock,
) -> None:
    async with make() as bus:
        supervision = Supervision("restart", max_restarts=2, within=10, backoff=1)
        factory = Factory(ListenerOptions(supervision=supervision))
        bus.register_listener(factory)
        began = trio.current_time()
        for time in (0, 3, 10, 13, 20.5):  # never three within ten seconds
            await trio.sleep_until(began + time)
            bus.dispatch_nowait(Job())
            await wait_all_tasks_blocked()
        await trio.sleep(5)
        assert [time - began for time in factory.made] == [0, 1, 5, 12, 15, 22.5]
        assert bus.snapshot().listeners[0].restarts == 5
        assert bus.snapshot().state == "open"


async def test_one_failure_too_many_within_the_window_ends_the_bus(
    autojump_clock: MockClock,
) -> None:
    bus = make()
    factory = Factory(ListenerOptions(supervision=restart(3, within=100)))
    handles: list[DispatchHandle] = []
    with escalates() as caught:
        async with bus:
            bus.register_listener(factory)
            began = trio.current_time()
            handles += [bus.dispatch_nowait(Job(n)) for n in range(6)]
            await trio.sleep_forever()
    assert trio.current_time() == began + 1 + 2 + 4
    assert len(factory.made) == 4
    assert factory.seen == [(1, 0), (2, 1), (3, 2), (4, 3)]
    assert caught[0] is handles[3].errors[0]
    outcomes = [handle.errors[0].outcome for handle in handles]
    assert outcomes == ["failed"] * 4 + ["abandoned"] * 2
    assert bus.snapshot().ledger == Ledger(accepted=6, failed=4, abandoned=2)
    assert bus.snapshot().listeners[0].restarts == 3


async def test_several_lanes_that_fail_at_once_escalate_once(autojump_clock: MockClock) -> None:
    bus = make()
    failed: list[int] = []
    with escalates() as caught:
        async with bus:

            @bus.listener(Job, concurrency=8, supervision=restart(2, 5))
            async def listen(event: Job) -> None:
                await trio.sleep(1)
                failed.append(event.n)
                raise ValueError

            handles = [bus.dispatch_nowait(Job(n)) for n in range(20)]
            await trio.sleep_forever()
    assert len(failed) == 8
    assert [error for error in bus.errors if error is caught[0]] == [caught[0]]
    assert bus.snapshot().ledger == Ledger(accepted=20, failed=8, abandoned=12)
    assert all(len(handle.errors) == 1 for handle in handles)
    assert bus.snapshot().listeners[0].restarts == 2


async def test_with_concurrency_every_later_event_goes_to_the_new_listener(
    autojump_clock: MockClock,
) -> None:
    class Slow(Listening):
        async def on_event(self, event: Job) -> None:
            self.factory.seen.append((self.generation, event.n))
            if event.n == 0:
                raise ValueError
            await trio.sleep(0.4)

    class Slows(Factory):
        def __call__(self) -> Listening:
            super().__call__()
            return Slow(self)

    async with make() as bus:
        factory = Slows(ListenerOptions(supervision=restart(), concurrency=2))
        bus.register_listener(factory)
        for n in range(12):
            bus.dispatch_nowait(Job(n))
        await bus.wait()
        assert len(factory.made) == 2
        old = [n for generation, n in factory.seen if generation == 1]
        new = [n for generation, n in factory.seen if generation == 2]
        assert old == [0, 1, 2, 3]  # by the lane that did not fail, before the restart at 1 s
        assert new == [4, 5, 6, 7, 8, 9, 10, 11]


async def test_a_factory_that_fails_is_tried_again_as_after_a_failure(
    autojump_clock: MockClock,
) -> None:
    async with make() as bus:
        factory = Factory(ListenerOptions(supervision=restart()), first)
        factory.broken_from, factory.broken_for = 1, 2
        bus.register_listener(factory)
        began = trio.current_time()
        for n in range(2):
            bus.dispatch_nowait(Job(n))
        await bus.wait()
        assert [time - began for time in factory.made] == [0, 1, 3, 7]
        assert factory.seen == [(1, 0), (4, 1)]
        assert bus.snapshot().listeners[0].restarts == 3
        errors = bus.errors
        assert [type(error.error) for error in errors] == [
            ValueError,
            ConnectionError,
            ConnectionError,
        ]
        assert "factory of the listener failed" in errors[1].reason
        assert errors[1].listener == "Listening"
        assert bus.snapshot().ledger == Ledger(accepted=2, completed=1, failed=1)


async def test_a_factory_that_keeps_failing_escalates(autojump_clock: MockClock) -> None:
    bus = make()
    with escalates() as caught:
        async with bus:
            factory = Factory(ListenerOptions(supervision=restart(3)))
            factory.broken_from, factory.broken_for = 1, 100
            bus.register_listener(factory)
            began = trio.current_time()
            bus.dispatch_nowait(Job())
            await trio.sleep_forever()
    assert "factory of the listener failed" in caught[0].reason
    assert [time - began for time in factory.made] == [0, 1, 3, 7]


async def test_a_factory_that_sets_a_context_variable_fails_no_listener(
    autojump_clock: MockClock,
) -> None:
    class Setting(Factory):
        def __call__(self) -> Listening:
            VARIABLE.set(len(self.made))
            return super().__call__()

    async with make() as bus:
        supervision = restart(backoff=0)
        factory = Setting(ListenerOptions(supervision=supervision), first)
        bus.register_listener(factory)
        handles = [bus.dispatch_nowait(Job(n)) for n in range(3)]
        await bus.wait()
        assert factory.seen == [(1, 0), (2, 1), (2, 2)]
        assert [len(handle.errors) for handle in handles] == [1, 0, 0]


async def test_a_function_is_just_paused(autojump_clock: MockClock) -> None:
    async with make() as bus:
        times: list[float] = []

        @bus.listener(Job, supervision=restart())
        async def listen(event: Job) -> None:
            times.append(trio.current_time() - began)
            raise ValueError

        began = trio.current_time()
        for n in range(4):
            bus.dispatch_nowait(Job(n))
        await bus.wait()
        assert times == [0, 1, 3, 7]


async def test_an_object_is_not_rebuilt(autojump_clock: MockClock) -> None:
    async with make() as bus:
        factory = Factory(ListenerOptions(supervision=restart()))
        bus.register_listener(factory())
        for n in range(3):
            bus.dispatch_nowait(Job(n))
        await bus.wait()
        assert factory.seen == [(1, 0), (1, 1), (1, 2)]
        assert len(factory.made) == 1


async def test_a_drain_goes_on_through_restarts(autojump_clock: MockClock) -> None:
    bus = make()
    factory = Factory(ListenerOptions(supervision=restart(backoff=0.5)))
    async with bus:
        bus.register_listener(factory)
        for n in range(3):
            bus.dispatch_nowait(Job(n))
    assert factory.seen == [(1, 0), (2, 1), (3, 2)]
    assert bus.snapshot().ledger == Ledger(accepted=3, failed=3)


async def test_closing_during_a_restart(autojump_clock: MockClock) -> None:
    async with make() as bus:
        factory = Factory(ListenerOptions(supervision=restart(backoff=30)))
        bus.register_listener(factory)
        handles = [bus.dispatch_nowait(Job(n)) for n in range(2)]
        await trio.sleep(1)
        began = trio.current_time()
        ledger = await bus.close(timeout=2)
        assert trio.current_time() == began + 2
        assert ledger == Ledger(accepted=2, failed=1, abandoned=1)
        assert [handle.errors[0].outcome for handle in handles] == ["failed", "abandoned"]
        assert len(factory.made) == 1
    async with bus:  # and open it again: nothing is left of the pause
        assert bus.snapshot().listeners[0].restarts == 0
        factory.fails = never
        await (await bus.dispatch(Job(7))).wait()
        assert factory.seen == [(1, 0), (1, 7)]


async def test_unregistering_during_a_restart(autojump_clock: MockClock) -> None:
    async with make() as bus:
        factory = Factory(ListenerOptions(supervision=restart(backoff=30)))
        registration = bus.register_listener(factory)
        handles = [bus.dispatch_nowait(Job(n)) for n in range(2)]
        await trio.sleep(1)
        registration.unregister()
        began = trio.current_time()
        await bus.wait()
        await bus.close()
        assert trio.current_time() == began
        assert [handle.errors[0].outcome for handle in handles] == ["failed", "dropped"]
        assert len(factory.made) == 1


async def test_a_listener_that_leaves_its_worker_dirty_has_failed(
    autojump_clock: MockClock,
) -> None:
    async with make() as bus:

        class Messy(Listening):
            async def on_event(self, event: Job) -> None:
                self.factory.seen.append((self.generation, event.n))
                if event.n == 0:
                    trio.CancelScope().__enter__()

        class Messies(Factory):
            def __call__(self) -> Listening:
                super().__call__()
                return Messy(self)

        factory = Messies(ListenerOptions(supervision=restart()))
        bus.register_listener(factory)
        for n in range(2):
            bus.dispatch_nowait(Job(n))
        await bus.wait()
        assert factory.seen == [(1, 0), (2, 1)]
        assert bus.error_count == 1


# -- stop


async def test_stop_unregisters_the_listener_and_drops_its_events(
    autojump_clock: MockClock,
) -> None:
    async with make() as bus:
        seen: list[int] = []

        @bus.listener(Job, supervision=Supervision("stop"), name="stops")
        async def listen(event: Job) -> None:
            seen.append(event.n)
            if event.n == 2:
                raise ValueError

        bus.subscribe(lambda event: None, Job, name="stays")
        handles = [bus.dispatch_nowait(Job(n)) for n in range(5)]
        await bus.wait()
        assert seen == [0, 1, 2]
        outcomes = [[error.outcome for error in handle.errors] for handle in handles]
        assert outcomes == [[], [], ["failed"], ["dropped"], ["dropped"]]
        assert "failed and was stopped" in handles[3].errors[0].reason
        assert [listener.name for listener in bus.snapshot().listeners] == ["stays"]
        later = await bus.dispatch(Job(5))
        assert later.done
        assert bus.snapshot().ledger == Ledger(accepted=11, completed=8, failed=1, dropped=2)


async def test_stop_lets_other_lanes_finish_and_ends_their_pauses(
    autojump_clock: MockClock,
) -> None:
    async with make() as bus:
        seen: list[int] = []

        @bus.listener(
            Job,
            concurrency=3,
            supervision=Supervision("stop"),
            retry=Retry(backoff=20, jitter=0, on=KeyError),
        )
        async def listen(event: Job) -> None:
            if event.n == 0:
                raise KeyError
            await trio.sleep(event.n)
            seen.append(event.n)
            if event.n == 1:
                raise ValueError

        handles = [bus.dispatch_nowait(Job(n)) for n in range(5)]
        began = trio.current_time()
        await bus.wait()
        assert trio.current_time() == began + 2
        assert seen == [1, 2]
        outcomes = [[error.outcome for error in handle.errors] for handle in handles]
        assert outcomes == [["failed"], ["failed"], [], ["dropped"], ["dropped"]]


async def test_a_dispatch_that_waits_for_a_stopped_listener_goes_on(
    autojump_clock: MockClock,
) -> None:
    async with make() as bus:

        @bus.listener(Job, mailbox=1, supervision=Supervision("stop"))
        async def listen(event: Job) -> None:
            await trio.sleep(1)
            raise ValueError

        bus.dispatch_nowait(Job(0))
        await wait_all_tasks_blocked()
        bus.dispatch_nowait(Job(1))
        with trio.fail_after(5):
            handle = await bus.dispatch(Job(2))
        assert handle.done
        assert not handle.errors


# -- escalate


async def test_escalate_ends_the_bus_with_the_error_of_the_event(
    autojump_clock: MockClock,
) -> None:
    bus = make()
    handles: list[DispatchHandle] = []
    cancelled: list[str] = []
    with escalates() as caught:
        async with bus:

            @bus.listener(Job, supervision=Supervision("escalate"), name="fragile")
            async def fragile(event: Job) -> None:
                await trio.sleep(event.n)
                if event.n == 2:
                    raise ValueError

            @bus.listener(Other)
            async def other(event: Other) -> None:
                try:
                    await trio.sleep_forever()
                finally:
                    cancelled.append("other")

            began = trio.current_time()
            handles.append(bus.dispatch_nowait(Other()))
            handles += [bus.dispatch_nowait(Job(n)) for n in range(4)]
            try:
                await trio.sleep_forever()
            finally:
                cancelled.append("body")
    assert sorted(cancelled) == ["body", "other"]
    assert trio.current_time() == began + 1 + 2
    assert caught[0].listener == "fragile"
    assert isinstance(caught[0].error, ValueError)
    outcomes = [[error.outcome for error in handle.errors] for handle in handles]
    assert outcomes == [["abandoned"], [], [], ["failed"], ["abandoned"]]
    assert adds_up(bus.snapshot().ledger)
    async with bus:  # it may be opened again
        await (await bus.dispatch(Job(1))).wait()


async def test_an_escalating_listener_takes_no_other_event(autojump_clock: MockClock) -> None:
    bus = make()
    seen: list[int] = []
    states: list[str] = []
    with escalates():
        async with bus:

            @bus.listener(Job, supervision=Supervision("escalate"))
            async def fragile(event: Job) -> None:
                seen.append(event.n)
                raise ValueError

            @bus.listener(Other)
            async def cleans_up(event: Other) -> None:
                try:
                    await trio.sleep_forever()
                finally:
                    with trio.CancelScope(shield=True):
                        await trio.lowlevel.checkpoint()
                        states.append(bus.snapshot().listeners[0].state)

            bus.dispatch_nowait(Other())
            await wait_all_tasks_blocked()
            for n in range(3):
                bus.dispatch_nowait(Job(n))
            await trio.sleep_forever()
    assert seen == [0]


async def test_escalating_while_the_bus_drains(autojump_clock: MockClock) -> None:
    bus = make()
    with escalates():
        async with bus:

            @bus.listener(Job, supervision=Supervision("escalate"))
            async def fragile(event: Job) -> None:
                await trio.sleep(1)
                raise ValueError

            handles = [bus.dispatch_nowait(Job(n)) for n in range(2)]
    outcomes = [[error.outcome for error in handle.errors] for handle in handles]
    assert outcomes == [["failed"], ["abandoned"]]


# -- inline listeners


async def test_an_inline_listener_is_rebuilt_at_once(autojump_clock: MockClock) -> None:
    class Inlines(Factory):
        def __call__(self) -> Listening:
            super().__call__()
            return Inline(self)

    async with make() as bus:
        factory = Inlines(ListenerOptions(supervision=restart()), lambda event: event.n % 2 == 0)
        bus.register_listener(factory)
        later: list[int] = []
        bus.subscribe(lambda event: later.append(event.n), Job)
        began = trio.current_time()
        handles = [bus.dispatch_nowait(Job(n)) for n in range(5)]
        assert factory.seen == [(1, 0), (2, 1), (2, 2), (3, 3), (3, 4)]
        assert factory.made == [began] * 4
        assert later == [0, 1, 2, 3, 4]
        assert [len(handle.errors) for handle in handles] == [1, 0, 1, 0, 1]
        assert bus.snapshot().listeners[0].restarts == 3
        assert bus.snapshot().ledger == Ledger(accepted=10, completed=7, failed=3)


async def test_an_inline_listener_escalates_after_too_many_failures(
    autojump_clock: MockClock,
) -> None:
    bus = make()
    handles: list[DispatchHandle] = []
    with escalates() as caught:
        async with bus:

            @bus.listener(Job, supervision=restart(2))
            def fragile(event: Job) -> None:
                raise ValueError(event.n)

            handles += [bus.dispatch_nowait(Job(n)) for n in range(5)]
            await trio.sleep_forever()
    assert caught[0] is handles[2].errors[0]
    assert bus.snapshot().ledger == Ledger(accepted=5, failed=5)


@pytest.mark.parametrize("nowait", [True, False])
async def test_an_inline_listener_is_stopped(autojump_clock: MockClock, nowait: bool) -> None:
    async with make() as bus:
        seen: list[int] = []

        @bus.listener(Job, supervision=Supervision("stop"))
        def fragile(event: Job) -> None:
            seen.append(event.n)
            raise ValueError

        bus.subscribe(lambda event: seen.append(-1), Job)
        for n in range(3):
            if nowait:
                bus.dispatch_nowait(Job(n))
            else:
                await bus.dispatch(Job(n))
        assert seen == [0, -1, -1, -1]
        assert bus.snapshot().ledger == Ledger(accepted=4, completed=3, failed=1)


async def test_an_awaited_listener_is_rebuilt_after_its_pause(
    autojump_clock: MockClock,
) -> None:
    async with make() as bus:
        factory = Factory(ListenerOptions(supervision=restart(), async_=False))
        bus.register_listener(factory)
        began = trio.current_time()
        for n in range(3):
            handle = await bus.dispatch(Job(n))
            assert len(handle.errors) == 1
        assert factory.seen == [(1, 0), (2, 1), (3, 2)]
        assert [time - began for time in factory.made] == [0, 1, 3, 7]
        assert bus.snapshot().ledger == Ledger(accepted=3, failed=3)


async def test_an_awaited_listener_is_stopped(autojump_clock: MockClock) -> None:
    async with make() as bus:
        seen: list[int] = []

        @bus.listener(Job, async_=False, supervision=Supervision("stop"))
        async def fragile(event: Job) -> None:
            seen.append(event.n)
            raise ValueError

        for n in range(3):
            await bus.dispatch(Job(n))
        assert seen == [0]
        assert bus.snapshot().ledger == Ledger(accepted=1, failed=1)


async def test_an_awaited_listener_escalates(autojump_clock: MockClock) -> None:
    bus = make()
    with escalates() as caught:
        async with bus:

            @bus.listener(Job, async_=False, supervision=Supervision("escalate"), name="fragile")
            async def fragile(event: Job) -> None:
                raise ValueError

            await bus.dispatch(Job())
            await trio.sleep_forever()
    assert caught[0].listener == "fragile"


async def test_the_ledger_adds_up_when_an_inline_listener_is_stopped_during_dispatches(
    autojump_clock: MockClock,
) -> None:
    """A dispatch that was under way when the listener was unregistered still calls it."""
    async with make() as bus:

        @bus.listener(Job, async_=False)
        async def slow(event: Job) -> None:
            await trio.sleep(event.n)

        @bus.listener(Job, supervision=Supervision("stop"))
        def fragile(event: Job) -> None:
            raise ValueError

        async with trio.open_nursery() as nursery:
            for n in range(1, 4):  # all are under way before the first one goes on
                nursery.start_soon(bus.dispatch, Job(n))
        assert bus.snapshot().ledger == Ledger(accepted=6, completed=3, failed=3)


# -- the default of the bus


async def test_the_strategy_of_the_bus_is_for_listeners_without_one(
    autojump_clock: MockClock,
) -> None:
    async with make(Supervision("stop")) as bus:

        @bus.listener(Job, name="own", supervision=Supervision("resume"))
        async def own(event: Job) -> None:
            raise ValueError

        @bus.listener(Job, name="default")
        async def default(event: Job) -> None:
            raise ValueError

        @bus.listener(Job, name="inline")
        def inline(event: Job) -> None:
            raise ValueError

        await bus.dispatch(Job())
        await bus.wait()
        assert [listener.name for listener in bus.snapshot().listeners] == ["own"]


async def test_class_listeners_under_the_strategy_of_the_bus_are_rebuilt(
    autojump_clock: MockClock,
) -> None:
    async with make(restart()) as bus:
        factory = Factory(ListenerOptions())
        bus.register_listener(factory)
        for n in range(3):
            bus.dispatch_nowait(Job(n))
        await bus.wait()
        assert factory.seen == [(1, 0), (2, 1), (3, 2)]


async def test_listeners_are_restarted_one_by_one(autojump_clock: MockClock) -> None:
    """Each listener has a window, a pause and a mailbox of its own."""
    async with make(restart(2)) as bus:
        factories = [Factory(ListenerOptions(name=f"{n}")) for n in range(3)]
        for factory in factories:
            bus.register_listener(factory)
        for n in range(2):
            bus.dispatch_nowait(Job(n))
        await bus.wait()
        assert all(factory.seen == [(1, 0), (2, 1)] for factory in factories)
        assert [listener.restarts for listener in bus.snapshot().listeners] == [2, 2, 2]
        assert bus.snapshot().state == "open"


async def test_dropped_and_vetoed_events_are_no_failures_of_the_listener(
    autojump_clock: MockClock,
) -> None:
    async with make() as bus:
        supervision = Supervision("escalate")

        @bus.listener(Job, mailbox=1, overflow="drop_new", supervision=supervision)
        async def listen(event: Job) -> None:
            await trio.sleep(1)

        for n in range(5):
            bus.dispatch_nowait(Job(n))
        await bus.wait()
        assert bus.error_count == 4
        assert bus.snapshot().state == "open"
