"""A producer or a consumer of the run, in a process of its own that may be killed at any time.

It records each event in a line of a file, without a buffer.
"""

import logging
import os
import random
import signal
import sys
import time

import trio

from goevent import Config, DispatchHandle, Event, EventError, GoEvent, current_delivery
from goevent_redis import RedisConfig, RedisStreamsDriver, StreamsConfig

GROUP = "chaos"
CLAIM_IDLE_SECONDS = 3.0
PRODUCER_TASKS = 16
ACCOUNTS_PER_PRODUCER = 25

FAILURE_SHARE = 0.01
"""The share of ordered events that fail and are retried."""


class Paid(Event, name="order.paid", key="account"):
    """The event."""

    n: int = 0
    account: str = ""


class Record:
    """The file of one process."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def write(self, *words: object) -> None:
        """Write a line."""
        os.write(self._file, (" ".join(map(str, words)) + "\n").encode())


def _bus(addr: str, group: str | None, record: Record, partitions: int) -> GoEvent:
    streams = StreamsConfig(
        group=group,
        claim_idle=CLAIM_IDLE_SECONDS,
        backoff=0.1,
        publish_timeout=60.0,
        max_deliveries=1000,
        partitions=partitions,
    )
    bus = GoEvent(Config(driver=RedisStreamsDriver(RedisConfig(addr=addr), streams)))

    def note(error: EventError) -> None:
        record.write("report", type(error.__cause__).__name__, str(error)[:300].replace("\n", " "))

    bus.on_error(note)
    return bus


async def produce(
    addr: str, path: str, partitions: int, first: int, count: int, rate: float
) -> None:
    """Publish events, `rate` in a second, and record the accepted ones."""
    record = Record(path)
    bus = _bus(addr, None, record, partitions)
    due = trio.current_time()
    numbers = iter(range(first, first + count))

    async def note(n: int, handle: DispatchHandle) -> None:
        await handle.wait()
        record.write("refused" if handle.errors else "accepted", n, handle.receipt)

    async def work() -> None:
        nonlocal due
        for n in numbers:
            due += 1 / rate
            await trio.sleep_until(due)
            handle = await bus.dispatch(Paid(n=n, account=f"{first}-{n % ACCOUNTS_PER_PRODUCER}"))
            if partitions > 1:  # many events in flight, which must not overtake each other
                nursery.start_soon(note, n, handle)
            else:
                await note(n, handle)

    async with bus, trio.open_nursery() as nursery:
        for _ in range(1 if partitions > 1 else PRODUCER_TASKS):
            nursery.start_soon(work)
    record.write("end")


async def consume(addr: str, path: str, partitions: int) -> None:
    """Process events until a SIGTERM, and record the processed ones."""
    record = Record(path)
    bus = _bus(addr, GROUP, record, partitions)

    async def work(event: Paid) -> None:
        began = time.monotonic_ns()
        delivery = current_delivery()
        if partitions > 1 and random.random() < FAILURE_SHARE:
            raise ValueError("a failure by chance")
        await trio.sleep(random.random() * 0.01)
        retried = int("goevent-retried" in delivery.headers)
        fields = (event.n, delivery.deliveries, retried, event.account)
        record.write("done", *fields, began, time.monotonic_ns())

    bus.subscribe(work, Paid, concurrency=32)
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async with bus:
            record.write("ready")
            await anext(signals)
    record.write("end")


if __name__ == "__main__":
    logging.disable()
    role, addr, path, partitions, *rest = sys.argv[1:]
    if role == "produce":
        first, count, rate = rest
        trio.run(produce, addr, path, int(partitions), int(first), int(count), float(rate))
    else:
        trio.run(consume, addr, path, int(partitions))
