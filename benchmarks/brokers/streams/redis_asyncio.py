"""redis.asyncio: its commands, and a call of a function for each entry."""

import asyncio
import json
from typing import Any

import redis.asyncio

from benchmarks.brokers.contender import Measured, Meter, Place

TASKS, BATCH = 64, 100
STREAM = "plain"
PAYLOAD = {"n": 1, "text": ""}


def _client(addr: str) -> Any:
    return redis.asyncio.Redis.from_url(f"redis://{addr}")


async def _fill(client: Any, count: int) -> None:
    for _ in range(count // BATCH):
        pipe = client.pipeline(transaction=False)
        for _ in range(BATCH):
            pipe.xadd(STREAM, {"e": json.dumps(PAYLOAD)})
        await pipe.execute()


def consume(place: Place, count: int) -> Measured:
    return asyncio.run(_consume(place, count))


async def _consume(place: Place, count: int) -> Measured:
    """Read a hundred, call a function and acknowledge for each."""
    client = _client(place.addr)
    await _fill(client, count)
    await client.xgroup_create(STREAM, "bench", "0")
    seen = 0

    def on_event(event: dict[str, Any]) -> None:
        nonlocal seen
        seen += 1

    meter = Meter()
    while seen < count:
        for _, entries in await client.xreadgroup("bench", "one", {STREAM: ">"}, count=BATCH):
            for entry_id, fields in entries:
                on_event(json.loads(fields[b"e"]))
                await client.xack(STREAM, "bench", entry_id)
    measured = meter.read(count)
    await client.aclose()
    return measured


def wait(place: Place, count: int, tasks: int = TASKS) -> Measured:
    return asyncio.run(_wait(place, count, tasks))


async def _wait(place: Place, count: int, tasks: int) -> Measured:
    """XADD from some tasks."""
    client = _client(place.addr)

    async def work() -> None:
        for _ in range(count // tasks):
            await client.xadd(STREAM, {"e": json.dumps(PAYLOAD)})

    meter = Meter()
    await asyncio.gather(*(work() for _ in range(tasks)))
    measured = meter.read(count // tasks * tasks)
    await client.aclose()
    return measured


def batch(place: Place, count: int) -> Measured:
    return asyncio.run(_batch(place, count))


async def _batch(place: Place, count: int) -> Measured:
    """XADD a hundred in one pipeline."""
    client = _client(place.addr)
    meter = Meter()
    await _fill(client, count)
    measured = meter.read(count // BATCH * BATCH)
    await client.aclose()
    return measured
