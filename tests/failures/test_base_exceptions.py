"""BaseExceptions leave the bus: Ctrl-C, SystemExit and cancellations."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import cast

import pytest
import trio
from tests.support.limits import HANG_SECONDS
from trio.testing import MockClock, wait_all_tasks_blocked

from goevent import Config, DispatchHandle, Event, EventAbandoned, EventError, GoEvent


class Stop(Event, name="base_exceptions.stop"):
    n: int = 0


class Calm(Event, name="base_exceptions.calm"):
    pass


class Halt(BaseException):
    """A BaseException of the application."""


KINDS: list[Callable[[], BaseException]] = [KeyboardInterrupt, lambda: SystemExit(3), Halt]


async def open_until_it_ends(bus: GoEvent, *events: Event, gate: trio.Event | None = None) -> None:
    """Open the bus, dispatch events, and wait for the exception that ends it."""
    handles: list[DispatchHandle] = []
    try:
        async with bus:
            for event in events:
                handles.append(await bus.dispatch(event))
            await wait_all_tasks_blocked()
            if gate is not None:
                gate.set()
            await trio.sleep_forever()
    finally:
        assert all(handle.done for handle in handles)


async def subscribe_raising(bus: GoEvent, shape: str, error: BaseException) -> None:
    def inline(event: Stop) -> None:
        raise error

    async def at_once(event: Stop) -> None:
        raise error

    async def later(event: Stop) -> None:
        await trio.sleep(0.1)
        raise error

    if shape == "inline":
        bus.subscribe(inline, Stop)
    elif shape == "def with a mailbox":
        bus.subscribe(inline, Stop, async_=True)
    elif shape == "mailbox":
        bus.subscribe(at_once, Stop)
    else:
        bus.subscribe(later, Stop)


@pytest.mark.parametrize("make", KINDS, ids=["KeyboardInterrupt", "SystemExit", "custom"])
@pytest.mark.parametrize("shape", ["inline", "def with a mailbox", "mailbox", "suspending"])
async def test_a_base_exception_of_a_listener_leaves_the_bus_as_itself(
    autojump_clock: MockClock, shape: str, make: Callable[[], BaseException]
) -> None:
    raised = make()
    bus = GoEvent()
    told: list[EventError] = []
    bus.on_error(told.append)

    async def stuck(event: Calm) -> None:
        await trio.sleep_forever()

    bus.subscribe(stuck, Calm)
    await subscribe_raising(bus, shape, raised)
    start = trio.current_time()
    with trio.fail_after(10), pytest.raises(type(raised)) as caught:
        await open_until_it_ends(bus, Calm(), Calm(), Calm(), Stop())

    assert caught.value is raised
    assert trio.current_time() - start <= 2.2
    assert {type(error) for error in bus.errors} == {EventAbandoned}
    assert all(error.__cause__ is None for error in bus.errors)
    assert told == list(bus.errors)
    ledger = await bus.close()
    assert ledger.accepted == ledger.completed + ledger.failed + ledger.dropped + ledger.abandoned


async def test_a_body_that_waits_for_room_is_cancelled_and_adds_no_error_of_its_own() -> None:
    bus = GoEvent()
    gate = trio.Event()

    @bus.listener(Calm, mailbox=1)
    async def stuck(event: Calm) -> None:
        await trio.sleep_forever()

    @bus.listener(Stop)
    async def halts(event: Stop) -> None:
        await gate.wait()
        raise Halt

    async def open_the_gate() -> None:
        await wait_all_tasks_blocked()
        gate.set()

    with trio.fail_after(HANG_SECONDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(open_the_gate)
            with pytest.raises(Halt):
                await open_until_it_ends(bus, Stop(), Calm(), Calm(), Calm(), Calm())


async def test_a_bus_opens_again_after_a_base_exception() -> None:
    ran: list[int] = []
    bus = GoEvent()

    @bus.listener(Stop)
    async def sometimes(event: Stop) -> None:
        if not event.n:
            raise Halt
        ran.append(event.n)

    with trio.fail_after(HANG_SECONDS):
        with pytest.raises(Halt):
            await open_until_it_ends(bus, Stop())
        async with bus:
            handle = await bus.dispatch(Stop(1))
            await handle.wait()
    assert ran == [1]
    assert handle.errors == ()
    assert [type(error) for error in bus.errors] == [EventAbandoned]


@pytest.mark.parametrize("shape", ["inline", "mailbox"])
async def test_a_listener_that_exits_inside_a_nested_dispatch_leaves_the_bus(shape: str) -> None:
    bus = GoEvent()

    @bus.listener(Stop)
    def exits(event: Stop) -> None:
        raise Halt

    def chain(event: Calm) -> None:
        bus.dispatch_nowait(Stop())

    bus.subscribe(chain, Calm, async_=shape == "mailbox")
    with trio.fail_after(HANG_SECONDS), pytest.raises(Halt):
        await open_until_it_ends(bus, Calm())
    assert not [error for error in bus.errors if error.error is not None]


async def test_a_base_exception_of_an_inline_listener_reaches_its_dispatcher() -> None:
    later: list[Calm] = []
    async with GoEvent() as bus:
        bus.subscribe(later.append, Calm, name="later")
        await subscribe_raising(bus, "inline", Halt())
        with pytest.raises(Halt):
            await bus.dispatch(Stop())
        handle = await bus.dispatch(Calm())  # a dispatcher that catches it goes on
        assert later == [Calm()]
        assert handle.errors == bus.errors == ()


async def test_the_exceptions_of_a_mixed_group_are_reported_and_the_rest_leaves() -> None:
    bus = GoEvent()
    failure = ValueError("reported")

    @bus.listener(Stop)
    async def mixed(event: Stop) -> None:
        raise BaseExceptionGroup("mixed", [failure, KeyboardInterrupt()])

    with trio.fail_after(HANG_SECONDS), pytest.raises(BaseExceptionGroup) as caught:
        await open_until_it_ends(bus, Stop())
    assert caught.group_contains(KeyboardInterrupt)
    assert not caught.group_contains(ValueError)
    (error,) = bus.errors
    group = cast("BaseExceptionGroup[Exception]", error.__cause__)
    assert type(group) is ExceptionGroup
    assert group.exceptions == (failure,)


async def test_two_listeners_that_exit_at_once_leave_as_a_group(bus_config: Config) -> None:
    bus = GoEvent(bus_config)
    gate = trio.Event()

    async def halt(event: Stop) -> None:
        await gate.wait()
        raise Halt

    async def interrupt(event: Stop) -> None:
        await gate.wait()
        raise KeyboardInterrupt

    bus.subscribe(halt, Stop)
    bus.subscribe(interrupt, Stop)
    with trio.fail_after(HANG_SECONDS), pytest.raises(BaseExceptionGroup) as caught:
        await open_until_it_ends(bus, Stop(), gate=gate)
    assert caught.group_contains(Halt)
    assert caught.group_contains(KeyboardInterrupt)


async def test_a_base_exception_of_on_error_leaves_the_bus() -> None:
    bus = GoEvent()

    @bus.on_error
    async def give_up(error: EventError) -> None:
        raise SystemExit(4)

    @bus.listener(Stop)
    def fails(event: Stop) -> None:
        raise ValueError

    with trio.fail_after(HANG_SECONDS), pytest.raises(SystemExit) as caught:
        await open_until_it_ends(bus, Stop())
    assert caught.value.code == 4


# -- cancellation


async def test_cancelled_is_never_an_event_error(autojump_clock: MockClock) -> None:
    bus = GoEvent()

    @bus.listener(Stop)
    async def sleeps(event: Stop) -> None:
        await trio.sleep_forever()

    @bus.listener(Stop)
    async def has_a_nursery(event: Stop) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            nursery.start_soon(trio.sleep_forever)

    with trio.fail_after(10), trio.move_on_after(1):
        await open_until_it_ends(bus, Stop())
    assert [type(error) for error in bus.errors] == [EventAbandoned, EventAbandoned]
    assert bus.error_count == 2


async def test_a_listener_that_cancels_its_own_work_has_not_failed(
    bus: GoEvent, autojump_clock: MockClock
) -> None:
    done: list[bool] = []

    @bus.listener(Stop)
    async def gives_itself_a_second(event: Stop) -> None:
        with trio.move_on_after(1) as scope:
            await trio.sleep_forever()
        done.append(scope.cancelled_caught)

    handle = await bus.dispatch(Stop())
    with trio.fail_after(5):
        await handle.wait()
    assert done == [True]
    assert handle.errors == bus.errors == ()


async def test_a_failure_during_a_cancellation_is_reported_too(
    autojump_clock: MockClock,
) -> None:
    bus = GoEvent(Config(close_timeout=0))

    @bus.listener(Stop)
    async def fails_on_the_way_out(event: Stop) -> None:
        async def child() -> None:
            try:
                await trio.sleep_forever()
            finally:
                raise ValueError("in the clean-up")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(child)
            nursery.start_soon(trio.sleep_forever)

    with trio.fail_after(10):
        async with bus:
            handle = await bus.dispatch(Stop())
            await wait_all_tasks_blocked()
    (error,) = handle.errors
    group = cast("BaseExceptionGroup[Exception]", error.__cause__)
    assert [type(one) for one in group.exceptions] == [ValueError]
    assert bus.errors == handle.errors
    ledger = await bus.close()
    assert (ledger.accepted, ledger.failed, ledger.abandoned) == (1, 1, 0)


async def test_a_listener_that_turns_its_cancellation_into_an_exception_has_failed(
    autojump_clock: MockClock,
) -> None:
    bus = GoEvent(Config(close_timeout=0))

    @bus.listener(Stop)
    async def translates(event: Stop) -> None:
        try:
            await trio.sleep_forever()
        except trio.Cancelled as cancelled:
            raise ValueError("stopped") from cancelled

    with trio.fail_after(10):
        async with bus:
            handle = await bus.dispatch(Stop())
            await wait_all_tasks_blocked()
    (error,) = handle.errors
    assert isinstance(error.__cause__, ValueError)


# -- Ctrl-C in a process of its own

PROGRAM = """
import sys, time
import trio
from goevent import Event, GoEvent

