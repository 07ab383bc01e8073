"""aiopubsub: a hub, a publisher and one subscriber with many listeners.

Its documented way in is `Publisher.publish()`, which joins the publisher's prefix to the key at
each call; `Hub.publish()` spares that (1 µs) and is measured as a contender of its own.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from time import perf_counter

import aiopubsub

from benchmarks.core.measure import Effort, measure_async, traced_bytes
from benchmarks.core.peers.countdown import Countdown, Pause, asyncio_pause
from benchmarks.core.scenario import ListenerFailed, Payload, Scenarios

KEY = aiopubsub.Key("user", "created")
Publish = Callable[[aiopubsub.Key, object], None]
AsyncListener = Callable[[aiopubsub.Key, object], Awaitable[None]]
Way = Callable[[aiopubsub.Hub], tuple[Publish, aiopubsub.Key]]


def sync_listener() -> Callable[[aiopubsub.Key, object], None]:
    """Make a listener that does nothing."""

    def listener(key: aiopubsub.Key, event: object) -> None:
        pass

    return listener


def raising_listener() -> Callable[[aiopubsub.Key, object], None]:
    """Make a listener that fails at once."""

    def listener(key: aiopubsub.Key, event: object) -> None:
        raise ListenerFailed

    return listener


def _async_listener(countdown: Countdown, pause: Pause | None) -> AsyncListener:
    async def plain(key: aiopubsub.Key, event: object) -> None:
        countdown.left -= 1
        if not countdown.left:
            countdown.done.set()

    async def pausing(key: aiopubsub.Key, event: object) -> None:
        assert pause is not None
        await pause()
        countdown.left -= 1
        if not countdown.left:
            countdown.done.set()

    return plain if pause is None else pausing


def by_publisher(hub: aiopubsub.Hub) -> tuple[Publish, aiopubsub.Key]:
    """Return the documented way to publish, and the key to publish under."""
    return aiopubsub.Publisher(hub, prefix=KEY[0]).publish, aiopubsub.Key(KEY[1])


def by_hub(hub: aiopubsub.Hub) -> tuple[Publish, aiopubsub.Key]:
    """Return the fastest way to publish, and the key to publish under."""
    return hub.publish, KEY


async def sync(
    size: int,
    effort: Effort,
    make: Callable[[], Callable[[aiopubsub.Key, object], None]],
    way: Way = by_publisher,
) -> float:
    """Measure sync listeners."""
    # One log record per failure would measure the terminal.
    logging.disable(logging.CRITICAL)
    hub = aiopubsub.Hub()
    subscriber = aiopubsub.Subscriber(hub, "bench")
    for _ in range(size):
        subscriber.add_sync_listener(KEY, make())
    event, (publish, key) = Payload(7), way(hub)

    async def body(count: int) -> float:
        start = perf_counter()
        for _ in range(count):
            publish(key, event)
        return perf_counter() - start

    return await measure_async(body, effort)


async def wait_for_all(
    size: int, effort: Effort, pause: Pause | None = None, way: Way = by_publisher
) -> float:
    """Measure async listeners that count down."""
    hub, countdown = aiopubsub.Hub(), Countdown()
    subscriber = aiopubsub.Subscriber(hub, "bench")
    for _ in range(size):
        subscriber.add_async_listener(KEY, _async_listener(countdown, pause))
    event, (publish, key) = Payload(7), way(hub)

    async def body(count: int) -> float:
        start = perf_counter()
        for _ in range(count):
            countdown.left = size
            done = countdown.done = asyncio.Event()
            publish(key, event)
            await done.wait()
        return perf_counter() - start

    figure = await measure_async(body, effort)
    await subscriber.remove_all_listeners()
    return figure


async def burst_and_drain(size: int, effort: Effort, way: Way = by_publisher) -> float:
    """Measure bursts."""
    hub, countdown = aiopubsub.Hub(), Countdown()
    subscriber = aiopubsub.Subscriber(hub, "bench")
    for _ in range(size):
        subscriber.add_async_listener(KEY, _async_listener(countdown, None))
    event, (publish, key), burst = Payload(7), way(hub), effort.burst

    async def body(count: int) -> float:
        start = perf_counter()
        for _ in range(count):
            countdown.left = size * burst
            done = countdown.done = asyncio.Event()
            for _ in range(burst):
                publish(key, event)
            await done.wait()
        return perf_counter() - start

    figure = await measure_async(body, effort) / burst
    await subscriber.remove_all_listeners()
    return figure


async def _queued_bytes(effort: Effort, shared: Payload | None) -> float:
    hub, gate = aiopubsub.Hub(), asyncio.Event()
    subscriber = aiopubsub.Subscriber(hub, "bench")

    async def parked(key: aiopubsub.Key, event: object) -> None:
        await gate.wait()

    subscriber.add_async_listener(KEY, parked)
    hub.publish(KEY, Payload(7))
    await asyncio.sleep(0.01)
    before = traced_bytes()
    for _ in range(effort.population):
        hub.publish(KEY, shared or Payload(7))
    after = traced_bytes()
    await subscriber.remove_all_listeners()
    return (after - before) / effort.population


async def _idle_names(effort: Effort) -> float:
    hub = aiopubsub.Hub()
    subscriber = aiopubsub.Subscriber(hub, "bench")

    async def idle(key: aiopubsub.Key, event: object) -> None:
        pass

    # Each subscription scans the names already there: 10,000 would take minutes.
    keys = [aiopubsub.Key("bench", f"n{number}") for number in range(effort.population // 10)]
    before = traced_bytes()
    for key in keys:
        subscriber.add_async_listener(key, idle)
    await asyncio.sleep(0.01)
    after = traced_bytes()
    await subscriber.remove_all_listeners()
    return (after - before) / len(keys)


SCENARIOS: Scenarios = {
    "sync": lambda size, effort: asyncio.run(sync(size, effort, sync_listener)),
    "raises": lambda size, effort: asyncio.run(sync(size, effort, raising_listener)),
    "wait": lambda size, effort: asyncio.run(wait_for_all(size, effort)),
    "suspend": lambda size, effort: asyncio.run(wait_for_all(size, effort, asyncio_pause)),
    "drain": lambda size, effort: asyncio.run(burst_and_drain(size, effort)),
    "queued": lambda _, effort: asyncio.run(_queued_bytes(effort, None)),
    "queued_shared": lambda _, effort: asyncio.run(_queued_bytes(effort, Payload(7))),
    "idle_names": lambda _, effort: asyncio.run(_idle_names(effort)),
}
