"""Deadlocks: a wait that could never end is an error at once, and no other wait is."""

from __future__ import annotations

from functools import partial

import pytest
import trio
from tests.support.deadlocks import DeadlockCatcher, at_once
from trio.testing import MockClock, wait_all_tasks_blocked

from goevent import Config, DeadlockError, DispatchHandle, Event, EventRegistry, GoEvent, Ledger

REGISTRY = EventRegistry()


class A(Event, name="deadlock.a", registry=REGISTRY):
    n: int = 0


class B(Event, name="deadlock.b", registry=REGISTRY):
    n: int = 0


class Both(Event, name="deadlock.both", registry=REGISTRY):
    n: int = 0


# -- handles


async def test_a_listener_that_waits_for_its_own_event(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    handles: list[DispatchHandle] = []

    @bus.listener(A, name="selfish")
    async def selfish(event: A) -> None:
        await handles[0].wait()

    async with at_once():
        handles.append(bus.dispatch_nowait(A()))
        await handles[0].wait()
    (error,) = handles[0].errors
    assert isinstance(error.error, DeadlockError)
    assert "selfish would wait forever for the handle of 'deadlock.a': selfish -> selfish" in str(
        error
    )


async def test_a_child_task_of_a_listener_that_waits_for_the_listeners_event(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    handles: list[DispatchHandle] = []
    caught = DeadlockCatcher()

    @bus.listener(A)
    async def parent(event: A) -> None:
        async with trio.open_nursery() as outer, trio.open_nursery() as inner:
            outer.start_soon(caught, handles[0].wait)
            inner.start_soon(caught, handles[0].wait)

    async with at_once():
        handles.append(bus.dispatch_nowait(A()))
        await handles[0].wait()
    assert len(caught.errors) == 2


async def test_a_listener_that_waits_for_an_event_behind_its_own(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    caught = DeadlockCatcher()

    @bus.listener(A)
    async def impatient(event: A) -> None:
        if event.n == 0:
            handle = await bus.dispatch(A(1))
            await caught(handle.wait)

    async with at_once():
        await (await bus.dispatch(A())).wait()
        await bus.wait()
    assert len(caught.errors) == 1


async def test_a_chain_of_events_that_comes_back_to_its_beginning(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    caught = DeadlockCatcher()

    @bus.listener(A, name="first")
    async def first(event: A) -> None:
        if event.n == 0:
            await (await bus.dispatch(B())).wait()

    @bus.listener(B, name="second")
    async def second(event: B) -> None:
        await caught((await bus.dispatch(A(1))).wait)

    async with at_once():
        await (await bus.dispatch(A())).wait()
        await bus.wait()
    assert "second -> first -> second" in str(caught)
    assert bus.snapshot().ledger == Ledger(accepted=3, completed=3)


@pytest.mark.parametrize("length", [3, 10])
async def test_a_long_cycle_of_waits(bus: GoEvent, autojump_clock: MockClock, length: int) -> None:
    caught = DeadlockCatcher()

    async def link(event: Event, n: int) -> None:
        if not event.payload():
            last = n + 1 == length
            following = Event("deadlock.0", {"last": 1}) if last else Event(f"deadlock.{n + 1}")
            await caught((await bus.dispatch(following)).wait)

    for n in range(length):
        bus.subscribe(partial(link, n=n), f"deadlock.{n}", name=str(n))
    async with at_once():
        await (await bus.dispatch(Event("deadlock.0"))).wait()
        await bus.wait()
    (error,) = caught.errors
    assert str(error).count("->") == length


async def test_a_listener_that_unregisters_itself_and_waits_for_its_event(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    caught = DeadlockCatcher()
    handles: list[DispatchHandle] = []

    async def leave(event: A) -> None:
        registration.unregister()
        await caught(handles[0].wait)

    registration = bus.subscribe(leave, A)
    async with at_once():
        handles.append(bus.dispatch_nowait(A()))
        await handles[0].wait()
    assert len(caught.errors) == 1


# -- room


async def test_a_listener_that_fills_its_own_mailbox(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    caught = DeadlockCatcher()

    @bus.listener(A, mailbox=2, name="greedy")
    async def greedy(event: A) -> None:
        if event.n == 0:
            for n in range(1, 5):
                await caught(partial(bus.dispatch, A(n)))

    async with at_once():
        await (await bus.dispatch(A())).wait()
        await bus.wait()
    assert len(caught.errors) == 2
    assert "greedy would wait forever for room for 'deadlock.a'" in str(caught)
    assert bus.snapshot().ledger == Ledger(accepted=3, completed=3)


async def test_a_child_task_that_fills_the_mailbox_of_its_listener(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    caught = DeadlockCatcher()

    @bus.listener(A, mailbox=1)
    async def greedy(event: A) -> None:
        if event.n == 0:
            async with trio.open_nursery() as nursery:
                for n in range(1, 4):
                    nursery.start_soon(caught, partial(bus.dispatch, A(n)))

    async with at_once():
        await (await bus.dispatch(A())).wait()
        await bus.wait()
    assert len(caught.errors) == 2


@pytest.mark.parametrize("mailbox", [1, 5])
async def test_two_listeners_that_fill_each_others_mailboxes(
    bus: GoEvent, autojump_clock: MockClock, mailbox: int
) -> None:
    caught = DeadlockCatcher()

    async def fill(event: A | B) -> None:
        if event.n == 0:
            other = B if isinstance(event, A) else A
            for n in range(1, mailbox + 4):
                await caught(partial(bus.dispatch, other(n)))

    bus.subscribe(fill, A, mailbox=mailbox, name="one")
    bus.subscribe(fill, B, mailbox=mailbox, name="two")
    async with at_once():
        handles = [bus.dispatch_nowait(A()), bus.dispatch_nowait(B())]
        for handle in handles:
            await handle.wait()
        await bus.wait()
    assert caught.errors
    assert "one -> two" in str(caught)
    ledger = bus.snapshot().ledger
    assert ledger.accepted == ledger.completed == 2 + 2 * (mailbox + 3) - len(caught.errors)


async def test_a_wait_for_room_and_a_wait_for_a_handle_make_a_cycle_together(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    caught = DeadlockCatcher()

    @bus.listener(A, mailbox=1, name="one")
    async def one(event: A) -> None:
        if event.n == 0:
            await caught((await bus.dispatch(B())).wait)

    @bus.listener(B, name="two")
    async def two(event: B) -> None:
        for n in (1, 2, 3):
            await caught(partial(bus.dispatch, A(n)))

    async with at_once():
        await (await bus.dispatch(A())).wait()
        await bus.wait()
    assert len(caught.errors) == 2
    assert "two -> one -> two" in str(caught)


async def test_a_dispatch_that_is_first_in_a_queue_may_hide_the_cycle(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    caught = DeadlockCatcher()
    go = trio.Event()

    @bus.listener(A, Both, mailbox=1, name="idle")
    async def idle(event: A | Both) -> None:
        """Have a dispatch to both mailboxes wait first in the queue of one that has room."""

    @bus.listener(B, Both, mailbox=1, name="busy")
    async def busy(event: B | Both) -> None:
        await go.wait()
        if event.n == 1:
            await caught(partial(bus.dispatch, A()))

    async with at_once():
        bus.dispatch_nowait(B(1))
        await wait_all_tasks_blocked()
        bus.dispatch_nowait(B(2))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bus.dispatch, Both())
            await wait_all_tasks_blocked()
            go.set()
        await bus.wait()
    assert len(caught.errors) == 1
    assert bus.snapshot().ledger == Ledger(accepted=4, completed=4)


async def test_overflow_policies_that_never_wait_never_deadlock(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    handles: list[DispatchHandle] = []

    @bus.listener(A, mailbox=1, overflow="drop_new")
    async def greedy(event: A) -> None:
        if event.n == 0:
            for n in range(1, 5):
                handles.append(await bus.dispatch(A(n)))

    async with at_once():
        await (await bus.dispatch(A())).wait()
        await bus.wait()
    assert [len(handle.errors) for handle in handles] == [0, 1, 1, 1]


# -- the bus itself


@pytest.mark.parametrize("verb", ["wait for", "close"])
async def test_waiting_for_or_closing_the_bus_inside_a_listener(
    bus: GoEvent, autojump_clock: MockClock, verb: str
) -> None:
    @bus.listener(A, name="suicidal")
    async def suicidal(event: A) -> None:
        await (bus.close() if verb == "close" else bus.wait())

    @bus.listener(B, name="parent")
    async def parent(event: B) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bus.close if verb == "close" else bus.wait)

    async with at_once():
        handles = [bus.dispatch_nowait(A()), bus.dispatch_nowait(B())]
        await bus.wait()
    one, two = [error for handle in handles for error in handle.errors]
    assert isinstance(one.error, RuntimeError)
    assert str(one.error) == f"suicidal cannot {verb} the bus that runs it: it would never end"
    assert "RuntimeError: parent cannot" in two.details
    assert bus.snapshot().state == "open"


async def test_a_listener_may_wait_for_and_close_another_bus(autojump_clock: MockClock) -> None:
    outer, inner = GoEvent(Config(registry=REGISTRY)), GoEvent(Config(registry=REGISTRY))
    seen: list[A | B] = []

    @inner.listener(A)
    async def note(event: A) -> None:
        await trio.sleep(1)
        seen.append(event)

    @outer.listener(B)
    async def use(event: B) -> None:
        async with inner:
            handle = await inner.dispatch(A())
            await inner.wait()
            await handle.wait()
            await inner.close()
        seen.append(event)

    with trio.fail_after(5):
        async with outer:
            handle = await outer.dispatch(B())
            await handle.wait()
            handle.raise_errors()
    assert seen == [A(), B()]


async def test_a_task_that_a_listener_started_elsewhere_is_not_inside_it(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    handles: list[DispatchHandle] = []
    async with at_once(), trio.open_nursery() as nursery:

        @bus.listener(A)
        async def starts(event: A) -> None:
            nursery.start_soon(handles[0].wait)
            nursery.start_soon(bus.wait)

        handles.append(bus.dispatch_nowait(A()))
        await handles[0].wait()
        handles[0].raise_errors()


# -- waits that can end


async def test_a_listener_may_wait_for_the_event_of_another_listener(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    @bus.listener(A)
    async def asks(event: A) -> None:
        await (await bus.dispatch(B(event.n))).wait()

    @bus.listener(B)
    async def answers(event: B) -> None:
        await trio.sleep(1)

    with trio.fail_after(60):
        handles = [await bus.dispatch(A(n)) for n in range(10)]
        await bus.wait()
    for handle in handles:
        handle.raise_errors()


async def test_many_listeners_may_wait_for_the_same_listener(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    go = trio.Event()

    async def asks(event: A) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon((await bus.dispatch(B())).wait)
            nursery.start_soon(wanted[0].wait)

    @bus.listener(B, mailbox=2)
    async def answers(event: B) -> None:
        await go.wait()

    for _ in range(10):
        bus.subscribe(asks, A)
    wanted = [bus.dispatch_nowait(B())]
    with trio.fail_after(60):
        handle = await bus.dispatch(A())
        await wait_all_tasks_blocked()
        go.set()
        await handle.wait()
    handle.raise_errors()
    await bus.wait()
    assert bus.snapshot().ledger == Ledger(accepted=41, completed=41)


async def test_a_diamond_of_waits_is_no_cycle(bus: GoEvent, autojump_clock: MockClock) -> None:
    async def relay(event: Event, following: tuple[str, ...]) -> None:
        handles = [await bus.dispatch(Event(name)) for name in following]
        for handle in handles:
            await handle.wait()
            handle.raise_errors()

    for name, following in {
        "deadlock.top": ("deadlock.left", "deadlock.right"),
        "deadlock.left": ("deadlock.bottom",),
        "deadlock.right": ("deadlock.bottom",),
        "deadlock.bottom": (),
    }.items():
        bus.subscribe(partial(relay, following=following), name, mailbox=1)
    with trio.fail_after(5):
        handle = await bus.dispatch(Event("deadlock.top"))
        await handle.wait()
    handle.raise_errors()


async def test_a_listener_may_wait_again_after_an_earlier_wait_has_ended(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    """The edge of a wait that was cancelled or has ended is gone."""
    scope = trio.CancelScope()

    @bus.listener(A, mailbox=1)
    async def one(event: A) -> None:
        if event.n == 0:
            handle = await bus.dispatch(B())
            with scope:
                await handle.wait()

    @bus.listener(B, mailbox=1)
    async def two(event: B) -> None:
        await wait_all_tasks_blocked()
        scope.cancel()
        await wait_all_tasks_blocked()
        for n in (1, 2, 3):
            await (await bus.dispatch(A(n))).wait()

    with trio.fail_after(5):
        await bus.dispatch(A())
        await bus.wait()
        await bus.wait()
    assert scope.cancelled_caught
    assert bus.snapshot().ledger == Ledger(accepted=5, completed=5)


async def test_back_pressure_between_listeners_in_one_direction_is_no_deadlock(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    seen: list[int] = []

    @bus.listener(A)
    async def produces(event: A) -> None:
        for n in range(50):
            await bus.dispatch(B(n))

    @bus.listener(B, mailbox=1)
    async def consumes(event: B) -> None:
        await trio.sleep(1)
        seen.append(event.n)

    with trio.fail_after(1000):
        await (await bus.dispatch(A())).wait()
        await bus.wait()
    assert seen == [*range(50)]
