"""A consumer in a process of its own: it prints the events that it begins and ends.

The first event hangs.
"""

from __future__ import annotations

import sys

import trio

from goevent import current_delivery
from tests.support.faststream_buses import FastStreamBus
from tests.support.redis_buses import Paid


def say(*words: object) -> None:
    """Write a line and flush it."""
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


async def main(url: str) -> None:
    bus = FastStreamBus(url)

    async def work(event: Paid) -> None:
        say("begun", event.n, current_delivery().deliveries)
        if event.n == 1:
            await trio.sleep_forever()
        say("done", event.n)

    bus.subscribe(work, Paid, concurrency=20)
    async with bus:
        say("ready")
        await trio.sleep_forever()


if __name__ == "__main__":
    trio.run(main, sys.argv[1])
