"""The errors between this process and a Redis server, with one class for each cause.

Every class is a `redis.exceptions.ConnectionError` as well, so code for `redis.asyncio` catches it.
An error that the server *answers* is a `redis.exceptions.ResponseError`, as in `redis.asyncio`. No
error text here has a password in it, and neither has an exception in its chain.
"""

from __future__ import annotations

import pickle
from typing import Any

from redis import exceptions as redis_errors
from trio import ClosedResourceError
from trio.lowlevel import in_trio_task

NEEDS_TRIO = (
    "goevent_redis runs on Trio: start the program with `trio.run(main)` or "
    '`anyio.run(main, backend="trio")`; redis.asyncio is the client for asyncio'
)
"""The message for a caller that is not a Trio task, such as a task of asyncio."""


def require_trio() -> None:
    """Refuse a caller that is not a Trio task.

    Raises:
        RuntimeError: No Trio task is running on this thread.
    """
    if not in_trio_task():
        raise RuntimeError(NEEDS_TRIO)


class RedisLinkError(redis_errors.ConnectionError):
    """The base of all errors that the link and the pool raise by themselves."""

    def __init__(self, text: str) -> None:
        super().__init__(text)  # pyright: ignore[reportUnknownMemberType]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        # Python's own way loses the cause, and calls `__init__`.
        cause = self.__cause__
        data, text = b"", type(cause).__name__
        try:
            text += f": {cause}"
            data = pickle.dumps(cause, pickle.HIGHEST_PROTOCOL)
        except Exception:  # noqa: BLE001, S110 - the cause is hostile: its name has to do
            pass
        return restore_link_error, (type(self), self.args, {**vars(self)}, data, text)


def restore_link_error(
    cls: type[RedisLinkError],
    args: tuple[Any, ...],
    attributes: dict[str, Any],
    cause: bytes,
    text: str,
) -> RedisLinkError:
    """Return a pickled error again; `pickle` calls it. A cause that it cannot read becomes text."""
    error = cls.__new__(cls, *args)
    vars(error).update(attributes)
    try:
        error.__cause__ = pickle.loads(cause)  # noqa: S301 - as trusted as the pickle around it
    except Exception:  # noqa: BLE001 - the code of the cause runs, and may raise anything
        error.__cause__ = Exception(text)
    return error


class ConnectRefused(RedisLinkError):
    """Nothing answers at the server's address, or the address does not exist."""


class ConnectTimeout(RedisLinkError, redis_errors.TimeoutError):
    """The connection was not ready within `RedisConfig.dial_timeout`."""


class WrongPassword(RedisLinkError, redis_errors.AuthenticationError):
    """The server refuses the user name and the password, or requires them and got none."""


class NoPermission(RedisLinkError):
    """The server's access control list forbids a command that opening a connection needs."""


class TLSFailure(RedisLinkError):
    """The TLS handshake failed: the certificate does not verify, or the server has no TLS."""


class UnsupportedServer(RedisLinkError):
    """The server is not a Redis server, or does not speak RESP3 (Redis before 6.0)."""


class WrongServer(RedisLinkError):
    """The server is a node of a cluster, a sentinel or a replica; the drivers need a master."""


class ServerRefused(RedisLinkError):
    """The server takes no connection: too many clients, still loading, no such database."""


class ProtocolBroken(RedisLinkError):
    """The server sent bytes that RESP3 does not allow, or a reply above the size limit."""


class ConnectionBroken(RedisLinkError):
    """The connection broke while a request was waiting for its reply.

    Attributes:
        maybe_executed: True if the server may have executed the request. False if its bytes never
            left this process: it can be sent again without being executed twice.
    """

    def __init__(self, text: str, *, maybe_executed: bool = True) -> None:
        super().__init__(text)
        self.maybe_executed = maybe_executed


class ReplyTimeout(ConnectionBroken, redis_errors.TimeoutError):
    """The server did not reply, or did not accept the request, within the configured time."""


class NotConnected(RedisLinkError):
    """There is no connection, and none came while the request waited; it was not sent."""


class PoolTimeout(RedisLinkError, redis_errors.TimeoutError):
    """All connections of the pool stayed in use for as long as the caller wanted to wait."""


class LinkClosed(RedisLinkError, ClosedResourceError):
    """The link or the pool is closed, or was never opened."""


LASTING_ERRORS = (WrongPassword, NoPermission, UnsupportedServer)
"""The errors of a connection that another attempt cannot mend."""


def shown_cause(error: Exception) -> Exception | None:
    """Return the cause of the error that a driver raises if it cannot connect, without its frames.

    If nothing answers, there is none: the text says everything.
    """
    if isinstance(error, ConnectRefused):
        return None
    return error.with_traceback(None)
