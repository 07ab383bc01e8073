"""The errors of confluent-kafka, and their mapping."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from confluent_kafka import KafkaError, KafkaException

from goevent import DriverConnectionError, DriverError

from .client import ProducerFailedError
from .limits import BatchTooLargeError, ProducerRefusedError

T = TypeVar("T")

LOGIN_CODES = {
    KafkaError._SSL,
    KafkaError._AUTHENTICATION,
    KafkaError.SASL_AUTHENTICATION_FAILED,
    KafkaError.UNSUPPORTED_SASL_MECHANISM,
}
SEQUENCE_CODES = {
    KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER,
    KafkaError.UNKNOWN_PRODUCER_ID,
    KafkaError.INVALID_PRODUCER_ID_MAPPING,
    KafkaError.INVALID_PRODUCER_EPOCH,
    KafkaError.PRODUCER_FENCED,
}
# A producer that fails gives its events up before it tells so.
GIVEN_UP_CODES = {KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT}
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
    KafkaError.REQUEST_TIMED_OUT,
}


def is_fatal(error: KafkaError) -> bool:
    """Return whether the client does nothing more after an error."""
    return bool(error.fatal()) or error.code() == KafkaError._FATAL


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
        if is_fatal(cause) or cause.code() in GIVEN_UP_CODES:
            kind, is_unreachable = ProducerFailedError, False
            text = f"the producer has failed: {text}"
        elif cause.code() in TOO_LARGE_CODES:
            kind = BatchTooLargeError
        elif cause.code() in SEQUENCE_CODES:
            kind = ProducerRefusedError
        if cause.code() == KafkaError._SSL:
            text = f"TLS fails: {text}"
        elif cause.code() in LOGIN_CODES:
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
