"""What can go wrong between this process and a Redis server, one class each.

Every class is a `redis.exceptions.ConnectionError` as well, so that code written for
`redis.asyncio` catches it. What the server *answers* with an error is a
`redis.exceptions.ResponseError`, as it is there. No text in here ever holds a password, and no
exception chain leads to one that does.
"""

from __future__ import annotations

from redis import exceptions as redis_errors
from trio import ClosedResourceError


class RedisLinkError(redis_errors.ConnectionError):
    """The root of everything that the link to a Redis server raises by itself."""

    def __init__(self, text: str) -> None:
        super().__init__(text)  # pyright: ignore[reportUnknownMemberType]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"


class ConnectRefused(RedisLinkError):
    """Nothing answers at the server's address, or the address does not exist."""


class ConnectTimeout(RedisLinkError, redis_errors.TimeoutError):
    """The connection was not ready within `RedisConfig.dial_timeout`."""


class WrongPassword(RedisLinkError, redis_errors.AuthenticationError):
    """The server refuses the user name and the password, or wants some and got none."""


class NoPermission(RedisLinkError):
    """The server's access control list forbids what opening the connection needs."""


class TLSFailure(RedisLinkError):
    """No TLS session came about: a certificate that does not verify, or a server without TLS."""


class UnsupportedServer(RedisLinkError):
    """What answers is no Redis server, or one that does not speak RESP3 (Redis before 6.0)."""


class ServerRefused(RedisLinkError):
    """The server is there but takes no connection: too many clients, still loading, no such db."""


class ProtocolBroken(RedisLinkError):
    """The server sent something that RESP3 does not allow, or a reply above the size limit."""


class ConnectionBroken(RedisLinkError):
    """The connection broke while a request was waiting for its reply.

    Attributes:
        maybe_executed: True if the server may have carried out the request; False if its bytes
            never left this process, so that sending it again cannot do it twice.
    """

    def __init__(self, text: str, *, maybe_executed: bool = True) -> None:
        super().__init__(text)
        self.maybe_executed = maybe_executed


class ReplyTimeout(ConnectionBroken, redis_errors.TimeoutError):
    """The server did not reply, or did not take the request, within the configured time."""


class NotConnected(RedisLinkError):
    """There is no connection now and the request did not wait for one; it was not sent."""


class PoolTimeout(RedisLinkError, redis_errors.TimeoutError):
    """Every connection of the pool stayed in use for as long as the request could wait."""


class LinkClosed(RedisLinkError, ClosedResourceError):
    """The link or the pool has been closed, or was never opened."""
