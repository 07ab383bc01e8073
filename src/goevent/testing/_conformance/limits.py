"""Cases about events that are large, too large or not encodable, and about failing listeners."""

from __future__ import annotations

from typing import Any

from ... import EncodeError, Event, EventRegistry
from .environment import CaseEnvironment
from .expect import expect, expect_each
from .received import ReceivedEvents

CODEC_LIMIT_BYTES = 1 << 20
# More than all parts of a message except the text.
ENVELOPE_BYTES = 1024


async def large_events_arrive(env: CaseEnvironment) -> None:
    event_type = env.event_type()
    limit = min(env.capabilities.max_size or CODEC_LIMIT_BYTES, CODEC_LIMIT_BYTES)
    sizes = [1, 1000, limit // 100, limit // 10, limit // 2, limit - ENVELOPE_BYTES, 10]
    sender, receiver = env.bus(), env.bus()
    received = env.listen(receiver, event_type)
    async with env.open(receiver, sender):
        for n, size in enumerate(sizes):
            await sender.dispatch(event_type(n=n, text=chr(97 + n) * size))
        await env.wait_for(received, len(sizes))
        await env.flush(sender, event_type, received)
    for n, event in zip(received.numbers, received.events, strict=True):
        expect(event.text == chr(97 + n) * sizes[n], f"an event of {sizes[n]} bytes was changed")
    expect_each(received.numbers, range(len(sizes)), f"events of {sizes} bytes")


async def too_large_events_fail_alone(env: CaseEnvironment) -> None:
    event_type = env.event_type()
    limit = min(env.capabilities.max_size or CODEC_LIMIT_BYTES, CODEC_LIMIT_BYTES)
    sender, receiver = env.bus(failing=True), env.bus()
    own, received = env.listen(sender, event_type), env.listen(receiver, event_type)
    async with env.open(receiver, sender):
        for n in range(6):
            handle = await sender.dispatch(event_type(n=n, text="x" * limit if n % 2 else "x"))
            await handle.wait()
            causes = [error.__cause__ for error in handle.errors]
            if n % 2:
                correct = len(causes) == 1 and isinstance(causes[0], EncodeError)
                expect(correct, f"the handle of an event that is too large got {causes}")
            else:
                expect(not causes, f"the handle of an event that is not too large got {causes}")
        await env.wait_for(received, 3)
        await env.flush(sender, event_type, received)
    expect_each(received.numbers, [0, 2, 4], "the events that were not too large")
    if env.capabilities.fan_out:
        expect_each(own.numbers, range(6), "the sender's own listener")


async def unencodable_events_fail_alone(env: CaseEnvironment) -> None:
    class AnyContent(Event, name=f"{env.prefix}.any", registry=env.registry):
        n: int = 0
        thing: Any = None

    sender, receiver = env.bus(failing=True), env.bus()
    own, received = env.listen(sender, AnyContent), env.listen(receiver, AnyContent)
    async with env.open(receiver, sender):
        for n in range(6):
            handle = await sender.dispatch(AnyContent(n=n, thing=object() if n % 2 else [n]))
            await handle.wait()
            causes = [error.__cause__ for error in handle.errors]
            correct = all(isinstance(cause, EncodeError) for cause in causes)
            expect(correct and len(causes) == n % 2, f"handle {n} got {causes}")
        await env.wait_for(received, 3)
        expect_each(received.numbers, [0, 2, 4], "the events that can be encoded")
    if env.capabilities.fan_out:
        expect_each(own.numbers, range(6), "the sender's own listener")


async def unknown_types_fail_alone(env: CaseEnvironment) -> None:
    event_type, known = env.event_type(), env.event_type("known")
    narrow = EventRegistry(strict=True)
    narrow.register_as(known.event_name, known)
    sender, receiver = env.bus(), env.bus(failing=True, registry=narrow)
    stranger, received = env.listen(receiver, event_type.event_name), env.listen(receiver, known)
    async with env.open(receiver, sender):
        for n in range(5):
            await sender.dispatch(event_type(n=n))
            await sender.dispatch(known(n=n))
        await env.wait_for(received, 5)
        await env.wait_until(
            lambda: len(env.expected_errors) >= 5,
            lambda: f"5 errors for 5 unknown events, of which {len(env.expected_errors)} came",
        )
        await env.flush(sender, known, received)
    expect(not stranger.events, "a listener got events of an unknown type")
    expect(
        len(env.expected_errors) == 5, f"5 unknown events were {len(env.expected_errors)} errors"
    )
    expect_each(received.numbers, range(5), "known events between unknown ones")


async def failing_listeners_stop_no_other(env: CaseEnvironment) -> None:
    event_type = env.event_type()
    sender, receiver, other = env.bus(), env.bus(failing=True), env.bus()
    before = env.listen(receiver, event_type)
    mailed = ReceivedEvents(env.notify)

    def fail(event: Any) -> None:
        raise ValueError(event.n)

    async def fail_later(event: Any) -> None:
        raise ExceptionGroup("both", [KeyError(event.n), OSError()])

    receiver.subscribe(fail, event_type)
    receiver.subscribe(fail_later, event_type)
    receiver.subscribe(mailed.record, event_type, async_=True)
    behind, elsewhere = env.listen(receiver, event_type), env.listen(other, event_type)
    async with env.open(receiver, other, sender):
        for n in range(20):
            handle = await sender.dispatch(event_type(n=n))
            await handle.wait()
            expect(not handle.errors, "a remote failure is on the handle of the sender")
        for received in (before, mailed, behind, elsewhere):
            await env.wait_for(received, 20)
        await env.wait_until(
            lambda: len(env.expected_errors) >= 40,
            lambda: f"40 failures, of which {len(env.expected_errors)} were reported",
        )
    # A durable driver may deliver a failed event again.
    again = env.capabilities.durable
    for received in (before, mailed, behind, elsewhere):
        numbers = [*dict.fromkeys(received.numbers)] if again else received.numbers
        expect_each(numbers, range(20), "a listener beside failing ones")
