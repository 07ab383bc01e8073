"""What a bus holds is bounded in bytes, and the server sends no more ahead."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from tests.support.faststream_buses import FastStreamBus, accepted
from tests.support.rabbit_node import RabbitNode
from tests.support.redis_buses import Paid, opened, until

from goevent_faststream._rabbit.prefetch_window import PrefetchWindow, first_window

LIMIT_BYTES = 1 << 20
EVENT_BYTES = 150_000
MIB = 1 << 20


def window(bus: FastStreamBus) -> PrefetchWindow:
    """Return the window of the only queue that a bus consumes."""
    adapter: Any = bus.driver._adapter  # pyright: ignore[reportPrivateUsage]
    (queue,) = adapter._queues.values()
    found: PrefetchWindow = queue.window
    return found


def count_held(bus: FastStreamBus) -> int:
    """Return how many events a bus holds."""
    (backlog,) = bus.backlogs()
    return backlog.pending


@pytest.mark.parametrize("small_events", [0, 100])
async def test_server_sends_no_more_large_events_than_fit(
    node: RabbitNode, small_events: int
) -> None:
    sandbox = node.sandbox()
    bus, sender = sandbox.bus(prefetch_bytes=LIMIT_BYTES), sandbox.bus(None)
    gate = trio.Event()
    done: list[int] = []

    async def listen(event: Paid) -> None:
        if event.text:
            await gate.wait()
        done.append(event.n)

    bus.subscribe(listen, Paid, concurrency=500)
    async with opened(bus, sender):
        await accepted(sender, *range(small_events))
        await until(lambda: len(done) == small_events)
        # An idle queue falls back to the small window.
        await until(lambda: window(bus).size == first_window(500, LIMIT_BYTES))
        numbers = range(small_events, small_events + 60)
        for n in numbers:
            handle = await sender.dispatch(Paid(n=n, text="x" * EVENT_BYTES))
            await handle.wait()
            handle.raise_errors()
        # The server keeps all others, and goes on to do so.
        await until(lambda: count_held(bus) + (bus.backlogs()[0].lag or 0) == 60)
        await trio.sleep(3)
        assert 1 <= count_held(bus) <= 2 * LIMIT_BYTES // EVENT_BYTES
        gate.set()
        await until(lambda: len(done) == small_events + 60, 60)
    assert sorted(done) == [*range(small_events + 60)]
    assert not bus.reports


async def test_window_grows_for_small_events_up_to_prefetch(node: RabbitNode) -> None:
    sandbox = node.sandbox()
    bus, sender = sandbox.bus(prefetch=80), sandbox.bus(None)
    gate = trio.Event()
    begun: list[int] = []

    async def listen(event: Paid) -> None:
        begun.append(event.n)
        await gate.wait()

    bus.subscribe(listen, Paid, concurrency=200)
    async with opened(bus, sender):
        await accepted(sender, *range(120))
        await until(lambda: len(begun) >= 80)
        gate.set()
        await until(lambda: len(begun) == 120)
    assert sorted(begun) == [*range(120)]


def test_first_window_is_for_events_of_any_size() -> None:
    assert first_window(500, 32 * MIB) == 32
    assert first_window(500, 32 * MIB, queues=10) == 3
    assert first_window(2, 32 * MIB) == 2
    assert first_window(500, 1000) == 1


def test_window_follows_the_sizes_of_events() -> None:
    window = PrefetchWindow(500, 32 * MIB)
    assert not any(window.arrived(1000) for _ in range(31))
    assert window.arrived(1000)
    # A bus that does not hold a whole window needs no larger one.
    assert window.fitting(31, 31_000, 1) == 32
    for _ in range(32):
        window.arrived(1000)
    assert window.fitting(32, 32_000, 1) == 500
    window.size = 500
    # One large event makes all of them large.
    window.arrived(1 * MIB)
    assert window.fitting(10, 1 * MIB, 1) == 32


def test_window_of_a_full_bus_is_closed_until_half_of_it_is_free() -> None:
    window = PrefetchWindow(500, 32 * MIB)
    assert window.arrived(10 * MIB)
    assert window.fitting(4, 40 * MIB, 1) == 0
    window.size = 0
    assert window.fitting(2, 20 * MIB, 1) == 0
    assert window.fitting(1, 10 * MIB, 1) == 1
