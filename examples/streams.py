"""Events taken with `async for`: a stream, and the next event that fits."""

# --8<-- [start:setup]
import trio

from goevent import Event, GoEvent

bus = GoEvent()


class OrderPaid(Event, name="order.paid"):
    order_id: int


class OrderShipped(Event, name="order.shipped"):
    order_id: int


@bus.listener(OrderPaid)
async def ship(event: OrderPaid) -> None:
    await bus.dispatch(OrderShipped(event.order_id))


# --8<-- [end:setup]


async def follow() -> None:
    # --8<-- [start:stream]
    async with bus.stream(OrderPaid, OrderShipped) as events:
        for order_id in (7, 8):
            await bus.dispatch(OrderPaid(order_id))
        async for event in events:
            print(event)
            if event == OrderShipped(8):
                break
    # --8<-- [end:stream]


async def wait_for_one() -> None:
    # --8<-- [start:next]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pay_soon, 9)
        shipped = await bus.next(OrderShipped, where=lambda e: e.order_id == 9, timeout=5.0)
        print(f"order {shipped.order_id} is on its way")
    # --8<-- [end:next]


async def pay_soon(order_id: int) -> None:
    await trio.sleep(0.1)
    await bus.dispatch(OrderPaid(order_id))


async def main() -> None:
    async with bus:
        await follow()
        await wait_for_one()


if __name__ == "__main__":
    trio.run(main)
