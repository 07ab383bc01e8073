"""Listeners that hold up the event loop are named in a warning."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import trio
from tests.support.checks import always, ignore_error
from tests.support.events import REGISTRY, Ping, Pong
from tests.support.middleware import AroundCall
from trio.testing import wait_all_tasks_blocked

from goevent import (
    Config,
    DispatchHandle,
    Event,
    GoEvent,
    ListenerOptions,
    MemoryDriver,
    MemoryHub,
)

MODULES = (
    "_kernel.dispatcher",
    "_kernel.inline_calls",
    "_kernel.inline_async",
    "_listeners.wrappers",
    "_kernel.scheduler",
    "_kernel.worker",
)


def nothing(event: object) -> None:
    """Be a quick listener."""


class Stopwatch:
    """The clock that the bus reads; a test moves it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def pass_time(self, seconds: float) -> None:
        """Return a listener that is busy for so many seconds."""
        self.now += seconds


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Stopwatch:
    watch = Stopwatch()
    for module in MODULES:
        monkeypatch.setattr(f"goevent.{module}.perf_counter", watch)
    return watch


class Warnings:
    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self._caplog = caplog

    @property
    def seen(self) -> list[str]:
        records = [record for record in self._caplog.records if record.name == "goevent"]
        assert all(record.levelno == logging.WARNING for record in records)
        return [record.getMessage() for record in records]


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> Warnings:
    return Warnings(caplog)


def make(**config: Any) -> GoEvent:
    return GoEvent(Config(registry=REGISTRY, **config))


def warning(name: str, seconds: float) -> str:
    return (
        f"{name} held the event loop for {seconds:.3f} s; "
        "thread=True runs a `def` in a thread, and "
        "an `async def` can await trio.to_thread.run_sync"
    )


def busy(
    watch: Stopwatch, bus: GoEvent, *events: Any, seconds: float = 0.15, **options: Any
) -> Any:
    def listener(event: Any) -> None:
        watch.pass_time(seconds)

    options.setdefault("name", "busy")
    bus.subscribe(listener, *(events or (Ping,)), **options)


# -- inline listeners


async def test_an_inline_listener_that_holds_up_await_dispatch_is_named(
    watch: Stopwatch, warnings: Warnings
) -> None:
    async with make() as bus:
        busy(watch, bus)
        await bus.dispatch(Ping())
        await bus.dispatch(Ping())
    assert warnings.seen == [warning("busy", 0.15)] * 2


async def test_a_listener_that_is_quick_enough_is_not_named(
    watch: Stopwatch, warnings: Warnings
) -> None:
    async with make() as bus:
        busy(watch, bus, seconds=0.099)
        await bus.dispatch(Ping())
    assert warnings.seen == []


async def test_all_inline_listeners_that_may_have_been_slow_are_named(
    watch: Stopwatch, warnings: Warnings
) -> None:
    async with make() as bus:
        busy(watch, bus, name="one")
        bus.subscribe(nothing, Ping, name="two")

        @bus.listener(Ping, name="innocent")
        async def innocent(event: Ping) -> None: ...

        await bus.dispatch(Ping())
    (message,) = warnings.seen
    assert "one" in message
    assert "two" in message
    assert "innocent" not in message


async def test_a_listener_that_is_slow_with_an_ad_hoc_event_is_named(
    watch: Stopwatch, warnings: Warnings
) -> None:
    async with make() as bus:
        busy(watch, bus, "slow.ad_hoc")
        await bus.dispatch(Event("slow.ad_hoc"))
        busy(watch, bus, Ping, name="typed")
        await bus.dispatch(Event("test.ping", {"n": 1}))
    assert warnings.seen == [warning("busy", 0.15), warning("typed", 0.15)]


@pytest.mark.parametrize("fails", [False, True])
async def test_a_listener_that_is_slow_with_an_event_of_another_bus_is_named(
    watch: Stopwatch, warnings: Warnings, fails: bool
) -> None:
    hub = MemoryHub()
    async with make(driver=MemoryDriver(hub)) as bus, make(driver=MemoryDriver(hub)) as other:
        other.on_error(ignore_error)

        @other.listener(Ping, name="slow")
        def slow(event: Ping) -> None:
            watch.pass_time(0.15)
            if fails:
                raise ValueError("slow and broken")

        await other.ready()
        await (await bus.dispatch(Ping())).wait()
        await other.wait()
    assert warnings.seen[0] == warning("slow", 0.15)


