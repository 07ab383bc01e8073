"""The runner: runs one case with its broker and its deadline, or skips it with a reason.

The case runs in the task of its test, the broker in a task of its own. If the broker fails, the
case is cancelled and the failure of the broker is raised too.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol, cast

import trio

from .environment import CaseEnvironment, Connect
from .expect import NotApplicable

CaseFunction = Callable[[CaseEnvironment], Awaitable[None]]


class DriverSuite(Protocol):
    """The part of `DriverConformance` that the runner needs."""

    deadline: float
    reconnects: bool

    def broker(self) -> AbstractAsyncContextManager[Connect]: ...
    def outage(self) -> AbstractAsyncContextManager[None] | None: ...


@dataclass(frozen=True, slots=True)
class Requirement:
    """A condition of a case.

    Attributes:
        holds: Tells whether the driver meets the condition.
        reason: The reason for skipping the case if it does not.
    """

    holds: Callable[[CaseEnvironment], bool]
    reason: str


HEADERS = Requirement(lambda env: env.capabilities.headers, "the driver does not carry headers")
ORDERED = Requirement(lambda env: env.capabilities.ordered, "the driver keeps no order")
PATTERNS = Requirement(lambda env: env.capabilities.patterns, "the driver has no patterns")
NO_PATTERNS = Requirement(lambda env: not env.capabilities.patterns, "the driver has patterns")
FAN_OUT = Requirement(lambda env: env.capabilities.fan_out, "the driver has competing consumers")
COMPETING = Requirement(lambda env: not env.capabilities.fan_out, "the driver has no groups")
DURABLE = Requirement(lambda env: env.capabilities.durable, "the driver is not durable")
COUNTING = Requirement(
    lambda env: env.capabilities.counts_receivers, "the driver does not count receivers"
)
REPLIES = Requirement(lambda env: env.capabilities.replies, "the driver carries no direct messages")
ENCODED = Requirement(
    lambda env: env.capabilities.across_processes, "the driver does not encode events"
)
TAILS = Requirement(lambda env: hasattr(env.driver(), "tail"), "the driver shows no events")
TELLS_LAG = Requirement(lambda env: hasattr(env.driver(), "lag"), "the driver tells no lag")
OUTAGE = Requirement(lambda env: env.outage() is not None, "the suite has no `outage`")
RECONNECTS = Requirement(lambda env: env.reconnects, "the driver does not reconnect")
NO_RECONNECT = Requirement(lambda env: not env.reconnects, "the driver reconnects")


async def run_case(suite: DriverSuite, case: CaseFunction, *requirements: Requirement) -> None:
    """Run a case with a broker of its own.

    Raises:
        AssertionError: The driver does not do what its capabilities promise.
        NotApplicable: The case is skipped.
    """
    failures: list[Exception] = []
    unmet: list[str] = []
    async with trio.open_nursery() as nursery:
        case_ended = trio.Event()
        with trio.CancelScope() as scope:
            broker = BrokerTask(suite, scope, case_ended, failures)
            await nursery.start(broker.run)
            try:
                if not failures:
                    env = broker.environment()
                    unmet += [each.reason for each in requirements if not each.holds(env)]
                    if not unmet:
                        with env.fail_after(suite.deadline):
                            await case(env)
                        env.expect_no_errors()
            except Exception as error:  # noqa: BLE001 - raised when the broker has ended
                failures.insert(0, unwrap_single(error))
        case_ended.set()
    if len(failures) > 1:
        raise ExceptionGroup("the case and its broker failed", failures)
    if failures:
        raise failures[0]
    if unmet:
        raise NotApplicable("; ".join(unmet))


class BrokerTask:
    """The task that keeps the broker of one case running."""

    def __init__(
        self,
        suite: DriverSuite,
        case_scope: trio.CancelScope,
        case_ended: trio.Event,
        failures: list[Exception],
    ) -> None:
        self._suite = suite
        self._case_scope = case_scope
        self._case_ended = case_ended
        self._failures = failures
        self._connect: Connect | None = None
        self._task: trio.lowlevel.Task | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the broker running until the case has ended."""
        self._task = trio.lowlevel.current_task()
        try:
            async with self._suite.broker() as self._connect:
                task_status.started()
                await self._case_ended.wait()
        except Exception as error:  # noqa: BLE001 - raised when the case has ended
            self._failures.append(unwrap_single(error))
            self._case_scope.cancel()
            # The broker failed before it was up: `nursery.start` must not wait for ever.
            if self._connect is None:
                task_status.started()

    def environment(self) -> CaseEnvironment:
        """Return the environment for the case."""
        if self._connect is None or self._task is None:
            raise RuntimeError("the broker could not be started")
        return CaseEnvironment(
            self._connect, self._task, self._suite.outage, reconnects=self._suite.reconnects
        )


def unwrap_single(error: Exception) -> Exception:
    """Remove the groups that nurseries have put around a single error."""
    while True:
        inner = cast("tuple[Exception, ...]", getattr(error, "exceptions", ()))
        if len(inner) != 1:
            return error
        error = inner[0]
