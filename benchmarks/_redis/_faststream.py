"""FastStream's RedisBroker, on asyncio."""

import asyncio
import time
from collections.abc import Sequence
from statistics import median
from typing import Any

import pydantic
from faststream.redis import RedisBroker
from faststream.redis.parser import BinaryMessageFormatV1

from benchmarks._redis._contender import TASKS, TEXT, Ready, now

NAME = "FastStream"
NOTE = "RedisBroker with pydantic models, on asyncio; the handler is an async def, its fastest."
CHANNEL = "bench.order"


class Order(pydantic.BaseModel):
    number: int
    text: str


def _broker(address: str) -> RedisBroker:
    return RedisBroker(f"redis://{address}", logger=None)  # type: ignore[arg-type]


def payloads(count: int) -> tuple[str, Sequence[bytes]]:
    return CHANNEL, asyncio.run(_payloads(count))


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


def receive(address: str, count: int, ready: Ready) -> float:
    return asyncio.run(_receive(address, count, ready))


async def _receive(address: str, count: int, ready: Ready) -> float:
    broker, left, start, end = _broker(address), count, 0.0, asyncio.Event()

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
        await asyncio.sleep(1.0)  # it has no way to tell that the server has confirmed
        ready()
        await end.wait()
        return count / (time.perf_counter() - start)


def publish(address: str, seconds: float) -> float:
    return asyncio.run(_publish(address, seconds))


async def _publish(address: str, seconds: float) -> float:
    sent = 0

    async def work(deadline: float) -> None:
        nonlocal sent
        while time.perf_counter() < deadline:
            await broker.publish(Order(number=sent, text=TEXT), channel=CHANNEL)
            sent += 1

    async with _broker(address) as broker:
        await broker.connect()
        for warm_up in (True, False):
            sent, start = 0, time.perf_counter()
            deadline = start + (0.2 if warm_up else seconds)
            await asyncio.gather(*(work(deadline) for _ in range(TASKS)))
        return sent / (time.perf_counter() - start)


def listen(address: str, count: int, ready: Ready) -> float:
    return asyncio.run(_listen(address, count, ready))


async def _listen(address: str, count: int, ready: Ready) -> float:
    broker, ages, end = _broker(address), list[int](), asyncio.Event()

    @broker.subscriber(CHANNEL)
    async def take(event: Order) -> None:
        ages.append(now() - event.number)
        if len(ages) == count:
            end.set()

    async with broker:
        await broker.start()
        await asyncio.sleep(1.0)  # it has no way to tell that the server has confirmed
        ready()
        await end.wait()
    return median(ages)


def speak(address: str, count: int, pause: float) -> None:
    asyncio.run(_speak(address, count, pause))


async def _speak(address: str, count: int, pause: float) -> None:
    async with _broker(address) as broker:
        await broker.connect()
        for _ in range(count):
            await asyncio.sleep(pause)
            event: Any = Order(number=now(), text=TEXT)
            await broker.publish(event, channel=CHANNEL)
