"""`DispatchHandle.wait` and `GoEvent.wait`."""

from __future__ import annotations

import pytest
import trio
from tests.support.limits import HANG_SECONDS
from trio.testing import MockClock, Sequencer, assert_checkpoints, wait_all_tasks_blocked

from goevent import BusClosed, Config, DispatchHandle, Event, EventDropped, GoEvent


class Job(Event, name="wait.job"):
    n: int = 0


class Other(Event, name="wait.other"):
    pass


async def test_waiting_is_a_checkpoint_whether_done_or_not(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    @bus.listener(Job)
    async def sleeps(event: Job) -> None:
        await trio.sleep(1)

    nobody = await bus.dispatch(Other())
    assert nobody.done
    with assert_checkpoints():
        await nobody.wait()
    handle = await bus.dispatch(Job())
    assert not handle.done
    with assert_checkpoints():
        await handle.wait()
    assert handle.done
    with assert_checkpoints():
        await handle.wait()
    with assert_checkpoints():
        await bus.wait()


async def test_waiting_inside_a_cancelled_scope_is_cancelled_even_when_done(bus: GoEvent) -> None:
    handle = await bus.dispatch(Job())
    with trio.CancelScope() as scope:
        scope.cancel()
        await handle.wait()
    assert scope.cancelled_caught
    with trio.CancelScope() as scope:
        scope.cancel()
        await bus.wait()
    assert scope.cancelled_caught


async def test_twenty_waiters_are_woken_once_each(bus: GoEvent) -> None:
    gate = trio.Event()
    woken: list[int] = []

    @bus.listener(Job)
    async def gated(event: Job) -> None:
        await gate.wait()

    handle = await bus.dispatch(Job())

    async def waiter(n: int) -> None:
        await handle.wait()
        assert handle.done
        woken.append(n)

    with trio.fail_after(HANG_SECONDS):
        async with trio.open_nursery() as nursery:
            for n in range(20):
                nursery.start_soon(waiter, n)
            await wait_all_tasks_blocked()
            assert woken == []
            gate.set()
    assert sorted(woken) == list(range(20))


@pytest.mark.parametrize("cancelled", [{0}, {1}, {0, 1}, {19}, set(range(19)), set(range(20))])
async def test_cancelled_waits_change_nothing(bus: GoEvent, cancelled: set[int]) -> None:
    gate = trio.Event()
    woken: set[int] = set()
    ran: list[Job] = []

    @bus.listener(Job)
    async def gated(event: Job) -> None:
        await gate.wait()
        ran.append(event)

    handle = await bus.dispatch(Job())
    scopes = [trio.CancelScope() for _ in range(20)]

    async def waiter(n: int) -> None:
        with scopes[n]:
            await handle.wait()
            woken.add(n)

    async def start(n: int, nursery: trio.Nursery) -> None:
        nursery.start_soon(waiter, n)
        await wait_all_tasks_blocked()

    with trio.fail_after(HANG_SECONDS):
        async with trio.open_nursery() as nursery:
            for n in range(20):
                await start(n, nursery)
            for n in cancelled:
                scopes[n].cancel()
            await wait_all_tasks_blocked()
            assert handle.pending == 1
            assert not woken
            gate.set()
        assert woken == set(range(20)) - cancelled
        await handle.wait()
    assert ran == [Job()]
    assert all(scopes[n].cancelled_caught for n in cancelled)


async def test_a_waiter_that_is_cancelled_in_the_step_that_finishes_is_not_woken_twice(
    bus: GoEvent,
) -> None:
    gate = trio.Event()
    scope = trio.CancelScope()

    @bus.listener(Job)
    async def cancels_the_waiter(event: Job) -> None:
        await gate.wait()
        scope.cancel()

    handle = await bus.dispatch(Job())

    async def waiter() -> None:
        with scope:
            await handle.wait()

    with trio.fail_after(HANG_SECONDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(waiter)
            await wait_all_tasks_blocked()
            gate.set()
    assert handle.done


async def test_a_task_may_wait_after_another_wait_was_cancelled(bus: GoEvent) -> None:
    gate = trio.Event()

    @bus.listener(Job)
    async def gated(event: Job) -> None:
        await gate.wait()

    handle = await bus.dispatch(Job())
    with trio.fail_after(HANG_SECONDS):
        for _ in range(3):
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(handle.wait)
                    nursery.start_soon(handle.wait)
                    await wait_all_tasks_blocked()
                    scope.cancel()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(handle.wait)
            nursery.start_soon(handle.wait)
            await wait_all_tasks_blocked()
            gate.set()


async def test_pending_counts_down_and_wait_ends_with_the_last_listener(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    for seconds in (1, 2, 3):

        async def sleeps(event: Job, seconds: int = seconds) -> None:
            await trio.sleep(seconds)

        bus.subscribe(sleeps, Job)
    bus.subscribe(lambda event: None, Job)
    handle = await bus.dispatch(Job())
    start = trio.current_time()
    seen = [handle.pending]
    for _ in range(3):
        await trio.sleep(1)
        await wait_all_tasks_blocked()
        seen.append(handle.pending)
    assert seen == [3, 2, 1, 0]
    await handle.wait()
    assert trio.current_time() - start == 3


async def test_wait_ends_when_the_event_is_dropped(bus: GoEvent) -> None:
    gate = trio.Event()

    async def gated(event: Job) -> None:
        await gate.wait()

    registration = bus.subscribe(gated, Job)
    first = await bus.dispatch(Job(1))
    second = await bus.dispatch(Job(2))
    await wait_all_tasks_blocked()
    with trio.fail_after(HANG_SECONDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(second.wait)
            await wait_all_tasks_blocked()
            registration.unregister()
    assert [type(error) for error in second.errors] == [EventDropped]
    assert not first.done
    gate.set()
    with trio.fail_after(HANG_SECONDS):
        await first.wait()
    assert first.errors == ()
    assert len(bus.errors) == 1


async def test_waiters_wake_when_the_bus_abandons_the_event(autojump_clock: MockClock) -> None:
    woken: list[int] = []

    async def waiter(handle: DispatchHandle, n: int) -> None:
        await handle.wait()
        woken.append(n)

    async with trio.open_nursery() as nursery:
        with trio.fail_after(10):
            async with GoEvent(Config(close_timeout=1)) as bus:

                @bus.listener(Job)
                async def stuck(event: Job) -> None:
                    await trio.sleep_forever()

                for n in range(3):
                    handle = await bus.dispatch(Job(n))
                    nursery.start_soon(waiter, handle, n)
                await wait_all_tasks_blocked()
            assert len(bus.errors) == 3
    assert sorted(woken) == [0, 1, 2]


async def test_a_handle_may_be_waited_for_after_its_bus_has_closed() -> None:
    async with GoEvent() as bus:

        @bus.listener(Job)
        async def runs(event: Job) -> None:
            pass

        handle = await bus.dispatch(Job())
    with assert_checkpoints():
        await handle.wait()
    assert handle.done
    with pytest.raises(BusClosed):
        await bus.dispatch(Job())


async def test_a_handle_knows_its_event_and_its_id(bus: GoEvent) -> None:
    one, two = await bus.dispatch(Job(1)), await bus.dispatch(Job(1))
    assert one.event == Job(1)
    assert one.event_name == "wait.job"
    assert len(one.id) == 16
    assert int(one.id, 16) >= 0
    assert one.id == one.id != two.id


# -- bus.wait()


async def test_bus_wait_covers_events_accepted_before_it_and_none_after(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    ran: list[int] = []
    order = Sequencer()

    @bus.listener(Job)
    async def slow(event: Job) -> None:
        await trio.sleep(1)
        ran.append(event.n)

    for n in range(5):
        await bus.dispatch(Job(n))

    async def waiter() -> None:
        async with order(0):
            pass
        await bus.wait()
        assert ran == [0, 1, 2, 3, 4]

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(waiter)
            async with order(1):
                await wait_all_tasks_blocked()
            for n in range(5, 10):
                await bus.dispatch(Job(n))
        await bus.wait()
    assert ran == list(range(10))


async def test_bus_wait_covers_every_listener(bus: GoEvent, autojump_clock: MockClock) -> None:
    done: list[int] = []
    for n in range(10):

        async def sleeps(event: Job, n: int = n) -> None:
            await trio.sleep(n)
            done.append(n)

        bus.subscribe(sleeps, Job)
    await bus.dispatch(Job())
    with trio.fail_after(20):
        await bus.wait()
    assert done == list(range(10))


async def test_bus_wait_covers_a_listener_that_was_unregistered_while_it_ran(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    done: list[Job] = []

    async def slow(event: Job) -> None:
        await trio.sleep(1)
        done.append(event)

    registration = bus.subscribe(slow, Job)
    await bus.dispatch(Job())
    await wait_all_tasks_blocked()
    registration.unregister()
    with trio.fail_after(5):
        await bus.wait()
    assert done == [Job()]


async def test_bus_wait_covers_earlier_events_when_a_later_one_is_unregistered(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    done: list[Job | Other] = []

    async def slow(event: Job | Other) -> None:
        await trio.sleep(1)
        done.append(event)

    bus.subscribe(slow, Job, Other)
    for n in range(3):
        await bus.dispatch(Job(n))
    last = await bus.dispatch(Other())
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:

            async def waiter() -> None:
                await bus.wait()
                assert done == [Job(0), Job(1), Job(2)]

            nursery.start_soon(waiter)
            await wait_all_tasks_blocked()
            bus.unregister_listeners_for_event(Other)
    assert [type(error) for error in last.errors] == [EventDropped]


async def test_a_cancelled_bus_wait_changes_nothing(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    ran: list[int] = []

    @bus.listener(Job)
    async def slow(event: Job) -> None:
        await trio.sleep(1)
        ran.append(event.n)

    for n in range(3):
        await bus.dispatch(Job(n))
    with trio.move_on_after(1.5) as scope:
        await bus.wait()
    assert scope.cancelled_caught
    assert ran == [0]
    with trio.fail_after(5):
        await bus.wait()
    assert ran == [0, 1, 2]


async def test_waiting_for_a_bus_that_is_not_open_is_done_at_once() -> None:
    bus = GoEvent()
    with assert_checkpoints():
        await bus.wait()
    async with bus:
        pass
    with assert_checkpoints():
        await bus.wait()
