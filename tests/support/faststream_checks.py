"""Load, listeners and checks that the tests of several FastStream brokers need."""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any, Protocol

import trio
from faststream import BaseMiddleware

from goevent import Backlog, DriverConnectionError, GoEvent, Registration
from tests.support.faststream_buses import FastStreamBus, accepted, grown
from tests.support.redis_buses import Paid, User, numbers, opened, until
from tests.support.redis_server import FaultProxy
from tests.support.stopwatch import Stopwatch


class DispatchLoad:
    """Tasks that dispatch numbered events until they are stopped.

    Attributes:
        accepted: The numbers of the events that the broker has accepted.
    """

    def __init__(self) -> None:
        self.accepted: set[int] = set()
        self._is_stopped = False

    async def run(self, bus: GoEvent, first: int, step: int) -> None:
        """Dispatch events one after the other, whether the broker accepts them or not."""
        n = first
        while not self._is_stopped:
            handle = await bus.dispatch(Paid(n=n))
            await handle.wait()
            if not handle.errors:
                self.accepted.add(n)
            n += step

    def stop(self) -> None:
        """Let each task end after its current event."""
        self._is_stopped = True


@asynccontextmanager
async def under_load(bus: GoEvent, tasks: int = 1) -> AsyncGenerator[DispatchLoad]:
    """Dispatch events inside a `with` block; when it ends, every event has its result."""
    load = DispatchLoad()
    async with trio.open_nursery() as nursery:
        for first in range(tasks):
            nursery.start_soon(load.run, bus, first, tasks)
        yield load
        load.stop()


def gated_listener(bus: GoEvent, **options: Any) -> tuple[trio.Event, list[int]]:
    """Subscribe a listener that waits for a gate.

    Returns:
        The gate, and the list of the numbers of finished events.
    """
    gate = trio.Event()
    finished: list[int] = []

    async def wait_for_gate(event: Paid) -> None:
        await gate.wait()
        finished.append(event.n)

    bus.subscribe(wait_for_gate, Paid, **options)
    return gate, finished


async def check_removed_name_takes_no_events(
    sender: FastStreamBus, receiver: FastStreamBus, kept: str, removed: str
) -> None:
    """Check that events which wait in the bus reach a name although another one was removed."""
    gate = trio.Event()
    finished: list[int] = []

    async def wait_for_gate(event: Any) -> None:
        await gate.wait()
        finished.append(event.n)

    # An adapter finds the first one that an event matches.
    receiver.seen(removed)
    receiver.subscribe(wait_for_gate, kept, mailbox=1)
    async with opened(sender, receiver):
        await accepted(sender, *range(50))
        driver: Any = receiver.driver
        # One event runs, one is in the mailbox, and one waits for room in it.
        await until(lambda: len(driver._trio_side._arrivals.items) == 47)
        receiver.unregister_listeners_for_event(removed)
        await until(lambda: removed not in driver._adapter._subscribed)
        gate.set()
        await until(lambda: len(finished) == 50)
    assert sorted(finished) == [*range(50)]


def recording_middleware() -> tuple[type[BaseMiddleware[Any, Any]], list[str]]:
    """Return a middleware of FastStream that fails on a body with `fail`, and its calls."""
    calls: list[str] = []

    class RecordingMiddleware(BaseMiddleware[Any, Any]):
        async def publish_scope(self, call_next: Any, cmd: Any) -> Any:
            calls.append("publish")
            return await call_next(cmd)

        async def consume_scope(self, call_next: Any, msg: Any) -> Any:
            calls.append("consume")
            if b"fail" in msg.body:
                raise ValueError("a middleware of ours")
            return await call_next(msg)

    return RecordingMiddleware, calls


class EnlargingMiddleware(BaseMiddleware[Any, Any]):
    """A middleware of FastStream that adds 5,000 bytes to the event with the number 2."""

    async def publish_scope(self, call_next: Any, cmd: Any) -> Any:
        """Publish the message, enlarged if it is that of the event."""
        if b'"n":2' in cmd.body:
            cmd.body += b" " * 5000
        return await call_next(cmd)


def driver_threads() -> list[str]:
    """Return the names of the running threads of goevent's drivers."""
    return [each.name for each in threading.enumerate() if each.name.startswith("goevent-")]


