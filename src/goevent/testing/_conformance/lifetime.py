"""Cases about the life of a bus: opening, cancelling, closing, opening again, and freeing."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import trio

from ... import Driver, GoEvent
from ...drivers import SendsDirectly
from .environment import CaseEnvironment
from .expect import expect, expect_each
from .received import NumberedEvent

# A bus is cancelled at each of this many task steps, and later at steps that grow by the factor.
EACH_OF_FIRST_STEPS = 60
STEP_GROWTH_FACTOR = 1.15


async def it_is_a_driver(env: CaseEnvironment) -> None:
    driver = env.driver()
    expect(isinstance(driver, Driver), f"{driver!r} lacks a member of goevent.Driver")
    names = driver.schemes
    expect(isinstance(names, tuple) and all(type(name) is str for name in names), "schemes")
    promised = driver.capabilities
    expect(not promised.alone, "a driver with `alone` reaches no other bus")
    expect(promised.in_flight >= 1, "in_flight is at least 1")
    expect(promised.max_size is None or promised.max_size > 0, "max_size is above 0")
    complete = not promised.replies or isinstance(driver, SendsDirectly)
    expect(complete, f"{driver!r} lacks a member of goevent.drivers.SendsDirectly")
    expect(env.driver().capabilities == promised, "two drivers promise different things")
    await trio.lowlevel.checkpoint()


async def ten_buses_come_and_go_at_once(env: CaseEnvironment) -> None:
    # A new name for each round, because a new group may read events of the earlier round.
    event_types = [env.event_type(f"round{n}") for n in range(2)]
    before = env.tasks()
    opened: list[GoEvent] = []
    done: list[GoEvent] = []

    async def live(number: int, event_type: type[NumberedEvent]) -> None:
        bus = env.bus()
        received = env.listen(bus, event_type)
        async with bus:
            opened.append(bus)
            env.notify()
            await env.wait_until(lambda: len(opened) == 10, lambda: f"{len(opened)} of 10 buses")
            handle = await bus.dispatch(event_type(n=number))
            await env.wait_for(received, 10)
            await handle.wait()
            done.append(bus)
            env.notify()
            await env.wait_until(lambda: len(done) == 10, lambda: f"{len(done)} of 10 buses")
        expect_each(received.numbers, range(10), f"at bus {number}")

    for event_type in event_types:
        opened.clear()
        done.clear()
        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(live, number, event_type)
    env.expect_no_tasks_since(before, "when ten buses have closed")


async def accepted_events_outlive_their_publisher(env: CaseEnvironment) -> None:
    event_type = env.event_type()
    receiver = env.bus()
    received = env.listen(receiver, event_type)
    async with env.open(receiver):
        for n in range(0, 60, 6):
            sender = env.bus()
            with trio.CancelScope() as scope:
                async with sender:
                    handles = [await sender.dispatch(event_type(n=n + m)) for m in range(6)]
                    for handle in handles:
                        await handle.wait()
                    if n % 12:
                        scope.cancel()
        await env.wait_for(received, 60)
        last = env.bus()
        async with env.open(last):
            await env.flush(last, event_type, received)
    expect_each(received.numbers, range(60), "of publishers that closed after accepted publishes")


async def closing_sends_what_was_dispatched(env: CaseEnvironment) -> None:
    event_type = env.event_type()
    receiver = env.bus()
    received = env.listen(receiver, event_type)
    async with env.open(receiver):
        for n in range(0, 500, 100):
            async with env.open(sender := env.bus()):
                for m in range(100):
                    sender.dispatch_nowait(event_type(n=n + m))
        await env.wait_for(received, 500)
        async with env.open(last := env.bus()):
            await env.flush(last, event_type, received)
    expect_each(received.numbers, range(500), "of publishers that closed right after the dispatch")


class CancelAfterSteps(trio.abc.Instrument):
    """Cancels a scope after a number of task steps, of all tasks together."""

    def __init__(self, scope: trio.CancelScope, steps: int) -> None:
        self._scope = scope
        self._left = steps

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self._left -= 1
        if self._left == 0:
            self._scope.cancel()


async def it_can_be_cancelled_at_every_step(env: CaseEnvironment) -> None:
    event_type, end = env.event_type(), env.event_type("end")
    witness, helper = env.bus(), env.bus()
    received = env.listen(witness, event_type, end)
    bus = env.bus(failing=True)
    own = env.listen(bus, event_type, async_=True)
    answers = env.listen(bus, end)
    async with env.open_in_own_task(witness, helper):
        before = env.tasks()
        step, runs, cancelled = 1.0, 0, True
        # The bus is cancelled at one step after another, until a run ends before its step comes.
        while cancelled:
            runs += 1
            with trio.CancelScope() as scope:
                countdown = CancelAfterSteps(scope, int(step))
                trio.lowlevel.add_instrument(countdown)
                try:
                    async with bus:
                        handle = await bus.dispatch(event_type(n=runs))
                        await handle.wait()
                        await env.flush(helper, end, answers)
                finally:
                    trio.lowlevel.remove_instrument(countdown)
            cancelled = scope.cancelled_caught
            env.expect_no_tasks_since(before, f"by a bus that was cancelled at step {step:.0f}")
            step = step + 1 if step < EACH_OF_FIRST_STEPS else step * STEP_GROWTH_FACTOR
        # The same driver must still work.
        async with bus:
            await bus.dispatch(event_type(n=runs + 1))
            await env.flush(bus, event_type, own)
            await env.wait_until(
                lambda: runs + 1 in received.numbers, lambda: "the event after the cancelled ones"
            )
    places = {"at another bus": received.numbers}
    # Without fan-out, an abandoned event may come again.
    if env.capabilities.fan_out:
        places["at the bus itself"] = own.numbers
    for where, numbers in places.items():
        expect(len(numbers) == len({*numbers}), f"cancelling made an event arrive twice {where}")
        whole = {runs, runs + 1} <= {*numbers}
        expect(whole, f"an event of a bus that was not cancelled is missing {where}")


async def a_bus_can_be_opened_again(env: CaseEnvironment) -> None:
    event_type, other = env.event_type(), env.event_type("other")
    sender, receiver = env.bus(), env.bus()
    received, theirs = env.listen(receiver, event_type), env.listen(sender, other)
    for n in range(5):
        async with env.open(receiver, sender):
            await sender.dispatch(event_type(n=n))
            await receiver.dispatch(other(n=n))
            await env.flush(sender, event_type, received)
            await env.flush(receiver, other, theirs)
    expect_each(received.numbers, range(5), "at a bus that was opened five times")
    expect_each(theirs.numbers, range(5), "from a bus that was opened five times")


async def no_task_is_left(env: CaseEnvironment) -> None:
    before = env.tasks()
    ways = ("it was left", "it was closed", "it was left by an exception", "it was cancelled")
    for number, way in enumerate(ways):
        # A new name for each way, because a new group may read events of the earlier ways: their
        # marker would end the flush before the bus has received all events of this way.
        event_type = env.event_type(f"way{number}")
        one, two = env.bus(), env.bus()
        received = env.listen(two, event_type)
        with trio.CancelScope() as scope:
            try:
                async with env.open(two, one):
                    for n in range(10):
                        await one.dispatch(event_type(n=n))
                    await env.flush(one, event_type, received)
                    if "closed" in way:
                        await one.close()
                        await two.close()
                    elif "exception" in way:
                        raise BodyFailed
                    elif "cancelled" in way:
                        scope.cancel()
            except BodyFailed:
                pass
        env.expect_no_tasks_since(before, f"by a bus when {way}")


class BodyFailed(Exception):
    """The exception that leaves the body of `async with bus`."""


async def closing_delays_no_other_bus(env: CaseEnvironment) -> None:
    event_type = env.event_type()
    sender, stuck, other = env.bus(failing=True), env.bus(failing=True), env.bus()
    received = env.listen(other, event_type)

    async def wait(event: NumberedEvent) -> None:
        await trio.sleep_forever()

    stuck.subscribe(wait, event_type, mailbox=1)
    async with env.open(other, sender):
        async with env.open(stuck):
            for n in range(50):
                await sender.dispatch(event_type(n=n))
            await stuck.close(timeout=0)
        await env.wait_for(received, 50)
        await sender.wait()
        await env.flush(sender, event_type, received)
    expect_each(received.numbers, range(50), "at a bus beside one that was stuck and closed")


async def a_closed_bus_is_freed(env: CaseEnvironment) -> None:
    # A new name for each round, because a new group may read events of the earlier round.
    event_types = [env.event_type(f"round{n}") for n in range(2)]
    references = [ref for each in event_types for ref in await use_and_close(env, each)]
    for _ in range(3):
        gc.collect()
        await trio.lowlevel.checkpoint()
    left = [type(ref()).__name__ for ref in references if ref() is not None]
    expect(not left, f"something still refers to a closed bus or its listeners: {left}")


async def use_and_close(
    env: CaseEnvironment, event_type: type[NumberedEvent]
) -> list[weakref.ref[Any]]:
    """Open, use and close a bus. Return weak references to objects that must be freed then."""
    bus, other = env.bus(), env.bus()
    received, own = env.listen(other, event_type), env.listen(bus, event_type)
    async with env.open(other, bus):
        await env.flush(bus, event_type, received, own)
        await env.flush(other, event_type, received, own)
    return [weakref.ref(bus), weakref.ref(own)]
