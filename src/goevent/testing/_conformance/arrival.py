"""Cases about arrival: every published event arrives once and unchanged."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import trio

from ... import DispatchHandle, Event, GoEvent, current_delivery
from .environment import CaseEnvironment
from .expect import expect, expect_each, expect_same
from .received import NumberedEvent, ReceivedEvents

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


async def everything_arrives(env: CaseEnvironment) -> None:
    class Rich(Event, name=f"{env.prefix}.rich", registry=env.registry):
        text: str = ""
        number: int = 0
        fraction: float = 0.0
        flag: bool = False
        nothing: str | None = None
        items: list[Any] | None = None
        table: dict[str, Any] | None = None
        when: datetime = datetime(2020, 1, 1, tzinfo=UTC)

    event_type = env.event_type("end")
    sender, one, two = env.bus(), env.bus(), env.bus()
    inline, mailed = (
        env.listen(one, Rich, event_type),
        env.listen(two, Rich, event_type, async_=True),
    )
    sent = [Rich(**payload) for payload in PAYLOADS * 20]
    async with env.open(one, two, sender):
        for event in sent:
            await sender.dispatch(event)
        for received in (inline, mailed):
            await env.wait_for(received, len(sent))
        await env.flush(sender, event_type, inline, mailed)
        await sender.wait()
    for received in (inline, mailed):
        expect(
            len(received.events) == len(sent), f"{len(sent)} events became {len(received.events)}"
        )
        changed = [event for event in received.events if event not in sent]
        expect(not changed, f"these events were not sent: {changed[:3]}")
        if env.capabilities.ordered:
            expect(received.events == sent, "they arrived in another order")


class AddHeaders:
    """Middleware that adds headers to events, chosen by their number."""

    def __init__(self, headers: dict[int, dict[str, str]]) -> None:
        self._headers = headers

    def around_dispatch(self, handle: DispatchHandle) -> Iterator[None]:
        event = handle.event
        if isinstance(event, NumberedEvent):
            handle.headers.update(self._headers.get(event.n, {}))
        yield


async def untyped_events_arrive(env: CaseEnvironment) -> None:
    name = f"{env.prefix}.untyped"
    payloads = [payload for payload in PAYLOADS if "when" not in payload]
    payloads.append({})
    sender, receiver, other = env.bus(), env.bus(), env.bus()
    own, received = env.listen(sender, name), env.listen(receiver, name, async_=True)
    pattern = f"{env.prefix}.*" if env.capabilities.patterns else name
    matched = env.listen(other, pattern)
    async with env.open(receiver, other, sender):
        for payload in payloads:
            handle = await sender.dispatch(Event(name, payload))
            await handle.wait()
        for each in (own, received, matched):
            await env.wait_for(each, len(payloads))
    for each in (own, received, matched):
        expect({event.event_name for event in each.events} == {name}, "a name was changed")
        # Not every driver keeps the order.
        arrived = sorted(repr(event.payload()) for event in each.events)
        expect(
            arrived == sorted(map(repr, payloads)),
            f"the payloads {payloads} of untyped events arrived as {arrived}",
        )


async def headers_arrive(env: CaseEnvironment) -> None:
    sent = {
        0: {},
        1: {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"},
        2: {"a": "", "B": "upper", "with-dash": "with space", "x_y.z": "=;,:\"'"},
        3: {"text": "gr\u00fc\u00df dich, \u4e16\u754c \U0001f600"},
        4: {},
        5: {f"key{n}": "v" * 50 for n in range(20)},
    }
    event_type = env.event_type()
    sender, receiver = env.bus(middleware=(AddHeaders(sent),)), env.bus()
    got: dict[int, dict[str, str]] = {}
    received = ReceivedEvents(env.notify)

    async def record(event: Any) -> None:
        if event.n >= 0:
            got[event.n] = dict(current_delivery().headers)
        received.record(event)

    receiver.subscribe(record, event_type)
    async with env.open(receiver, sender):
        for n in sent:
            await sender.dispatch(event_type(n=n))
        await env.wait_for(received, len(sent))
        await env.flush(sender, event_type, received)
    for n, headers in sent.items():
        expect(got[n] == headers, f"headers {headers} arrived as {got[n]}")


async def causes_arrive(env: CaseEnvironment) -> None:
    """Send an event from bus to bus, and look for the ids of its causes at each of them."""
    types = [env.event_type(suffix) for suffix in ("first", "second", "third")]
    buses = [env.bus() for _ in types]
    got: list[tuple[str, str, str]] = []

    def answer(bus: GoEvent, following: type[NumberedEvent] | None) -> ReceivedEvents:
        received = ReceivedEvents(env.notify)

        async def listener(event: Any) -> None:
            if event.n >= 0:
                delivery = current_delivery()
                got.append((delivery.id, delivery.correlation_id, delivery.causation_id))
                if following is not None:
                    await bus.dispatch(following(n=event.n))
            received.record(event)

        bus.subscribe(listener, types[buses.index(bus)])
        return received

    records = [
        answer(bus, following) for bus, following in zip(buses, (*types[1:], None), strict=True)
    ]
    sender = env.bus()
    async with env.open(*buses, sender):
        handle = await sender.dispatch(types[0](n=0))
        for each in records:
            await env.wait_for(each, 1)
    expected = handle.id, handle.id, ""
    for place, ids in enumerate(got):
        expect(
            ids[1:] == expected[1:] and (place or ids == expected),
            f"event {place + 1} of a chain has the correlation and the causation {ids[1:]} in place"
            f" of {expected[1:]}",
        )
        expected = "", handle.id, ids[0]


async def fifty_publish_at_once(env: CaseEnvironment) -> None:
    event_type = env.event_type()
    senders = [env.bus() for _ in range(5)]
    receivers = [env.bus(), env.bus()]
    received = [env.listen(bus, event_type, async_=True) for bus in receivers]
    numbers = range(20)

    async def publish(bus: GoEvent, sender: int) -> None:
        for n in numbers:
            handle = await bus.dispatch(event_type(n=n, sender=sender))
            await handle.wait()
            handle.raise_errors()

    async with env.open(*receivers, *senders):
        async with trio.open_nursery() as nursery:
            # Ten tasks share each bus.
            for task in range(50):
                nursery.start_soon(publish, senders[task % len(senders)], task)
        for each in received:
            await env.wait_for(each, 50 * len(numbers))
        for bus in senders:
            await env.flush(bus, event_type, *received)
    for each in received:
        for sender in range(50):
            check = expect_same if env.capabilities.ordered else expect_each
            check(each.of(sender), numbers, f"the events of publisher {sender}")


async def own_listeners_get_it_once(env: CaseEnvironment) -> None:
    event_type, answer = env.event_type(), env.event_type("answer")
    one, two = env.bus(), env.bus()
    own, mailed = (
        env.listen(one, event_type, answer),
        env.listen(one, event_type, answer, async_=True),
    )
    theirs, answers = env.listen(two, event_type, answer), env.listen(two, answer)
    async with env.open(one, two):
        for n in range(50):
            handle = await one.dispatch(event_type(n=n))
            # With fan-out, own listeners do not wait for the broker.
            if env.capabilities.fan_out:
                expect_same(own.numbers, range(n + 1), "the own listeners, at once")
            await handle.wait()
        await env.wait_for(theirs, 50)
        # A broker that keeps order sends an echo before the answer to it. So after an answer in
        # both directions, all echoes have come back, and duplicates would have been received.
        await env.flush(two, answer, own, mailed, answers)
        await env.flush(one, event_type, own, mailed, theirs)
        await env.flush(two, answer, own, mailed, answers)
    for received, whose in ((own, "own inline"), (mailed, "own mailed"), (theirs, "other bus's")):
        check = expect_same if env.capabilities.ordered else expect_each
        check(received.numbers, range(50), f"at the {whose} listener")


async def buses_answer_each_other(env: CaseEnvironment) -> None:
    event_type, answer = env.event_type(), env.event_type("answer")
    one, two = env.bus(), env.bus()
    answers = env.listen(one, answer)
    recording = env.recording_driver()
    third = env.bus(recording)
    there = env.listen(third, event_type)

    async def reply(event: Any) -> None:
        if event.n >= 0:
            await two.dispatch(answer(n=event.n))

    two.subscribe(reply, event_type)
    async with env.open(one, two, third):
        for n in range(30):
            await one.dispatch(event_type(n=n))
        await env.wait_for(answers, 30)
        await env.wait_for(there, 30)
        await env.flush(two, answer, answers)
        await env.flush(one, event_type, there)
    expect_each(answers.numbers, range(30), "the answers")
    expect(not recording.published, "a bus has published events that came from another bus")


async def slow_listener_gets_all(env: CaseEnvironment) -> None:
    event_type = env.event_type()
    text = "x" * min(4000, (env.capabilities.max_size or 4000) // 2)
    sender, receiver = env.bus(), env.bus(failing=not env.capabilities.lossless)
    received = ReceivedEvents(env.notify)
    gate = trio.Event()

    async def slow(event: Any) -> None:
        await gate.wait()
        received.record(event)

    # The mailbox has room for one event, so all others wait in the driver or the broker.
    receiver.subscribe(slow, event_type, mailbox=1)
    async with env.open(receiver, sender):
        for n in range(500):
            await sender.dispatch(event_type(n=n, text=text))
        gate.set()
        if env.capabilities.lossless:
            await env.wait_for(received, 500)
        await sender.wait()
        await env.send_until_received(sender, event_type, received)
    if env.capabilities.lossless:
        check = expect_same if env.capabilities.ordered else expect_each
        check(received.numbers, range(500), "at a slow listener")
        return
    expect(len(received.numbers) == len({*received.numbers}), "something arrived twice")
    if env.capabilities.ordered:
        expect(received.numbers == sorted(received.numbers), "they arrived in another order")
    lost = 500 - len(received.numbers)
    expect(not lost or env.expected_errors, f"{lost} events were lost without a report")


async def receivers_are_counted(env: CaseEnvironment) -> None:
    event_type = env.event_type()
    sender, one, two = env.bus(), env.bus(), env.bus()
    async with env.open(sender, one, two):
        counts: list[int | None] = []
        for bus in (one, two):
            handle = await sender.dispatch(event_type(n=0))
            await handle.wait()
            counts.append(handle.receivers)
            env.listen(bus, event_type)
            await bus.ready()
        handle = await sender.dispatch(event_type(n=0))
        await handle.wait()
        counts.append(handle.receivers)
    expect(counts == [0, 1, 2], f"0, 1 and then 2 receivers were counted as {counts}")


async def streams_miss_nothing(env: CaseEnvironment) -> None:
    event_type = env.event_type()
    sender, receiver = env.bus(), env.bus()
    taken: list[int] = []
    async with env.open(receiver, sender):
        async with receiver.stream(event_type, buffer=5) as stream, trio.open_nursery() as nursery:

            async def send() -> None:
                for n in range(100):
                    await sender.dispatch(event_type(n=n))

            nursery.start_soon(send)
            async for event in stream:
                taken.append(event.n)
                if len(taken) == 100:
                    break
        received = env.listen(receiver, event_type)
        await receiver.ready()
        await env.flush(sender, event_type, received)
    check = expect_same if env.capabilities.ordered else expect_each
    check(taken, range(100), "in a stream")
    expect(not received.events, f"{len(received.events)} events came again after the stream")
