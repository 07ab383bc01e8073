"""How a case is played: with its broker, under its deadline, or skipped with a reason."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol, cast
from unittest import SkipTest  # pytest knows it; this module can do without pytest

import trio

from .stage import Connect, Stage

Case = Callable[[Stage], Awaitable[None]]


class NotApplicable(SkipTest):
    """A case asks for something that the driver does not promise."""


class Suite(Protocol):
    """What is asked of the author of a driver."""

    deadline: float
    reconnects: bool

    def broker(self) -> AbstractAsyncContextManager[Connect]: ...
    def outage(self) -> AbstractAsyncContextManager[None] | None: ...


@dataclass(frozen=True, slots=True)
class Need:
    """What has to hold for a case to apply, and why it does not otherwise."""

    holds: Callable[[Stage], bool]
    reason: str


HEADERS = Need(lambda stage: stage.capabilities.headers, "the driver does not carry headers")
ORDERED = Need(lambda stage: stage.capabilities.ordered, "the driver keeps no order")
PATTERNS = Need(lambda stage: stage.capabilities.patterns, "the driver has no patterns")
NO_PATTERNS = Need(lambda stage: not stage.capabilities.patterns, "the driver has patterns")
FAN_OUT = Need(lambda stage: stage.capabilities.fan_out, "the driver has competing consumers")
COMPETING = Need(lambda stage: not stage.capabilities.fan_out, "the driver has no groups")
DURABLE = Need(lambda stage: stage.capabilities.durable, "the driver is not durable")
COUNTING = Need(
    lambda stage: stage.capabilities.counts_receivers, "the driver does not count receivers"
)
ENCODED = Need(
    lambda stage: stage.capabilities.across_processes, "the driver hands over events as they are"
)
OUTAGE = Need(lambda stage: stage.outage() is not None, "the suite has no `outage`")
RECONNECTS = Need(lambda stage: stage.reconnects, "the driver does not reconnect")
GIVES_UP = Need(lambda stage: not stage.reconnects, "the driver reconnects")


async def play(suite: Suite, case: Case, *needs: Need) -> None:
    """Run a case, with a broker that is there for it alone.

    Raises:
        AssertionError: the driver does not do what it promises.
        NotApplicable: the case is skipped.
    """
    failures: list[Exception] = []
    unmet: list[str] = []
    async with trio.open_nursery() as nursery:
        over = trio.Event()
        with trio.CancelScope() as scope:
            host = Host(suite, scope, over, failures)
            await nursery.start(host.run)
            try:
                if not failures:
                    stage = host.stage()
                    unmet += [need.reason for need in needs if not need.holds(stage)]
                    if not unmet:
                        with stage.deadline(suite.deadline):
                            await case(stage)
                        stage.expect_no_errors()
            except Exception as error:  # noqa: BLE001 - raised when the broker has ended
                failures.insert(0, alone(error))
        over.set()
    if len(failures) > 1:
        raise ExceptionGroup("the case and its broker failed", failures)
    if failures:
        raise failures[0]
    if unmet:
        raise NotApplicable("; ".join(unmet))


class Host:
    """The task in which the broker lives."""

    def __init__(
        self, suite: Suite, case: trio.CancelScope, over: trio.Event, failures: list[Exception]
    ) -> None:
        self._suite = suite
        self._case = case
        self._over = over
        self._failures = failures
        self._connect: Connect | None = None
        self._task: trio.lowlevel.Task | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Have the broker run until the case is over."""
        self._task = trio.lowlevel.current_task()
        try:
            async with self._suite.broker() as self._connect:
                task_status.started()
                await self._over.wait()
        except Exception as error:  # noqa: BLE001 - raised when the case has ended
            self._failures.append(alone(error))
            self._case.cancel()
            if self._connect is None:
                task_status.started()

    def stage(self) -> Stage:
        """Return the stage for the case."""
        if self._connect is None or self._task is None:
            raise RuntimeError("the broker could not be started")
        return Stage(
            self._connect, self._task, self._suite.outage, reconnects=self._suite.reconnects
        )


def alone(error: Exception) -> Exception:
    """Take off the groups that nurseries put around a single error."""
    while True:
        inner = cast("tuple[Exception, ...]", getattr(error, "exceptions", ()))
        if len(inner) != 1:
            return error
        error = inner[0]
