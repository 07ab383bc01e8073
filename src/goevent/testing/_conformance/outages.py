"""Cases about a broker that cannot be reached for a while."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import trio

from ... import DriverConnectionError, DriverError, GoEvent
from .environment import CaseEnvironment
from .expect import expect, expect_each


async def publishing_without_a_broker_fails(env: CaseEnvironment) -> None:
    event_type = env.event_type()
    sender, receiver = env.bus(failing=True), env.bus(failing=True)
    own, received = env.listen(sender, event_type), env.listen(receiver, event_type)
    async with env.open(receiver, sender):
        await sender.dispatch(event_type(n=0))
        await env.wait_for(received, 1)
        async with outage(env):
            for n in range(1, 4):
                handle = await sender.dispatch(event_type(n=n))
                if env.capabilities.fan_out:
                    expect_each(own.numbers, range(n + 1), "the own listeners, in an outage")
                await handle.wait()
                causes = [error.__cause__ for error in handle.errors]
                correct = len(causes) == 1 and isinstance(causes[0], DriverError)
                expect(correct, f"the handle of an event that could not be sent got {causes}")
        await env.send_until_received(sender, event_type, received)


async def it_reconnects(env: CaseEnvironment) -> None:
    event_type, late, other = env.event_type(), env.event_type("late"), env.event_type("other")
    sender, receiver = env.bus(failing=True), env.bus(failing=True)
    received = env.listen(receiver, event_type)
    theirs = env.listen(sender, other)
    mine = env.listen(receiver, other)
    async with env.open(receiver, sender):
        for n in range(0, 30, 10):
            for m in range(10):
                await sender.dispatch(event_type(n=n + m))
            await env.wait_for(received, n + 10)
            reports = count_of_outage_reports(env)
            # A subscription that is made during the outage must work afterwards, too.
            async with outage(env):
                newest = env.listen(receiver, late)
            await env.send_until_received(sender, event_type, received)
            await env.send_until_received(receiver, other, theirs)
            await env.send_until_received(sender, late, newest)
            lost = count_of_outage_reports(env) > reports
            expect(lost, "a connection was lost without a report")
            receiver.unregister_listeners_for_event(late)
        # A driver may have a new origin after an outage. It must still recognise its own echo.
        await receiver.dispatch(other(n=0))
        await env.wait_for(theirs, 1)
        await env.flush(sender, event_type, received)
        await env.flush(receiver, other, theirs, mine)
    expect_each(received.numbers, range(30), "before, between and after outages")
    expect_each(mine.numbers, [0], "the own listener after outages, whose echoes are ignored")


def count_of_outage_reports(env: CaseEnvironment) -> int:
    """Return how many reports there are beside those of refused subscriptions and publishes."""
    return sum(not error.event_name for error in env.expected_errors)


async def a_lost_connection_ends_the_bus(env: CaseEnvironment) -> None:
    event_type = env.event_type()
    bus = env.bus(failing=True)
    env.listen(bus, event_type)
    ends: list[DriverError] = []

    async def live(task_status: trio.TaskStatus[GoEvent]) -> None:
        try:
            async with bus:
                task_status.started(bus)
                await trio.sleep_forever()
        except DriverError as error:
            ends.append(error)
            env.notify()

    before = env.tasks()
    async with trio.open_nursery() as nursery:
        await nursery.start(live)
        async with outage(env):
            await env.wait_until(lambda: ends, lambda: "the bus to end with a DriverError")
    env.expect_no_tasks_since(before, "by a bus that has lost its broker")
    expect(bus.snapshot().state == "closed", "a bus that has lost its broker is not closed")


async def a_bus_does_not_open_without_a_broker(env: CaseEnvironment) -> None:
    bus = env.bus(failing=True)
    env.listen(bus, env.event_type())
    before = env.tasks()
    async with outage(env):
        try:
            async with bus:
                raise AssertionError("a bus was opened without its broker")
        except DriverError as error:
            failure: DriverError = error
    env.expect_no_tasks_since(before, "by a bus that could not be opened")
    expect(
        isinstance(failure, DriverConnectionError),
        f"the error of a broker that cannot be reached is no DriverConnectionError: {failure!r}",
    )
    # The broker is back, and the same bus opens.
    async with bus:
        pass


@asynccontextmanager
async def outage(env: CaseEnvironment) -> AsyncGenerator[None]:
    """Make the broker unreachable during a block."""
    hook = env.outage()
    if hook is None:
        raise RuntimeError("this case needs an outage")
    async with hook:
        yield
