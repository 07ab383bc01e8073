"""Watch the events that pass through a broker: a tail takes no event from anybody.

Run it with the URL of a broker, such as `nats://localhost:4222`. Without one it uses a hub in
memory.
"""

# --8<-- [start:imports]
import sys

import trio

from goevent import Event, GoEvent, MemoryDriver, MemoryHub
from goevent.drivers import inspected


class OrderPaid(Event, name="order.paid"):
    order: str


# --8<-- [end:imports]


# --8<-- [start:watch]
async def watch(bus: GoEvent) -> None:
    driver = inspected(bus.driver, "tail")
    async with driver.tail("order.*") as events:
        # From here on the broker shows each event.
        for order in ("A-1", "A-2"):
            await bus.dispatch(OrderPaid(order=order))
            event = await events.receive()
            print(f"{event.event_name}: {len(event.data)} bytes, {event.missed} missed before it")


# --8<-- [end:watch]


async def main(url: str | None) -> None:
    async with GoEvent(url or MemoryDriver(MemoryHub())) as bus:
        with trio.fail_after(30):
            await watch(bus)


if __name__ == "__main__":
    trio.run(main, sys.argv[1] if len(sys.argv) > 1 else None)
