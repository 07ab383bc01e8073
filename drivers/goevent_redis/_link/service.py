"""Services that run while a body does."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Protocol, TypeVar

import trio


class Service(Protocol):
    """Something with a task of its own."""

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Run until cancelled; started when it can be used."""
        ...


S = TypeVar("S", bound=Service)


@asynccontextmanager
async def opened(service: S) -> AsyncGenerator[S]:
    """Run a service while the body runs; entered when it has started.

    What starting it fails with, and what the body raises, leaves as itself.
    """
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
