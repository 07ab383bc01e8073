"""Cases about what arrives: everything that was published, once, and as it was sent."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import trio

from ... import DispatchHandle, Event, GoEvent, current_delivery
from .expect import expect, expect_each, expect_same
from .seen import Numbered, Seen
from .stage import Stage

PAYLOADS: tuple[dict[str, Any], ...] = (
    {"text": ""},
    {"text": "plain"},
    {"text": "gr\u00fc\u00df dich, \u4e16\u754c \U0001f600"},
    {"text": "line\r\nfeed\ttab \x00 nul \x7f \u2028 end"},
    {"text": '"quoted" \\ {braces} [brackets] * ? %s $1'},
    {"number": -(2**63), "fraction": 1e-9},
    {"number": 2**63 - 1, "fraction": -12345.678},
    {"items": [1, "two", None, [3.5, {"four": []}], True]},
    {"table": {"": 0, "nested": {"deep": {"er": [False]}}, "\u00e9": "\u00e9"}},
    {"when": datetime(2024, 2, 29, 23, 59, 59, 999999, tzinfo=UTC), "flag": True},
)


async def everything_arrives(stage: Stage) -> None:
    class Rich(Event, name=f"{stage.token}.rich", registry=stage.registry):
        text: str = ""
        number: int = 0
        fraction: float = 0.0
        flag: bool = False
        nothing: str | None = None
        items: list[Any] | None = None
        table: dict[str, Any] | None = None
        when: datetime = datetime(2020, 1, 1, tzinfo=UTC)

    kind = stage.kind("end")
    sender, one, two = stage.bus(), stage.bus(), stage.bus()
    inline, mailed = stage.listen(one, Rich, kind), stage.listen(two, Rich, kind, async_=True)
    sent = [Rich(**payload) for payload in PAYLOADS * 20]
    async with stage.open(one, two, sender):
        for event in sent:
            await sender.dispatch(event)
        for seen in (inline, mailed):
            await stage.arrived(seen, len(sent))
        await stage.flush(sender, kind, inline, mailed)
        await sender.wait()
    for seen in (inline, mailed):
        expect(len(seen.events) == len(sent), f"{len(sent)} events became {len(seen.events)}")
        changed = [event for event in seen.events if event not in sent]
        expect(not changed, f"these were not sent: {changed[:3]}")
        if stage.capabilities.ordered:
            expect(seen.events == sent, "they arrived in another order")


class Stamp:
    """Puts headers on what is dispatched."""

    def __init__(self, headers: dict[int, dict[str, str]]) -> None:
        self._headers = headers

    def around_dispatch(self, handle: DispatchHandle) -> Iterator[None]:
        event = handle.event
        if isinstance(event, Numbered):
            handle.headers.update(self._headers.get(event.n, {}))
        yield


async def headers_arrive(stage: Stage) -> None:
    sent = {
        0: {},
        1: {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"},
        2: {"a": "", "B": "upper", "with-dash": "with space", "x_y.z": "=;,:\"'"},
        3: {"text": "gr\u00fc\u00df dich, \u4e16\u754c \U0001f600"},
        4: {},
        5: {f"key{n}": "v" * 50 for n in range(20)},
    }
    kind = stage.kind()
    sender, receiver = stage.bus(middleware=(Stamp(sent),)), stage.bus()
    got: dict[int, dict[str, str]] = {}
    seen = Seen(stage.stir)

    async def note(event: Any) -> None:
        if event.n >= 0:
            got[event.n] = dict(current_delivery().headers)
        seen.note(event)

    receiver.subscribe(note, kind)
    async with stage.open(receiver, sender):
        for n in sent:
            await sender.dispatch(kind(n=n))
        await stage.arrived(seen, len(sent))
        await stage.flush(sender, kind, seen)
    for n, headers in sent.items():
        expect(got[n] == headers, f"headers {headers} arrived as {got[n]}")


async def fifty_publish_at_once(stage: Stage) -> None:
    kind = stage.kind()
    senders = [stage.bus() for _ in range(5)]
    receivers = [stage.bus(), stage.bus()]
    seen = [stage.listen(bus, kind, async_=True) for bus in receivers]
    numbers = range(20)

    async def publish(bus: GoEvent, sender: int) -> None:
        for n in numbers:
            handle = await bus.dispatch(kind(n=n, sender=sender))
            await handle.wait()
            handle.raise_errors()

    async with stage.open(*receivers, *senders):
        async with trio.open_nursery() as nursery:
            for task in range(50):
                nursery.start_soon(publish, senders[task % len(senders)], task)
        for each in seen:
            await stage.arrived(each, 50 * len(numbers))
        for bus in senders:
            await stage.flush(bus, kind, *seen)
    for each in seen:
        for sender in range(50):
            check = expect_same if stage.capabilities.ordered else expect_each
            check(each.of(sender), numbers, f"the events of publisher {sender}")


async def own_listeners_get_it_once(stage: Stage) -> None:
    kind, answer = stage.kind(), stage.kind("answer")
    one, two = stage.bus(), stage.bus()
    own, mailed = stage.listen(one, kind, answer), stage.listen(one, kind, answer, async_=True)
    theirs, answers = stage.listen(two, kind, answer), stage.listen(two, answer)
    async with stage.open(one, two):
        for n in range(50):
            handle = await one.dispatch(kind(n=n))
            if stage.capabilities.fan_out:
                expect_same(own.numbers, range(n + 1), "the own listeners, at once")
            await handle.wait()
        await stage.arrived(theirs, 50)
        # What comes back of its own has done so before the others' answer.
        await stage.flush(two, answer, own, mailed, answers)
        await stage.flush(one, kind, own, mailed, theirs)
        await stage.flush(two, answer, own, mailed, answers)
    for seen, whose in ((own, "own inline"), (mailed, "own mailed"), (theirs, "other bus's")):
        check = expect_same if stage.capabilities.ordered else expect_each
        check(seen.numbers, range(50), f"at the {whose} listener")


async def buses_answer_each_other(stage: Stage) -> None:
    kind, answer = stage.kind(), stage.kind("answer")
    one, two = stage.bus(), stage.bus()
    answers = stage.listen(one, answer)
    spy = stage.spy()
    third = stage.bus(spy)
    there = stage.listen(third, kind)

    async def reply(event: Any) -> None:
        if event.n >= 0:
            await two.dispatch(answer(n=event.n))

    two.subscribe(reply, kind)
    async with stage.open(one, two, third):
        for n in range(30):
            await one.dispatch(kind(n=n))
        await stage.arrived(answers, 30)
        await stage.arrived(there, 30)
        await stage.flush(two, answer, answers)
        await stage.flush(one, kind, there)
    expect_each(answers.numbers, range(30), "the answers")
    expect(not spy.published, "a bus has sent on what had come from another one")


async def slow_listener_gets_all(stage: Stage) -> None:
    kind = stage.kind()
    text = "x" * min(4000, (stage.capabilities.max_size or 4000) // 2)
    sender, receiver = stage.bus(), stage.bus(failing=not stage.capabilities.lossless)
    seen = Seen(stage.stir)
    gate = trio.Event()

    async def slow(event: Any) -> None:
        await gate.wait()
        seen.note(event)

    receiver.subscribe(slow, kind, mailbox=1)
    async with stage.open(receiver, sender):
        for n in range(500):
            await sender.dispatch(kind(n=n, text=text))
        gate.set()
        if stage.capabilities.lossless:
            await stage.arrived(seen, 500)
        await sender.wait()
        await stage.reach(sender, kind, seen)
    if stage.capabilities.lossless:
        check = expect_same if stage.capabilities.ordered else expect_each
        check(seen.numbers, range(500), "at a slow listener")
        return
    expect(len(seen.numbers) == len({*seen.numbers}), "something arrived twice")
    if stage.capabilities.ordered:
        expect(seen.numbers == sorted(seen.numbers), "they arrived in another order")
    lost = 500 - len(seen.numbers)
    expect(not lost or stage.expected, f"{lost} events were lost, and nobody was told")


async def receivers_are_counted(stage: Stage) -> None:
    kind = stage.kind()
    sender, one, two = stage.bus(), stage.bus(), stage.bus()
    async with stage.open(sender, one, two):
        counts: list[int | None] = []
        for bus in (one, two):
            handle = await sender.dispatch(kind(n=0))
            await handle.wait()
            counts.append(handle.receivers)
            stage.listen(bus, kind)
            await bus.ready()
        handle = await sender.dispatch(kind(n=0))
        await handle.wait()
        counts.append(handle.receivers)
    expect(counts == [0, 1, 2], f"0, 1 and then 2 receivers were counted as {counts}")
