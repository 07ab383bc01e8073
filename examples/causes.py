"""Follow an event: print the tree of all that it causes on a bus."""

# --8<-- [start:listeners]
import trio

from goevent import Event, EventError, GoEvent

bus = GoEvent()


@bus.listener("order.placed")
async def ask_for_payment(event: Event) -> None:
    await bus.dispatch(Event("payment.due", event.payload()))


@bus.listener("payment.due")
async def pay(event: Event) -> None:
    await bus.dispatch(Event("order.paid", event.payload()))


@bus.listener("order.paid")
async def ship(event: Event) -> None:
    raise ValueError("no address")


@bus.on_error
def report(error: EventError) -> None:
    print(f"{error.listener} failed in the chain of {error.correlation_id}")


# --8<-- [end:listeners]


# --8<-- [start:trace]
async def main() -> None:
    with bus.tracing():
        async with bus:
            handle = await bus.dispatch(Event("order.placed", {"order_id": 7}))
    # The listeners have finished, because the bus has closed.
    print(bus.trace(handle))


# --8<-- [end:trace]

if __name__ == "__main__":
    trio.run(main)
