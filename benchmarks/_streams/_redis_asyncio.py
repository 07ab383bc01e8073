"""redis.asyncio: its commands, and a call of a function for each entry."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

import redis.asyncio

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


async def consume(addr: str, count: int) -> float:
    """Read a hundred, call a function and acknowledge for each."""
    client = _client(addr)
    await _fill(client, count)
    await client.xgroup_create(STREAM, "bench", "0")
    seen = 0

    def on_event(event: dict[str, Any]) -> None:
        nonlocal seen
        seen += 1

    start = time.perf_counter()
    while seen < count:
        for _, entries in await client.xreadgroup("bench", "one", {STREAM: ">"}, count=BATCH):
            for entry_id, fields in entries:
                on_event(json.loads(fields[b"e"]))
                await client.xack(STREAM, "bench", entry_id)
    rate = count / (time.perf_counter() - start)
    await client.aclose()
    return rate


async def wait(addr: str, count: int) -> float:
    """XADD from 64 tasks."""
    client = _client(addr)

    async def work() -> None:
        for _ in range(count // TASKS):
            await client.xadd(STREAM, {"e": json.dumps(PAYLOAD)})

    start = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(TASKS)))
    rate = count // TASKS * TASKS / (time.perf_counter() - start)
    await client.aclose()
    return rate


async def batch(addr: str, count: int) -> float:
    """XADD a hundred in one pipeline."""
    client = _client(addr)
    start = time.perf_counter()
    await _fill(client, count)
    rate = count // BATCH * BATCH / (time.perf_counter() - start)
    await client.aclose()
    return rate


def run(workload: Callable[[str, int], Awaitable[float]], addr: str, count: int) -> float:
    """Run a workload; return events per second."""

    async def main() -> float:
        return await workload(addr, count)

    return asyncio.run(main())
