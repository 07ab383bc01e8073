"""Streams: events that the application takes by itself, with `async for`."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

import outcome
import pytest
import trio
import trio.testing
from tests.support.events import REGISTRY, Other, Ping, Pong
from tests.support.forks import in_child
from trio.testing import wait_all_tasks_blocked

from goevent import (
    BusClosed,
    Config,
    Event,
    EventDropped,
    EventStream,
    GoEvent,
    Ledger,
    MailboxFull,
    MemoryDriver,
    MemoryHub,
)


def make_bus(hub: MemoryHub | None = None) -> GoEvent:
    return GoEvent(Config(registry=REGISTRY, driver=MemoryDriver(hub)))


async def dispatch(bus: GoEvent, *numbers: int) -> None:
    for n in numbers:
        await bus.dispatch(Ping(n))


def note(results: list[outcome.Outcome[Any]], call: Callable[[], Any]) -> None:
    results.append(outcome.capture(call))


async def take(stream: EventStream[Any], count: int) -> list[int]:
    return [(await stream.receive()).n for _ in range(count)]


# -- which events


async def test_all_events_from_the_beginning_of_the_block_come_in_order() -> None:
    async with make_bus() as bus:
        await dispatch(bus, 1)
        async with bus.stream(Ping) as stream:
            await dispatch(bus, 2, 3, 4)
            assert await take(stream, 3) == [2, 3, 4]
            assert stream.waiting == 0
        await dispatch(bus, 5)


@pytest.mark.parametrize(
    ("events", "numbers"),
    [
        ((Ping,), [1, 3]),
        (("test.ping",), [1, 3]),
        ((Ping, Pong), [1, 2, 3]),
        ((["test.ping", "test.pong"],), [1, 2, 3]),
        (("test.*",), [1, 2, 3, 4]),
        (("test.*", Ping), [1, 2, 3, 4]),
    ],
)
async def test_a_stream_takes_classes_names_and_patterns(
    events: tuple[Any, ...], numbers: list[int]
) -> None:
    async with make_bus() as bus, bus.stream(*events) as stream:
        for event in (Ping(1), Pong(2), Ping(3), Other(4)):
            await bus.dispatch(event)
        await bus.close()
        assert [event.n async for event in stream] == numbers


async def test_events_of_other_buses_come_from_the_beginning_of_the_block() -> None:
    hub = MemoryHub()
    async with make_bus(hub) as bus, make_bus(hub) as other:
        async with bus.stream(Ping) as stream:
            for n in range(3):
                await (await other.dispatch(Ping(n))).wait()
            assert await take(stream, 3) == [0, 1, 2]
        await wait_all_tasks_blocked()  # the bus unsubscribes in the background
        handle = await other.dispatch(Ping(3))
        await handle.wait()
        assert handle.receivers == 0


async def test_two_streams_and_a_listener_get_each_event() -> None:
    heard: list[int] = []
    async with make_bus() as bus:
        bus.subscribe(lambda event: heard.append(event.n), Ping)
        async with bus.stream(Ping) as one, bus.stream(Ping) as two:
            await dispatch(bus, 1, 2)
            assert await take(one, 2) == await take(two, 2) == heard == [1, 2]


async def test_each_event_goes_to_the_task_that_has_waited_longest() -> None:
    taken: list[tuple[str, int]] = []
    async with make_bus() as bus, bus.stream(Ping) as stream, trio.open_nursery() as nursery:

        async def consume(name: str) -> None:
            async for event in stream:
                taken.append((name, event.n))

        for name in "abc":
            nursery.start_soon(consume, name)
            await wait_all_tasks_blocked()
        await dispatch(bus, 1, 2, 3)
        await wait_all_tasks_blocked()
        await dispatch(bus, 4)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert sorted(taken, key=lambda each: each[1])[:3] == [("a", 1), ("b", 2), ("c", 3)]
    assert len(taken) == 4


# -- deliveries


async def test_nothing_waits_for_the_consumer_of_a_stream() -> None:
    async with make_bus() as bus, bus.stream(Ping) as stream:
        handle = await bus.dispatch(Ping(1))
        assert handle.done
        await handle.wait()
        await bus.wait()
        assert handle.listeners == 1
        assert stream.waiting == 1


async def test_a_handle_still_waits_for_the_other_listeners() -> None:
    gate = trio.Event()

    async def slow(event: Ping) -> None:
        await gate.wait()

    async with make_bus() as bus, bus.stream(Ping):
        bus.subscribe(slow, Ping)
        handle = await bus.dispatch(Ping(1))
        assert handle.pending == 1
        gate.set()
        await handle.wait()
        assert handle.errors == ()


async def test_the_ledger_and_the_snapshot_add_up() -> None:
    async with make_bus() as bus:
        async with bus.stream(Ping, buffer=2, overflow="drop_new") as stream:
            await dispatch(bus, 1, 2, 3)
            snapshot = bus.snapshot()
            assert snapshot.ledger == Ledger(3, 2, 0, 1, 0)
            (listener,) = snapshot.listeners
            assert (listener.name, listener.depth) == ("stream of test.ping", 2)
            assert (listener.state, listener.in_flight) == ("stream", 0)
            assert listener.oldest_age >= 0
            assert (listener.completed, listener.dropped, stream.missed) == (2, 1, 1)
            assert bus.registered_listeners() == ()
        assert bus.snapshot().listeners == ()
        ledger = await bus.close()
    assert ledger == Ledger(3, 2, 0, 1, 0)


# -- overflow


async def test_a_full_stream_holds_a_dispatch_back_until_an_event_is_taken() -> None:
    async with make_bus() as bus, bus.stream(Ping, buffer=2) as stream:
        await dispatch(bus, 1, 2)
        with pytest.raises(trio.WouldBlock, match=r"stream of test\.ping"):
            bus.dispatch_nowait(Ping(0))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(dispatch, bus, 3, 4)
            await wait_all_tasks_blocked()
            assert stream.waiting == 2
            assert stream.receive_nowait().n == 1
            assert await take(stream, 3) == [2, 3, 4]
        assert stream.missed == 0


async def test_a_stream_with_error_refuses_the_dispatch() -> None:
    async with make_bus() as bus, bus.stream(Ping, buffer=1, overflow="error") as stream:
        await dispatch(bus, 1)
        with pytest.raises(MailboxFull, match=r"stream of test\.ping"):
            await bus.dispatch(Ping(2))
        assert await take(stream, 1) == [1]


@pytest.mark.parametrize(("overflow", "kept"), [("drop_new", [0, 1]), ("drop_old", [3, 4])])
async def test_dropped_events_are_counted_and_reported(overflow: Any, kept: list[int]) -> None:
    async with make_bus() as bus, bus.stream(Ping, buffer=2, overflow=overflow) as stream:
        handles = [await bus.dispatch(Ping(n)) for n in range(5)]
        assert all(handle.done for handle in handles)
        lost = [handle.event.n for handle in handles if handle.errors]
        assert sorted(lost + kept) == [0, 1, 2, 3, 4]
        assert stream.missed == 3
        assert [type(error) for error in bus.errors] == [EventDropped] * 3
        assert await take(stream, 2) == kept


async def test_a_batch_waits_for_room_event_by_event() -> None:
    async with (
        make_bus() as bus,
        bus.stream(Ping, buffer=2) as stream,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(bus.dispatch_many, [Ping(n) for n in range(7)])
        assert await take(stream, 7) == [*range(7)]


async def test_a_listener_that_fills_a_stream_is_no_deadlock() -> None:
    async with make_bus() as bus, bus.stream(Pong, buffer=1) as stream:

        async def answer(event: Ping) -> None:
            await bus.dispatch(Pong(event.n))
            await bus.dispatch(Pong(event.n + 1))

        bus.subscribe(answer, Ping)
        handle = await bus.dispatch(Ping(1))
        await wait_all_tasks_blocked()
        assert await take(stream, 2) == [1, 2]
        await handle.wait()
        assert handle.errors == ()


# -- the end


async def test_the_loop_takes_the_rest_and_ends_when_the_bus_closes() -> None:
    taken: list[int] = []
    async with trio.open_nursery() as nursery, make_bus() as bus:

        async def consume(*, task_status: trio.TaskStatus[None]) -> None:
            async with bus.stream(Ping) as stream:
                task_status.started()
                async for event in stream:
                    await bus.wait() if bus.snapshot().state == "open" else None
                    taken.append(event.n)

        await nursery.start(consume)
        bus.dispatch_nowait(Ping(1))
        bus.dispatch_nowait(Ping(2))
    assert taken == [1, 2]


async def test_a_waiting_consumer_ends_when_the_bus_closes() -> None:
    async with trio.open_nursery() as nursery, make_bus() as bus:

        async def consume(*, task_status: trio.TaskStatus[None]) -> None:
            async with bus.stream(Ping) as stream:
                task_status.started()
                with pytest.raises(trio.EndOfChannel):
                    await stream.receive()
                with pytest.raises(trio.EndOfChannel):
                    stream.receive_nowait()

        await nursery.start(consume)
        await wait_all_tasks_blocked()


async def test_listeners_that_drain_still_reach_a_stream() -> None:
    async with make_bus() as bus, bus.stream(Pong) as stream:

        async def answer(event: Ping) -> None:
            await trio.lowlevel.checkpoint()
            await bus.dispatch(Pong(event.n))

        bus.subscribe(answer, Ping)
        await dispatch(bus, 1, 2)
        await bus.close()
        assert [event.n async for event in stream] == [1, 2]


async def test_the_loop_ends_when_the_names_are_unregistered() -> None:
    async with make_bus() as bus, bus.stream(Ping) as stream:
        await dispatch(bus, 1)
        bus.unregister_listeners_for_event(Ping)
        await dispatch(bus, 2)
        assert [event.n async for event in stream] == [1]
        assert bus.errors == ()


async def test_one_name_of_two_is_unregistered() -> None:
    async with make_bus() as bus, bus.stream(Ping, Pong) as stream:
        await dispatch(bus, 1)
        bus.unregister_listeners_for_event(Ping)
        await dispatch(bus, 2)
        await bus.dispatch(Pong(3))
        assert await take(stream, 2) == [1, 3]
        assert bus.errors == ()


async def test_the_end_of_the_block_frees_the_dispatches_that_wait_for_room() -> None:
    async with make_bus() as bus, trio.open_nursery() as nursery:
        async with bus.stream(Ping, buffer=1) as stream:
            await dispatch(bus, 1)
            nursery.start_soon(dispatch, bus, 2)
            await wait_all_tasks_blocked()
        with pytest.raises(trio.ClosedResourceError):
            await stream.receive()
        with pytest.raises(trio.ClosedResourceError):
            stream.receive_nowait()
    assert bus.errors == ()
    assert repr(stream) == "<EventStream of test.ping, 0 waiting, 0 missed, ended>"


async def test_closing_a_stream_ends_the_wait_of_other_tasks() -> None:
    async with make_bus() as bus, bus.stream(Ping) as stream, trio.open_nursery() as nursery:

        async def consume() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await stream.receive()

        nursery.start_soon(consume)
        await wait_all_tasks_blocked()
        await stream.aclose()
        await stream.aclose()


async def test_a_closed_stream_gets_no_events_and_holds_no_dispatch_back() -> None:
    async with make_bus() as bus, trio.open_nursery() as nursery:
        async with bus.stream(Ping, buffer=1) as stream:
            await dispatch(bus, 1)
            nursery.start_soon(dispatch, bus, 2)
            await wait_all_tasks_blocked()
            stream.close()
            bus.dispatch_nowait(Ping(3))
            bus.dispatch_nowait(Ping(4))
            assert stream.waiting == 0
            with pytest.raises(trio.ClosedResourceError):
                stream.receive_nowait()
            assert bus.snapshot().listeners == ()
        assert bus.errors == ()


async def test_an_error_of_the_body_leaves_as_itself() -> None:
    async with make_bus() as bus:
        with pytest.raises(LookupError):
            async with bus.stream(Ping):
                raise LookupError
        assert bus.snapshot().listeners == ()


async def test_a_stream_of_an_earlier_opening_holds_back_no_event_of_a_later_one() -> None:
    bus = make_bus()
    async with bus:
        block = bus.stream(Ping, buffer=1)
        stream = await block.__aenter__()
        await dispatch(bus, 1)
    async with bus:
        await dispatch(bus, 2, 3)
        assert [event.n async for event in stream] == [1]
        await block.__aexit__(None, None, None)
        assert bus.snapshot().ledger.accepted == 0


# -- cancellation


async def test_a_cancelled_receive_takes_no_event() -> None:
    async with make_bus() as bus, bus.stream(Ping) as stream:
        await dispatch(bus, 1)
        with trio.CancelScope() as scope:
            scope.cancel()
            await stream.receive()
        with trio.move_on_after(0):
            await stream.receive()
        assert await take(stream, 1) == [1]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.receive)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        await dispatch(bus, 2)
        assert await take(stream, 1) == [2]


async def test_an_event_that_a_task_has_got_is_not_lost_to_a_later_cancellation() -> None:
    got: list[int] = []
    async with make_bus() as bus, bus.stream(Ping) as stream, trio.open_nursery() as nursery:

        async def consume() -> None:
            got.append((await stream.receive()).n)

        nursery.start_soon(consume)
        await wait_all_tasks_blocked()
        bus.dispatch_nowait(Ping(1))
        nursery.cancel_scope.cancel()
    assert got == [1]


async def test_a_loop_that_never_waits_yields_to_other_tasks() -> None:
    others = 0

    async with make_bus() as bus, bus.stream(Ping) as stream, trio.open_nursery() as nursery:

        async def run_beside() -> None:
            nonlocal others
            while True:
                await trio.lowlevel.checkpoint()
                others += 1

        nursery.start_soon(run_beside)
        await dispatch(bus, 1)
        async for event in stream:
            bus.dispatch_nowait(event)
            if others >= 3:
                break
        nursery.cancel_scope.cancel()


# -- wrong use


async def test_a_stream_needs_an_open_bus() -> None:
    bus = make_bus()
    with pytest.raises(RuntimeError, match="enter `async with bus` first"):
        async with bus.stream(Ping):
            pytest.fail("it has begun")
    async with bus:
        pass
    with pytest.raises(BusClosed):
        async with bus.stream(Ping):
            pytest.fail("it has begun")
    with pytest.raises(BusClosed):
        await bus.next(Ping)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"buffer": 0}, ValueError, "buffer must be at least 1"),
        ({"buffer": "many"}, TypeError, "buffer must be"),
        ({"overflow": "drop"}, ValueError, "overflow must be one of"),
    ],
)
async def test_wrong_options_are_named(
    options: dict[str, Any], error: type[Exception], text: str
) -> None:
    async with make_bus() as bus:
        with pytest.raises(error, match=text):
            async with bus.stream(Ping, **options):
                pytest.fail("it has begun")


@pytest.mark.parametrize(
    ("events", "error"),
    [((), TypeError), ((7,), TypeError), (("no name!",), ValueError), (("a..b",), ValueError)],
)
def test_wrong_events_are_refused(events: tuple[Any, ...], error: type[Exception]) -> None:
    with pytest.raises(error):
        make_bus().stream(*events)


async def test_another_thread_may_not_take_events() -> None:
    async with make_bus() as bus, bus.stream(Ping) as stream:
        await dispatch(bus, 1)
        results: list[outcome.Outcome[Any]] = []
        for call in (stream.receive_nowait, lambda: trio.run(stream.receive)):
            thread = threading.Thread(target=note, args=(results, call))
            thread.start()
            thread.join()
        for result in results:
            with pytest.raises(RuntimeError, match="another thread"):
                result.unwrap()
        assert stream.waiting == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
async def test_a_fork_may_not_take_events() -> None:
    async with make_bus() as bus, bus.stream(Ping) as stream:
        await dispatch(bus, 1)

        for use in (stream.receive_nowait, stream.close):
            assert in_child(use).startswith("BusForked")
        assert await take(stream, 1) == [1]


# -- next


async def test_next_returns_the_first_event_that_fits() -> None:
    async with make_bus() as bus, trio.open_nursery() as nursery:
        found: list[Event] = []

        async def wait() -> None:
            found.append(await bus.next(Ping, where=lambda event: event.n == 2, timeout=60))

        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        await dispatch(bus, 1, 2, 2, 3)
        await wait_all_tasks_blocked()
        assert found == [Ping(2)]
        assert bus.snapshot().listeners == ()


async def test_next_ends_in_time(autojump_clock: trio.testing.MockClock) -> None:
    async with make_bus() as bus:
        with pytest.raises(trio.TooSlowError):
            await bus.next("test.*", timeout=5)
        with pytest.raises(ValueError, match="timeout must be at least 0"):
            await bus.next(Ping, timeout=-1)


async def test_next_raises_what_its_filter_raises() -> None:
    def broken(event: Ping) -> bool:
        raise LookupError

    async with make_bus() as bus, trio.open_nursery() as nursery:

        async def wait() -> None:
            with pytest.raises(LookupError):
                await bus.next(Ping, where=broken)

        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        handle = await bus.dispatch(Ping(1))
        assert handle.errors == ()


def is_third(event: Ping) -> bool:
    return event.n == 3


@pytest.mark.parametrize("where", [None, is_third])
async def test_next_holds_back_no_dispatch(where: Callable[[Ping], bool] | None) -> None:
    found: list[Ping] = []
    async with make_bus() as bus, trio.open_nursery() as nursery:

        async def wait() -> None:
            found.append(await bus.next(Ping, where=where))

        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        for n in range(500):
            bus.dispatch_nowait(Ping(n))
        await wait_all_tasks_blocked()
        assert found == [Ping(3 if where else 0)]
        assert bus.snapshot().ledger == Ledger(1, 1, 0, 0, 0)


async def test_next_takes_the_event_of_another_bus() -> None:
    hub, asked = MemoryHub(), list[int]()

    def fits(event: Ping) -> bool:
        asked.append(event.n)
        return event.n == 2

    async with make_bus(hub) as bus, make_bus(hub) as other, trio.open_nursery() as nursery:

        async def wait() -> None:
            assert await bus.next("test.*", where=fits) == Ping(2)

        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        for n in range(5):
            await (await other.dispatch(Ping(n))).wait()
        await wait_all_tasks_blocked()
    assert asked == [0, 1, 2]


async def later(event: Ping) -> bool:
    return event.n == 1


@pytest.mark.parametrize(
    ("where", "text"),
    [(later, "where is called during dispatch and cannot be async"), (7, "where must be a fun")],
)
async def test_next_refuses_a_filter_that_cannot_answer(where: Any, text: str) -> None:
    async with make_bus() as bus:
        with pytest.raises(TypeError, match=text):
            await bus.next(Ping, where=where)


async def test_next_refuses_an_answer_that_has_not_run() -> None:
    async with make_bus() as bus, trio.open_nursery() as nursery:

        async def wait() -> None:
            with pytest.raises(TypeError, match="where returned a coroutine"):
                await bus.next(Ping, where=lambda event: later(event))

        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        await dispatch(bus, 1)


async def test_next_ends_when_its_names_are_unregistered() -> None:
    async with make_bus() as bus, trio.open_nursery() as nursery:

        async def wait() -> None:
            with pytest.raises(trio.EndOfChannel, match="the names were unregistered"):
                await bus.next(Ping)

        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        bus.unregister_listeners_for_event(Ping)


async def test_next_ends_with_the_bus() -> None:
    async with trio.open_nursery() as nursery, make_bus() as bus:

        async def wait() -> None:
            with pytest.raises(BusClosed, match="before there was such an event"):
                await bus.next(Ping)

        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
