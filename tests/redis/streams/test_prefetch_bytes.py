"""The prefetch in bytes: what a bus holds is bounded, and an event of any size passes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import trio
from tests.support.limits import HANG_SECONDS
from tests.support.partition_buses import Moved, PartitionedBus
from tests.support.redis_buses import Deep, OrderLost, Paid, User, until
from tests.support.streams_buses import StreamsBus, command_client, streams_server

SIZE = 100_000
LIMIT = 4 * SIZE


class Gate:
    """A listener that waits until it is opened."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self._opened = trio.Event()

    def open(self) -> None:
        self._opened.set()

    async def __call__(self, event: Any) -> None:
        await self._opened.wait()
        self.seen.append(event)


async def held(ask: Callable[..., Any], *streams: str) -> int:
    """Return how many entries the bus holds."""
    return sum([int((await ask("XPENDING", stream, "shop"))[0]) for stream in streams])


async def send(addr: str, count: int, size: int, partitions: int = 1) -> None:
    async with StreamsBus(addr, None, partitions=partitions) as sender:
        for n in range(count):
            if partitions > 1:
                handle = await sender.dispatch(Moved(account="x" * size + str(n % 50), n=n))
            else:
                handle = await sender.dispatch(Paid(n=n, text="x" * size))
            await handle.wait()
            handle.raise_errors()


async def until_still(read: Callable[[], Any]) -> int:
    """Return a number once it has not changed for a while."""
    last, since = -1, trio.current_time()
    with trio.fail_after(HANG_SECONDS):
        while trio.current_time() - since < 0.7:
            now = await read()
            if now != last or not now:
                last, since = now, trio.current_time()
            await trio.sleep(0.05)
    return last


@pytest.mark.parametrize("prefetch", [2, 500])
async def test_bus_holds_no_more_bytes_than_its_prefetch(prefetch: int) -> None:
    async with streams_server() as server, command_client(server) as ask:
        await send(server.addr, 40, SIZE)
        bus = StreamsBus(
            server.addr,
            prefetch=prefetch,
            prefetch_bytes=LIMIT,
            config={"max_event_size": 2 * SIZE},
        )
        gate = Gate()
        bus.subscribe(gate, Paid, concurrency=100)
        async with bus:
            count = await until_still(lambda: held(ask, "goevent:stream:order.paid"))
            # The entry that exceeds the limit is still read.
            assert 1 <= count <= min(prefetch, LIMIT // SIZE + 1)
            gate.open()
            await until(lambda: len(gate.seen) == 40, HANG_SECONDS)
        assert not bus.told


async def test_event_above_the_limit_passes() -> None:
    async with streams_server() as server:
        await send(server.addr, 3, SIZE)
        bus = StreamsBus(server.addr, prefetch_bytes=1000)
        seen = bus.seen()
        async with bus:
            await until(lambda: len(seen) == 3, HANG_SECONDS)
        assert not bus.told


async def test_small_events_after_large_ones_and_large_ones_after_small_ones_arrive() -> None:
    async with streams_server() as server:
        for count, size in ((200, 10), (10, SIZE), (300, 10), (10, SIZE)):
            await send(server.addr, count, size)
        bus = StreamsBus(server.addr, prefetch_bytes=LIMIT)
        seen = bus.seen()
        async with bus:
            await until(lambda: len(seen) == 520, HANG_SECONDS)
        assert not bus.told


async def test_names_beyond_the_prefetch_do_not_exceed_it() -> None:
    """One read of all streams would bring an entry of each."""
    async with streams_server() as server, command_client(server) as ask:
        events = (Paid, OrderLost, Deep, User)
        names = ("order.paid", "order.lost", "order.item.added", "user.created")
        async with StreamsBus(server.addr, None) as sender:
            for n in range(5):
                for event in events:
                    handle = await sender.dispatch(event(n=n))
                    await handle.wait()
        bus = StreamsBus(server.addr, prefetch=2)
        gate = Gate()
        bus.subscribe(gate, *events, concurrency=100)
        async with bus:
            streams = [f"goevent:stream:{name}" for name in names]
            assert await until_still(lambda: held(ask, *streams)) == 2
            gate.open()
            await until(lambda: len(gate.seen) == 20, HANG_SECONDS)
        assert not bus.told


async def test_partitions_hold_no_more_bytes_than_the_prefetch() -> None:
    async with streams_server() as server, command_client(server) as ask:
        await send(server.addr, 40, SIZE, partitions=4)
        bus = PartitionedBus(server.addr, prefetch_bytes=LIMIT, config={"max_event_size": 2 * SIZE})
        gate = Gate()
        bus.subscribe(gate, Moved, concurrency=100)
        async with bus:
            streams = [f"goevent:stream:account.moved:{n}" for n in range(4)]
            count = await until_still(lambda: held(ask, *streams))
            assert 1 <= count <= LIMIT // SIZE + 2
            gate.open()
            await until(lambda: len(gate.seen) == 40, HANG_SECONDS)
        assert not bus.told
