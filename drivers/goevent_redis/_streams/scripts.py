"""The Lua scripts, each of which Redis runs in one step, and how they are called.

Each script is a file in `lua/`; its first comment tells its keys, arguments and reply. A line
`-- include x` stands for the file `lua/shared/x.lua`. Files are read once, at import.

A script checks the owner of an entry before it changes the entry: a plain XACK or XCLAIM succeeds
for any consumer, even for one that was frozen while another consumer took the entry over. The size
of a reply is limited in bytes, because a backlog of large events can exceed the limit of a
connection.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from hashlib import sha1
from importlib.resources import files
from typing import Any

from redis import exceptions as redis_errors

from .._link.link import Link
from .._link.resp import Encodable

_FOLDER = files("goevent_redis._streams") / "lua"
_INCLUDE = re.compile(r"^-- include (\w+)$", re.MULTILINE)


class LuaScript:
    """A script, and the hash with which a server that knows the script runs it."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.sha = sha1(source.encode(), usedforsecurity=False).hexdigest()


ScriptCall = tuple[LuaScript, Sequence[Encodable], Sequence[Encodable]]
"""A script, its keys and its arguments."""


def read_lua(path: str) -> str:
    """Return the text of a file in `lua/`, with the files that it includes."""
    text = _FOLDER.joinpath(*f"{path}.lua".split("/")).read_text(encoding="utf-8")
    return _INCLUDE.sub(lambda include: read_lua(f"shared/{include[1]}").rstrip(), text)


def _script(name: str) -> LuaScript:
    return LuaScript(read_lua(name))


ACKNOWLEDGE = _script("acknowledge")
CLAIM = _script("claim")
DEAD_LETTER = _script("dead_letter")
ESTABLISH = _script("establish")
HEARTBEAT = _script("heartbeat")
INSPECT = _script("inspect")
JOIN = _script("join")
LAG = _script("lag")
LEAVE = _script("leave")
LIST_DEAD_LETTERS = _script("list_dead_letters")
MEND = _script("mend")
RECOVER = _script("recover")
RELEASE = _script("release")
REMOVE_SILENT_CONSUMERS = _script("remove_silent_consumers")
REPLAY = _script("replay")
REPLAY_DEAD_LETTER = _script("replay_dead_letter")
TAIL = _script("tail")
TAIL_ENDS = _script("tail_ends")

PARTITION_COUNT_DELIVERY = _script("partition_count_delivery")
PARTITION_DROP_LEASE = _script("partition_drop_lease")
PARTITION_RELEASE = _script("partition_release")
PARTITION_QUIT = _script("partition_quit")
PARTITION_READ = _script("partition_read")
PARTITION_RENEW = _script("partition_renew")
PARTITION_TAKE_OVER = _script("partition_take_over")


@cache
def behind_fence(script: LuaScript) -> LuaScript:
    """Return a script that checks the fence of a lease first; see `lua/shared/fence.lua`."""
    return LuaScript(read_lua("shared/fence") + script.source)


async def call_many(
    link: Link, calls: Sequence[ScriptCall], *, first: Sequence[tuple[Encodable, ...]] = ()
) -> list[Any]:
    """Call scripts in one pipeline; errors of the server stand in the list of replies.

    Args:
        first: Commands that are sent before; their replies are dropped.

    Raises:
        RedisLinkError: There is no connection.
    """
    hashed = [("EVALSHA", s.sha, len(keys), *keys, *args) for s, keys, args in calls]
    replies = (await link.pipeline([*first, *hashed]))[len(first) :]
    # A server forgets its scripts when it restarts, or is told to.
    unknown = [
        at for at, reply in enumerate(replies) if isinstance(reply, redis_errors.NoScriptError)
    ]
    if unknown:
        # With the source the server learns the script for the next time.
        whole = [
            ("EVAL", s.source, len(keys), *keys, *args)
            for s, keys, args in (calls[at] for at in unknown)
        ]
        for at, reply in zip(unknown, await link.pipeline(whole), strict=True):
            replies[at] = reply
    return replies


async def call(link: Link, script: LuaScript, keys: Sequence[Encodable], *args: Encodable) -> Any:
    """Call one script.

    Raises:
        redis.exceptions.RedisError: It failed, or there is no connection.
    """
    (reply,) = await call_many(link, [(script, keys, args)])
    if isinstance(reply, Exception):
        raise reply
    return reply
