"""The errors of confluent-kafka, and their mapping."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from confluent_kafka import KafkaError, KafkaException

from goevent import DriverConnectionError, DriverError

from .limits import BatchTooLargeError

T = TypeVar("T")

LOGIN_CODES = {
    KafkaError._AUTHENTICATION,
    KafkaError.SASL_AUTHENTICATION_FAILED,
    KafkaError.UNSUPPORTED_SASL_MECHANISM,
}
TOO_LARGE_CODES = {KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE}
UNREACHABLE_CODES = {
    *LOGIN_CODES,
    KafkaError._TRANSPORT,
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError._TIMED_OUT,
    KafkaError._MSG_TIMED_OUT,
    KafkaError._TIMED_OUT_QUEUE,
    KafkaError._RESOLVE,
    KafkaError._WAIT_COORD,
    KafkaError._PURGE_QUEUE,
    KafkaError._PURGE_INFLIGHT,
    KafkaError.REQUEST_TIMED_OUT,
}


def to_driver_error(error: BaseException | KafkaError) -> DriverError:
    """Return the `DriverError` for an error of confluent-kafka.

    Args:
        error: An exception, or the `KafkaError` of a callback, which is not an exception.
    """
    if isinstance(error, DriverError):
        return error
    cause = error.args[0] if isinstance(error, KafkaException) and error.args else error
    kind: type[DriverError] = DriverError
    if isinstance(cause, KafkaError):
        text, is_unreachable = cause.str(), cause.code() in UNREACHABLE_CODES
        if cause.code() == KafkaError._FATAL:
            # The client tells the reason only once, to its log.
            text += (
                "; the client sends nothing more, for instance because this user lacks the right "
                "IdempotentWrite to the cluster (cluster authorization)"
            )
        if cause.code() in TOO_LARGE_CODES:
            kind = BatchTooLargeError
        if cause.code() in LOGIN_CODES:
            text = f"the server rejects the login: {text}"
    else:
        text = str(cause) or type(cause).__name__
        is_unreachable = isinstance(cause, (OSError, TimeoutError))
    if is_unreachable:
        kind = DriverConnectionError
    mapped = kind(f"Kafka: {text}")
    mapped.__cause__ = error if isinstance(error, BaseException) else None
    return mapped


async def call_blocking(function: Callable[..., T], *args: Any, **options: Any) -> T:
    """Call a blocking function of the client in a thread, and return its result.

    Raises:
        DriverError: It has failed.
    """
    try:
        return await asyncio.to_thread(function, *args, **options)
    except (KafkaException, OSError, TimeoutError) as error:
        raise to_driver_error(error) from error
