"""lahja within one endpoint: `BroadcastConfig(internal=True)`."""

import asyncio

from lahja.common import BroadcastConfig

from benchmarks.core.peers.lahja import broadcast, pausing, plain
from benchmarks.core.scenario import Scenarios, sync_listener

INTERNAL = BroadcastConfig(internal=True)

SCENARIOS: Scenarios = {
    "sync": lambda size, effort: asyncio.run(broadcast(size, effort, sync_listener, INTERNAL)),
    "wait": lambda size, effort: asyncio.run(broadcast(size, effort, plain, INTERNAL)),
    "suspend": lambda size, effort: asyncio.run(broadcast(size, effort, pausing, INTERNAL)),
}
