"""Cases about events that are large, too large, or no data at all, and listeners that fail."""

from __future__ import annotations

from typing import Any

from ... import EncodeError, Event, EventRegistry
from .expect import expect, expect_each
from .seen import Seen
from .stage import Stage

CODEC_LIMIT = 1 << 20
ENVELOPE = 1024  # bytes, more than everything besides the text needs


async def large_events_arrive(stage: Stage) -> None:
    kind = stage.kind()
    limit = min(stage.capabilities.max_size or CODEC_LIMIT, CODEC_LIMIT)
    sizes = [1, 1000, limit // 100, limit // 10, limit // 2, limit - ENVELOPE, 10]
    sender, receiver = stage.bus(), stage.bus()
    seen = stage.listen(receiver, kind)
    async with stage.open(receiver, sender):
        for n, size in enumerate(sizes):
            await sender.dispatch(kind(n=n, text=chr(97 + n) * size))
        await stage.arrived(seen, len(sizes))
        await stage.flush(sender, kind, seen)
    for n, event in zip(seen.numbers, seen.events, strict=True):
        expect(event.text == chr(97 + n) * sizes[n], f"an event of {sizes[n]} bytes was changed")
    expect_each(seen.numbers, range(len(sizes)), f"events of {sizes} bytes")


async def too_large_events_fail_alone(stage: Stage) -> None:
    kind = stage.kind()
    limit = min(stage.capabilities.max_size or CODEC_LIMIT, CODEC_LIMIT)
    sender, receiver = stage.bus(failing=True), stage.bus()
    own, seen = stage.listen(sender, kind), stage.listen(receiver, kind)
    async with stage.open(receiver, sender):
        for n in range(6):
            handle = await sender.dispatch(kind(n=n, text="x" * limit if n % 2 else "x"))
            await handle.wait()
            causes = [error.__cause__ for error in handle.errors]
            if n % 2:
                told = len(causes) == 1 and isinstance(causes[0], EncodeError)
                expect(told, f"the handle of an event that is too large got {causes}")
            else:
                expect(not causes, f"the handle of an event that is not too large got {causes}")
        await stage.arrived(seen, 3)
        await stage.flush(sender, kind, seen)
    expect_each(seen.numbers, [0, 2, 4], "those that were not too large")
    if stage.capabilities.fan_out:
        expect_each(own.numbers, range(6), "the sender's own listener")


async def what_is_no_data_fails_alone(stage: Stage) -> None:
    class Loose(Event, name=f"{stage.token}.loose", registry=stage.registry):
        n: int = 0
        thing: Any = None

    sender, receiver = stage.bus(failing=True), stage.bus()
    own, seen = stage.listen(sender, Loose), stage.listen(receiver, Loose)
    async with stage.open(receiver, sender):
        for n in range(6):
            handle = await sender.dispatch(Loose(n=n, thing=object() if n % 2 else [n]))
            await handle.wait()
            causes = [error.__cause__ for error in handle.errors]
            told = all(isinstance(cause, EncodeError) for cause in causes)
            expect(told and len(causes) == n % 2, f"handle {n} got {causes}")
        await stage.arrived(seen, 3)
        expect_each(seen.numbers, [0, 2, 4], "those that can be encoded")
    if stage.capabilities.fan_out:
        expect_each(own.numbers, range(6), "the sender's own listener")


async def unknown_types_fail_alone(stage: Stage) -> None:
    kind, known = stage.kind(), stage.kind("known")
    narrow = EventRegistry()
    narrow.register_as(known.event_name, known)
    sender, receiver = stage.bus(), stage.bus(failing=True, registry=narrow)
    stranger, seen = stage.listen(receiver, kind.event_name), stage.listen(receiver, known)
    async with stage.open(receiver, sender):
        for n in range(5):
            await sender.dispatch(kind(n=n))
            await sender.dispatch(known(n=n))
        await stage.arrived(seen, 5)
        await stage.until(
            lambda: len(stage.expected) >= 5,
            lambda: f"5 errors for 5 unknown events, of which {len(stage.expected)} came",
        )
        await stage.flush(sender, known, seen)
    expect(not stranger.events, "a listener got events of an unknown type")
    expect(len(stage.expected) == 5, f"5 unknown events were {len(stage.expected)} errors")
    expect_each(seen.numbers, range(5), "known events between unknown ones")


async def failing_listeners_stop_nobody(stage: Stage) -> None:
    kind = stage.kind()
    sender, receiver, other = stage.bus(), stage.bus(failing=True), stage.bus()
    before = stage.listen(receiver, kind)
    mailed = Seen(stage.stir)

    def fail(event: Any) -> None:
        raise ValueError(event.n)

    async def fail_later(event: Any) -> None:
        raise ExceptionGroup("both", [KeyError(event.n), OSError()])

    receiver.subscribe(fail, kind)
    receiver.subscribe(fail_later, kind)
    receiver.subscribe(mailed.note, kind, async_=True)
    behind, elsewhere = stage.listen(receiver, kind), stage.listen(other, kind)
    async with stage.open(receiver, other, sender):
        for n in range(20):
            handle = await sender.dispatch(kind(n=n))
            await handle.wait()
            expect(not handle.errors, "a remote failure is on the handle of the sender")
        for seen in (before, mailed, behind, elsewhere):
            await stage.arrived(seen, 20)
        await stage.until(
            lambda: len(stage.expected) >= 40,
            lambda: f"40 failures, of which {len(stage.expected)} were reported",
        )
    again = stage.capabilities.durable  # what has failed may come again
    for seen in (before, mailed, behind, elsewhere):
        numbers = [*dict.fromkeys(seen.numbers)] if again else seen.numbers
        expect_each(numbers, range(20), "a listener beside failing ones")
