"""redis.asyncio: a client, with no bus around it."""

import asyncio
import time
from collections.abc import Sequence
from statistics import median
from typing import Any

import msgspec
from redis.asyncio import Redis

from benchmarks._redis._contender import TASKS, TEXT, Ready, now

NAME = "redis.asyncio"
NOTE = (
    "A bare loop over parse_response, with hiredis: nothing is decoded, no listener is called. "
    "Publishing: msgspec's JSON of the event, no envelope."
)
CHANNEL = "bench.order"


class Order(msgspec.Struct):
    number: int
    text: str


def _client(address: str) -> Any:
    return Redis.from_url(f"redis://{address}")


def payloads(count: int) -> tuple[str, Sequence[bytes]]:
    return CHANNEL, [msgspec.json.encode(Order(number, TEXT)) for number in range(1, count + 1)]


def receive(address: str, count: int, ready: Ready) -> float:
    return asyncio.run(_receive(address, count, ready))


async def _receive(address: str, count: int, ready: Ready) -> float:
    async with _client(address) as client, client.pubsub() as pubsub:
        await pubsub.subscribe(CHANNEL)
        await pubsub.parse_response()
        ready()
        await pubsub.parse_response()
        start = time.perf_counter()
        for _ in range(count - 1):
            await pubsub.parse_response()
        return count / (time.perf_counter() - start)


def publish(address: str, seconds: float) -> float:
    return asyncio.run(_publish(address, seconds))


async def _publish(address: str, seconds: float) -> float:
    sent = 0

    async def work(deadline: float) -> None:
        nonlocal sent
        while time.perf_counter() < deadline:
            await client.publish(CHANNEL, msgspec.json.encode(Order(sent, TEXT)))
            sent += 1

    async with _client(address) as client:
        for warm_up in (True, False):
            sent, start = 0, time.perf_counter()
            deadline = start + (0.2 if warm_up else seconds)
            await asyncio.gather(*(work(deadline) for _ in range(TASKS)))
        return sent / (time.perf_counter() - start)


def listen(address: str, count: int, ready: Ready) -> float:
    return asyncio.run(_listen(address, count, ready))


async def _listen(address: str, count: int, ready: Ready) -> float:
    ages: list[int] = []
    async with _client(address) as client, client.pubsub() as pubsub:
        await pubsub.subscribe(CHANNEL)
        await pubsub.parse_response()
        ready()
        while len(ages) < count:
            message = await pubsub.parse_response()
            ages.append(now() - msgspec.json.decode(message[2], type=Order).number)
    return median(ages)


def speak(address: str, count: int, pause: float) -> None:
    asyncio.run(_speak(address, count, pause))


async def _speak(address: str, count: int, pause: float) -> None:
    async with _client(address) as client:
        for _ in range(count):
            await asyncio.sleep(pause)
            await client.publish(CHANNEL, msgspec.json.encode(Order(now(), TEXT)))
