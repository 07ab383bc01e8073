"""A producer or a consumer of the run, in a process of its own that may be killed at any time.

It knows its driver by a URL only. It records each event in a line of a file, without a buffer.
"""

import argparse
import logging
import os
import random
import sys
import time
from collections.abc import Iterator
from functools import partial
from typing import NoReturn

import trio

from benchmarks.chaos.servers.contract import EVENT_NAME, GRACE_SECONDS
from goevent import (
    Config,
    DispatchHandle,
    DriverError,
    Event,
    EventError,
    GoEvent,
    current_delivery,
)

PRODUCER_TASKS = 16
ACCOUNTS_PER_PRODUCER = 25
LISTENER_TASKS = 32

RESTART_PAUSE_SECONDS = 0.5
"""Before a worker that could not open its bus tries again, as a supervisor of processes does."""

MAX_CATCH_UP_SECONDS = 1.0
"""After an outage, a producer publishes the events of the last second faster, and not all."""


class Paid(Event, name=EVENT_NAME, key="account"):
    """The event."""

    n: int = 0
    account: str = ""
    text: str = ""


class Record:
    """The file of one process."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def write(self, *words: object) -> None:
        """Write a line."""
        os.write(self._file, (" ".join(map(str, words)) + "\n").encode())


def _bus(url: str, record: Record) -> GoEvent:
    bus = GoEvent(Config(driver=url))

    def note(error: EventError) -> None:
        # A failure by chance is no report of the driver.
        if not isinstance(error.error, ByChance):
            kind, text = type(error.error).__name__, str(error)[:300].replace("\n", " ")
            record.write("report", kind, text)

    bus.on_error(note)
    return bus


class ByChance(Exception):
    """The failure of a listener, which the run draws by lot."""


async def produce(
    url: str, record: Record, *, ordered: bool, numbers: Iterator[int], rate: float, text: str
) -> int:
    """Publish events, `rate` in a second, and record the accepted ones."""
    bus = _bus(url, record)
    due = trio.current_time()

    async def note(n: int, handle: DispatchHandle) -> None:
        await handle.wait()
        if handle.errors:
            error = handle.errors[0].error
            record.write("refused", n, type(error).__name__, time.monotonic_ns(), error)
        else:
            record.write("accepted", n, time.monotonic_ns(), handle.receivers, handle.receipt)

    async def work() -> None:
        nonlocal due
        for n in numbers:
            due = max(due + 1 / rate, trio.current_time() - MAX_CATCH_UP_SECONDS)
            await trio.sleep_until(due)
            account = f"{os.getpid()}-{n % ACCOUNTS_PER_PRODUCER}"
            handle = await bus.dispatch(Paid(n=n, account=account, text=text))
            if ordered:  # many events in flight, which must not overtake each other
                nursery.start_soon(note, n, handle)
            else:
                await note(n, handle)

    async with bus, trio.open_nursery() as nursery:
        for _ in range(1 if ordered else PRODUCER_TASKS):
            nursery.start_soon(work)
    record.write("end")
    return 0


class Ready:
    """Records that the bus is open and ready, once `serve` tells so."""

    def __init__(self, record: Record) -> None:
        self._record = record

    def started(self, value: None = None) -> None:
        """Record it."""
        self._record.write("ready")


async def consume(url: str, record: Record, *, failure_share: float) -> int:
    """Process events until a SIGTERM, and record the processed ones.

    Args:
        failure_share: The share of events that fail; a durable driver delivers them again.

    Returns:
        The exit code of the process: 1 if the end of the bus cut off a delivery.
    """
    bus = _bus(url, record)

    async def work(event: Paid) -> None:
        began = time.monotonic_ns()
        delivery = current_delivery()
        if random.random() < failure_share:
            record.write("failed", event.n, delivery.deliveries, began)
            raise ByChance
        await trio.sleep(random.random() * 0.01)
        # 1: the publisher was not sure, and sent the event again. 2: the broker delivers it again.
        flagged = 2 if delivery.redelivered else int("goevent-retried" in delivery.headers)
        record.write("done", event.n, flagged, event.account, began, time.monotonic_ns())

    bus.subscribe(work, Paid, concurrency=LISTENER_TASKS)
    ledger = await bus.serve(grace=GRACE_SECONDS, task_status=Ready(record))
    record.write("end", ledger)
    return 1 if ledger.abandoned else 0


def main() -> NoReturn:
    """Run the command line of one process."""
    parser = argparse.ArgumentParser()
    roles = parser.add_subparsers(dest="role", required=True)
    for role in ("produce", "consume"):
        sub = roles.add_parser(role)
        sub.add_argument("url")
        sub.add_argument("record", type=Record)
        if role == "produce":
            sub.add_argument("--ordered", action="store_true")
            sub.add_argument("--first", type=int, required=True)
            sub.add_argument("--count", type=int, required=True)
            sub.add_argument("--rate", type=float, required=True)
            sub.add_argument("--bytes", type=int, default=0)
        else:
            sub.add_argument("--failure-share", type=float, default=0.0)
    chosen = parser.parse_args()
    logging.disable()
    if chosen.role == "produce":
        work = partial(
            produce,
            chosen.url,
            chosen.record,
            ordered=chosen.ordered,
            numbers=iter(range(chosen.first, chosen.first + chosen.count)),
            rate=chosen.rate,
            text="x" * chosen.bytes,
        )
    else:
        work = partial(consume, chosen.url, chosen.record, failure_share=chosen.failure_share)
    while True:
        try:
            sys.exit(trio.run(work))
        except DriverError as error:
            # The broker may be down at the moment in which a killed consumer is replaced.
            chosen.record.write("report", type(error).__name__, "not opened:", error)
            time.sleep(RESTART_PAUSE_SECONDS)


if __name__ == "__main__":
    main()