class Work(Event, name="sigint.work"):
    pass

bus = GoEvent()

def ready():
    print("ready", flush=True)

{listener}

async def main():
    async with bus:
        {body}

trio.run(main)
"""

BUSY = {
    "a sync listener that computes": (
        """
@bus.listener(Work)
def busy(event):
    ready()
    while True:
        pass
""",
        "await bus.dispatch(Work())",
    ),
    "a sync listener with a mailbox that computes": (
        """
@bus.listener(Work, async_=True)
def busy(event):
    ready()
    while True:
        pass
""",
        "await bus.dispatch(Work()); await trio.sleep_forever()",
    ),
    "an async listener that computes": (
        """
@bus.listener(Work)
async def busy(event):
    ready()
    while True:
        pass
""",
        "handle = await bus.dispatch(Work()); await handle.wait()",
    ),
    "an async listener with checkpoints": (
        """
@bus.listener(Work)
async def busy(event):
    ready()
    while True:
        await trio.lowlevel.checkpoint()
""",
        "handle = await bus.dispatch(Work()); await handle.wait()",
    ),
    "a listener while the bus drains": (
        """
@bus.listener(Work)
async def busy(event):
    ready()
    while True:
        await trio.lowlevel.checkpoint()
""",
        "await bus.dispatch(Work())",
    ),
    "a chain that never ends": (
        """
