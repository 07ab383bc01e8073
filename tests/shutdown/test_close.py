"""The end of a bus: it drains, cancels and abandons, and leaves no task behind."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator

import pytest
import trio
from tests.support.checks import adds_up
from tests.support.limits import HANG_SECONDS
from tests.support.tasks import living_tasks
from trio.lowlevel import Task
from trio.testing import MockClock, assert_checkpoints, wait_all_tasks_blocked

from goevent import (
    BusClosed,
    Config,
    DispatchHandle,
    Event,
    EventAbandoned,
    EventError,
    GoEvent,
    Ledger,
    Supervision,
)


class Job(Event, name="close.job"):
    n: int = 0


class Other(Event, name="close.other"):
    n: int = 0


class MyError(Exception):
    """An exception of the application."""


class MyGroup(ExceptionGroup[Exception]):
    """An exception group without its own `derive`."""


@pytest.fixture(autouse=True)
def _ignore_logged_abandonments() -> Generator[None]:
    logger = logging.getLogger("goevent")
    disabled, logger.disabled = logger.disabled, True
    yield
    logger.disabled = disabled


async def stuck(event: Job) -> None:
    await trio.sleep_forever()


async def raise_inside(bus: GoEvent, error: BaseException) -> None:
    async with bus:
        await bus.dispatch(Job())
        await wait_all_tasks_blocked()
        raise error


# -- all at once


@pytest.mark.parametrize("timeout", [0.0, 0.5, 5.0])
async def test_two_closes_during_dispatches_end_in_time_with_an_exact_ledger(
    autojump_clock: MockClock, timeout: float
) -> None:
    before = living_tasks()
    handles: list[DispatchHandle] = []
    ledgers: list[Ledger] = []
    refused: list[int] = []
    ran: list[str] = []
    bus = GoEvent(Config(close_timeout=60))
    start = trio.current_time()

    bus.subscribe(stuck, Job)

    @bus.listener(Job)
    async def slow(event: Job) -> None:
        await trio.sleep(0.02)
        ran.append("slow")

    @bus.listener(Job)
    async def chain(event: Job) -> None:
        handles.append(await bus.dispatch(Other(event.n)))
        ran.append("chain")

    @bus.listener(Job)
    def inline(event: Job) -> None:
        ran.append("inline")

    @bus.listener(Other, mailbox=1)
    async def narrow(event: Other) -> None:
        await trio.sleep(0.01)
        ran.append("narrow")

    async def producer(n: int) -> None:
        try:
            while True:
                handles.append(await bus.dispatch(Other(n)))
        except BusClosed:
            refused.append(n)

    async def close() -> None:
        ledgers.append(await bus.close(timeout))
        assert trio.current_time() - start <= timeout + 2

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            async with bus:
                for n in range(200):
                    handles.append(await bus.dispatch(Job(n)))
                for n in range(3):
                    nursery.start_soon(producer, n)
                await wait_all_tasks_blocked()
                start = trio.current_time()
                async with trio.open_nursery() as closers:
                    closers.start_soon(close)
                    closers.start_soon(close)
                assert bus.snapshot().state == "closed"
                with pytest.raises(BusClosed):
                    await bus.dispatch(Job())
                with pytest.raises(BusClosed):
                    bus.dispatch_nowait(Job())
                with pytest.raises(trio.ClosedResourceError):
                    await bus.dispatch(Other())
            assert trio.current_time() - start <= timeout + 2

    assert sorted(refused) == [0, 1, 2]
    assert living_tasks() == before
    assert all(handle.done for handle in handles)
    assert all(not listener.depth for listener in bus.snapshot().listeners)
    ledger = ledgers[0]
    assert ledgers == [ledger, ledger]
    assert adds_up(ledger)
    assert ledger.completed == len(ran)
    assert ledger.abandoned == sum(len(handle.errors) for handle in handles) == bus.error_count
    assert ledger.abandoned >= 200
    assert {type(error) for handle in handles for error in handle.errors} == {EventAbandoned}
    assert bus.snapshot().ledger == await bus.close() == ledger


# -- draining


async def test_leaving_the_block_drains(autojump_clock: MockClock) -> None:
    ran: list[int] = []
    async with GoEvent() as bus:

        @bus.listener(Job)
        async def slow(event: Job) -> None:
            await trio.sleep(1)
            ran.append(event.n)

        for n in range(5):
            await bus.dispatch(Job(n))
    assert ran == [0, 1, 2, 3, 4]
    assert trio.current_time() == 5
    assert await bus.close() == Ledger(accepted=5, completed=5)


async def test_a_draining_listener_may_dispatch_and_others_may_not(
    autojump_clock: MockClock,
) -> None:
    done: list[Other] = []
    states: list[str] = []
    bus = GoEvent()

    @bus.listener(Job)
    async def chain(event: Job) -> None:
        await trio.sleep(1)
        states.append(bus.snapshot().state)
        bus.dispatch_nowait(Other(1))
        async with trio.open_nursery() as nursery:  # a child task counts as the listener
            nursery.start_soon(bus.dispatch, Other(2))
        handle = await bus.dispatch(Other(3))
        await handle.wait()

    @bus.listener(Other)
    async def collect(event: Other) -> None:
        await trio.sleep(1)
        done.append(event)

    async def outsider() -> None:
        with pytest.raises(BusClosed):
            await bus.dispatch(Other(4))
        with pytest.raises(BusClosed):
            bus.dispatch_nowait(Other(5))

    with trio.fail_after(30):
        async with bus:
            handle = await bus.dispatch(Job())
            async with trio.open_nursery() as nursery:
                nursery.start_soon(bus.close)
                await trio.sleep(0.5)
                nursery.start_soon(outsider)
    assert states == ["draining"]
    assert done == [Other(1), Other(2), Other(3)]
    assert handle.errors == bus.errors == ()


async def test_an_inline_listener_called_by_a_draining_listener_may_dispatch(
    autojump_clock: MockClock,
) -> None:
    seen: list[int] = []
    bus = GoEvent()

    @bus.listener(Job)
    async def drains(event: Job) -> None:
        await trio.sleep(1)
        await bus.dispatch(Other(0))

    @bus.listener(Other)
    def deeper(event: Other) -> None:
        seen.append(event.n)
        if event.n < 3:
            bus.dispatch_nowait(Other(event.n + 1))

    async with bus:
        await bus.dispatch(Job())
    assert seen == [0, 1, 2, 3]
    assert bus.errors == ()


async def test_a_dispatch_that_waits_for_room_is_refused_by_close(
    autojump_clock: MockClock,
) -> None:
    outcome: list[str] = []
    bus = GoEvent()
    ran: list[int] = []

    @bus.listener(Job, mailbox=1)
    async def narrow(event: Job) -> None:
        await trio.sleep(1)
        ran.append(event.n)

    @bus.listener(Job, Other)
    async def wide(event: Job | Other) -> None:
        pass

    async def outsider(event: Event) -> None:
        try:
            await bus.dispatch(event)
        except BusClosed:
            outcome.append(type(event).__name__)

    async with trio.open_nursery() as nursery, bus:
        await bus.dispatch(Job(0))
        await wait_all_tasks_blocked()
        await bus.dispatch(Job(1))
        for event in (Job(2), Other(), Job(3)):
            nursery.start_soon(outsider, event)
            await wait_all_tasks_blocked()
    assert sorted(outcome) == ["Job", "Job", "Other"]
    assert ran == [0, 1]
    assert await bus.close() == Ledger(accepted=4, completed=4)


async def test_the_shorter_of_two_timeouts_counts(autojump_clock: MockClock) -> None:
    bus = GoEvent()
    bus.subscribe(stuck, Job)
    async with bus:
        await bus.dispatch(Job())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bus.close, 100)
            await trio.sleep(1)
            await bus.close(1)
            assert trio.current_time() == 2


async def test_closing_twice_gives_the_same_ledger_and_is_a_checkpoint() -> None:
    async with GoEvent() as bus:
        bus.subscribe(lambda event: None, Job)
        await bus.dispatch(Job())
        first = await bus.close()
        with assert_checkpoints():
            second = await bus.close()
        assert first == second == Ledger(accepted=1, completed=1)
    with assert_checkpoints():
        assert await bus.close() == first


async def test_closing_a_bus_that_was_never_opened_closes_nothing() -> None:
    bus = GoEvent()
    with assert_checkpoints():
        assert await bus.close() == Ledger()
    assert bus.snapshot().state == "new"


async def test_closing_after_a_crash_gives_the_ledger_of_the_crash() -> None:
    bus = GoEvent()
    bus.subscribe(stuck, Job)
    with pytest.raises(MyError):
        await raise_inside(bus, MyError())
    assert await bus.close() == Ledger(accepted=1, abandoned=1)
    assert bus.snapshot().state == "closed"


async def test_a_cancelled_close_cuts_the_draining_short(autojump_clock: MockClock) -> None:
    bus = GoEvent()
    bus.subscribe(stuck, Job)
    async with bus:
        handle = await bus.dispatch(Job())
        with trio.move_on_after(1) as scope:
            await bus.close(1000)
        assert scope.cancelled_caught
        assert trio.current_time() <= 3
        assert bus.snapshot().state == "closed"
        assert handle.done
        with pytest.raises(BusClosed):
            await bus.dispatch(Job())
    assert await bus.close() == Ledger(accepted=1, abandoned=1)


async def test_a_cancelled_second_close_leaves_the_first_alone(autojump_clock: MockClock) -> None:
    bus = GoEvent()
    ran: list[int] = []

    @bus.listener(Job)
    async def slow(event: Job) -> None:
        await trio.sleep(5)
        ran.append(event.n)

    async with bus:
        await bus.dispatch(Job(7))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bus.close)
            await wait_all_tasks_blocked()
            with trio.move_on_after(1):
                await bus.close()
    assert ran == [7]


# -- the end of the block


@pytest.mark.parametrize(
    "error",
    [
        MyError("mine"),
        ExceptionGroup("one", [ValueError()]),
        ExceptionGroup("two", [ValueError(), TypeError()]),
        ExceptionGroup("nested", [ExceptionGroup("deeper", [ValueError(), TypeError()])]),
        MyGroup("of its own kind", [ValueError(), TypeError()]),
        BaseExceptionGroup("base", [KeyboardInterrupt()]),
        KeyboardInterrupt(),
        SystemExit(5),
        EventError("close.job", "somebody", ValueError()),
        GeneratorExit(),
        StopAsyncIteration(),
    ],
    ids=lambda error: repr(error)[:40],
)
async def test_an_exception_of_the_body_leaves_as_itself_without_draining(
    autojump_clock: MockClock, error: BaseException
) -> None:
    before = living_tasks()
    bus = GoEvent()
    bus.subscribe(stuck, Job)
    context = error.__context__
    with trio.fail_after(2.1), pytest.raises(type(error)) as caught:
        await raise_inside(bus, error)
    assert caught.value is error
    assert error.__context__ is context
    assert trio.current_time() == 0
    assert living_tasks() == before
    assert await bus.close() == Ledger(accepted=1, abandoned=1)


async def test_a_child_of_the_body_fails_as_in_any_nursery(autojump_clock: MockClock) -> None:
    async def child() -> None:
        raise MyError

    async def body(bus: GoEvent) -> None:
        async with bus, trio.open_nursery() as nursery:
            nursery.start_soon(child)
            await trio.sleep_forever()

    with pytest.raises(ExceptionGroup) as caught:
        await body(GoEvent())
    assert [type(error) for error in caught.value.exceptions] == [MyError]


async def test_returning_and_breaking_out_of_the_block_drain(autojump_clock: MockClock) -> None:
    ran: list[int] = []
    bus = GoEvent()

    @bus.listener(Job)
    async def slow(event: Job) -> None:
        await trio.sleep(1)
        ran.append(event.n)

    async def returns() -> str:
        async with bus:
            await bus.dispatch(Job(1))
            return "value"

    assert await returns() == "value"
    for _ in range(2):
        async with bus:
            await bus.dispatch(Job(2))
            break
    assert ran == [1, 2]


async def test_an_error_in_the_body_while_another_task_closes(autojump_clock: MockClock) -> None:
    bus = GoEvent()
    bus.subscribe(stuck, Job)
    ledgers: list[Ledger] = []

    async def close() -> None:
        ledgers.append(await bus.close(50))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(close, name="before the bus opens: nothing to close")
        await wait_all_tasks_blocked()

        async def body() -> None:
            async with bus:
                await bus.dispatch(Job())
                nursery.start_soon(close)
                await trio.sleep(1)
                raise MyError

        with pytest.raises(MyError):
            await body()
        assert trio.current_time() == 1
    assert ledgers == [Ledger(), Ledger(accepted=1, abandoned=1)]


@pytest.mark.parametrize("how", ["cancel", "deadline", "at once"])
async def test_cancelling_the_scope_around_a_bus_settles_everything_within_two_seconds(
    autojump_clock: MockClock, how: str
) -> None:
    before = living_tasks()
    bus = GoEvent()
    handles: list[DispatchHandle] = []
    bus.subscribe(stuck, Job)

    @bus.listener(Job)
    async def shielded(event: Job) -> None:
        with trio.CancelScope(shield=event.n == 0):
            await trio.sleep(1.5 if event.n == 0 else 100)

    @bus.listener(Job)
    async def nested(event: Job) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)

    with trio.CancelScope() as scope:
        if how == "deadline":
            scope.deadline = trio.current_time() + 10
        async with bus:
            for n in range(10):
                handles.append(await bus.dispatch(Job(n)))
            await wait_all_tasks_blocked()
            if how == "cancel":
                scope.cancel()
            elif how == "at once":
                scope.cancel()
                await trio.lowlevel.checkpoint()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert trio.current_time() <= (12 if how == "deadline" else 2)
    assert all(handle.done for handle in handles)
    assert all(isinstance(error, EventAbandoned) for error in bus.errors)
    ledger = await bus.close()
    assert ledger == Ledger(accepted=30, completed=1, abandoned=29)
    assert living_tasks() == before


async def test_opening_inside_a_cancelled_scope_is_cancelled_at_once(
    autojump_clock: MockClock,
) -> None:
    bus = GoEvent()
    with trio.CancelScope() as scope:
        scope.cancel()
        async with bus:
            raise AssertionError("never reached")
    assert scope.cancelled_caught
    assert trio.current_time() == 0
    async with bus:  # it opens again
        handle = await bus.dispatch(Job())
    assert handle.done


async def test_a_listener_that_ignores_its_cancellation_is_abandoned_and_then_waited_for(
    autojump_clock: MockClock,
) -> None:
    returned: list[bool] = []
    bus = GoEvent()

    @bus.listener(Job)
    async def stubborn(event: Job) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(60)
        returned.append(True)

    async with bus:
        handle = await bus.dispatch(Job())
        queued = await bus.dispatch(Job())
        await wait_all_tasks_blocked()
        ledger = await bus.close(1)
        assert trio.current_time() == 3  # one second to drain, and two until it gives up
        assert ledger == Ledger(accepted=2, abandoned=2)
        assert handle.done
        assert queued.done
        assert [type(error) for error in handle.errors] == [EventAbandoned]
        assert "while the listener ran" in str(handle.errors[0])
        assert "before the listener ran" in str(queued.errors[0])
        assert returned == []
    assert returned == [True]  # its task ends inside the block all the same
    assert trio.current_time() == 60
    assert handle.pending == 0
    assert await bus.close() == bus.snapshot().ledger == ledger
    async with bus:
        assert bus.snapshot().ledger == Ledger()


async def test_a_listener_may_clean_up_while_it_is_cancelled(autojump_clock: MockClock) -> None:
    cleaned: list[str] = []
    bus = GoEvent(Config(close_timeout=0))

    @bus.listener(Job)
    async def tidy(event: Job) -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.move_on_after(1, shield=True):
                await trio.sleep(0.5)
                cleaned.append("yes")

    async with bus:
        await bus.dispatch(Job())
        await wait_all_tasks_blocked()
    assert cleaned == ["yes"]
    assert trio.current_time() == 0.5


@pytest.mark.parametrize("end", ["timeout", "error", "cancel"])
async def test_a_listener_may_dispatch_while_it_is_cancelled(
    autojump_clock: MockClock, end: str
) -> None:
    before = living_tasks()
    bus = GoEvent(Config(close_timeout=0))
    handles: list[DispatchHandle] = []
    inline: list[Other] = []
    refused: list[str] = []

    @bus.listener(Job)
    async def says_goodbye(event: Job) -> None:
        try:
            await trio.sleep_forever()
        finally:
            handles.append(bus.dispatch_nowait(Other()))
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
                handles.append(await bus.dispatch(Other()))
                await trio.sleep(0.5)
                handles.append(bus.dispatch_nowait(Other()))
                await handles[0].wait()
            try:
                await bus.dispatch(Other())
            except trio.Cancelled:
                refused.append("cancelled")
                raise

    bus.subscribe(inline.append, Other, name="inline")

    @bus.listener(Other)
    async def hears(event: Other) -> None:
        await trio.sleep(0.1)

    with trio.fail_after(30):
        if end == "timeout":
            async with bus:
                await bus.dispatch(Job())
                await wait_all_tasks_blocked()
        elif end == "error":
            with pytest.raises(MyError):
                await raise_inside(bus, MyError())
        else:
            with trio.CancelScope() as scope:
                async with bus:
                    await bus.dispatch(Job())
                    await wait_all_tasks_blocked()
                    scope.cancel()
                    await trio.sleep_forever()
    assert trio.current_time() <= 2
    assert refused == ["cancelled"]
    assert len(handles) == len(inline) == 3
    assert all(handle.done for handle in handles)
    ledger = await bus.close()
    assert adds_up(ledger)
    assert ledger.accepted == 1 + 3 + 3
    assert living_tasks() == before


async def test_crashing_with_dispatches_that_wait_leaves_a_bus_that_opens_again(
    autojump_clock: MockClock,
) -> None:
    bus = GoEvent()
    refused: list[str] = []

    @bus.listener(Job, mailbox=1)
    async def sometimes(event: Job) -> None:
        if event.n == 0:
            await trio.sleep_forever()

    @bus.listener(Job, Other)
    async def wide(event: Job | Other) -> None:
        pass

    async def outsider(event: Event) -> None:
        try:
            await bus.dispatch(event)
        except BusClosed:
            refused.append(type(event).__name__)

    async def body(nursery: trio.Nursery) -> None:
        async with bus:
            for _ in range(2):
                await bus.dispatch(Job(0))
                await wait_all_tasks_blocked()
            for event in (Job(0), Other(), Job(0)):
                nursery.start_soon(outsider, event)
                await wait_all_tasks_blocked()
            raise MyError

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            with pytest.raises(MyError):
                await body(nursery)
        assert sorted(refused) == ["Job", "Job", "Other"]
        assert adds_up(await bus.close())
        async with bus:
            handle = await bus.dispatch(Job(1))
            await handle.wait()
        assert await bus.close() == Ledger(accepted=2, completed=2)


# -- the supervisor


@pytest.mark.parametrize("slow", [0, 0.01])
async def test_on_error_has_got_every_failure_when_close_returns(
    autojump_clock: MockClock, slow: float
) -> None:
    told: list[EventError] = []
    async with GoEvent(Config(close_timeout=1)) as bus:

        @bus.on_error
        async def tell(error: EventError) -> None:
            await trio.sleep(slow)
            told.append(error)

        @bus.listener(Job)
        async def fails(event: Job) -> None:
            await trio.sleep(0.001)
            raise MyError

        bus.subscribe(stuck, Job)

        for n in range(50):
            await bus.dispatch(Job(n))
        await bus.close()
        assert len(told) == 100
        assert tuple(told) == bus.errors
    assert len(told) == 100


@pytest.mark.parametrize("how", ["cancelled", "error"])
async def test_on_error_gets_the_abandoned_events_however_the_bus_ends(
    autojump_clock: MockClock, how: str
) -> None:
    told: list[EventError] = []
    bus = GoEvent()
    bus.subscribe(stuck, Job)

    @bus.on_error
    async def tell(error: EventError) -> None:
        await trio.sleep(0.1)
        told.append(error)

    with trio.CancelScope() as scope:
        try:
            async with bus:
                for n in range(5):
                    await bus.dispatch(Job(n))
                await wait_all_tasks_blocked()
                if how == "error":
                    raise MyError
                scope.cancel()
                await trio.sleep_forever()
        except MyError:
            pass
    assert len(told) == 5
    assert tuple(told) == bus.errors
    assert trio.current_time() <= 2


async def test_an_on_error_that_never_ends_does_not_hold_close_up(
    autojump_clock: MockClock,
) -> None:
    async with GoEvent() as bus:

        @bus.on_error
        async def never_returns(error: EventError) -> None:
            await trio.sleep_forever()

        @bus.listener(Job)
        def fails(event: Job) -> None:
            raise MyError

        await bus.dispatch(Job())
        await bus.close()
        assert trio.current_time() <= 2


async def test_an_on_error_that_closes_the_bus_does_not_hold_it_up(
    autojump_clock: MockClock,
) -> None:
    async with GoEvent() as bus:
        bus.subscribe(stuck, Job)

        @bus.on_error
        async def close(error: EventError) -> None:
            await bus.close(1)

        @bus.listener(Other)
        def fails(event: Other) -> None:
            raise MyError

        handle = await bus.dispatch(Job())
        await bus.dispatch(Other())
        await handle.wait()
        assert trio.current_time() <= 3
    assert trio.current_time() <= 3


# -- opening


async def test_entering_an_open_bus_is_refused_and_changes_nothing() -> None:
    async with GoEvent() as bus:
        with pytest.raises(RuntimeError, match="open already"):
            await bus.__aenter__()
        handle = await bus.dispatch(Job())
        assert handle.done
        assert bus.snapshot().state == "open"
    assert bus.snapshot().state == "closed"


async def test_of_two_tasks_that_enter_a_bus_at_once_one_is_refused() -> None:
    bus = GoEvent()
    results: list[str] = []

    async def enter() -> None:
        try:
            async with bus:
                await wait_all_tasks_blocked()
                results.append("entered")
        except RuntimeError:
            results.append("refused")

    with trio.fail_after(HANG_SECONDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(enter)
            nursery.start_soon(enter)
    assert sorted(results) == ["entered", "refused"]


async def test_entering_a_bus_that_is_still_closing_is_refused(autojump_clock: MockClock) -> None:
    bus = GoEvent()
    ran: list[int] = []

    @bus.listener(Job)
    async def slow(event: Job) -> None:
        await trio.sleep(1)
        ran.append(event.n)

    async def second() -> None:
        await trio.sleep(0.5)
        assert bus.snapshot().state == "draining"
        with pytest.raises(RuntimeError, match="open already"):
            await bus.__aenter__()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(second)
        async with bus:
            await bus.dispatch(Job(1))
    assert ran == [1]
    async with bus:
        await bus.dispatch(Job(2))
    assert ran == [1, 2]


async def test_leaving_a_bus_that_is_not_open_is_refused() -> None:
    with pytest.raises(RuntimeError, match="not open"):
        await GoEvent().__aexit__(None, None, None)


async def test_a_bus_opens_again_with_a_new_ledger_and_its_listeners() -> None:
    ran: list[int] = []
    bus = GoEvent()

    @bus.listener(Job)
    async def runs(event: Job) -> None:
        await trio.lowlevel.checkpoint()
        ran.append(event.n)

    @bus.listener(Job)
    def fails(event: Job) -> None:
        raise MyError

    for n in range(3):
        async with bus:
            for _ in range(n):
                await bus.dispatch(Job(n))
        assert await bus.close() == Ledger(accepted=2 * n, completed=n, failed=n)
        with pytest.raises(BusClosed):
            bus.dispatch_nowait(Job())
    assert ran == [1, 2, 2]
    assert bus.error_count == len(bus.errors) == 3


@pytest.mark.parametrize("end", ["normally", "by an error", "by cancellation"])
def test_a_bus_opens_again_in_another_run(end: str) -> None:
    ran: list[int] = []
    bus = GoEvent(Config(close_timeout=0))

    @bus.listener(Job)
    async def sometimes_stuck(event: Job) -> None:
        if event.n < 0:
            await trio.sleep_forever()
        ran.append(event.n)

    async def main(n: int) -> None:
        with trio.CancelScope() as scope:
            async with bus:
                handle = await bus.dispatch(Job(n))
                await handle.wait()
                await bus.dispatch(Job(-1))
                await wait_all_tasks_blocked()
                if end == "by an error":
                    raise MyError
                if end == "by cancellation":
                    scope.cancel()
                    await trio.sleep_forever()

    for n in range(3):
        try:
            trio.run(main, n, clock=MockClock(autojump_threshold=0))
        except MyError:
            assert end == "by an error"
    assert ran == [0, 1, 2]
    assert bus.errors


def test_a_handle_of_an_earlier_run_is_settled() -> None:
    bus = GoEvent(Config(close_timeout=0))
    bus.subscribe(stuck, Job)

    async def first() -> DispatchHandle:
        async with bus:
            return await bus.dispatch(Job())

    async def second(handle: DispatchHandle) -> None:
        with trio.fail_after(1):
            await handle.wait()

    handle = trio.run(first, clock=MockClock(autojump_threshold=0))
    assert handle.done
    trio.run(second, handle)


# -- snapshots


async def test_a_snapshot_shows_the_state_of_every_listener(autojump_clock: MockClock) -> None:
    bus = GoEvent(Config(close_timeout=100))
    states = [bus.snapshot().state]

    @bus.listener(Job, name="slow", mailbox=4, overflow="drop_new")
    async def slow(event: Job) -> None:
        await trio.sleep(10)
        if event.n == 1:
            raise MyError("second")

    @bus.listener(Job, name="inline")
    def inline(event: Job) -> None:
        if event.n == 0:
            raise MyError("first")

    async with bus:
        states.append(bus.snapshot().state)
        await bus.dispatch(Job(0))
        await trio.sleep(1)
        await bus.dispatch(Job(1))
        await trio.sleep(2)
        for n in range(2, 6):
            await bus.dispatch(Job(n))

        one, two = sorted(bus.snapshot().listeners, key=lambda listener: listener.name)
        assert (one.name, one.event_names, one.inline) == ("inline", ("close.job",), True)
        assert (one.depth, one.in_flight, one.oldest_age) == (0, 0, 0.0)
        assert (one.completed, one.failed, one.dropped, one.abandoned) == (5, 1, 0, 0)
        assert one.last_error is not None
        assert "MyError: first" in one.last_error
        assert (two.name, two.event_names, two.inline) == ("slow", ("close.job",), False)
        assert (two.depth, two.in_flight, two.oldest_age) == (4, 1, 2.0)
        assert (two.completed, two.failed, two.dropped, two.abandoned) == (0, 0, 1, 0)
        assert two.last_error is not None
        assert "dropped" in two.last_error
        assert bus.snapshot().ledger == Ledger(accepted=12, completed=5, failed=1, dropped=1)
        assert bus.snapshot().error_count == 2

        await trio.sleep(8)  # the second began at ten
        _, two = sorted(bus.snapshot().listeners, key=lambda listener: listener.name)
        assert (two.depth, two.in_flight, two.oldest_age) == (3, 1, 8.0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bus.close)
            await wait_all_tasks_blocked()
            states.append(bus.snapshot().state)
    states.append(bus.snapshot().state)
    assert states == ["new", "open", "draining", "closed"]
    _, two = sorted(bus.snapshot().listeners, key=lambda listener: listener.name)
    assert (two.depth, two.in_flight, two.oldest_age) == (0, 0, 0.0)
    assert (two.completed, two.failed, two.dropped, two.abandoned) == (4, 1, 1, 0)
    assert bus.snapshot().ledger == Ledger(accepted=12, completed=9, failed=2, dropped=1)


# -- a fault at every step


class Saboteur(trio.abc.Instrument):
    """Cancels a scope at the n-th step of the run loop."""

    def __init__(self, step: int, act: Callable[[], object]) -> None:
        self.left = step
        self.act = act

    def before_task_step(self, task: Task) -> None:
        self.left -= 1
        if self.left == 0:
            self.act()


@pytest.mark.parametrize("step", range(1, 60))
async def test_a_cancellation_at_any_step_leaves_an_exact_ledger_and_no_task(
    autojump_clock: MockClock, step: int
) -> None:
    before = living_tasks()
    bus = GoEvent(Config(close_timeout=1))
    handles: list[DispatchHandle] = []
    ran: list[str] = []

    @bus.listener(Job, mailbox=2)
    async def narrow(event: Job) -> None:
        await trio.lowlevel.checkpoint()
        handles.append(await bus.dispatch(Other()))
        ran.append("narrow")

    @bus.listener(Other)
    async def quick(event: Other) -> None:
        ran.append("quick")

    @bus.listener(Job)
    def inline(event: Job) -> None:
        ran.append("inline")

    scope = trio.CancelScope()
    saboteur = Saboteur(step, scope.cancel)
    with trio.fail_after(30):
        trio.lowlevel.add_instrument(saboteur)
        try:
            with scope:
                async with bus:
                    for n in range(8):
                        handles.append(await bus.dispatch(Job(n)))
                    await bus.wait()
        finally:
            trio.lowlevel.remove_instrument(saboteur)
        assert trio.current_time() <= 2
        ledger = await bus.close()
        assert adds_up(ledger)
        assert ledger.completed == len(ran)
        assert all(handle.done for handle in handles)
        assert living_tasks() == before
        async with bus:  # it works again
            handle = await bus.dispatch(Job())
            await handle.wait()
            await bus.wait()
        assert await bus.close() == Ledger(accepted=3, completed=3)
        assert handle.errors == ()


async def test_an_exception_of_the_cancelled_body_leaves_as_itself(
    autojump_clock: MockClock,
) -> None:
    async def body() -> None:
        async with GoEvent():
            try:
                await trio.sleep_forever()
            finally:
                raise MyError

    with trio.move_on_after(1), pytest.raises(MyError):
        await body()


@pytest.mark.parametrize("steps", range(8))
async def test_an_exception_of_the_body_leaves_as_itself_although_a_listener_escalates(
    steps: int,
) -> None:
    bus = GoEvent()
    handled: list[Exception] = []
    bus.on_error(handled.append)

    async def fail(event: Job) -> None:
        raise ValueError(event)

    bus.subscribe(fail, Job, supervision=Supervision("escalate"))

    async def body() -> None:
        async with bus:
            await bus.dispatch(Job())
            for _ in range(steps):
                await trio.lowlevel.cancel_shielded_checkpoint()
            raise MyError

    with pytest.raises(MyError):
        await body()


async def test_listeners_that_dispatch_to_themselves_for_ever_do_not_hold_up_a_close() -> None:
    bus = GoEvent()  # in real time: a mock clock stands still while any task can run

    @bus.listener(Job)
    async def again(event: Job) -> None:
        await bus.dispatch(event)

    with trio.fail_after(HANG_SECONDS):
        async with bus:
            await bus.dispatch(Job())
            ledger = await bus.close(timeout=0.05)
    assert adds_up(ledger)
