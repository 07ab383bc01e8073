"""goevent over Redis Streams."""

import trio

from benchmarks.brokers.contender import Measured, Meter, Place
from goevent import Config, Event, GoEvent
from goevent_redis import RedisConfig, RedisStreamsDriver, StreamsConfig

TASKS, BATCH = 64, 100


class Paid(Event, name="order.paid"):
    """The event."""

    n: int = 0
    text: str = ""


def _bus(addr: str, group: str | None = None) -> GoEvent:
    driver = RedisStreamsDriver(RedisConfig(addr=addr), StreamsConfig(group=group))
    return GoEvent(Config(driver=driver))


def consume(place: Place, count: int) -> Measured:
    return trio.run(_consume, place, count)


async def _consume(place: Place, count: int) -> Measured:
    """Read, run a sync listener, acknowledge."""
    async with _bus(place.addr) as bus:
        for n in range(count):
            await bus.dispatch(Paid(n=n))
        await bus.wait()
    bus, seen, done = _bus(place.addr, "bench"), 0, trio.Event()

    def on_event(event: Paid) -> None:
        nonlocal seen
        seen += 1
        if seen == count:
            done.set()

    bus.subscribe(on_event, Paid)
    meter = Meter()
    async with bus:
        await done.wait()
    # The bus has closed: everything is acknowledged.
    return meter.read(count)


def wait(place: Place, count: int, tasks: int = TASKS) -> Measured:
    return trio.run(_wait, place, count, tasks)


async def _wait(place: Place, count: int, tasks: int) -> Measured:
    """Dispatch and wait for the server, from some tasks."""

    async def work() -> None:
        for n in range(count // tasks):
            handle = await bus.dispatch(Paid(n=n))
            await handle.wait()
            if not handle.receipt:
                raise RuntimeError("an event was not accepted")

    async with _bus(place.addr) as bus:
        meter = Meter()
        async with trio.open_nursery() as nursery:
            for _ in range(tasks):
                nursery.start_soon(work)
        return meter.read(count // tasks * tasks)


def batch(place: Place, count: int) -> Measured:
    return trio.run(_batch, place, count)


async def _batch(place: Place, count: int) -> Measured:
    """Dispatch a hundred, wait for all of them."""
    async with _bus(place.addr) as bus:
        meter = Meter()
        for _ in range(count // BATCH):
            batch = await bus.dispatch_many([Paid(n=n) for n in range(BATCH)])
            await batch.wait()
            if not batch[-1].receipt:
                raise RuntimeError("an event was not accepted")
        return meter.read(count // BATCH * BATCH)
