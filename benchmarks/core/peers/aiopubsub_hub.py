"""aiopubsub without a Publisher: the hub's own `publish()`."""

import asyncio

from benchmarks.core.peers.aiopubsub import (
    burst_and_drain,
    by_hub,
    raising_listener,
    sync,
    sync_listener,
    wait_for_all,
)
from benchmarks.core.scenario import Scenarios

SCENARIOS: Scenarios = {
    "sync": lambda size, effort: asyncio.run(sync(size, effort, sync_listener, by_hub)),
    "raises": lambda size, effort: asyncio.run(sync(size, effort, raising_listener, by_hub)),
    "wait": lambda size, effort: asyncio.run(wait_for_all(size, effort, None, by_hub)),
    "drain": lambda size, effort: asyncio.run(burst_and_drain(size, effort, by_hub)),
}
