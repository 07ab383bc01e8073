"""A worker: a process that handles durable events until it gets SIGTERM.

Run it with the URL of a broker, such as `redis+streams://localhost:6379?group=mail`. Without one it
uses no broker and handles three events of its own.
"""

# --8<-- [start:imports]
import logging
import signal
import sys
from collections.abc import AsyncIterator

import trio

from goevent import Event, EventError, GoEvent, current_delivery

# --8<-- [end:imports]


# --8<-- [start:listeners]
class InvoiceDue(Event, name="invoice.due", key="customer"):
    customer: str
    cents: int


def make_bus(url: str) -> GoEvent:
    bus = GoEvent(url)

    @bus.listener(InvoiceDue, timeout=20.0)
    async def send(event: InvoiceDue) -> None:
        if current_delivery().redelivered:
            # An earlier attempt may already have sent it: look before you send it again.
            logging.warning("invoice of %s comes again", event.customer)
        await trio.sleep(0.1)
        logging.info("sent %d cents to %s", event.cents, event.customer)

    @bus.on_error
    def alert(error: EventError) -> None:
        logging.error("%s", error)

    bus.lifespan(connect_to_mail_server)
    return bus


# --8<-- [end:listeners]


# --8<-- [start:lifespan]
async def connect_to_mail_server() -> AsyncIterator[None]:
    logging.info("connected")
    try:
        yield
    finally:
        logging.info("disconnected")


# --8<-- [end:lifespan]


# --8<-- [start:work]
def run(url: str) -> int:
    """Handle events until SIGTERM or SIGINT; return the exit code of the process."""
    ledger = trio.run(make_bus(url).serve)
    logging.info("%s", ledger)
    return 1 if ledger.abandoned else 0


# --8<-- [end:work]


async def demonstrate(bus: GoEvent) -> None:
    """Handle three events, then stop this process as a supervisor of processes would."""
    async with trio.open_nursery() as nursery:
        await nursery.start(bus.serve)
        for name in ("Ada", "Grace", "Alan"):
            await bus.dispatch(InvoiceDue(customer=name, cents=500))
        signal.raise_signal(signal.SIGTERM)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    if sys.argv[1:]:
        sys.exit(run(sys.argv[1]))
    trio.run(demonstrate, make_bus("memory://"))
