"""Services: objects with a task of their own, run while the body of an `async with` runs.

The link and the pool are services. Both drivers of this package run them the same way, by
`running_link_and_pool`, and report changes of the connection with the same texts, by
`ConnectionReports`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Protocol, TypeVar

import trio

from .connectivity import Connected, Disconnected
from .errors import require_trio


class Service(Protocol):
    """An object with a task of its own."""

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Run until cancelled; started when the service can be used."""
        ...


ServiceT = TypeVar("ServiceT", bound=Service)


@asynccontextmanager
async def running(service: ServiceT) -> AsyncGenerator[ServiceT]:
    """Run a service while the body runs; the body begins when the service has started.

    An exception of the start or of the body is raised as it is, not in a group.
    """
    require_trio()
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        try:
            await nursery.start(service.run)
            yield service
        except Exception as error:  # noqa: BLE001 - raised again, outside of the nursery
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


@asynccontextmanager
async def running_link_and_pool(link: Service, pool: Service) -> AsyncGenerator[None]:
    """Run a link and a pool while the body runs.

    The link outlives the cancellation of the body, so the body can send last commands in a shielded
    scope with a deadline. An exception of the start or of the body is raised as it is, not in a
    group.
    """
    require_trio()
    failure: Exception | None = None
    link_scope = trio.CancelScope()

    async def run_link(task_status: trio.TaskStatus[None]) -> None:
        with link_scope:
            await link.run(task_status=task_status)

    async with trio.open_nursery() as nursery:
        try:
            await nursery.start(run_link)
            await nursery.start(pool.run)
            # A task may be at a checkpoint, and Trio lets none be shielded after its cancellation.
            await trio.lowlevel.checkpoint_if_cancelled()
            # Only now: a start that is cancelled must not wait for the server.
            link_scope.shield = True
            yield
        except Exception as error:  # noqa: BLE001 - raised again, outside of the nursery
            failure = error
        finally:
            link_scope.shield = False
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


class ConnectionReports:
    """Turns the events of a link into reports, without repeating one for each failed attempt.

    Args:
        report: Called with the text of each report.
        missed: Follows the report of a new connection, to say which events may be missing.
    """

    def __init__(self, report: Callable[[str], None], missed: str = "") -> None:
        self._report = report
        self._missed = missed
        # The class of the last reported reason why the server cannot be reached.
        self._reported: type[Exception] | None = None

    def connected(self, event: Connected) -> None:
        """Report a connection that replaces an earlier one; be `Link`'s `on_connected`."""
        self._reported = None
        if event.count > 1:
            self._report(f"connected to Redis again after {event.downtime:.1f} s{self._missed}")

    def disconnected(self, event: Disconnected) -> None:
        """Report a lost connection or a new reason; be `Link`'s `on_disconnected`."""
        if event.dials == 0:
            self._report(f"the connection to Redis is lost: {event.reason}")
        elif self._reported is not type(event.reason):
            self._reported = type(event.reason)
            self._report(f"there is no connection to Redis: {event.reason}")
