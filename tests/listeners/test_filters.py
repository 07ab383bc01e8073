"""Filters and order of listeners: `when`, `once` and `priority`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import trio
from tests.support.events import REGISTRY, Ping, Pong
from trio.testing import MockClock, wait_all_tasks_blocked

from goevent import (
    Config,
    Delivery,
    DispatchHandle,
    Event,
    GoEvent,
    Ledger,
    MemoryDriver,
    MemoryHub,
    NestingError,
    Retry,
    Supervision,
    Veto,
)

KINDS: dict[str, dict[str, Any]] = {
    "inline": {},
    "blocking": {"async_": True},
    "thread": {"thread": True},
    "concurrent": {"async_": True, "concurrency": 3},
}


def make(**config: Any) -> GoEvent:
    return GoEvent(Config(registry=REGISTRY, **config))


def is_even(event: Ping) -> bool:
    return event.n % 2 == 0


class Full:
    """A listener whose mailbox of one event stays full until `go` is set."""

    def __init__(self, bus: GoEvent) -> None:
        self.bus = bus
        self.go = trio.Event()
        self.seen: list[int] = []

    async def listen(self, event: Ping) -> None:
        await self.go.wait()
        self.seen.append(event.n)

    async def fill(self) -> None:
        self.bus.subscribe(self.listen, Ping, mailbox=1, name="full")
        await self.bus.dispatch(Ping(-1))
        await wait_all_tasks_blocked()
        await self.bus.dispatch(Ping(-2))


# -- when


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["dispatch", "dispatch_nowait"])
async def test_an_event_refused_by_when_is_neither_delivered_nor_counted(
    bus: GoEvent, kind: str, how: str
) -> None:
    seen: list[int] = []
    bus.subscribe(lambda event: seen.append(event.n), Ping, when=is_even, **KINDS[kind])
    for n in range(4):
        if how == "dispatch":
            handle = await bus.dispatch(Ping(n))
        else:
            handle = bus.dispatch_nowait(Ping(n))
        if n % 2:
            assert handle.done
        await handle.wait()
        assert handle.errors == ()
    assert seen == [0, 2]
    ledger = await bus.close()
    assert ledger == Ledger(accepted=2, completed=2)


async def test_an_inline_async_listener_whose_when_is_false_is_not_awaited(bus: GoEvent) -> None:
    seen: list[int] = []

    @bus.listener(Ping, when=is_even, async_=False)
    async def awaited(event: Ping) -> None:
        seen.append(event.n)

    for n in range(3):
        assert (await bus.dispatch(Ping(n))).done
    assert seen == [0, 2]


async def test_when_keeps_the_event_from_no_other_listener(bus: GoEvent) -> None:
    seen: list[str] = []
    bus.subscribe(lambda event: seen.append("never"), Ping, when=lambda event: False)
    bus.subscribe(lambda event: seen.append("always"), Ping)
    await bus.dispatch(Ping())
    assert seen == ["always"]


async def test_the_truth_of_what_when_returns_counts(bus: GoEvent) -> None:
    seen: list[int] = []
    bus.subscribe(lambda event: seen.append(event.n), Ping, when=lambda event: event.n)
    for n in range(3):
        await bus.dispatch(Ping(n))
    assert seen == [1, 2]


async def test_when_sees_the_typed_event_of_an_ad_hoc_one(bus: GoEvent) -> None:
    asked: list[object] = []
    bus.subscribe(lambda event: None, Ping, when=lambda event: asked.append(event))
    await bus.dispatch(Event("test.ping", {"n": 5}))
    assert asked == [Ping(5)]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_when_that_raises_is_one_failure_and_its_listener_does_not_run(
    bus: GoEvent, kind: str
) -> None:
    seen: list[str] = []
    cause = ValueError("cannot tell")

    def when(event: Ping) -> bool:
        raise cause

    bus.subscribe(lambda event: seen.append("it"), Ping, when=when, name="it", **KINDS[kind])
    bus.subscribe(lambda event: seen.append("other"), Ping)
    handle = await bus.dispatch(Ping())
    await handle.wait()
    (error,) = handle.errors
    assert (error.listener, error.error) == ("it", cause)
    assert "when" in error.reason
    assert bus.errors == (error,)
    assert seen == ["other"]
    ledger = await bus.close()
    assert ledger == Ledger(accepted=2, completed=1, failed=1)


async def test_a_when_that_raises_does_not_use_up_a_once_listener(
    bus: GoEvent,
) -> None:
    seen: list[int] = []

    def when(event: Ping) -> bool:
        return 1 / event.n > 0

    bus.subscribe(lambda event: seen.append(event.n), Ping, when=when, once=True)
    for n in (0, 1, 2):
        await bus.dispatch(Ping(n))
    assert len(bus.errors) == 1
    assert seen == [1]


async def test_a_base_exception_of_when_leaves_dispatch_and_no_listener_gets_the_event(
    bus: GoEvent,
) -> None:
    seen: list[int] = []

    def when(event: Ping) -> bool:
        raise SystemExit

    bus.subscribe(lambda event: seen.append(event.n), Ping)
    bus.subscribe(lambda event: seen.append(event.n), Ping, when=when)
    with pytest.raises(SystemExit):
        await bus.dispatch(Ping())
    assert seen == []
    seen.clear()
    bus.dispatch_nowait(Pong())  # the bus works as before
    assert (await bus.close()) == Ledger()


async def test_when_may_dispatch(bus: GoEvent) -> None:
    seen: list[str] = []

    def when(event: Ping) -> bool:
        bus.dispatch_nowait(Pong())
        return True

    bus.subscribe(lambda event: seen.append("pong"), Pong)
    bus.subscribe(lambda event: seen.append("ping"), Ping, when=when)
    await bus.dispatch(Ping())
    bus.dispatch_nowait(Ping())
    assert seen == ["pong", "ping"] * 2


@pytest.mark.parametrize("how", ["dispatch", "dispatch_nowait"])
async def test_a_when_that_dispatches_its_own_event_ends_with_a_nesting_error(
    bus: GoEvent, how: str
) -> None:
    def when(event: Ping) -> bool:
        bus.dispatch_nowait(Ping(event.n + 1))
        return False

    bus.subscribe(lambda event: None, Ping, when=when)
    if how == "dispatch":
        await bus.dispatch(Ping())
    else:
        bus.dispatch_nowait(Ping())
    (error,) = bus.errors
    assert isinstance(error.error, NestingError), error.details


async def test_a_when_that_has_dispatched_to_a_once_listener_gives_it_no_second_event(
    bus: GoEvent,
) -> None:
    seen: list[int] = []

    def when(event: Ping) -> bool:
        if event.n == 1:
            bus.dispatch_nowait(Ping(2))
        return True

    bus.subscribe(lambda event: seen.append(event.n), Ping, once=True)
    bus.subscribe(lambda event: None, Ping, when=when)
    await bus.dispatch(Ping(1))
    assert seen == [2]


async def test_a_when_that_unregisters_its_listener_keeps_the_event_from_it(bus: GoEvent) -> None:
    seen: list[int] = []

    def when(event: Ping) -> bool:
        registration.unregister()
        return True

    registration = bus.subscribe(lambda event: seen.append(event.n), Ping, when=when)
    await bus.dispatch(Ping())
    assert seen == []
    assert (await bus.close()) == Ledger()


async def test_when_is_called_once_by_a_dispatch_that_waits_for_room(bus: GoEvent) -> None:
    asked: list[int] = []
    seen: list[int] = []
    full = Full(bus)

    def when(event: Ping) -> bool:
        asked.append(event.n)
        return is_even(event)

    await full.fill()
    bus.subscribe(lambda event: seen.append(event.n), Ping, when=when)
    async with trio.open_nursery() as nursery:
        for n in (1, 2):
            nursery.start_soon(bus.dispatch, Ping(n))
            await wait_all_tasks_blocked()
        assert asked == [1, 2]
        full.go.set()
    assert asked == [1, 2]
    assert seen == [2]


async def test_when_is_called_once_if_the_route_changes_while_the_dispatch_waits(
    bus: GoEvent,
) -> None:
    asked: list[int] = []
    seen: list[int] = []
    full = Full(bus)

    def when(event: Ping) -> bool:
        asked.append(event.n)
        return True

    await full.fill()
    bus.subscribe(lambda event: seen.append(event.n), Ping, when=when)
    removed = bus.subscribe(lambda event: seen.append(-1), Ping)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bus.dispatch, Ping(1))
        await wait_all_tasks_blocked()
        removed.unregister()
        await wait_all_tasks_blocked()
        full.go.set()
    assert asked == [1]
    assert seen == [1]


async def test_a_full_mailbox_delays_no_event_that_its_listener_refuses(
    bus: GoEvent,
) -> None:
    go = trio.Event()

    @bus.listener(Ping, mailbox=1, when=lambda event: event.n == 0)
    async def full(event: Ping) -> None:
        await go.wait()

    bus.dispatch_nowait(Ping(0))
    await wait_all_tasks_blocked()
    bus.dispatch_nowait(Ping(0))
    with pytest.raises(trio.WouldBlock):
        bus.dispatch_nowait(Ping(0))
    bus.dispatch_nowait(Ping(1))
    go.set()
    assert (await bus.close()) == Ledger(accepted=2, completed=2)


async def test_a_class_listener_has_its_filter_in_its_options(bus: GoEvent) -> None:
    from goevent import ListenerOptions

    seen: list[int] = []

    class Even:
        event_name = "test.ping"
        options = ListenerOptions(when=is_even)

        def on_event(self, event: Ping) -> None:
            seen.append(event.n)

    bus.register_listener(Even)
    for n in range(3):
        await bus.dispatch(Ping(n))
    assert seen == [0, 2]


async def test_ctrl_c_may_interrupt_a_when(bus: GoEvent) -> None:
    protected: list[bool] = []

    def when(event: Ping) -> bool:
        protected.append(trio.lowlevel.currently_ki_protected())
        return False

    bus.subscribe(lambda event: None, Ping, when=when)
    await bus.dispatch(Ping())
    bus.dispatch_nowait(Ping())
    assert protected == [False, False]


# -- once


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "concurrent"])
@pytest.mark.parametrize("how", ["dispatch", "dispatch_nowait"])
async def test_a_once_listener_gets_the_first_event_and_is_unregistered(
    bus: GoEvent, kind: str, how: str
) -> None:
    seen: list[int] = []
    bus.subscribe(lambda event: seen.append(event.n), Ping, once=True, **KINDS[kind])
    for n in range(3):
        if how == "dispatch":
            await bus.dispatch(Ping(n))
        else:
            bus.dispatch_nowait(Ping(n))
        assert bus.snapshot().listeners == ()
    await bus.wait()
    assert seen == [0]
    ledger = await bus.close()
    assert ledger == Ledger(accepted=1, completed=1)


@pytest.mark.parametrize("options", [{"async_": True}, {"async_": False}, {}])
async def test_many_tasks_that_dispatch_together_reach_a_once_listener_once(
    bus: GoEvent, options: dict[str, Any]
) -> None:
    seen: list[int] = []

    @bus.listener(Ping, once=True, **options)
    async def it(event: Ping) -> None:
        await trio.sleep(0)
        seen.append(event.n)

    async with trio.open_nursery() as nursery:
        for n in range(50):
            nursery.start_soon(bus.dispatch, Ping(n))
    await bus.wait()
    assert len(seen) == 1
    ledger = await bus.close()
    assert ledger == Ledger(accepted=1, completed=1)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "concurrent"])
async def test_dispatches_that_wait_for_room_reach_a_once_listener_once(
    bus: GoEvent, kind: str
) -> None:
    seen: list[int] = []
    full = Full(bus)
    await full.fill()
    bus.subscribe(lambda event: seen.append(event.n), Ping, once=True, **KINDS[kind])
    handles: list[DispatchHandle] = []

    async def dispatch(n: int) -> None:
        handles.append(await bus.dispatch(Ping(n)))

    async with trio.open_nursery() as nursery:
        for n in range(1, 5):
            nursery.start_soon(dispatch, n)
            await wait_all_tasks_blocked()
        full.go.set()
    await bus.wait()
    assert seen == [1]
    assert full.seen == [-1, -2, 1, 2, 3, 4]
    assert all(handle.done for handle in handles)
    ledger = await bus.close()
    assert ledger == Ledger(accepted=7, completed=7)


async def test_a_dispatch_that_waits_for_room_goes_on_without_a_used_once_listener(
    bus: GoEvent,
) -> None:
    seen: list[str] = []
    full = Full(bus)
    await full.fill()

    @bus.listener(Ping, Pong, once=True)
    def it(event: Ping | Pong) -> None:
        seen.append(type(event).__name__)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(bus.dispatch, Ping(1))
        await wait_all_tasks_blocked()
        bus.dispatch_nowait(Pong())
        assert seen == ["Pong"]
        full.go.set()
    await bus.wait()
    assert seen == ["Pong"]
    assert full.seen == [-1, -2, 1]
    ledger = await bus.close()
    assert ledger == Ledger(accepted=4, completed=4)


async def test_a_dispatch_cancelled_while_it_waits_does_not_use_up_a_once_listener(
    bus: GoEvent,
) -> None:
    seen: list[int] = []
    full = Full(bus)
    await full.fill()
    bus.subscribe(lambda event: seen.append(event.n), Ping, once=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bus.dispatch, Ping(1))
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    with pytest.raises(trio.WouldBlock):
        bus.dispatch_nowait(Ping(2))
    full.go.set()
    await bus.dispatch(Ping(3))
    assert seen == [3]


async def test_a_nested_dispatch_of_its_own_does_not_reach_a_once_listener(bus: GoEvent) -> None:
    seen: list[int] = []

    @bus.listener(Ping, once=True)
    def it(event: Ping) -> None:
        seen.append(event.n)
        bus.dispatch_nowait(Ping(event.n + 1))

    await bus.dispatch(Ping(1))
    assert seen == [1]


async def test_a_nested_dispatch_of_an_earlier_listener_does_not_reach_a_once_listener(
    bus: GoEvent,
) -> None:
    seen: list[int] = []

    @bus.listener(Ping)
    def before(event: Ping) -> None:
        if event.n < 3:
            bus.dispatch_nowait(Ping(event.n + 1))

    bus.subscribe(lambda event: seen.append(event.n), Ping, once=True)
    await bus.dispatch(Ping(1))
    assert seen == [1]  # the first event has used it up from the moment of its dispatch


async def test_a_veto_around_the_dispatch_does_not_use_up_a_once_listener() -> None:
    class NoOdd:
        def around_dispatch(self, handle: DispatchHandle, /) -> Iterator[None]:
            if isinstance(handle.event, Ping) and handle.event.n % 2:
                raise Veto("odd")
            yield

    seen: list[int] = []
    async with make(middleware=(NoOdd(),)) as bus:
        bus.subscribe(lambda event: seen.append(event.n), Ping, once=True)
        for n in (1, 2, 4):
            await bus.dispatch(Ping(n))
    assert seen == [2]


async def test_a_veto_around_its_call_uses_up_a_once_listener() -> None:
    class NoOdd:
        def around_call(self, delivery: Delivery, /) -> Iterator[None]:
            if isinstance(delivery.event, Ping) and delivery.event.n % 2:
                raise Veto("odd")
            yield

    seen: list[int] = []
    async with make(middleware=(NoOdd(),)) as bus:
        bus.subscribe(lambda event: seen.append(event.n), Ping, once=True)
        for n in (1, 2):
            await bus.dispatch(Ping(n))
        ledger = await bus.close()
    assert seen == []
    assert ledger == Ledger(accepted=1, dropped=1)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "concurrent"])
async def test_a_once_listener_waits_for_an_event_that_its_when_accepts(
    bus: GoEvent, kind: str
) -> None:
    seen: list[int] = []
    bus.subscribe(lambda event: seen.append(event.n), Ping, once=True, when=is_even, **KINDS[kind])
    for n in (1, 3, 4, 5, 6):
        await bus.dispatch(Ping(n))
    await bus.wait()
    assert seen == [4]


async def test_events_that_arrive_over_a_hub_reach_a_once_listener_once() -> None:
    hub = MemoryHub()
    one, two = make(driver=MemoryDriver(hub)), make(driver=MemoryDriver(hub))
    seen: list[int] = []
    async with one, two:
        two.subscribe(lambda event: seen.append(event.n), Ping, once=True)
        await two.ready()
        for n in range(3):
            await one.dispatch(Ping(n))
        await one.close()
        await wait_all_tasks_blocked()
        await two.dispatch(Ping(9))
        ledger = await two.close()
    assert seen == [0]
    assert ledger == Ledger(accepted=1, completed=1)


async def test_a_once_listener_of_several_names_gets_one_event(bus: GoEvent) -> None:
    seen: list[Event] = []
    bus.subscribe(seen.append, "test.*", Ping, Pong, once=True)
    await bus.dispatch(Pong(1))
    await bus.dispatch(Ping(2))
    await bus.dispatch(Event("test.unknown"))
    assert seen == [Pong(1)]


@pytest.mark.parametrize("options", [{"async_": True}, {"async_": False}])
async def test_a_once_listener_with_retry_tries_its_event_again(
    bus: GoEvent, autojump_clock: MockClock, options: dict[str, Any]
) -> None:
    attempts: list[int] = []

    @bus.listener(Ping, once=True, retry=Retry(attempts=3, jitter=0), **options)
    async def it(event: Ping) -> None:
        attempts.append(event.n)
        if len(attempts) < 3:
            raise ValueError("not yet")

    handle = await bus.dispatch(Ping(1))
    await bus.dispatch(Ping(2))
    await handle.wait()
    assert handle.errors == ()
    assert attempts == [1, 1, 1]
    ledger = await bus.close()
    assert ledger == Ledger(accepted=1, completed=1)


@pytest.mark.parametrize("options", [{}, {"async_": True}])
async def test_a_once_listener_that_fails_is_unregistered(
    bus: GoEvent, options: dict[str, Any]
) -> None:
    runs: list[int] = []

    @bus.listener(Ping, once=True, supervision=Supervision("stop"), **options)
    def it(event: Ping) -> None:
        runs.append(event.n)
        raise ValueError("broken")

    for n in range(2):
        await (await bus.dispatch(Ping(n))).wait()
    assert len(bus.errors) == 1
    assert runs == [0]
    ledger = await bus.close()
    assert ledger == Ledger(accepted=1, failed=1)


async def test_a_once_listener_may_be_unregistered_before_its_event(bus: GoEvent) -> None:
    seen: list[int] = []
    registration = bus.subscribe(lambda event: seen.append(event.n), Ping, once=True)
    registration.unregister()
    await bus.dispatch(Ping())
    assert seen == []


async def test_unregistering_a_once_listener_with_its_event_in_the_mailbox_changes_nothing(
    bus: GoEvent,
) -> None:
    seen: list[int] = []

    async def it(event: Ping) -> None:
        seen.append(event.n)

    registration = bus.subscribe(it, Ping, once=True)
    handle = bus.dispatch_nowait(Ping(1))
    registration.unregister()
    await handle.wait()
    assert handle.errors == ()
    assert seen == [1]
    ledger = await bus.close()
    assert ledger == Ledger(accepted=1, completed=1)


async def test_a_once_listener_in_front_of_a_failing_one_keeps_the_ledger_exact(
    bus: GoEvent,
) -> None:
    """Stopping a listener folds the ledger in the middle of a dispatch."""

    @bus.listener(Ping, supervision=Supervision("stop"))
    def fails(event: Ping) -> None:
        raise ValueError("broken")

    bus.subscribe(lambda event: None, Ping, once=True)
    await bus.dispatch(Ping())
    assert len(bus.errors) == 1
    ledger = await bus.close()
    assert ledger == Ledger(accepted=2, completed=1, failed=1)


async def test_ten_once_listeners_get_the_same_event(bus: GoEvent) -> None:
    seen: list[str] = []

    def add(name: str) -> None:
        bus.subscribe(lambda event: seen.append(name), Ping, once=True)

    for name in "abcdefghij":
        add(name)
    await bus.dispatch(Ping())
    await bus.dispatch(Ping())
    assert "".join(seen) == "abcdefghij"


async def test_a_once_listener_may_register_its_successor(bus: GoEvent) -> None:
    seen: list[int] = []

    def it(event: Ping) -> None:
        seen.append(event.n)
        bus.subscribe(it, Ping, once=True)

    bus.subscribe(it, Ping, once=True)
    for n in range(3):
        await bus.dispatch(Ping(n))
    assert seen == [0, 1, 2]
    ledger = await bus.close()
    assert ledger == Ledger(accepted=3, completed=3)


# -- priority


def order_of(bus: GoEvent, *priorities: int | None) -> list[int]:
    seen: list[int] = []

    def add(index: int, priority: int | None) -> None:
        bus.subscribe(lambda event: seen.append(index), Ping, priority=priority)

    for index, priority in enumerate(priorities):
        add(index, priority)
    bus.dispatch_nowait(Ping())
    return seen


@pytest.mark.parametrize(
    ("priorities", "order"),
    [
        ((None, None, None), [0, 1, 2]),
        ((0, None, 0), [0, 1, 2]),
        ((1, 2, 3), [2, 1, 0]),
        ((5, 5, 5), [0, 1, 2]),
        ((-1, None, 1), [2, 1, 0]),
        ((1, None, 1, None, 2, -3, 1), [4, 0, 2, 6, 1, 3, 5]),
    ],
)
async def test_the_highest_priority_runs_first_and_registration_breaks_ties(
    bus: GoEvent, priorities: tuple[int | None, ...], order: list[int]
) -> None:
    assert order_of(bus, *priorities) == order


async def test_ties_are_broken_by_registration_across_names_and_patterns(bus: GoEvent) -> None:
    seen: list[str] = []

    def add(name: str, *events: str, priority: int | None = None) -> None:
        bus.subscribe(lambda event: seen.append(name), *events, priority=priority)

    add("pattern first", "test.*")
    add("exact", "test.ping")
    add("both", "test.ping", "**")
    add("pattern last", "*.ping")
    add("urgent pattern", "**", priority=1)
    await bus.dispatch(Ping())
    assert seen == ["urgent pattern", "pattern first", "exact", "both", "pattern last"]


async def test_priority_holds_when_listeners_come_and_go(bus: GoEvent) -> None:
    seen: list[str] = []

    def note(name: str) -> Callable[[Event], None]:
        return lambda event: seen.append(name)

    bus.subscribe(note("a"), Ping)
    b = bus.subscribe(note("b"), Ping, priority=2)
    bus.dispatch_nowait(Ping())
    bus.subscribe(note("c"), Ping, priority=1)
    bus.dispatch_nowait(Ping())
    b.unregister()
    bus.subscribe(note("d"), Ping)
    bus.dispatch_nowait(Ping())
    assert seen == ["b", "a", "b", "c", "a", "c", "a", "d"]


async def test_a_failing_listener_of_high_priority_does_not_stop_the_others(bus: GoEvent) -> None:
    seen: list[str] = []
    bus.subscribe(lambda event: seen.append("low"), Ping)

    @bus.listener(Ping, priority=9, name="high")
    def high(event: Ping) -> None:
        raise ValueError("broken")

    handle = await bus.dispatch(Ping())
    assert [error.listener for error in handle.errors] == ["high"]
    assert seen == ["low"]
