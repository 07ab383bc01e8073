"""Several buses in one process, joined by a hub."""

# --8<-- [start:setup]
import trio

from goevent import Event, GoEvent, MemoryDriver, MemoryHub


class OrderPlaced(Event, name="order.placed"):
    order: str


# --8<-- [end:setup]


async def main() -> None:
    # --8<-- [start:hub]
    hub = MemoryHub()
    shop = GoEvent(MemoryDriver(hub))
    kitchen = GoEvent(MemoryDriver(hub))
    cooked = trio.Event()

    @shop.listener(OrderPlaced)
    def receipt(event: OrderPlaced) -> None:
        print(f"shop: {event.order}")

    @kitchen.listener(OrderPlaced)
    async def cook(event: OrderPlaced) -> None:
        print(f"kitchen: {event.order}")
        cooked.set()

    async with shop, kitchen:
        await shop.dispatch(OrderPlaced(order="two teas"))
        with trio.fail_after(5):
            await cooked.wait()
    # --8<-- [end:hub]


if __name__ == "__main__":
    trio.run(main)
