"""goevent over Redis pub/sub.

A typed event, a JSON envelope with id, origin and sequence number; the listener is a `def`. Gaps
are detected, listeners are isolated, and every publish has a handle.
"""

import time
from collections.abc import Sequence
from functools import partial
from statistics import median

import trio

from benchmarks.brokers.contender import BATCH, TASKS, TEXT, Place, Ready, now
from goevent import Config, Envelope, Event, EventRegistry, GoEvent, JsonCodec
from goevent_redis import RedisConfig

REGISTRY = EventRegistry()


class Order(Event, name="bench.order", registry=REGISTRY):
    number: int
    text: str


CHANNEL = RedisConfig().channel_prefix + Order.event_name


def _bus(place: Place) -> GoEvent:
    return GoEvent(Config(registry=REGISTRY, driver=f"redis://{place.addr}"))


def payloads(place: Place, count: int) -> Sequence[bytes]:
    codec = JsonCodec()
    return [
        codec.encode(
            Envelope(
                event_name=Order.event_name,
                event=Order(number, TEXT),
                handle_id="0123456789abcdef",
                timestamp=1_700_000_000,
                origin="0a1b2c3d4e5f60718293a4b5c6d7e8f9",
                seq=number,
            )
        )
        for number in range(1, count + 1)
    ]


def receive(place: Place, count: int, ready: Ready) -> float:
    return trio.run(_receive, place, count, ready)


async def _receive(place: Place, count: int, ready: Ready) -> float:
    bus, left, start, end = _bus(place), count, 0.0, trio.Event()

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
        seconds = time.perf_counter() - start
        if bus.error_count:
            raise RuntimeError(f"{bus.error_count} error(s): {bus.errors[0]}")
        return count / seconds


def publish(place: Place, seconds: float, tasks: int = TASKS) -> float:
    return trio.run(_publish, place, seconds, tasks)


async def _publish(place: Place, seconds: float, tasks: int) -> float:
    sent = 0

    async def work(deadline: float) -> None:
        nonlocal sent
        while time.perf_counter() < deadline:
            handle = await bus.dispatch(Order(sent, TEXT))
            await handle.wait()
            sent += 1

    async with _bus(place) as bus:
        for warm_up in (True, False):
            sent, start = 0, time.perf_counter()
            async with trio.open_nursery() as nursery:
                for _ in range(tasks):
                    nursery.start_soon(work, start + (0.2 if warm_up else seconds))
        taken = time.perf_counter() - start
        if bus.error_count:
            raise RuntimeError(f"{bus.error_count} error(s): {bus.errors[0]}")
    return sent / taken


def batches(place: Place, seconds: float) -> float:
    return trio.run(_batches, place, seconds)


async def _batches(place: Place, seconds: float) -> float:
    """Dispatch a hundred, wait for all of them."""
    async with _bus(place) as bus:
        for warm_up in (True, False):
            sent, start = 0, time.perf_counter()
            deadline = start + (0.2 if warm_up else seconds)
            while time.perf_counter() < deadline:
                batch = await bus.dispatch_many([Order(sent + n, TEXT) for n in range(BATCH)])
                await batch.wait()
                sent += BATCH
        taken = time.perf_counter() - start
        if bus.error_count:
            raise RuntimeError(f"{bus.error_count} error(s): {bus.errors[0]}")
    return sent / taken


def listen(place: Place, count: int, ready: Ready) -> float:
    return trio.run(_listen, place, count, ready)


async def _listen(place: Place, count: int, ready: Ready) -> float:
    bus, ages, end = _bus(place), list[int](), trio.Event()

    @bus.listener(Order)
    def take(event: Order) -> None:
        ages.append(now() - event.number)
        if len(ages) == count:
            end.set()

    async with bus:
        ready()
        await end.wait()
    return median(ages)


def speak(place: Place, count: int, pause: float) -> None:
    trio.run(partial(_speak, place, count, pause))


async def _speak(place: Place, count: int, pause: float) -> None:
    async with _bus(place) as bus:
        for _ in range(count):
            await trio.sleep(pause)
            await bus.dispatch(Order(now(), TEXT))
