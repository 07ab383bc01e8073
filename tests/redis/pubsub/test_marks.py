"""Marks of pub/sub are told until they are heard: the last messages of an outage are counted."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio
from tests.redis.pubsub.test_losses import envelope, marks
from tests.support.redis_buses import (
    Bus,
    Paid,
    User,
    bus_at,
    bus_on,
    listening,
    opened,
    plain_link,
    sent,
    until,
)
from tests.support.redis_server import FaultProxy, fault_proxy, redis_server

from goevent import DriverError, GapDetected
from goevent_redis import RedisConfig, RedisDriver
from goevent_redis._pubsub import sequencer

MARKS = "goevent:$marks"


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sequencer, "MARKS_INTERVAL_SECONDS", 0.1)


async def cut_off(proxy: FaultProxy, bus: Bus) -> None:
    """End the connection of a bus, and let no other one through."""
    proxy.refuse()
    proxy.reset()
    await until(lambda: bus.says("is lost"))


@pytest.mark.parametrize("where", ["order.paid", "order.*", "**"])
async def test_a_lost_tail_is_counted_although_its_mark_was_told_in_the_outage(where: str) -> None:
    async with redis_server() as server, fault_proxy(server.port) as proxy:
        one, two = bus_on(server), bus_at(proxy.addr)
        seen, told = two.seen(where), list[bytes]()
        async with opened(two, one), listening(server, told, MARKS):
            await sent(one, Paid(n=1))
            await until(lambda: seen)
            await until(lambda: told)
            await cut_off(proxy, two)
            for n in range(100):
                await sent(one, Paid(n=n))
            await until(lambda: json.loads(told[-1])["marks"] == {"order.paid": 101})
            count = len(told)
            await proxy.accept()
            await until(two.missing)
            # The question, and the answer: buses that are idle then say nothing more.
            await until(lambda: len(told) == count + 2)
            await trio.sleep(0.5)
            assert len(told) == count + 2
        assert two.missing() == 100
        assert len(seen) == 1


async def test_a_lost_tail_is_counted_for_each_name_and_publisher() -> None:
    async with redis_server() as server, fault_proxy(server.port) as proxy:
        one, other, two = bus_on(server), bus_on(server), bus_at(proxy.addr)
        seen, told = two.seen(Paid, User), list[bytes]()
        async with opened(two, one, other), listening(server, told, MARKS):
            for bus in (one, other):
                await sent(bus, Paid())
                await sent(bus, User())
            await until(lambda: len(seen) == 4)
            await cut_off(proxy, two)
            for bus, count in ((one, 3), (other, 20)):
                for _ in range(count):
                    await sent(bus, Paid())
                    await sent(bus, User())
            await until(lambda: sum(b'"order.paid":' in each for each in told) >= 2)
            await trio.sleep(0.2)
            await proxy.accept()
            await until(lambda: two.missing() >= 46)
        assert two.missing() == 46
        assert len(two.causes(GapDetected)) == 4


async def test_a_publisher_whose_connection_was_lost_meanwhile_still_tells_its_marks() -> None:
    async with (
        redis_server() as server,
        fault_proxy(server.port) as proxy,
        fault_proxy(server.port) as other,
    ):
        one, two = bus_at(other.addr), bus_at(proxy.addr)
        seen, told = two.seen(Paid), list[bytes]()
        async with opened(two, one), listening(server, told, MARKS):
            await sent(one, Paid(n=1))
            await until(lambda: seen)
            await cut_off(proxy, two)
            for turn in range(3):
                for _ in range(10):
                    await sent(one, Paid())
                other.reset()
                again = turn + 1
                await until(lambda again=again: one.says("connected to Redis again") == again)  # type: ignore[misc]
            for _ in range(5):
                await sent(one, Paid())
            before = len(told)
            await until(lambda: len(told) > before)
            await proxy.accept()
            await until(lambda: two.says("connected to Redis again"))
            await sent(one, Paid(n=2))
            await until(lambda: two.missing() >= 35)
            await until(lambda: len(seen) == 2)
        assert two.missing() == 35


async def test_a_publisher_that_closes_tells_all_its_marks_again() -> None:
    async with redis_server() as server, fault_proxy(server.port) as proxy:
        one, two = bus_on(server), bus_at(proxy.addr)
        seen, told = two.seen(Paid), list[bytes]()
        async with two, listening(server, told, MARKS):
            async with one:
                await sent(one, Paid(n=1))
                await until(lambda: seen)
                await until(lambda: told)
                first = told[-1]
            await until(lambda: len(told) > 1)
            assert told[-1] == first


async def test_a_bus_without_this_publisher_asks_and_is_answered_at_once() -> None:
    """The question is a message of marks without marks, which every version understands."""
    async with redis_server() as server:
        one = bus_on(server)
        told: list[bytes] = []
        async with one, plain_link(server) as link:
            await sent(one, Paid())
            await trio.sleep(0.3)
            async with listening(server, told, MARKS):
                question: dict[str, object] = {"origin": "f" * 32, "marks": {}, "asks": True}
                for _ in range(20):
                    await link.execute("PUBLISH", MARKS, json.dumps(question))
                await until(lambda: len(told) == 21)
                await trio.sleep(0.7)
        assert len(told) == 21
        assert json.loads(told[-1])["marks"] == {"order.paid": 1}
        assert not one.told


# -- the inbound limit


def small_bus(addr: str) -> tuple[Bus, trio.Event, list[int]]:
    """Return a bus whose queue is small, the gate of its listener, and what that has seen."""
    bus = Bus(RedisDriver(RedisConfig(addr=addr, prefetch_bytes=10_000)))
    gate, seen = trio.Event(), list[int]()

    @bus.listener(Paid, mailbox=1)
    async def _(event: Paid) -> None:
        await gate.wait()
        seen.append(event.n)

    return bus, gate, seen


async def test_marks_are_not_dropped_with_the_events_before_them() -> None:
    async with redis_server() as server:
        bus, gate, seen = small_bus(server.addr)
        async with bus, plain_link(server) as link:
            for n in range(1, 101):
                await link.execute("PUBLISH", "goevent:order.paid", envelope(n, n))
                await link.execute("PUBLISH", MARKS, marks(n))
            await until(lambda: bus.says("too slow"))
            client: Any = bus.driver.client
            await client.ping()
            gate.set()
            await until(lambda: bus.says("were dropped"))
            await until(lambda: len(seen) + bus.missing() == 100)
            # No later event was needed.
        (dropped,) = [e for e in bus.causes(DriverError) if "were dropped" in str(e)]
        assert str(dropped).startswith(f"{bus.missing()} message(s)")
        assert 0 < len(seen) < 100


async def test_echoes_and_foreign_messages_are_not_counted_as_dropped() -> None:
    async with redis_server() as server:
        bus, gate, seen = small_bus(server.addr)
        both = bus.seen("order.*")
        async with bus, plain_link(server) as link:
            for n in range(1, 101):
                await link.execute("PUBLISH", "goevent:order.paid", envelope(n, n))
                await link.execute("PUBLISH", "goevent:order.", b"{}")
                await link.execute("PUBLISH", "goevent:order.paid.late", b"{}")
            for n in range(20):
                await sent(bus, User(n=n))
            await until(lambda: bus.says("too slow"))
            gate.set()
            await until(lambda: bus.says("were dropped"))
            await link.execute("PUBLISH", MARKS, marks(100))
            await until(lambda: len(seen) + bus.missing() == 100)
        (dropped,) = [e for e in bus.causes(DriverError) if "were dropped" in str(e)]
        assert str(dropped).startswith(f"{bus.missing()} message(s)")
        assert len(both) == len(seen)
