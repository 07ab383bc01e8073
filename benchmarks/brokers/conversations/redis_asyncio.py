"""redis.asyncio: requests and replies by hand, over one reply channel for each process."""

import asyncio
import secrets
from typing import Any

import msgspec
from redis.asyncio import Redis

from benchmarks.brokers.contender import Measured, Place, Ready
from benchmarks.brokers.conversations.asking import Latencies, ask_on_asyncio

CHANNEL = "bench.price.asked"


class PriceAsked(msgspec.Struct):
    id: int
    reply_to: str
    sku: str


class Price(msgspec.Struct):
    id: int
    cents: int


def _client(place: Place) -> Any:
    return Redis.from_url(f"redis://{place.addr}")


def respond(place: Place, ready: Ready) -> None:
    asyncio.run(_respond(place, ready))


async def _respond(place: Place, ready: Ready) -> None:
    async with _client(place) as client, client.pubsub() as pubsub:
        await pubsub.subscribe(CHANNEL)
        await pubsub.parse_response()
        ready()
        answers: set[asyncio.Task[int]] = set()
        while True:
            message = await pubsub.parse_response()
            asked = msgspec.json.decode(message[2], type=PriceAsked)
            answer = msgspec.json.encode(Price(asked.id, 250))
            # In a task: to wait for the server here would make each request wait for the last one.
            task = asyncio.create_task(client.publish(asked.reply_to, answer))
            answers.add(task)
            task.add_done_callback(answers.discard)


def ask(place: Place, seconds: float, tasks: int) -> Measured:
    return asyncio.run(_ask(place, seconds, tasks)).rate()


def ask_once(place: Place, seconds: float) -> Measured:
    return asyncio.run(_ask(place, seconds, 1)).middle()


async def _ask(place: Place, seconds: float, tasks: int) -> Latencies:
    waiting: dict[int, asyncio.Future[Price]] = {}
    reply_to = f"bench.reply.{secrets.token_hex(8)}"
    number = 0

    async def read() -> None:
        while True:
            message = await pubsub.parse_response()
            answer = msgspec.json.decode(message[2], type=Price)
            waiting.pop(answer.id).set_result(answer)

    async def request() -> None:
        nonlocal number
        number += 1
        mine = number
        future = waiting[mine] = asyncio.get_running_loop().create_future()
        await client.publish(CHANNEL, msgspec.json.encode(PriceAsked(mine, reply_to, "A")))
        async with asyncio.timeout(5.0):
            await future

    async with _client(place) as client, client.pubsub() as pubsub:
        await pubsub.subscribe(reply_to)
        await pubsub.parse_response()
        reader = asyncio.create_task(read())
        try:
            return await ask_on_asyncio(request, seconds, tasks)
        finally:
            reader.cancel()
