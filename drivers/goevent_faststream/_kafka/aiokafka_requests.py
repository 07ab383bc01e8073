"""Requests to aiokafka, and the mapping of its errors."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

from aiokafka import errors  # type: ignore[import-untyped]

from goevent import DriverError

from .._adapter.connection_tasks import ConnectionTasks
from .._adapter.errors import map_error
from .client import REQUEST_SECONDS

T = TypeVar("T")

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
CLIENT_ERRORS = (errors.KafkaError, OSError, TimeoutError)


def to_driver_error(error: BaseException) -> DriverError:
    """Return the `DriverError` for an error of aiokafka."""
    return map_error("Kafka", error, UNREACHABLE)


class AiokafkaRequests:
    """The requests of one aiokafka client; a request that connects must not be cancelled."""

    def __init__(self) -> None:
        self._tasks = ConnectionTasks("Kafka")

    async def run(self, work: Coroutine[Any, Any, T], seconds: float = REQUEST_SECONDS) -> T:
        """Return the result of a request.

        Raises:
            DriverError: It has failed, or was not answered in time.
        """
        try:
            return await self._tasks.run_shielded(work, seconds)
        except CLIENT_ERRORS as error:
            raise to_driver_error(error) from error

    async def close(self, seconds: float) -> None:
        """Wait a little for requests under way, then cancel them."""
        await self._tasks.close(seconds)
