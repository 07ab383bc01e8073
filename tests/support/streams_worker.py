"""A consumer in a process of its own: it prints each start and end of an event, and reports."""

from __future__ import annotations

import sys

import trio

from goevent import EventError, current_delivery
from tests.support.partition_buses import Moved
from tests.support.redis_buses import Paid
from tests.support.streams_buses import StreamsBus


def say(*words: object) -> None:
    """Write a line and flush it."""
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


async def main(addr: str, seconds: str, claim_idle: str, partitions: str) -> None:
    bus = StreamsBus(addr, claim_idle=float(claim_idle), partitions=int(partitions))

    @bus.on_error
    def report(error: EventError) -> None:
        say("report", error)

    async def work(event: Paid | Moved) -> None:
        say("begun", event.n, current_delivery().deliveries)
        await trio.sleep(float(seconds))
        say("done", event.n)

    bus.subscribe(work, Moved if int(partitions) > 1 else Paid, concurrency=20)
    async with bus:
        say("ready")
        await trio.sleep_forever()


if __name__ == "__main__":
    trio.run(main, sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4])
