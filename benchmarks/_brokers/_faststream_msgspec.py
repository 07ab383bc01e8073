"""FastStream with its serializer of msgspec, which takes less work than that of pydantic."""

import asyncio

import msgspec

from benchmarks._brokers import _direct, _faststream
from benchmarks._brokers._contender import Ready, Scene
from benchmarks._brokers._faststream import payloads as payloads


class Order(msgspec.Struct):
    number: int
    text: str


def receive(scene: Scene, count: int, ready: Ready) -> float:
    _direct.use_msgspec()
    return asyncio.run(_faststream.consume(scene, count, ready, Order))
