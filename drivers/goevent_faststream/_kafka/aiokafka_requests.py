"""What is asked of aiokafka, and what its errors are to us."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from aiokafka import errors  # type: ignore[import-untyped]

from goevent import DriverConnectionError, DriverError

T = TypeVar("T")

ANSWER = 5.0  # seconds that one request may take
UNREACHABLE = (
    errors.KafkaConnectionError,
    errors.NodeNotReadyError,
    errors.RequestTimedOutError,
    errors.KafkaTimeoutError,
    errors.NoBrokersAvailable,
    errors.StaleMetadata,
    errors.CoordinatorNotAvailableError,
    OSError,
    TimeoutError,
)
FAILURES = (errors.KafkaError, OSError, TimeoutError)


def to_driver_error(error: BaseException) -> DriverError:
    """Return the error of the contract for one of aiokafka; one of the contract as it is."""
    if isinstance(error, DriverError):
        return error
    kind = DriverConnectionError if isinstance(error, UNREACHABLE) else DriverError
    mapped = kind(f"Kafka: {str(error) or type(error).__name__}")
    mapped.__cause__ = error
    return mapped


class Requests:
    """What is asked of aiokafka: it goes on if nobody waits any more.

    A request may be what connects, and one that is cancelled then leaves its socket behind.
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    async def ask(self, work: Coroutine[Any, Any, T], patience: float = ANSWER) -> T:
        """Return what the client returns.

        Raises:
            DriverError: it has failed, or was not there in time.
        """
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        await asyncio.wait({task}, timeout=patience)
        if not task.done():
            raise DriverConnectionError(f"Kafka: no answer within {patience:g} s")
        try:
            return task.result()
        except FAILURES as error:
            raise to_driver_error(error) from error
        except asyncio.CancelledError:
            raise DriverConnectionError(
                "Kafka: the connection was closed before the answer"
            ) from None

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # who waits has it

    async def end(self, patience: float) -> None:
        """Let what is under way end, but not for longer than that."""
        if self._tasks:
            await asyncio.wait({*self._tasks}, timeout=patience)
        tasks = [*self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
