"""The counts of a snapshot: event names, redeliveries, dead letters, gaps, suspended listeners."""

from __future__ import annotations

import threading
from dataclasses import asdict

import pytest
import trio
from tests.support.limits import HANG_SECONDS
from trio.testing import MockClock, wait_all_tasks_blocked

from goevent import (
    BusForked,
    Capabilities,
    Config,
    DeadLettered,
    Envelope,
    Event,
    EventRegistry,
    EventSnapshot,
    GapDetected,
    GoEvent,
    Inbox,
    MemoryDriver,
    MemoryHub,
    Message,
    Receipt,
    Snapshot,
)
from goevent._kernel.routing import MAX_COUNTED_UNREGISTERED_NAMES

REGISTRY = EventRegistry()


class Paid(Event, name="counted.paid", registry=REGISTRY):
    n: int = 0


class Shipped(Event, name="counted.shipped", registry=REGISTRY):
    n: int = 0


class Scripted:
    """A durable driver whose script calls the inbox."""

    schemes = ()
    capabilities = Capabilities(fan_out=False, durable=True)

    def __init__(self) -> None:
        self.inbox: Inbox | None = None

    @classmethod
    def from_url(cls, url: str) -> Scripted:
        return cls()

    async def run(self, inbox: Inbox, *, task_status: trio.TaskStatus[None]) -> None:
        self.inbox = inbox
        task_status.started()
        await trio.sleep_forever()

    async def subscribe(self, names: object) -> None: ...
    async def unsubscribe(self, names: object) -> None: ...
    async def publish(self, message: Message) -> Receipt | None: ...


def by_name(snapshot: Snapshot) -> dict[str, EventSnapshot]:
    return {each.name: each for each in snapshot.events}


def make(driver: object = "memory") -> GoEvent:
    return GoEvent(Config(driver=driver, registry=REGISTRY))  # type: ignore[arg-type]


async def ignore(event: object) -> None: ...
def ignore_inline(event: object) -> None: ...


async def test_a_snapshot_counts_the_events_of_each_name(autojump_clock: MockClock) -> None:
    bus = make()
    bus.subscribe(ignore, Paid, name="mailed")
    bus.subscribe(ignore_inline, Paid, name="inline")
    bus.subscribe(ignore_inline, "counted.*", name="pattern")
    bus.subscribe(ignore_inline, "never.dispatched", name="bored")
    async with bus:
        for _ in range(3):
            await bus.dispatch(Paid())
        bus.dispatch_nowait(Shipped())
        bus.dispatch_nowait(Event("ad.hoc"))
        await bus.dispatch_many([Paid(), Shipped()])
        events = by_name(bus.snapshot())
    assert events["counted.paid"] == EventSnapshot(
        "counted.paid", 4, ("mailed", "inline", "pattern")
    )
    assert events["counted.shipped"] == EventSnapshot("counted.shipped", 2, ("pattern",))
    assert events["never.dispatched"] == EventSnapshot("never.dispatched", 0, ("bored",))
    assert events["ad.hoc"] == EventSnapshot("ad.hoc", 1, ())
    assert "counted.*" not in events


async def test_events_on_special_routes_are_counted_once(autojump_clock: MockClock) -> None:
    bus = make()

    async def awaited(event: Paid) -> None: ...

    bus.subscribe(awaited, Paid, async_=False)
    bus.subscribe(ignore, Paid, when=lambda event: event.n > 0)
    bus.subscribe(ignore, Shipped, when=lambda _: False)
    async with bus:
        await bus.dispatch(Paid(n=0))
        await bus.dispatch(Paid(n=1))
        bus.dispatch_nowait(Shipped())
        await bus.wait()
        events = by_name(bus.snapshot())
    assert events["counted.paid"].dispatched == 2
    assert events["counted.shipped"].dispatched == 1


async def test_events_that_waited_for_room_are_counted_once(autojump_clock: MockClock) -> None:
    bus = make()
    bus.subscribe(ignore, Paid, mailbox=1)
    async with bus, trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(bus.dispatch, Paid())
    assert by_name(bus.snapshot())["counted.paid"].dispatched == 5


async def test_counts_go_on_when_listeners_change_and_the_bus_is_opened_again(
    autojump_clock: MockClock,
) -> None:
    bus = make()
    async with bus:
        registration = bus.subscribe(ignore_inline, Paid)
        bus.dispatch_nowait(Paid())
        registration.unregister()
        bus.dispatch_nowait(Paid())
    async with bus:
        bus.dispatch_nowait(Paid())
        snapshot = bus.snapshot()
    assert snapshot.ledger.accepted == 0
    assert by_name(snapshot)["counted.paid"] == EventSnapshot("counted.paid", 3, ())


