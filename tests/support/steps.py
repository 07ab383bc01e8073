"""Cancellation at any step of a run, and the sockets that it leaves open."""

from __future__ import annotations

import gc
import socket
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


def open_sockets() -> set[str]:
    """Return the sockets that Python code of this process has open.

    Not the files of the process: the threads of libraries, such as the mock of Kafka, and of those
    that read the output of a server open and close files of their own at any time.
    """
    found: set[str] = set()
    for each in gc.get_objects():
        # By its class: `isinstance` may run code of the object.
        if issubclass(type(each), socket.socket) and each.fileno() >= 0:
            found.add(f"{each.fileno()} at {id(each):x}")
    return found


async def cancel_at_every_step(scenario: Callable[[], Awaitable[None]], *, runs: int = 1) -> int:
    """Run a scenario many times, cancelled one step later each time, and assert that it closes all.

    Args:
        scenario: The scenario.
        runs: How often it is cancelled at each step, because Trio runs the tasks that are ready in
            a random order.

    Returns:
        The number of steps of the scenario.
    """
    await scenario()
    gc.collect()
    before = open_sockets()
    for step in count(1):
        steps = 0
        for _ in range(runs):
            with trio.CancelScope() as scope, cancelled_at(step, scope) as canceller:
                with trio.fail_after(HANG_SECONDS):
                    await scenario()
            steps = max(steps, canceller.steps)
        left = open_sockets() - before
        assert not left, f"step {step} leaves open: {left}"
        if steps < step:
            return step
    raise AssertionError("unreachable")