async def test_a_slow_listener_that_fails_is_named(watch: Stopwatch, warnings: Warnings) -> None:
    async with make() as bus:
        bus.on_error(ignore_error)

        @bus.listener(Ping, name="fails")
        def fails(event: Ping) -> None:
            watch.pass_time(0.15)
            raise ValueError("slow and broken")

        await bus.dispatch(Ping())
    assert warnings.seen == [warning("fails", 0.15)]


@pytest.mark.parametrize(
    "options",
    [
        {"when": always},
        {"once": True},
        {"middleware": (AroundCall(),)},
    ],
    ids=["when", "once", "middleware"],
)
async def test_options_do_not_hide_a_slow_listener(
    watch: Stopwatch, warnings: Warnings, options: dict[str, Any]
) -> None:
    async with make() as bus:
        busy(watch, bus, **options)
        await bus.dispatch(Ping())
    assert warnings.seen == [warning("busy", 0.15)]


async def test_middleware_around_the_dispatch_does_not_hide_a_slow_listener(
    watch: Stopwatch, warnings: Warnings
) -> None:
    class Waits:
        async def around_dispatch(self, handle: DispatchHandle, /) -> AsyncIterator[None]:
            watch.pass_time(5)  # waiting for something, say
            await trio.sleep(0)
            yield
            watch.pass_time(5)

    async with make(middleware=(Waits(),)) as bus:
        busy(watch, bus)
        await bus.dispatch(Ping())
    assert warnings.seen == [warning("busy", 0.15)]


async def test_a_dispatch_that_has_waited_for_room_is_timed_from_then_on(
    watch: Stopwatch, warnings: Warnings
) -> None:
    choices: list[dict[str, Any]] = [{}, {"when": always}]
    for options in choices:
        async with make() as bus:
            go = trio.Event()

            @bus.listener(Ping, mailbox=1)
            async def full(event: Ping, go: trio.Event = go) -> None:
                await go.wait()

            await bus.dispatch(Ping())
            await wait_all_tasks_blocked()
            await bus.dispatch(Ping())
            busy(watch, bus, **options)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(bus.dispatch, Ping())
                await wait_all_tasks_blocked()
                watch.pass_time(60)
                go.set()
    assert warnings.seen == [warning("busy", 0.15)] * 2


async def test_a_dispatch_that_continues_without_an_unregistered_listener_is_timed(
    watch: Stopwatch, warnings: Warnings
) -> None:
    async with make() as bus:
        go = trio.Event()

        @bus.listener(Ping, mailbox=1)
        async def full(event: Ping) -> None:
            await go.wait()

        await bus.dispatch(Ping())
        await wait_all_tasks_blocked()
        await bus.dispatch(Ping())
        busy(watch, bus)
        gone = bus.subscribe(nothing, Ping, name="gone")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bus.dispatch, Ping())
            await wait_all_tasks_blocked()
            gone.unregister()
            go.set()
    assert warnings.seen == [warning("busy", 0.15)]


async def test_dispatch_nowait_reads_no_clock_unless_a_listener_asks_for_it(
    watch: Stopwatch, warnings: Warnings
) -> None:
    async with make() as bus:
        busy(watch, bus, seconds=5)
        bus.dispatch_nowait(Ping())
        busy(watch, bus, seconds=5, when=always)
        bus.dispatch_nowait(Ping())
    assert warnings.seen == []


@pytest.mark.parametrize("how", ["dispatch", "dispatch_nowait"])
@pytest.mark.parametrize("options", [{}, {"when": always}], ids=["plain", "when"])
async def test_slow_after_names_a_listener_wherever_it_is_called(
    watch: Stopwatch, warnings: Warnings, options: dict[str, Any], how: str
) -> None:
    async with make() as bus:
        busy(watch, bus, seconds=0.05, slow_after=0.04, **options)
        busy(watch, bus, seconds=0.04, slow_after=0.05, name="quick", **options)
        if how == "dispatch":
            await bus.dispatch(Ping())
        else:
            bus.dispatch_nowait(Ping())
    assert warnings.seen == [warning("busy", 0.05)]