async def test_events_that_arrive_are_counted_apart(autojump_clock: MockClock) -> None:
    hub = MemoryHub()
    one, two = make(MemoryDriver(hub)), make(MemoryDriver(hub))
    one.subscribe(ignore_inline, Paid)
    two.subscribe(ignore_inline, Paid)
    async with one, two:
        one.dispatch_nowait(Paid())
        one.dispatch_nowait(Paid())
        two.dispatch_nowait(Paid())
        await wait_all_tasks_blocked()
        mine, theirs = by_name(one.snapshot()), by_name(two.snapshot())
    assert (mine["counted.paid"].dispatched, mine["counted.paid"].arrived) == (2, 1)
    assert (theirs["counted.paid"].dispatched, theirs["counted.paid"].arrived) == (1, 2)


async def test_a_batch_for_the_broker_only_is_counted(autojump_clock: MockClock) -> None:
    hub = MemoryHub()
    one, two = make(MemoryDriver(hub)), make(MemoryDriver(hub))
    two.subscribe(ignore, Paid)
    async with one, two:
        for _ in range(2):
            await (await one.dispatch_many([Paid()] * 10)).wait()
        assert by_name(one.snapshot())["counted.paid"].dispatched == 20


async def test_names_from_outside_are_counted_up_to_a_limit(autojump_clock: MockClock) -> None:
    bus = make()
    bus.subscribe(ignore_inline, "heard")
    async with bus:
        for number in range(MAX_COUNTED_UNREGISTERED_NAMES + 50):
            bus.dispatch_nowait(Event(f"outside.{number}"))
        bus.dispatch_nowait(Event("heard"))
        bus.dispatch_nowait(Paid())
        events = by_name(bus.snapshot())
    assert len(events) == MAX_COUNTED_UNREGISTERED_NAMES + 2
    assert events["heard"].dispatched == events["counted.paid"].dispatched == 1


async def test_a_listener_for_a_new_name_each_time_leaves_a_bounded_list(
    autojump_clock: MockClock,
) -> None:
    bus = make()
    async with bus:
        for number in range(MAX_COUNTED_UNREGISTERED_NAMES + 50):
            registration = bus.subscribe(ignore_inline, f"reply.{number}")
            bus.dispatch_nowait(Event(f"reply.{number}"))
            registration.unregister()
        assert len(bus.snapshot().events) == MAX_COUNTED_UNREGISTERED_NAMES


async def test_an_event_snapshot_works_with_the_functions_of_dataclasses() -> None:
    expected = {"name": "a", "dispatched": 1, "listeners": ("l",), "arrived": 0}
    assert asdict(EventSnapshot("a", 1, ("l",))) == expected


# -- the driver


def envelope(event: Event) -> Envelope:
    name = event.event_name
    return Envelope(event_name=name, event_type=name, event=event)


@pytest.mark.parametrize("mailed", [True, False])
async def test_arrivals_with_more_than_one_delivery_are_redelivered(
    autojump_clock: MockClock, mailed: bool
) -> None:
    driver = Scripted()
    bus = make(driver)
    bus.subscribe(ignore if mailed else ignore_inline, Paid)
    async with bus:
        inbox = driver.inbox
        assert inbox is not None
        assert inbox.deliver_nowait(envelope(Paid()), deliveries=1)
        assert inbox.deliver_nowait(envelope(Paid()), ignore_inline, deliveries=2)
        await inbox.deliver(envelope(Paid()), deliveries=3)
        await inbox.deliver(envelope(Paid()))
        await inbox.receive("counted.paid", b"no envelope", deliveries=2)
        snapshot = bus.snapshot()
    assert snapshot.redelivered == 3
    assert by_name(snapshot)["counted.paid"].arrived == 4
    assert by_name(snapshot)["counted.paid"].dispatched == 0
    bus.clear_errors()


async def test_an_event_that_had_to_wait_is_redelivered_once(autojump_clock: MockClock) -> None:
    driver = Scripted()
    bus = make(driver)
    gate = trio.Event()

    async def wait(event: Paid) -> None:
        await gate.wait()

    bus.subscribe(wait, Paid, mailbox=1)
    async with bus, trio.open_nursery() as nursery:
        inbox = driver.inbox
        assert inbox is not None
        assert inbox.deliver_nowait(envelope(Paid()))
        await wait_all_tasks_blocked()
        assert inbox.deliver_nowait(envelope(Paid()))
        assert not inbox.deliver_nowait(envelope(Paid()), ignore_inline, deliveries=2)
        nursery.start_soon(lambda: inbox.deliver(envelope(Paid()), deliveries=2))
        await wait_all_tasks_blocked()
        gate.set()
    assert bus.snapshot().redelivered == 1


