"""Cases about deliveries: each is settled exactly once, and not before its listeners are done."""

from __future__ import annotations

from typing import Any

import trio

from .expect import expect
from .seen import Seen
from .spy import Handed
from .stage import Stage


async def settled_once_when_all_are_done(stage: Stage) -> None:
    kind = stage.kind()
    spy = stage.spy()
    sender, receiver = stage.bus(), stage.bus(spy, failing=True)
    seen, done = stage.listen(receiver, kind), Seen(stage.stir)
    gate = trio.Event()

    def fail(event: Any) -> None:
        if event.n % 3 == 1:
            raise ValueError(event.n)

    async def slow(event: Any) -> None:
        await gate.wait()
        if event.n >= 0 and event.n % 3 == 2:
            raise KeyError(event.n)
        done.note(event)

    receiver.subscribe(fail, kind)
    receiver.subscribe(slow, kind)
    async with stage.open(receiver, sender):
        for n in range(12):
            await sender.dispatch(kind(n=n))
        await stage.arrived(seen, 12)
        early = sum(len(handed.settlements) for handed in spy.handed)
        expect(not early, f"{early} deliveries were settled before their listeners were done")
        gate.set()
        await all_settled(stage, spy.handed, 12)
        await stage.flush(sender, kind, seen, done)
        await all_settled(stage, spy.handed, 13)
    expect_once(spy.handed, 13)
    # What has failed may come again.
    failed = [handed.outcomes for handed in spy.handed if handed.deliveries == 1].count(("failed",))
    expect(failed == 8, f"8 deliveries failed, and {failed} were settled so")
    expect_told(stage, spy.handed)


async def settled_once_when_dropped(stage: Stage) -> None:
    kind, other = stage.kind(), stage.kind("other")
    spy = stage.spy()
    sender, receiver = stage.bus(), stage.bus(spy, failing=True)
    seen, rest = stage.listen(receiver, kind), stage.listen(receiver, other)
    gate = trio.Event()

    async def slow(event: Any) -> None:
        await gate.wait()

    registrations = [
        receiver.subscribe(slow, kind, mailbox=1, overflow="drop_new"),
        receiver.subscribe(slow, kind, mailbox=1, overflow="drop_old"),
        receiver.subscribe(slow, kind),
    ]
    async with stage.open(receiver, sender):
        for n in range(10):
            await sender.dispatch(kind(n=n))
        await stage.arrived(seen, 10)
        registrations[2].unregister()
        gate.set()
        await all_settled(stage, spy.handed, 10)
        receiver.unregister_listeners_for_event(kind)
        await sender.dispatch(kind(n=10))  # perhaps it is still brought, perhaps not
        await sender.dispatch(other(n=11))
        await stage.flush(sender, other, rest)
        await all_settled(stage, spy.handed, 12)
    expect_once(spy.handed, 12)
    dropped = sum("dropped" in handed.outcomes for handed in spy.handed)
    expect(dropped >= 8, f"8 deliveries were dropped, and {dropped} were settled so")
    expect_told(stage, spy.handed)


async def settled_once_when_abandoned(stage: Stage) -> None:
    kind = stage.kind()
    for cancelled in (False, True):
        spy = stage.spy()
        sender, receiver = stage.bus(), stage.bus(spy, failing=True)
        seen = stage.listen(receiver, kind)

        async def stuck(event: Any) -> None:
            await trio.sleep_forever()

        receiver.subscribe(stuck, kind, mailbox=2)  # so that others wait for room
        async with stage.open(sender):
            with trio.CancelScope() as scope:
                async with stage.open(receiver):
                    for n in range(10):
                        await sender.dispatch(kind(n=n))
                    await stage.arrived(seen, 3)
                    if cancelled:
                        scope.cancel()
                    else:
                        await receiver.close(timeout=0)
        expect_once(spy.handed, 3)
        kept = [handed.outcomes for handed in spy.handed if "abandoned" not in handed.outcomes]
        expect(not kept, f"deliveries that were abandoned were settled with {kept}")
        expect_told(stage, spy.handed)


async def all_settled(stage: Stage, handed: list[Handed], count: int) -> None:
    """Wait until so many deliveries, and all there are, are settled."""

    def settled() -> int:
        return sum(bool(each.settlements) for each in handed)

    await stage.until(
        lambda: len(handed) >= count and settled() == len(handed),
        lambda: f"{count} deliveries to be settled: of {len(handed)}, {settled()} are",
    )


def expect_once(handed: list[Handed], least: int) -> None:
    """Fail unless each delivery is settled exactly once."""
    expect(len(handed) >= least, f"of {least} deliveries, {len(handed)} were handed over")
    counts = [len(each.settlements) for each in handed]
    wrong = [count for count in counts if count != 1]
    expect(not wrong, f"{len(wrong)} of {len(counts)} deliveries were settled {wrong} times")


def expect_told(stage: Stage, handed: list[Handed]) -> None:
    """Fail unless a durable driver has asked to be told of the end of each delivery."""
    if stage.capabilities.durable:
        deaf = sum(not each.told for each in handed)
        expect(not deaf, f"the driver does not hear of the end of {deaf} deliveries")
    raised = [
        error
        for error in stage.expected
        if error.listener == "driver" and error.outcome == "failed"
    ]
    expect(not raised, f"settling a delivery has raised: {raised[:3]}")
