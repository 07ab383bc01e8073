"""Health: live as long as there is progress, ready when the bus can work."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import trio
from tests.support.limits import HANG_SECONDS
from trio.testing import MockClock, wait_all_tasks_blocked

from goevent import (
    Capabilities,
    Config,
    DriverError,
    DriverSnapshot,
    Event,
    EventRegistry,
    GoEvent,
    Inbox,
    Message,
    Receipt,
    Retry,
)
from goevent.telemetry.health import Health, HealthReport

REGISTRY = EventRegistry()
HEALTHY = HealthReport(healthy=True)


class Job(Event, name="health.job", registry=REGISTRY):
    n: int = 0


class Other(Event, name="health.other", registry=REGISTRY):
    n: int = 0


class Hands:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Hands:
    return Hands()


def make(driver: object = "memory") -> GoEvent:
    return GoEvent(Config(driver=driver, registry=REGISTRY, close_timeout=1.0))  # type: ignore[arg-type]


def test_a_bus_that_was_never_opened_is_live_and_not_ready() -> None:
    health = Health(make())
    assert health.live() == HEALTHY
    assert health.ready() == HealthReport(healthy=False, reasons=("the bus is not open yet",))


async def test_an_idle_bus_is_live_and_ready(autojump_clock: MockClock, clock: Hands) -> None:
    bus = make()
    bus.subscribe(lambda _: None, Job)
    health = Health(bus, clock=clock)
    async with bus:
        for _ in range(3):
            assert health.live() == health.ready() == HEALTHY
            clock.now += 1000.0
    assert health.live() == HEALTHY
    assert health.ready().reasons == ("the bus is closed",)


async def test_a_listener_that_finishes_nothing_turns_live_red(
    autojump_clock: MockClock, clock: Hands
) -> None:
    bus, release = make(), trio.Event()

    async def job(event: Job) -> None:
        await release.wait()

    bus.subscribe(job, Job, name="job")
    health = Health(bus, stuck_after=60.0, clock=clock)
    async with bus:
        bus.dispatch_nowait(Job())
        bus.dispatch_nowait(Job())
        await wait_all_tasks_blocked()
        assert health.live() == HEALTHY
        clock.now += 59.9
        assert health.live() == HEALTHY
        clock.now += 0.1
        reason = "job has finished no event for 60 s, with 1 in flight and 1 waiting"
        assert health.live() == HealthReport(healthy=False, reasons=(reason,))
        assert health.ready() == HEALTHY
        release.set()
        await bus.wait()
        assert health.live() == HEALTHY


async def test_a_stream_whose_events_nobody_takes_is_healthy(clock: Hands) -> None:
    bus = make()
    health = Health(bus, clock=clock)
    async with bus, bus.stream(Job, buffer=1, overflow="drop_new"):
        for _ in range(3):
            bus.dispatch_nowait(Job())
            assert health.live() == HEALTHY
            clock.now += 1000.0


async def test_progress_between_two_probes_keeps_a_busy_listener_live(
    autojump_clock: MockClock, clock: Hands
) -> None:
    bus = make()
    send, receive = trio.open_memory_channel[None](0)

    async def job(event: Job) -> None:
        await receive.receive()

    bus.subscribe(job, Job)
    health = Health(bus, clock=clock)
    async with bus:
        for _ in range(6):
            bus.dispatch_nowait(Job())
        for _ in range(5):
            await wait_all_tasks_blocked()
            assert health.live() == HEALTHY
            await send.send(None)
            clock.now += 100.0
        await send.send(None)


async def test_progress_of_other_listeners_does_not_hide_a_stuck_one(
    autojump_clock: MockClock, clock: Hands
) -> None:
    bus, release = make(), trio.Event()

    async def slow(event: Job) -> None:
        await release.wait()

    async def quick(event: Other) -> None: ...

    bus.subscribe(slow, Job, name="slow")
    bus.subscribe(quick, Other, name="quick")
    health = Health(bus, clock=clock)
    patient = Health(bus, listeners={"slow": 3600.0}, clock=clock)
    report = patience = HEALTHY
    async with bus:
        bus.dispatch_nowait(Job())
        for _ in range(3):
            bus.dispatch_nowait(Other())
            await wait_all_tasks_blocked()
            report, patience = health.live(), patient.live()
            clock.now += 40.0
        assert [reason.split()[0] for reason in report.reasons] == ["slow"]
        assert patience == HEALTHY
        release.set()


async def test_a_full_mailbox_that_drops_is_no_progress(
    autojump_clock: MockClock, clock: Hands
) -> None:
    bus, release = make(), trio.Event()

    async def stuck(event: Job) -> None:
        await release.wait()

    bus.subscribe(stuck, Job, mailbox=1, overflow="drop_old")
    health = Health(bus, clock=clock)
    healthy = True
    async with bus:
        for _ in range(3):
            bus.dispatch_nowait(Job())
            await wait_all_tasks_blocked()
            healthy = health.live().healthy
            clock.now += 40.0
        assert not healthy
        release.set()
        await bus.wait()
    bus.clear_errors()


async def test_one_free_lane_is_judged_by_its_progress(
    autojump_clock: MockClock, clock: Hands
) -> None:
    bus, release = make(), trio.Event()

    async def job(event: Job) -> None:
        if event.n == 0:
            await release.wait()

    bus.subscribe(job, Job, concurrency=2)
    health = Health(bus, clock=clock)
    async with bus:
        bus.dispatch_nowait(Job(n=0))
        for number in range(1, 4):
            bus.dispatch_nowait(Job(n=number))
            await wait_all_tasks_blocked()
            assert health.live() == HEALTHY
            clock.now += 100.0
        release.set()


async def test_a_listener_that_backs_off_is_not_stuck(
    autojump_clock: MockClock, clock: Hands
) -> None:
    bus = make()

    async def fail(event: Job) -> None:
        raise ValueError("not yet")

    bus.subscribe(
        fail, Job, retry=Retry(attempts=2, backoff=1000.0, max_backoff=1000.0, jitter=0.0)
    )
    health = Health(bus, clock=clock)
    async with bus:
        bus.dispatch_nowait(Job())
        with trio.move_on_after(1.0):  # the clock jumps here, and not to the end of the pause
            await bus.wait()
        assert bus.snapshot().listeners[0].state == "backing off"
        assert health.live() == HEALTHY
        clock.now += 500.0
        assert health.live() == HEALTHY
        await bus.close(timeout=0.0)
    bus.clear_errors()


async def test_an_awaited_inline_listener_can_be_stuck(
    autojump_clock: MockClock, clock: Hands
) -> None:
    bus, release = make(), trio.Event()

    async def inline(event: Job) -> None:
        await release.wait()

    bus.subscribe(inline, Job, async_=False, name="inline")
    health = Health(bus, clock=clock)
    async with bus, trio.open_nursery() as nursery:
        nursery.start_soon(bus.dispatch, Job())
        await wait_all_tasks_blocked()
        assert health.live() == HEALTHY
        clock.now += 60.0
        assert health.live().reasons[0].startswith("inline has finished no event for 60 s")
        release.set()


async def test_the_first_probe_sees_a_listener_that_waits_for_one_thing() -> None:
    bus, release = make(), trio.Event()

    async def job(event: Job) -> None:
        await release.wait()

    bus.subscribe(job, Job)
    async with bus:
        bus.dispatch_nowait(Job())
        await wait_all_tasks_blocked()
        await trio.sleep(0.02)  # real time has to pass; more of it does no harm
        assert not Health(bus, stuck_after=0.01).live().healthy
        assert Health(bus).live() == HEALTHY
        release.set()


async def test_a_draining_bus_is_live_and_not_ready(
    autojump_clock: MockClock, clock: Hands
) -> None:
    bus, release = make(), trio.Event()

    async def job(event: Job) -> None:
        await release.wait()

    bus.subscribe(job, Job)
    health = Health(bus, clock=clock)
    async with bus, trio.open_nursery() as nursery:
        bus.dispatch_nowait(Job())
        await wait_all_tasks_blocked()
        nursery.start_soon(bus.close, 10.0)
        await wait_all_tasks_blocked()
        assert health.live() == HEALTHY
        assert health.ready().reasons == ("the bus is draining",)
        release.set()


# -- the driver


class Broker:
    """A driver that tells the state that a test gives it."""

    schemes = ()
    capabilities = Capabilities(fan_out=False, durable=True)

    def __init__(self, snapshot: Callable[[], DriverSnapshot]) -> None:
        self.snapshot = snapshot

    @classmethod
    def from_url(cls, url: str) -> Broker:
        raise ValueError(url)

    async def run(self, inbox: Inbox, *, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        await trio.sleep_forever()

    async def subscribe(self, names: object) -> None: ...
    async def unsubscribe(self, names: object) -> None: ...
    async def publish(self, message: Message) -> Receipt | None: ...


async def test_a_bus_without_its_broker_is_live_and_not_ready(autojump_clock: MockClock) -> None:
    connected = False
    bus = make(Broker(lambda: DriverSnapshot(connected=connected)))
    health = Health(bus)
    async with bus:
        assert health.live() == HEALTHY
        assert health.ready().reasons == ("the driver is not connected to its broker",)
        connected = True
        assert health.ready() == HEALTHY


async def test_a_driver_that_cannot_tell_its_state_makes_the_bus_not_ready(
    autojump_clock: MockClock,
) -> None:
    def broken() -> DriverSnapshot:
        raise DriverError("no idea")

    bus = make(Broker(broken))
    health = Health(bus)
    async with bus:
        assert health.live() == HEALTHY
        assert health.ready().reasons == ("no idea",)
        assert await trio.to_thread.run_sync(health.live_from_thread) == HEALTHY
        assert not (await trio.to_thread.run_sync(health.ready_from_thread)).healthy


# -- threads


async def test_another_thread_gets_the_answers() -> None:
    bus = make()
    health = Health(bus)
    async with bus:
        assert await trio.to_thread.run_sync(health.live_from_thread) == HEALTHY
        assert await trio.to_thread.run_sync(health.ready_from_thread) == HEALTHY
        with pytest.raises(RuntimeError, match="another thread"):
            await trio.to_thread.run_sync(health.live)


async def test_a_blocked_event_loop_turns_live_red_for_another_thread() -> None:
    bus = make()
    health = Health(bus)
    answers: list[HealthReport] = []
    done = threading.Event()

    def probe() -> None:
        answers.extend((health.live_from_thread(0.01), health.ready_from_thread(0.01)))
        done.set()

    async with bus:
        thread = threading.Thread(target=probe)
        thread.start()
        assert done.wait(HANG_SECONDS)  # blocks the event loop
        thread.join()
    reason = ("the event loop of the bus has not answered for 0.01 s",)
    assert answers == [HealthReport(healthy=False, reasons=reason)] * 2


@pytest.mark.parametrize("limit", [0.0, -1.0, float("nan")])
def test_a_limit_has_to_be_positive(limit: float) -> None:
    with pytest.raises(ValueError, match="cannot be stuck"):
        Health(make(), stuck_after=limit)
    with pytest.raises(ValueError, match="cannot be stuck"):
        Health(make(), listeners={"one": limit})
