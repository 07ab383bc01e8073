"""FastStream's brokers as its users use them: on asyncio, with models of pydantic.

The handler is an `async def`, its fastest. After an exception in it, the event is delivered again.
"""

import asyncio
import time
from collections.abc import Sequence

import pydantic

from benchmarks.brokers.contender import BATCH, TASKS, TEXT, Place, Ready
from benchmarks.brokers.faststream.direct import DIRECT
from benchmarks.brokers.faststream.rows import ROWS


class Order(pydantic.BaseModel):
    number: int
    text: str


def payloads(place: Place, count: int) -> Sequence[bytes]:
    return [
        Order(number=number, text=TEXT).model_dump_json().encode() for number in range(1, count + 1)
    ]


def receive(place: Place, count: int, ready: Ready) -> float:
    return asyncio.run(consume(place, count, ready, Order))


async def consume(place: Place, count: int, ready: Ready, model: type[object]) -> float:
    """Run a handler that takes a model."""
    direct = DIRECT[ROWS[place.broker].direct](place)
    left, start, end = count, 0.0, asyncio.Event()

    async def take(event: object) -> None:
        nonlocal left, start
        left -= 1
        if left == count - 1:
            start = time.perf_counter()
        elif not left:
            end.set()

    take.__annotations__["event"] = model
    direct.subscriber()(take)
    async with direct.broker:
        await direct.prepare()
        await direct.broker.start()
        await asyncio.sleep(1.0)  # it does not tell when the server has confirmed
        ready()
        await end.wait()
        return count / (time.perf_counter() - start)


def publish(place: Place, seconds: float) -> float:
    return asyncio.run(send(place, seconds, flushing=False))


async def send(place: Place, seconds: float, *, flushing: bool) -> float:
    """Publish from 64 tasks."""
    direct, sent = DIRECT[ROWS[place.broker].direct](place), 0

    async def work(deadline: float) -> None:
        nonlocal sent
        while time.perf_counter() < deadline:
            await direct.publish(Order(number=sent, text=TEXT))
            if flushing:
                await direct.flush()
            sent += 1

    async with direct.broker:
        await direct.broker.connect()
        await direct.prepare()
        await direct.broker.start()
        for warm_up in (True, False):
            sent, start = 0, time.perf_counter()
            deadline = start + (0.3 if warm_up else seconds)
            await asyncio.gather(*(work(deadline) for _ in range(TASKS)))
        return sent / (time.perf_counter() - start)


def batches(place: Place, seconds: float) -> float:
    return asyncio.run(send_batches(place, seconds, flushing=False))


async def send_batches(place: Place, seconds: float, *, flushing: bool) -> float:
    """Publish a hundred with one call where there is one, or else at the same time."""
    direct, sent = DIRECT[ROWS[place.broker].direct](place), 0
    async with direct.broker:
        await direct.broker.connect()
        await direct.prepare()
        await direct.broker.start()
        for warm_up in (True, False):
            sent, start = 0, time.perf_counter()
            deadline = start + (0.3 if warm_up else seconds)
            while time.perf_counter() < deadline:
                orders = [Order(number=sent + n, text=TEXT) for n in range(BATCH)]
                if direct.publish_batch is not None:
                    await direct.publish_batch(orders)
                else:
                    await asyncio.gather(*map(direct.publish, orders))
                if flushing:
                    await direct.flush()
                sent += BATCH
        return sent / (time.perf_counter() - start)