@bus.listener(Work)
async def again(event):
    await bus.dispatch(Work())
""",
        "await bus.dispatch(Work()); ready(); await trio.sleep_forever()",
    ),
    "a dispatch loop": (
        """
@bus.listener(Work)
def short(event):
    pass
""",
        "ready()\n        while True: await bus.dispatch(Work())",
    ),
    "an on_error callback that computes": (
        """
@bus.listener(Work)
def fails(event):
    raise ValueError

@bus.on_error
def busy(error):
    ready()
    while True:
        pass
""",
        "await bus.dispatch(Work()); await trio.sleep_forever()",
    ),
    "a loop that waits for the bus": (
        """
@bus.listener(Work)
async def short(event):
    await trio.lowlevel.checkpoint()
""",
        "ready()\n        while True: await bus.dispatch(Work()); await bus.wait()",
    ),
    "nothing: idle": ("", "ready(); await trio.sleep_forever()"),
    "nothing: waiting for a stuck listener": (
        """
@bus.listener(Work)
async def stuck(event):
    ready()
    await trio.sleep_forever()
""",
        "handle = await bus.dispatch(Work()); await handle.wait()",
    ),
}


@pytest.mark.skipif(os.name != "posix", reason="sends a POSIX signal")
@pytest.mark.parametrize("busy", BUSY)
def test_ctrl_c_ends_a_process_that_is_busy_with(busy: str) -> None:
    listener, body = BUSY[busy]
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(listener=listener, body=body)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "ready\n"
            process.send_signal(signal.SIGINT)
            _, complaint = process.communicate(timeout=HANG_SECONDS)
        finally:
            process.kill()
    assert process.returncode not in (0, -signal.SIGKILL)
    assert complaint.rstrip().endswith("KeyboardInterrupt"), complaint
    assert "ExceptionGroup" not in complaint
