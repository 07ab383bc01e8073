"""goevent: the subject."""

import time
from collections.abc import Sequence
from functools import partial
from statistics import median

import trio

from benchmarks._redis._contender import TASKS, TEXT, Ready, now
from goevent import Config, Envelope, Event, EventRegistry, GoEvent, JsonCodec
from goevent_redis import RedisConfig

NAME = "goevent"
NOTE = (
    "Typed event, JSON envelope with id, origin and sequence number; the listener is a def. Gaps "
    "are watched for, listeners are isolated, every publish has a handle."
)

REGISTRY = EventRegistry()


class Order(Event, name="bench.order", registry=REGISTRY):
    number: int
    text: str


def _bus(address: str) -> GoEvent:
    return GoEvent(Config(registry=REGISTRY, driver=f"redis://{address}"))


def payloads(count: int) -> tuple[str, Sequence[bytes]]:
    codec = JsonCodec()
    return RedisConfig().channel_prefix + Order.event_name, [
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


def receive(address: str, count: int, ready: Ready) -> float:
    return trio.run(_receive, address, count, ready)


async def _receive(address: str, count: int, ready: Ready) -> float:
    bus, left, start, end = _bus(address), count, 0.0, trio.Event()

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


def publish(address: str, seconds: float) -> float:
    return trio.run(_publish, address, seconds)


async def _publish(address: str, seconds: float) -> float:
    sent = 0

    async def work(deadline: float) -> None:
        nonlocal sent
        while time.perf_counter() < deadline:
            handle = await bus.dispatch(Order(sent, TEXT))
            await handle.wait()
            sent += 1

    async with _bus(address) as bus:
        for warm_up in (True, False):
            sent, start = 0, time.perf_counter()
            async with trio.open_nursery() as nursery:
                for _ in range(TASKS):
                    nursery.start_soon(work, start + (0.2 if warm_up else seconds))
        taken = time.perf_counter() - start
        if bus.error_count:
            raise RuntimeError(f"{bus.error_count} error(s): {bus.errors[0]}")
    return sent / taken


def listen(address: str, count: int, ready: Ready) -> float:
    return trio.run(_listen, address, count, ready)


async def _listen(address: str, count: int, ready: Ready) -> float:
    bus, ages, end = _bus(address), list[int](), trio.Event()

    @bus.listener(Order)
    def take(event: Order) -> None:
        ages.append(now() - event.number)
        if len(ages) == count:
            end.set()

    async with bus:
        ready()
        await end.wait()
    return median(ages)


def speak(address: str, count: int, pause: float) -> None:
    trio.run(partial(_speak, address, count, pause))


async def _speak(address: str, count: int, pause: float) -> None:
    async with _bus(address) as bus:
        for _ in range(count):
            await trio.sleep(pause)
            await bus.dispatch(Order(now(), TEXT))
