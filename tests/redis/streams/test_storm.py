"""Storms: faults of every kind at random moments; afterwards the ledger must be right."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import trio
from redis.exceptions import ResponseError
from tests.support.redis_buses import Paid, opened, until
from tests.support.redis_server import fault_proxy
from tests.support.streams_buses import (
    STREAM,
    StreamsBus,
    command_client,
    publish,
    streams_server,
    until_settled,
)

from goevent import DriverError, current_delivery

Fault = Callable[[], Awaitable[object]]
PAUSES = (0.0, 0.001, 0.01, 0.05)


class StormLedger:
    """The accepted events, and every run of each event.

    Attributes:
        runs: For each event, whether each of its runs was flagged as a repeat.
    """

    def __init__(self) -> None:
        self.accepted: set[int] = set()
        self.runs: dict[int, list[bool]] = {}

    def listen(self, bus: StreamsBus) -> None:
        async def work(event: Paid) -> None:
            await trio.sleep(random.random() * 0.003)
            delivery = current_delivery()
            flagged = delivery.redelivered or "goevent-retried" in delivery.headers
            self.runs.setdefault(event.n, []).append(flagged)
            if random.random() < 0.02:
                raise ValueError(f"no {event.n}")

        bus.subscribe(work, Paid, concurrency=16)

    async def fill(self, bus: StreamsBus, first: int) -> None:
        for n in range(first, first + 100_000):
            handle = await bus.dispatch(Paid(n=n))
            await handle.wait()
            if not handle.errors:
                self.accepted.add(n)
            await trio.sleep(0.002)

    @property
    def unflagged(self) -> list[int]:
        return [n for n, flags in self.runs.items() if flags.count(False) > 1]


async def storm(
    ledger: StormLedger,
    buses: list[StreamsBus],
    senders: list[StreamsBus],
    faults: list[Fault],
    count: int,
) -> None:
    """Cause each fault `count` times in random order, while events flow."""
    todo = faults * count
    random.shuffle(todo)
    async with opened(*buses, *senders), trio.open_nursery() as nursery:
        for at, sender in enumerate(senders):
            nursery.start_soon(ledger.fill, sender, at * 1_000_000)
        for fault in todo:
            await trio.sleep(random.choice(PAUSES))
            await fault()
        before = len(ledger.accepted)
        await until(lambda: len(ledger.accepted) > before + 20)
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            wanted = set(ledger.accepted)
            await until(lambda: wanted <= ledger.runs.keys(), 20.0)


async def test_broken_connections_and_forgotten_scripts_lose_no_event_and_flag_repeats() -> None:
    ledger = StormLedger()
    async with (
        streams_server() as server,
        fault_proxy(server.port) as proxy,
        fault_proxy(server.port) as other,
        command_client(server) as ask,
    ):
        options: dict[str, Any] = {"claim_idle": 1.0, "max_deliveries": 1000}
        buses = [StreamsBus(where.addr, **options) for where in (proxy, other, server)]
        senders = [StreamsBus(where.addr, None) for where in (proxy, server)]
        for bus in buses:
            ledger.listen(bus)

        async def reset() -> None:
            random.choice([proxy, other]).reset()

        async def cut() -> None:
            where = random.choice([proxy, other])
            where.cut_after(random.randrange(2000))
            await trio.sleep(0.02)
            where.pass_on()
            where.reset()

        async def full() -> None:
            await ask("CONFIG", "SET", "maxmemory", "1")
            await trio.sleep(random.random() * 0.02)
            await ask("CONFIG", "SET", "maxmemory", "0")

        async def kill_readers() -> None:
            await ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

        async def forget() -> None:
            await ask("SCRIPT", "FLUSH")

        await storm(ledger, buses, senders, [reset, cut, full, kill_readers, forget], 6)
        async with buses[2]:
            await until_settled(ask)
    assert ledger.accepted <= ledger.runs.keys()
    assert not ledger.unflagged


async def test_bus_survives_all_harm_to_its_keys() -> None:
    ledger = StormLedger()
    async with streams_server() as server, command_client(server) as ask:
        buses = [StreamsBus(server.addr, claim_idle=0.5, retention="acked") for _ in range(2)]
        sender = StreamsBus(server.addr, None)
        for bus in buses:
            ledger.listen(bus)

        async def wrong_type() -> None:
            await ask("SET", random.choice([STREAM, "goevent:marks:shop", "goevent:dead:shop"]), 1)
            await trio.sleep(0.01)
            await ask("DEL", STREAM, "goevent:marks:shop", "goevent:dead:shop")

        async def replay() -> None:
            with suppress(DriverError):
                await buses[0].replay(Paid)

        async def destroy() -> None:
            with suppress(ResponseError):
                await ask("XGROUP", "DESTROY", STREAM, "shop")

        faults: list[Fault] = [
            lambda: ask("FLUSHALL"),
            lambda: ask("DEL", STREAM),
            lambda: ask("XTRIM", STREAM, "MAXLEN", 0),
            lambda: ask("DEL", "goevent:again:shop:order.paid"),
            wrong_type,
            destroy,
            replay,
        ]
        todo = faults * 5
        random.shuffle(todo)
        async with opened(*buses, sender), trio.open_nursery() as nursery:
            nursery.start_soon(ledger.fill, sender, 0)
            for fault in todo:
                await trio.sleep(random.choice(PAUSES))
                await fault()
                if random.random() < 0.3:
                    await until(buses[0].backlogs)
            before = len(ledger.accepted)
            await until(lambda: len(ledger.accepted) > before + 20)
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                numbers = range(5_000_000, 5_000_020)
                await trio.sleep(2.5)
                await publish(sender, *numbers)
                await until(lambda: {*numbers} <= ledger.runs.keys())
                await until_settled(ask)
