"""Cases about the life of a bus: opened, cancelled, closed, opened again, and forgotten."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import trio

from ... import Driver, GoEvent
from .expect import expect, expect_each
from .seen import Numbered
from .stage import Stage

SMALL_STEPS = 60  # of a bus that is cancelled at each
GROWTH = 1.15  # of the steps after these


async def it_is_a_driver(stage: Stage) -> None:
    driver = stage.driver()
    expect(isinstance(driver, Driver), f"{driver!r} lacks a part of goevent.Driver")
    names = driver.schemes
    expect(isinstance(names, tuple) and all(type(name) is str for name in names), "schemes")
    promised = driver.capabilities
    expect(not promised.alone, "a driver that is alone reaches nobody")
    expect(promised.in_flight >= 1, "in_flight is at least 1")
    expect(promised.max_size is None or promised.max_size > 0, "max_size is above 0")
    expect(stage.driver().capabilities == promised, "two drivers promise different things")
    await trio.lowlevel.checkpoint()


async def ten_buses_come_and_go_at_once(stage: Stage) -> None:
    kinds = [stage.kind(f"round{n}") for n in range(2)]  # new groups may read what was before
    before = stage.tasks()
    opened: list[GoEvent] = []
    done: list[GoEvent] = []

    async def live(number: int, kind: type[Numbered]) -> None:
        bus = stage.bus()
        seen = stage.listen(bus, kind)
        async with bus:
            opened.append(bus)
            stage.stir()
            await stage.until(lambda: len(opened) == 10, lambda: f"{len(opened)} of 10 buses")
            handle = await bus.dispatch(kind(n=number))
            await stage.arrived(seen, 10)
            await handle.wait()
            done.append(bus)
            stage.stir()
            await stage.until(lambda: len(done) == 10, lambda: f"{len(done)} of 10 buses")
        expect_each(seen.numbers, range(10), f"at bus {number}")

    for kind in kinds:
        opened.clear()
        done.clear()
        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(live, number, kind)
    stage.expect_no_tasks_since(before, "when ten buses have closed")


async def accepted_events_outlive_their_publisher(stage: Stage) -> None:
    kind = stage.kind()
    receiver = stage.bus()
    seen = stage.listen(receiver, kind)
    async with stage.open(receiver):
        for n in range(0, 60, 6):
            sender = stage.bus()
            with trio.CancelScope() as scope:
                async with sender:
                    handles = [await sender.dispatch(kind(n=n + m)) for m in range(6)]
                    for handle in handles:
                        await handle.wait()
                    if n % 12:
                        scope.cancel()
        await stage.arrived(seen, 60)
        last = stage.bus()
        async with stage.open(last):
            await stage.flush(last, kind, seen)
    expect_each(seen.numbers, range(60), "of publishers that closed after accepted publishes")


async def closing_sends_what_was_dispatched(stage: Stage) -> None:
    kind = stage.kind()
    receiver = stage.bus()
    seen = stage.listen(receiver, kind)
    async with stage.open(receiver):
        for n in range(0, 500, 100):
            async with stage.open(sender := stage.bus()):
                for m in range(100):
                    sender.dispatch_nowait(kind(n=n + m))
        await stage.arrived(seen, 500)
        async with stage.open(last := stage.bus()):
            await stage.flush(last, kind, seen)
    expect_each(seen.numbers, range(500), "of publishers that closed right after the dispatch")


class Countdown(trio.abc.Instrument):
    """Cancels a scope after so many steps of whatever task."""

    def __init__(self, scope: trio.CancelScope, steps: int) -> None:
        self._scope = scope
        self._left = steps

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self._left -= 1
        if self._left == 0:
            self._scope.cancel()


async def it_can_be_cancelled_at_every_step(stage: Stage) -> None:
    kind, end = stage.kind(), stage.kind("end")
    witness, helper = stage.bus(), stage.bus()
    seen = stage.listen(witness, kind, end)
    bus = stage.bus(failing=True)
    own = stage.listen(bus, kind, async_=True)
    answers = stage.listen(bus, end)
    async with stage.open_apart(witness, helper):
        before = stage.tasks()
        step, runs, cancelled = 1.0, 0, True
        while cancelled:
            runs += 1
            with trio.CancelScope() as scope:
                countdown = Countdown(scope, int(step))
                trio.lowlevel.add_instrument(countdown)
                try:
                    async with bus:
                        handle = await bus.dispatch(kind(n=runs))
                        await handle.wait()
                        await stage.flush(helper, end, answers)
                finally:
                    trio.lowlevel.remove_instrument(countdown)
            cancelled = scope.cancelled_caught
            stage.expect_no_tasks_since(before, f"by a bus that was cancelled at step {step:.0f}")
            step = step + 1 if step < SMALL_STEPS else step * GROWTH
        # The same driver, after all of this:
        async with bus:
            await bus.dispatch(kind(n=runs + 1))
            await stage.flush(bus, kind, own)
            await stage.until(
                lambda: runs + 1 in seen.numbers, lambda: "the event after the cancelled ones"
            )
    places = {"at another bus": seen.numbers}
    if stage.capabilities.fan_out:  # or those that were abandoned may come again
        places["at the bus itself"] = own.numbers
    for where, numbers in places.items():
        expect(len(numbers) == len({*numbers}), f"cancelling made an event arrive twice {where}")
        whole = {runs, runs + 1} <= {*numbers}
        expect(whole, f"an event of a bus that was not cancelled is missing {where}")


async def a_bus_can_be_opened_again(stage: Stage) -> None:
    kind, other = stage.kind(), stage.kind("other")
    sender, receiver = stage.bus(), stage.bus()
    seen, theirs = stage.listen(receiver, kind), stage.listen(sender, other)
    for n in range(5):
        async with stage.open(receiver, sender):
            await sender.dispatch(kind(n=n))
            await receiver.dispatch(other(n=n))
            await stage.flush(sender, kind, seen)
            await stage.flush(receiver, other, theirs)
    expect_each(seen.numbers, range(5), "at a bus that was opened five times")
    expect_each(theirs.numbers, range(5), "from a bus that was opened five times")


async def no_task_is_left(stage: Stage) -> None:
    kind = stage.kind()
    before = stage.tasks()
    for way in ("it was left", "it was closed", "it was left by an exception", "it was cancelled"):
        one, two = stage.bus(), stage.bus()
        seen = stage.listen(two, kind)
        with trio.CancelScope() as scope:
            try:
                async with stage.open(two, one):
                    for n in range(10):
                        await one.dispatch(kind(n=n))
                    await stage.flush(one, kind, seen)
                    if "closed" in way:
                        await one.close()
                        await two.close()
                    elif "exception" in way:
                        raise Leaving
                    elif "cancelled" in way:
                        scope.cancel()
            except Leaving:
                pass
        stage.expect_no_tasks_since(before, f"by a bus when {way}")


class Leaving(Exception):
    """How the body of a bus is left."""


async def closing_keeps_no_one_waiting(stage: Stage) -> None:
    kind = stage.kind()
    sender, stuck, other = stage.bus(failing=True), stage.bus(failing=True), stage.bus()
    seen = stage.listen(other, kind)

    async def wait(event: Numbered) -> None:
        await trio.sleep_forever()

    stuck.subscribe(wait, kind, mailbox=1)
    async with stage.open(other, sender):
        async with stage.open(stuck):
            for n in range(50):
                await sender.dispatch(kind(n=n))
            await stuck.close(timeout=0)
        await stage.arrived(seen, 50)
        await sender.wait()
        await stage.flush(sender, kind, seen)
    expect_each(seen.numbers, range(50), "at a bus beside one that was stuck and closed")


async def a_closed_bus_is_forgotten(stage: Stage) -> None:
    kind = stage.kind()
    gone = [ref for _ in range(2) for ref in await lived(stage, kind)]
    for _ in range(3):
        gc.collect()
        await trio.lowlevel.checkpoint()
    left = [type(ref()).__name__ for ref in gone if ref() is not None]
    expect(not left, f"something still refers to a closed bus or its listeners: {left}")


async def lived(stage: Stage, kind: type[Numbered]) -> list[weakref.ref[Any]]:
    """Open a bus, use it and close it; return references to what should be gone then."""
    bus, other = stage.bus(), stage.bus()
    seen, own = stage.listen(other, kind), stage.listen(bus, kind)
    async with stage.open(other, bus):
        await stage.flush(bus, kind, seen, own)
        await stage.flush(other, kind, seen, own)
    return [weakref.ref(bus), weakref.ref(own)]
