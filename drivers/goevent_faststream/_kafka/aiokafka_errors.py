"""The errors of aiokafka, and their mapping."""

from __future__ import annotations

from aiokafka import errors  # type: ignore[import-untyped]

from goevent import DriverError

from .._adapter.errors import map_error

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
