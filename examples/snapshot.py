"""The state of a bus, for a health check or a metrics page."""

# --8<-- [start:setup]
import trio

from goevent import Event, GoEvent


class PageViewed(Event, name="page.viewed"):
    path: str


bus = GoEvent()


# --8<-- [end:setup]


@bus.listener(PageViewed)
def count(event: PageViewed) -> None: ...


@bus.listener(PageViewed, name="index")
async def update_index(event: PageViewed) -> None:
    await trio.sleep(0.01)


# --8<-- [start:snapshot]
def show() -> None:
    snapshot = bus.snapshot()
    print(f"{snapshot.state}, {snapshot.error_count} error(s), {snapshot.ledger}")
    for one in snapshot.listeners:
        print(f"  {one.name}: {one.depth} waiting, {one.in_flight} running, {one.completed} done")


# --8<-- [end:snapshot]


async def main() -> None:
    async with bus:
        for number in range(20):
            await bus.dispatch(PageViewed(path=f"/{number}"))
        await trio.sleep(0.025)
        show()
        await bus.wait()
        show()
    show()


if __name__ == "__main__":
    trio.run(main)
