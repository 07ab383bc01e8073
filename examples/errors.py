"""The failures of listeners and dispatches, and the places where you see them."""

# --8<-- [start:setup]
import trio

from goevent import DecodeError, Event, EventError, GoEvent

# --8<-- [end:setup]


# --8<-- [start:event]
class OrderPaid(Event, name="order.paid", key="order"):
    order: str
    cents: int


# --8<-- [end:event]


bus = GoEvent()


@bus.listener(OrderPaid)
async def book(event: OrderPaid) -> None:
    if event.cents < 0:
        raise ValueError("a payment is positive")


@bus.listener(OrderPaid)
async def thank(event: OrderPaid) -> None:
    print(f"thanks for {event.order}")


# --8<-- [start:on_error]
@bus.on_error
async def alert(error: EventError) -> None:
    print(f"alert: {error}")


# --8<-- [end:on_error]


async def main() -> None:
    async with bus:
        # --8<-- [start:handle]
        handle = await bus.dispatch(OrderPaid(order="A-1", cents=-5))
        await handle.wait()
        for error in handle.errors:
            print(error.event_name, error.listener, repr(error.error))
        try:
            handle.raise_errors()
        except* EventError as group:
            print(f"{len(group.exceptions)} of 2 listeners failed")
        # --8<-- [end:handle]

        # --8<-- [start:decode]
        try:
            await bus.dispatch(Event("order.paid", {"order": "A-2", "cents": "much"}))
        except DecodeError as error:
            print(f"refused: {error.reason}")
        # --8<-- [end:decode]

        # --8<-- [start:bus]
        print(f"{bus.error_count} error(s), the newest: {bus.errors[-1].reason}")
        bus.clear_errors()
        # --8<-- [end:bus]


if __name__ == "__main__":
    trio.run(main)
