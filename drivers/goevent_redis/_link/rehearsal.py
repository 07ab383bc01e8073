"""The rehearsal: which commands would the server refuse, without executing one.

The drivers' `check` calls `rehearse`. A transaction is the stage: between MULTI and DISCARD the
server checks the rights and the state of the server for each command, and executes none. This needs
a connection of its own, because the commands would be executed if MULTI itself was refused. For a
user that may not use transactions, `ACL DRYRUN` answers, if the user may ask for that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from redis import exceptions as redis_errors

from .connection import RedisConnection, open_connection
from .link import Link
from .replies import whole_text
from .resp import Encodable

COMMANDS_PER_TRANSACTION = 500

RehearsedCommand: TypeAlias = tuple[Encodable, ...]


async def rehearse(link: Link, commands: Sequence[RehearsedCommand]) -> list[str | None] | None:
    """Return for each command the reason why the server would refuse it, or None.

    Returns:
        None if this user may not ask at all.

    Raises:
        RedisLinkError: There is no connection.
    """
    connection = await open_connection(link.config)
    try:
        try:
            return await _in_transactions(connection, commands)
        except redis_errors.NoPermissionError:
            return await _by_dry_runs(connection, commands)
    except redis_errors.NoPermissionError:
        return None
    finally:
        await connection.aclose()


async def _in_transactions(
    connection: RedisConnection, commands: Sequence[RehearsedCommand]
) -> list[str | None]:
    found: list[str | None] = []
    for at in range(0, len(commands), COMMANDS_PER_TRANSACTION):
        # Alone, and first: nothing follows if it is refused.
        await connection.call("MULTI")
        replies = await connection.call_many(*commands[at : at + COMMANDS_PER_TRANSACTION])
        found += map(_reason, replies)
        await connection.call("DISCARD")
    return found


async def _by_dry_runs(
    connection: RedisConnection, commands: Sequence[RehearsedCommand]
) -> list[str | None]:
    user = await connection.call("ACL", "WHOAMI")
    found: list[str | None] = []
    for at in range(0, len(commands), COMMANDS_PER_TRANSACTION):
        part = commands[at : at + COMMANDS_PER_TRANSACTION]
        replies = await connection.call_many(*(("ACL", "DRYRUN", user, *each) for each in part))
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
            found.append(None if reply == b"OK" else f"NOPERM {_text(reply)}")
    return found


def _reason(reply: Any) -> str | None:
    return whole_text(reply) if isinstance(reply, Exception) else None


def _text(reply: Any) -> str:
    return reply.decode(errors="replace") if isinstance(reply, bytes) else str(reply)
