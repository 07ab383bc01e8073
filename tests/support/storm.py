"""Random runs of a bus, which are cancelled at random steps."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from contextlib import suppress

import trio
from trio.testing import MockClock

from goevent import (
    BusClosed,
    Config,
    DispatchHandle,
    Event,
    EventRegistry,
    GoEvent,
    GoEventError,
    Registration,
)
from tests.support.checks import adds_up, ignore_error
from tests.support.steps import cancelled_at

REGISTRY = EventRegistry()
CANCELLED = ("none", "bus", "dispatch", "close")
"""The part of a storm that is cancelled."""


class First(Event, name="storm.first", registry=REGISTRY):
    n: int = 0


class Second(Event, name="storm.second", registry=REGISTRY):
    n: int = 0


class Third(Event, name="storm.third", registry=REGISTRY):
    n: int = 0


StormEvent = First | Second | Third


class Storm:
    """A bus whose listeners act at random, while two tasks dispatch and a third may close it.

    A subclass defines `register`, and adds its checks to `check`.

    Attributes:
        random: The source of all decisions.
        handles: The handles of all accepted dispatches.
        longest_life: The seconds after which the bus is closed at the latest.
    """

    KINDS = (First, Second, Third)
    longest_life = 5.0
    max_depth = 5

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        timeout = self.random.choice([0, 1, 5])
        self.bus = GoEvent(Config(registry=REGISTRY, close_timeout=timeout))
        self.bus.on_error(ignore_error)
        self.handles: list[DispatchHandle] = []
        self.registrations: list[Registration] = []

    def register(self) -> None:
        """Register a listener with random options that takes random actions."""
        raise NotImplementedError

    def check(self) -> None:
        """Assert that no task, event or count is lost."""
        ledger = self.bus.snapshot().ledger
        assert adds_up(ledger)
        assert self.bus.error_count == ledger.failed + ledger.dropped + ledger.abandoned
        assert all(handle.done and handle._left == 0 for handle in self.handles)  # pyright: ignore[reportPrivateUsage]

    # -- actions of listeners

    def following(self, event: StormEvent) -> StormEvent | None:
        """Return an event for a nested dispatch, or None at the greatest depth."""
        return self.random.choice(self.KINDS)(event.n + 1) if event.n < self.max_depth else None

    async def send_and_wait(self, event: StormEvent) -> None:
        if following := self.following(event):
            with suppress(GoEventError):
                handle = await self.bus.dispatch(following)
                self.handles.append(handle)
                if self.random.random() < 0.3:
                    with trio.move_on_after(1):
                        await handle.wait()

    async def leave_a_scope(self, event: StormEvent) -> None:
        trio.CancelScope().__enter__()

    async def leave_a_cancelled_scope(self, event: StormEvent) -> None:
        trio.CancelScope().__enter__().cancel()
        await trio.lowlevel.checkpoint()

    async def run_children(self, event: StormEvent) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.send_and_wait, event)
            nursery.start_soon(trio.sleep, self.random.choice([0.1, 0.5]))

    # -- the run

    async def dispatch(self) -> None:
        for _ in range(self.random.randrange(5, 20)):
            try:
                self.handles.append(await self.bus.dispatch(self.random.choice(self.KINDS)()))
                if self.random.random() < 0.3:
                    await self.handles[-1].wait()
                if self.random.random() < 0.1:
                    await self.bus.wait()
                await trio.sleep(self.random.choice([0, 0, 0.5]))
            except BusClosed:
                return
            except GoEventError:
                pass

    async def close(self) -> None:
        await trio.sleep(self.random.random() * self.longest_life)
        await self.bus.close(self.random.choice([0, 1, 3]))

    async def run(self, cancelled: str, step: int) -> int:
        """Run the storm and cancel one of its parts at a step of the run.

        Returns:
            The number of steps.
        """
        scopes = {name: trio.CancelScope() for name in CANCELLED}
        for _ in range(self.random.randrange(1, 8)):
            self.register()
        tasks = trio.lowlevel.current_statistics().tasks_living

        async def under(scope: trio.CancelScope, function: Callable[[], Awaitable[None]]) -> None:
            with scope:
                await function()

        with (
            cancelled_at(step, scopes[cancelled]) as canceller,
            trio.fail_after(2000),
            scopes["bus"],
        ):
            async with self.bus, trio.open_nursery() as nursery:
                nursery.start_soon(under, scopes["dispatch"], self.dispatch)
                nursery.start_soon(under, trio.CancelScope(), self.dispatch)
                if cancelled == "close" or self.random.random() < 0.3:
                    nursery.start_soon(under, scopes["close"], self.close)
        assert trio.lowlevel.current_statistics().tasks_living == tasks
        self.check()
        return canceller.steps


def run_storm(make: Callable[[int], Storm], cancelled: str, seed: int, samples: int) -> None:
    """Run a storm whole, and then once for each of some random steps at which it is cancelled."""

    def run(step: int) -> int:
        clock = MockClock(autojump_threshold=0)
        return trio.run(make(seed).run, cancelled, step, clock=clock)

    steps = run(-1)
    if cancelled != "none":
        for step in random.Random(seed).sample(range(1, steps + 1), min(steps, samples)):
            run(step)
