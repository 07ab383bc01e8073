"""Bytes of strangers at the addresses of a bus: forged, late, repeated, foreign and meaningless."""

from __future__ import annotations

import json
from collections.abc import Iterator
from random import Random
from typing import Any, cast

import pytest
import trio
from hypothesis import given, settings, strategies as st
from tests.support.conversing_buses import ConversingBus, PriceAsked
from trio.testing import MockClock

from goevent import Event, MemoryHub

FLOOD_MESSAGES = 20_000
ADDRESS = "a" * 32
IDS = ["0123456789abcdef", "", "x" * 255, "y" * 100_000, "\x00", "é"]
KINDS = [
    "search",
    "offer",
    "started",
    "reply",
    "failed",
    "refused",
    "cancel",
    "alive",
    "unknown",
    "leaving",
    "roll",
    "present",
    "received",
    "done",
]
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from([*IDS, ADDRESS, "price.asked", "price.*", "**", "goevent.replies"]),
    st.lists(st.text(max_size=5), max_size=3),
    st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=2),
)
TEXT_KEYS = ["id", "address", "reply_to", "event_name", "reason", "text", "bus", "listener"]
OTHER_KEYS = ["ids", "serves", "value", "weight", "errors", "completed", "taken", "is_whole"]
KEYS = st.sampled_from(TEXT_KEYS + OTHER_KEYS)
FIELDS = st.dictionaries(KEYS, VALUES, max_size=6)


def message_of(kind: str, fields: dict[str, object]) -> bytes:
    """Return the bytes of a message with these keys."""
    return json.dumps({"kind": kind, **fields}).encode()


MESSAGES = st.one_of(
    st.binary(max_size=60), st.builds(message_of, st.sampled_from([*KINDS, "other", ""]), FIELDS)
)


class Victims:
    """A bus that asks and one that answers, and all their addresses at the hub."""

    def __init__(self) -> None:
        self.hub = MemoryHub()
        self.asking, self.answering = ConversingBus(self.hub), ConversingBus(self.hub)
        self.listened: list[object] = []
        self.asking.subscribe(self.listened.append, "**")

        async def respond(event: PriceAsked) -> int:
            return event.n

        self.answering.respond(respond, PriceAsked)

    @property
    def addresses(self) -> list[str]:
        return [*self.hub._addresses]  # pyright: ignore[reportPrivateUsage]

    def private_address(self, bus: ConversingBus) -> str:
        link = bus._conversations.get()._link  # pyright: ignore[reportPrivateUsage]
        assert link is not None
        return link.channel.address

    async def check_they_work(self) -> None:
        assert await self.asking.request(PriceAsked(n=7), int, timeout=60) == 7
        handle = await self.answering.dispatch(PriceAsked(n=8), scope="all")
        await handle.wait(scope="all", timeout=60)
        assert handle.outcome.complete


@settings(max_examples=60, deadline=None)
@given(messages=st.lists(MESSAGES, min_size=1, max_size=20))
def test_no_bytes_disturb_a_bus(messages: list[bytes]) -> None:
    async def main() -> None:
        victims = Victims()
        async with victims.answering, victims.asking:
            await victims.check_they_work()
            for address in victims.addresses:
                for data in messages:
                    victims.hub.send_directly(address, data)
            await victims.check_they_work()
            # Strangers to whom something was promised fall silent.
            await trio.sleep(10)
            assert (victims.asking.under_way, victims.answering.under_way) == (0, 0)

    trio.run(main, clock=MockClock(autojump_threshold=0))


def forged(random: Random) -> Iterator[dict[str, object]]:
    """Yield messages of the right form, from nobody."""
    while True:
        stranger, number = f"{random.getrandbits(128):032x}", f"{random.getrandbits(64):016x}"
        yield {"kind": "offer", "event_name": "price.asked", "address": stranger}
        yield {"kind": "offer", "event_name": f"price.{number}", "address": stranger}
        yield {"kind": "started", "id": number, "address": stranger}
        yield {"kind": "reply", "id": number, "value": 1}
        yield {"kind": "failed", "id": number, "text": "no"}
        yield {"kind": "refused", "id": number, "reason": "full"}
        yield {"kind": "cancel", "id": number}
        yield {"kind": "alive", "address": stranger, "ids": [number], "serves": [number]}
        yield {"kind": "unknown", "address": stranger, "ids": [number]}
        yield {"kind": "leaving", "address": stranger}
        yield {"kind": "search", "event_name": "price.asked", "reply_to": stranger}
        yield {"kind": "roll", "event_name": "price.asked", "reply_to": stranger}
        yield {"kind": "present", "event_name": "price.asked", "address": stranger}
        yield {"kind": "received", "id": number, "address": stranger}
        yield {"kind": "done", "id": number, "address": stranger}


