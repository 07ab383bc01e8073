"""The findings of `check` for durable events: rights, keys and settings that endanger them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from redis import exceptions as redis_errors

from goevent.drivers import Finding

from .._direct import find_direct_refusals
from .._link.link import Link
from .._link.settings import Settings, read_settings
from .._refusals import NeededCommand, find_refusals
from .config import StreamsConfig
from .faults import refusal
from .keys import RELEASED, StreamKeys
from .lag import STREAMS_PER_SCRIPT
from .scripts import INSPECT, TAIL_ENDS, ScriptCall, call_many

FULL_MEMORY_SHARE = 0.9
"""The share of `maxmemory` above which the server soon refuses events."""

EXAMPLE_NAME = "goevent.check"
"""The event name that is looked at if the program has none."""


async def find_faults(
    link: Link,
    keys: StreamKeys,
    config: StreamsConfig,
    names: Sequence[str],
    *,
    max_size: int,
) -> Sequence[Finding]:
    """Return the findings, errors first.

    Args:
        names: Names and patterns; a pattern is looked at with one name that it matches.
        max_size: The largest event that the server takes, in bytes.

    Raises:
        DriverError: There is no connection.
    """
    examples = [each.replace("**", "any").replace("*", "any") for each in names] or [EXAMPLE_NAME]
    try:
        found = await find_refusals(link, [*_needed(keys, config, [*dict.fromkeys(examples)])])
        if keys.partitions == 1 or not found:
            found += await _find_wrong_partitions(link, keys, [*dict.fromkeys(names)])
        found += await find_direct_refusals(link, examples[0])
        settings = await read_settings(
            link, ["appendonly", "appendfsync"], ["persistence", "memory"]
        )
    except redis_errors.RedisError as error:
        raise refusal(error, "answer the check") from error
    found += _setting_findings(settings, config)
    if max_size < link.config.max_event_size:
        found.append(
            _warning(
                f"the server takes events up to {max_size:,} bytes, and max_event_size is "
                f"{link.config.max_event_size:,}: raise proto-max-bulk-len and "
                "client-query-buffer-limit"
            )
        )
    return sorted(found, key=lambda each: each.severity)


# -- rights


def _needed(
    keys: StreamKeys, config: StreamsConfig, names: Sequence[str]
) -> Iterator[NeededCommand]:
    """Yield the commands that the driver sends, or that its scripts execute, for some names."""
    for at, name in enumerate(names):
        stream = keys.stream(name, None if keys.partitions == 1 else 0)
        yield NeededCommand("publish", name, ("XADD", stream, "*", "e", ""))
        if at == 0:
            yield NeededCommand("publish", name, ("SADD", keys.names, name))
        if config.group is None:
            continue
        listen: list[tuple[str | int, ...]] = [
            ("XREADGROUP", "GROUP", keys.group, "check", "STREAMS", stream, ">"),
            ("XGROUP", "CREATE", stream, keys.group, "$", "MKSTREAM"),
            ("XACK", stream, keys.group, "0-1"),
        ]
        if at == 0:
            # Only for one name: the rights of keys are the same for all commands of a name.
            listen += _listening(keys, config, name, stream)
        for words in listen:
            yield NeededCommand("listen to", name, words)


def _listening(
    keys: StreamKeys, config: StreamsConfig, name: str, stream: str
) -> Sequence[tuple[str | int, ...]]:
    replayed = keys.replayed(name, partition=None if keys.partitions == 1 else 0)
    commands: list[tuple[str | int, ...]] = [
        ("CLIENT", "ID"),
        ("EVAL", "return 1", 1, stream),
        ("EVALSHA", INSPECT.sha, 1, stream),
        ("EXISTS", stream),
        ("HGET", keys.marks, stream),
        ("HSET", keys.marks, stream, "0"),
        ("SMEMBERS", keys.names),
        ("TIME",),
        ("XADD", keys.dead, "*", "e", ""),
        ("XCLAIM", stream, keys.group, RELEASED, 0, "0-1"),
        ("XDEL", replayed, "0-1"),
        ("XINFO", "GROUPS", stream),
        ("XLEN", stream),
        ("XPENDING", stream, keys.group),
        ("XRANGE", stream, "-", "+"),
        ("XREVRANGE", stream, "+", "-"),
    ]
    if config.retention == "acked":
        commands.append(("XTRIM", stream, "MINID", "0"))
    if keys.partitions > 1:
        commands += [
            ("HSET", keys.leases(name), "0", "0"),
            ("HSET", keys.members(name), "check", "0"),
            ("SET", keys.stream(name), 1),
        ]
    return commands


# -- keys


async def _find_wrong_partitions(
    link: Link, keys: StreamKeys, names: Sequence[str]
) -> list[Finding]:
    """Find the names that are kept in another number of partitions than this bus expects."""
    exact = [name for name in names if "*" not in name]
    calls: list[ScriptCall] = [
        (TAIL_ENDS, [keys.stream(name) for name in exact[at : at + STREAMS_PER_SCRIPT]], ())
        for at in range(0, len(exact), STREAMS_PER_SCRIPT)
    ]
    found: list[Finding] = []
    replies = await call_many(link, calls) if calls else []
    told = [each for reply in replies if not isinstance(reply, Exception) for each in reply]
    # With an error among them, the rights were found missing already.
    if len(told) != len(exact):
        return []
    for name, end in zip(exact, told, strict=True):
        kept = end if isinstance(end, int) else 1 if end else keys.partitions
        if kept == keys.partitions:
            continue
        parts = "a single stream" if kept == 1 else f"{kept} partitions"
        where = f"in {parts}" if kept else "under a key that another program uses"
        text = (
            f"{name!r} is kept {where}, and this bus has partitions={keys.partitions}: all that "
            "use it need the same number"
        )
        found.append(Finding(severity="error", text=text))
    return found


# -- settings


def _setting_findings(settings: Settings, config: StreamsConfig) -> Iterator[Finding]:
    no_file = settings.text("aof_enabled") == "0" or settings.text("appendonly") == "no"
    if no_file:
        yield _warning(
            "the server has no append-only file: a crash of it loses durable events; set "
            "appendonly yes"
        )
    elif settings.text("appendfsync") == "no":
        yield _warning(
            "the server leaves it to the system when events reach the disk: a power failure loses "
            "those of the last half minute; set appendfsync everysec, or always"
        )
    if settings.text("aof_last_write_status") == "err":
        yield Finding(
            severity="error",
            text="the server cannot write its append-only file: is the disk full?",
        )
    policy, limit = settings.text("maxmemory_policy"), settings.number("maxmemory") or 0
    if limit and policy.startswith("allkeys"):
        yield _warning(
            f"the server removes any key when its memory is full, streams of events among them "
            f"(maxmemory-policy {policy}): set maxmemory-policy noeviction"
        )
    elif limit and policy.startswith("volatile") and config.deduplicate:
        yield _warning(
            f"the server forgets the handle ids of finished events when its memory is full "
            f"(maxmemory-policy {policy}), so deduplicate may miss some: set noeviction"
        )
    used = settings.number("used_memory")
    if limit and used is not None and used > limit * FULL_MEMORY_SHARE:
        yield _warning(
            f"the server uses {used / limit:.0%} of its maxmemory, and refuses events when it is "
            "full: raise it, or trim the streams (retention, maxlen, max_age)"
        )


def _warning(text: str) -> Finding:
    return Finding(severity="warning", text=text)
