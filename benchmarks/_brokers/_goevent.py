"""goevent: the subject. The listener is a `def`; a publish waits for its handle."""

import time
from collections.abc import Sequence
from functools import partial

import trio

from benchmarks._brokers._contender import TASKS, TEXT, Ready, Scene
from benchmarks._brokers._places import PLACES
from goevent import Config, Envelope, Event, EventRegistry, GoEvent, JsonCodec

REGISTRY = EventRegistry()


class Order(Event, name="bench.order", registry=REGISTRY):
    number: int
    text: str


def _bus(scene: Scene, *, group: bool = False) -> GoEvent:
    place = PLACES[scene.broker]
    url = place.goevent.format(addr=scene.addr, tag=scene.tag)
    if group and place.durable:
        url += f"&group={scene.tag}"
    return GoEvent(Config(registry=REGISTRY, driver=url))


def payloads(scene: Scene, count: int) -> Sequence[bytes]:
    codec = JsonCodec()
    return [
        codec.encode(
            Envelope(
                event_name=Order.event_name,
                event=Order(number, TEXT),
                handle_id=f"{number:016x}",
                timestamp=1_700_000_000,
                origin="0a1b2c3d4e5f60718293a4b5c6d7e8f9",
            )
        )
        for number in range(1, count + 1)
    ]


def receive(scene: Scene, count: int, ready: Ready) -> float:
    return trio.run(_receive, scene, count, ready)


async def _receive(scene: Scene, count: int, ready: Ready) -> float:
    bus, left, start, end = _bus(scene, group=True), count, 0.0, trio.Event()

    @bus.listener(Order)
    def take(event: Order) -> None:
        nonlocal left, start
        left -= 1
        if left == count - 1:
            start = time.perf_counter()
        elif not left:
            end.set()

    async with bus:
        ready()
        await end.wait()
        return count / (time.perf_counter() - start)


def publish(scene: Scene, seconds: float) -> float:
    return trio.run(_publish, scene, seconds)


async def _publish(scene: Scene, seconds: float) -> float:
    sent = 0

    async def work(deadline: float) -> None:
        nonlocal sent
        while time.perf_counter() < deadline:
            handle = await bus.dispatch(Order(sent, TEXT))
            await handle.wait()
            handle.raise_errors()
            sent += 1

    async with _bus(scene) as bus:
        for warm_up in (True, False):
            sent, start = 0, time.perf_counter()
            deadline = start + (0.3 if warm_up else seconds)
            async with trio.open_nursery() as nursery:
                for _ in range(TASKS):
                    nursery.start_soon(partial(work, deadline))
        return sent / (time.perf_counter() - start)
