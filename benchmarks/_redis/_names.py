"""What 10,000 event names cost: connections, and memory in the process."""

import trio

from benchmarks._measure import traced_bytes
from goevent import Config, EventRegistry, GoEvent
from goevent_redis import RedisDriver

NAMES = 10_000


def measure(address: str) -> tuple[int, float]:
    """Return the connections of a bus with so many names, and its bytes per name."""
    return trio.run(_measure, address)


def _listener(event: object) -> None:
    """Be the one listener of all names."""


async def _measure(address: str) -> tuple[int, float]:
    driver = RedisDriver(f"redis://{address}")
    async with GoEvent(Config(registry=EventRegistry(), driver=driver)) as bus:
        before = traced_bytes()
        bus.subscribe(_listener, *(f"names.n{number}" for number in range(NAMES)))
        await bus.ready()
        after = traced_bytes()
        clients = await driver.client.client_list()
    return len(clients), (after - before) / NAMES
