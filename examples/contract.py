"""The contract of a program as an AsyncAPI document, and a change that breaks its readers."""

# --8<-- [start:program]
from typing import Annotated

from msgspec import Meta

from goevent import Config, Event, EventRegistry, GoEvent
from goevent.asyncapi import breaking_changes, document


class OrderPaid(Event, name="order.paid", key="order_id"):
    """An order was paid."""

    order_id: int
    cents: Annotated[int, Meta(ge=1, examples=[1250])]


bus = GoEvent()


@bus.listener(OrderPaid)
async def send_invoice(event: OrderPaid) -> None: ...


# --8<-- [end:program]
# --8<-- [start:check]
next_registry = EventRegistry()


class NextOrderPaid(Event, name="order.paid", registry=next_registry):
    order_id: int
    euros: float


next_bus = GoEvent(Config(registry=next_registry))
next_bus.subscribe(print, NextOrderPaid, name="send_invoice")


def main() -> None:
    published = document(bus, title="billing", version="1.4.0")
    for change in breaking_changes(published, document(next_bus)):
        print(f"{change.event_name}, {change.field}: {change.reason}")
        print(f"  writer: {change.writer}, reader: {change.reader}")
        # --8<-- [end:check]


if __name__ == "__main__":
    main()
