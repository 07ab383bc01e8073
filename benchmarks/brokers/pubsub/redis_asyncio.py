"""redis.asyncio: a client without a bus.

A bare loop over `parse_response`, with hiredis: nothing is decoded, no listener is called. It
publishes the JSON of the event by msgspec, without an envelope.
"""

import asyncio
import time
from collections.abc import Sequence
from statistics import median
from typing import Any

import msgspec
from redis.asyncio import Redis

from benchmarks.brokers.contender import BATCH, TASKS, TEXT, Place, Ready, now

CHANNEL = "bench.order"


class Order(msgspec.Struct):
    number: int
    text: str


def _client(place: Place) -> Any:
    return Redis.from_url(f"redis://{place.addr}")


def payloads(place: Place, count: int) -> Sequence[bytes]:
    return [msgspec.json.encode(Order(number, TEXT)) for number in range(1, count + 1)]


def receive(place: Place, count: int, ready: Ready) -> float:
    return asyncio.run(_receive(place, count, ready))


async def _receive(place: Place, count: int, ready: Ready) -> float:
    async with _client(place) as client, client.pubsub() as pubsub:
        await pubsub.subscribe(CHANNEL)
        await pubsub.parse_response()
        ready()
        await pubsub.parse_response()
        start = time.perf_counter()
        for _ in range(count - 1):
            await pubsub.parse_response()
        return count / (time.perf_counter() - start)


def publish(place: Place, seconds: float, tasks: int = TASKS) -> float:
    return asyncio.run(_publish(place, seconds, tasks))


async def _publish(place: Place, seconds: float, tasks: int) -> float:
    sent = 0

    async def work(deadline: float) -> None:
        nonlocal sent
        while time.perf_counter() < deadline:
            await client.publish(CHANNEL, msgspec.json.encode(Order(sent, TEXT)))
            sent += 1

    async with _client(place) as client:
        for warm_up in (True, False):
            sent, start = 0, time.perf_counter()
            deadline = start + (0.2 if warm_up else seconds)
            await asyncio.gather(*(work(deadline) for _ in range(tasks)))
        return sent / (time.perf_counter() - start)


def batches(place: Place, seconds: float) -> float:
    return asyncio.run(_batches(place, seconds))


async def _batches(place: Place, seconds: float) -> float:
    """PUBLISH a hundred in one pipeline."""
    async with _client(place) as client:
        for warm_up in (True, False):
            sent, start = 0, time.perf_counter()
            deadline = start + (0.2 if warm_up else seconds)
            while time.perf_counter() < deadline:
                pipeline = client.pipeline(transaction=False)
                for n in range(BATCH):
                    pipeline.publish(CHANNEL, msgspec.json.encode(Order(sent + n, TEXT)))
                await pipeline.execute()
                sent += BATCH
        return sent / (time.perf_counter() - start)


def listen(place: Place, count: int, ready: Ready) -> float:
    return asyncio.run(_listen(place, count, ready))


async def _listen(place: Place, count: int, ready: Ready) -> float:
    ages: list[int] = []
    async with _client(place) as client, client.pubsub() as pubsub:
        await pubsub.subscribe(CHANNEL)
        await pubsub.parse_response()
        ready()
        while len(ages) < count:
            message = await pubsub.parse_response()
            ages.append(now() - msgspec.json.decode(message[2], type=Order).number)
    return median(ages)


def speak(place: Place, count: int, pause: float) -> None:
    asyncio.run(_speak(place, count, pause))


async def _speak(place: Place, count: int, pause: float) -> None:
    async with _client(place) as client:
        for _ in range(count):
            await asyncio.sleep(pause)
            await client.publish(CHANNEL, msgspec.json.encode(Order(now(), TEXT)))
