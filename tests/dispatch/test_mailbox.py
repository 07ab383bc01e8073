"""Mailboxes: order, back-pressure, the overflow policies and their errors."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
import trio
from tests.support.checks import adds_up, ignore_error
from tests.support.events import REGISTRY, Job, Other
from tests.support.limits import HANG_SECONDS
from trio.testing import MockClock, wait_all_tasks_blocked

from goevent import (
    Config,
    DispatchHandle,
    Event,
    EventDropped,
    GoEvent,
    Ledger,
    ListenerOptions,
    MailboxFull,
)

MANY = 20_000


class Task(Event, name="mailbox.task", registry=REGISTRY):
    n: int = 0


class Both(Event, name="mailbox.both", registry=REGISTRY):
    n: int = 0


AnyJob = Job | Task | Both


class GatedListener:
    """A listener that waits until it is released, and notes the events that it has run with."""

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.gate = trio.Event()

    async def __call__(self, event: AnyJob) -> None:
        await self.gate.wait()
        self.seen.append(event.n)


async def hold(bus: GoEvent, event: AnyJob) -> DispatchHandle:
    """Give a listener its first event. It takes the event, so its mailbox is empty again."""
    handle = bus.dispatch_nowait(event)
    await wait_all_tasks_blocked()
    return handle


@asynccontextmanager
async def waiting(bus: GoEvent, *events: AnyJob) -> AsyncGenerator[list[int]]:
    """Start tasks that dispatch the events in this order; gives the events dispatched so far."""
    admitted: list[int] = []

    async def send(event: AnyJob) -> None:
        await bus.dispatch(event)
        admitted.append(event.n)

    with trio.fail_after(HANG_SECONDS):
        async with trio.open_nursery() as nursery:
            for event in events:
                nursery.start_soon(send, event)
                await wait_all_tasks_blocked()
            yield admitted


# -- capacity


@pytest.mark.parametrize("capacity", [1, 2, 7, 1024])
async def test_a_mailbox_holds_its_capacity_besides_the_event_being_run(
    bus: GoEvent, capacity: int
) -> None:
    gate = GatedListener()
    bus.subscribe(gate, Job, mailbox=capacity)
    await hold(bus, Job(0))
    for n in range(1, capacity + 1):
        bus.dispatch_nowait(Job(n))
    (state,) = bus.snapshot().listeners
    assert (state.depth, state.in_flight) == (capacity, 1)
    with pytest.raises(trio.WouldBlock, match="no room in the mailbox of"):
        bus.dispatch_nowait(Job(-1))
    gate.gate.set()
    await bus.wait()
    assert gate.seen == [*range(capacity + 1)]


async def test_the_default_capacity_is_1024(bus: GoEvent) -> None:
    gate = GatedListener()
    bus.subscribe(gate, Job, name="default")
    for n in range(1024):
        bus.dispatch_nowait(Job(n))
    with pytest.raises(trio.WouldBlock, match="default"):
        bus.dispatch_nowait(Job())
    gate.gate.set()


async def test_the_config_may_change_the_default_capacity() -> None:
    bus = GoEvent(Config(registry=REGISTRY, listener=ListenerOptions(mailbox=3)))
    gate = GatedListener()
    bus.subscribe(gate, Job)
    async with bus:
        for _ in range(3):
            bus.dispatch_nowait(Job())
        with pytest.raises(trio.WouldBlock):
            bus.dispatch_nowait(Job())
        gate.gate.set()


async def test_the_age_of_queued_events_is_measured_by_the_clock_of_the_run(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    gate = GatedListener()
    bus.subscribe(gate, Job)
    await hold(bus, Job())
    assert bus.snapshot().listeners[0].oldest_age == 0.0
    bus.dispatch_nowait(Job())
    await trio.sleep(5)
    bus.dispatch_nowait(Job())
    assert bus.snapshot().listeners[0].oldest_age == 5.0
    gate.gate.set()


# -- block


async def test_dispatch_waits_for_room_and_then_continues(bus: GoEvent) -> None:
    gate = GatedListener()
    bus.subscribe(gate, Job, mailbox=1)
    await hold(bus, Job(0))
    bus.dispatch_nowait(Job(1))
    async with waiting(bus, Job(2)) as admitted:
        assert not admitted
        assert bus.snapshot().ledger.accepted == 2
        gate.gate.set()
    await bus.wait()
    assert gate.seen == [0, 1, 2]


async def test_waiting_dispatches_get_room_in_order(bus: GoEvent) -> None:
    gate = GatedListener()
    bus.subscribe(gate, Job, mailbox=2)
    await hold(bus, Job(0))
    bus.dispatch_nowait(Job(1))
    bus.dispatch_nowait(Job(2))
    async with waiting(bus, *map(Job, range(3, 40))) as admitted:
        assert not admitted
        gate.gate.set()
    await bus.wait()
    assert gate.seen == [*range(40)]


async def test_a_new_dispatch_does_not_overtake_a_waiting_one(bus: GoEvent) -> None:
    gate, other = GatedListener(), GatedListener()
    bus.subscribe(gate, Job, Both, mailbox=1)
    bus.subscribe(other, Task, Both, mailbox=1)
    await hold(bus, Both(0))
    bus.dispatch_nowait(Job(1))
    async with waiting(bus, Both(2)) as admitted:
        with pytest.raises(trio.WouldBlock):  # there is room, but the waiting dispatch comes first
            bus.dispatch_nowait(Task(3))
        assert not admitted
        other.gate.set()
        await wait_all_tasks_blocked()
        with pytest.raises(trio.WouldBlock):
            bus.dispatch_nowait(Task(3))
        gate.gate.set()
    await (await bus.dispatch(Task(3))).wait()
    await bus.wait()
    assert gate.seen == [0, 1, 2]
    assert other.seen == [0, 2, 3]


async def test_a_dispatch_that_waits_for_two_mailboxes_fills_both_or_none(bus: GoEvent) -> None:
    one, two = GatedListener(), GatedListener()
    bus.subscribe(one, Job, Both, mailbox=1)
    bus.subscribe(two, Task, Both, mailbox=1)
    await hold(bus, Both(0))
    bus.dispatch_nowait(Job(1))
    bus.dispatch_nowait(Task(1))
    async with waiting(bus, Both(2)) as admitted:
        one.gate.set()
        await wait_all_tasks_blocked()
        assert not admitted
        assert [state.depth for state in bus.snapshot().listeners] == [0, 1]
        two.gate.set()
    await bus.wait()
    assert one.seen == two.seen == [0, 1, 2]


async def test_waiting_dispatches_on_crossing_routes_are_all_admitted(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    one, two = GatedListener(), GatedListener()
    bus.subscribe(one, Job, Both, mailbox=1)
    bus.subscribe(two, Task, Both, mailbox=1)
    await hold(bus, Both(0))
    bus.dispatch_nowait(Both(1))
    events = [kind(n) for n in range(2, 32) for kind in (Job, Both, Task)]
    async with waiting(bus, *events) as admitted:
        one.gate.set()
        await wait_all_tasks_blocked()
        two.gate.set()
    assert len(admitted) == len(events)
    await bus.wait()
    expected = [n for n in range(2, 32) for _ in range(2)]
    assert one.seen == two.seen == [0, 1, *expected]
    assert bus.snapshot().ledger.completed == 4 + 30 * 4


async def test_a_cancelled_wait_for_room_sends_nothing_and_admits_the_next_dispatch(
    bus: GoEvent,
) -> None:
    one, two = GatedListener(), GatedListener()
    bus.subscribe(one, Job, Both, mailbox=1)
    bus.subscribe(two, Task, Both, mailbox=1)
    await hold(bus, Both(0))
    bus.dispatch_nowait(Job(1))
    scope = trio.CancelScope()

    async def give_up() -> None:
        with scope:
            await bus.dispatch(Both(2))

    with trio.fail_after(HANG_SECONDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(give_up)
            await wait_all_tasks_blocked()
            async with waiting(bus, Task(3)) as admitted:
                assert not admitted  # behind the dispatch that waits for both
                scope.cancel()
                await wait_all_tasks_blocked()
                assert admitted == [3]
    assert scope.cancelled_caught
    assert bus.snapshot().ledger.accepted == 4
    one.gate.set()
    two.gate.set()
    await bus.wait()
    assert one.seen == [0, 1]
    assert two.seen == [0, 3]
    assert bus.snapshot().ledger == Ledger(accepted=4, completed=4)


async def test_cancelling_one_of_several_waiting_dispatches_keeps_the_order_of_the_others(
    bus: GoEvent,
) -> None:
    gate = GatedListener()
    bus.subscribe(gate, Job, mailbox=1)
    await hold(bus, Job(0))
    bus.dispatch_nowait(Job(1))
    scopes = {n: trio.CancelScope() for n in range(2, 12)}

    async def send(n: int) -> None:
        with scopes[n]:
            await bus.dispatch(Job(n))

    with trio.fail_after(HANG_SECONDS):
        async with trio.open_nursery() as nursery:
            for n in scopes:
                nursery.start_soon(send, n)
                await wait_all_tasks_blocked()
            for n in (2, 6, 11):
                scopes[n].cancel()
            await wait_all_tasks_blocked()
            gate.gate.set()
    await bus.wait()
    assert gate.seen == [0, 1, 3, 4, 5, 7, 8, 9, 10]
    assert bus.snapshot().ledger == Ledger(accepted=9, completed=9)


async def test_unregistering_admits_the_waiting_dispatches(bus: GoEvent) -> None:
    one, two = GatedListener(), GatedListener()
    registration = bus.subscribe(one, Job, Both, mailbox=1)
    bus.subscribe(two, Both, mailbox=1)
    two.gate.set()
    await hold(bus, Job(0))
    dropped = bus.dispatch_nowait(Job(1))
    async with waiting(bus, Job(2), Both(3), Job(4), Both(5)) as admitted:
        assert not admitted
        registration.unregister()
    assert sorted(admitted) == [2, 3, 4, 5]
    assert [error.outcome for error in dropped.errors] == ["dropped"]
    one.gate.set()
    await bus.wait()
    assert one.seen == [0]
    assert sorted(two.seen) == [3, 5]
    assert bus.snapshot().ledger == Ledger(accepted=4, completed=3, dropped=1)


async def test_unregistering_one_name_of_a_listener_admits_the_dispatches_of_that_name(
    bus: GoEvent,
) -> None:
    gate = GatedListener()
    bus.subscribe(gate, Job, Task, mailbox=1)
    await hold(bus, Job(0))
    kept = bus.dispatch_nowait(Task(1))
    async with waiting(bus, Job(2)) as admitted:
        bus.unregister_listeners_for_event(Job)
        await wait_all_tasks_blocked()
        assert admitted == [2]
    gate.gate.set()
    await kept.wait()
    assert not kept.errors
    assert gate.seen == [0, 1]


async def test_registering_while_a_dispatch_waits_keeps_the_ledger_exact(bus: GoEvent) -> None:
    gate, late = GatedListener(), GatedListener()
    late.gate.set()
    bus.subscribe(gate, Job, mailbox=1)
    await hold(bus, Job(0))
    bus.dispatch_nowait(Job(1))
    async with waiting(bus, Job(2)):
        bus.subscribe(late, Job)
        gate.gate.set()
    await (await bus.dispatch(Job(3))).wait()
    await bus.wait()
    assert gate.seen == [0, 1, 2, 3]
    assert late.seen in ([3], [2, 3])
    expected = 4 + len(late.seen)
    assert bus.snapshot().ledger == Ledger(accepted=expected, completed=expected)


async def test_an_unregistered_listener_gets_nothing_from_a_dispatch_that_was_waiting(
    bus: GoEvent,
) -> None:
    gate, gone = GatedListener(), GatedListener()
    gone.gate.set()
    bus.subscribe(gate, Job, mailbox=1)
    registration = bus.subscribe(gone, Job, overflow="drop_new")
    bus.on_error(ignore_error)
    await hold(bus, Job(0))
    bus.dispatch_nowait(Job(1))
    async with waiting(bus, Job(2)):
        registration.unregister()
        gate.gate.set()
    await bus.wait()
    assert gate.seen == [0, 1, 2]
    assert gone.seen == [0, 1]
    ledger = await bus.close()
    assert adds_up(ledger)
    assert len(bus.errors) == ledger.dropped


async def test_a_listener_that_leaves_a_scope_open_still_makes_room_for_the_next_dispatch(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    @bus.listener(Job, mailbox=1)
    async def leave_open(event: Job) -> None:
        trio.CancelScope().__enter__()

    with trio.fail_after(1):
        handles = [await bus.dispatch(Job(n)) for n in range(5)]
        for handle in handles:
            await handle.wait()
            assert len(handle.errors) == 1


async def test_would_block_delivers_to_no_listener(bus: GoEvent) -> None:
    inline: list[int] = []
    free, full = GatedListener(), GatedListener()
    free.gate.set()
    bus.subscribe(lambda event: inline.append(event.n), Job)
    bus.subscribe(free, Job)
    bus.subscribe(full, Job, mailbox=1)
    await hold(bus, Job(0))
    bus.dispatch_nowait(Job(1))
    for _ in range(3):
        with pytest.raises(trio.WouldBlock):
            bus.dispatch_nowait(Job(2))
    await wait_all_tasks_blocked()
    assert inline == free.seen == [0, 1]
    assert bus.snapshot().ledger.accepted == 6
    full.gate.set()
    await bus.wait()
    assert full.seen == [0, 1]


# -- error, drop_new, drop_old


async def test_overflow_error_raises_and_delivers_to_no_listener(bus: GoEvent) -> None:
    inline: list[int] = []
    free, full = GatedListener(), GatedListener()
    free.gate.set()
    bus.subscribe(lambda event: inline.append(event.n), Job)
    bus.subscribe(free, Job)
    bus.subscribe(full, Job, mailbox=1, overflow="error", name="full")
    await hold(bus, Job(0))
    bus.dispatch_nowait(Job(1))
    with pytest.raises(MailboxFull, match=r"'test\.job' not dispatched: full has no room"):
        bus.dispatch_nowait(Job(2))
    with trio.fail_after(HANG_SECONDS), pytest.raises(MailboxFull):
        await bus.dispatch(Job(2))
    await wait_all_tasks_blocked()
    assert inline == free.seen == [0, 1]
    assert bus.snapshot().ledger.accepted == 6
    assert bus.error_count == 0
    full.gate.set()
    await bus.wait()
    await bus.dispatch(Job(3))
    await bus.wait()
    assert full.seen == [0, 1, 3]


async def test_drop_new_reports_the_new_event_on_its_own_handle(bus: GoEvent) -> None:
    full, free = GatedListener(), GatedListener()
    free.gate.set()
    bus.subscribe(full, Job, mailbox=2, overflow="drop_new", name="full")
    bus.subscribe(free, Job)
    handles = [await hold(bus, Job(0)), *(bus.dispatch_nowait(Job(n)) for n in range(1, 5))]
    handles.append(await bus.dispatch(Job(5)))
    full.gate.set()
    await bus.wait()
    assert full.seen == [0, 1, 2]
    assert free.seen == [*range(6)]
    for handle in handles[:3]:
        assert handle.errors == ()
    for handle in handles[3:]:
        (error,) = handle.errors
        assert isinstance(error, EventDropped)
        assert str(error) == "full dropped on 'test.job': its mailbox was full"
    assert bus.snapshot().ledger == Ledger(accepted=12, completed=9, dropped=3)
    assert [one.dropped for one in bus.snapshot().listeners] == [3, 0]


async def test_drop_old_reports_the_oldest_event_on_its_own_handle(bus: GoEvent) -> None:
    full, free = GatedListener(), GatedListener()
    free.gate.set()
    bus.subscribe(full, Job, mailbox=2, overflow="drop_old", name="full")
    bus.subscribe(free, Job)
    handles = [await hold(bus, Job(0)), *(bus.dispatch_nowait(Job(n)) for n in range(1, 5))]
    handles.append(await bus.dispatch(Job(5)))
    full.gate.set()
    await bus.wait()
    assert full.seen == [0, 4, 5]
    assert free.seen == [*range(6)]
    for handle in (handles[0], *handles[4:]):
        assert handle.errors == ()
    for handle in handles[1:4]:
        (error,) = handle.errors
        assert isinstance(error, EventDropped)
        assert error.reason == "a newer event took its place"
    assert bus.snapshot().ledger == Ledger(accepted=12, completed=9, dropped=3)


@pytest.mark.parametrize("overflow", ["drop_new", "drop_old"])
async def test_a_dropped_event_is_done_and_wakes_its_waiters(bus: GoEvent, overflow: str) -> None:
    gate = GatedListener()
    if overflow == "drop_new":
        bus.subscribe(gate, Job, mailbox=1, overflow="drop_new")
    else:
        bus.subscribe(gate, Job, mailbox=1, overflow="drop_old")
    await hold(bus, Job(0))
    old = bus.dispatch_nowait(Job(1))
    with trio.fail_after(HANG_SECONDS):
        async with trio.open_nursery() as nursery:
            if overflow == "drop_old":
                nursery.start_soon(old.wait)
                await wait_all_tasks_blocked()
            new = bus.dispatch_nowait(Job(2))
            lost = new if overflow == "drop_new" else old
            await lost.wait()
    assert lost.done
    with pytest.raises(ExceptionGroup) as caught:
        lost.raise_errors()
    assert caught.group_contains(EventDropped)
    gate.gate.set()


async def test_policies_mix_and_block_waits_before_anything_is_dropped(bus: GoEvent) -> None:
    block, new, old = GatedListener(), GatedListener(), GatedListener()
    bus.subscribe(block, Job, mailbox=1)
    bus.subscribe(new, Job, mailbox=1, overflow="drop_new")
    bus.subscribe(old, Job, mailbox=1, overflow="drop_old")
    bus.on_error(ignore_error)
    await hold(bus, Job(0))
    bus.dispatch_nowait(Job(1))
    with pytest.raises(trio.WouldBlock):
        bus.dispatch_nowait(Job(2))
    assert bus.error_count == 0
    async with waiting(bus, Job(2)):
        assert bus.error_count == 0
        block.gate.set()
    assert bus.error_count == 2
    new.gate.set()
    old.gate.set()
    await bus.wait()
    assert (block.seen, new.seen, old.seen) == ([0, 1, 2], [0, 1], [0, 2])
    assert bus.snapshot().ledger == Ledger(accepted=9, completed=7, dropped=2)


async def test_a_dispatch_that_waited_may_still_find_a_full_mailbox_under_error(
    bus: GoEvent,
) -> None:
    block, refuse = GatedListener(), GatedListener()
    bus.subscribe(block, Job, mailbox=1)
    bus.subscribe(refuse, Job, mailbox=1, overflow="error")
    await hold(bus, Job(0))
    bus.dispatch_nowait(Job(1))

    async def send() -> None:
        with pytest.raises(MailboxFull):
            await bus.dispatch(Job(2))

    with trio.fail_after(HANG_SECONDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            await wait_all_tasks_blocked()
            block.gate.set()
    refuse.gate.set()
    await bus.wait()
    assert block.seen == refuse.seen == [0, 1]
    assert bus.snapshot().ledger == Ledger(accepted=4, completed=4)


# -- several names, one mailbox


async def test_a_listener_of_several_events_has_one_mailbox(bus: GoEvent) -> None:
    gate = GatedListener()
    bus.subscribe(gate, Job, Task, Both, mailbox=2)
    await hold(bus, Job(0))
    bus.dispatch_nowait(Task(1))
    bus.dispatch_nowait(Both(2))
    for event in (Job(3), Task(3), Both(3)):
        with pytest.raises(trio.WouldBlock):
            bus.dispatch_nowait(event)
    async with waiting(bus, Task(3), Job(4), Both(5), Job(6)):
        gate.gate.set()
    await bus.wait()
    assert gate.seen == [*range(7)]
    (state,) = bus.snapshot().listeners
    assert state.event_names == ("test.job", "mailbox.task", "mailbox.both")
    assert (state.depth, state.in_flight, state.completed) == (0, 0, 7)


async def test_unregistering_one_name_drops_only_its_events(bus: GoEvent) -> None:
    gate = GatedListener()
    bus.subscribe(gate, Job, Task, mailbox=10)
    await hold(bus, Job(0))
    handles = [bus.dispatch_nowait((Job, Task)[n % 2](n)) for n in range(1, 9)]
    bus.unregister_listeners_for_event(Job)
    gate.gate.set()
    await bus.wait()
    assert gate.seen == [0, 1, 3, 5, 7]
    assert [len(handle.errors) for handle in handles] == [0, 1] * 4
    assert bus.snapshot().ledger == Ledger(accepted=9, completed=5, dropped=4)


async def test_bus_wait_covers_the_earlier_events_when_the_last_one_in_a_mailbox_is_dropped(
    bus: GoEvent,
) -> None:
    gate = GatedListener()
    bus.subscribe(gate, Job, Task)
    await hold(bus, Job(0))
    bus.dispatch_nowait(Job(1))
    last = bus.dispatch_nowait(Task(2))
    with trio.fail_after(HANG_SECONDS):
        async with trio.open_nursery() as nursery:

            async def wait() -> None:
                await bus.wait()
                assert gate.seen == [0, 1]

            nursery.start_soon(wait)
            await wait_all_tasks_blocked()
            bus.unregister_listeners_for_event(Task)
            await wait_all_tasks_blocked()
            gate.gate.set()
    assert len(last.errors) == 1


# -- order


@pytest.mark.parametrize("neighbour", ["large mailbox", "drop_new"])
async def test_20_000_events_arrive_in_order_beside_a_stuck_neighbour(
    bus: GoEvent, neighbour: str
) -> None:
    stuck, seen, slow, other = GatedListener(), list[int](), list[int](), list[int]()
    handles: list[DispatchHandle] = []
    if neighbour == "large mailbox":
        bus.subscribe(stuck, Job, mailbox=MANY)
    else:
        bus.subscribe(stuck, Job, mailbox=10, overflow="drop_new")

    @bus.listener(Job)
    async def quick(event: Job) -> None:
        seen.append(event.n)

    @bus.listener(Job, mailbox=16)
    async def suspends_now_and_then(event: Job) -> None:
        slow.append(event.n)
        if event.n % 100 == 0:
            await trio.lowlevel.checkpoint()

    @bus.listener(Other)
    async def unrelated(event: Other) -> None:
        other.append(event.n)

    with trio.fail_after(HANG_SECONDS):
        for n in range(MANY):
            handles.append(await bus.dispatch(Job(n)))
            if n % 5000 == 0:  # an unrelated event is not held up
                await (await bus.dispatch(Other(n))).wait()
                assert other[-1] == n
        while len(slow) < MANY:
            await trio.lowlevel.checkpoint()
    assert seen == slow == [*range(MANY)]
    assert not stuck.seen
    stuck.gate.set()
    await bus.wait()
    if neighbour == "large mailbox":
        assert stuck.seen == [*range(MANY)]
    else:
        assert stuck.seen == sorted(stuck.seen)
        assert bus.error_count == MANY - len(stuck.seen)
        assert len(bus.errors) == 10_000
    assert adds_up(bus.snapshot().ledger)


async def test_events_of_several_tasks_keep_the_order_of_each_task(bus: GoEvent) -> None:
    seen: list[int] = []

    @bus.listener(Job, mailbox=3)
    async def note(event: Job) -> None:
        seen.append(event.n)
        await trio.lowlevel.checkpoint()

    async def send(start: int) -> None:
        for n in range(100):
            await bus.dispatch(Job(start + n))

    with trio.fail_after(HANG_SECONDS):
        async with trio.open_nursery() as nursery:
            for start in range(0, 1000, 100):
                nursery.start_soon(send, start)
    await bus.wait()
    for start in range(0, 1000, 100):
        assert [n for n in seen if start <= n < start + 100] == [*range(start, start + 100)]


async def test_unregistering_while_an_event_runs_lets_it_finish(bus: GoEvent) -> None:
    gate = GatedListener()
    registration = bus.subscribe(gate, Job)
    running = await hold(bus, Job(0))
    queued = bus.dispatch_nowait(Job(1))
    registration.unregister()
    assert queued.done
    (error,) = queued.errors
    assert error.reason == "its listener was unregistered"
    assert not running.done
    with trio.fail_after(HANG_SECONDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bus.wait)
            await wait_all_tasks_blocked()
            gate.gate.set()
    assert running.done
    assert gate.seen == [0]
    assert (await bus.close()) == Ledger(accepted=2, completed=1, dropped=1)


async def test_a_full_mailbox_of_one_listener_does_not_hold_up_another_route(
    bus: GoEvent,
) -> None:
    stuck, free = GatedListener(), GatedListener()
    free.gate.set()
    bus.subscribe(stuck, Job, mailbox=1)
    bus.subscribe(free, Task)
    await hold(bus, Job(0))
    bus.dispatch_nowait(Job(1))
    async with waiting(bus, Job(2)):
        for n in range(100):
            await (await bus.dispatch(Task(n))).wait()
        stuck.gate.set()
    assert free.seen == [*range(100)]