async def check_single_delivery(sender: FastStreamBus, receiver: FastStreamBus) -> None:
    """Assert that an event arrives once at a name and at each of three patterns."""
    seen = [receiver.seen(via) for via in ("order.paid", "order.*", "*.paid", "**")]
    async with opened(sender, receiver):
        await accepted(sender, *range(100))
        await until(lambda: all(len(each) == 100 for each in seen))
        await sender.dispatch(User(n=7))
        await until(lambda: len(seen[3]) == 101)
    assert [numbers(each) for each in seen[:3]] == [[*range(100)]] * 3


async def check_pattern_that_leaves(
    sender: FastStreamBus, receiver: FastStreamBus, count: int
) -> None:
    """Assert that a name gets each event once while patterns that match it come and go."""
    seen = receiver.seen("order.paid")

    async def leave(first: int) -> None:
        """Unregister a pattern at its first event, when it has brought many others already."""
        leaving: list[Registration] = []
        leaving.append(receiver.subscribe(lambda _: leaving[0].unregister(), "order.*"))
        await receiver.ready()
        await sender.dispatch_many([Paid(n=first + n) for n in range(count)])
        await until(lambda: len(seen) >= first + count)

    async with opened(sender, receiver):
        for round_ in range(5):
            await leave(round_ * count)
    assert sorted(numbers(seen)) == [*range(5 * count)]


async def check_failing_publish(bus: FastStreamBus) -> None:
    """Assert that a publish without an answer fails in time with a connection error."""
    began = Stopwatch()
    handle = await bus.dispatch(Paid(n=2))
    await handle.wait()
    (error,) = handle.errors
    assert isinstance(error.error, DriverConnectionError)
    assert began.unhindered_seconds < 10


async def check_silent_server(bus: FastStreamBus, proxy: FaultProxy, broker: str) -> None:
    """Assert that a bus replaces the connection to a server that does not answer."""
    async with bus:
        await accepted(bus, 1)
        proxy.swallow()
        await check_failing_publish(bus)
        await until(lambda: bus.count_reports("is lost"))
        proxy.pass_on()
        await until(lambda: bus.count_reports(f"connected to {broker} again"))
        await accepted(bus, 3)


async def check_backlog(bus: FastStreamBus) -> Backlog:
    """Assert that a listener that waits holds two of ten events, and the snapshot shows it.

    Args:
        bus: A bus with `prefetch=2`.

    Returns:
        The backlog while the listener waits.
    """
    gate, _ = gated_listener(bus)
    async with bus:
        await accepted(bus, *range(10))
        await until(lambda: [(b.lag, b.pending) for b in bus.backlogs()] == [(8, 2)])
        (backlog,) = bus.backlogs()
        assert backlog.event_name == "order.paid"
        gate.set()
        await until(lambda: [(b.lag, b.pending) for b in bus.backlogs()] == [(0, 0)])
    return backlog


class RestartableServer(Protocol):
    """A server of a test's own."""

    def kill(self) -> None: ...

    async def start(self) -> None: ...


async def check_restarts_under_load(
    sender: FastStreamBus, receiver: FastStreamBus, server: RestartableServer, broker: str
) -> tuple[list[int], DispatchLoad]:
    """Assert that buses report two restarts of their server once each, and use it again.

    Returns:
        The numbers of the events in the order of their arrival, and the load.
    """
    seen = receiver.seen()

    def connected() -> list[bool]:
        return [bus.driver.snapshot().connected for bus in (sender, receiver)]

    async with opened(sender, receiver), under_load(sender) as load:
        for _ in range(2):
            await until(grown(seen))
            server.kill()
            await until(lambda: not any(connected()))
            await server.start()
            await until(lambda: all(connected()))
        await until(grown(seen))
    for bus in (sender, receiver):
        assert bus.count_reports(f"connection to {broker} is lost") == 2
        assert bus.count_reports(f"connected to {broker} again") == 2
    return numbers(seen), load


async def check_growing_pauses(bus: FastStreamBus) -> None:
    """Assert that the pauses before redeliveries are at least 0.2, 0.4 and 0.8 seconds.

    Args:
        bus: A bus with `backoff=0.2` and `max_deliveries=4`.
    """
    times: list[float] = []

    def fail(event: Paid) -> None:
        times.append(trio.current_time())
        raise ValueError(event.n)

    bus.subscribe(fail, Paid)
    async with bus:
        await accepted(bus, 1)
        await until(lambda: bus.count_reports("is a dead letter"))
    pauses = [later - earlier for earlier, later in pairwise(times)]
    least = (0.2, 0.4, 0.8)
    assert all(pause >= each for pause, each in zip(pauses, least, strict=True))
