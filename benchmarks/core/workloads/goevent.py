"""goevent on every workload, by its public API only."""

import os
import random
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from types import new_class

import trio
import trio.testing

from benchmarks.core.measure import Effort, measure_async, traced_bytes
from benchmarks.core.scenario import FEW_NAMES, ListenerFailed, Scenarios
from benchmarks.core.workloads.goevent_options import OPTION_SCENARIOS
from goevent import Event, GoEvent

# Bursts and the queued events must fit without back-pressure.
MAILBOX = 100_000


class UserCreated(Event, name="user.created"):
    """The event of all workloads except those over names."""

    user_id: int


def _sync_listener() -> Callable[[UserCreated], None]:
    def listener(event: UserCreated) -> None:
        pass

    return listener


def _raising_listener() -> Callable[[UserCreated], None]:
    def listener(event: UserCreated) -> None:
        raise ListenerFailed

    return listener


def _async_listener() -> Callable[[UserCreated], Awaitable[None]]:
    async def listener(event: UserCreated) -> None:
        pass

    return listener


def _pausing_listener() -> Callable[[UserCreated], Awaitable[None]]:
    async def listener(event: UserCreated) -> None:
        await trio.lowlevel.checkpoint()

    return listener


def _ignore(error: Exception) -> None:
    pass


async def _sync(size: int, effort: Effort) -> float:
    bus, event = GoEvent(), UserCreated(user_id=7)
    for _ in range(size):
        bus.listener(UserCreated)(_sync_listener())
    async with bus:
        dispatch_nowait = bus.dispatch_nowait

        async def body(count: int) -> float:
            start = perf_counter()
            for _ in range(count):
                dispatch_nowait(event)
            return perf_counter() - start

        return await measure_async(body, effort)


async def _sync_await(size: int, effort: Effort) -> float:
    bus, event = GoEvent(), UserCreated(user_id=7)
    for _ in range(size):
        bus.listener(UserCreated)(_sync_listener())
    async with bus:
        dispatch = bus.dispatch

        async def body(count: int) -> float:
            start = perf_counter()
            for _ in range(count):
                await dispatch(event)
            return perf_counter() - start

        return await measure_async(body, effort)


async def _raises(size: int, effort: Effort) -> float:
    bus, event = GoEvent(), UserCreated(user_id=7)
    # Without a callback each error would be logged, and that would measure the terminal.
    bus.on_error(_ignore)
    for _ in range(size):
        bus.listener(UserCreated)(_raising_listener())
    async with bus:
        dispatch_nowait = bus.dispatch_nowait

        async def body(count: int) -> float:
            start = perf_counter()
            for _ in range(count):
                dispatch_nowait(event)
            return perf_counter() - start

        return await measure_async(body, effort)


async def _come_and_go(size: int, effort: Effort) -> float:
    bus, event = GoEvent(), UserCreated(user_id=7)
    listeners = [_sync_listener() for _ in range(size)]
    order = random.Random(7).sample(range(size), size)
    async with bus:

        async def body(count: int) -> float:
            start = perf_counter()
            for _ in range(count):
                registrations = [bus.subscribe(listener, UserCreated) for listener in listeners]
                bus.dispatch_nowait(event)
                for number in order:
                    registrations[number].unregister()
            return perf_counter() - start

        return await measure_async(body, effort) / size


async def _snapshot(size: int, effort: Effort) -> float:
    bus = GoEvent()
    for _ in range(size):
        bus.listener(UserCreated)(_async_listener())
    async with bus:
        await bus.dispatch(UserCreated(user_id=7))
        await bus.wait()

        async def body(count: int) -> float:
            start = perf_counter()
            for _ in range(count):
                bus.snapshot()
            return perf_counter() - start

        return await measure_async(body, effort)


async def _open_and_close(effort: Effort) -> float:
    async def body(count: int) -> float:
        start = perf_counter()
        for _ in range(count):
            async with GoEvent():
                pass
        return perf_counter() - start

    return await measure_async(body, effort)


IMPORT = """
import time, trio, msgspec
start = time.perf_counter()
from goevent import GoEvent
print(time.perf_counter() - start)
"""


def _import(effort: Effort) -> float:
    """Return the median time to import `GoEvent`, beyond Trio and msgspec, in fresh interpreters.

    `import goevent` alone loads nothing before the first use of one of its names.

    Compiled files are used, whatever the environment says: all but the first start of a program
    have them.
    """
    environment = dict(os.environ)
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    with TemporaryDirectory(prefix="goevent-import-") as compiled:
        environment["PYTHONPYCACHEPREFIX"] = compiled
        taken: list[float] = []
        for _ in range(1 + 3 * effort.repeats):
            child = subprocess.run(
                [sys.executable, "-c", IMPORT],
                env=environment,
                capture_output=True,
                text=True,
                check=True,
            )
            taken.append(float(child.stdout))
    return median(taken[1:]) * 1e9


