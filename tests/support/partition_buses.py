"""Buses with partitions for tests: events with keys, and the owners of partitions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from itertools import groupby
from typing import Any

import trio

from goevent import Event, GoEvent, current_delivery
from goevent_redis._streams.partitions.partition import partition_of
from tests.support.limits import PROMPT_SECONDS
from tests.support.redis_buses import REGISTRY
from tests.support.streams_buses import StreamsBus, unsettled_count

PARTITIONS = 4
NAME = "account.moved"
BASE = f"goevent:stream:{NAME}"
LEASES = f"goevent:leases:shop:{NAME}"
A0 = partition_of(NAME, "a0", PARTITIONS)

Ask = Callable[..., Any]


class Moved(Event, name=NAME, key="account", registry=REGISTRY):
    account: str = ""
    n: int = 0


class PartitionedBus(StreamsBus):
    """A bus whose names have partitions."""

    def __init__(self, addr: str, group: str | None = "shop", **streams: Any) -> None:
        streams.setdefault("partitions", PARTITIONS)
        super().__init__(addr, group, **streams)

    def moves(
        self,
        *,
        fail: Callable[[Moved], bool] = lambda _: False,
        wait: Callable[[Moved], Any] | None = None,
        concurrency: int = 50,
    ) -> list[tuple[str, int, int]]:
        """Register a listener, and return its ended runs as (account, n, deliveries)."""
        arrived: list[tuple[str, int, int]] = []

        async def note(event: Moved) -> None:
            deliveries = current_delivery().deliveries
            if wait is not None:
                await wait(event)
            arrived.append((event.account, event.n, deliveries))
            if fail(event):
                raise ValueError(f"no {event.n}")

        self.subscribe(note, Moved, concurrency=concurrency)
        return arrived


class PartitionGate:
    """Blocks listeners until it is opened.

    Attributes:
        begun: The numbers of the events with which listeners have begun.
    """

    def __init__(self) -> None:
        self.begun: list[int] = []
        self._opened = trio.Event()

    def open(self) -> None:
        """Let the listeners go on."""
        self._opened.set()

    async def __call__(self, event: Moved) -> None:
        self.begun.append(event.n)
        await self._opened.wait()


async def move(bus: GoEvent, count: int, accounts: int, first: int = 0) -> None:
    """Dispatch events of several accounts in turn, and wait until the server has them."""
    handles = [
        await bus.dispatch(Moved(account=f"a{n % accounts}", n=n))
        for n in range(first, first + count)
    ]
    for handle in handles:
        await handle.wait()
        handle.raise_errors()


def by_account(moves: list[tuple[str, int, int]]) -> dict[str, list[int]]:
    """Return the numbers of each account in order; consecutive repeats count once."""
    found: dict[str, list[int]] = defaultdict(list)
    for account, n, _ in moves:
        found[account].append(n)
    return {account: [n for n, _ in groupby(each)] for account, each in found.items()}


def in_order(moves: list[tuple[str, int, int]], count: int, accounts: int) -> bool:
    """Tell whether all events have run, and those of each account in order."""
    return by_account(moves) == {f"a{a}": [*range(a, count, accounts)] for a in range(accounts)}


async def owners(ask: Ask, name: str = NAME, group: str = "shop") -> dict[int, str]:
    """Return the owner of each partition."""
    found = await ask("HGETALL", f"goevent:leases:{group}:{name}")
    return {
        int(field.partition(b":")[0]): value.decode()
        for field, value in found.items()
        if field.endswith(b":owner")
    }


async def shared(ask: Ask, *counts: int, seconds: float = PROMPT_SECONDS) -> None:
    """Wait until the buses have so many partitions each."""
    with trio.fail_after(seconds):
        while True:
            found = list((await owners(ask)).values())
            if sorted(found.count(each) for each in {*found}) == sorted(counts):
                return
            await trio.sleep(0.01)


async def until_partitions_settled(
    ask: Ask, name: str = NAME, group: str = "shop", seconds: float = PROMPT_SECONDS
) -> None:
    """Wait until all entries of all partitions are delivered and acknowledged."""
    with trio.fail_after(seconds):
        for number in range(PARTITIONS):
            while await unsettled_count(ask, f"goevent:stream:{name}:{number}", group):
                await trio.sleep(0.01)
