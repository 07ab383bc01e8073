"""goevent over Redis pub/sub: one bus sends, the other one runs an `async def` listener."""

from functools import partial

import trio

from benchmarks.brokers.contender import TEXT, Measured, Meter, Place
from benchmarks.brokers.telemetry.providers import BARE, providers
from goevent import Config, Event, EventRegistry, GoEvent
from goevent.telemetry.otel import OpenTelemetry

REGISTRY = EventRegistry()
SENDERS = 16


class Order(Event, name="bench.order", registry=REGISTRY):
    number: int
    text: str


def traverse(place: Place, count: int) -> Measured:
    """Send this many events, and run the listener for each; the tag of the place is the mode."""
    return trio.run(partial(_traverse, place, count))


def _bus(place: Place) -> GoEvent:
    middleware = () if place.tag == BARE else (OpenTelemetry(*providers(place.tag)),)
    url = f"redis://{place.addr}"
    return GoEvent(Config(registry=REGISTRY, driver=url, middleware=middleware))


async def _traverse(place: Place, count: int) -> Measured:
    sender, receiver = _bus(place), _bus(place)
    left, end = 0, trio.Event()

    @receiver.listener(Order)
    async def take(event: Order) -> None:
        nonlocal left
        left -= 1
        if not left:
            end.set()

    async def send(events: int) -> None:
        for number in range(events):
            handle = await sender.dispatch(Order(number, TEXT))
            await handle.wait()

    async with receiver, sender:
        meter = Meter()
        for events in (count // 10, count):  # the first ones warm up
            left, end = events // SENDERS * SENDERS, trio.Event()
            meter = Meter()
            async with trio.open_nursery() as nursery:
                for _ in range(SENDERS):
                    nursery.start_soon(send, events // SENDERS)
            await end.wait()
        measured = meter.read(count // SENDERS * SENDERS)
        if errors := sender.errors + receiver.errors:
            raise RuntimeError(f"{len(errors)} error(s): {errors[0]}")
    return measured