async def _wait_for_all(
    size: int, effort: Effort, make: Callable[[], Callable[[UserCreated], Awaitable[None]]]
) -> float:
    bus, event = GoEvent(), UserCreated(user_id=7)
    for _ in range(size):
        bus.listener(UserCreated)(make())
    async with bus:
        dispatch = bus.dispatch

        async def body(count: int) -> float:
            start = perf_counter()
            for _ in range(count):
                handle = await dispatch(event)
                await handle.wait()
            return perf_counter() - start

        return await measure_async(body, effort)


async def _burst_and_drain(size: int, effort: Effort) -> float:
    bus, event, burst = GoEvent(), UserCreated(user_id=7), effort.burst
    for _ in range(size):
        bus.listener(UserCreated, mailbox=MAILBOX)(_async_listener())
    async with bus:
        dispatch_nowait, drain = bus.dispatch_nowait, bus.wait

        async def body(count: int) -> float:
            start = perf_counter()
            for _ in range(count):
                for _ in range(burst):
                    dispatch_nowait(event)
                await drain()
            return perf_counter() - start

        return await measure_async(body, effort) / burst


def _event_names(count: int) -> list[str]:
    return [f"bench.n{number}" for number in range(count)]


async def _over_names(events: Sequence[Event], effort: Effort, idle: Sequence[str] = ()) -> float:
    bus, used = GoEvent(), len(events)

    # One function for all names: only the table of names differs between the sizes.
    def listener(event: Event) -> None:
        pass

    for name in (*idle, *(event.event_name for event in events)):
        bus.listener(name)(listener)
    order = random.Random(7).sample(events, used)
    async with bus:
        dispatch_nowait = bus.dispatch_nowait

        async def body(count: int) -> float:
            start = perf_counter()
            for _ in range(count):
                for event in order:
                    dispatch_nowait(event)
            return perf_counter() - start

        return await measure_async(body, effort) / used


def _typed_events(names: Sequence[str]) -> list[Event]:
    types = [new_class("Numbered", (Event,), {"name": name}) for name in names]
    return [event_type() for event_type in types]


def _names(size: int, effort: Effort) -> float:
    return trio.run(_over_names, _typed_events(_event_names(size)), effort)


def _few_names(size: int, effort: Effort) -> float:
    names = random.Random(7).sample(_event_names(size), size)
    events = _typed_events(names[:FEW_NAMES])
    return trio.run(_over_names, events, effort, names[FEW_NAMES:])


def _adhoc_names(size: int, effort: Effort) -> float:
    return trio.run(_over_names, [Event(name, {}) for name in _event_names(size)], effort)


async def _queued_bytes(effort: Effort, shared: UserCreated | None) -> float:
    bus, gate = GoEvent(), trio.Event()

    @bus.listener(UserCreated, mailbox=MAILBOX)
    async def parked(event: UserCreated) -> None:
        await gate.wait()

    async with bus:
        bus.dispatch_nowait(UserCreated(user_id=7))
        await trio.testing.wait_all_tasks_blocked()
        before = traced_bytes()
        for _ in range(effort.population):
            bus.dispatch_nowait(shared or UserCreated(user_id=7))
        after = traced_bytes()
        gate.set()
    return (after - before) / effort.population


async def _idle_bytes(effort: Effort, names: Sequence[str]) -> float:
    bus = GoEvent()

    async def idle(event: Event) -> None:
        pass

    async with bus:
        bus.listener("bench.first")(idle)
        await trio.testing.wait_all_tasks_blocked()
        before = traced_bytes()
        for name in names:
            bus.listener(name)(idle)
        await trio.testing.wait_all_tasks_blocked()
        return (traced_bytes() - before) / len(names)


SCENARIOS: Scenarios = {
    "sync": lambda size, effort: trio.run(_sync, size, effort),
    "sync_await": lambda size, effort: trio.run(_sync_await, size, effort),
    "raises": lambda size, effort: trio.run(_raises, size, effort),
    "come_and_go": lambda size, effort: trio.run(_come_and_go, size, effort),
    "snapshot": lambda size, effort: trio.run(_snapshot, size, effort),
    "open_and_close": lambda _, effort: trio.run(_open_and_close, effort),
    "import": lambda _, effort: _import(effort),
    "wait": lambda size, effort: trio.run(_wait_for_all, size, effort, _async_listener),
    "suspend": lambda size, effort: trio.run(_wait_for_all, size, effort, _pausing_listener),
    "drain": lambda size, effort: trio.run(_burst_and_drain, size, effort),
    "names": _names,
    "few_names": _few_names,
    "adhoc_names": _adhoc_names,
    "queued": lambda _, effort: trio.run(_queued_bytes, effort, None),
    "queued_shared": lambda _, effort: trio.run(_queued_bytes, effort, UserCreated(user_id=7)),
    "idle_names": lambda _, effort: trio.run(_idle_bytes, effort, _event_names(effort.population)),
    "idle_one_name": lambda _, effort: trio.run(
        _idle_bytes, effort, ["bench.first"] * effort.population
    ),
    **OPTION_SCENARIOS,
}
