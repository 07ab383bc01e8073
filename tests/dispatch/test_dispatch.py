"""Dispatch: order, routes, nesting, and the objects and times that it refuses."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import trio
from tests.support.events import REGISTRY, Ping, Pong
from trio.testing import MockClock, wait_all_tasks_blocked

from goevent import (
    BusClosed,
    Config,
    DecodeError,
    DispatchHandle,
    Event,
    GoEvent,
    Ledger,
    NestingError,
    Registration,
    register_event_type,
)
from goevent.testing import Recorder

CHAIN = 50


class Unnamed(Event):
    n: int = 0


@register_event_type(name="dispatch.plain", registry=REGISTRY)
@dataclass(frozen=True)
class Plain:
    n: int


# -- order


async def test_sync_listeners_run_inside_dispatch_in_the_order_of_registration(
    bus: GoEvent,
) -> None:
    seen: list[tuple[str, int]] = []

    def note(event: Ping, name: str) -> None:
        seen.append((name, event.n))

    for name in "abc":
        bus.subscribe(partial(note, name=name), Ping)
    assert bus.dispatch_nowait(Ping(1)).done
    assert seen == [("a", 1), ("b", 1), ("c", 1)]
    assert (await bus.dispatch(Ping(2))).done
    assert seen[3:] == [("a", 2), ("b", 2), ("c", 2)]


async def test_async_listener_runs_after_dispatch_returns(bus: GoEvent) -> None:
    seen: list[int] = []

    @bus.listener(Ping)
    async def note(event: Ping) -> None:
        seen.append(event.n)

    handle = bus.dispatch_nowait(Ping(7))
    assert (seen, handle.done, handle.pending) == ([], False, 1)
    await handle.wait()
    assert (seen, handle.done, handle.pending) == ([7], True, 0)


async def test_a_sync_listener_may_ask_for_a_mailbox(bus: GoEvent) -> None:
    seen: list[int] = []
    bus.subscribe(lambda event: seen.append(event.n), Ping, async_=True)
    handle = await bus.dispatch(Ping(7))
    assert (seen, handle.done) == ([], False)
    await handle.wait()
    assert seen == [7]


async def test_nested_dispatch_goes_depth_first(bus: GoEvent) -> None:
    order: list[str] = []

    @bus.listener(Ping)
    def first(event: Ping) -> None:
        order.append(f"first {event.n}")
        if event.n < 2:
            bus.dispatch_nowait(Ping(event.n + 1))
        order.append(f"first {event.n} ends")

    @bus.listener(Ping)
    def second(event: Ping) -> None:
        order.append(f"second {event.n}")

    bus.dispatch_nowait(Ping(1))
    assert order == [
        "first 1",
        "first 2",
        "first 2 ends",
        "second 2",
        "first 1 ends",
        "second 1",
    ]


async def test_a_nested_event_never_overtakes_its_cause_in_a_mailbox(bus: GoEvent) -> None:
    seen: list[int] = []

    @bus.listener(Ping)
    def cause(event: Ping) -> None:
        if event.n % 10 < 3:
            bus.dispatch_nowait(Ping(event.n + 1))

    @bus.listener(Ping)
    async def effect(event: Ping) -> None:
        seen.append(event.n)

    bus.dispatch_nowait(Ping(10))
    await bus.dispatch(Ping(20))
    await bus.wait()
    assert seen == [10, 11, 12, 13, 20, 21, 22, 23]


async def test_a_nested_event_does_not_overtake_a_cause_that_waited_for_room(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    seen: list[int] = []
    go = trio.Event()

    @bus.listener(Ping)
    def cause(event: Ping) -> None:
        if event.n == 2:
            bus.dispatch_nowait(Pong(3))

    @bus.listener(Ping, mailbox=1)
    async def room(event: Ping) -> None:
        await go.wait()

    @bus.listener(Ping, Pong)
    async def effect(event: Ping | Pong) -> None:
        seen.append(event.n)

    await bus.dispatch(Ping(0))
    await wait_all_tasks_blocked()
    await bus.dispatch(Ping(1))
    with trio.fail_after(1):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bus.dispatch, Ping(2))
            await wait_all_tasks_blocked()
            assert seen == [0, 1]
            go.set()
        await bus.wait()
    assert seen == [0, 1, 2, 3]


# -- routes


async def test_events_find_their_listeners_by_class_and_by_name(bus: GoEvent) -> None:
    seen: list[str] = []

    @bus.listener(Ping)
    def by_class(event: Ping) -> None:
        seen.append("class")

    @bus.listener("test.ping")
    def by_name(event: Ping) -> None:
        seen.append("name")

    @bus.listener("test.ping", Pong)
    def by_both(event: Ping | Pong) -> None:
        seen.append(type(event).__name__)

    assert bus.dispatch_nowait(Ping()).event_name == "test.ping"
    assert bus.dispatch_nowait(Pong()).event_name == "test.pong"
    assert seen == ["class", "name", "Ping", "Pong"]


async def test_a_dataclass_is_an_event_once_it_is_registered(bus: GoEvent) -> None:
    seen: list[Plain] = []

    @bus.listener(Plain)
    def note(event: Plain) -> None:
        seen.append(event)

    event = Plain(3)
    handle = await bus.dispatch(event)
    assert handle.event is event
    assert handle.event_name == "dispatch.plain"
    assert seen == [event]


async def test_an_ad_hoc_event_becomes_the_type_registered_for_its_name(bus: GoEvent) -> None:
    seen: list[Any] = []
    bus.subscribe(seen.append, Ping, Plain)
    handle = await bus.dispatch(Event("test.ping", {"n": 3}))
    bus.dispatch_nowait(Event("dispatch.plain", {"n": 4}))
    assert seen == [Ping(3), Plain(4)]
    assert handle.event == Ping(3)


async def test_an_ad_hoc_payload_of_another_shape_is_a_decode_error(bus: GoEvent) -> None:
    seen: list[Any] = []
    bus.subscribe(seen.append, Ping)
    for payload in ({"n": "three"}, {"n": None}):
        with pytest.raises(DecodeError, match=r"test\.ping"):
            bus.dispatch_nowait(Event("test.ping", payload))
        with pytest.raises(DecodeError, match=r"test\.ping"):
            await bus.dispatch(Event("test.ping", payload))
    assert not seen
    assert bus.snapshot().ledger == Ledger()


async def test_an_ad_hoc_event_of_an_unknown_name_arrives_as_it_is(bus: GoEvent) -> None:
    seen: list[Any] = []
    bus.subscribe(seen.append, "dispatch.ad_hoc")
    event = Event("dispatch.ad_hoc", {"x": 1})
    handle = await bus.dispatch(event)
    assert seen == [event]
    assert handle.event_name == "dispatch.ad_hoc"


async def test_an_event_without_listeners_is_done_at_once(bus: GoEvent) -> None:
    for event in (Ping(), Plain(1), Event("dispatch.nobody")):
        for handle in (bus.dispatch_nowait(event), await bus.dispatch(event)):
            assert handle.done
            assert handle.errors == ()
            handle.raise_errors()
            await handle.wait()
    assert bus.snapshot().ledger == Ledger()


async def test_ten_thousand_ad_hoc_names_leave_no_memory_behind(bus: GoEvent) -> None:
    for n in range(10_000):
        bus.dispatch_nowait(Event(f"dispatch.request.{n}"))
    assert bus.snapshot().listeners == ()


@pytest.mark.parametrize("thing", [object(), None, "test.ping", 7, {"n": 1}, Ping, Unnamed(1)])
async def test_an_object_that_is_not_an_event_is_refused_with_a_type_error(
    bus: GoEvent, thing: Any
) -> None:
    with pytest.raises(TypeError, match="is not an event type"):
        bus.dispatch_nowait(thing)
    with pytest.raises(TypeError, match="is not an event type"):
        await bus.dispatch(thing)


async def test_a_subclass_of_an_event_is_not_an_event_by_itself(bus: GoEvent) -> None:
    class Derived(Ping):
        pass

    with pytest.raises(TypeError, match="Derived is not an event type"):
        bus.dispatch_nowait(Derived())


# -- before and after the bus is open


async def test_dispatch_before_open_is_a_runtime_error_and_after_close_bus_closed() -> None:
    bus = GoEvent(Config(registry=REGISTRY))
    with pytest.raises(RuntimeError, match="async with bus"):
        bus.dispatch_nowait(Ping())
    with pytest.raises(RuntimeError, match="async with bus"):
        await bus.dispatch(Ping())
    async with bus:
        bus.dispatch_nowait(Ping())
    with pytest.raises(BusClosed):
        bus.dispatch_nowait(Ping())
    with pytest.raises(trio.ClosedResourceError):
        await bus.dispatch(Ping())
    async with bus:
        await bus.dispatch(Ping())


async def test_a_handle_can_be_waited_for_after_the_bus_has_closed() -> None:
    bus = GoEvent(Config(registry=REGISTRY))

    @bus.listener(Ping)
    async def note(event: Ping) -> None:
        await trio.lowlevel.checkpoint()

    async with bus:
        handle = await bus.dispatch(Ping())
    await handle.wait()
    assert handle.done


@pytest.mark.parametrize("inline", [True, False])
async def test_dispatch_is_always_a_cancellation_point_and_a_cancelled_one_sends_nothing(
    bus: GoEvent, recorder: Recorder, inline: bool
) -> None:
    seen: list[Any] = []
    bus.subscribe(seen.append, Ping, async_=not inline)
    for _ in range(1000):  # most are within the interval in which dispatch does not yield
        with trio.CancelScope() as scope:
            scope.cancel()
            await bus.dispatch(Ping())
        assert scope.cancelled_caught
    await bus.wait()
    assert not seen
    assert not recorder.dispatched
    assert bus.snapshot().ledger == Ledger()


async def test_dispatch_in_a_shield_inside_a_cancelled_scope_sends(bus: GoEvent) -> None:
    seen: list[Any] = []
    bus.subscribe(seen.append, Ping)
    with trio.CancelScope() as scope:
        scope.cancel()
        with trio.CancelScope(shield=True):
            await bus.dispatch(Ping())
    assert seen == [Ping()]


async def test_dispatch_yields_now_and_then_without_ever_waiting(bus: GoEvent) -> None:
    ran = trio.Event()

    async def other() -> None:
        ran.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        while not ran.is_set():
            await bus.dispatch(Ping())


# -- from inside listeners


async def test_a_task_that_has_dispatched_is_freed(bus: GoEvent) -> None:
    holds: ContextVar[object] = ContextVar("holds")
    gone: list[weakref.ref[object]] = []

    class Held:
        pass

    async def dispatches() -> None:
        held = Held()
        holds.set(held)
        gone.append(weakref.ref(held))
        await bus.dispatch(Ping())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(dispatches)
    gc.collect()
    assert gone[0]() is None


@pytest.mark.parametrize("mailbox", [None, 1])
@pytest.mark.parametrize("waiting", [True, False])
async def test_a_chain_of_fifty_async_listeners(
    bus: GoEvent, autojump_clock: MockClock, mailbox: int | None, waiting: bool
) -> None:
    seen: list[int] = []

    async def link(event: Event, n: int) -> None:
        seen.append(n)
        if n + 1 < CHAIN:
            following = Event(f"dispatch.chain.{n + 1}")
            if waiting:
                await bus.dispatch(following)
            else:
                bus.dispatch_nowait(following)

    for n in range(CHAIN):
        bus.subscribe(partial(link, n=n), f"dispatch.chain.{n}", mailbox=mailbox)
    with trio.fail_after(1):
        for _ in range(3):
            await bus.dispatch(Event("dispatch.chain.0"))
            for _ in range(CHAIN):
                await bus.wait()
    assert seen == [*range(CHAIN)] * 3


async def test_a_chain_of_fifty_sync_listeners(bus: GoEvent) -> None:
    seen: list[int] = []

    def link(event: Event, n: int) -> None:
        seen.append(n)
        if n + 1 < CHAIN:
            assert bus.dispatch_nowait(Event(f"dispatch.chain.{n + 1}")).done

    for n in range(CHAIN):
        bus.subscribe(partial(link, n=n), f"dispatch.chain.{n}")
    assert (await bus.dispatch(Event("dispatch.chain.0"))).done
    assert seen == [*range(CHAIN)]


async def test_a_chain_of_fifty_through_one_listener_with_a_mailbox_of_one(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    seen: list[int] = []

    @bus.listener(Ping, mailbox=1)
    async def link(event: Ping) -> None:
        seen.append(event.n)
        if event.n + 1 < CHAIN:
            await bus.dispatch(Ping(event.n + 1))

    with trio.fail_after(1):
        await bus.dispatch(Ping(0))
        for _ in range(CHAIN):
            await bus.wait()
    assert seen == [*range(CHAIN)]


async def test_a_chain_that_alternates_between_sync_and_async(bus: GoEvent) -> None:
    seen: list[int] = []

    @bus.listener(Ping)
    def sync(event: Ping) -> None:
        seen.append(event.n)
        bus.dispatch_nowait(Pong(event.n + 1))

    @bus.listener(Pong, mailbox=1)
    async def later(event: Pong) -> None:
        seen.append(event.n)
        if event.n < CHAIN:
            await bus.dispatch(Ping(event.n + 1))

    await bus.dispatch(Ping(0))
    for _ in range(CHAIN):
        await bus.wait()
    assert seen == [*range(CHAIN + 2)]


@pytest.mark.parametrize("inline", [True, False])
async def test_registering_inside_a_listener_takes_effect_with_the_next_dispatch(
    bus: GoEvent, inline: bool
) -> None:
    late: list[int] = []

    def register(event: Ping) -> None:
        if event.n == 1:
            bus.subscribe(lambda event: late.append(event.n), Ping)

    bus.subscribe(register, Ping, async_=not inline)
    for n in (1, 2, 3):
        await (await bus.dispatch(Ping(n))).wait()
    assert late == [2, 3]


@pytest.mark.parametrize("inline", [True, False])
async def test_a_listener_may_unregister_itself_and_others(bus: GoEvent, inline: bool) -> None:
    seen: list[tuple[str, int]] = []
    registrations: list[Registration] = []

    def leave(event: Ping) -> None:
        seen.append(("leave", event.n))
        for registration in registrations:
            registration.unregister()
            registration.unregister()

    registrations.append(bus.subscribe(leave, Ping, async_=not inline))
    registrations.append(
        bus.subscribe(lambda event: seen.append(("other", event.n)), Ping, async_=not inline)
    )
    handle = await bus.dispatch(Ping(1))
    await handle.wait()
    await (await bus.dispatch(Ping(2))).wait()
    if inline:  # the dispatch that is under way keeps its listeners
        assert seen == [("leave", 1), ("other", 1)]
        assert not handle.errors
    else:
        assert seen == [("leave", 1)]
        assert [error.outcome for error in handle.errors] == ["dropped"]
    assert not any(registration.active for registration in registrations)


@pytest.mark.parametrize("inline", [True, False])
async def test_unregistering_the_whole_event_inside_a_listener(bus: GoEvent, inline: bool) -> None:
    seen: list[int] = []

    def leave(event: Ping) -> None:
        seen.append(event.n)
        bus.unregister_listeners_for_event(Ping)
        bus.unregister_listeners_for_event("test.ping")

    bus.subscribe(leave, Ping, async_=not inline)
    for n in range(3):
        await (await bus.dispatch(Ping(n))).wait()
    assert seen == [0]
    ledger = bus.snapshot().ledger
    assert ledger == Ledger(accepted=1, completed=1)


# -- nesting


def again(bus: GoEvent) -> Callable[[Ping], None]:
    def nest(event: Ping) -> None:
        bus.dispatch_nowait(Ping(event.n + 1))

    return nest


@pytest.mark.parametrize("bound", [1, 2, 50, 100, 150])
async def test_nesting_past_the_limit_is_one_clear_error_and_the_bus_lives(bound: int) -> None:
    bus = GoEvent(Config(registry=REGISTRY, max_nesting=bound))
    bus.subscribe(again(bus), Ping, name="nest")
    handles: list[DispatchHandle] = []
    bus.subscribe(lambda event: handles.append(bus.dispatch_nowait(Ping())), Pong)
    async with bus:
        handle = bus.dispatch_nowait(Ping(0))
        (error,) = bus.errors
        assert isinstance(error.error, NestingError)
        assert f"{bound} levels" in str(error)
        assert error.listener == "nest"
        assert not handle.errors  # the nested dispatch has it
        bus.clear_errors()
        seen: list[Any] = []
        bus.unregister_listeners_for_event(Ping)
        bus.subscribe(seen.append, Ping)
        bus.dispatch_nowait(Pong())
        assert seen == [Ping()]
        assert (await bus.close()).failed == 1


async def test_nesting_up_to_the_limit_works_even_if_every_level_fails() -> None:
    bus = GoEvent(Config(registry=REGISTRY, max_nesting=100))

    @bus.listener(Ping)
    def fail(event: Ping) -> None:
        raise ValueError(event.n)

    @bus.listener(Ping)
    def nest(event: Ping) -> None:
        if event.n < 100:
            bus.dispatch_nowait(Ping(event.n + 1))

    async with bus:
        bus.dispatch_nowait(Ping(0))
        assert [error.reason for error in bus.errors] == [f"ValueError: {n}" for n in range(101)]
        ledger = await bus.close()
    assert ledger == Ledger(accepted=202, completed=101, failed=101)


async def test_an_inline_failure_is_not_the_context_of_the_next_one(bus: GoEvent) -> None:
    @bus.listener(Ping)
    def first(event: Ping) -> None:
        raise ValueError

    @bus.listener(Ping)
    def second(event: Ping) -> None:
        raise KeyError

    for error in bus.dispatch_nowait(Ping()).errors:
        assert error.error is not None
        assert error.error.__context__ is None


async def test_a_snapshot_inside_an_inline_listener_adds_up_after_a_failure(bus: GoEvent) -> None:
    completed: list[int] = []

    @bus.listener(Ping)
    def fail(event: Ping) -> None:
        raise ValueError

    @bus.listener(Ping)
    def look(event: Ping) -> None:
        completed.append(bus.snapshot().ledger.completed)

    assert bus.dispatch_nowait(Ping()).errors
    assert bus.dispatch_nowait(Ping()).errors
    assert completed == [0, 1]


async def test_dispatches_of_async_listeners_do_not_nest(bus: GoEvent) -> None:
    last = trio.Event()

    @bus.listener(Ping)
    async def nest(event: Ping) -> None:
        if event.n == 1000:
            last.set()
        else:
            bus.dispatch_nowait(Ping(event.n + 1))

    bus.dispatch_nowait(Ping())
    await last.wait()


# -- one function, several registrations


@pytest.mark.parametrize("inline", [True, False])
async def test_a_function_that_is_registered_twice_runs_twice(bus: GoEvent, inline: bool) -> None:
    seen: list[int] = []

    def note(event: Ping) -> None:
        seen.append(event.n)

    first = bus.subscribe(note, Ping, async_=not inline)
    second = bus.subscribe(note, Ping, async_=not inline)
    await (await bus.dispatch(Ping(1))).wait()
    assert seen == [1, 1]
    first.unregister()
    await (await bus.dispatch(Ping(2))).wait()
    assert seen == [1, 1, 2]
    assert second.active
    second.unregister()
    await (await bus.dispatch(Ping(3))).wait()
    assert seen == [1, 1, 2]


@pytest.mark.parametrize("inline", [True, False])
async def test_a_failure_names_the_right_one_of_two_registrations(
    bus: GoEvent, inline: bool
) -> None:
    calls: list[int] = []

    def note(event: Ping) -> None:
        calls.append(event.n)
        if len(calls) == event.n:
            raise ValueError(event.n)

    for name in ("one", "two", "three"):
        bus.subscribe(note, Ping, name=name, async_=not inline)
    for n, name in ((1, "one"), (2, "two"), (3, "three")):
        calls.clear()
        handle = await bus.dispatch(Ping(n))
        await handle.wait()
        assert calls == [n] * 3
        assert [error.listener for error in handle.errors] == [name]
    assert [one.failed for one in bus.snapshot().listeners] == [1, 1, 1]


async def test_a_bus_may_listen_to_another_bus() -> None:
    first, second = GoEvent(Config(registry=REGISTRY)), GoEvent(Config(registry=REGISTRY))
    seen: list[Any] = []
    first.subscribe(second.dispatch_nowait, Ping)
    first.subscribe(second.dispatch, Pong)
    second.subscribe(seen.append, Ping, Pong)
    async with first, second:
        first.dispatch_nowait(Ping(1))
        await (await first.dispatch(Pong(2))).wait()
    assert seen == [Ping(1), Pong(2)]
