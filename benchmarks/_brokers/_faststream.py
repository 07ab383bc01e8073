"""The same brokers of FastStream, used as its users do: on asyncio, with models of pydantic.

The handler is an `async def`, its fastest, and an exception in it would bring the event again.
"""

import asyncio
import time
from collections.abc import Sequence

import pydantic

from benchmarks._brokers._contender import TASKS, TEXT, Ready, Scene
from benchmarks._brokers._direct import DIRECT
from benchmarks._brokers._places import PLACES


class Order(pydantic.BaseModel):
    number: int
    text: str


def payloads(scene: Scene, count: int) -> Sequence[bytes]:
    return [
        Order(number=number, text=TEXT).model_dump_json().encode() for number in range(1, count + 1)
    ]


def receive(scene: Scene, count: int, ready: Ready) -> float:
    return asyncio.run(consume(scene, count, ready, Order))


async def consume(scene: Scene, count: int, ready: Ready, model: type[object]) -> float:
    """Run a handler that takes a model."""
    direct = DIRECT[PLACES[scene.broker].direct](scene)
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
        await asyncio.sleep(1.0)  # it has no way to tell that the server has confirmed
        ready()
        await end.wait()
        return count / (time.perf_counter() - start)


def publish(scene: Scene, seconds: float) -> float:
    return asyncio.run(send(scene, seconds, flushing=False))


async def send(scene: Scene, seconds: float, *, flushing: bool) -> float:
    """Publish from 64 tasks."""
    direct, sent = DIRECT[PLACES[scene.broker].direct](scene), 0

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
