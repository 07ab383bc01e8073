"""Listeners that select their events: by pattern, predicate and priority, or only once."""

# --8<-- [start:setup]
import trio

from goevent import Event, GoEvent


class OrderPlaced(Event, name="order.placed"):
    order: str
    cents: int


class ItemPacked(Event, name="order.item.packed"):
    order: str
    item: str


bus = GoEvent()


# --8<-- [end:setup]


# --8<-- [start:patterns]
@bus.listener("order.*")  # one segment: order.placed, but not order.item.packed
def orders(event: Event) -> None:
    print(f"  order.*   {event.event_name}")


@bus.listener("order.**")  # one or more segments
def everything(event: Event) -> None:
    print(f"  order.**  {event.event_name}")


@bus.listener("*.placed", OrderPlaced)  # both match; it gets the event once
def placed(event: OrderPlaced) -> None:
    print(f"  *.placed  {event.order}")


# --8<-- [end:patterns]


# --8<-- [start:family]
class Paid(Event):  # without a name: it has fields for its subclasses, and no events of its own
    cents: int


class CardPaid(Paid, name="paid.card"):
    card: str


class CashPaid(Paid, name="paid.cash"): ...


@bus.listener("paid.*")
def book(event: Paid) -> None:
    print(f"  paid.*    {event.cents} cents")


# --8<-- [end:family]


# --8<-- [start:choice]
@bus.listener(OrderPlaced, when=lambda event: event.cents >= 10_000)
def large(event: OrderPlaced) -> None:
    print(f"  when      {event.order} is large")


@bus.listener(OrderPlaced, once=True)
def celebrate(event: OrderPlaced) -> None:
    print(f"  once      {event.order} is the first")


@bus.listener(OrderPlaced, priority=10)
def check(event: OrderPlaced) -> None:
    print(f"  priority  {event.order} comes here first")


# --8<-- [end:choice]


async def main() -> None:
    async with bus:
        for event in (
            OrderPlaced(order="A-1", cents=500),
            ItemPacked(order="A-1", item="cup"),
            OrderPlaced(order="A-2", cents=20_000),
            Event("order.lost", {"order": "A-3"}),
            CashPaid(cents=500),
        ):
            print(event.event_name)
            await bus.dispatch(event)


if __name__ == "__main__":
    trio.run(main)
