"""FastStream with its msgspec serializer, which is faster than the pydantic one."""

import asyncio

import msgspec

from benchmarks.brokers.contender import Place, Ready
from benchmarks.brokers.faststream import direct, faststream
from benchmarks.brokers.faststream.faststream import payloads as payloads


class Order(msgspec.Struct):
    number: int
    text: str


def receive(place: Place, count: int, ready: Ready) -> float:
    direct.use_msgspec()
    return asyncio.run(faststream.consume(place, count, ready, Order))
