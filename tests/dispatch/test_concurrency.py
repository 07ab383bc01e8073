"""Concurrency: a listener works on several events at once, and every event is settled."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from tests.support.checks import adds_up, ignore_error
from tests.support.deadlocks import DeadlockCatcher, at_once
from tests.support.storm import CANCELLED, Storm, StormEvent, run_storm
from trio.testing import MockClock, wait_all_tasks_blocked

from goevent import (
    Config,
    DispatchHandle,
    Event,
    EventRegistry,
    GoEvent,
    Ledger,
    ListenerOptions,
    MailboxFull,
    Retry,
    Supervision,
    current_delivery,
)
from goevent._options.options import Overflow

REGISTRY = EventRegistry()


class Job(Event, name="concurrency.job", registry=REGISTRY):
    n: int = 0
    seconds: float = 1


class Other(Event, name="concurrency.other", registry=REGISTRY):
    n: int = 0
    seconds: float = 1


class Both(Event, name="concurrency.both", registry=REGISTRY):
    n: int = 0
    seconds: float = 1


AnyJob = Job | Other | Both


def by_two(event: AnyJob | StormEvent) -> int:
    return event.n % 2


def by_three(event: AnyJob) -> int:
    return event.n % 3


def by_nothing_at_first(event: AnyJob | StormEvent) -> int:
    return 1 // event.n


class OverlapRecorder:
    """A listener that records how many of its runs overlap."""

    def __init__(self) -> None:
        self.running = 0
        self.most = 0
        self.began: list[int] = []
        self.ended: list[int] = []

    async def __call__(self, event: AnyJob) -> None:
        self.running += 1
        self.most = max(self.most, self.running)
        self.began.append(event.n)
        try:
            if event.seconds:
                await trio.sleep(event.seconds)
        finally:
            self.running -= 1
            self.ended.append(event.n)


# -- how many at once


@pytest.mark.parametrize("n", [2, 3, 10])
async def test_as_many_events_run_at_once_as_the_option_says(
    bus: GoEvent, autojump_clock: MockClock, n: int
) -> None:
    recorder = OverlapRecorder()
    bus.subscribe(recorder, Job, concurrency=n)
    began = trio.current_time()
    for i in range(3 * n):
        bus.dispatch_nowait(Job(i))
    await wait_all_tasks_blocked()
    assert recorder.running == n
    (listener,) = bus.snapshot().listeners
    assert (listener.in_flight, listener.depth, listener.state) == (n, 2 * n, "running")
    await bus.wait()
    assert recorder.most == n
    assert trio.current_time() == began + 3
    assert recorder.began == list(range(3 * n))


@pytest.mark.parametrize("concurrency", [None, 1])
async def test_one_at_a_time_is_the_default(
    bus: GoEvent, autojump_clock: MockClock, concurrency: int | None
) -> None:
    recorder = OverlapRecorder()
    bus.subscribe(recorder, Job, concurrency=concurrency)
    for i in range(5):
        bus.dispatch_nowait(Job(i))
    await bus.wait()
    assert recorder.most == 1


async def test_a_slow_event_does_not_hold_up_the_others(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    recorder = OverlapRecorder()
    bus.subscribe(recorder, Job, concurrency=2)
    began = trio.current_time()
    for i in range(11):
        bus.dispatch_nowait(Job(i, seconds=10 if i == 0 else 1))
    await bus.wait()
    assert trio.current_time() == began + 10
    assert recorder.ended[-1] == 0 or recorder.ended[-2:] == [0, 10]
    assert recorder.most == 2


async def test_listeners_that_do_not_suspend_share_one_worker(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    recorder = OverlapRecorder()
    tasks: set[trio.lowlevel.Task] = set()

    @bus.listener(Job, concurrency=50)
    async def listen(event: Job) -> None:
        tasks.add(trio.lowlevel.current_task())
        await recorder(event)

    for i in range(200):
        bus.dispatch_nowait(Job(i, seconds=0))
    await bus.wait()
    assert recorder.began == list(range(200))
    assert len(tasks) == 1


async def test_a_burst_after_a_calm_runs_at_once_again(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    recorder = OverlapRecorder()
    bus.subscribe(recorder, Job, concurrency=5)
    for _ in range(4):
        began = trio.current_time()
        for i in range(10):
            bus.dispatch_nowait(Job(i))
        await bus.wait()
        assert trio.current_time() == began + 2
        await trio.sleep(3)
    assert recorder.most == 5


async def test_two_concurrent_listeners_do_not_share_their_limits(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    recorders = [OverlapRecorder(), OverlapRecorder(), OverlapRecorder()]
    for recorder, concurrency in zip(recorders, (1, 3, 7), strict=True):
        bus.subscribe(recorder, Job, concurrency=concurrency)
    for i in range(20):
        bus.dispatch_nowait(Job(i))
    await bus.wait()
    assert [recorder.most for recorder in recorders] == [1, 3, 7]


async def test_the_concurrency_of_the_bus_is_for_listeners_with_a_mailbox(
    autojump_clock: MockClock,
) -> None:
    config = Config(registry=REGISTRY, listener=ListenerOptions(concurrency=4))
    async with GoEvent(config) as bus:
        recorder, single = OverlapRecorder(), OverlapRecorder()
        inline: list[int] = []
        bus.subscribe(recorder, Job)
        bus.subscribe(single, Job, concurrency=1)
        bus.subscribe(lambda event: inline.append(event.n), Job)
        for i in range(9):
            bus.dispatch_nowait(Job(i))
        await bus.wait()
        assert (recorder.most, single.most, len(inline)) == (4, 1, 9)


async def test_each_event_has_only_its_own_failure(bus: GoEvent, autojump_clock: MockClock) -> None:
    @bus.listener(Job, concurrency=3)
    async def listen(event: Job) -> None:
        await trio.sleep(event.seconds)
        assert current_delivery().handle is handles[event.n]
        if event.n % 2:
            raise ValueError(event.n)

    handles = [bus.dispatch_nowait(Job(n, seconds=7 - n)) for n in range(6)]
    await bus.wait()
    found = [[str(error.error) for error in handle.errors] for handle in handles]
    assert found == [[], ["1"], [], ["3"], [], ["5"]]
    assert bus.snapshot().ledger == Ledger(accepted=6, completed=3, failed=3)


async def test_a_lane_that_leaves_a_scope_open_harms_no_other(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    recorder = OverlapRecorder()

    @bus.listener(Job, concurrency=3)
    async def listen(event: Job) -> None:
        await recorder(event)
        if event.n % 4 == 0:
            trio.CancelScope().__enter__().cancel()

    handles = [bus.dispatch_nowait(Job(n)) for n in range(12)]
    began = trio.current_time()
    await bus.wait()
    assert trio.current_time() == began + 4
    assert recorder.most == 3
    assert [n for n, handle in enumerate(handles) if handle.errors] == [0, 4, 8]


# -- room


async def test_the_capacity_counts_waiting_events_and_not_running_ones(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    recorder = OverlapRecorder()
    bus.subscribe(recorder, Job, concurrency=3, mailbox=2)
    for n in range(2):  # before a worker has taken any
        bus.dispatch_nowait(Job(n))
    with pytest.raises(trio.WouldBlock):
        bus.dispatch_nowait(Job(2))
    await wait_all_tasks_blocked()
    for n in range(2, 4):
        bus.dispatch_nowait(Job(n))
    await wait_all_tasks_blocked()
    assert recorder.running == 3
    bus.dispatch_nowait(Job(4))
    with pytest.raises(trio.WouldBlock):
        bus.dispatch_nowait(Job(5))
    await bus.wait()
    assert recorder.began == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("key", [False, by_three])
async def test_dispatches_that_wait_for_room_are_admitted_in_order(
    bus: GoEvent, autojump_clock: MockClock, key: Any
) -> None:
    recorder = OverlapRecorder()
    bus.subscribe(recorder, Job, concurrency=3, mailbox=2, ordering_key=key)
    async with trio.open_nursery() as nursery:
        for n in range(30):
            nursery.start_soon(bus.dispatch, Job(n))
            await wait_all_tasks_blocked()
    await bus.wait()
    assert sorted(recorder.ended) == list(range(30))
    if not key:
        assert recorder.began == list(range(30))
    for rest in range(3):
        assert [n for n in recorder.began if n % 3 == rest] == list(range(rest, 30, 3))


@pytest.mark.parametrize("key", [False, by_two])
@pytest.mark.parametrize(
    ("overflow", "dropped"), [("error", []), ("drop_new", [5, 6]), ("drop_old", [2, 3])]
)
async def test_overflow_with_concurrency(
    bus: GoEvent, autojump_clock: MockClock, overflow: Overflow, dropped: list[int], key: Any
) -> None:
    recorder = OverlapRecorder()
    bus.subscribe(recorder, Job, concurrency=2, mailbox=3, overflow=overflow, ordering_key=key)
    handles: list[DispatchHandle] = []
    refused: list[int] = []
    for n in range(7):
        try:
            handles.append(bus.dispatch_nowait(Job(n)))
        except MailboxFull:
            refused.append(n)
        await wait_all_tasks_blocked()
        assert bus.snapshot().listeners[0].depth <= 3
    await bus.wait()
    assert refused == ([5, 6] if overflow == "error" else [])
    assert [n for n, handle in enumerate(handles) if handle.errors] == dropped
    assert all(error.outcome == "dropped" for handle in handles for error in handle.errors)
    assert sorted(recorder.ended) == sorted({*range(7)} - {*dropped, *refused})
    ledger = bus.snapshot().ledger
    assert ledger == Ledger(accepted=len(handles), completed=5, dropped=len(dropped))


async def test_dropping_the_oldest_of_a_key_lets_its_next_one_run(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    recorder = OverlapRecorder()
    bus.subscribe(
        recorder,
        Job,
        concurrency=2,
        mailbox=2,
        overflow="drop_old",
        ordering_key=lambda event: event.n % 10,
    )
    handles = {n: bus.dispatch_nowait(Job(n)) for n in (1, 2)}
    await wait_all_tasks_blocked()  # both lanes are busy
    for n in (3, 13, 23):  # of one key: 3 could run, and is dropped
        handles[n] = bus.dispatch_nowait(Job(n))
    await bus.wait()
    assert recorder.began == [1, 2, 13, 23]
    assert [n for n, handle in handles.items() if handle.errors] == [3]


# -- unregistering, waiting, closing


@pytest.mark.parametrize("key", [False, by_three])
async def test_unregistering_lets_lanes_finish_and_drops_the_rest(
    bus: GoEvent, autojump_clock: MockClock, key: Any
) -> None:
    recorder = OverlapRecorder()
    registration = bus.subscribe(recorder, Job, concurrency=3, ordering_key=key)
    handles = [bus.dispatch_nowait(Job(n)) for n in range(8)]
    await wait_all_tasks_blocked()
    registration.unregister()
    assert [handle.done for handle in handles] == [False] * 3 + [True] * 5
    began = trio.current_time()
    await bus.wait()
    assert trio.current_time() == began + 1
    assert recorder.ended == [0, 1, 2] or sorted(recorder.ended) == [0, 1, 2]
    outcomes = [[error.outcome for error in handle.errors] for handle in handles]
    assert outcomes == [[]] * 3 + [["dropped"]] * 5
    assert bus.snapshot().ledger == Ledger(accepted=8, completed=3, dropped=5)


@pytest.mark.parametrize("key", [False, by_three])
async def test_unregistering_one_of_two_events_keeps_the_other_in_order(
    bus: GoEvent, autojump_clock: MockClock, key: Any
) -> None:
    recorder = OverlapRecorder()
    bus.subscribe(recorder, Job, Other, concurrency=2, ordering_key=key)
    handles: list[DispatchHandle] = []
    for n in range(12):
        handles.append(bus.dispatch_nowait(Job(n) if n % 2 else Other(n)))
    await wait_all_tasks_blocked()
    assert recorder.running == 2
    bus.unregister_listeners_for_event(Job)
    with trio.fail_after(50):
        await bus.wait()
    assert sorted(recorder.ended) == [0, 1, 2, 4, 6, 8, 10]
    for rest in range(3):
        ran = [n for n in recorder.began if n % 3 == rest]
        assert ran == sorted(ran)
    for n, handle in enumerate(handles):
        assert [error.outcome for error in handle.errors] == ["dropped"] * (n % 2 and n > 1)
    assert adds_up(bus.snapshot().ledger)


async def test_wait_covers_all_lanes(bus: GoEvent, autojump_clock: MockClock) -> None:
    recorder = OverlapRecorder()
    bus.subscribe(recorder, Job, concurrency=4)
    for n in range(10):
        bus.dispatch_nowait(Job(n, seconds=10 - n))
    await wait_all_tasks_blocked()
    waited: list[float] = []
    began = trio.current_time()

    async def wait() -> None:
        await bus.wait()
        waited.append(trio.current_time() - began)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        for n in range(10, 20):
            bus.dispatch_nowait(Job(n, seconds=100))
    assert len(recorder.ended) >= 10
    assert set(range(10)) <= set(recorder.ended)
    assert waited
    assert waited[0] < 100
    await bus.wait()
    assert len(recorder.ended) == 20


async def test_wait_covers_the_event_of_a_listener_that_takes_only_one(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    recorder = OverlapRecorder()
    bus.subscribe(recorder, Job, once=True)
    bus.dispatch_nowait(Job(1))
    await bus.wait()
    assert recorder.ended == [1]


@pytest.mark.parametrize("key", [False, by_three])
async def test_close_abandons_the_events_that_lanes_do_not_finish(
    bus: GoEvent, autojump_clock: MockClock, key: Any
) -> None:
    recorder = OverlapRecorder()
    bus.on_error(ignore_error)
    bus.subscribe(recorder, Job, concurrency=3, ordering_key=key)
    handles = [bus.dispatch_nowait(Job(n, seconds=2)) for n in range(9)]
    ledger = await bus.close(timeout=3)
    assert ledger == Ledger(accepted=9, completed=3, abandoned=6)
    assert all(handle.done for handle in handles)
    reasons = [error.reason for handle in handles for error in handle.errors]
    assert (
        sorted(reasons)
        == ["the bus ended before the listener ran"] * 3
        + ["the bus ended while the listener ran"] * 3
    )


@pytest.mark.parametrize("key", [False, by_three])
async def test_lanes_work_again_when_the_bus_is_opened_again(
    autojump_clock: MockClock, key: Any
) -> None:
    bus = GoEvent(Config(registry=REGISTRY))
    bus.on_error(ignore_error)
    recorder = OverlapRecorder()
    bus.subscribe(recorder, Job, concurrency=3, ordering_key=key)
    for timeout in (0, 1, 3, 100, 0, 100):
        recorder.most = 0
        async with bus:
            for n in range(7):
                bus.dispatch_nowait(Job(n, seconds=2))
            await wait_all_tasks_blocked()
            assert recorder.running == 3
            began = trio.current_time()
            ledger = await bus.close(timeout)
            assert trio.current_time() - began == min(timeout, 6)
        assert adds_up(ledger)
        assert recorder.most == 3
        assert recorder.running == 0


async def test_a_lane_that_ignores_its_cancellation_for_too_long(
    autojump_clock: MockClock,
) -> None:
    bus = GoEvent(Config(registry=REGISTRY))
    bus.on_error(ignore_error)
    recorder = OverlapRecorder()

    async def listen(event: Job) -> None:
        with trio.CancelScope(shield=event.n % 2 == 0):
            await recorder(event)

    bus.subscribe(listen, Job, concurrency=3)
    async with bus:
        handles = [bus.dispatch_nowait(Job(n, seconds=20)) for n in range(6)]
        await trio.sleep(1)
        ledger = await bus.close(timeout=1)
        assert ledger == Ledger(accepted=6, abandoned=6)
        assert all(handle.done for handle in handles)
    assert bus.snapshot().ledger == ledger
    recorder.most = 0
    async with bus:
        for n in range(6):
            bus.dispatch_nowait(Job(n))
        await bus.wait()
        assert recorder.most == 3
        assert bus.snapshot().ledger == Ledger(accepted=6, completed=6)


# -- deadlocks


async def test_a_lane_that_waits_for_its_own_event(bus: GoEvent, autojump_clock: MockClock) -> None:
    caught = DeadlockCatcher()

    @bus.listener(Job, concurrency=3)
    async def selfish(event: Job) -> None:
        await caught(current_delivery().handle.wait)

    async with at_once():
        bus.dispatch_nowait(Job())
        await bus.wait()
    assert len(caught.errors) == 1


async def test_lanes_that_all_wait_for_each_others_events(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    caught = DeadlockCatcher()

    @bus.listener(Job, concurrency=3)
    async def listen(event: Job) -> None:
        await wait_all_tasks_blocked()
        await caught(handles[(event.n + 1) % 3].wait)

    async with at_once():
        handles = [bus.dispatch_nowait(Job(n)) for n in range(3)]
        await bus.wait()
    assert len(caught.errors) == 1  # that of the last one, which closes the circle


async def test_lanes_that_all_wait_for_queued_events(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    caught = DeadlockCatcher()

    @bus.listener(Job, concurrency=3)
    async def listen(event: Job) -> None:
        if event.n < 3:
            await wait_all_tasks_blocked()
            await caught(handles[event.n + 3].wait)

    async with at_once():
        handles = [bus.dispatch_nowait(Job(n)) for n in range(6)]
        await bus.wait()
    assert len(caught.errors) == 1


async def test_a_lane_that_waits_while_others_are_free_is_no_deadlock(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    caught = DeadlockCatcher()
    seen: list[int] = []

    @bus.listener(Job, concurrency=2)
    async def listen(event: Job) -> None:
        if event.n == 0:
            await caught(handles[3].wait)
        seen.append(event.n)

    async with at_once():
        handles = [bus.dispatch_nowait(Job(n)) for n in range(4)]
        await bus.wait()
    assert not caught.errors
    assert seen == [1, 2, 3, 0]


async def test_a_listener_may_dispatch_to_a_lane_of_its_own_and_wait(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    caught = DeadlockCatcher()
    depths: list[int] = []

    @bus.listener(Job, concurrency=4)
    async def recursive(event: Job) -> None:
        if event.n < 10:
            handle = await bus.dispatch(Job(event.n + 1))
            await caught(handle.wait)
        depths.append(event.n)

    async with at_once():
        bus.dispatch_nowait(Job(0))
        await wait_all_tasks_blocked()
        await bus.wait()
        await bus.wait()
    assert len(caught.errors) == 2  # the fourth has no lane left for the fifth, and the eighth
    assert sorted(depths) == list(range(11))


async def test_lanes_that_all_wait_for_room_in_their_own_mailbox(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    caught = DeadlockCatcher()
    gate = trio.Event()

    @bus.listener(Job, concurrency=2, mailbox=1)
    async def listen(event: Job) -> None:
        if event.n < 2:
            await gate.wait()
            await caught(lambda: bus.dispatch(Job(10)))

    async with at_once():
        for n in range(3):
            bus.dispatch_nowait(Job(n))
            await wait_all_tasks_blocked()
        gate.set()
        await bus.wait()
    assert len(caught.errors) == 1


async def test_a_lane_that_waits_for_room_that_another_lane_makes_is_no_deadlock(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    caught = DeadlockCatcher()
    recorder = OverlapRecorder()

    @bus.listener(Job, concurrency=2, mailbox=1)
    async def listen(event: Job) -> None:
        if event.n == 0:
            await trio.sleep(0.5)
            await caught(lambda: bus.dispatch(Job(10)))
        await recorder(event)

    bus.dispatch_nowait(Job(0))
    await wait_all_tasks_blocked()
    bus.dispatch_nowait(Job(1))
    await wait_all_tasks_blocked()
    bus.dispatch_nowait(Job(2))
    with trio.fail_after(50):
        await bus.wait()
        await bus.wait()
    assert not caught.errors
    assert sorted(recorder.ended) == [0, 1, 2, 10]


async def test_a_keyed_lane_that_waits_for_an_event_behind_itself(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    caught = DeadlockCatcher()
    seen: list[int] = []

    @bus.listener(Job, concurrency=5, ordering_key=lambda event: event.n % 2)
    async def listen(event: Job) -> None:
        if event.n == 0:
            await caught(handles[3].wait)  # of another key
            await caught(handles[4].wait)
        seen.append(event.n)

    async with at_once():
        handles = [bus.dispatch_nowait(Job(n)) for n in range(5)]
        await bus.wait()
    assert len(caught.errors) == 1
    assert seen == [1, 3, 0, 2, 4]


async def test_two_keys_whose_lanes_wait_for_events_behind_each_other(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    caught = DeadlockCatcher()

    @bus.listener(Job, concurrency=5, ordering_key=lambda event: event.n % 2)
    async def listen(event: Job) -> None:
        await wait_all_tasks_blocked()
        if event.n < 2:
            await caught(handles[3 - event.n].wait)

    async with at_once():
        handles = [bus.dispatch_nowait(Job(n)) for n in range(4)]
        await bus.wait()
    assert len(caught.errors) == 1


async def test_a_keyed_lane_that_waits_for_room_behind_itself(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    """There are free lanes, but all events in the mailbox wait for this one."""
    caught = DeadlockCatcher()
    gate = trio.Event()

    @bus.listener(Job, concurrency=5, mailbox=1, ordering_key=lambda event: event.n % 2)
    async def listen(event: Job) -> None:
        if event.n == 0:
            await gate.wait()
            await caught(lambda: bus.dispatch(Job(1)))

    async with at_once():
        for n in (0, 2):
            bus.dispatch_nowait(Job(n))
            await wait_all_tasks_blocked()
        gate.set()
        await bus.wait()
    assert len(caught.errors) == 1


async def test_a_keyed_lane_for_which_another_dispatch_takes_the_last_room(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    """The wait is not a deadlock when it begins; the dispatch admitted before it makes it one."""
    caught = DeadlockCatcher()
    seen: list[int] = []
    gates = [trio.Event(), trio.Event()]

    @bus.listener(Job, concurrency=5, mailbox=1, ordering_key=lambda event: event.n % 2)
    async def listen(event: Job) -> None:
        if event.n < 2:
            await gates[event.n].wait()
        if event.n == 0:
            await caught(lambda: bus.dispatch(Job(4)))
        seen.append(event.n)

    async with at_once(), trio.open_nursery() as nursery:
        for n in (0, 1, 3):  # the third waits for the second
            bus.dispatch_nowait(Job(n))
            await wait_all_tasks_blocked()
        nursery.start_soon(bus.dispatch, Job(2))  # will wait for the first
        await wait_all_tasks_blocked()
        gates[0].set()
        await wait_all_tasks_blocked()
        assert not caught.errors
        gates[1].set()
        await bus.wait()
        await bus.wait()
    assert len(caught.errors) == 1
    assert sorted(seen) == [0, 1, 2, 3]


# -- all at once


class ConcurrencyStorm(Storm):
    """A storm with concurrent listeners of every kind."""

    longest_life = 8.0
    max_depth = 4

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.recorders: list[tuple[int, OverlapRecorder]] = []
        self.actions: list[Callable[[StormEvent], Awaitable[None]]] = [
            self.sleep,
            self.sleep,
            self.send_and_wait,
            self.send_and_wait,
            self.fail,
            self.fail,
            self.leave_a_scope_by_chance,
            self.leave_a_cancelled_scope_by_chance,
            self.unregister,
            self.run_children,
            self.ignore_cancellation,
        ]

    async def sleep(self, event: StormEvent) -> None:
        await trio.sleep(self.random.choice([0, 0.3, 1, 3]))

    async def fail(self, event: StormEvent) -> None:
        raise self.random.choice([ValueError(), KeyError(), ExceptionGroup("", [OSError()])])

    async def leave_a_scope_by_chance(self, event: StormEvent) -> None:
        if self.random.random() < 0.5:
            await self.leave_a_scope(event)

    async def leave_a_cancelled_scope_by_chance(self, event: StormEvent) -> None:
        if self.random.random() < 0.5:
            await self.leave_a_cancelled_scope(event)

    async def ignore_cancellation(self, event: StormEvent) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(0.3)

    async def unregister(self, event: StormEvent) -> None:
        if self.random.random() < 0.5:
            self.random.choice(self.registrations).unregister()
        elif self.random.random() < 0.3:
            self.bus.unregister_listeners_for_event(self.random.choice(self.KINDS))
        self.register()

    def register(self) -> None:
        recorder = OverlapRecorder()

        async def listen(event: StormEvent) -> None:
            recorder.running += 1
            recorder.most = max(recorder.most, recorder.running)
            try:
                for _ in range(self.random.randrange(4)):
                    await self.random.choice(self.actions)(event)
            finally:
                recorder.running -= 1

        once = self.random.random() < 0.1
        concurrency = None if once else self.random.choice([None, 1, 2, 3])
        key: Any = None
        if concurrency != 1 and not once:
            key = self.random.choice([None, False, by_two, by_nothing_at_first])
        supervision = [
            Supervision(),
            Supervision(),
            Supervision("stop"),
            Supervision("restart", max_restarts=1000, backoff=0.1, max_backoff=0.5),
        ]
        self.registrations.append(
            self.bus.subscribe(
                listen,
                *self.random.sample(self.KINDS, self.random.choice([1, 1, 2, 3])),
                mailbox=self.random.choice([1, 1, 2, 5]),
                overflow=self.random.choice(["block", "block", "error", "drop_new", "drop_old"]),
                concurrency=concurrency,
                ordering_key=key,
                timeout=self.random.choice([None, 0.5, 2]),
                retry=self.random.choice([None, None, Retry(attempts=3, backoff=0.4)]),
                supervision=self.random.choice(supervision),
                context=self.random.choice([None, None, True]),
                once=once or None,
            )
        )
        # Without a number, a key makes it a hundred.
        self.recorders.append((concurrency or (100 if key else 1), recorder))

    def check(self) -> None:
        super().check()
        for most, recorder in self.recorders:
            assert recorder.most <= most
            assert recorder.running == 0


@pytest.mark.parametrize("seed", range(16))
@pytest.mark.parametrize("cancelled", CANCELLED)
def test_no_event_is_lost_by_random_actions_and_cancellations(cancelled: str, seed: int) -> None:
    run_storm(ConcurrencyStorm, cancelled, seed, samples=8)
