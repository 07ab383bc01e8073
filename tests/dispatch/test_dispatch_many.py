"""`dispatch_many`: one call for many events, each of which takes the same way as by itself."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import trio
from tests.support.checks import ignore_error
from trio.lowlevel import currently_ki_protected
from trio.testing import MockClock, wait_all_tasks_blocked

from goevent import (
    AnyEvent,
    BatchHandle,
    BatchInterrupted,
    BusClosed,
    Config,
    DeadlockError,
    DispatchHandle,
    Event,
    EventError,
    EventRegistry,
    GoEvent,
    MailboxFull,
    UnknownEventError,
    Veto,
)
from goevent._batch_handle import HandleList

REGISTRY = EventRegistry()


class Step(Event, name="batch.step", registry=REGISTRY):
    n: int = 0


class Other(Event, name="batch.other", registry=REGISTRY):
    n: int = 0


def steps(count: int) -> list[Step]:
    return [Step(n) for n in range(count)]


def new_bus(**options: Any) -> GoEvent:
    return GoEvent(Config(registry=REGISTRY, **options))


async def dispatch_all(bus: GoEvent, events: list[AnyEvent], *, nowait: bool) -> BatchHandle:
    return bus.dispatch_many_nowait(events) if nowait else await bus.dispatch_many(events)


# -- each event as by itself


@pytest.mark.parametrize("nowait", [False, True])
async def test_listeners_get_each_event_in_order(nowait: bool) -> None:
    bus, seen, mailed = new_bus(), list[Any](), list[Any]()
    bus.subscribe(lambda event: seen.append(("first", event.event_name, event.n)), Step, Other)
    bus.subscribe(lambda event: seen.append(("second", event.event_name, event.n)), Step)

    @bus.listener("batch.*")
    async def take(event: Any) -> None:
        mailed.append((event.event_name, event.n))

    events: list[AnyEvent] = [Step(0), Other(1), Event("batch.step", {"n": 2}), Step(3)]
    async with bus:
        batch = await dispatch_all(bus, events, nowait=nowait)
        # The inline listeners have run, event by event.
        assert seen == [
            ("first", "batch.step", 0),
            ("second", "batch.step", 0),
            ("first", "batch.other", 1),
            ("first", "batch.step", 2),
            ("second", "batch.step", 2),
            ("first", "batch.step", 3),
            ("second", "batch.step", 3),
        ]
        await batch.wait()
        assert mailed == [
            ("batch.step", 0),
            ("batch.other", 1),
            ("batch.step", 2),
            ("batch.step", 3),
        ]
        assert batch.events == (Step(0), Other(1), Step(2), Step(3))


@pytest.mark.parametrize("nowait", [False, True])
async def test_a_failing_listener_stops_no_other_event(nowait: bool) -> None:
    bus, seen = new_bus(), list[int]()
    bus.on_error(ignore_error)

    @bus.listener(Step)
    def fail(event: Step) -> None:
        if event.n % 2:
            raise ValueError(event.n)

    bus.subscribe(lambda event: seen.append(event.n), Step)
    async with bus:
        batch = await dispatch_all(bus, [*steps(5)], nowait=nowait)
        assert seen == [0, 1, 2, 3, 4]
        assert [handle.event for handle in batch.failed] == [Step(1), Step(3)]
        assert [str(error.error) for error in batch.errors] == ["1", "3"]
        assert [len(handle.errors) for handle in batch] == [0, 1, 0, 1, 0]
        with pytest.raises(ExceptionGroup, match="2 of 5 events failed") as raised:
            batch.raise_errors()
        assert all(isinstance(error, EventError) for error in raised.value.exceptions)


async def test_a_batch_waits_for_all_of_its_events(autojump_clock: MockClock) -> None:
    bus, done = new_bus(), list[int]()

    @bus.listener(Step, concurrency=4)
    async def work(event: Step) -> None:
        await trio.sleep(10 - event.n)
        done.append(event.n)

    async with bus:
        batch = await bus.dispatch_many(steps(4))
        assert (batch.pending, batch.done) == (4, False)
        assert repr(batch) == "<BatchHandle of 4 event(s), 4 pending, 0 failed>"
        start = trio.current_time()
        await batch.wait()
        # The first event takes longest.
        assert done == [3, 2, 1, 0]
        assert trio.current_time() - start == 10
        assert (batch.pending, batch.done, batch.errors) == (0, True, ())
        batch.raise_errors()


async def test_a_wait_parks_once_if_the_last_event_ends_last() -> None:
    bus, parks = new_bus(), list[int]()

    @bus.listener(Step)
    async def work(event: Step) -> None:
        await trio.lowlevel.checkpoint()

    class CountParks(trio.abc.Instrument):
        def after_task_step(self, task: trio.lowlevel.Task) -> None:
            if task is waiting:
                parks.append(1)

    waiting = trio.lowlevel.current_task()
    async with bus:
        batch = await bus.dispatch_many(steps(50))
        instrument = CountParks()
        trio.lowlevel.add_instrument(instrument)
        await batch.wait()
        trio.lowlevel.remove_instrument(instrument)
        assert len(parks) == 1


async def test_a_wait_is_always_a_checkpoint() -> None:
    bus = new_bus()
    async with bus:
        for batch in (await bus.dispatch_many([]), await bus.dispatch_many(steps(3))):
            with trio.CancelScope() as scope:
                scope.cancel()
                await batch.wait()
            assert scope.cancelled_caught


async def test_a_batch_is_a_sequence_of_handles() -> None:
    bus = new_bus()
    async with bus:
        batch = await bus.dispatch_many(Step(n) for n in range(5))
        assert len(batch) == 5
        assert all(isinstance(handle, DispatchHandle) for handle in batch)
        assert batch[-1].event == Step(4)
        assert [handle.event.n for handle in batch[1:3]] == [1, 2]
        assert len({handle.id for handle in batch}) == 5
        assert batch.receipts == ("",) * 5


def test_a_long_batch_finds_each_event_without_a_look_at_all_parts() -> None:
    looks = 0

    class CountingPart(HandleList):
        def __len__(self) -> int:
            nonlocal looks
            looks += 1
            return super().__len__()

    handles = [DispatchHandle() for _ in range(600)]
    batch = BatchHandle([CountingPart(handles[first : first + 2]) for first in range(0, 600, 2)])
    assert [*batch] == handles
    assert [*reversed(batch)] == handles[::-1]
    assert batch[1:500:7] == (*handles[1:500:7],)
    assert (batch[-1], batch[-600]) == (handles[-1], handles[0])
    for missing in (600, -601):
        with pytest.raises(IndexError):
            batch[missing]
    # One look at each part, and one for each event that was asked for.
    assert looks < 300 + 3 * 600


@pytest.mark.parametrize("nowait", [False, True])
async def test_a_batch_without_events_is_done_at_once(nowait: bool) -> None:
    bus = new_bus()
    async with bus:
        batch = await dispatch_all(bus, [], nowait=nowait)
        assert (len(batch), batch.done, batch.errors, batch.failed) == (0, True, (), ())
        await batch.wait()


async def test_middleware_wraps_each_event() -> None:
    around: list[str] = []

    class Wrap:
        def around_dispatch(self, handle: DispatchHandle) -> Iterator[None]:
            if handle.event.n == 1:
                raise Veto("not this one")
            around.append(f"before {handle.event.n}")
            yield
            around.append(f"after {handle.event.n}")

    bus = new_bus(middleware=(Wrap(),))
    bus.subscribe(lambda event: around.append(f"run {event.n}"), Step)
    async with bus:
        batch = await bus.dispatch_many(steps(3))
        assert around == ["before 0", "run 0", "after 0", "before 2", "run 2", "after 2"]
        assert [len(handle.errors) for handle in batch] == [0, 1, 0]


async def test_middleware_that_waits_wraps_each_event(autojump_clock: MockClock) -> None:
    around: list[int] = []

    class Wrap:
        async def around_dispatch(self, handle: DispatchHandle) -> AsyncIterator[None]:
            await trio.sleep(1)
            around.append(handle.event.n)
            yield

    bus = new_bus(middleware=(Wrap(),))
    async with bus:
        await bus.dispatch_many(steps(3))
        assert around == [0, 1, 2]
        with pytest.raises(TypeError, match="around_dispatch is async"):
            bus.dispatch_many_nowait(steps(3))
        assert around == [0, 1, 2]


async def test_an_inline_async_listener_ends_before_the_next_event() -> None:
    bus, seen = new_bus(), list[tuple[str, int]]()

    @bus.listener(Step, async_=False)
    async def inline(event: Step) -> None:
        seen.append(("begin", event.n))
        await trio.lowlevel.checkpoint()
        seen.append(("end", event.n))

    async with bus:
        await bus.dispatch_many(steps(2))
        assert seen == [("begin", 0), ("end", 0), ("begin", 1), ("end", 1)]
        # Even if it is not the first event that would have to wait.
        with pytest.raises(TypeError, match="is async and runs inline"):
            bus.dispatch_many_nowait([Other(0), Step(9)])
        assert len(seen) == 4


async def test_filters_and_once_are_kept() -> None:
    bus, wanted, once = new_bus(), list[int](), list[int]()
    bus.subscribe(lambda event: wanted.append(event.n), Step, when=lambda event: event.n > 2)
    bus.subscribe(lambda event: once.append(event.n), Step, once=True)
    async with bus:
        batch = await bus.dispatch_many(steps(5))
        assert (wanted, once) == ([3, 4], [0])
        assert [handle.listeners for handle in batch] == [1, 0, 0, 1, 1]


async def test_keys_keep_their_order(autojump_clock: MockClock) -> None:
    bus, done = new_bus(), list[int]()

    @bus.listener(Step, concurrency=8, ordering_key=lambda event: event.n % 3)
    async def work(event: Step) -> None:
        await trio.sleep(5 - event.n % 5)
        done.append(event.n)

    async with bus:
        await (await bus.dispatch_many(steps(30))).wait()
    for key in range(3):
        assert [n for n in done if n % 3 == key] == [*range(key, 30, 3)]


async def test_a_batch_inside_a_listener_is_nested() -> None:
    bus, seen = new_bus(), list[tuple[str, int]]()

    @bus.listener(Step)
    def outer(event: Step) -> None:
        batch = bus.dispatch_many_nowait([Other(10 * event.n), Other(10 * event.n + 1)])
        assert batch.done
        seen.append(("step", event.n))

    bus.subscribe(lambda event: seen.append(("other", event.n)), Other)
    async with bus:
        await bus.dispatch_many([Step(1), Step(2)])
    assert seen == [
        *(("other", 10), ("other", 11), ("step", 1)),
        *(("other", 20), ("other", 21), ("step", 2)),
    ]


async def test_a_listener_that_registers_another_one_takes_effect_at_once() -> None:
    bus, late = new_bus(), list[int]()

    @bus.listener(Step)
    def first(event: Step) -> None:
        if event.n == 1:
            bus.subscribe(lambda later: late.append(later.n), Step)

    async with bus:
        await bus.dispatch_many(steps(4))
    assert late == [2, 3]


# -- all events are checked before the first is dispatched


@pytest.mark.parametrize("nowait", [False, True])
@pytest.mark.parametrize("bad", [7, None, Step, "batch.step", object()])
async def test_an_invalid_event_keeps_the_whole_batch_back(bad: Any, nowait: bool) -> None:
    bus, seen = new_bus(), list[Any]()
    bus.subscribe(seen.append, Step)
    async with bus:
        with pytest.raises(TypeError) as raised:
            await dispatch_all(bus, [Step(0), Step(1), bad], nowait=nowait)
        assert raised.value.__notes__ == [
            "this is event 2 of a batch; none of its events was dispatched"
        ]
        assert (seen, bus.error_count) == ([], 0)


async def test_an_unknown_name_keeps_the_whole_batch_back() -> None:
    registry = EventRegistry(strict=True)
    registry.register_as("batch.step", Step)
    bus, seen = GoEvent(Config(registry=registry)), list[Any]()
    bus.subscribe(seen.append, "batch.step")
    async with bus:
        with pytest.raises(UnknownEventError):
            await bus.dispatch_many([Event("batch.step", {"n": 1}), Event("batch.unknown")])
        assert seen == []


@pytest.mark.parametrize("nowait", [False, True])
@pytest.mark.parametrize("given", [Step(1), "batch.step", b"", {"batch.step": 1}, 5, None])
async def test_only_an_iterable_of_events_is_a_batch(given: Any, nowait: bool) -> None:
    bus = new_bus()
    async with bus:
        with pytest.raises(TypeError, match="dispatch_many takes an iterable of events, not"):
            await dispatch_all(bus, given, nowait=nowait)


async def test_an_iterable_is_read_before_the_first_dispatch() -> None:
    bus, order = new_bus(), list[str]()
    bus.subscribe(lambda event: order.append(f"run {event.n}"), Step)

    def produce() -> Iterator[Step]:
        for n in range(2):
            order.append(f"make {n}")
            yield Step(n)

    def break_off() -> Iterator[Step]:
        yield Step(7)
        raise LookupError("no more")

    async with bus:
        await bus.dispatch_many(produce())
        assert order == ["make 0", "make 1", "run 0", "run 1"]
        with pytest.raises(LookupError):
            await bus.dispatch_many(break_off())
        assert len(order) == 4


@pytest.mark.parametrize("nowait", [False, True])
async def test_ctrl_c_interrupts_an_iterable(nowait: bool) -> None:
    protected = list[bool]()

    def events() -> Iterator[AnyEvent]:
        protected.append(currently_ki_protected())
        yield Step(0)

    async with new_bus() as bus:
        if nowait:
            bus.dispatch_many_nowait(events())
        else:
            await bus.dispatch_many(events())
    assert protected == [False]


async def test_a_closed_bus_takes_no_batch() -> None:
    bus = new_bus()
    with pytest.raises(RuntimeError, match="open bus"):
        await bus.dispatch_many(steps(1))
    async with bus:
        pass
    for events in (steps(2), []):
        with pytest.raises(BusClosed):
            await bus.dispatch_many(events)
        with pytest.raises(BusClosed):
            bus.dispatch_many_nowait(events)


async def test_another_thread_dispatches_a_batch_on_the_thread_of_the_bus_only() -> None:
    bus, seen = new_bus(), list[int]()
    bus.subscribe(lambda event: seen.append(event.n), Step)

    def work() -> None:
        with pytest.raises(RuntimeError, match="another thread"):
            bus.dispatch_many_nowait(steps(1))
        assert seen == []
        batch = trio.from_thread.run(bus.dispatch_many, steps(3))
        assert batch.done

    async with bus:
        await trio.to_thread.run_sync(work)
    assert seen == [0, 1, 2]


# -- room


async def test_a_batch_larger_than_a_mailbox_waits_for_room() -> None:
    bus, seen = new_bus(), list[int]()

    @bus.listener(Step, mailbox=3)
    async def slow(event: Step) -> None:
        await trio.lowlevel.checkpoint()
        seen.append(event.n)

    async with bus:
        batch = await bus.dispatch_many(steps(50))
        await batch.wait()
    assert seen == [*range(50)]


async def test_batches_that_wait_for_room_keep_the_order_of_each() -> None:
    bus, seen = new_bus(), list[int]()

    @bus.listener(Step, mailbox=2)
    async def slow(event: Step) -> None:
        await trio.lowlevel.checkpoint()
        seen.append(event.n)

    async def send(first: int) -> None:
        await bus.dispatch_many([Step(first + n) for n in range(20)])

    async with bus, trio.open_nursery() as nursery:
        for first in (0, 100, 200):
            nursery.start_soon(send, first)
    for first in (0, 100, 200):
        assert [n for n in seen if first <= n < first + 100] == [*range(first, first + 20)]


async def test_without_waiting_a_batch_needs_room_for_all_of_its_events() -> None:
    bus, gate = new_bus(), trio.Event()

    @bus.listener(Step, Other, mailbox=10)
    async def slow(event: Any) -> None:
        await gate.wait()

    async with bus:
        bus.dispatch_many_nowait([*steps(4), *(Other(n) for n in range(4))])
        for batch in ([*steps(2), Other(1)], steps(3)):
            with pytest.raises(trio.WouldBlock, match="none of 3 events was dispatched"):
                bus.dispatch_many_nowait(batch)
        bus.dispatch_many_nowait(steps(2))
        gate.set()
    assert bus.snapshot().ledger.accepted == 10


@pytest.mark.parametrize(
    ("overflow", "error"), [("block", trio.WouldBlock), ("error", MailboxFull)]
)
async def test_only_the_first_full_mailboxes_are_named(
    overflow: Any, error: type[Exception]
) -> None:
    bus = new_bus()

    async def narrow(event: Step) -> None: ...

    for number in range(1_000):
        bus.subscribe(narrow, Step, mailbox=1, overflow=overflow, name=f"narrow {number}")
    async with bus:
        with pytest.raises(error, match=r"mailbox of narrow 0, .*, narrow 4, 995 others$"):
            bus.dispatch_many_nowait(steps(2))


@pytest.mark.parametrize("nowait", [False, True])
async def test_a_mailbox_that_refuses_events_refuses_the_whole_batch(nowait: bool) -> None:
    bus, inline = new_bus(), list[int]()
    bus.subscribe(lambda event: inline.append(event.n), Step)

    @bus.listener(Step, mailbox=3, overflow="error", name="narrow")
    async def narrow(event: Step) -> None: ...

    async with bus:
        with pytest.raises(MailboxFull, match="no room in the mailbox of narrow"):
            await dispatch_all(bus, [*steps(4)], nowait=nowait)
        assert inline == []
        await dispatch_all(bus, [*steps(3)], nowait=nowait)
        assert inline == [0, 1, 2]


@pytest.mark.parametrize("nowait", [False, True])
@pytest.mark.parametrize("overflow", ["error", "block"])
async def test_only_the_events_that_a_listener_may_take_need_room(
    overflow: Any, nowait: bool
) -> None:
    bus, seen = new_bus(), list[Any]()

    @bus.listener(Step, mailbox=1, overflow=overflow, when=lambda event: event.n == 3)
    async def filtered(event: Step) -> None:
        seen.append(("filtered", event.n))

    @bus.listener(Step, mailbox=1, overflow=overflow, once=True)
    async def once(event: Step) -> None:
        seen.append(("once", event.n))

    async with bus:
        batch = await dispatch_all(bus, [*steps(10)], nowait=nowait)
        await batch.wait()
        batch.raise_errors()
    assert sorted(seen) == [("filtered", 3), ("once", 0)]


async def test_a_filter_that_wants_too_many_events_interrupts_the_batch() -> None:
    bus = new_bus()

    @bus.listener(Step, mailbox=1, overflow="error", when=lambda event: event.n > 2)
    async def filtered(event: Step) -> None: ...

    async with bus:
        with pytest.raises(BatchInterrupted) as interrupted:
            bus.dispatch_many_nowait(steps(10))
        assert (interrupted.value.dispatched, interrupted.value.remaining) == (4, 6)
        assert isinstance(interrupted.value.__cause__, MailboxFull)
        await interrupted.value.batch.wait()


async def test_dropped_events_are_on_their_handles() -> None:
    bus = new_bus()
    bus.on_error(ignore_error)

    @bus.listener(Step, mailbox=2, overflow="drop_new")
    async def narrow(event: Step) -> None: ...

    async with bus:
        batch = bus.dispatch_many_nowait(steps(5))
        assert [len(handle.errors) for handle in batch] == [0, 0, 1, 1, 1]
        await batch.wait()
        assert {error.outcome for error in batch.errors} == {"dropped"}


async def test_a_listener_that_fills_its_own_mailbox_is_told() -> None:
    bus, raised = new_bus(), list[BaseException]()
    bus.on_error(ignore_error)

    @bus.listener(Step, mailbox=2)
    async def feed(event: Step) -> None:
        if event.n == 0:
            try:
                await bus.dispatch_many([Step(n) for n in range(1, 9)])
            except BatchInterrupted as error:
                raised.append(error)

    async with bus:
        await bus.dispatch(Step(0))
        await bus.wait()
    (error,) = raised
    assert isinstance(error, BatchInterrupted)
    assert isinstance(error.__cause__, DeadlockError)
    assert (error.dispatched, error.remaining, len(error.batch)) == (2, 6, 2)
    assert str(error).startswith("2 of 8 events were dispatched: DeadlockError")


async def test_a_listener_may_not_wait_for_the_batch_that_it_belongs_to() -> None:
    bus, raised = new_bus(), list[BaseException]()

    @bus.listener(Step)
    async def wait(event: Step) -> None:
        if event.n == 0:
            try:
                await batches[0].wait()
            except DeadlockError as error:
                raised.append(error)

    async with bus:
        batches = [await bus.dispatch_many(steps(3))]
        await bus.wait()
    assert len(raised) == 1


async def test_an_event_without_room_interrupts_the_batch_after_those_before_it() -> None:
    bus = new_bus()

    @bus.listener(Step)
    def fill(event: Step) -> None:
        if event.n == 2:
            bus.dispatch_nowait(Other(0))

    @bus.listener(Step, Other, mailbox=5)
    async def slow(event: Any) -> None: ...

    async with bus:
        with pytest.raises(BatchInterrupted) as interrupted:
            bus.dispatch_many_nowait(steps(5))
        error = interrupted.value
        await error.batch.wait()
        assert [handle.event.n for handle in error.batch] == [0, 1, 2, 3]
        assert (error.dispatched, error.remaining) == (4, 1)
        assert isinstance(error.__cause__, trio.WouldBlock)


# -- cancellation


async def test_a_cancelled_batch_is_not_dispatched() -> None:
    bus, seen = new_bus(), list[Any]()
    bus.subscribe(seen.append, Step)
    async with bus:
        with trio.CancelScope() as scope:
            scope.cancel()
            await bus.dispatch_many(steps(3))
        assert scope.cancelled_caught
        assert (seen, bus.errors) == ([], ())


async def test_a_cancellation_during_the_batch_finds_all_events_dispatched() -> None:
    """A batch without waits yields to other tasks, one of which cancels it."""
    bus, seen, batches = new_bus(), list[int](), list[BatchHandle]()
    clock = iter(range(1_000_000))
    bus.subscribe(lambda event: seen.append(event.n), Step)
    started = trio.Event()

    async def cancel(scope: trio.CancelScope) -> None:
        await started.wait()
        scope.cancel()

    # Each look at the clock finds the slice over, so the batch yields after each event.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("goevent._kernel.batch_dispatch.perf_counter", lambda: float(next(clock)))
        async with bus, trio.open_nursery() as nursery:
            bus.subscribe(lambda _: started.set(), Step)
            with trio.CancelScope() as scope:
                nursery.start_soon(cancel, scope)
                batches.append(await bus.dispatch_many(steps(20)))
            assert ([len(each) for each in batches], seen) == ([20], [*range(20)])
            assert scope.cancel_called


async def test_a_cancelled_wait_for_room_tells_the_number_of_events() -> None:
    bus, errors, gate = new_bus(), list[EventError](), trio.Event()
    bus.on_error(errors.append)
    seen: list[int] = []

    @bus.listener(Step, mailbox=4)
    async def slow(event: Step) -> None:
        await gate.wait()
        seen.append(event.n)

    async with bus, trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:

            async def cancel() -> None:
                await wait_all_tasks_blocked()
                scope.cancel()

            nursery.start_soon(cancel)
            await bus.dispatch_many(steps(10))
        assert scope.cancelled_caught
        gate.set()
        await bus.wait()
    (error,) = errors
    cause = error.error
    assert isinstance(cause, BatchInterrupted)
    assert (error.event_name, error.listener) == ("batch.step", "dispatch_many")
    # The events that count as dispatched are exactly those that ran.
    assert seen == [*range(cause.dispatched)]
    assert cause.dispatched + cause.remaining == 10
    assert "events were dispatched: the dispatch ended with Cancelled" in str(cause)


async def test_a_bus_that_closes_tells_the_number_of_events() -> None:
    bus, raised = new_bus(), list[BatchInterrupted]()
    gate = trio.Event()

    @bus.listener(Step, mailbox=2)
    async def slow(event: Step) -> None:
        await gate.wait()

    async def send() -> None:
        try:
            await bus.dispatch_many(steps(9))
        except BatchInterrupted as error:
            raised.append(error)

    async with trio.open_nursery() as nursery, bus:
        nursery.start_soon(send)
        await wait_all_tasks_blocked()
        nursery.start_soon(bus.close)
        await wait_all_tasks_blocked()
        gate.set()
    (error,) = raised
    assert isinstance(error.__cause__, BusClosed)
    assert error.dispatched + error.remaining == 9
    assert bus.snapshot().ledger.completed == error.dispatched
