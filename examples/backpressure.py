"""The four overflow policies of a full mailbox."""

# --8<-- [start:setup]
import trio
from trio.testing import wait_all_tasks_blocked

from goevent import Event, EventError, GoEvent, MailboxFull


class Tick(Event, name="tick"):
    number: int


# --8<-- [end:setup]


def expected(error: EventError) -> None:
    """Ignore drops, which this example expects; without a callback they would be logged."""


async def burst(bus: GoEvent) -> None:
    """Dispatch more events than the mailbox holds, and print the listener's counts."""
    bus.on_error(expected)
    async with bus:
        refused = 0
        await bus.dispatch(Tick(number=0))
        await wait_all_tasks_blocked()  # the listener is busy with this event
        for number in range(1, 6):
            try:
                await bus.dispatch(Tick(number=number))
            except MailboxFull:
                refused += 1
        await bus.wait()
        one = bus.snapshot().listeners[0]
    print(f"{one.name:<10}{one.completed} completed, {one.dropped} dropped, {refused} refused")


async def main() -> None:
    # --8<-- [start:policies]
    bus = GoEvent()

    @bus.listener(Tick, name="block", mailbox=2)  # overflow="block": dispatch waits for room
    async def wait_for_it(event: Tick) -> None:
        await trio.sleep(0.01)

    await burst(bus)

    bus = GoEvent()

    @bus.listener(Tick, name="error", mailbox=2, overflow="error")  # dispatch raises MailboxFull
    async def strict(event: Tick) -> None:
        await trio.sleep(0.01)

    await burst(bus)

    bus = GoEvent()

    @bus.listener(Tick, name="drop_new", mailbox=2, overflow="drop_new")  # keep the queue
    async def busy(event: Tick) -> None:
        await trio.sleep(0.01)

    await burst(bus)

    bus = GoEvent()

    @bus.listener(Tick, name="drop_old", mailbox=2, overflow="drop_old")  # keep the newest
    async def display(event: Tick) -> None:
        await trio.sleep(0.01)

    await burst(bus)
    # --8<-- [end:policies]

    # --8<-- [start:nowait]
    bus = GoEvent()

    @bus.listener(Tick, name="slow", mailbox=2)
    async def slow(event: Tick) -> None:
        await trio.sleep(0.01)

    async with bus:
        try:
            for number in range(6):
                bus.dispatch_nowait(Tick(number=number))
        except trio.WouldBlock as full:
            print(full)
    # --8<-- [end:nowait]


if __name__ == "__main__":
    trio.run(main)