def sizes(value: object, seen: set[int], depth: int = 0) -> int:
    """Return the number of entries in all dicts and lists that a room's objects hold."""
    if id(value) in seen or depth > 5:
        return 0
    seen.add(id(value))
    count, parts = 0, list[Any]()
    if isinstance(value, dict):
        parts = [*cast("Any", value).values()]
        count = len(parts)
    elif isinstance(value, (list, set, tuple)):
        parts = [*cast("Any", value)]
        count = len(parts)
    elif type(value).__module__.startswith("goevent._conversations"):
        names = [*getattr(value, "__dict__", ()), *getattr(value, "__slots__", ())]
        parts = [getattr(value, name, None) for name in names]
    return count + sum(sizes(part, seen, depth + 1) for part in parts)


async def test_a_flood_of_forged_messages_makes_nothing_grow(autojump_clock: MockClock) -> None:
    victims = Victims()
    random = Random(17)
    async with victims.answering, victims.asking:
        await victims.check_they_work()
        room = [bus._conversations.get() for bus in (victims.asking, victims.answering)]  # pyright: ignore[reportPrivateUsage]
        before = sum(sizes(each, set()) for each in room)
        messages = forged(random)
        targets = [victims.private_address(bus) for bus in (victims.asking, victims.answering)]
        for number in range(FLOOD_MESSAGES):
            data = json.dumps(next(messages)).encode()
            victims.hub.send_directly(targets[number % 2], data)
            victims.hub.send_directly(targets[number % 2], random.randbytes(20))
        after = sum(sizes(each, set()) for each in room)
        # The bounded tables of the offers, and of the buses that were made an offer.
        assert after - before < 5000
        await victims.check_they_work()
        await trio.sleep(20)
        await victims.check_they_work()
        assert (victims.asking.under_way, victims.answering.under_way) == (0, 0)
        for bus in (victims.asking, victims.answering):
            counts = bus.snapshot().requests
            assert counts.malformed >= FLOOD_MESSAGES // 2
            assert counts.late >= FLOOD_MESSAGES // 2 * 4 // 15
            assert len(bus.errors) <= 10
    assert [getattr(event, "n", None) for event in victims.listened] == [8, 8, 8]


async def test_forged_offers_are_bounded(autojump_clock: MockClock) -> None:
    victims = Victims()
    random = Random(18)
    async with victims.answering, victims.asking:
        await victims.check_they_work()
        room = victims.asking._conversations.get()  # pyright: ignore[reportPrivateUsage]
        before = sizes(room, set())
        target = victims.private_address(victims.asking)
        for _ in range(5000):
            stranger = f"{random.getrandbits(128):032x}"
            offer = {"kind": "offer", "event_name": "price.asked", "address": stranger}
            victims.hub.send_directly(target, json.dumps(offer).encode())
        assert sizes(room, set()) - before <= 1000
        # Each of them is asked in turn, until one is real.
        await victims.check_they_work()


@pytest.mark.parametrize("n", [1, 10_000])
async def test_a_request_that_comes_again_is_not_run_again(
    autojump_clock: MockClock, n: int
) -> None:
    victims = Victims()
    runs: list[int] = []

    async def note(event: Event) -> int:
        runs.append(1)
        return 1

    victims.answering.respond(note, "other.asked")
    async with victims.answering, victims.asking:
        address = f"{victims.private_address(victims.answering)}.other.asked"
        event = {"event_name": "other.asked", "event_type": "other.asked", "event_data": {"n": 1}}
        request = {**event, "handle_id": "1" * 16, "timestamp": 1, "reply_to": ADDRESS}
        for _ in range(n):
            victims.hub.send_directly(address, json.dumps(request).encode())
        await trio.sleep(10)
        assert runs == [1]
        assert victims.answering.snapshot().requests.served == 1
        assert victims.answering.under_way == 0
