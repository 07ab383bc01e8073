"""The kernel in random runs: cancelled at every step, with listeners that use every feature."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import ContextVar

import pytest
import trio
from tests.support.checks import adds_up, ignore_error
from tests.support.steps import cancelled_at
from tests.support.storm import CANCELLED, Storm, StormEvent, run_storm
from trio.testing import MockClock, wait_all_tasks_blocked

from goevent import (
    BusClosed,
    Config,
    DispatchHandle,
    Event,
    EventRegistry,
    GoEvent,
    GoEventError,
    Ledger,
)

REGISTRY = EventRegistry()
VARIABLE: ContextVar[int] = ContextVar("VARIABLE", default=0)


class One(Event, name="under_fire.one", registry=REGISTRY):
    n: int = 0


class Two(Event, name="under_fire.two", registry=REGISTRY):
    n: int = 0


class Both(Event, name="under_fire.both", registry=REGISTRY):
    n: int = 0


EVENTS = (One, Two, Both)
AnyEvent = One | Two | Both


def make(close_timeout: float = 10.0) -> GoEvent:
    bus = GoEvent(Config(registry=REGISTRY, close_timeout=close_timeout))
    bus.on_error(ignore_error)
    return bus


# -- all at once


class KernelStorm(Storm):
    """A storm whose listeners dispatch, fail, misbehave, register and unregister by chance."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.overlapping = 0
        self.actions: list[Callable[[StormEvent], Awaitable[object]]] = [
            self.suspend,
            self.sleep,
            self.send_and_wait,
            self.send_and_wait,
            self.send_now,
            self.fail,
            self.set_a_variable,
            self.leave_a_scope,
            self.leave_a_nursery,
            self.leave_a_cancelled_scope,
            self.unregister,
            self.register_another,
            self.run_children,
        ]

    async def suspend(self, event: StormEvent) -> None:
        await trio.lowlevel.checkpoint()

    async def sleep(self, event: StormEvent) -> None:
        await trio.sleep(self.random.random())

    async def send_now(self, event: StormEvent) -> None:
        if following := self.following(event):
            with suppress(trio.WouldBlock, GoEventError):
                self.handles.append(self.bus.dispatch_nowait(following))

    async def fail(self, event: StormEvent) -> None:
        raise self.random.choice([ValueError(), ExceptionGroup("", [KeyError(), OSError()])])

    async def set_a_variable(self, event: StormEvent) -> None:
        VARIABLE.set(VARIABLE.get() + 1)

    async def leave_a_nursery(self, event: StormEvent) -> None:
        nursery = await trio.open_nursery().__aenter__()
        nursery.start_soon(trio.sleep_forever)

    async def unregister(self, event: StormEvent) -> None:
        if self.random.random() < 0.8:
            self.random.choice(self.registrations).unregister()
        else:
            self.bus.unregister_listeners_for_event(self.random.choice(self.KINDS))

    async def register_another(self, event: StormEvent) -> None:
        self.register()

    def register(self) -> None:
        running = 0

        async def listen(event: StormEvent) -> None:
            nonlocal running
            running += 1
            self.overlapping += running > 1
            try:
                for _ in range(self.random.randrange(4)):
                    await self.random.choice(self.actions)(event)
            finally:
                running -= 1
                if self.random.random() < 0.2:
                    await self.send_now(event)
                if self.random.random() < 0.1:
                    with trio.CancelScope(shield=True, deadline=trio.current_time() + 0.5):
                        await self.send_and_wait(event)

        def inline(event: StormEvent) -> None:
            if self.random.random() < 0.3:
                raise ValueError
            if (following := self.following(event)) and self.random.random() < 0.3:
                self.handles.append(self.bus.dispatch_nowait(following))

        kinds = self.random.sample(self.KINDS, self.random.choice([1, 1, 2, 3]))
        if self.random.random() < 0.25:
            registration = self.bus.subscribe(inline, *kinds)
        else:
            registration = self.bus.subscribe(
                listen,
                *kinds,
                mailbox=self.random.choice([1, 1, 2, 5]),
                overflow=self.random.choice(["block", "block", "error", "drop_new", "drop_old"]),
            )
        self.registrations.append(registration)

    def check(self) -> None:
        super().check()
        assert not self.overlapping


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("cancelled", CANCELLED)
def test_no_task_no_event_and_no_count_is_lost_in_a_random_run(cancelled: str, seed: int) -> None:
    run_storm(KernelStorm, cancelled, seed, samples=12)


@pytest.mark.parametrize("exit_", ["normal", "error"])
def test_a_bus_may_be_cancelled_at_every_step_of_its_life(exit_: str) -> None:
    async def scenario(step: int) -> int:
        bus = make(close_timeout=5)
        ran: list[int] = []
        handles: list[DispatchHandle] = []

        @bus.listener(One, mailbox=1)
        async def listen(event: One) -> None:
            try:
                await trio.lowlevel.checkpoint()
                if event.n == 3:
                    await trio.sleep_forever()
            finally:
                ran.append(event.n)
                if event.n < 3:
                    handles.append(bus.dispatch_nowait(Two(event.n)))

        bus.subscribe(lambda event: ran.append(event.n), One, Two)
        scope = trio.CancelScope()
        began = trio.current_time()
        with cancelled_at(step, scope) as canceller:
            try:
                with scope:
                    async with bus:
                        for n in range(5):
                            handles.append(await bus.dispatch(One(n)))
                            if exit_ == "error" and n == 3:
                                raise KeyError
            except* KeyError:  # in a group if it was cancelled in the same step
                assert exit_ == "error"
        assert all(handle.done for handle in handles)
        assert adds_up(bus.snapshot().ledger)
        assert trio.current_time() - began <= 5 + 2
        async with bus:  # it can be opened again
            await (await bus.dispatch(Two())).wait()
            await bus.wait()
            assert bus.snapshot().ledger == Ledger(accepted=1, completed=1)
        return canceller.steps

    def run(step: int) -> int:
        return trio.run(scenario, step, clock=MockClock(autojump_threshold=0))

    for step in range(1, run(-1) + 1):
        run(step)


