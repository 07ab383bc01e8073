"""The errors that all adapters raise alike, and the mapping of a client's errors to ours."""

from __future__ import annotations

from goevent import DriverConnectionError, DriverError
from goevent.drivers import explain_tls, find_tls_failure


def map_error(
    broker: str,
    error: BaseException,
    unreachable: tuple[type[BaseException], ...],
    *,
    text: str = "",
) -> DriverError:
    """Return the `DriverError` for an error of a client; a `DriverError` is returned as it is.

    Args:
        broker: The name of the broker, which begins the text.
        unreachable: The errors that become a `DriverConnectionError`.
        text: The text, in place of the client's own.
    """
    if isinstance(error, DriverError):
        return error
    kind = DriverConnectionError if isinstance(error, unreachable) else DriverError
    failure = find_tls_failure(error)
    if failure is not None:
        kind, text = DriverConnectionError, explain_tls(failure)
    # Some errors of clients have no text, and only their class names the cause.
    mapped = kind(f"{broker}: {text or str(error) or type(error).__name__}")
    mapped.__cause__ = error
    return mapped


def not_connected(broker: str) -> DriverConnectionError:
    """Return the error of a request that needs a connection while there is none."""
    return DriverConnectionError(f"{broker}: there is no connection")


def connection_lost(broker: str) -> DriverConnectionError:
    """Return the error of a request whose connection was lost; the broker may have acted on it."""
    return DriverConnectionError(f"{broker}: the connection was lost before the server replied")


def may_have_arrived(error: DriverConnectionError) -> DriverConnectionError:
    """Return the error of an event that was sent, and that the broker may have accepted."""
    uncertain = DriverConnectionError(f"{error}; the event may have arrived")
    uncertain.__cause__ = error.__cause__
    return uncertain


def no_server(broker: str, seconds: float) -> DriverConnectionError:
    """Return the error of a first connection that was not there in time."""
    return DriverConnectionError(f"{broker}: no server answers within {seconds:g} s")


def no_answer(broker: str, seconds: float) -> DriverConnectionError:
    """Return the error of a request that was not answered in time."""
    return DriverConnectionError(f"{broker}: no answer within {seconds:g} s")
