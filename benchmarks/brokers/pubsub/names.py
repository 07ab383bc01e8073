"""The cost of 10,000 event names: connections, and memory in the process."""

import trio

from benchmarks.brokers.contender import Measured, Place
from benchmarks.core.measure import traced_bytes
from goevent import Config, EventRegistry, GoEvent
from goevent_redis import RedisDriver


def connections(place: Place, count: int) -> Measured:
    """Return the number of connections of a bus with this many names."""
    return Measured(trio.run(_measure, place, count)[0])


def name_bytes(place: Place, count: int) -> Measured:
    """Return the bytes in the process for each of this many names."""
    return Measured(trio.run(_measure, place, count)[1])


def _listener(event: object) -> None:
    """Do nothing: the one listener of all names."""


async def _measure(place: Place, count: int) -> tuple[int, float]:
    driver = RedisDriver(f"redis://{place.addr}")
    async with GoEvent(Config(registry=EventRegistry(), driver=driver)) as bus:
        before = traced_bytes()
        bus.subscribe(_listener, *(f"names.n{number}" for number in range(count)))
        await bus.ready()
        after = traced_bytes()
        clients = await driver.client.client_list()
    return len(clients), (after - before) / count