async def test_dead_letters_and_lost_events_are_counted_from_the_reports(
    autojump_clock: MockClock,
) -> None:
    driver = Scripted()
    bus = make(driver)
    async with bus:
        inbox = driver.inbox
        assert inbox is not None
        inbox.report(DeadLettered("counted.paid", "1-0", "it failed", 5), "counted.paid")
        inbox.report(GapDetected("origin", "counted.paid", 7), "counted.paid")
        inbox.report(GapDetected("origin", "counted.paid", -1), "counted.paid")
        inbox.report(ValueError("something else"))
        bus.clear_errors()
        snapshot = bus.snapshot()
    assert (snapshot.dead_lettered, snapshot.missing) == (1, 7)


# -- suspended listeners


async def test_a_snapshot_tells_how_long_a_listener_has_made_no_step() -> None:
    bus = make()
    release = trio.Event()

    async def stuck(event: Paid) -> None:
        await release.wait()

    bus.subscribe(stuck, Paid, name="stuck")
    bus.subscribe(stuck, Paid, name="one of two", concurrency=2)
    bus.subscribe(ignore, Shipped, name="idle")
    async with bus:
        bus.dispatch_nowait(Paid())
        await wait_all_tasks_blocked()
        await trio.sleep(0.02)  # real time, because a step is timed by the system's clock
        suspended = {each.name: each.suspended_for for each in bus.snapshot().listeners}
        assert suspended["stuck"] >= 0.019
        assert suspended["one of two"] == suspended["idle"] == 0.0
        bus.dispatch_nowait(Paid())
        await wait_all_tasks_blocked()
        both = {each.name: each.suspended_for for each in bus.snapshot().listeners}
        assert both["stuck"] > suspended["stuck"]
        assert both["one of two"] > 0.0
        release.set()
        await bus.wait()
        assert not any(each.suspended_for for each in bus.snapshot().listeners)


# -- snapshots from other threads


async def test_another_thread_gets_the_snapshot_in_every_state() -> None:
    bus = make()
    bus.subscribe(ignore, Paid)
    assert await trio.to_thread.run_sync(bus.snapshot_from_thread) == bus.snapshot()
    with trio.fail_after(HANG_SECONDS):
        async with bus:
            await (await bus.dispatch(Paid())).wait()
            snapshot = await trio.to_thread.run_sync(bus.snapshot_from_thread)
            assert (snapshot.state, snapshot.ledger.completed) == ("open", 1)
        closed = await trio.to_thread.run_sync(bus.snapshot_from_thread)
    assert (closed.state, closed.ledger.completed) == ("closed", 1)


def test_the_loop_of_a_closed_bus_need_not_run_for_a_snapshot() -> None:
    bus = make()

    async def use() -> None:
        async with bus:
            bus.dispatch_nowait(Paid())

    trio.run(use)
    assert bus.snapshot_from_thread().state == "closed"


async def test_the_own_thread_is_refused_a_snapshot_that_it_would_wait_for() -> None:
    async with make() as bus:
        with pytest.raises(RuntimeError, match="own thread"):
            bus.snapshot_from_thread()


async def test_a_blocked_loop_is_a_timeout_for_the_other_thread() -> None:
    async with make() as bus:
        asked, result = threading.Event(), list[BaseException | Snapshot]()

        def ask() -> None:
            try:
                result.append(bus.snapshot_from_thread(timeout=0.01))
            except TimeoutError as error:
                result.append(error)
            asked.set()

        thread = threading.Thread(target=ask)
        thread.start()
        assert asked.wait(HANG_SECONDS)  # blocks the event loop
        thread.join()
        assert isinstance(result[0], TimeoutError)
        assert "has not answered for 0.01 s" in str(result[0])
        # The question that came too late does no harm.
        await trio.lowlevel.checkpoint()
        await trio.sleep(0)


async def test_an_error_of_the_snapshot_reaches_the_thread() -> None:
    class Broken(Scripted):
        def snapshot(self) -> None:
            raise BusForked

    async with make(Broken()) as bus:
        with pytest.raises(BusForked):
            await trio.to_thread.run_sync(bus.snapshot_from_thread)
