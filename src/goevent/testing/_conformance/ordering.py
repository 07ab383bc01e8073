"""Cases about order: the order of one publisher and name, and one run at a time."""

from __future__ import annotations

import random
from typing import Any

import trio

from ... import GoEvent
from .environment import CaseEnvironment
from .expect import expect, expect_each, expect_same
from .received import NumberedEvent


async def order_is_kept(env: CaseEnvironment) -> None:
    event_types = [env.event_type(f"k{n}") for n in range(3)]
    senders = [env.bus() for _ in range(3)]
    receiver = env.bus()
    inline = [env.listen(receiver, event_type) for event_type in event_types]
    mailed = [
        env.listen(receiver, event_type, async_=True, mailbox=3) for event_type in event_types
    ]

    async def publish(bus: GoEvent, sender: int) -> None:
        chance = random.Random(sender)  # noqa: S311 - not a secret
        sent = dict.fromkeys(event_types, 0)
        while min(sent.values()) < 100:
            event_type = chance.choice(
                [event_type for event_type in event_types if sent[event_type] < 100]
            )
            await bus.dispatch(event_type(n=sent[event_type], sender=sender))
            sent[event_type] += 1
            if chance.random() < 0.1:
                await trio.lowlevel.checkpoint()

    async with env.open(receiver, *senders):
        async with trio.open_nursery() as nursery:
            for sender, bus in enumerate(senders):
                nursery.start_soon(publish, bus, sender)
        for received in (*inline, *mailed):
            await env.wait_for(received, 300)
    for received in (*inline, *mailed):
        for sender in range(3):
            expect_same(received.of(sender), range(100), f"one name from publisher {sender}")


async def one_at_a_time(env: CaseEnvironment) -> None:
    event_type = env.event_type()
    senders = [env.bus() for _ in range(3)]
    receiver = env.bus()
    running = 0
    most: list[int] = []
    received = env.listen(receiver, event_type)
    done: list[NumberedEvent] = []

    async def run(event: Any) -> None:
        nonlocal running
        running += 1
        most.append(running)
        for _ in range(3):
            await trio.lowlevel.checkpoint()
        running -= 1
        done.append(event)
        env.notify()

    async def publish(bus: GoEvent, sender: int) -> None:
        for n in range(30):
            await bus.dispatch(event_type(n=n, sender=sender))

    receiver.subscribe(run, event_type, mailbox=2)
    async with env.open(receiver, *senders):
        async with trio.open_nursery() as nursery:
            for sender, bus in enumerate(senders):
                nursery.start_soon(publish, bus, sender)
        await env.wait_until(
            lambda: len(done) >= 90, lambda: f"90 runs, of which {len(done)} ended"
        )
    expect(max(most) == 1, f"a listener ran {max(most)} times at once")
    for sender in range(3):
        mine = [event.n for event in done if event.sender == sender]
        check = expect_same if env.capabilities.ordered else expect_each
        check(mine, range(30), f"the runs for publisher {sender}")
        expect_each(received.of(sender), range(30), f"the events of publisher {sender}")
