"""The errors of RabbitMQ's client, and the mapping of each to a `DriverError`."""

from __future__ import annotations

import re

from aio_pika.exceptions import AMQPError, InvalidFrameError, ProbableAuthenticationError
from aiormq.exceptions import ChannelClosed
from pamqp.exceptions import PAMQPException

from goevent import DriverConnectionError, DriverError

from .._adapter.connectivity import REPLY_SECONDS
from .._adapter.errors import map_error, no_answer

# aio-pika and aiormq also raise RuntimeError, for instance on a closed channel.
RABBIT_ERRORS = (AMQPError, PAMQPException, OSError, RuntimeError)

# The server refuses a request and closes its channel; the same request would be refused again.
REFUSALS = (ChannelClosed,)

# The text of `describe_close` in the client's error for a connection that the server refuses.
_REFUSED_CONNECTION = re.compile(r"<Connection\.Close (.*)>")


def to_driver_error(error: BaseException) -> DriverError:
    """Return the `DriverError` for an error of the client; a `DriverError` is returned as it is."""
    if isinstance(error, TimeoutError):
        refusal: DriverError = no_answer("RabbitMQ", REPLY_SECONDS)
    elif isinstance(error, ProbableAuthenticationError):
        refusal = DriverConnectionError("RabbitMQ: the server rejects the login")
    elif isinstance(error, InvalidFrameError):
        refusal = DriverConnectionError(_handshake_text(error))
    else:
        return map_error("RabbitMQ", error, (OSError,))
    refusal.__cause__ = error
    return refusal


def _handshake_text(error: InvalidFrameError) -> str:
    """Return the text for the client's error when the handshake gets an unexpected frame."""
    refused = _REFUSED_CONNECTION.search(str(error))
    if refused is None:
        return f"RabbitMQ: the server breaks the handshake: {error}"
    reason = refused[1]
    # Other reasons are the server's own, as a virtual host that is down.
    if reason.startswith("NOT_ALLOWED"):
        return f"RabbitMQ: this user has no access to the virtual host: {reason}"
    return f"RabbitMQ: the server refuses the connection: {reason}"


def is_refused_connection(error: BaseException | None) -> bool:
    """Tell whether the server refused the login or the virtual host, and will do so again."""
    return isinstance(error, ProbableAuthenticationError | InvalidFrameError)
