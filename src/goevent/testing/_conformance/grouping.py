"""Cases about groups of competing consumers, and about events that outlive those who get them."""

from __future__ import annotations

from typing import Any

import trio

from .expect import expect, expect_each
from .seen import Seen
from .stage import Stage


async def each_group_gets_it_once(stage: Stage) -> None:
    kind = stage.kind()
    sender = stage.bus()
    pair, single = [stage.bus(stage.driver("pair")) for _ in range(2)], stage.bus()
    shared = [stage.listen(bus, kind, async_=True) for bus in pair]
    alone = stage.listen(single, kind)
    async with stage.open(*pair, single, sender):
        for n in range(100):
            handle = await sender.dispatch(kind(n=n))
            await handle.wait()
        await stage.arrived(alone, 100)
        await stage.until(
            lambda: sum(len(seen.events) for seen in shared) >= 100,
            lambda: f"100 events at {[len(seen.events) for seen in shared]}",
        )
        await pair[0].close()
        for n in range(100, 150):
            await sender.dispatch(kind(n=n))
        await stage.until(
            lambda: sum(len(seen.events) for seen in shared) >= 150,
            lambda: f"150 events at {[len(seen.events) for seen in shared]}",
        )
        await stage.flush(sender, kind, alone, shared[1])
    together = [n for seen in shared for n in seen.numbers]
    expect_each(together, range(150), "a group of two, of whom one has left")
    expect_each(alone.numbers, range(150), "a group of one")


async def undelivered_events_come_again(stage: Stage) -> None:
    kind, end = stage.kind(), stage.kind("end")
    driver = stage.driver()
    sender, first = stage.bus(), stage.bus(driver, failing=True)
    done, begun = Seen(stage.stir), Seen(stage.stir)

    async def half(event: Any) -> None:
        begun.note(event)
        if event.n % 2:
            await trio.sleep_forever()
        done.note(event)

    first.subscribe(half, kind, concurrency=20)
    async with stage.open(sender):
        async with stage.open(first):
            for n in range(20):
                await sender.dispatch(kind(n=n))
            await stage.arrived(begun, 20)
            await stage.arrived(done, 10)
            await first.close(timeout=0)
        second = stage.bus(driver)
        again = stage.listen(second, kind, end)
        async with stage.open(second):
            await stage.arrived(again, 10)
            await stage.flush(sender, end, again)
        third = stage.bus(driver)
        more = stage.listen(third, kind, end)
        async with stage.open(third):
            await stage.flush(sender, end, more)
    expect_each(done.numbers, range(0, 20, 2), "the first time")
    expect_each(again.numbers, range(1, 20, 2), "those that were abandoned, the second time")
    expect_each(more.numbers, [], "those that were completed, the third time")


async def events_wait_for_those_who_are_away(stage: Stage) -> None:
    kind = stage.kind()
    driver = stage.driver()
    sender, first, second = stage.bus(), stage.bus(driver), stage.bus(driver)
    seen, again = stage.listen(first, kind), stage.listen(second, kind)
    async with stage.open(sender):
        async with stage.open(first):
            await sender.dispatch(kind(n=0))
            await stage.arrived(seen, 1)
        for n in range(1, 20):
            handle = await sender.dispatch(kind(n=n))
            await handle.wait()
        async with stage.open(second):
            await stage.arrived(again, 19)
            await stage.flush(sender, kind, again)
    expect_each(seen.numbers, [0], "before it went away")
    expect_each(again.numbers, range(1, 20), "of the time when it was away")


async def accepted_events_have_receipts(stage: Stage) -> None:
    kind = stage.kind()
    sender = stage.bus()
    async with stage.open(sender):
        handles = [await sender.dispatch(kind(n=n)) for n in range(10)]
        for handle in handles:
            await handle.wait()
    receipts = [handle.receipt for handle in handles]
    expect(all(receipts) and len({*receipts}) == 10, f"the receipts of ten events: {receipts}")
