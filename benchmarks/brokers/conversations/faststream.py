"""FastStream's `request` on Redis: one to one, an inbox of its own for each request."""

import asyncio
from typing import Any

import pydantic
from faststream.redis import RedisBroker

from benchmarks.brokers.contender import Measured, Place, Ready
from benchmarks.brokers.conversations.asking import Latencies, ask_on_asyncio

CHANNEL = "bench.price.asked"


class PriceAsked(pydantic.BaseModel):
    sku: str


class Price(pydantic.BaseModel):
    cents: int


def _broker(place: Place) -> Any:
    silent: Any = None
    # Each request takes a connection of its own.
    return RedisBroker(f"redis://{place.addr}", logger=silent, max_connections=1000)


def respond(place: Place, ready: Ready) -> None:
    asyncio.run(_respond(place, ready))


async def _respond(place: Place, ready: Ready) -> None:
    broker = _broker(place)

    @broker.subscriber(CHANNEL)  # type: ignore[untyped-decorator, unused-ignore]
    async def price(event: PriceAsked) -> Price:
        return Price(cents=250)

    async with broker:
        await broker.start()
        await asyncio.sleep(1.0)  # it does not tell when the server has confirmed
        ready()
        await asyncio.Event().wait()


def ask(place: Place, seconds: float, tasks: int) -> Measured:
    return asyncio.run(_ask(place, seconds, tasks)).rate()


def ask_once(place: Place, seconds: float) -> Measured:
    return asyncio.run(_ask(place, seconds, 1)).middle()


async def _ask(place: Place, seconds: float, tasks: int) -> Latencies:
    broker = _broker(place)

    async def request() -> None:
        message = await broker.request(PriceAsked(sku="A"), channel=CHANNEL, timeout=5.0)
        Price.model_validate(await message.decode())

    async with broker:
        await broker.start()
        return await ask_on_asyncio(request, seconds, tasks)
