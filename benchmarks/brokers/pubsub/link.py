"""The link of goevent's Redis driver alone: nothing is decoded, no listener is called."""

import time
from collections.abc import Sequence
from statistics import median
from typing import Any

import msgspec
import trio

from benchmarks.brokers.contender import BATCH, TASKS, TEXT, Place, Ready, now
from benchmarks.brokers.pubsub.redis_asyncio import CHANNEL, Order, payloads as _payloads
from goevent_redis import Link, RedisConfig


def payloads(place: Place, count: int) -> Sequence[bytes]:
    return _payloads(place, count)


def receive(place: Place, count: int, ready: Ready) -> float:
    return trio.run(_receive, place, count, ready)


async def _receive(place: Place, count: int, ready: Ready) -> float:
    left, start, end = count, 0.0, trio.Event()

    def push(frames: list[Any]) -> None:
        nonlocal left, start
        if left == count:
            start = time.perf_counter()
        left -= sum(frame[0] == b"message" for frame in frames)
        if not left:
            end.set()

    async with Link(RedisConfig(addr=place.addr), on_push=push).open() as link:
        await link.subscribe("SUBSCRIBE", CHANNEL)
        ready()
        await end.wait()
        return count / (time.perf_counter() - start)


def publish(place: Place, seconds: float, tasks: int = TASKS) -> float:
    return trio.run(_publish, place, seconds, tasks)


async def _publish(place: Place, seconds: float, tasks: int) -> float:
    sent, data = 0, msgspec.json.encode(Order(1, TEXT))

    async def work(deadline: float) -> None:
        nonlocal sent
        while time.perf_counter() < deadline:
            await link.execute("PUBLISH", CHANNEL, data)
            sent += 1

    async with Link(RedisConfig(addr=place.addr)).open() as link:
        for warm_up in (True, False):
            sent, start = 0, time.perf_counter()
            async with trio.open_nursery() as nursery:
                for _ in range(tasks):
                    nursery.start_soon(work, start + (0.2 if warm_up else seconds))
        return sent / (time.perf_counter() - start)


def batches(place: Place, seconds: float) -> float:
    return trio.run(_batches, place, seconds)


async def _batches(place: Place, seconds: float) -> float:
    """Send a hundred commands in one piece."""
    data = msgspec.json.encode(Order(1, TEXT))
    async with Link(RedisConfig(addr=place.addr)).open() as link:
        for warm_up in (True, False):
            sent, start = 0, time.perf_counter()
            deadline = start + (0.2 if warm_up else seconds)
            while time.perf_counter() < deadline:
                await link.pipeline([("PUBLISH", CHANNEL, data)] * BATCH)
                sent += BATCH
        return sent / (time.perf_counter() - start)


def listen(place: Place, count: int, ready: Ready) -> float:
    return trio.run(_listen, place, count, ready)


async def _listen(place: Place, count: int, ready: Ready) -> float:
    ages, end = list[int](), trio.Event()

    def push(frames: list[Any]) -> None:
        for frame in frames:
            if frame[0] == b"message":
                ages.append(now() - msgspec.json.decode(frame[2], type=Order).number)
        if len(ages) == count:
            end.set()

    async with Link(RedisConfig(addr=place.addr), on_push=push).open() as link:
        await link.subscribe("SUBSCRIBE", CHANNEL)
        ready()
        await end.wait()
    return median(ages)


def speak(place: Place, count: int, pause: float) -> None:
    trio.run(_speak, place, count, pause)


async def _speak(place: Place, count: int, pause: float) -> None:
    async with Link(RedisConfig(addr=place.addr)).open() as link:
        for _ in range(count):
            await trio.sleep(pause)
            await link.execute("PUBLISH", CHANNEL, msgspec.json.encode(Order(now(), TEXT)))
