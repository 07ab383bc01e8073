"""The tasks of a connection: they may outlive the call that started them, but not the connection.

Clients of brokers handle cancellation badly: a cancelled request may close a channel, stop a reader
or leave a socket behind. So such a request runs in a task of its own, and a cancelled caller only
stops waiting for it. The connections to NATS, RabbitMQ and MQTT and aiokafka's clients each own one
`ConnectionTasks`, and decide themselves when a connection is over: NATS when it is lost, the others
when the bus closes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from .errors import connection_lost, no_answer

T = TypeVar("T")


class ConnectionTasks:
    """Starts tasks and cancels all of them at the end of their connection.

    Args:
        broker: The name of the broker in error texts.
    """

    def __init__(self, broker: str) -> None:
        self._broker = broker
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run a coroutine in a task of its own."""
        task = asyncio.get_running_loop().create_task(work)
        # The event loop holds only weak references to its tasks.
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def run_shielded(self, work: Coroutine[Any, Any, T], seconds: float | None = None) -> T:
        """Await a coroutine that continues if the caller is cancelled.

        Args:
            seconds: How long to wait for it. It continues afterwards, too.

        Raises:
            DriverConnectionError: `cancel` was called first, or there was no answer in time. The
                broker may have got the request.
        """
        task = self.start(work)
        task.add_done_callback(_retrieve_exception)
        done, _ = await asyncio.wait({task}, timeout=seconds)
        if not done and seconds is not None:
            raise no_answer(self._broker, seconds)
        if task.cancelled():
            raise connection_lost(self._broker)
        return task.result()

    def cancel(self) -> None:
        """Cancel all tasks."""
        for task in [*self._tasks]:
            task.cancel()

    async def close(self, seconds: float = 0.0) -> None:
        """Wait a little for the tasks, then cancel them; returns when all have ended."""
        if self._tasks and seconds:
            await asyncio.wait({*self._tasks}, timeout=seconds)
        tasks = [*self._tasks]
        self.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _retrieve_exception(task: asyncio.Task[Any]) -> None:
    """Retrieve the exception of a task, or asyncio logs it if the caller was cancelled."""
    if not task.cancelled():
        task.exception()
