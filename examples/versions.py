"""Event types, codecs, and an upcast from an old version of an event to the newest."""

# --8<-- [start:setup]
import dataclasses

from goevent import DecodeError, Envelope, Event, EventRegistry, JsonCodec, register_event_type

registry = EventRegistry()  # the default registry works, too

# --8<-- [end:setup]


# --8<-- [start:upcast]
class OrderPlacedV1(Event, name="order.placed", registry=registry):
    order: str
    price: float


class OrderPlaced(Event, name="order.placed.v2", registry=registry):
    order: str
    cents: int


@registry.upcast(OrderPlacedV1, to=OrderPlaced)
def in_cents(old: OrderPlacedV1) -> OrderPlaced:
    return OrderPlaced(order=old.order, cents=round(old.price * 100))


# --8<-- [end:upcast]


# --8<-- [start:dataclass]
@register_event_type(name="order.shipped", key="order", registry=registry)
@dataclasses.dataclass(frozen=True)
class OrderShipped:
    order: str
    carrier: str


# --8<-- [end:dataclass]


def main() -> None:
    # --8<-- [start:registry]
    print(registry.create("order.shipped", {"order": "A-1", "carrier": "DHL"}))
    try:
        registry.create("order.shipped", {"order": "A-1"})
    except DecodeError as error:
        print(error.reason)
    # --8<-- [end:registry]

    # --8<-- [start:codec]
    codec = JsonCodec()
    old = OrderPlacedV1(order="A-1", price=12.5)
    data = codec.encode(Envelope(event_name="order.placed", event=old))
    print(data.decode())
    # --8<-- [end:codec]
    # --8<-- [start:decode]
    envelope = codec.decode(data, event_name="order.placed", registry=registry)
    print(envelope.event)
    # --8<-- [end:decode]


if __name__ == "__main__":
    main()
