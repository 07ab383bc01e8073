"""A payment gateway that is sometimes down, sometimes slow, and sometimes refuses."""

# --8<-- [start:setup]
import trio

from goevent import Event, GoEvent, Retry, current_delivery


class OrderPlaced(Event, name="order.placed", key="order"):
    order: str


class GatewayDown(Exception):
    """A failure that is retried."""


class CardDeclined(Exception):
    """A failure that is not retried."""


async def ask_gateway(order: str, attempt: int) -> None:
    """Stand in for a payment service."""
    if order == "A-1" and attempt < 3:
        raise GatewayDown("connection refused")
    if order == "A-2":
        raise CardDeclined("no money left")
    if order == "A-3":
        await trio.sleep_forever()


bus = GoEvent()


# --8<-- [end:setup]


# --8<-- [start:listener]
@bus.listener(
    OrderPlaced,
    timeout=0.05,  # seconds, for each attempt
    retry=Retry(attempts=3, backoff=0.01, not_on=CardDeclined),
)
async def charge(event: OrderPlaced) -> None:
    attempt = current_delivery().attempt
    try:
        await ask_gateway(event.order, attempt)
    finally:  # also runs after a timeout
        print(f"{event.order}: attempt {attempt} ends")


async def main() -> None:
    async with bus:
        for order in ("A-1", "A-2", "A-3"):
            handle = await bus.dispatch(OrderPlaced(order=order))
            await handle.wait()
            for error in handle.errors:
                print(error)
    # --8<-- [end:listener]


if __name__ == "__main__":
    trio.run(main)
