"""Requests to a client that go on when their caller is cancelled.

Clients of brokers handle cancellation badly: a cancelled request may close a channel, stop a reader
or leave a socket behind. So each request runs in a task of its own, and a cancelled caller only
stops waiting for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from goevent import DriverError

from .errors import connection_lost, no_answer

T = TypeVar("T")


class ClientRequests:
    """The tasks of one connection.

    Args:
        broker: The name of the broker in error texts.
        errors: The errors of the client that `run` maps; the others are raised as they are.
        to_driver_error: Maps one of them.
    """

    def __init__(
        self,
        broker: str,
        errors: tuple[type[BaseException], ...] = (),
        to_driver_error: Callable[[BaseException], DriverError] | None = None,
    ) -> None:
        self._broker = broker
        self._errors = errors
        self._to_driver_error = to_driver_error
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run a coroutine that ends with the connection; the loop reports its failure."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def run(self, work: Coroutine[Any, Any, T], seconds: float | None = None) -> T:
        """Return the result of a request.

        Args:
            seconds: How long to wait for it. It goes on afterwards.

        Raises:
            DriverConnectionError: The connection was lost, or there was no answer in time.
            DriverError: The client has failed with one of `errors`.
        """
        task = self.start(work)
        task.add_done_callback(_retrieve)
        answered, _ = await asyncio.wait({task}, timeout=seconds)
        if not answered and seconds is not None:
            raise no_answer(self._broker, seconds)
        if task.cancelled():
            raise connection_lost(self._broker)
        try:
            return task.result()
        except self._errors as error:
            if self._to_driver_error is None:
                raise
            raise self._to_driver_error(error) from error

    def cancel(self) -> None:
        """Cancel all: the connection is lost, and no request can be answered any more."""
        for task in [*self._tasks]:
            task.cancel()

    async def close(self, seconds: float = 0.0) -> None:
        """Wait a little for requests under way, then cancel them; returns when all have ended."""
        if self._tasks and seconds:
            await asyncio.wait({*self._tasks}, timeout=seconds)
        tasks = [*self._tasks]
        self.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _retrieve(task: asyncio.Task[Any]) -> None:
    """Mark the exception as seen: the caller has it, or was cancelled and needs it no more."""
    if not task.cancelled():
        task.exception()