async def test_slow_after_names_a_listener_that_fails(watch: Stopwatch, warnings: Warnings) -> None:
    async with make() as bus:
        bus.on_error(ignore_error)

        @bus.listener(Ping, slow_after=0.01, name="fails")
        def fails(event: Ping) -> None:
            watch.pass_time(0.02)
            raise ValueError("slow and broken")

        bus.dispatch_nowait(Ping())
    assert warnings.seen == [warning("fails", 0.02)]


async def test_the_default_slow_after_of_listeners_is_for_inline_defs_only(
    watch: Stopwatch, warnings: Warnings
) -> None:
    async with make(listener=ListenerOptions(slow_after=0.01)) as bus:
        busy(watch, bus, seconds=0.02)

        @bus.listener(Ping)
        async def mailbox(event: Ping) -> None:
            watch.pass_time(0.02)

        bus.dispatch_nowait(Ping())
        await bus.wait()
    assert warnings.seen == [warning("busy", 0.02)]


async def test_an_inline_async_listener_is_named_for_what_it_holds_up_and_not_for_its_waits(
    watch: Stopwatch, warnings: Warnings
) -> None:
    async with make() as bus:

        @bus.listener(Ping, async_=False, name="waits")
        async def waits(event: Ping) -> None:
            for _ in range(5):
                watch.pass_time(0.05)
                await trio.sleep(0)

        @bus.listener(Ping, async_=False, name="busy")
        async def busy(event: Ping) -> None:
            await trio.sleep(0)
            watch.pass_time(0.15)
            await trio.sleep(0)

        @bus.listener(Ping, name="plain")
        def plain(event: Ping) -> None:
            watch.pass_time(0.12)

        await bus.dispatch(Ping())
    assert warnings.seen == [warning("busy", 0.15), warning("plain", 0.12)]


# -- mailboxes


async def test_a_listener_with_a_mailbox_is_named(watch: Stopwatch, warnings: Warnings) -> None:
    async with make() as bus:

        @bus.listener(Ping, name="busy")
        async def busy(event: Ping) -> None:
            watch.pass_time(0.15)

        await (await bus.dispatch(Ping())).wait()
    assert warnings.seen == [warning("busy", 0.15)]


@pytest.mark.parametrize("culprit", range(4))
async def test_of_several_listeners_that_share_a_worker_the_slow_one_is_named(
    watch: Stopwatch, warnings: Warnings, culprit: int
) -> None:
    async with make() as bus:
        for index in range(4):

            @bus.listener(Ping, name=f"listener {index}")
            async def listener(event: Ping, index: int = index) -> None:
                if index == culprit:
                    watch.pass_time(0.15)

        for _ in range(3):
            bus.dispatch_nowait(Ping())
        await bus.wait()
    assert set(warnings.seen) == {warning(f"listener {culprit}", 0.45)} or set(warnings.seen) == {
        warning(f"listener {culprit}", 0.15)
    }


async def test_two_slow_listeners_that_share_a_worker_are_both_named(
    watch: Stopwatch, warnings: Warnings
) -> None:
    async with make() as bus:
        for seconds in (0.2, 0.3):

            @bus.listener(Ping, name=f"busy for {seconds}")
            async def listener(event: Ping, seconds: float = seconds) -> None:
                watch.pass_time(seconds)

        bus.dispatch_nowait(Ping())
        await bus.wait()
    assert warnings.seen == [warning("busy for 0.2", 0.2), warning("busy for 0.3", 0.3)]


async def test_a_listener_that_waits_for_long_is_not_named(
    watch: Stopwatch, warnings: Warnings
) -> None:
    async with make() as bus:
        go = trio.Event()

        @bus.listener(Ping, name="patient")
        async def patient(event: Ping) -> None:
            watch.pass_time(0.05)
            await go.wait()
            watch.pass_time(0.05)

        handle = await bus.dispatch(Ping())
        await wait_all_tasks_blocked()
        watch.pass_time(60)
        go.set()
        await handle.wait()
    assert warnings.seen == []


