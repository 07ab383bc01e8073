"""Listeners that register and unregister during dispatches: none misses or repeats an event."""

from __future__ import annotations

import random
from collections import Counter

import pytest
import trio
from tests.support.checks import ignore_error
from tests.support.limits import HANG_SECONDS
from trio.testing import wait_all_tasks_blocked

from goevent import DispatchHandle, Event, EventDropped, EventRegistry, GoEvent

REGISTRY = EventRegistry()
DISPATCHES = 3000


class Tick(Event, name="churn.tick", registry=REGISTRY):
    n: int = 0


class Tock(Event, name="churn.tock", registry=REGISTRY):
    n: int = 0


class Guest:
    """A listener that is registered for a while."""

    def __init__(self, moods: random.Random) -> None:
        self.seen = Counter[int]()
        self._moods = moods

    async def __call__(self, event: Tick | Tock) -> None:
        self.seen[event.n] += 1
        if self._moods.random() < 0.3:
            await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("mailbox", [1, 8, 1024])
@pytest.mark.parametrize("seed", range(3))
async def test_three_tasks_register_and_unregister_during_3000_dispatches(
    bus: GoEvent, mailbox: int, seed: int
) -> None:
    moods = random.Random(seed)
    stable: list[int] = []
    inline: list[int] = []
    guests: list[Guest] = []
    handles: list[DispatchHandle] = []
    over = False

    @bus.listener(Tick, mailbox=mailbox)
    async def note(event: Tick) -> None:
        stable.append(event.n)
        if moods.random() < 0.1:
            await trio.lowlevel.checkpoint()

    async def come_and_go() -> None:
        while not over:
            guest = Guest(moods)
            guests.append(guest)
            kind = moods.randrange(4)
            if kind == 0:
                registration = bus.subscribe(guest, Tick, mailbox=mailbox)
            elif kind == 1:
                registration = bus.subscribe(guest, Tick, Tock, mailbox=mailbox)
            elif kind == 2:
                registration = bus.subscribe(guest, Tick, mailbox=1, overflow="drop_new")
            else:
                registration = bus.subscribe(guest, Tick, mailbox=1, overflow="drop_old")
            for _ in range(moods.randrange(5)):
                await trio.lowlevel.checkpoint()
            if kind == 1 and moods.random() < 0.5:
                bus.unregister_listeners_for_event(Tock)
            registration.unregister()
            await trio.lowlevel.checkpoint()

    async def wait_for(handle: DispatchHandle) -> None:
        await handle.wait()
        assert handle.done

    bus.subscribe(lambda event: inline.append(event.n), Tick)
    with trio.fail_after(HANG_SECONDS):
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(come_and_go)
            for n in range(DISPATCHES):
                handles.append(await bus.dispatch(Tick(n)))
                if n % 10 == 0:
                    nursery.start_soon(wait_for, handles[-1])
                    handles.append(await bus.dispatch(Tock(-1 - n)))
                if n % 500 == 0:
                    await bus.wait()
            over = True
        await bus.wait()
    assert stable == inline == [*range(DISPATCHES)]
    assert all(handle.done for handle in handles)
    assert all(count == 1 for guest in guests for count in guest.seen.values())
    assert len(guests) > 100

    errors = [error for handle in handles for error in handle.errors]
    assert all(isinstance(error, EventDropped) for error in errors)
    ledger = await bus.close()
    assert ledger.dropped == len(errors)
    assert ledger.failed == ledger.abandoned == 0
    ran = sum(guest.seen.total() for guest in guests)
    assert ledger.completed == 2 * DISPATCHES + ran
    assert ledger.accepted == ledger.completed + ledger.dropped


async def test_listeners_that_register_and_unregister_each_other(bus: GoEvent) -> None:
    """Sync and async listeners register and unregister each other."""
    moods = random.Random(7)
    stable: list[int] = []
    bus.on_error(ignore_error)

    def spawn(event: Tick | Tock) -> None:
        inline = moods.random() < 0.5

        def guest(event: Tick) -> None:
            registration.unregister()
            if moods.random() < 0.5:
                bus.dispatch_nowait(Tock())

        if inline:
            registration = bus.subscribe(guest, Tick)
        else:
            registration = bus.subscribe(guest, Tick, async_=True)

    bus.subscribe(spawn, Tick)
    bus.subscribe(spawn, Tock, async_=True)
    bus.subscribe(lambda event: stable.append(event.n), Tick, async_=True)
    with trio.fail_after(HANG_SECONDS):
        for n in range(DISPATCHES):
            await bus.dispatch(Tick(n))
        await bus.wait()
        ledger = await bus.close()
    assert stable == [*range(DISPATCHES)]
    assert all(isinstance(error, EventDropped) for error in bus.errors)
    assert ledger.failed == ledger.abandoned == 0
    assert ledger.accepted == ledger.completed + ledger.dropped


async def test_churn_leaves_no_workers_behind(bus: GoEvent) -> None:
    before = trio.lowlevel.current_statistics().tasks_living

    async def suspends(event: Tick) -> None:
        await trio.lowlevel.checkpoint()

    for _ in range(20):
        registrations = [bus.subscribe(suspends, Tick) for _ in range(50)]
        await (await bus.dispatch(Tick())).wait()
        for registration in registrations:
            registration.unregister()
    bus.subscribe(suspends, Tick)
    for _ in range(100):
        await (await bus.dispatch(Tick())).wait()
    await wait_all_tasks_blocked()
    assert trio.lowlevel.current_statistics().tasks_living <= before + 60
