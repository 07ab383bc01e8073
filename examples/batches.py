"""Many events in one call: `dispatch_many`, and the results of the single events."""

# --8<-- [start:setup]
import trio

from goevent import Event, GoEvent

# --8<-- [end:setup]


# --8<-- [start:event]
class LineImported(Event, name="line.imported", key="customer"):
    number: int
    customer: str
    cents: int


# --8<-- [end:event]


bus = GoEvent()


@bus.on_error
def note(error: object) -> None: ...


@bus.listener(LineImported, mailbox=1000)
async def book(event: LineImported) -> None:
    if event.cents < 0:
        raise ValueError("a payment is positive")


def lines() -> list[LineImported]:
    cents = [500, 1200, -3, 80]
    return [LineImported(number=n, customer="A-7", cents=each) for n, each in enumerate(cents)]


async def main() -> None:
    async with bus:
        # --8<-- [start:batch]
        batch = await bus.dispatch_many(lines())
        await batch.wait()
        print(f"{len(batch)} lines, {len(batch.failed)} failed")
        for handle in batch.failed:
            print(handle.event.number, handle.errors[0].reason)
        # --8<-- [end:batch]


if __name__ == "__main__":
    trio.run(main)
