"""Cases about groups of competing consumers, and about durable events."""

from __future__ import annotations

from typing import Any

import trio

from .environment import CaseEnvironment
from .expect import expect, expect_each
from .received import ReceivedEvents


async def each_group_gets_it_once(env: CaseEnvironment) -> None:
    event_type = env.event_type()
    sender = env.bus()
    pair, single = [env.bus(env.driver("pair")) for _ in range(2)], env.bus()
    shared = [env.listen(bus, event_type, async_=True) for bus in pair]
    alone = env.listen(single, event_type)
    async with env.open(*pair, single, sender):
        for n in range(100):
            handle = await sender.dispatch(event_type(n=n))
            await handle.wait()
        await env.wait_for(alone, 100)
        await env.wait_until(
            lambda: sum(len(received.events) for received in shared) >= 100,
            lambda: f"100 events at {[len(received.events) for received in shared]}",
        )
        # The rest of the group must take over the share of the bus that leaves.
        await pair[0].close()
        for n in range(100, 150):
            await sender.dispatch(event_type(n=n))
        await env.wait_until(
            lambda: sum(len(received.events) for received in shared) >= 150,
            lambda: f"150 events at {[len(received.events) for received in shared]}",
        )
        await env.flush(sender, event_type, alone, shared[1])
    together = [n for received in shared for n in received.numbers]
    expect_each(together, range(150), "a group of two buses, of which one has left")
    expect_each(alone.numbers, range(150), "a group of one")


async def abandoned_events_are_delivered_again(env: CaseEnvironment) -> None:
    event_type, end = env.event_type(), env.event_type("end")
    driver = env.driver()
    sender, first = env.bus(), env.bus(driver, failing=True)
    done, begun = ReceivedEvents(env.notify), ReceivedEvents(env.notify)

    async def half(event: Any) -> None:
        begun.record(event)
        if event.n % 2:
            await trio.sleep_forever()
        done.record(event)

    first.subscribe(half, event_type, concurrency=20)
    async with env.open(sender):
        async with env.open(first):
            for n in range(20):
                await sender.dispatch(event_type(n=n))
            await env.wait_for(begun, 20)
            await env.wait_for(done, 10)
            # Odd numbers are still running, so closing abandons them.
            await first.close(timeout=0)
        second = env.bus(driver)
        again = env.listen(second, event_type, end)
        async with env.open(second):
            await env.wait_for(again, 10)
            await env.flush(sender, end, again)
        # The second bus has completed the rest, so nothing is left for a third one.
        third = env.bus(driver)
        more = env.listen(third, event_type, end)
        async with env.open(third):
            await env.flush(sender, end, more)
    expect_each(done.numbers, range(0, 20, 2), "the first time")
    expect_each(again.numbers, range(1, 20, 2), "the abandoned events, the second time")
    expect_each(more.numbers, [], "the completed events, the third time")


async def events_wait_for_absent_buses(env: CaseEnvironment) -> None:
    event_type = env.event_type()
    driver = env.driver()
    sender, first, second = env.bus(), env.bus(driver), env.bus(driver)
    received, again = env.listen(first, event_type), env.listen(second, event_type)
    async with env.open(sender):
        async with env.open(first):
            await sender.dispatch(event_type(n=0))
            await env.wait_for(received, 1)
        for n in range(1, 20):
            handle = await sender.dispatch(event_type(n=n))
            await handle.wait()
        async with env.open(second):
            await env.wait_for(again, 19)
            await env.flush(sender, event_type, again)
    expect_each(received.numbers, [0], "before the bus closed")
    expect_each(again.numbers, range(1, 20), "published while no bus was open")


async def accepted_events_have_receipts(env: CaseEnvironment) -> None:
    event_type = env.event_type()
    sender = env.bus()
    async with env.open(sender):
        handles = [await sender.dispatch(event_type(n=n)) for n in range(10)]
        for handle in handles:
            await handle.wait()
    receipts = [handle.receipt for handle in handles]
    expect(all(receipts) and len({*receipts}) == 10, f"the receipts of ten events: {receipts}")
