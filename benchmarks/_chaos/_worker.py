"""A producer or a consumer of the run, in a process of its own: it may be killed at any time.

It writes down what it has done, a line for each event, past every buffer of its own.
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
CLAIM_IDLE = 3.0
AT_ONCE = 16
ACCOUNTS = 25  # of each producer
FAILING = 0.01  # of what is to be in order fails, and is tried again


class Paid(Event, name="order.paid", key="account"):
    """What is produced and consumed."""

    n: int = 0
    account: str = ""


class Book:
    """The file of one process."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def note(self, *words: object) -> None:
        """Write a line."""
        os.write(self._file, (" ".join(map(str, words)) + "\n").encode())


def _bus(addr: str, group: str | None, book: Book, partitions: int) -> GoEvent:
    streams = StreamsConfig(
        group=group,
        claim_idle=CLAIM_IDLE,
        backoff=0.1,
        publish_timeout=60.0,
        max_deliveries=1000,
        partitions=partitions,
    )
    bus = GoEvent(Config(driver=RedisStreamsDriver(RedisConfig(addr=addr), streams)))

    def note(error: EventError) -> None:
        book.note("report", type(error.__cause__).__name__, str(error)[:300].replace("\n", " "))

    bus.on_error(note)
    return bus


async def produce(
    addr: str, path: str, partitions: int, first: int, count: int, rate: float
) -> None:
    """Publish events, `rate` in a second, and note those that were accepted."""
    book = Book(path)
    bus = _bus(addr, None, book, partitions)
    due = trio.current_time()
    numbers = iter(range(first, first + count))

    async def note(n: int, handle: DispatchHandle) -> None:
        await handle.wait()
        book.note("refused" if handle.errors else "accepted", n, handle.receipt)

    async def work() -> None:
        nonlocal due
        for n in numbers:
            due += 1 / rate
            await trio.sleep_until(due)
            handle = await bus.dispatch(Paid(n=n, account=f"{first}-{n % ACCOUNTS}"))
            if partitions > 1:  # so that many are under way that must not overtake each other
                nursery.start_soon(note, n, handle)
            else:
                await note(n, handle)

    async with bus, trio.open_nursery() as nursery:
        for _ in range(1 if partitions > 1 else AT_ONCE):
            nursery.start_soon(work)
    book.note("end")


async def consume(addr: str, path: str, partitions: int) -> None:
    """Work on events until told to end, and note those that are done."""
    book = Book(path)
    bus = _bus(addr, GROUP, book, partitions)

    async def work(event: Paid) -> None:
        began = time.monotonic_ns()
        delivery = current_delivery()
        if partitions > 1 and random.random() < FAILING:
            raise ValueError("it was not to be")
        await trio.sleep(random.random() * 0.01)
        retried = int("goevent-retried" in delivery.headers)
        said = (event.n, delivery.deliveries, retried, event.account)
        book.note("done", *said, began, time.monotonic_ns())

    bus.subscribe(work, Paid, concurrency=32)
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async with bus:
            book.note("ready")
            await anext(signals)
    book.note("end")


if __name__ == "__main__":
    logging.disable()
    role, addr, path, partitions, *rest = sys.argv[1:]
    if role == "produce":
        first, count, rate = rest
        trio.run(produce, addr, path, int(partitions), int(first), int(count), float(rate))
    else:
        trio.run(consume, addr, path, int(partitions))
