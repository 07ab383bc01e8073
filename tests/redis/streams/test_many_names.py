"""Thousands of names: an idle bus asks the server for little, and opens in few requests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import trio
from tests.support.limits import HANG_SECONDS
from tests.support.partition_buses import PartitionedBus
from tests.support.redis_buses import until
from tests.support.streams_buses import StreamsBus, command_client, streams_server

from goevent import Event

NAMES = 1500


async def scripts_run(ask: Callable[..., Any]) -> int:
    """Return how many scripts the server has run."""
    stats = (await ask("INFO", "commandstats")).decode()
    lines = [line for line in stats.splitlines() if line.startswith("cmdstat_evalsha:")]
    return int(lines[0].split("calls=")[1].split(",")[0]) if lines else 0


async def idle_scripts(ask: Callable[..., Any], bus: StreamsBus, seconds: float) -> int:
    """Return how many scripts a bus has run within some seconds, when it has looked around."""
    with trio.fail_after(HANG_SECONDS):
        while len(bus.backlogs()) < NAMES:
            await trio.sleep(0.05)
    await trio.sleep(1.0)
    before = await scripts_run(ask)
    await trio.sleep(seconds)
    return await scripts_run(ask) - before


async def test_idle_bus_with_many_names_runs_few_scripts() -> None:
    async with streams_server() as server, command_client(server) as ask:
        bus = StreamsBus(server.addr)
        seen = bus.seen(*(f"many.n{n}" for n in range(NAMES)))
        async with bus:
            # A look at each name once a second would be 6,000, and claims twice as many more.
            assert await idle_scripts(ask, bus, 4.0) < 4_000
            await bus.dispatch(Event(f"many.n{NAMES - 1}", {"n": 1}))
            await until(lambda: seen)
        assert not bus.told


async def test_events_of_a_bus_that_died_are_taken_over_although_there_are_many_names() -> None:
    async with streams_server() as server, command_client(server) as ask:
        names = [f"many.n{n}" for n in range(NAMES)]
        bus = StreamsBus(server.addr, claim_idle=2.0)
        seen = bus.seen(*names)
        async with bus:
            with trio.fail_after(HANG_SECONDS):
                while len(bus.backlogs()) < NAMES:
                    await trio.sleep(0.05)
            # A consumer that reads and dies: its entry stays pending.
            key = f"goevent:stream:{names[700]}"
            await ask("EVAL", ORPHAN, 1, key, ENTRY.replace("%", names[700]))
            await until(lambda: seen, HANG_SECONDS)


ENTRY = (
    '{"event_name":"%","event_type":"%","event_data":{"n":1},'
    '"handle_id":"00000000000000aa","timestamp":1}'
)
ORPHAN = """
redis.call('XADD', KEYS[1], '*', 'e', ARGV[1])
redis.call('XREADGROUP', 'GROUP', 'shop', 'dead', 'STREAMS', KEYS[1], '>')
"""


async def test_bus_with_many_partitioned_names_opens_in_few_requests() -> None:
    async with streams_server() as server, command_client(server) as ask:
        bus = PartitionedBus(server.addr)
        seen = bus.seen(*(f"many.n{n}" for n in range(200)))
        async with bus:
            # One each for the number of partitions, four groups and the lease, and a few rounds.
            # One round for each further name would be 20,000.
            assert await scripts_run(ask) < 200 * (1 + 4 + 20)
            await bus.dispatch(Event("many.n150", {"n": 1}))
            await until(lambda: seen, HANG_SECONDS)
        assert not bus.told
