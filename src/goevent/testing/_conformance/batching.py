"""Cases about batches: `dispatch_many` brings each event once, and each has its own result."""

from __future__ import annotations

from typing import Any

import trio

from ... import BatchHandle, EncodeError, Event, GoEvent, current_delivery
from .arrival import AddHeaders
from .environment import CaseEnvironment
from .expect import expect, expect_each, expect_same
from .received import ReceivedEvents

BATCH_SIZES = (1, 2, 100, 0, 300, 3)
"""The sizes of batches; one is larger than a driver gets in one call."""


async def batches_arrive(env: CaseEnvironment) -> None:
    event_type = env.event_type()
    sender, one, two = env.bus(), env.bus(), env.bus()
    inline = env.listen(one, event_type)
    mailed = env.listen(two, event_type, async_=True, mailbox=7)
    count = 0
    async with env.open(one, two, sender):
        batches: list[BatchHandle] = []
        # First at once, so that a batch is under way while the next one is dispatched. Then each
        # batch begins while nothing is under way.
        for waits in (False, True):
            for size in BATCH_SIZES:
                if waits:
                    await sender.wait()
                numbers = range(count, count + size)
                batches.append(await sender.dispatch_many(event_type(n=n) for n in numbers))
                await sender.dispatch(event_type(n=count + size))
                count += size + 1
        for batch in batches:
            await batch.wait()
            batch.raise_errors()
        for received in (inline, mailed):
            await env.wait_for(received, count)
        await env.flush(sender, event_type, inline, mailed)
    check = expect_same if env.capabilities.ordered else expect_each
    for received in (inline, mailed):
        check(received.numbers, range(count), "the events of batches and those between them")


async def batches_of_many_tasks_arrive(env: CaseEnvironment) -> None:
    event_types = [env.event_type(f"k{n}") for n in range(3)]
    sender, receiver = env.bus(), env.bus()
    received = [env.listen(receiver, event_type) for event_type in event_types]

    async def send(task: int) -> None:
        for first in range(0, 60, 20):
            batch = await sender.dispatch_many(
                event_type(n=first + n, sender=task)
                for n in range(20)
                for event_type in event_types
            )
            await batch.wait()
            batch.raise_errors()

    async with env.open(receiver, sender):
        async with trio.open_nursery() as nursery:
            for task in range(5):
                nursery.start_soon(send, task)
        for each in received:
            await env.wait_for(each, 300)
    check = expect_same if env.capabilities.ordered else expect_each
    for each in received:
        for task in range(5):
            check(each.of(task), range(60), f"the batches of task {task} under one name")


async def events_of_a_batch_fail_alone(env: CaseEnvironment) -> None:
    class AnyContent(Event, name=f"{env.prefix}.any", registry=env.registry):
        n: int = 0
        thing: Any = None

    limit = env.capabilities.max_size or 1 << 20
    bad = {3: object(), 4: "x" * limit, 9: object(), 19: "x" * limit}
    sender, receiver = env.bus(failing=True), env.bus()
    own, received = env.listen(sender, AnyContent), env.listen(receiver, AnyContent)
    async with env.open(receiver, sender):
        batch = await sender.dispatch_many(AnyContent(n=n, thing=bad.get(n)) for n in range(20))
        await batch.wait()
        good = [n for n in range(20) if n not in bad]
        await env.wait_for(received, len(good))
        expect_each(received.numbers, good, "the events that can be sent")
        for n, handle in enumerate(batch):
            causes = [error.__cause__ for error in handle.errors]
            correct = all(isinstance(cause, EncodeError) for cause in causes)
            expect(correct and len(causes) == (n in bad), f"handle {n} of a batch got {causes}")
        # None of the failures touches the events that are sent next.
        again = await sender.dispatch_many(AnyContent(n=n) for n in range(20, 25))
        await again.wait()
        again.raise_errors()
        await env.wait_for(received, len(good) + 5)
    if env.capabilities.fan_out:
        expect_same(own.numbers, range(25), "the sender's own listener")


async def events_of_a_batch_have_their_receipts(env: CaseEnvironment) -> None:
    event_type = env.event_type()
    sender, receiver = env.bus(), env.bus()
    received = env.listen(receiver, event_type)
    async with env.open(receiver, sender):
        single = await sender.dispatch(event_type(n=0))
        await single.wait()
        batch = await sender.dispatch_many(event_type(n=n) for n in range(1, 150))
        await batch.wait()
        await env.wait_for(received, 150)
        receivers = {handle.receivers for handle in batch}
    expect(
        receivers == {single.receivers},
        f"a single event had {single.receivers} receivers, and those of a batch had {receivers}",
    )
    ids = [single.receipt, *batch.receipts]
    if single.receipt:
        expect(all(ids) and len({*ids}) == 150, f"the receipts of 150 events: {ids}")
    else:
        expect(not any(ids), f"only the events of a batch have receipts: {ids}")


async def headers_of_batches_arrive(env: CaseEnvironment) -> None:
    sent = {n: {"n": str(n), **({"odd": "yes"} if n % 2 else {})} for n in range(30)}
    event_type = env.event_type()
    sender, receiver = env.bus(middleware=(AddHeaders(sent),)), env.bus()
    got = ReceivedHeaders(env, receiver, event_type)
    async with env.open(receiver, sender):
        await sender.dispatch_many(event_type(n=n) for n in sent)
        await env.wait_for(got.received, len(sent))
        await sender.wait()
    for n, headers in sent.items():
        expect(got.headers[n] == headers, f"headers {headers} arrived as {got.headers[n]}")


class ReceivedHeaders:
    """The headers of the events that a bus has received, by the numbers of the events."""

    def __init__(self, env: CaseEnvironment, bus: GoEvent, event_type: type) -> None:
        self.headers: dict[int, dict[str, str]] = {}
        self.received = ReceivedEvents(env.notify)
        bus.subscribe(self._record, event_type, async_=True)

    def _record(self, event: Any) -> None:
        self.headers[event.n] = dict(current_delivery().headers)
        self.received.record(event)