# -- one by one


async def test_a_bus_in_a_cancelled_scope_opens_and_closes_at_once(
    autojump_clock: MockClock,
) -> None:
    bus = make()
    began = trio.current_time()
    with trio.CancelScope() as scope:
        scope.cancel()
        async with bus:
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert trio.current_time() == began


async def test_a_listener_may_wait_for_its_own_mailbox_behind_others(
    autojump_clock: MockClock,
) -> None:
    """It parks in the step in which the dispatches before it and its own are admitted."""
    seen: list[int] = []
    gate = trio.Event()
    with trio.fail_after(5):
        async with make() as bus:

            @bus.listener(One, mailbox=3)
            async def listen(event: One) -> None:
                seen.append(event.n)
                if event.n == 0:
                    await gate.wait()
                if event.n == 2:
                    await bus.dispatch(One(5))

            bus.dispatch_nowait(One(0))
            await wait_all_tasks_blocked()
            for n in (1, 2, 3):
                bus.dispatch_nowait(One(n))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(bus.dispatch, One(4))
                await wait_all_tasks_blocked()
                gate.set()
            await bus.wait()
            await bus.wait()
            assert bus.error_count == 0
    assert seen == [0, 1, 2, 3, 4, 5]


async def test_a_listener_may_wait_for_an_event_that_is_dropped_as_it_parks(
    autojump_clock: MockClock,
) -> None:
    """Its wait admits a dispatch that drops the very event that it waits for."""
    seen: list[str] = []
    gate, go = trio.Event(), trio.Event()
    with trio.fail_after(5):
        async with make() as bus:

            @bus.listener(Two, Both, mailbox=1, overflow="drop_old")
            async def drops(event: Two | Both) -> None:
                await go.wait()

            @bus.listener(One, Both, mailbox=1)
            async def waits(event: One | Both) -> None:
                if isinstance(event, One) and event.n == 0:
                    await gate.wait()
                elif isinstance(event, One):
                    await queued.wait()
                    seen.append(queued.errors[0].outcome)

            bus.dispatch_nowait(Two(0))
            bus.dispatch_nowait(One(0))
            await wait_all_tasks_blocked()
            queued = bus.dispatch_nowait(Two(1))
            bus.dispatch_nowait(One(1))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(bus.dispatch, Both())
                await wait_all_tasks_blocked()
                gate.set()
            await wait_all_tasks_blocked()
            go.set()
    assert seen == ["dropped"]


async def test_cancelling_a_listener_that_waits_for_room_admits_the_dispatches_behind_it(
    autojump_clock: MockClock,
) -> None:
    """The next dispatch in the queue needs a worker just while Trio cancels all workers."""
    outcomes: list[object] = []
    with trio.fail_after(60):
        bus = make()

        @bus.listener(One, Both, mailbox=1)
        async def stuck(event: One | Both) -> None:
            await trio.sleep_forever()

        @bus.listener(Two, Both, mailbox=1, name="idle")
        async def idle(event: Two | Both) -> None:
            """Be a listener that has never run, so that no worker is spawned for it yet."""

        @bus.listener("under_fire.start")
        async def first_in_line(event: Event) -> None:
            await bus.dispatch(Both())

        async def behind() -> None:
            try:
                outcomes.append(await bus.dispatch(Two()))
            except BusClosed as error:
                outcomes.append(error)

        scope = trio.CancelScope()
        async with trio.open_nursery() as nursery:

            async def be_open() -> None:
                with scope:
                    async with bus:
                        bus.dispatch_nowait(One(0))
                        await wait_all_tasks_blocked()
                        bus.dispatch_nowait(One(1))
                        bus.dispatch_nowait(Event("under_fire.start"))
                        await trio.sleep_forever()

            nursery.start_soon(be_open)
            await wait_all_tasks_blocked(0.1)
            nursery.start_soon(behind)
            await wait_all_tasks_blocked()
            scope.cancel()
    assert len(outcomes) == 1
    assert adds_up(bus.snapshot().ledger)


async def test_dispatching_in_the_finally_of_a_cancelled_listener(
    autojump_clock: MockClock,
) -> None:
    handles: list[DispatchHandle] = []
    refused: list[str] = []

    bus = make()

    @bus.listener(One)
    async def stuck(event: One) -> None:
        try:
            await trio.sleep_forever()
        finally:
            try:
                handles.append(bus.dispatch_nowait(Two()))
            except BusClosed:
                refused.append("nowait")
            with trio.CancelScope(shield=True):
                try:
                    handles.append(await bus.dispatch(Both()))
                except BusClosed:
                    refused.append("dispatch")

    inline: list[AnyEvent] = []
    bus.subscribe(inline.append, Two, Both)
    bus.subscribe(ignore_event, Two, Both, async_=True)
    with trio.fail_after(60):
        async with bus:
            for _ in range(3):
                handles.append(await bus.dispatch(One()))
            await wait_all_tasks_blocked()
            ledger = await bus.close(timeout=1)
    assert all(handle.done for handle in handles)
    assert adds_up(ledger)
    assert len(inline) == len(handles) - 3
    assert len(refused) + len(inline) == 2


def ignore_event(event: AnyEvent) -> None:
    """Do nothing."""
