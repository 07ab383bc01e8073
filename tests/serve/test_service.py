"""`bus.serve` in the process of the tests: signals, the grace, the ledger."""

from __future__ import annotations

import logging
import signal
from collections.abc import AsyncIterator, Sequence
from functools import partial

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from goevent import (
    Config,
    DriverError,
    Event,
    EventError,
    GoEvent,
    Ledger,
    MemoryDriver,
    MemoryHub,
    Supervision,
)

TERM, INT = signal.SIGTERM, signal.SIGINT


class Served:
    """A bus that is served in a task, and what came of it."""

    def __init__(self, bus: GoEvent, **options: float) -> None:
        self.bus = bus
        self.ledger: Ledger | None = None
        self._options = options

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        self.ledger = await self.bus.serve(**self._options, task_status=task_status)  # type: ignore[arg-type]


@pytest.mark.parametrize("number", [TERM, INT])
async def test_a_signal_drains_and_the_ledger_is_returned(
    number: signal.Signals, autojump_clock: object
) -> None:
    bus, done = GoEvent(), list[Event]()

    @bus.listener("a.b")
    async def work(event: Event) -> None:
        await trio.sleep(1)
        done.append(event)

    served = Served(bus)
    async with trio.open_nursery() as nursery:
        await nursery.start(served.run)
        assert bus.snapshot().state == "open"
        for _ in range(3):
            await bus.dispatch(Event("a.b"))
        signal.raise_signal(number)
    assert served.ledger == Ledger(accepted=3, completed=3)
    assert len(done) == 3
    assert bus.snapshot().state == "closed"


def test_a_bus_is_a_whole_program() -> None:
    bus = GoEvent()

    @bus.lifespan
    async def end(bus: GoEvent) -> AsyncIterator[None]:
        async def send() -> None:
            while bus.snapshot().state != "open":
                await wait_all_tasks_blocked()
            signal.raise_signal(TERM)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            yield

    before = signal.getsignal(TERM)
    assert trio.run(bus.serve) == Ledger()
    assert signal.getsignal(TERM) is before


async def test_the_grace_ends_the_drain(autojump_clock: object) -> None:
    bus = GoEvent()

    @bus.listener("a.b")
    async def hang(event: Event) -> None:
        await trio.sleep_forever()

    served = Served(bus, grace=5.0)
    async with trio.open_nursery() as nursery:
        await nursery.start(served.run)
        await bus.dispatch(Event("a.b"))
        await wait_all_tasks_blocked()
        began = trio.current_time()
        signal.raise_signal(TERM)
    assert trio.current_time() - began == pytest.approx(5.0)
    assert served.ledger == Ledger(accepted=1, abandoned=1)


async def test_a_second_signal_cuts_the_drain_short(
    autojump_clock: object, caplog: pytest.LogCaptureFixture
) -> None:
    bus = GoEvent()

    @bus.listener("a.b")
    async def hang(event: Event) -> None:
        await trio.sleep_forever()

    served = Served(bus)
    with caplog.at_level(logging.INFO, "goevent"):
        async with trio.open_nursery() as nursery:
            await nursery.start(served.run)
            await bus.dispatch(Event("a.b"))
            await wait_all_tasks_blocked()
            began = trio.current_time()
            signal.raise_signal(TERM)
            await trio.sleep(1)
            assert bus.snapshot().state == "draining"
            signal.raise_signal(INT)
    assert trio.current_time() - began == pytest.approx(1.0)
    assert served.ledger == Ledger(accepted=1, abandoned=1)
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.INFO] == [
        "SIGTERM: draining for at most 25 s",
        "SIGINT: the drain is cut short",
    ]


async def test_two_signals_at_once_cut_the_drain_short(autojump_clock: object) -> None:
    bus = GoEvent()

    @bus.listener("a.b")
    async def hang(event: Event) -> None:
        await trio.sleep_forever()

    served = Served(bus)
    async with trio.open_nursery() as nursery:
        await nursery.start(served.run)
        await bus.dispatch(Event("a.b"))
        await wait_all_tasks_blocked()
        began = trio.current_time()
        signal.raise_signal(TERM)
        signal.raise_signal(INT)
    assert trio.current_time() == began
    assert served.ledger == Ledger(accepted=1, abandoned=1)


async def test_a_signal_as_the_bus_ends_is_not_handed_on() -> None:
    bus = GoEvent()

    @bus.lifespan
    async def interrupt() -> AsyncIterator[None]:
        yield
        # Python's own handler of this one raises KeyboardInterrupt.
        signal.raise_signal(INT)

    async with trio.open_nursery() as nursery:
        await nursery.start(bus.serve)
        signal.raise_signal(TERM)


async def test_a_signal_while_the_bus_opens_cancels_the_opening() -> None:
    bus, said = GoEvent(), list[str]()

    @bus.lifespan
    async def hang() -> AsyncIterator[None]:
        signal.raise_signal(TERM)
        try:
            await trio.sleep_forever()
            yield
        finally:
            said.append("left")

    assert await bus.serve() == Ledger()
    assert said == ["left"]
    assert bus.snapshot().state == "new"


