"""The tail of streams: the events that are published from now on, read without a group.

The driver runs `StreamTail.show_events` for each `tail`. It owns one connection for the reads that
block; its other commands go over the link of the bus.

Theory of operation: XREAD with BLOCK waits for the next entry of any stream, and brings the first
one of each stream that has some. Its reply has no limit in bytes, so it only wakes the tail: a
script then reads the rest of these streams, up to a limit. After a lost connection the script reads
all streams first. The reader is awaited for each event, so the server keeps what it has not read.

A stream that appears later is found among the names that publishers keep, or at its key if the tail
is for one name. It is read from the moment in which the tail began.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import trio
from redis import exceptions as redis_errors

from goevent import compile_pattern
from goevent.drivers import TailChannel, TailedEvent, jittered

from .._event_names import is_event_name
from .._link.connection import RedisConnection
from .._link.errors import LASTING_ERRORS, LinkClosed, RedisLinkError
from .._link.link import Link
from .._link.pool import Pool
from .._link.server import check_identity
from .config import LATEST_SEQUENCE, MAX_PARTITIONS
from .faults import refusal
from .keys import StreamKeys
from .lag import STREAMS_PER_SCRIPT
from .scripts import TAIL, TAIL_ENDS, ScriptCall, call_many
from .stream import as_text, max_entry_bytes, parse_id

LOOK_INTERVAL_SECONDS = 0.5
"""How often the tail looks for new streams. A read blocks for as long, if nothing comes."""

STREAMS_PER_READ = 500
"""How many streams one script reads, if most of them have nothing new."""

MAX_REPLY_BYTES = 1 << 18
"""The size from which on a reply is full: the replies to the other tasks wait behind it."""

MAX_PAUSE_SECONDS = 0.8
"""The longest pause before another connection is opened."""

LOOKS_PER_FULL_READ = 8
"""After how many looks the names are read although their number is the same as before."""

FIRST_ID = b"0-0"


class StreamTail:
    """One tail.

    Args:
        link: The link of the open bus.
        pool: Opens the connection for the reads that block.
        prefix: Precedes every key.
        pattern: An event name or a pattern.

    Raises:
        ValueError: The pattern makes no sense.
    """

    def __init__(self, link: Link, pool: Pool, prefix: str, pattern: str) -> None:
        self._link = link
        self._pool = pool
        self._keys = StreamKeys(prefix, "")
        self._pattern = pattern
        self._matches = compile_pattern(pattern)
        self._is_exact = "*" not in pattern
        # The id of the last entry that was read of each stream, and the name of its events.
        self._last: dict[bytes, bytes] = {}
        self._names: dict[bytes, str] = {}
        # The same ids, of streams that have to be found again.
        self._seen: dict[bytes, bytes] = {}
        # The names whose streams are known.
        self._found: set[str] = set()
        self._names_seen = self._looks = 0
        # The id behind which streams are read that appear later; None before the first look.
        self._began: bytes | None = None

    async def show_events(self, channel: TailChannel, started: Callable[[], None]) -> None:
        """Show events, until cancelled.

        Raises:
            DriverError: The server refuses it, or the bus has ended.
        """
        try:
            await self._look()
            started()
            attempt = 0
            while True:
                try:
                    await self._connect_and_read(channel)
                    attempt = 0
                except (LinkClosed, *LASTING_ERRORS):
                    raise
                except RedisLinkError:
                    # The bus reports the lost connection.
                    attempt += 1
                await trio.sleep(jittered(min(0.05 * 2 ** min(attempt, 5), MAX_PAUSE_SECONDS)))
                await self._link.ready()
        except redis_errors.RedisError as error:
            raise refusal(error, f"show the events of {self._pattern!r}") from error

    async def _connect_and_read(self, channel: TailChannel) -> None:
        """Read over one connection, until it is lost or the keys have changed their types."""
        try:
            async with self._pool.further_connection() as connection:
                check_identity(connection.server, self._link.config.where())
                await self._read_rest(channel)
                await self._follow(connection, channel)
        except redis_errors.ResponseError as error:
            if not str(error).startswith("WRONGTYPE"):
                raise
            # Another program, or a bus with another number of partitions, has replaced a key.
            self._seen.update(self._last)
            self._found.clear()
            self._last.clear()
            self._names_seen = 0

    async def _follow(self, connection: RedisConnection, channel: TailChannel) -> None:
        look_at = trio.current_time() + LOOK_INTERVAL_SECONDS
        while True:
            if trio.current_time() >= look_at:
                await self._look()
                look_at = trio.current_time() + LOOK_INTERVAL_SECONDS
            if not self._last:
                await trio.sleep(LOOK_INTERVAL_SECONDS)
                continue
            block_ms = round(LOOK_INTERVAL_SECONDS * 1000)
            command = ("XREAD", "COUNT", 1, "BLOCK", block_ms, "STREAMS")
            reply = await connection.call(
                *command,
                *self._last.keys(),
                *self._last.values(),
                timeout=LOOK_INTERVAL_SECONDS + connection.config.read_timeout,
            )
            if not reply:
                continue
            for key, entries in reply.items():
                await self._show(channel, key, entries)
            await self._read(channel, [*reply])

    # -- reading

    async def _read_rest(self, channel: TailChannel) -> None:
        """Read all streams to their ends."""
        while await self._read(channel, [*self._last]):
            pass

    async def _read(self, channel: TailChannel, keys: Sequence[bytes]) -> int:
        """Read some of the entries that streams have; return how many."""
        total = 0
        for at in range(0, len(keys), STREAMS_PER_READ):
            part = keys[at : at + STREAMS_PER_READ]
            limits = MAX_REPLY_BYTES, max_entry_bytes(self._link.config)
            calls: list[ScriptCall] = [(TAIL, part, [*limits, *(self._last[key] for key in part)])]
            (reply,) = await call_many(self._link, calls)
            if isinstance(reply, Exception):
                raise reply
            for key, entries in zip(part, reply, strict=True):
                await self._show(channel, key, entries)
                total += len(entries)
        return total

    async def _show(self, channel: TailChannel, key: bytes, entries: Sequence[Any]) -> None:
        name = self._names[key]
        for entry_id, fields in entries:
            await channel.put(_tailed(name, entry_id, fields))
            # Only now: a cancelled or broken read shows the entry again, and loses none.
            self._last[key] = entry_id

    # -- finding streams

    async def _look(self) -> None:
        """Look for streams that are not known yet."""
        if self._began is None:
            seconds, microseconds = await self._link.execute("TIME")
            milliseconds = int(seconds) * 1000 + int(microseconds) // 1000
            began = f"{milliseconds - 1}-{LATEST_SEQUENCE}".encode()
            await self._find(await self._new_names(), None)
            self._began = began
        else:
            await self._find(await self._new_names(), self._began)

    async def _new_names(self) -> list[str]:
        if self._is_exact:
            return [] if self._pattern in self._found else [self._pattern]
        count = await self._link.execute("SCARD", self._keys.names)
        self._looks += 1
        if count == self._names_seen and self._looks % LOOKS_PER_FULL_READ:
            return []
        known = await self._link.execute("SMEMBERS", self._keys.names)
        self._names_seen = count
        names = (each.decode("ascii", "replace") for each in known)
        return [
            name
            for name in names
            if name not in self._found and self._matches(name) and is_event_name(name)
        ]

    async def _find(self, names: Sequence[str], begin: bytes | None) -> None:
        """Read the streams of names from now on.

        Args:
            begin: The id behind which the streams are read; None for their ends.
        """
        ends = await self._ends([self._keys.stream(name) for name in names])
        partitions: list[tuple[str, str]] = []
        for name, end in zip(names, ends, strict=True):
            if isinstance(end, int):
                numbers = range(min(end, MAX_PARTITIONS))
                partitions += [(name, self._keys.stream(name, number)) for number in numbers]
            elif end:
                self._add(name, self._keys.stream(name), end, begin)
            else:
                # There is no such key yet.
                self._names_seen = 0
        for (name, key), end in zip(
            partitions, await self._ends([key for _, key in partitions]), strict=True
        ):
            self._add(name, key, end if isinstance(end, bytes) and end else FIRST_ID, begin)

    def _add(self, name: str, key: str, end: bytes, begin: bytes | None) -> None:
        self._found.add(name)
        self._names[key.encode()] = name
        self._last[key.encode()] = self._seen.get(key.encode(), end if begin is None else begin)

    async def _ends(self, keys: Sequence[str]) -> list[Any]:
        calls: list[ScriptCall] = [
            (TAIL_ENDS, keys[at : at + STREAMS_PER_SCRIPT], ())
            for at in range(0, len(keys), STREAMS_PER_SCRIPT)
        ]
        found: list[Any] = []
        if calls:
            for reply in await call_many(self._link, calls):
                if isinstance(reply, Exception):
                    raise reply
                found += reply
        return found


def _tailed(name: str, entry_id: bytes, fields: Sequence[bytes]) -> TailedEvent:
    milliseconds = parse_id(entry_id)[0]
    try:
        time = datetime.fromtimestamp(milliseconds / 1000, UTC)
    except (OverflowError, ValueError, OSError):
        time = None  # any program may choose the id of an entry
    return TailedEvent(event_name=name, data=_data_of(fields), id=as_text(entry_id), time=time)


def _data_of(fields: Sequence[bytes]) -> bytes:
    """Return the bytes of the event; empty if the entry has none, or is too large to be one."""
    names: Iterable[int] = range(0, len(fields) - 1, 2)
    return next((fields[at + 1] for at in names if fields[at] == b"e"), b"")
