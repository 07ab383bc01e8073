"""FastStream with a flush after each publish, so each publish waits for the server."""

import asyncio

from benchmarks.brokers.contender import Place
from benchmarks.brokers.faststream.faststream import send


def publish(place: Place, seconds: float) -> float:
    return asyncio.run(send(place, seconds, flushing=True))
