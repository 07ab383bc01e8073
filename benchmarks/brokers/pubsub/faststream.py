"""FastStream's RedisBroker with pydantic models, on asyncio.

The handler is an `async def`, its fastest.
"""

import asyncio
import time
from collections.abc import Sequence
from statistics import median
from typing import Any

import pydantic
from faststream.redis import RedisBroker
from faststream.redis.parser import BinaryMessageFormatV1

from benchmarks.brokers.contender import BATCH, TASKS, TEXT, Place, Ready, now

CHANNEL = "bench.order"


class Order(pydantic.BaseModel):
    number: int
    text: str


def _broker(place: Place) -> RedisBroker:
    return RedisBroker(f"redis://{place.addr}", logger=None)  # type: ignore[arg-type]


def payloads(place: Place, count: int) -> Sequence[bytes]:
    return asyncio.run(_payloads(count))


async def _payloads(count: int) -> list[bytes]:
    return [
        await BinaryMessageFormatV1.encode(
            message={"number": number, "text": TEXT},
            reply_to=None,
            headers=None,
            correlation_id=f"{number:032x}",
        )
        for number in range(1, count + 1)
    ]


def receive(place: Place, count: int, ready: Ready) -> float:
    return asyncio.run(_receive(place, count, ready))


async def _receive(place: Place, count: int, ready: Ready) -> float:
    broker, left, start, end = _broker(place), count, 0.0, asyncio.Event()

    @broker.subscriber(CHANNEL)
    async def take(event: Order) -> None:
        nonlocal left, start
        left -= 1
        if left == count - 1:
            start = time.perf_counter()
        elif not left:
            end.set()

    async with broker:
        await broker.start()
        await asyncio.sleep(1.0)  # it does not tell when the server has confirmed
        ready()
        await end.wait()
        return count / (time.perf_counter() - start)


def publish(place: Place, seconds: float, tasks: int = TASKS) -> float:
    return asyncio.run(_publish(place, seconds, tasks))


async def _publish(place: Place, seconds: float, tasks: int) -> float:
    sent = 0

    async def work(deadline: float) -> None:
        nonlocal sent
        while time.perf_counter() < deadline:
            await broker.publish(Order(number=sent, text=TEXT), channel=CHANNEL)
            sent += 1

    async with _broker(place) as broker:
        await broker.connect()
        for warm_up in (True, False):
            sent, start = 0, time.perf_counter()
            deadline = start + (0.2 if warm_up else seconds)
            await asyncio.gather(*(work(deadline) for _ in range(tasks)))
        return sent / (time.perf_counter() - start)


def batches(place: Place, seconds: float) -> float:
    return asyncio.run(_batches(place, seconds))


async def _batches(place: Place, seconds: float) -> float:
    """Publish a hundred in one pipeline of the client."""
    broker = _broker(place)
    client: Any = await broker.connect()
    for warm_up in (True, False):
        sent, start = 0, time.perf_counter()
        deadline = start + (0.2 if warm_up else seconds)
        while time.perf_counter() < deadline:
            pipeline = client.pipeline(transaction=False)
            for n in range(BATCH):
                order = Order(number=sent + n, text=TEXT)
                await broker.publish(order, CHANNEL, pipeline=pipeline)
            await pipeline.execute()
            sent += BATCH
    rate = sent / (time.perf_counter() - start)
    await broker.stop()
    return rate


def listen(place: Place, count: int, ready: Ready) -> float:
    return asyncio.run(_listen(place, count, ready))


async def _listen(place: Place, count: int, ready: Ready) -> float:
    broker, ages, end = _broker(place), list[int](), asyncio.Event()

    @broker.subscriber(CHANNEL)
    async def take(event: Order) -> None:
        ages.append(now() - event.number)
        if len(ages) == count:
            end.set()

    async with broker:
        await broker.start()
        await asyncio.sleep(1.0)  # it does not tell when the server has confirmed
        ready()
        await end.wait()
    return median(ages)


def speak(place: Place, count: int, pause: float) -> None:
    asyncio.run(_speak(place, count, pause))


async def _speak(place: Place, count: int, pause: float) -> None:
    async with _broker(place) as broker:
        await broker.connect()
        for _ in range(count):
            await asyncio.sleep(pause)
            event: Any = Order(number=now(), text=TEXT)
            await broker.publish(event, channel=CHANNEL)
