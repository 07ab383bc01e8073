"""Callers that are not Trio tasks: every entry point of the bus tells them that it runs on Trio."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import anyio
import outcome
import pytest
import trio
from tests.support.checks import ignore_error
from tests.support.limits import HANG_SECONDS
from trio.lowlevel import TrioToken

from goevent import (
    Config,
    DispatchHandle,
    Event,
    EventRegistry,
    GoEvent,
    MemoryDriver,
    MemoryHub,
    Registration,
)
from goevent.drivers import DeadLetter, DeadLetters
from goevent.testing import wait_idle

REGISTRY = EventRegistry()
NEEDS_TRIO = (
    "goevent runs on Trio: start the program with `trio.run(main)` or "
    '`anyio.run(main, backend="trio")`; from a thread without Trio, call '
    "`bus.dispatch_from_thread(event)` of an open bus"
)

AsyncMain = Callable[[], Coroutine[Any, Any, Any]]


class Ping(Event, name="hosts.ping", registry=REGISTRY):
    n: int = 0


def drive(main: AsyncMain) -> None:
    """Run a coroutine that need not wait for anything, without any event loop."""
    coroutine = main()
    try:
        coroutine.send(None)
    except StopIteration:
        return
    coroutine.close()


def in_a_thread(main: AsyncMain) -> None:
    caught: list[outcome.Outcome[None]] = []
    thread = threading.Thread(target=lambda: caught.append(outcome.capture(drive, main)))
    thread.start()
    thread.join()
    caught[0].unwrap()


HOSTS: dict[str, Callable[[AsyncMain], object]] = {
    "asyncio": lambda main: asyncio.run(main()),
    "anyio on asyncio": lambda main: anyio.run(main, backend="asyncio"),
    "no event loop": drive,
    "a thread": in_a_thread,
}
hosts = pytest.mark.parametrize("host", HOSTS.values(), ids=HOSTS)


def make_bus() -> GoEvent:
    return GoEvent(Config(registry=REGISTRY))


async def enter(bus: GoEvent) -> None:
    async with bus:
        pass


ENTRY_POINTS: dict[str, Callable[[GoEvent], Awaitable[object]]] = {
    "async with": enter,
    "dispatch": lambda bus: bus.dispatch(Ping()),
    "wait": lambda bus: bus.wait(),
    "ready": lambda bus: bus.ready(),
    "close": lambda bus: bus.close(),
    "replay": lambda bus: bus.replay(Ping),
    "wait_idle": wait_idle,
}


def opened_once() -> GoEvent:
    bus = make_bus()
    trio.run(enter, bus)
    return bus


@hosts
@pytest.mark.parametrize("entry_point", ENTRY_POINTS.values(), ids=ENTRY_POINTS)
@pytest.mark.parametrize("make", [make_bus, opened_once])
def test_every_entry_point_of_the_bus_names_trio(
    host: Callable[[AsyncMain], object],
    entry_point: Callable[[GoEvent], Awaitable[object]],
    make: Callable[[], GoEvent],
) -> None:
    bus = make()

    async def main() -> None:
        await entry_point(bus)

    with pytest.raises(RuntimeError) as caught:
        host(main)
    assert str(caught.value) == NEEDS_TRIO


@hosts
def test_handles_and_registrations_name_trio(host: Callable[[AsyncMain], object]) -> None:
    bus = make_bus()
    handles: list[DispatchHandle] = []
    registrations: list[Registration] = []

    async def work() -> None:
        async with bus:
            registrations.append(bus.subscribe(lambda event: None, Ping))
            handles.append(await bus.dispatch(Ping()))

    trio.run(work)
    waits: AsyncMain
    for waits in (handles[0].wait, registrations[0].ready):
        with pytest.raises(RuntimeError) as caught:
            host(waits)
        assert str(caught.value) == NEEDS_TRIO


class NoLetters:
    """A store that must not be asked."""

    async def count(self) -> int:
        raise AssertionError("asked")

    async def list(self, count: int, after: str) -> list[DeadLetter]:
        raise AssertionError("asked")

    async def get(self, id: str) -> DeadLetter | None:  # noqa: A002
        raise AssertionError("asked")

    async def replay(self, ids: object) -> int:
        raise AssertionError("asked")

    async def discard(self, ids: object) -> int:
        raise AssertionError("asked")


@hosts
def test_the_memory_driver_and_dead_letters_name_trio(host: Callable[[AsyncMain], object]) -> None:
    driver = MemoryDriver(MemoryHub())
    letters = DeadLetters(NoLetters())
    # Neither of them is looked at.
    message: Any = None
    inbox: Any = None
    calls: list[AsyncMain] = [
        lambda: driver.run(inbox),
        lambda: driver.subscribe(["a.b"]),
        lambda: driver.unsubscribe(["a.b"]),
        lambda: driver.publish(message),
        driver.drain,
        letters.count,
        letters.list,
        lambda: letters.get("1"),
        lambda: letters.replay("1"),
        letters.replay_all,
        lambda: letters.discard("1"),
    ]
    for call in calls:
        with pytest.raises(RuntimeError) as caught:
            host(call)
        assert str(caught.value) == NEEDS_TRIO


def test_listeners_are_registered_and_unregistered_without_trio() -> None:
    bus = make_bus()

    async def main() -> None:
        @bus.listener(Ping)
        async def pong(event: Ping) -> None: ...

        registration = bus.subscribe(lambda event: None, "hosts.other")
        bus.on_error(ignore_error)
        assert len(bus.snapshot().listeners) == 2
        registration.unregister()
        assert bus.errors == ()

    asyncio.run(main())
    assert [listener.event_names for listener in bus.snapshot().listeners] == [("hosts.ping",)]


async def test_another_thread_is_told_which_method_to_call() -> None:
    refused: list[str] = []

    async def main(bus: GoEvent, handle: DispatchHandle) -> None:
        for call in (lambda: bus.dispatch(Ping()), bus.wait, bus.ready, bus.close, handle.wait):
            with pytest.raises(RuntimeError) as caught:
                await call()
            refused.append(str(caught.value))

    async with make_bus() as bus:
        bus.subscribe(wait_for_ever, Ping)
        handle = await bus.dispatch(Ping())
        await trio.to_thread.run_sync(lambda: asyncio.run(main(bus, handle)))
        await bus.close(timeout=0)
    elsewhere = "this bus runs on another thread; from here, call only bus.dispatch_from_thread()"
    waits = "this handle can be waited for on its bus's thread only"
    assert refused == [elsewhere, elsewhere, elsewhere, elsewhere, waits]
    assert handle.errors


async def wait_for_ever(event: object) -> None:
    await trio.sleep_forever()


def test_asyncio_tasks_beside_a_trio_in_guest_mode_are_refused_each_time() -> None:
    """They run on the thread of the bus, but Trio cannot suspend them."""

    async def main() -> list[str]:
        loop = asyncio.get_running_loop()
        opened: asyncio.Future[tuple[GoEvent, TrioToken]] = loop.create_future()
        done: asyncio.Future[outcome.Outcome[None]] = loop.create_future()
        end = trio.Event()

        async def guest() -> None:
            async with make_bus() as bus:
                opened.set_result((bus, trio.lowlevel.current_trio_token()))
                await end.wait()

        trio.lowlevel.start_guest_run(
            guest,
            run_sync_soon_threadsafe=loop.call_soon_threadsafe,
            done_callback=done.set_result,
        )
        bus, token = await opened
        refused: list[str] = []
        # The calls after the first one come before the next time that a dispatch yields.
        for _ in range(3):
            with pytest.raises(RuntimeError) as caught:
                await bus.dispatch(Ping())
            refused.append(str(caught.value))
        token.run_sync_soon(end.set)
        (await done).unwrap()
        return refused

    assert asyncio.run(asyncio.wait_for(main(), HANG_SECONDS)) == [NEEDS_TRIO] * 3
