"""One event at a time, many at once, or many at once with an order per key."""

# --8<-- [start:setup]
import trio

from goevent import Event, GoEvent

# --8<-- [end:setup]


# --8<-- [start:event]
class StockChanged(Event, name="stock.changed", key="item"):
    item: str
    left: int
    seconds: float  # the time that the web shop takes to store it


CHANGES = [
    StockChanged(item="tea", left=9, seconds=0.15),
    StockChanged(item="cup", left=4, seconds=0.05),
    StockChanged(item="tea", left=8, seconds=0.10),
]
# --8<-- [end:event]


class Shop:
    """A slow web shop. Customers see the value that was stored last."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.shows: dict[str, int] = {}

    async def store(self, event: StockChanged) -> None:
        await trio.sleep(event.seconds)
        self.log.append(f"{event.item} {event.left}")
        self.shows[event.item] = event.left

    def report(self, title: str) -> None:
        print(f"{title:<16}{', '.join(self.log):<22} the shop shows {self.shows['tea']} teas")


# --8<-- [start:ordering]
bus = GoEvent()
one, keyed, loose = Shop(), Shop(), Shop()


@bus.listener(StockChanged)  # the default: one event at a time
async def in_order(event: StockChanged) -> None:
    await one.store(event)


@bus.listener(StockChanged, concurrency=10)  # one after another per item
async def in_order_per_item(event: StockChanged) -> None:
    await keyed.store(event)


@bus.listener(StockChanged, concurrency=10, ordering_key=False)  # all at once
async def in_no_order(event: StockChanged) -> None:
    await loose.store(event)


# --8<-- [end:ordering]


# --8<-- [start:keys]
@bus.listener(StockChanged, ordering_key="item")  # an attribute's name
async def by_name(event: StockChanged) -> None: ...


@bus.listener(StockChanged, ordering_key=lambda event: event.item[0])  # or a function
async def by_first_letter(event: StockChanged) -> None: ...


# --8<-- [end:keys]


async def main() -> None:
    async with bus:
        for change in CHANGES:
            await bus.dispatch(change)
    one.report("one at a time")
    keyed.report("order per item")
    loose.report("no order")


if __name__ == "__main__":
    trio.run(main)
