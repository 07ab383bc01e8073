"""The kernel in random runs: cancelled at every step, with listeners that use every feature."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import ContextVar

import pytest
import trio
from tests.support.checks import adds_up, ignore_error
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
    Registration,
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


class CancelAt(trio.abc.Instrument):
    """Cancels a scope at the n-th step of any task, and counts the steps."""

    def __init__(self, scope: trio.CancelScope, step: int) -> None:
        self.steps = 0
        self._scope = scope
        self._step = step

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self.steps += 1
        if self.steps == self._step:
            self._scope.cancel()


# -- all at once


class Chaos:
    """A bus whose listeners dispatch, fail, misbehave, register and unregister by chance."""

    def __init__(self, seed: int) -> None:
        self.moods = random.Random(seed)
        self.bus = make(close_timeout=self.moods.choice([0, 1, 5]))
        self.handles: list[DispatchHandle] = []
        self.registrations: list[Registration] = []
        self.overlapping = 0
        self.deeds: list[Callable[[AnyEvent], Awaitable[object]]] = [
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
            self.register,
            self.run_children,
        ]

    async def suspend(self, event: AnyEvent) -> None:
        await trio.lowlevel.checkpoint()

    async def sleep(self, event: AnyEvent) -> None:
        await trio.sleep(self.moods.random())

    def following(self, event: AnyEvent) -> AnyEvent | None:
        return self.moods.choice(EVENTS)(event.n + 1) if event.n < 5 else None

    async def send_and_wait(self, event: AnyEvent) -> None:
        if following := self.following(event):
            try:
                self.handles.append(await self.bus.dispatch(following))
                if self.moods.random() < 0.3:
                    with trio.move_on_after(1):
                        await self.handles[-1].wait()
            except GoEventError:
                pass

    async def send_now(self, event: AnyEvent) -> None:
        if following := self.following(event):
            with suppress(trio.WouldBlock, GoEventError):
                self.handles.append(self.bus.dispatch_nowait(following))

    async def fail(self, event: AnyEvent) -> None:
        raise self.moods.choice([ValueError(), ExceptionGroup("", [KeyError(), OSError()])])

    async def set_a_variable(self, event: AnyEvent) -> None:
        VARIABLE.set(VARIABLE.get() + 1)

    async def leave_a_scope(self, event: AnyEvent) -> None:
        trio.CancelScope().__enter__()

    async def leave_a_nursery(self, event: AnyEvent) -> None:
        nursery = await trio.open_nursery().__aenter__()
        nursery.start_soon(trio.sleep_forever)

    async def leave_a_cancelled_scope(self, event: AnyEvent) -> None:
        scope = trio.CancelScope()
        scope.__enter__()
        scope.cancel()
        await trio.lowlevel.checkpoint()

    async def run_children(self, event: AnyEvent) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.send_and_wait, event)
            nursery.start_soon(trio.sleep, 0.1)

    async def unregister(self, event: AnyEvent) -> None:
        if self.moods.random() < 0.8:
            self.moods.choice(self.registrations).unregister()
        else:
            self.bus.unregister_listeners_for_event(self.moods.choice(EVENTS))

    async def register(self, event: AnyEvent | None = None) -> None:
        running = 0

        async def listen(event: AnyEvent) -> None:
            nonlocal running
            running += 1
            self.overlapping += running > 1
            try:
                for _ in range(self.moods.randrange(4)):
                    await self.moods.choice(self.deeds)(event)
            finally:
                running -= 1
                if self.moods.random() < 0.2:
                    await self.send_now(event)
                if self.moods.random() < 0.1:
                    with trio.CancelScope(shield=True, deadline=trio.current_time() + 0.5):
                        await self.send_and_wait(event)

        def inline(event: AnyEvent) -> None:
            if self.moods.random() < 0.3:
                raise ValueError
            if (following := self.following(event)) and self.moods.random() < 0.3:
                self.handles.append(self.bus.dispatch_nowait(following))

        kinds = self.moods.sample(EVENTS, self.moods.choice([1, 1, 2, 3]))
        if self.moods.random() < 0.25:
            registration = self.bus.subscribe(inline, *kinds)
        else:
            registration = self.bus.subscribe(
                listen,
                *kinds,
                mailbox=self.moods.choice([1, 1, 2, 5]),
                overflow=self.moods.choice(["block", "block", "error", "drop_new", "drop_old"]),
            )
        self.registrations.append(registration)

    async def dispatch(self) -> None:
        for _ in range(self.moods.randrange(5, 20)):
            try:
                self.handles.append(await self.bus.dispatch(self.moods.choice(EVENTS)()))
                if self.moods.random() < 0.3:
                    await self.handles[-1].wait()
                if self.moods.random() < 0.1:
                    await self.bus.wait()
                await trio.sleep(self.moods.choice([0, 0, 0.5]))
            except BusClosed:
                return
            except GoEventError:
                pass

    async def close(self) -> None:
        await trio.sleep(self.moods.random() * 5)
        await self.bus.close(self.moods.choice([0, 1, 3]))

    async def run(self, whom: str, step: int) -> int:
        scopes = {name: trio.CancelScope() for name in ("nobody", "bus", "dispatch", "close")}
        fire = CancelAt(scopes[whom], step)
        for _ in range(self.moods.randrange(1, 8)):
            await self.register()
        tasks = trio.lowlevel.current_statistics().tasks_living
        trio.lowlevel.add_instrument(fire)

        async def under(scope: trio.CancelScope, function: Callable[[], Awaitable[None]]) -> None:
            with scope:
                await function()

        with trio.fail_after(1000), scopes["bus"]:
            async with self.bus, trio.open_nursery() as nursery:
                nursery.start_soon(under, scopes["dispatch"], self.dispatch)
                nursery.start_soon(under, trio.CancelScope(), self.dispatch)
                if whom == "close" or self.moods.random() < 0.3:
                    nursery.start_soon(under, scopes["close"], self.close)
        trio.lowlevel.remove_instrument(fire)

        assert trio.lowlevel.current_statistics().tasks_living == tasks
        ledger = self.bus.snapshot().ledger
        assert adds_up(ledger)
        assert self.bus.error_count == ledger.failed + ledger.dropped + ledger.abandoned
        assert all(handle.done for handle in self.handles)
        assert not self.overlapping
        return fire.steps


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("whom", ["nobody", "bus", "dispatch", "close"])
def test_no_task_no_event_and_no_count_is_lost_in_a_random_run(whom: str, seed: int) -> None:
    def run(step: int) -> int:
        return trio.run(Chaos(seed).run, whom, step, clock=MockClock(autojump_threshold=0))

    steps = run(-1)
    if whom != "nobody":
        for step in random.Random(seed).sample(range(1, steps + 1), min(steps, 12)):
            run(step)


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
        fire = CancelAt(scope, step)
        trio.lowlevel.add_instrument(fire)
        began = trio.current_time()
        try:
            with scope:
                async with bus:
                    for n in range(5):
                        handles.append(await bus.dispatch(One(n)))
                        if exit_ == "error" and n == 3:
                            raise KeyError
        except* KeyError:  # in a group if it was cancelled in the same step
            assert exit_ == "error"
        finally:
            trio.lowlevel.remove_instrument(fire)
        assert all(handle.done for handle in handles)
        assert adds_up(bus.snapshot().ledger)
        assert trio.current_time() - began <= 5 + 2
        async with bus:  # it can be opened again
            await (await bus.dispatch(Two())).wait()
            await bus.wait()
            assert bus.snapshot().ledger == Ledger(accepted=1, completed=1)
        return fire.steps

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
