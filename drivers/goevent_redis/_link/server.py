"""The server at the other end of a connection, as it describes itself in its reply to HELLO.

Every connection reads it once, with the login. The drivers refuse a server that would serve them in
part only: a node of a cluster, a sentinel, or a replica.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from redis import exceptions as redis_errors

from .config import MIB, RedisConfig
from .errors import RedisLinkError, WrongServer

COMMAND_OVERHEAD_BYTES = 4096
"""Room in a command for its words beside the event."""


@dataclass(frozen=True, slots=True)
class ServerIdentity:
    """The mode and the role of a server; empty if it does not tell.

    Attributes:
        mode: "standalone", "cluster" or "sentinel".
        role: "master" or "replica".
    """

    mode: str = ""
    role: str = ""

    @classmethod
    def from_hello(cls, hello: Mapping[bytes, object]) -> ServerIdentity:
        """Read the reply to HELLO."""
        return cls(_text(hello.get(b"mode")), _text(hello.get(b"role")))


def check_identity(server: ServerIdentity, where: str) -> None:
    """Refuse a server that is no single master.

    Args:
        where: The address of the server.

    Raises:
        WrongServer: It is a node of a cluster, a sentinel, or a replica.
    """
    if server.mode == "cluster":
        raise WrongServer(
            f"{where} is a node of a Redis Cluster, which keeps only a part of the keys; give the "
            "address of a server without cluster mode"
        )
    if server.mode == "sentinel":
        raise WrongServer(
            f"{where} is a sentinel, which keeps no events; give the address of the master that "
            "it watches: redis-cli -p <port of the sentinel> SENTINEL GET-MASTER-ADDR-BY-NAME "
            "<name>"
        )
    if server.role in ("replica", "slave"):
        raise WrongServer(
            f"{where} is a replica, which takes no writes and passes nothing on to its master; "
            "give the address of the master"
        )


async def usable_event_size(config: RedisConfig, execute: Callable[..., Awaitable[Any]]) -> int:
    """Return the largest event that both the configuration and the server allow, in bytes.

    A server closes the connection at a larger command, and the events behind it are lost with it.

    Raises:
        RedisLinkError: There is no connection.
    """
    size = config.max_event_size
    if size <= MIB:
        return size  # no server can be configured for less
    try:
        for name in (b"proto-max-bulk-len", b"client-query-buffer-limit"):
            told = await execute("CONFIG", "GET", name)
            size = min(size, int(told[name]) - COMMAND_OVERHEAD_BYTES)
    except RedisLinkError:
        raise
    except (redis_errors.RedisError, KeyError, TypeError, ValueError):
        pass  # this user may not ask, or the server has no such setting
    return size


def _text(value: object) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else ""
