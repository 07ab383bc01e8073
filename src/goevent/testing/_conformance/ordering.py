"""Cases about order: of one publisher and name, and one at a time at a listener."""

from __future__ import annotations

import random
from typing import Any

import trio

from ... import GoEvent
from .expect import expect, expect_each, expect_same
from .seen import Numbered
from .stage import Stage


async def order_is_kept(stage: Stage) -> None:
    kinds = [stage.kind(f"k{n}") for n in range(3)]
    senders = [stage.bus() for _ in range(3)]
    receiver = stage.bus()
    inline = [stage.listen(receiver, kind) for kind in kinds]
    mailed = [stage.listen(receiver, kind, async_=True, mailbox=3) for kind in kinds]

    async def publish(bus: GoEvent, sender: int) -> None:
        chance = random.Random(sender)  # noqa: S311 - not a secret
        sent = dict.fromkeys(kinds, 0)
        while min(sent.values()) < 100:
            kind = chance.choice([kind for kind in kinds if sent[kind] < 100])
            await bus.dispatch(kind(n=sent[kind], sender=sender))
            sent[kind] += 1
            if chance.random() < 0.1:
                await trio.lowlevel.checkpoint()

    async with stage.open(receiver, *senders):
        async with trio.open_nursery() as nursery:
            for sender, bus in enumerate(senders):
                nursery.start_soon(publish, bus, sender)
        for seen in (*inline, *mailed):
            await stage.arrived(seen, 300)
    for seen in (*inline, *mailed):
        for sender in range(3):
            expect_same(seen.of(sender), range(100), f"one name from publisher {sender}")


async def one_at_a_time(stage: Stage) -> None:
    kind = stage.kind()
    senders = [stage.bus() for _ in range(3)]
    receiver = stage.bus()
    running = 0
    most: list[int] = []
    seen = stage.listen(receiver, kind)
    done: list[Numbered] = []

    async def run(event: Any) -> None:
        nonlocal running
        running += 1
        most.append(running)
        for _ in range(3):
            await trio.lowlevel.checkpoint()
        running -= 1
        done.append(event)
        stage.stir()

    async def publish(bus: GoEvent, sender: int) -> None:
        for n in range(30):
            await bus.dispatch(kind(n=n, sender=sender))

    receiver.subscribe(run, kind, mailbox=2)
    async with stage.open(receiver, *senders):
        async with trio.open_nursery() as nursery:
            for sender, bus in enumerate(senders):
                nursery.start_soon(publish, bus, sender)
        await stage.until(lambda: len(done) >= 90, lambda: f"90 runs, of which {len(done)} ended")
    expect(max(most) == 1, f"a listener ran {max(most)} times at once")
    for sender in range(3):
        mine = [event.n for event in done if event.sender == sender]
        check = expect_same if stage.capabilities.ordered else expect_each
        check(mine, range(30), f"the runs for publisher {sender}")
        expect_each(seen.of(sender), range(30), f"the events of publisher {sender}")
