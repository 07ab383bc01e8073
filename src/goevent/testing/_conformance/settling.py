"""Cases about settlements: a delivery is settled once, after all its listeners are done."""

from __future__ import annotations

from typing import Any

import trio

from ... import DeadLettered
from .environment import CaseEnvironment
from .expect import expect
from .received import ReceivedEvents
from .recording import RecordedDelivery


async def settled_once_when_all_are_done(env: CaseEnvironment) -> None:
    event_type = env.event_type()
    recording = env.recording_driver()
    sender, receiver = env.bus(), env.bus(recording, failing=True)
    received, done = env.listen(receiver, event_type), ReceivedEvents(env.notify)
    gate = trio.Event()

    def fail(event: Any) -> None:
        if event.n % 3 == 1:
            raise ValueError(event.n)

    async def slow(event: Any) -> None:
        await gate.wait()
        if event.n >= 0 and event.n % 3 == 2:
            raise KeyError(event.n)
        done.record(event)

    receiver.subscribe(fail, event_type)
    receiver.subscribe(slow, event_type)
    async with env.open(receiver, sender):
        for n in range(12):
            await sender.dispatch(event_type(n=n))
        await env.wait_for(received, 12)
        # The waiting listener has completed none of the events.
        early = sum(len(delivery.settlements) for delivery in recording.delivered)
        expect(not early, f"{early} deliveries were settled before their listeners were done")
        gate.set()
        await wait_until_settled(env, recording.delivered, 12)
        await env.flush(sender, event_type, received, done)
        await wait_until_settled(env, recording.delivered, 13)
    expect_once(recording.delivered, 13)
    # A failed event may be delivered again; only first deliveries are counted.
    failed = [
        delivery.outcomes for delivery in recording.delivered if delivery.deliveries == 1
    ].count(("failed",))
    expect(failed == 8, f"8 deliveries failed, and {failed} were settled so")
    expect_settle_functions(env, recording.delivered)


async def settled_once_when_dropped(env: CaseEnvironment) -> None:
    event_type, other = env.event_type(), env.event_type("other")
    recording = env.recording_driver()
    sender, receiver = env.bus(), env.bus(recording, failing=True)
    received, rest = env.listen(receiver, event_type), env.listen(receiver, other)
    gate = trio.Event()

    async def slow(event: Any) -> None:
        await gate.wait()

    registrations = [
        receiver.subscribe(slow, event_type, mailbox=1, overflow="drop_new"),
        receiver.subscribe(slow, event_type, mailbox=1, overflow="drop_old"),
        receiver.subscribe(slow, event_type),
    ]
    async with env.open(receiver, sender):
        for n in range(10):
            await sender.dispatch(event_type(n=n))
        await env.wait_for(received, 10)
        registrations[2].unregister()
        gate.set()
        await wait_until_settled(env, recording.delivered, 10)
        receiver.unregister_listeners_for_event(event_type)
        await sender.dispatch(event_type(n=10))  # it may or may not still be delivered
        await sender.dispatch(other(n=11))
        await env.flush(sender, other, rest)
        await wait_until_settled(env, recording.delivered, 12)
    expect_once(recording.delivered, 12)
    dropped = sum("dropped" in delivery.outcomes for delivery in recording.delivered)
    expect(dropped >= 8, f"8 deliveries were dropped, and {dropped} were settled so")
    expect_settle_functions(env, recording.delivered)


async def settled_once_when_abandoned(env: CaseEnvironment) -> None:
    event_type = env.event_type()
    for cancelled in (False, True):
        recording = env.recording_driver()
        sender, receiver = env.bus(), env.bus(recording, failing=True)
        received = env.listen(receiver, event_type)

        async def stuck(event: Any) -> None:
            await trio.sleep_forever()

        receiver.subscribe(stuck, event_type, mailbox=2)  # further events wait for room
        async with env.open(sender):
            with trio.CancelScope() as scope:
                async with env.open(receiver):
                    for n in range(10):
                        await sender.dispatch(event_type(n=n))
                    await env.wait_for(received, 3)
                    if cancelled:
                        scope.cancel()
                    else:
                        await receiver.close(timeout=0)
        expect_once(recording.delivered, 3)
        kept = [
            delivery.outcomes
            for delivery in recording.delivered
            if "abandoned" not in delivery.outcomes
        ]
        expect(not kept, f"deliveries that were abandoned were settled with {kept}")
        expect_settle_functions(env, recording.delivered)


async def wait_until_settled(
    env: CaseEnvironment, delivered: list[RecordedDelivery], count: int
) -> None:
    """Wait until there are at least `count` deliveries and all deliveries are settled."""

    def settled() -> int:
        return sum(bool(each.settlements) for each in delivered)

    await env.wait_until(
        lambda: len(delivered) >= count and settled() == len(delivered),
        lambda: f"{count} deliveries to be settled: of {len(delivered)}, {settled()} are",
    )


def expect_once(delivered: list[RecordedDelivery], least: int) -> None:
    """Fail unless each delivery is settled exactly once."""
    expect(len(delivered) >= least, f"of {least} deliveries, {len(delivered)} have arrived")
    counts = [len(each.settlements) for each in delivered]
    wrong = [count for count in counts if count != 1]
    expect(not wrong, f"{len(wrong)} of {len(counts)} deliveries were settled {wrong} times")


def expect_settle_functions(env: CaseEnvironment, delivered: list[RecordedDelivery]) -> None:
    """Fail unless a durable driver has passed a `settle` function with each delivery."""
    if env.capabilities.durable:
        without = sum(not each.wants_settlement for each in delivered)
        expect(not without, f"the driver asks for no settlement of {without} deliveries")
    raised = [
        error
        for error in env.expected_errors
        if error.listener == "driver"
        and error.outcome == "failed"
        # An event that fails is delivered again meanwhile, on a busy machine up to the limit.
        and not isinstance(error.error, DeadLettered)
    ]
    expect(not raised, f"the driver raised in `settle`: {raised[:3]}")
