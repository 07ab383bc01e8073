"""FastStream's RedisBroker with StreamSub."""

import asyncio
from typing import Any

from faststream import AckPolicy
from faststream.redis import RedisBroker, StreamSub

from benchmarks.brokers.contender import Measured, Meter, Place

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


def consume(place: Place, count: int) -> Measured:
    return asyncio.run(_consume(place, count))


async def _consume(place: Place, count: int) -> Measured:
    """Read, run a handler, acknowledge."""
    broker = _broker(place.addr)
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

    meter = Meter()
    await broker.start()
    await done.wait()
    measured = meter.read(count)
    await broker.stop()
    return measured


def wait(place: Place, count: int, tasks: int = TASKS) -> Measured:
    return asyncio.run(_wait(place, count, tasks))


async def _wait(place: Place, count: int, tasks: int) -> Measured:
    """Publish from some tasks."""
    broker = _broker(place.addr)
    await broker.connect()

    async def work() -> None:
        for _ in range(count // tasks):
            await broker.publish(PAYLOAD, stream=STREAM)

    meter = Meter()
    await asyncio.gather(*(work() for _ in range(tasks)))
    measured = meter.read(count // tasks * tasks)
    await broker.stop()
    return measured


def batch(place: Place, count: int) -> Measured:
    return asyncio.run(_batch(place, count))


async def _batch(place: Place, count: int) -> Measured:
    """Publish a hundred in one pipeline of the client."""
    broker = _broker(place.addr)
    await broker.connect()
    meter = Meter()
    await _fill(broker, count)
    measured = meter.read(count // BATCH * BATCH)
    await broker.stop()
    return measured
