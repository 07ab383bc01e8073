"""FastStream's RedisBroker with its own telemetry, on asyncio, with an `async def` handler."""

import asyncio
from typing import Any

import pydantic
from faststream.redis import RedisBroker
from faststream.redis.opentelemetry import RedisTelemetryMiddleware

from benchmarks.brokers.contender import TEXT, Measured, Meter, Place
from benchmarks.brokers.telemetry.providers import BARE, providers

CHANNEL = "bench.order"
SENDERS = 16


class Order(pydantic.BaseModel):
    number: int
    text: str


def traverse(place: Place, count: int) -> Measured:
    """Send this many messages, and run the handler for each; the tag of the place is the mode."""
    return asyncio.run(_traverse(place, count))


async def _traverse(place: Place, count: int) -> Measured:
    middlewares: list[Any] = []
    if place.tag != BARE:
        tracer_provider, meter_provider = providers(place.tag)
        middlewares = [
            RedisTelemetryMiddleware(tracer_provider=tracer_provider, meter_provider=meter_provider)
        ]
    silent: Any = None
    broker: Any = RedisBroker(f"redis://{place.addr}", logger=silent, middlewares=middlewares)
    left, end = 0, asyncio.Event()

    @broker.subscriber(CHANNEL)  # type: ignore[untyped-decorator, unused-ignore]
    async def take(event: Order) -> None:
        nonlocal left
        left -= 1
        if not left:
            end.set()

    async def send(events: int) -> None:
        for number in range(events):
            await broker.publish(Order(number=number, text=TEXT), channel=CHANNEL)

    async with broker:
        await broker.start()
        await asyncio.sleep(1.0)  # it does not tell when the server has confirmed
        meter = Meter()
        for events in (count // 10, count):  # the first ones warm up
            left, end = events // SENDERS * SENDERS, asyncio.Event()
            meter = Meter()
            await asyncio.gather(*(send(events // SENDERS) for _ in range(SENDERS)))
            await end.wait()
        return meter.read(count // SENDERS * SENDERS)
