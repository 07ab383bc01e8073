"""nats-py: its own `request`."""

import asyncio

import msgspec
import nats
from nats.aio.msg import Msg

from benchmarks.brokers.contender import Measured, Place, Ready
from benchmarks.brokers.conversations.asking import Latencies, ask_on_asyncio

SUBJECT = "bench.price.asked"


class PriceAsked(msgspec.Struct):
    sku: str


class Price(msgspec.Struct):
    cents: int


def respond(place: Place, ready: Ready) -> None:
    asyncio.run(_respond(place, ready))


async def _respond(place: Place, ready: Ready) -> None:
    client = await nats.connect(f"nats://{place.addr}")

    async def price(message: Msg) -> None:
        msgspec.json.decode(message.data, type=PriceAsked)
        await message.respond(msgspec.json.encode(Price(250)))

    await client.subscribe(f"{place.tag}.{SUBJECT}", cb=price)
    await client.flush()
    ready()
    await asyncio.Event().wait()


def ask(place: Place, seconds: float, tasks: int) -> Measured:
    return asyncio.run(_ask(place, seconds, tasks)).rate()


def ask_once(place: Place, seconds: float) -> Measured:
    return asyncio.run(_ask(place, seconds, 1)).middle()


async def _ask(place: Place, seconds: float, tasks: int) -> Latencies:
    client = await nats.connect(f"nats://{place.addr}")

    async def request() -> None:
        data = msgspec.json.encode(PriceAsked("A"))
        message = await client.request(f"{place.tag}.{SUBJECT}", data, timeout=5.0)
        msgspec.json.decode(message.data, type=Price)

    try:
        return await ask_on_asyncio(request, seconds, tasks)
    finally:
        await client.close()
