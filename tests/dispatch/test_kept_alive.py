"""Nothing of an event or of an unregistered listener outlives its use."""

from __future__ import annotations

import gc
import weakref
from dataclasses import dataclass
from typing import Any

import pytest
import trio
from tests.support.checks import ignore_error
from tests.support.limits import HANG_SECONDS
from tests.support.ways import WAYS, Way
from trio.testing import wait_all_tasks_blocked

from goevent import Config, EventRegistry, GoEvent, MemoryDriver, MemoryHub, Registration

REGISTRY = EventRegistry()


@dataclass
class Held:
    n: int


REGISTRY.register_as("test.ping", Held)


class Failed(Exception):
    pass


class Owner:
    """The object of a listener; `fails` tells whether it raises an exception."""

    def __init__(self, *, fails: bool = False) -> None:
        self.fails = fails
        self.raised: list[weakref.ref[Exception]] = []

    def handle(self, event: Any) -> None:
        if self.fails:
            error = Failed(event)
            self.raised.append(weakref.ref(error))
            raise error


def make(**config: Any) -> GoEvent:
    bus = GoEvent(Config(registry=REGISTRY, **config))
    bus.on_error(ignore_error)
    return bus


async def idle() -> None:
    """Wait until the tasks of the bus and the event loop have nothing left to do."""
    done = trio.Event()
    trio.lowlevel.current_trio_token().run_sync_soon(done.set)
    await done.wait()
    await wait_all_tasks_blocked()
    gc.collect()


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("way", WAYS)
async def test_idle_bus_keeps_neither_event_nor_exception_nor_listener(
    way: str, fails: bool
) -> None:
    bus = make()
    owner = Owner(fails=fails)
    raised = owner.raised
    dead = weakref.ref(owner)
    chosen = WAYS[way]
    if not isinstance(chosen.event, str):
        chosen = Way(chosen.options, chosen.suspends, "test.ping", chosen.kind, chosen.attempts)
    async with bus:
        chosen.register(bus, owner.handle)
        event = Held(1)
        events = [weakref.ref(event)]
        handle = await bus.dispatch(event)
        await handle.wait()
        del handle, event
        bus.clear_errors()
        await idle()
        assert [each() for each in events] == [None]
        assert [each() for each in raised] == [None] * chosen.attempts * fails
        bus.unregister_listeners_for_event(chosen.event)
        del owner
        await idle()
        assert dead() is None


def as_async(handler: Any) -> Any:
    async def run(event: Any) -> None:
        await trio.lowlevel.checkpoint()
        handler(event)

    return run


def unregistering(registrations: list[Registration], owner: Owner) -> Any:
    def handler(event: Any) -> None:
        registrations.pop().unregister()
        owner.handle(event)

    return handler


@pytest.mark.parametrize("suspends", [False, True])
@pytest.mark.parametrize("options", [{}, {"async_": True}, {"async_": False}], ids=str)
async def test_listener_that_unregisters_itself_is_forgotten(
    options: dict[str, Any], suspends: bool
) -> None:
    bus = make()
    registrations: list[Registration] = []
    owner = Owner()
    dead = weakref.ref(owner)
    async with bus:
        listener = unregistering(registrations, owner)
        way = Way(options, suspends)
        registrations.append(
            bus.subscribe(as_async(listener) if suspends else listener, "test.ping", **way.options)
        )
        del owner, listener
        handle = await bus.dispatch(Held(1))
        await handle.wait()
        del handle
        await idle()
        assert dead() is None
        ledger = await bus.close()
    assert (ledger.accepted, ledger.completed) == (1, 1)


@pytest.mark.parametrize("options", [{}, {"async_": True}, {"thread": True}], ids=str)
async def test_listener_with_once_is_forgotten_with_its_event(options: dict[str, Any]) -> None:
    bus = make()
    owner = Owner()
    dead = weakref.ref(owner)
    async with bus:
        bus.subscribe(owner.handle, "test.ping", once=True, **options)
        handle = await bus.dispatch(Held(1))
        await handle.wait()
        del owner, handle
        await idle()
        assert dead() is None
        assert bus.snapshot().ledger.completed == 1


async def test_listener_that_was_unregistered_while_it_ran_is_forgotten() -> None:
    bus = make()
    go = trio.Event()

    class Slow:
        async def handle(self, event: Any) -> None:
            await go.wait()

    slow = Slow()
    dead = weakref.ref(slow)
    async with bus:
        registration = bus.subscribe(slow.handle, "test.ping")
        handle = await bus.dispatch(Held(1))
        await wait_all_tasks_blocked()
        registration.unregister()
        del slow, registration
        go.set()
        await handle.wait()
        del handle
        await idle()
        assert dead() is None
        assert bus.snapshot().ledger.completed == 1


async def test_hub_keeps_no_event_that_has_arrived() -> None:
    hub = MemoryHub()
    arrived: list[weakref.ref[Any]] = []
    sender, receiver = make(driver=MemoryDriver(hub)), make(driver=MemoryDriver(hub))
    receiver.subscribe(lambda event: arrived.append(weakref.ref(event)), "test.ping")
    async with receiver, sender:
        handle = await sender.dispatch(Held(1))
        await handle.wait()
        del handle
        with trio.fail_after(HANG_SECONDS):
            while not arrived:
                await trio.sleep(0.001)
        await idle()
        assert [each() for each in arrived] == [None]


async def test_listener_with_many_lanes_is_forgotten() -> None:
    bus = make()
    owner = Owner()
    dead = weakref.ref(owner)

    async def suspending(event: Any, owner: Owner = owner) -> None:
        await trio.lowlevel.checkpoint()
        owner.handle(event)

    async with bus:
        registration = bus.subscribe(suspending, "test.ping", concurrency=20)
        for n in range(50):
            await bus.dispatch(Held(n))
        await bus.wait()
        registration.unregister()
        del owner, suspending, registration
        await idle()
        assert dead() is None
