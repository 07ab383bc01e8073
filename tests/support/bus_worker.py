"""A consumer on any broker, in a process of its own: `bus_worker.py URL SECONDS`.

It prints each event that it begins, and then takes so many seconds.
"""

from __future__ import annotations

import sys

import trio

from goevent import Config, GoEvent, current_delivery
from tests.support.redis_buses import REGISTRY, Paid
from tests.support.streams_worker import say


async def main(url: str, seconds: float) -> None:
    bus = GoEvent(Config(driver=url, registry=REGISTRY, slow_after=None))

    async def take_long(event: Paid) -> None:
        say("begun", event.n, current_delivery().deliveries)
        await trio.sleep(seconds)

    bus.subscribe(take_long, Paid, concurrency=20)
    async with bus:
        say("ready")
        await trio.sleep_forever()


if __name__ == "__main__":
    trio.run(main, sys.argv[1], float(sys.argv[2]))
