"""goevent over FastStream's brokers; the listener is a `def`, a publish waits for its handle."""

import time
from collections.abc import Sequence
from functools import partial

import trio

from benchmarks.brokers.contender import BATCH, TASKS, TEXT, Place, Ready
from benchmarks.brokers.faststream.rows import ROWS
from goevent import Config, Envelope, Event, EventRegistry, GoEvent, JsonCodec

REGISTRY = EventRegistry()


class Order(Event, name="bench.order", registry=REGISTRY):
    number: int
    text: str


def _bus(place: Place, *, group: bool = False) -> GoEvent:
    row = ROWS[place.broker]
    url = row.goevent.format(addr=place.addr, tag=place.tag)
    if group and row.durable:
        url += f"&group={place.tag}"
    return GoEvent(Config(registry=REGISTRY, driver=url))


def payloads(place: Place, count: int) -> Sequence[bytes]:
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


def receive(place: Place, count: int, ready: Ready) -> float:
    return trio.run(_receive, place, count, ready)


async def _receive(place: Place, count: int, ready: Ready) -> float:
    bus, left, start, end = _bus(place, group=True), count, 0.0, trio.Event()

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


def publish(place: Place, seconds: float) -> float:
    return trio.run(_publish, place, seconds)


async def _publish(place: Place, seconds: float) -> float:
    sent = 0

    async def work(deadline: float) -> None:
        nonlocal sent
        while time.perf_counter() < deadline:
            handle = await bus.dispatch(Order(sent, TEXT))
            await handle.wait()
            handle.raise_errors()
            sent += 1

    async with _bus(place) as bus:
        for warm_up in (True, False):
            sent, start = 0, time.perf_counter()
            deadline = start + (0.3 if warm_up else seconds)
            async with trio.open_nursery() as nursery:
                for _ in range(TASKS):
                    nursery.start_soon(partial(work, deadline))
        return sent / (time.perf_counter() - start)


def batches(place: Place, seconds: float) -> float:
    return trio.run(_batches, place, seconds)


async def _batches(place: Place, seconds: float) -> float:
    """Dispatch a hundred, wait for all of them."""
    sent = 0
    async with _bus(place) as bus:
        for warm_up in (True, False):
            sent, start = 0, time.perf_counter()
            deadline = start + (0.3 if warm_up else seconds)
            while time.perf_counter() < deadline:
                batch = await bus.dispatch_many([Order(sent + n, TEXT) for n in range(BATCH)])
                await batch.wait()
                batch.raise_errors()
                sent += BATCH
        return sent / (time.perf_counter() - start)
