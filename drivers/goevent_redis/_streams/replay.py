"""Replay: a group gets events again, from a stream of its own.

The originals stay where they are. Copies go to the stream `again:<group>:<name>`, which only this
group reads; its entries are deleted when they are done.
"""

from __future__ import annotations

from datetime import datetime

from redis import exceptions as redis_errors

from .._link.link import Link
from .config import range_bound
from .faults import refusal
from .keys import StreamKeys
from .partitions.partition import establish
from .scripts import REPLAY, call
from .stream import as_text

REPLAYED_PER_CALL = 500


async def create_replay_group(link: Link, key: str, group: str) -> None:
    """Create the group that reads a stream of replayed events, unless it exists."""
    try:
        await link.execute("XGROUP", "CREATE", key, group, "0", "MKSTREAM")
    except redis_errors.ResponseError as error:
        if "BUSYGROUP" not in str(error):
            raise


async def replay(
    link: Link,
    keys: StreamKeys,
    name: str,
    start: str | datetime,
    end: str | datetime | None,
    group: str,
) -> int:
    """Deliver the events of a name to a group again; return how many.

    Args:
        start: The first place: an entry id, a time, or "earliest".
        end: The last place; its event is replayed, too. None for the newest event at this time.

    Raises:
        ValueError: A place makes no sense.
        DriverError: The server refuses it, or cannot be reached.
    """
    first, last = range_bound(start, end=False), range_bound(end, end=True)
    try:
        if keys.partitions > 1:
            await establish(link, keys, name)
        done = 0
        for number in keys.numbers:
            source, target = keys.stream(name, number), keys.replayed(name, group, number)
            done += await _copy(link, source, target, first, last, group)
    except redis_errors.RedisError as error:
        raise refusal(error, f"replay {name!r}") from error
    return done


async def _copy(link: Link, source: str, target: str, first: str, last: str, group: str) -> int:
    """Copy a range of one stream to the stream of replayed events."""
    if last == "+":
        # Only up to the event that is the newest now: otherwise the loop would follow a busy
        # publisher for ever.
        newest = await link.execute("XREVRANGE", source, "+", "-", "COUNT", 1)
        if not newest:
            return 0
        last = as_text(newest[0][0])
    # The group first: its bus reads the stream as soon as it exists.
    await create_replay_group(link, target, group)
    done = 0
    while True:
        copied, reached = await call(link, REPLAY, (source, target), first, last, REPLAYED_PER_CALL)
        done += int(copied)
        if copied < REPLAYED_PER_CALL:
            return done
        first = f"({as_text(reached)}"
