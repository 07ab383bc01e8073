"""FastStream with a flush after each publish or batch, so each waits for the server."""

import asyncio

from benchmarks.brokers.contender import Place
from benchmarks.brokers.faststream.faststream import send, send_batches


def publish(place: Place, seconds: float) -> float:
    return asyncio.run(send(place, seconds, flushing=True))


def batches(place: Place, seconds: float) -> float:
    return asyncio.run(send_batches(place, seconds, flushing=True))
