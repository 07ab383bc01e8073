"""goevent: `bus.request`, and a responder that is an `async def`."""

import trio

from benchmarks.brokers.contender import Measured, Place, Ready
from benchmarks.brokers.conversations.asking import Latencies, ask_on_trio
from goevent import Config, Event, EventRegistry, GoEvent

REGISTRY = EventRegistry()
BUSES = 10
OPEN_SECONDS = 1.0


class PriceAsked(Event, name="bench.price.asked", registry=REGISTRY):
    sku: str


class Price(Event, name="bench.price", registry=REGISTRY):
    cents: int


class OrderPaid(Event, name="bench.order.paid", registry=REGISTRY):
    number: int


def _bus(place: Place) -> GoEvent:
    return GoEvent(Config(registry=REGISTRY, driver=f"{place.broker}://{place.addr}"))


def respond(place: Place, ready: Ready) -> None:
    """Answer requests until killed."""
    trio.run(_respond, place, ready)


async def _respond(place: Place, ready: Ready) -> None:
    bus = _bus(place)

    @bus.responder(PriceAsked, Price)
    async def price(event: PriceAsked) -> Price:
        return Price(250)

    async with bus:
        ready()
        await trio.sleep_forever()


def ask(place: Place, seconds: float, tasks: int) -> Measured:
    """Return the requests per second of some tasks."""
    return trio.run(_ask, place, seconds, tasks).rate()


def ask_once(place: Place, seconds: float) -> Measured:
    """Return the median time of a request, in us."""
    return trio.run(_ask, place, seconds, 1).middle()


async def _ask(place: Place, seconds: float, tasks: int) -> Latencies:
    event = PriceAsked("A")
    async with _bus(place) as bus:
        return await ask_on_trio(lambda: bus.request(event, Price), seconds, tasks)


def listen_many(place: Place, ready: Ready) -> None:
    """Listen on many buses until killed."""
    trio.run(_listen_many, place, ready)


async def _listen_many(place: Place, ready: Ready) -> None:
    opened = 0

    async def listen() -> None:
        nonlocal opened
        bus = _bus(place)

        @bus.listener(OrderPaid)
        async def take(event: OrderPaid) -> None: ...

        async with bus:
            opened += 1
            if opened == BUSES:
                ready()
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        for _ in range(BUSES):
            nursery.start_soon(listen)


def wait_for_all(place: Place, seconds: float) -> Measured:
    """Return the median time of a dispatch whose listeners on all buses are waited for, in us."""
    return trio.run(_wait_for_all, place, seconds).middle()


async def _wait_for_all(place: Place, seconds: float) -> Latencies:
    event = OrderPaid(1)

    async def dispatch() -> None:
        handle = await bus.dispatch(event, scope="all")
        await handle.wait(scope="all")
        if not handle.outcome.complete or len(handle.remote) != BUSES:
            raise RuntimeError(f"{handle.outcome}: {handle.remote}")

    async with _bus(place) as bus:
        return await ask_on_trio(dispatch, seconds, 1)
