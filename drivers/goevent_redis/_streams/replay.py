"""Once more: events that one group is to get again, in a stream of their own."""

from __future__ import annotations

from datetime import datetime

from redis import exceptions as redis_errors

from .._link.link import Link
from .config import bound
from .faults import refusal
from .keys import Keys
from .partitions.partitions import establish
from .scripts import REPLAY, call
from .stream import text

PAGE = 500


async def ready_again(link: Link, key: str, group: str) -> None:
    """See that there is a group to read a stream of what comes once more."""
    try:
        await link.execute("XGROUP", "CREATE", key, group, "0", "MKSTREAM")
    except redis_errors.ResponseError as error:
        if "BUSYGROUP" not in str(error):
            raise


async def replay(
    link: Link,
    keys: Keys,
    name: str,
    start: str | datetime,
    end: str | datetime | None,
    group: str,
) -> int:
    """Have a group get the events of a name again, from a place to another, both included.

    Raises:
        ValueError: A place makes no sense.
        DriverError: The server refuses it, or cannot be reached.
    """
    begin, until = bound(start, end=False), bound(end, end=True)
    try:
        if keys.partitions > 1:
            await establish(link, keys, name)
        done = 0
        for number in keys.numbers:
            source, again = keys.stream(name, number), keys.again(name, group, number)
            done += await _replay(link, source, again, begin, until, group)
    except redis_errors.RedisError as error:
        raise refusal(error, f"replay {name!r}") from error
    return done


async def _replay(link: Link, source: str, again: str, begin: str, until: str, group: str) -> int:
    """Copy a range of one stream to where a group gets it once more."""
    if until == "+":  # not what comes meanwhile
        newest = await link.execute("XREVRANGE", source, "+", "-", "COUNT", 1)
        if not newest:
            return 0
        until = text(newest[0][0])
    await ready_again(link, again, group)
    done = 0
    while True:
        count, last = await call(link, REPLAY, (source, again), begin, until, PAGE)
        done += int(count)
        if count < PAGE:
            return done
        begin = f"({text(last)}"
