"""FastStream, where each publish waits until the server has it, though its broker does not."""

import asyncio

from benchmarks._brokers._contender import Scene
from benchmarks._brokers._faststream import send


def publish(scene: Scene, seconds: float) -> float:
    return asyncio.run(send(scene, seconds, flushing=True))