async def test_a_listener_that_is_slow_after_a_wait_is_named(
    watch: Stopwatch, warnings: Warnings
) -> None:
    async with make() as bus:
        go = trio.Event()

        @bus.listener(Ping, name="late")
        async def late(event: Ping) -> None:
            await go.wait()
            watch.pass_time(0.15)

        @bus.listener(Ping, name="other")
        async def other(event: Ping) -> None: ...

        handle = await bus.dispatch(Ping())
        await wait_all_tasks_blocked()
        go.set()
        await handle.wait()
    assert warnings.seen == [warning("late", 0.15)]


async def test_a_threaded_listener_holds_up_no_task(watch: Stopwatch, warnings: Warnings) -> None:
    async with make() as bus:

        @bus.listener(Ping, thread=True)
        def busy(event: Ping) -> None:
            # The worker that waits for this thread must not be in the middle of a step.
            trio.from_thread.run(wait_all_tasks_blocked)
            watch.pass_time(60)

        await (await bus.dispatch(Ping())).wait()
    assert warnings.seen == []


async def test_a_blocking_def_with_a_mailbox_is_named(watch: Stopwatch, warnings: Warnings) -> None:
    async with make() as bus:
        busy(watch, bus, async_=True)
        await (await bus.dispatch(Ping())).wait()
    assert warnings.seen == [warning("busy", 0.15)]


@pytest.mark.parametrize(
    "options",
    [{"concurrency": 2}, {"timeout": 60.0}, {"context": True}, {"ordering_key": "n"}],
    ids=["concurrency", "timeout", "context", "ordering_key"],
)
async def test_options_do_not_hide_a_listener_with_a_mailbox(
    watch: Stopwatch, warnings: Warnings, options: dict[str, Any]
) -> None:
    async with make() as bus:

        @bus.listener(Ping, name="busy", **options)
        async def busy(event: Ping) -> None:
            watch.pass_time(0.15)

        await (await bus.dispatch(Ping())).wait()
    assert warnings.seen == [warning("busy", 0.15)]


# -- deliveries and settings


@pytest.mark.parametrize("around", [False, True])
async def test_a_listener_that_holds_up_a_delivery_is_named(
    watch: Stopwatch, warnings: Warnings, around: bool
) -> None:
    class AroundDelivery:
        def around_delivery(self, handle: DispatchHandle, /) -> Iterator[None]:
            yield

    hub = MemoryHub()
    one = make(driver=MemoryDriver(hub))
    two = make(driver=MemoryDriver(hub), middleware=(AroundDelivery(),) if around else ())
    async with one, two:
        busy(watch, two)
        await two.ready()
        await one.dispatch(Ping())
        await one.close()
        await wait_all_tasks_blocked()
    assert warnings.seen == [warning("busy", 0.15)]


async def test_the_threshold_is_a_setting_of_the_bus(watch: Stopwatch, warnings: Warnings) -> None:
    async with make(slow_after=0.5) as bus:
        busy(watch, bus, seconds=0.4)
        busy(watch, bus, Pong, seconds=0.6, name="slower")
        await bus.dispatch(Ping())
        await bus.dispatch(Pong())
    assert warnings.seen == [warning("slower", 0.6)]


async def test_slow_after_none_means_no_warnings(watch: Stopwatch, warnings: Warnings) -> None:
    async with make(slow_after=None, middleware=(AroundCall(),)) as bus:
        busy(watch, bus, seconds=60)

        @bus.listener(Ping)
        async def mailbox(event: Ping) -> None:
            watch.pass_time(60)

        @bus.listener(Ping, async_=False)
        async def awaited(event: Ping) -> None:
            watch.pass_time(60)

        await (await bus.dispatch(Ping())).wait()
    assert warnings.seen == []


async def test_with_slow_after_none_a_listener_may_still_ask_for_a_warning(
    watch: Stopwatch, warnings: Warnings
) -> None:
    async with make(slow_after=None) as bus:
        busy(watch, bus, slow_after=0.1)
        await bus.dispatch(Ping())
    assert warnings.seen == [warning("busy", 0.15)]


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_the_threshold_is_more_than_zero(value: float) -> None:
    with pytest.raises(ValueError, match="slow_after"):
        Config(slow_after=value)
    with pytest.raises(ValueError, match="slow_after"):
        ListenerOptions(slow_after=value)
