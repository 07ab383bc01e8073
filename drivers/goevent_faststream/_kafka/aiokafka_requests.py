"""Requests to aiokafka, and the mapping of its errors."""

from __future__ import annotations

import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

from aiokafka import errors  # type: ignore[import-untyped]
from aiokafka.conn import create_conn  # type: ignore[import-untyped]

from goevent import DriverError
from goevent.drivers import find_tls_failure

from .._adapter.connection_tasks import ConnectionTasks
from .._adapter.errors import map_error
from .._adapter.tls import probe_tls
from .client import REQUEST_SECONDS
from .limits import BatchTooLargeError, ProducerRefusedError

T = TypeVar("T")

LOGIN_ERRORS = (
    errors.AuthenticationFailedError,
    errors.AuthenticationMethodNotSupported,
    errors.IllegalSaslStateError,
    errors.SaslAuthenticationFailed,
    errors.UnsupportedSaslMechanismError,
)
UNREACHABLE = (
    *LOGIN_ERRORS,
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
SEQUENCE_ERRORS = (
    errors.OutOfOrderSequenceNumber,
    errors.UnknownProducerId,
    errors.InvalidProducerIdMapping,
    errors.InvalidProducerEpoch,
    errors.ProducerFenced,
)
TOO_LARGE = (errors.MessageSizeTooLargeError, errors.RecordListTooLargeError)
CLIENT_ERRORS = (errors.KafkaError, OSError, TimeoutError)


def to_driver_error(error: BaseException) -> DriverError:
    """Return the `DriverError` for an error of aiokafka."""
    if isinstance(error, (*TOO_LARGE, *SEQUENCE_ERRORS)):
        # A batch is out of order if the one before it was refused, or if the broker has forgotten
        # its producers.
        kind = BatchTooLargeError if isinstance(error, TOO_LARGE) else ProducerRefusedError
        refused = kind(f"Kafka: {error}")
        refused.__cause__ = error
        return refused
    text = f"the server rejects the login: {error}" if isinstance(error, LOGIN_ERRORS) else ""
    return map_error("Kafka", error, UNREACHABLE, text=text)


async def find_login_error(client: Any) -> DriverError | None:
    """Return the error of the login or of TLS, if that is why a client has found no broker.

    aiokafka logs the reason and raises an error without it, so this connects once more.
    """
    for host, port, _ in client.hosts:
        try:
            connection: Any = await create_conn(
                host,
                port,
                client_id=client._client_id,
                request_timeout_ms=client._request_timeout_ms,
                ssl_context=client._ssl_context,
                security_protocol=client._security_protocol,
                sasl_mechanism=client._sasl_mechanism,
                sasl_plain_username=client._sasl_plain_username,
                sasl_plain_password=client._sasl_plain_password,
            )
        except CLIENT_ERRORS as error:
            if isinstance(error, LOGIN_ERRORS) or find_tls_failure(error) is not None:
                return to_driver_error(error)
            continue
        connection.close()
        if client._ssl_context is not None:
            failure = await probe_tls(host, port, client._ssl_context)
            if failure is not None:
                return to_driver_error(failure)
    return None


def _hide_login(record: logging.LogRecord) -> bool:
    """Keep the request with the password out of the log; aiokafka logs requests at DEBUG."""
    arguments = record.args if isinstance(record.args, tuple) else ()
    return not any(type(each).__name__.startswith("SaslAuthenticateReq") for each in arguments)


logging.getLogger("aiokafka.conn").addFilter(_hide_login)


class AiokafkaRequests:
    """The requests of one aiokafka client; a request that connects must not be cancelled."""

    def __init__(self) -> None:
        self._tasks = ConnectionTasks("Kafka")

    async def run(self, work: Coroutine[Any, Any, T], seconds: float | None = REQUEST_SECONDS) -> T:
        """Return the result of a request.

        Args:
            seconds: How long to wait for it; it continues afterwards. None for no limit.

        Raises:
            DriverError: It has failed, or was not answered in time.
        """
        try:
            return await self._tasks.run_shielded(work, seconds)
        except DriverError:
            raise
        except Exception as error:
            # Not only its own errors: the client reads a broker's bytes without checks.
            raise to_driver_error(error) from error

    async def close(self, seconds: float) -> None:
        """Wait a little for requests under way, then cancel them."""
        await self._tasks.close(seconds)