async def test_an_opening_that_is_cancelled_late_counts_its_deliveries() -> None:
    bus = GoEvent(Config(driver=Unready(MemoryHub())))
    bus.subscribe(lambda _: None, "a.b")

    async def dispatch(*, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        while bus.snapshot().state != "open":
            await wait_all_tasks_blocked()
        await bus.dispatch(Event("a.b"))
        signal.raise_signal(TERM)

    async with trio.open_nursery() as nursery:
        await nursery.start(dispatch)
        assert await bus.serve() == Ledger(accepted=1, completed=1)


class Unready(MemoryDriver):
    """A driver whose broker never confirms a subscription."""

    async def subscribe(self, names: Sequence[str]) -> None:
        await trio.sleep_forever()


class Endless(MemoryDriver):
    """A driver whose broker does not answer."""

    async def run(self, inbox: object, *, task_status: trio.TaskStatus[None]) -> None:  # type: ignore[override]
        signal.raise_signal(TERM)
        await trio.sleep_forever()


async def test_a_signal_while_the_driver_connects_cancels_the_opening() -> None:
    bus = GoEvent(Config(driver=Endless(MemoryHub())))
    assert await bus.serve() == Ledger()


class Dying(MemoryDriver):
    """A driver that ends with an error once a test says so."""

    fails: trio.Event

    async def run(self, inbox: object, *, task_status: trio.TaskStatus[None]) -> None:  # type: ignore[override]
        task_status.started()
        await self.fails.wait()
        raise DriverError("the broker has gone for good")


async def test_a_failure_of_the_driver_leaves_serve_as_itself() -> None:
    driver = Dying(MemoryHub())
    driver.fails = trio.Event()
    bus = GoEvent(Config(driver=driver))

    @bus.listener("a.b")
    def fail(event: Event) -> None:
        driver.fails.set()

    async def serve(*, task_status: trio.TaskStatus[None]) -> None:
        with pytest.raises(DriverError, match="gone for good"):
            await bus.serve(task_status=task_status)

    async with trio.open_nursery() as nursery:
        await nursery.start(serve)
        await bus.dispatch(Event("a.b"))


async def test_a_failure_that_escalates_leaves_serve_as_itself() -> None:
    bus, caught = GoEvent(), list[EventError]()

    @bus.listener("a.b", supervision=Supervision("escalate"))
    async def fail(event: Event) -> None:
        raise LookupError("no")

    async def serve(*, task_status: trio.TaskStatus[None]) -> None:
        try:
            await bus.serve(task_status=task_status)
        except EventError as error:
            caught.append(error)

    async with trio.open_nursery() as nursery:
        await nursery.start(serve)
        await bus.dispatch(Event("a.b"))
    assert isinstance(caught[0].__cause__, LookupError)


async def test_serve_returns_once_a_task_has_closed_the_bus() -> None:
    bus = GoEvent()
    bus.subscribe(lambda _: None, "a.b")
    served = Served(bus)
    async with trio.open_nursery() as nursery:
        await nursery.start(served.run)
        await bus.dispatch(Event("a.b"))
        assert await bus.close() == Ledger(accepted=1, completed=1)
    assert served.ledger == Ledger(accepted=1, completed=1)


async def test_a_cancelled_serve_does_not_drain(autojump_clock: object) -> None:
    bus = GoEvent()

    @bus.listener("a.b")
    async def hang(event: Event) -> None:
        await trio.sleep_forever()

    with trio.move_on_after(1) as scope:
        async with trio.open_nursery() as nursery:
            await nursery.start(Served(bus).run)
            await bus.dispatch(Event("a.b"))
    assert scope.cancelled_caught
    assert bus.snapshot().ledger == Ledger(accepted=1, abandoned=1)


async def test_the_bus_may_be_served_again(autojump_clock: object) -> None:
    bus = GoEvent()
    bus.subscribe(lambda _: None, "a.b")
    for _ in range(2):
        served = Served(bus)
        async with trio.open_nursery() as nursery:
            await nursery.start(served.run)
            await bus.dispatch(Event("a.b"))
            signal.raise_signal(TERM)
        assert served.ledger == Ledger(accepted=1, completed=1)


async def test_serve_in_a_thread_names_the_main_thread() -> None:
    def work() -> None:
        with pytest.raises(RuntimeError, match="main thread"):
            trio.run(GoEvent().serve)

    await trio.to_thread.run_sync(work)


async def test_serve_on_an_open_bus_is_refused() -> None:
    bus = GoEvent()
    async with bus:
        with pytest.raises(RuntimeError, match="open already"):
            await bus.serve()


@pytest.mark.parametrize(
    ("grace", "error"), [("5", TypeError), (True, TypeError), (-1, ValueError)]
)
async def test_a_wrong_grace_is_refused(grace: float, error: type[Exception]) -> None:
    with pytest.raises(error, match="grace must be"):
        await GoEvent().serve(grace=grace)


def test_serve_outside_of_trio_names_trio() -> None:
    with pytest.raises(RuntimeError, match="Trio"):
        partial(GoEvent().serve)().send(None)
