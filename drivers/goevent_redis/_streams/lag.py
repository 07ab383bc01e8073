"""The backlog of any group, found without being a member of it.

The driver calls `read_lag` for `lag`. A look at 10,000 streams takes three round trips: the names,
all streams in one pipeline of scripts, and the partitions of names that have some.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redis import exceptions as redis_errors

from goevent.drivers import Backlog

from .._event_names import is_event_name
from .._link.link import Link
from .config import MAX_PARTITIONS
from .faults import refusal
from .keys import StreamKeys
from .partitions.subscriptions import sum_backlogs
from .scripts import LAG, ScriptCall, call_many

STREAMS_PER_SCRIPT = 100
"""How many streams one script looks at: the server serves nobody else meanwhile."""


async def read_lag(link: Link, prefix: str, group: str) -> Sequence[Backlog]:
    """Return the backlog of a group for each name that it reads, replayed events included.

    Raises:
        DriverError: The server refuses it, or cannot be reached.
    """
    keys = StreamKeys(prefix, group)
    try:
        names = await _names(link, keys)
        # Each name with its stream, and with the stream of the events that are replayed.
        parts = [(name, keys.stream(name)) for name in names]
        parts += [(name, keys.replayed(name)) for name in names]
        found, partitions = await _look(link, group, parts)
        if partitions:
            parts = [
                (name, key)
                for name, count in partitions.items()
                for number in range(min(count, MAX_PARTITIONS))
                for key in (keys.stream(name, number), keys.replayed(name, partition=number))
            ]
            found += (await _look(link, group, parts))[0]
    except redis_errors.RedisError as error:
        raise refusal(error, "tell the lag of a group") from error
    return sorted(sum_backlogs(found), key=lambda backlog: backlog.event_name)


async def _names(link: Link, keys: StreamKeys) -> list[str]:
    """Return the names that were ever published, and those that the group has subscribed to."""
    published, marks = await link.pipeline([("SMEMBERS", keys.names), ("HKEYS", keys.marks)])
    for reply in (published, marks):
        if isinstance(reply, Exception):
            raise reply
    stream = keys.stream("")
    texts = [each.decode("ascii", "replace") for each in published]
    # The marks are the keys of streams, some with the number of a partition.
    marked = [each.decode("ascii", "replace") for each in marks]
    texts += [each.removeprefix(stream).partition(":")[0] for each in marked if _is_key(each, keys)]
    return sorted({text for text in texts if is_event_name(text)})


def _is_key(mark: str, keys: StreamKeys) -> bool:
    return mark.startswith(keys.stream("")) and "|" not in mark


async def _look(
    link: Link, group: str, parts: Sequence[tuple[str, str]]
) -> tuple[list[Backlog], dict[str, int]]:
    """Return the backlogs of streams, and the number of partitions of names that have some."""
    calls: list[ScriptCall] = [
        (LAG, [key for _, key in parts[at : at + STREAMS_PER_SCRIPT]], (group,))
        for at in range(0, len(parts), STREAMS_PER_SCRIPT)
    ]
    if not calls:
        return [], {}
    told: list[Any] = []
    for reply in await call_many(link, calls):
        if isinstance(reply, Exception):
            raise reply
        told += reply
    found: list[Backlog] = []
    partitions: dict[str, int] = {}
    for (name, _), each in zip(parts, told, strict=True):
        if isinstance(each, int):
            partitions[name] = each
        elif each:
            found.append(_backlog(name, *each))
    return found, partitions


def _backlog(name: str, pending: int, lag: int, pending_ms: int, waiting_ms: int) -> Backlog:
    return Backlog(
        event_name=name,
        lag=None if lag < 0 else lag,
        pending=pending,
        oldest_pending=pending_ms / 1000,
        oldest_waiting=waiting_ms / 1000,
    )
