"""Reads order events as JSON lines, processes them while it reads, and prints a report.

python examples/orders.py                 the data set of the example
python examples/orders.py FILE            your own file
cat FILE | python examples/orders.py -    standard input

Inline listeners keep the totals. `charge` calls a payment gateway that is slow and sometimes
fails; `notify` sends mail. Their mailboxes are small. When one is full, `await bus.dispatch(...)`
waits, so the reader is never more than a few events ahead of the slowest listener.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import aclosing, contextmanager
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any, NoReturn

import msgspec
import trio

from goevent import (
    Config,
    DecodeError,
    Event,
    EventError,
    EventRegistry,
    GoEvent,
    UnknownEventError,
)

DATA = Path(__file__).parent / "data" / "orders.jsonl"
CHUNK = 1 << 16
SHOWN = 4  # messages of each kind of failure

# -- the events

registry = EventRegistry()
Cents = Annotated[int, msgspec.Meta(ge=1)]


class OrderPlaced(Event, name="order.placed", key="order", registry=registry):
    order: str
    customer: str
    cents: Cents


class OrderShipped(Event, name="order.shipped", key="order", registry=registry):
    order: str
    carrier: str


class OrderCancelled(Event, name="order.cancelled", key="order", registry=registry):
    order: str
    reason: str


class OrderRated(Event, name="order.rated", key="order", registry=registry):
    order: str
    stars: Annotated[int, msgspec.Meta(ge=1, le=5)]


class PaymentTaken(Event, name="payment.taken", key="order", registry=registry):
    order: str
    customer: str
    cents: Cents


# -- the payment gateway and the totals


class GatewayTimeout(Exception):
    """The payment gateway did not answer in time."""


class CardDeclined(Exception):
    """The payment gateway refused the card."""


class Gateway:
    """Stands in for a payment service: it takes a moment and fails at predictable calls."""

    calls = 0

    async def charge(self, order: OrderPlaced) -> None:
        self.calls += 1
        await trio.sleep(0.0005)
        if self.calls % 40 == 0:
            raise GatewayTimeout(f"no answer about {order.order}")
        if order.cents > 23_000:
            raise CardDeclined(f"{order.customer} cannot pay {order.cents / 100:.2f}")


class Totals:
    """The totals that the report shows."""

    def __init__(self) -> None:
        self.events: Counter[str] = Counter()
        self.open: set[str] = set()
        self.taken = 0
        self.mails = 0
        self.stars: list[int] = []


# -- the bus and its listeners

gateway = Gateway()
totals = Totals()
failures: dict[str, list[str]] = {}
bus = GoEvent(Config(registry=registry, close_timeout=30.0))


@bus.listener(*registry.names())
def count(event: Event) -> None:
    totals.events[event.event_name] += 1


@bus.listener(OrderPlaced, OrderShipped, OrderCancelled)
def follow(event: OrderPlaced | OrderShipped | OrderCancelled) -> None:
    if isinstance(event, OrderPlaced):
        totals.open.add(event.order)
    elif event.order not in totals.open:
        raise LookupError(f"{event.order} was never placed")
    else:
        totals.open.discard(event.order)


@bus.listener(OrderPlaced, mailbox=16)
async def charge(event: OrderPlaced) -> None:
    await gateway.charge(event)
    await bus.dispatch(PaymentTaken(order=event.order, customer=event.customer, cents=event.cents))


@bus.listener(PaymentTaken)
def bank(event: PaymentTaken) -> None:
    totals.taken += event.cents


@bus.listener(PaymentTaken, OrderShipped, mailbox=64)
async def notify(event: PaymentTaken | OrderShipped) -> None:
    await trio.lowlevel.checkpoint()  # stands in for a mail server
    totals.mails += 1


@bus.listener(OrderRated, name="ratings")
async def rate(event: OrderRated) -> None:
    totals.stars.append(event.stars)


@bus.on_error
def remember(error: EventError) -> None:
    kind = type(error.error or error).__name__
    failures.setdefault(f"{error.listener}: {kind}", []).append(str(error))


# -- the input


class Input:
    """The lines of a file or pipe, read in a thread so that listeners can work meanwhile."""

    def __init__(self, name: str) -> None:
        self.lines = 0
        self.dispatched = 0
        self.refused: list[str] = []
        self.dispatching = 0.0  # seconds
        if name == "-":
            self._fd, self.size = 0, None
        else:
            self._fd = os.open(name, os.O_RDONLY)
            self.size = os.fstat(self._fd).st_size or None
        os.read(self._fd, 0)  # a directory can be opened, but not read

    async def read_lines(self) -> AsyncGenerator[bytes]:
        """Yield the lines as they arrive."""
        rest = b""
        while chunk := await trio.to_thread.run_sync(
            os.read, self._fd, CHUNK, abandon_on_cancel=True
        ):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                yield line
        if rest:
            yield rest

    def event_of(self, line: bytes) -> Event | None:
        """Return the event in a line, or note the reason why the line is refused."""
        try:
            payload = msgspec.json.decode(line, type=dict[str, Any])
            name = str(payload.pop("event", ""))
            event: Event = registry.create(name, payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            reason = f"not a JSON object: {error}"
        except (UnknownEventError, DecodeError) as error:
            reason = str(error)
        else:
            return event
        self.refused.append(f"line {self.lines}: {reason}")
        return None

    async def feed(self, advance: Callable[[int], None]) -> None:
        """Dispatch every line on the bus."""
        async with aclosing(self.read_lines()) as lines:
            async for line in lines:
                self.lines += 1
                if line.strip() and (event := self.event_of(line)) is not None:
                    before = perf_counter()
                    await bus.dispatch(event)  # waits while a mailbox is full
                    self.dispatched += 1
                    self.dispatching += perf_counter() - before
                advance(len(line) + 1)


@contextmanager
def progress(size: int | None) -> Generator[Callable[[int], None]]:
    """Show the progress on a terminal: a bar if rich is installed, otherwise a counter."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    try:
        from rich.console import Console
        from rich.progress import Progress
    except ImportError:
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            if done // CHUNK != (done + count) // CHUNK:
                print(f"\r{(done + count) // 1024} kB", end="", file=sys.stderr, flush=True)
            done += count

        yield advance
        print("\r", end="", file=sys.stderr)
    else:
        with Progress(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("orders", total=size)
            yield lambda count: bar.advance(task, count)


# -- the report


def report(source: Input, seconds: float) -> None:
    """Print the report."""
    snapshot = bus.snapshot()
    ledger = snapshot.ledger
    print(
        f"Read {source.lines:,} lines: {source.dispatched:,} events dispatched,"
        f" {len(source.refused):,} lines refused."
    )

    print("\nEvents")
    for name, number in sorted(totals.events.items()):
        print(f"  {name:<18}{number:>8,}")

    columns = ("completed", "failed", "dropped", "abandoned")
    print(f"\n{'Listeners':<20}{'runs':<12}" + "".join(f"{column:>11}" for column in columns))
    for one in snapshot.listeners:
        numbers = (one.completed, one.failed, one.dropped, one.abandoned)
        how = "inline" if one.inline else "in mailbox"
        print(f"  {one.name:<18}{how:<12}" + "".join(f"{number:>11,}" for number in numbers))

    print(f"\nErrors: {snapshot.error_count}")
    for kind, messages in sorted(failures.items()):
        show(f"{len(messages)} x {kind}", messages)
    if source.refused:
        show(f"{len(source.refused)} x refused", source.refused)

    print(
        f"\nLedger: {ledger.accepted:,} accepted = {ledger.completed:,} completed"
        f" + {ledger.failed:,} failed + {ledger.dropped:,} dropped"
        f" + {ledger.abandoned:,} abandoned"
    )
    stars = sum(totals.stars) / len(totals.stars) if totals.stars else 0
    print(
        f"Totals: {totals.taken / 100:,.2f} taken, {len(totals.open):,} orders open,"
        f" {totals.mails:,} mails, {stars:.1f} stars"
    )
    total = sum(totals.events.values())
    print(
        f"Time: {seconds:.2f} s, {total / seconds:,.0f} events/s,"
        f" {ledger.accepted / seconds:,.0f} deliveries/s;"
        f" the reader spent {source.dispatching:.2f} s in dispatch"
    )


def show(title: str, messages: list[str]) -> None:
    print(f"  {title}")
    for message in messages[:SHOWN]:
        print(f"    {message}")
    if len(messages) > SHOWN:
        print(f"    ... and {len(messages) - SHOWN} more")


# -- the command line


class Parser(argparse.ArgumentParser):
    """Reports wrong usage in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (--help shows how)\n")


async def run(source: Input) -> None:
    """Feed the bus. Leaving `async with` waits until all listeners have finished."""
    with progress(source.size) as advance:
        async with bus:
            await source.feed(advance)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = Parser(
        prog="orders.py",
        description="Process order events.",
        formatter_class=argparse.HelpFormatter,
    )
    parser.add_argument(
        "file", nargs="?", default=str(DATA), help="JSON lines, or - for standard input"
    )
    name: str = parser.parse_args(arguments).file
    try:
        source = Input(name)
    except OSError as error:
        parser.error(f"cannot read {name!r}: {error.strerror}")
    started = perf_counter()
    code = 0
    try:
        trio.run(run, source)
    except KeyboardInterrupt:
        print("Interrupted. The report so far:\n")
        code = 130
    try:
        report(source, perf_counter() - started)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of the report, such as head, has closed the pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


if __name__ == "__main__":
    sys.exit(main())
