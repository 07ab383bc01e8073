"""Cancellation at any step of a run, and a count of the files that it leaves open."""

from __future__ import annotations

import gc
import os
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from itertools import count

import trio

from tests.support.limits import HANG_SECONDS


class StepCanceller(trio.abc.Instrument):
    """Cancels a scope after a number of steps of the run, and counts the steps.

    Attributes:
        steps: The number of steps so far.
    """

    def __init__(self, scope: trio.CancelScope, step: int) -> None:
        self.steps = 0
        self._scope = scope
        self._step = step

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self.steps += 1
        if self.steps == self._step:
            self._scope.cancel()


@contextmanager
def cancelled_at(step: int, scope: trio.CancelScope) -> Generator[StepCanceller]:
    """Cancel a scope at a step of the block; a negative step cancels nothing.

    The scope is not entered.
    """
    canceller = StepCanceller(scope, step)
    trio.lowlevel.add_instrument(canceller)
    try:
        yield canceller
    finally:
        trio.lowlevel.remove_instrument(canceller)


def open_files() -> int:
    """Return the number of open files of this process."""
    return len(os.listdir("/proc/self/fd"))


async def cancel_at_every_step(scenario: Callable[[], Awaitable[None]]) -> int:
    """Run a scenario many times, cancelled one step later each time, and assert that it closes all.

    Returns:
        The number of steps of the scenario.
    """
    await scenario()
    gc.collect()
    before = open_files()
    for step in count(1):
        with trio.CancelScope() as scope, cancelled_at(step, scope) as canceller:
            with trio.fail_after(HANG_SECONDS):
                await scenario()
        assert open_files() == before
        if canceller.steps < step:
            return step
    raise AssertionError("unreachable")
