"""Tracing: the tree of what an event has caused on one bus."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest
import trio
from tests.contract.test_arrivals import Bringing
from tests.contract.test_driver_contract import Scripted
from tests.dispatch.test_causes import Last, ignore, make, takes_the_hot_path
from tests.support.checks import ignore_error
from tests.support.events import Job, Ping, Pong
from trio.testing import MockClock, wait_all_tasks_blocked

from goevent import (
    DispatchHandle,
    Envelope,
    EventTrace,
    GoEvent,
    MemoryDriver,
    MemoryHub,
    Veto,
)


def names(trace: EventTrace) -> list[tuple[int, str]]:
    return [(depth, event.event_name.rpartition(".")[2]) for depth, event in trace.walk()]


def outcomes(trace: EventTrace) -> list[tuple[str, str]]:
    return [(each.name, each.outcome) for each in trace.listeners]


def chain(bus: GoEvent) -> None:
    """Have a ping cause two pongs, and each pong a last event."""

    async def two_pongs(_: Ping) -> None:
        await trio.sleep(1)
        await bus.dispatch(Pong(1))
        await trio.sleep(1)
        await bus.dispatch(Pong(2))

    def last(event: Pong) -> None:
        bus.dispatch_nowait(Last(event.n))

    async def fail(event: Last) -> None:
        await trio.sleep(event.n)
        if event.n == 2:
            raise ValueError("broken")

    bus.on_error(ignore_error)
    bus.subscribe(two_pongs, Ping, name="two_pongs")
    bus.subscribe(last, Pong, name="last")
    bus.subscribe(fail, Last, name="fail")


async def test_a_trace_is_the_tree_of_what_an_event_has_caused(autojump_clock: MockClock) -> None:
    bus = make()
    chain(bus)
    async with bus:
        with bus.tracing():
            first = await bus.dispatch(Ping(1))
            while not bus.trace(first).done:
                await trio.sleep(1)
            other = await bus.dispatch(Last(0))
            await other.wait()
        trace = bus.trace(first)
    assert names(trace) == [(0, "ping"), (1, "pong"), (2, "last"), (1, "pong"), (2, "last")]
    assert outcomes(trace) == [("two_pongs", "completed")]
    assert (trace.id, trace.correlation_id, trace.causation_id) == (first.id, first.id, "")
    one, two = trace.children
    assert (one.causation_id, two.children[0].causation_id) == (first.id, two.id)
    assert [outcomes(each.children[0]) for each in (one, two)] == [
        [("fail", "completed")],
        [("fail", "failed")],
    ]
    assert trace.failed
    assert not one.failed
    assert [(event.after, event.duration) for _, event in trace.walk()] == [
        (0.0, 2.0),
        (1.0, 0.0),
        (1.0, 1.0),
        (2.0, 0.0),
        (2.0, 2.0),
    ]
    head, *lines = str(trace).splitlines()
    assert head.startswith(f"trace of test.ping {first.id}, ")
    assert lines == [
        "test.ping at +0.0 ms, 2000.0 ms",
        "  - two_pongs completed",
        "  test.pong at +1000.0 ms, 0.0 ms",
        "    - last completed",
        "    causes.last at +1000.0 ms, 1000.0 ms",
        "      - fail completed",
        "  test.pong at +2000.0 ms, 0.0 ms",
        "    - last completed",
        "    causes.last at +2000.0 ms, 2000.0 ms",
        "      - fail failed: ValueError: broken",
    ]


async def test_a_trace_shows_the_listeners_that_have_not_finished(
    autojump_clock: MockClock,
) -> None:
    bus = make()

    async def slow(_: Ping) -> None:
        await trio.sleep(10)

    bus.subscribe(slow, Ping, name="slow")
    bus.subscribe(ignore, Ping, name="quick")
    async with bus:
        with bus.tracing():
            first, second = await bus.dispatch_many([Ping(1), Ping(2)])
            await wait_all_tasks_blocked()
        running, waiting = bus.trace(first), bus.trace(second)
        assert outcomes(running) == [("quick", "completed"), ("slow", "running")]
        assert outcomes(waiting) == [("quick", "completed"), ("slow", "waiting")]
        assert (running.duration, running.done) == (None, False)
        assert "not done" in str(running)
        await bus.wait()
        assert outcomes(bus.trace(first)) == [("quick", "completed"), ("slow", "completed")]
        assert bus.trace(second).duration == 20.0


async def test_special_routes_are_traced(autojump_clock: MockClock) -> None:
    bus = make()

    async def awaited(_: Ping) -> None:
        await trio.sleep(1)
        await bus.dispatch(Pong(1))

    bus.subscribe(awaited, Ping, async_=False, name="awaited")
    bus.subscribe(ignore, Ping, when=lambda event: event.n == 2, name="filtered")
    async with bus:
        with bus.tracing():
            first = await bus.dispatch(Ping(1))
            second = await bus.dispatch(Ping(2))
    assert names(bus.trace(first)) == [(0, "ping"), (1, "pong")]
    assert outcomes(bus.trace(first)) == [("awaited", "completed")]
    assert outcomes(bus.trace(second)) == [("awaited", "completed"), ("filtered", "completed")]
    assert bus.trace(first).duration == 1.0


async def test_a_veto_is_in_the_trace() -> None:
    class NoPings:
        def around_dispatch(self, handle: DispatchHandle) -> Iterator[None]:
            raise Veto("no pings")
            yield

    bus = make(middleware=(NoPings(),))
    bus.subscribe(ignore, Ping)
    async with bus:
        with bus.tracing():
            handle = await bus.dispatch(Ping(1))
    (listener,) = bus.trace(handle).listeners
    assert (listener.outcome, listener.reason) == ("dropped", "no pings")


async def test_the_way_to_the_broker_and_events_from_it_are_traced(
    autojump_clock: MockClock,
) -> None:
    hub = MemoryHub()
    one, two = (make(driver=MemoryDriver(hub)) for _ in range(2))
    answers: list[DispatchHandle] = []

    async def answer(_: Ping) -> None:
        answers.append(await two.dispatch(Pong(1)))

    two.subscribe(answer, Ping, name="answer")
    one.subscribe(ignore, Pong, name="take")
    async with one, two:
        with one.tracing(), two.tracing():
            first = await one.dispatch(Ping(1))
            await wait_all_tasks_blocked()
            trace = one.trace(first)
            there = two.trace(first.id)
    assert names(trace) == [(0, "ping"), (1, "pong")]
    assert outcomes(trace) == [("driver", "published")]
    pong = trace.children[0]
    assert (pong.arrived, pong.id, outcomes(pong)) == (
        True,
        answers[0].id,
        [("take", "completed")],
    )
    assert names(there) == [(0, "ping"), (1, "pong")]
    assert (there.arrived, outcomes(there)) == (True, [("answer", "completed")])


@pytest.mark.parametrize("inline", [True, False])
async def test_an_event_that_the_driver_brings_at_once_is_traced(
    autojump_clock: MockClock, inline: bool
) -> None:
    brings = Bringing(
        Envelope(event_name=Ping.event_name, event=Ping(1), origin="another", handle_id="ab"),
        nowait=False,
    )
    bus = make(driver=Scripted(brings))

    async def mailed(_: Ping) -> None:
        await bus.dispatch(Pong(1))

    if inline:
        bus.subscribe(lambda _: ignore(bus.dispatch_nowait(Pong(1))), Ping)
    else:
        bus.subscribe(mailed, Ping)
    with bus.tracing():
        async with bus:
            await brings.done.wait()
            await bus.wait()
    assert names(bus.trace("ab")) == [(0, "ping"), (1, "pong")]


async def test_a_request_is_in_the_trace(autojump_clock: MockClock) -> None:
    bus = make()

    @bus.responder(Pong)
    async def answer(_: Pong) -> int:
        await bus.dispatch(Last())
        return 7

    async def ask(_: Ping) -> None:
        await bus.request(Pong(1), int, timeout=5)

    bus.subscribe(ask, Ping)
    async with bus:
        with bus.tracing():
            first = await bus.dispatch(Ping(1))
            await first.wait()
    assert names(bus.trace(first)) == [(0, "ping"), (1, "pong"), (2, "last")]


# -- the notes


async def test_only_the_newest_events_are_kept() -> None:
    bus = make()
    async with bus:
        with bus.tracing(max_events=10):
            handles = [bus.dispatch_nowait(Ping(n)) for n in range(30)]
        assert bus.trace(handles[-10]).id == handles[-10].id
        with pytest.raises(ValueError, match="not among the newest"):
            bus.trace(handles[-11])


async def test_an_endless_chain_is_cut_where_it_is_too_deep() -> None:
    bus = make()

    async def again(event: Ping) -> None:
        if event.n < 300:
            await bus.dispatch(Ping(event.n + 1))

    bus.subscribe(again, Ping)
    async with bus:
        with bus.tracing():
            first = await bus.dispatch(Ping(0))
            while len(bus.trace(first).children) == 0 or not bus.trace(first).done:
                await trio.lowlevel.checkpoint()
            await bus.wait()
            await trio.testing.wait_all_tasks_blocked()
        trace = bus.trace(first)
    depths = [depth for depth, _ in trace.walk()]
    assert max(depths) == 100
    assert [event.omitted for _, event in trace.walk() if event.omitted] == [200]
    assert "and 200 more event(s), too deep to be shown" in str(trace)
    assert repr(trace) == "<EventTrace of 'test.ping', 101 event(s)>"


async def test_a_circle_of_hostile_ids_ends(autojump_clock: MockClock) -> None:
    def brought(handle_id: str, causation_id: str) -> Envelope:
        headers = {"causation_id": causation_id}
        return Envelope(
            event_name=Ping.event_name,
            event=Ping(1),
            origin="another",
            handle_id=handle_id,
            headers=headers,
        )

    async def script(inbox: Any) -> None:
        await wait_all_tasks_blocked()
        for envelope in (brought("one", "two"), brought("two", "one"), brought("own", "own")):
            await inbox.deliver(envelope)
        await trio.sleep_forever()

    bus = make(driver=Scripted(script))
    bus.subscribe(ignore, Ping)
    with bus.tracing():
        async with bus:
            await wait_all_tasks_blocked()
            await trio.sleep(1)
    assert names(bus.trace("one")) == [(0, "ping"), (1, "ping")]
    assert names(bus.trace("own")) == [(0, "ping")]


async def test_a_note_keeps_no_handle_of_an_event_that_is_done() -> None:
    bus = make()
    event = Job(1)
    bus.subscribe(ignore, Job)
    async with bus:
        with bus.tracing():
            bus.dispatch_nowait(event)
            gc.collect()
            assert not [each for each in gc.get_referrers(event) if type(each) is DispatchHandle]


# -- the block


async def test_an_event_outside_of_the_block_is_not_traced() -> None:
    bus = make()
    async with bus:
        before = await bus.dispatch(Ping(1))
        with pytest.raises(ValueError, match=r"inside `with bus\.tracing\(\):`"):
            bus.trace(before)
        with bus.tracing():
            assert not takes_the_hot_path(bus)
            with bus.tracing():
                inner = await bus.dispatch(Ping(2))
            outer = await bus.dispatch(Ping(3))
        assert takes_the_hot_path(bus)
        after = await bus.dispatch(Ping(4))
        assert bus.trace(inner).event_name == bus.trace(outer).event_name
        for each in (before, after):
            with pytest.raises(ValueError, match="was not dispatched inside"):
                bus.trace(each)
        with bus.tracing():
            pass
        with pytest.raises(ValueError, match="was not dispatched inside"):
            bus.trace(inner)


async def test_a_bus_may_open_and_close_inside_the_block() -> None:
    bus = make()
    with bus.tracing():
        for _ in range(2):
            async with bus:
                handle = await bus.dispatch(Ping(1))
            assert bus.trace(handle).done
    async with bus:
        assert takes_the_hot_path(bus)


async def test_wrong_use_of_the_block_is_refused() -> None:
    bus = make()
    with pytest.raises(ValueError, match="at least 1"):
        bus.tracing(max_events=0)

    def listener(_: Ping) -> None:
        with bus.tracing():
            pass

    bus.on_error(ignore_error)
    bus.subscribe(listener, Ping)
    async with bus:
        handle = await bus.dispatch(Ping(1))
        assert "an inline listener cannot begin to trace" in handle.errors[0].reason
        assert takes_the_hot_path(bus)
