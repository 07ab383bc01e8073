"""Cases about a broker that cannot be reached for a while."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import trio

from ... import DriverError, GoEvent
from .expect import expect, expect_each
from .stage import Stage


async def publishing_without_a_broker_fails(stage: Stage) -> None:
    kind = stage.kind()
    sender, receiver = stage.bus(failing=True), stage.bus(failing=True)
    own, seen = stage.listen(sender, kind), stage.listen(receiver, kind)
    async with stage.open(receiver, sender):
        await sender.dispatch(kind(n=0))
        await stage.arrived(seen, 1)
        async with outage(stage):
            for n in range(1, 4):
                handle = await sender.dispatch(kind(n=n))
                if stage.capabilities.fan_out:
                    expect_each(own.numbers, range(n + 1), "the own listeners, in an outage")
                await handle.wait()
                causes = [error.__cause__ for error in handle.errors]
                told = len(causes) == 1 and isinstance(causes[0], DriverError)
                expect(told, f"the handle of an event that could not be sent got {causes}")
        await stage.reach(sender, kind, seen)


async def it_reconnects(stage: Stage) -> None:
    kind, late, other = stage.kind(), stage.kind("late"), stage.kind("other")
    sender, receiver = stage.bus(failing=True), stage.bus(failing=True)
    seen = stage.listen(receiver, kind)
    theirs = stage.listen(sender, other)
    mine = stage.listen(receiver, other)
    async with stage.open(receiver, sender):
        for n in range(0, 30, 10):
            for m in range(10):
                await sender.dispatch(kind(n=n + m))
            await stage.arrived(seen, n + 10)
            told = len(stage.expected)
            async with outage(stage):
                newest = stage.listen(receiver, late)
            await stage.reach(sender, kind, seen)
            await stage.reach(receiver, other, theirs)
            await stage.reach(sender, late, newest)
            expect(len(stage.expected) > told, "a connection was lost, and nobody was told")
            receiver.unregister_listeners_for_event(late)
        await receiver.dispatch(other(n=0))
        await stage.arrived(theirs, 1)
        await stage.flush(sender, kind, seen)
        await stage.flush(receiver, other, theirs, mine)
    expect_each(seen.numbers, range(30), "before, between and after outages")
    expect_each(mine.numbers, [0], "the own listener after outages, of which echoes are its own")


async def a_lost_connection_ends_the_bus(stage: Stage) -> None:
    kind = stage.kind()
    bus = stage.bus(failing=True)
    stage.listen(bus, kind)
    ends: list[DriverError] = []

    async def live(task_status: trio.TaskStatus[GoEvent]) -> None:
        try:
            async with bus:
                task_status.started(bus)
                await trio.sleep_forever()
        except DriverError as error:
            ends.append(error)
            stage.stir()

    before = stage.tasks()
    async with trio.open_nursery() as nursery:
        await nursery.start(live)
        async with outage(stage):
            await stage.until(lambda: ends, lambda: "the bus to end with a DriverError")
    stage.expect_no_tasks_since(before, "by a bus that has lost its broker")
    expect(bus.snapshot().state == "closed", "a bus that has lost its broker is not closed")


async def a_bus_does_not_open_without_a_broker(stage: Stage) -> None:
    bus = stage.bus(failing=True)
    stage.listen(bus, stage.kind())
    before = stage.tasks()
    async with outage(stage):
        try:
            async with bus:
                raise AssertionError("a bus was opened, and its broker cannot be reached")
        except DriverError:
            pass
    stage.expect_no_tasks_since(before, "by a bus that could not be opened")
    async with bus:
        pass


@asynccontextmanager
async def outage(stage: Stage) -> AsyncGenerator[None]:
    """Have the broker out of reach for the time of a block."""
    hook = stage.outage()
    if hook is None:
        raise RuntimeError("this case needs an outage")
    async with hook:
        yield
