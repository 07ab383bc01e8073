"""The ledger is exact: a property of random programs."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
import trio
from hypothesis import given, settings, strategies as st
from tests.support.checks import adds_up
from trio.testing import MockClock

from goevent import (
    BusClosed,
    Config,
    DeadlockError,
    DispatchHandle,
    Event,
    EventError,
    GoEvent,
    Ledger,
    MailboxFull,
    Registration,
)


class Ping(Event, name="ledger.ping"):
    depth: int = 0


class Pong(Event, name="ledger.pong"):
    depth: int = 0


KINDS: list[type[Ping | Pong]] = [Ping, Pong]


class Crash(Exception):
    """Ends the block early."""


@dataclass(frozen=True)
class Plan:
    """The behaviour of one random listener."""

    kinds: tuple[type[Ping | Pong], ...]
    inline: bool
    mailbox: int
    overflow: Any
    pauses: tuple[float, ...]  # seconds; 0 is a checkpoint, and nothing no suspension
    fails_every: int  # 0: never
    dispatches: type[Ping | Pong] | None
    shielded: bool


@dataclass(frozen=True)
class LedgerProgram:
    listeners: tuple[Plan, ...]
    producers: tuple[tuple[type[Ping | Pong], int, float, bool], ...]
    unregister: tuple[tuple[float, int], ...]
    register: tuple[float, ...]
    give_up: tuple[tuple[float, int], ...]  # when which producer is cancelled
    stop_at: float
    close_timeout: float
    ending: str


kinds = st.sampled_from(KINDS)
times = st.sampled_from([0.0, 0.1, 0.5, 1.0, 3.0])
plans = st.builds(
    Plan,
    kinds=st.sampled_from([(Ping,), (Pong,), (Ping, Pong)]),
    inline=st.booleans(),
    mailbox=st.integers(1, 4),
    overflow=st.sampled_from(["block", "error", "drop_new", "drop_old"]),
    pauses=st.lists(st.sampled_from([0.0, 0.1, 1.0, math.inf]), max_size=2).map(tuple),
    fails_every=st.integers(0, 3),
    dispatches=st.none() | kinds,
    shielded=st.booleans(),
)
programs = st.builds(
    LedgerProgram,
    listeners=st.lists(plans, min_size=1, max_size=4).map(tuple),
    producers=st.lists(
        st.tuples(kinds, st.integers(1, 12), times, st.booleans()), min_size=1, max_size=4
    ).map(tuple),
    unregister=st.lists(st.tuples(times, st.integers(0, 3)), max_size=2).map(tuple),
    register=st.lists(times, max_size=2).map(tuple),
    give_up=st.lists(st.tuples(times, st.integers(0, 3)), max_size=2).map(tuple),
    stop_at=times,
    close_timeout=times,
    ending=st.sampled_from(["leave", "close", "close twice", "crash", "cancel"]),
)


@dataclass
class World:
    """One run of a program, with its own count of events."""

    bus: GoEvent
    handles: list[DispatchHandle] = field(default_factory=list[DispatchHandle])
    returned: int = 0
    raised: int = 0
    late: int = 0

    def listener(self, plan: Plan) -> Callable[[Any], Any]:
        bus, calls = self.bus, 0

        def end() -> None:
            nonlocal calls
            calls += 1
            if plan.fails_every and calls % plan.fails_every == 0:
                self.raised += 1
                raise ValueError(calls)
            self.returned += 1

        def inline(event: Ping | Pong) -> None:
            if plan.dispatches is not None and event.depth < 3:
                with suppress(trio.WouldBlock, MailboxFull, BusClosed):
                    self.handles.append(bus.dispatch_nowait(plan.dispatches(event.depth + 1)))
            end()

        async def suspending(event: Ping | Pong) -> None:
            with trio.CancelScope(shield=plan.shielded):
                for pause in plan.pauses:
                    await trio.sleep(60 if plan.shielded and pause == math.inf else pause)
            if plan.dispatches is not None and event.depth < 3:
                with suppress(MailboxFull, BusClosed, DeadlockError):
                    self.handles.append(await bus.dispatch(plan.dispatches(event.depth + 1)))
            end()

        return inline if plan.inline else suspending

    def subscribe(self, plan: Plan) -> Registration:
        if plan.inline:
            return self.bus.subscribe(self.listener(plan), *plan.kinds)
        return self.bus.subscribe(
            self.listener(plan), *plan.kinds, mailbox=plan.mailbox, overflow=plan.overflow
        )

    async def produce(
        self, kind: type[Ping | Pong], count: int, pause: float, nowait: bool
    ) -> None:
        for _ in range(count):
            try:
                if nowait:
                    self.handles.append(self.bus.dispatch_nowait(kind()))
                else:
                    self.handles.append(await self.bus.dispatch(kind()))
            except (trio.WouldBlock, MailboxFull):
                pass
            except BusClosed:
                return
            if pause:
                await trio.sleep(pause)


async def run(program: LedgerProgram) -> tuple[World, Ledger, float]:
    world = World(GoEvent(Config(close_timeout=program.close_timeout)))
    bus = world.bus
    registrations = [world.subscribe(plan) for plan in program.listeners]
    scopes = [trio.CancelScope() for _ in program.producers]
    closed_at = math.inf

    async def producer(n: int) -> None:
        with scopes[n]:
            await world.produce(*program.producers[n])

    async def later(seconds: float, action: Callable[[], object]) -> None:
        await trio.sleep(seconds)
        action()

    async def close() -> None:
        nonlocal closed_at
        begun = trio.current_time()
        await bus.close()
        closed_at = trio.current_time() - begun

    async with trio.open_nursery() as nursery:
        try:
            with trio.CancelScope() as scope:
                async with bus:
                    for n in range(len(program.producers)):
                        nursery.start_soon(producer, n)
                    for at, n in program.unregister:
                        nursery.start_soon(
                            later, at, registrations[n % len(registrations)].unregister
                        )
                    for at in program.register:
                        plan = program.listeners[0]
                        nursery.start_soon(later, at, lambda plan=plan: world.subscribe(plan))
                    for at, n in program.give_up:
                        nursery.start_soon(later, at, scopes[n % len(scopes)].cancel)
                    await trio.sleep(program.stop_at)
                    if program.ending == "crash":
                        raise Crash
                    if program.ending == "cancel":
                        scope.cancel()
                        await trio.sleep_forever()
                    if program.ending.startswith("close"):
                        async with trio.open_nursery() as closers:
                            closers.start_soon(close)
                            if program.ending == "close twice":
                                closers.start_soon(close)
                        at_close = bus.snapshot().ledger
                        assert adds_up(at_close)
                        assert all(handle.done for handle in world.handles)
                        if not any(plan.shielded for plan in program.listeners):
                            assert (at_close.completed, at_close.failed) == (
                                world.returned,
                                world.raised,
                            )
                        assert at_close == await bus.close()
        except Crash:
            pass
    ledger = await bus.close()
    assert ledger == bus.snapshot().ledger
    return world, ledger, closed_at


@pytest.fixture(autouse=True, scope="module")
def _ignore_logged_failures() -> Generator[None]:
    logger = logging.getLogger("goevent")
    disabled, logger.disabled = logger.disabled, True
    yield
    logger.disabled = disabled


@settings(deadline=None, max_examples=300)
@given(programs, st.random_module())  # Trio draws the order of its tasks
def test_the_ledger_is_exact_for_any_program(program: LedgerProgram, random: object) -> None:
    clock = MockClock(autojump_threshold=0)
    world, ledger, closing_took = trio.run(run, program, clock=clock)

    assert adds_up(ledger)
    assert all(handle.done for handle in world.handles)
    assert all(handle.pending == 0 for handle in world.handles)
    assert closing_took == math.inf or closing_took <= program.close_timeout + 2

    errors = world.bus.errors
    assert world.bus.error_count == len(errors)
    outcomes = [error.outcome for error in errors]
    assert outcomes.count("dropped") == ledger.dropped
    assert outcomes.count("abandoned") == ledger.abandoned
    # A listener that ignores its cancellation may return, or fail, after it was given up.
    late_failures = outcomes.count("failed") - ledger.failed
    late_returns = world.returned - ledger.completed
    assert late_failures >= 0
    assert outcomes.count("failed") == world.raised
    assert 0 <= late_returns + late_failures <= ledger.abandoned
    if not any(plan.shielded for plan in program.listeners):
        assert late_returns == late_failures == 0

    of_handles: list[EventError] = [error for handle in world.handles for error in handle.errors]
    # Some dispatches were cancelled after their commit, or ended in an inline listener.
    assert len(of_handles) <= len(errors)
    snapshot = world.bus.snapshot()
    assert all(one.depth == one.in_flight == 0 for one in snapshot.listeners)
    for one in snapshot.listeners:
        assert min(one.completed, one.failed, one.dropped, one.abandoned) >= 0


def test_the_ledger_counts_dispatches_that_waited_while_the_routes_changed() -> None:
    async def main() -> tuple[Ledger, int]:
        bus, gate, ran = GoEvent(), trio.Event(), 0

        @bus.listener(Ping, mailbox=1)
        async def gated(event: Ping) -> None:
            nonlocal ran
            await gate.wait()
            ran += 1

        @bus.listener(Ping)
        def inline(event: Ping) -> None:
            nonlocal ran
            ran += 1

        async with bus, trio.open_nursery() as nursery:
            await bus.dispatch(Ping())
            await trio.testing.wait_all_tasks_blocked()
            await bus.dispatch(Ping())
            nursery.start_soon(bus.dispatch, Ping())
            await trio.testing.wait_all_tasks_blocked()
            for _ in range(3):
                bus.subscribe(lambda event: None, Ping).unregister()
                bus.subscribe(lambda event: None, Pong)
            gate.set()
        return await bus.close(), ran

    ledger, ran = trio.run(main)
    assert ran == 6
    assert ledger == Ledger(accepted=6, completed=6)


def test_ledgers_add_up() -> None:
    assert Ledger(1, 2, 3, 4, 5) + Ledger(10, 20, 30, 40, 50) == Ledger(11, 22, 33, 44, 55)


def test_the_functions_of_dataclasses_take_a_snapshot() -> None:
    bus = GoEvent()
    bus.subscribe(lambda event: None, Ping, name="heard")
    snapshot = bus.snapshot()
    listener: Any = snapshot.listeners[0]
    asdict: Any = dataclasses.asdict
    found = asdict(snapshot)
    assert found["listeners"] == (asdict(listener),)
    assert json.loads(json.dumps(found)) == json.loads(msgspec.json.encode(snapshot))
    assert dataclasses.replace(listener, name="other").name == "other"
    with pytest.raises(AttributeError):
        listener.name = "other"
