"""FastStream's RedisBroker with StreamSub."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from faststream import AckPolicy
from faststream.redis import RedisBroker, StreamSub

TASKS, BATCH = 64, 100
STREAM = "faststream"
PAYLOAD = {"n": 1, "text": ""}


def _broker(addr: str) -> Any:
    quiet: Any = None
    return RedisBroker(f"redis://{addr}", logger=quiet)


async def _fill(broker: Any, count: int) -> None:
    client = await broker.connect()
    for _ in range(count // BATCH):
        pipe = client.pipeline(transaction=False)
        for _ in range(BATCH):
            await broker.publish(PAYLOAD, stream=STREAM, pipeline=pipe)
        await pipe.execute()


async def consume(addr: str, count: int) -> float:
    """Read, run a handler, acknowledge."""
    broker = _broker(addr)
    await _fill(broker, count)
    client = await broker.connect()
    await client.xgroup_create(STREAM, "bench", "0")
    seen, done = 0, asyncio.Event()
    subscription = StreamSub(STREAM, group="bench", consumer="one", last_id=">", max_records=BATCH)

    async def handle(message: dict[str, Any]) -> None:
        nonlocal seen
        seen += 1
        if seen == count:
            done.set()

    broker.subscriber(stream=subscription, ack_policy=AckPolicy.ACK)(handle)

    start = time.perf_counter()
    await broker.start()
    await done.wait()
    rate = count / (time.perf_counter() - start)
    await broker.stop()
    return rate


async def wait(addr: str, count: int) -> float:
    """Publish from 64 tasks."""
    broker = _broker(addr)
    await broker.connect()

    async def work() -> None:
        for _ in range(count // TASKS):
            await broker.publish(PAYLOAD, stream=STREAM)

    start = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(TASKS)))
    rate = count // TASKS * TASKS / (time.perf_counter() - start)
    await broker.stop()
    return rate


async def batch(addr: str, count: int) -> float:
    """Publish a hundred in one pipeline of the client."""
    broker = _broker(addr)
    await broker.connect()
    start = time.perf_counter()
    await _fill(broker, count)
    rate = count // BATCH * BATCH / (time.perf_counter() - start)
    await broker.stop()
    return rate


def run(workload: Callable[[str, int], Awaitable[float]], addr: str, count: int) -> float:
    """Run a workload; return events per second."""

    async def main() -> float:
        return await workload(addr, count)

    return asyncio.run(main())
