"""Several buses of one process over a MemoryHub: each event once at each bus, in order."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, cast

import pytest
import trio
from tests.support.checks import ignore_error
from tests.support.events import REGISTRY, Ping, Pong
from tests.support.limits import HANG_SECONDS
from trio.testing import MockClock, wait_all_tasks_blocked

from goevent import (
    Config,
    DriverError,
    Event,
    EventError,
    EventRegistry,
    GoEvent,
    Inbox,
    Ledger,
    MemoryDriver,
    MemoryHub,
    UnknownDriverError,
)


def make(hub: MemoryHub) -> GoEvent:
    return GoEvent(Config(registry=REGISTRY, driver=MemoryDriver(hub)))


@asynccontextmanager
async def joined(*buses: GoEvent) -> AsyncGenerator[None]:
    with trio.fail_after(HANG_SECONDS):
        async with AsyncExitStack() as stack:
            for bus in buses:
                await stack.enter_async_context(bus)
            yield


def note(bus: GoEvent, *events: str | type, **options: Any) -> list[int]:
    seen: list[int] = []

    def append(event: Any) -> None:
        seen.append(event.n)

    bus.subscribe(append, *events, **options)
    return seen


async def settle() -> None:
    """Wait until all tasks are blocked."""
    await wait_all_tasks_blocked()


@pytest.mark.parametrize("count", [2, 3, 10])
@pytest.mark.parametrize("inline", [True, False])
async def test_each_event_arrives_once_at_each_bus(
    autojump_clock: MockClock, count: int, inline: bool
) -> None:
    hub = MemoryHub()
    buses = [make(hub) for _ in range(count)]
    seen = [note(bus, Ping, async_=not inline) for bus in buses]
    async with joined(*buses):
        for n, bus in enumerate(buses):
            await bus.dispatch(Ping(n))
            bus.dispatch_nowait(Ping(100 + n))
            await settle()
    expected = [m for n in range(count) for m in (n, 100 + n)]
    assert seen == [expected] * count


async def test_own_listeners_run_at_once_and_only_once(autojump_clock: MockClock) -> None:
    hub = MemoryHub()
    one, two = make(hub), make(hub)
    here, there = note(one, Ping), note(two, Ping)
    async with joined(one, two):
        handle = one.dispatch_nowait(Ping(1))
        assert (here, there) == ([1], [])
        await handle.wait()
        await settle()
        assert (here, there) == ([1], [1])


async def test_the_handle_waits_until_the_event_is_published(autojump_clock: MockClock) -> None:
    hub = MemoryHub(inbox=1)
    one, two = make(hub), make(hub)
    gate = trio.Event()

    @two.listener(Ping, mailbox=1)
    async def stuck(event: Ping) -> None:
        await gate.wait()

    async with joined(one, two):
        handles = [await one.dispatch(Ping(n)) for n in range(10)]
        await settle()
        assert [handle.done for handle in handles] == [True] * 4 + [False] * 6
        gate.set()
        await handles[-1].wait()


async def test_events_arrive_in_the_order_of_dispatch(autojump_clock: MockClock) -> None:
    hub = MemoryHub(inbox=7)
    one, two, three = make(hub), make(hub), make(hub)
    at_two, at_three = note(two, Ping, Pong, async_=True), note(three, Ping, Pong)
    async with joined(one, two, three):
        for n in range(0, 2000, 2):
            await one.dispatch(Ping(n))
            await one.dispatch(Pong(n + 1))
        await one.wait()
        await settle()
    assert at_two == at_three == [*range(2000)]


async def test_an_event_that_an_inline_listener_dispatches_arrives_after_its_cause(
    autojump_clock: MockClock,
) -> None:
    hub = MemoryHub()
    one, two = make(hub), make(hub)
    there = note(two, Ping, Pong)

    @one.listener(Ping)
    def cause(event: Ping) -> None:
        one.dispatch_nowait(Pong(event.n + 1))

    async with joined(one, two):
        for n in range(0, 10, 2):
            await one.dispatch(Ping(n))
        await settle()
    assert there == [*range(10)]


async def test_an_event_without_own_listeners_reaches_the_other_buses(
    autojump_clock: MockClock,
) -> None:
    hub = MemoryHub()
    one, two = make(hub), make(hub)
    there = note(two, "hub.ad_hoc", Ping)
    async with joined(one, two):
        await one.dispatch(Event("test.ping", {"n": 4}))
        await settle()
        assert there == [4]


async def test_buses_answer_each_other(autojump_clock: MockClock) -> None:
    hub = MemoryHub()
    one, two = make(hub), make(hub)
    answers = note(one, Pong)

    @two.listener(Ping)
    async def answer(event: Ping) -> None:
        await two.dispatch(Pong(event.n))

    async with joined(one, two):
        for n in range(100):
            await one.dispatch(Ping(n))
        await settle()
    assert answers == [*range(100)]


async def test_a_slow_bus_makes_the_sender_wait(autojump_clock: MockClock) -> None:
    hub = MemoryHub(inbox=1)
    one, two = make(hub), make(hub)
    gate = trio.Event()
    seen: list[int] = []

    @two.listener(Ping, mailbox=1)
    async def slow(event: Ping) -> None:
        await gate.wait()
        seen.append(event.n)

    sent: list[int] = []

    async def send() -> None:
        for n in range(3000):
            await one.dispatch(Ping(n))
            sent.append(n)

    async with joined(one, two), trio.open_nursery() as nursery:
        nursery.start_soon(send)
        await settle()
        # one runs, one in the mailbox, one with the receiver, one in the inbox, one with the
        # publisher, and 1024 wait to be sent
        assert len(sent) == 1029
        gate.set()
    assert seen[:1029] == [*range(1029)]


async def test_closing_one_bus_keeps_the_others_joined(autojump_clock: MockClock) -> None:
    hub = MemoryHub(inbox=1)
    one, two, three = make(hub), make(hub), make(hub)
    at_two, at_three = note(two, Ping), note(three, Ping)
    async with joined(one, two, three):
        await one.dispatch(Ping(1))
        await settle()
        await two.close()
        for n in range(2, 10):
            await one.dispatch(Ping(n))
        await settle()
        assert at_two == [1]
        assert at_three == [*range(1, 10)]
        assert (await one.close()).failed == 0


async def test_a_bus_that_closes_frees_the_senders_that_wait_for_its_inbox(
    autojump_clock: MockClock,
) -> None:
    hub = MemoryHub(inbox=1)
    one, two, three = make(hub), make(hub), make(hub)
    at_three = note(three, Ping)
    two.on_error(ignore_error)

    @two.listener(Ping, mailbox=1)
    async def stuck(event: Ping) -> None:
        await trio.sleep_forever()

    async with joined(one, two, three):
        handles = [await one.dispatch(Ping(n)) for n in range(20)]
        await settle()
        assert not handles[-1].done
        ledger = await two.close(timeout=1)
        assert ledger.abandoned == ledger.accepted
        await handles[-1].wait()
        await settle()
        assert at_three == [*range(20)]


async def test_a_bus_may_leave_and_come_back(autojump_clock: MockClock) -> None:
    hub = MemoryHub()
    one, two = make(hub), make(hub)
    there = note(two, Ping)
    async with joined(one):
        for n in range(5):
            await one.dispatch(Ping(n))
            async with two:
                await one.dispatch(Ping(100 + n))
                await settle()
    assert there == [100, 101, 102, 103, 104]


async def test_unregistering_does_not_undo_an_event_that_is_being_published(
    autojump_clock: MockClock,
) -> None:
    hub = MemoryHub()
    one, two = make(hub), make(hub)
    there = note(two, Ping)
    note(one, Ping)
    async with joined(one, two):
        handle = one.dispatch_nowait(Ping(1))
        one.unregister_listeners_for_event(Ping)
        await one.wait()
        await settle()
        assert handle.errors == ()
        await one.dispatch(Ping(2))
        await settle()
    assert there == [1, 2]


async def test_registering_on_a_joined_bus_keeps_it_joined(autojump_clock: MockClock) -> None:
    hub = MemoryHub()
    one, two = make(hub), make(hub)
    async with joined(one, two):
        here, there = note(one, Ping), note(two, Ping)
        await two.ready()
        for n in range(3):
            await one.dispatch(Ping(n))
            await settle()
            note(two, Ping)
            note(one, Pong)
        assert here == there == [0, 1, 2]


# -- failures


@pytest.mark.parametrize("inline", [True, False])
async def test_a_failing_remote_listener_is_an_error_of_its_own_bus(
    autojump_clock: MockClock, inline: bool
) -> None:
    hub = MemoryHub()
    one, two = make(hub), make(hub)
    reported: list[EventError] = []
    two.on_error(reported.append)

    def fail(event: Ping) -> None:
        if event.n % 2:
            raise ValueError(event.n)

    two.subscribe(fail, Ping, async_=not inline, name="fail")
    there = note(two, Ping)
    async with joined(one, two):
        handles = [await one.dispatch(Ping(n)) for n in range(10)]
        await one.wait()
        await settle()
        assert not one.errors
        assert all(handle.errors == () for handle in handles)
        assert [error.reason for error in two.errors] == [
            f"ValueError: {n}" for n in (1, 3, 5, 7, 9)
        ]
        assert {error.listener for error in two.errors} == {"fail"}
        assert there == [*range(10)]
        ledger = await two.close()
    assert ledger == Ledger(accepted=20, completed=15, failed=5)
    assert len(reported) == 5


async def test_a_full_remote_mailbox_is_an_error_of_the_driver_there(
    autojump_clock: MockClock,
) -> None:
    hub = MemoryHub()
    one, two = make(hub), make(hub)
    two.on_error(ignore_error)
    gate = trio.Event()

    @two.listener(Ping, mailbox=1, overflow="error")
    async def stuck(event: Ping) -> None:
        await gate.wait()

    async with joined(one, two):
        for n in range(5):
            await one.dispatch(Ping(n))
            await settle()
        assert [error.listener for error in two.errors] == ["driver"] * 3
        gate.set()
        assert not one.errors


async def test_an_event_of_an_unknown_type_is_one_error_at_the_receiver(
    autojump_clock: MockClock,
) -> None:
    hub = MemoryHub()
    one = make(hub)
    two = GoEvent(Config(registry=EventRegistry(), driver=MemoryDriver(hub)))
    two.on_error(ignore_error)
    there, others = note(two, "test.ping"), note(two, "hub.other")
    async with joined(one, two):
        await one.dispatch(Ping())
        await settle()
        (error,) = two.errors
        assert error.listener == "driver"
        await one.dispatch(
            Pong()
        )  # no listener there wants it, so the event is not delivered there
        await settle()
        assert len(two.errors) == 1
    assert there == others == []


async def test_the_ledger_of_each_bus_adds_up(autojump_clock: MockClock) -> None:
    hub = MemoryHub()
    buses = [make(hub) for _ in range(3)]
    for bus in buses:
        note(bus, Ping)
        note(bus, Ping, async_=True)
    ledgers: list[Ledger] = []
    async with joined(*buses):
        for bus in buses:
            for n in range(10):
                await bus.dispatch(Ping(n))
        await settle()
        ledgers.extend([bus.snapshot().ledger for bus in buses])
    for ledger in ledgers:
        assert ledger.completed == ledger.accepted >= 60


# -- drivers


async def test_a_driver_shared_by_two_buses_is_refused(autojump_clock: MockClock) -> None:
    driver = MemoryDriver(MemoryHub())
    one = GoEvent(Config(registry=REGISTRY, driver=driver))
    two = GoEvent(Config(registry=REGISTRY, driver=driver))
    here = note(one, Ping)
    async with joined(one):
        with pytest.raises(RuntimeError, match="one bus at a time"):
            async with two:
                pytest.fail("it opened")
        assert two.snapshot().state in ("new", "closed")
        await one.dispatch(Ping(1))
    assert here == [1]
    async with joined(two):  # one bus after another may use it
        await two.dispatch(Ping(2))


@pytest.mark.parametrize("driver", ["memory", "memory://", MemoryDriver()])
async def test_a_memory_driver_without_a_hub_joins_no_bus(driver: str | MemoryDriver) -> None:
    one, two = (GoEvent(Config(registry=REGISTRY, driver=driver)) for _ in range(2))
    here, there = note(one, Ping), note(two, Ping)
    async with joined(one, two):
        await one.dispatch(Ping(1))
        await settle()
    assert (here, there) == ([1], [])


@pytest.mark.parametrize("url", ["memory://somewhere", "memory:///", "memory://?a=b"])
def test_a_memory_url_has_nothing_but_its_scheme(url: str) -> None:
    with pytest.raises(ValueError, match="just memory://"):
        GoEvent(url)


async def test_a_memory_driver_without_a_hub_cannot_run() -> None:
    with pytest.raises(RuntimeError, match="without a hub"):
        await MemoryDriver().run(cast("Inbox", None))


@pytest.mark.parametrize("driver", ["kafka9", "carrier-pigeon://roof"])
def test_an_unknown_driver_is_an_error_that_lists_the_known_ones(driver: str) -> None:
    with pytest.raises(UnknownDriverError, match="memory") as caught:
        GoEvent(driver)
    assert isinstance(caught.value, DriverError)


def test_an_object_that_is_not_a_driver_is_a_type_error() -> None:
    thing: Any = object()
    with pytest.raises(TypeError, match="a driver is a URL"):
        GoEvent(thing)


def test_an_inbox_holds_at_least_one_event() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        MemoryHub(inbox=0)
