"""The reader of partitions: takes entries off the streams for which this bus has a lease.

A blocking XREADGROUP is answered whenever an entry arrives, even if the lease is over by then. The
entry would belong to a frozen bus, and the next owner of the partition would skip it. So there
are two steps. A plain XREAD waits for news of all streams at once, and delivers nothing. Then a
script reads each stream that has news, if our fence still counts and the group is where we believe
it to be. While there is much to read, nothing waits: reads follow each other.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import trio

from ..._link.connection import RedisConnection
from ..context import ConsumerContext
from ..keys import RELEASED
from ..lease import Lease, fenced, fenced_by
from ..reader import (
    READ_BLOCK_SECONDS,
    READ_EVENTS,
    READ_PAUSE_SECONDS,
    Enqueue,
    OnSettled,
    StreamReader,
)
from ..scripts import PARTITION_READ, PARTITION_TAKE_OVER, ScriptCall, call_many
from ..stream import Entry, EntryId, Fields, Stream, as_text, max_entry_bytes, parse_id
from .partition import Partition

FLOW_WAIT_SECONDS = 0.02
"""How long the reader waits for room in a full stream before it watches the others for news."""


class PartitionPosition:
    """How far this bus has read one stream of a partition, under one lease.

    Attributes:
        lease: The lease.
        take_over_from: The id from which pending entries of other consumers are still to be taken
            over; empty when none is left. Until then nothing new is read.
        taken_from_others: Pending entries were read before this lease, by any consumer.
        after: The last entry that the group is known to have delivered.
        has_news: There may be entries behind it.
        highest_seen: The highest id that is known to have been delivered.
    """

    __slots__ = (
        "after",
        "has_news",
        "highest_seen",
        "lease",
        "take_over_from",
        "taken_from_others",
    )

    def __init__(self, lease: Lease, highest_seen: EntryId) -> None:
        self.lease = lease
        self.take_over_from = b"-"
        self.taken_from_others = True
        self.after = b"0-0"
        self.has_news = True
        self.highest_seen = highest_seen


class PartitionReader(StreamReader):
    """The reader of one open bus whose names have partitions."""

    def __init__(
        self,
        context: ConsumerContext,
        enqueue: Enqueue,
        on_settled: OnSettled,
        on_finished: Callable[[Entry], None],
    ) -> None:
        """Prepare to read; the arguments are those of `StreamReader`."""
        super().__init__(context, enqueue, on_settled, on_finished)
        self._partitions: dict[tuple[str, int], Partition] = {}
        self._positions: dict[Stream, PartitionPosition] = {}
        # Streams that have news and no room, and how many of their entries are held.
        self._full: dict[Stream, int] = {}
        # A full stream has settled entries since the last look: there will be room soon.
        self._flowing = False
        # How many entries may be held of each stream.
        self._quota = 1

    def add_partition(self, key: str, partition: Partition) -> None:
        """Read a partition as soon as it has a lease."""
        self._partitions[partition.name, partition.number] = partition
        self.add(key, partition.name, partition=partition.number)

    def add(
        self, key: str, name: str, *, replayed: bool = False, partition: int | None = None
    ) -> Stream:
        """Read a stream of a partition, as soon as the partition has a lease."""
        stream = super().add(key, name, replayed=replayed, partition=partition)
        if partition is not None:
            self._partitions[name, partition].add(stream)
        return stream

    def freed(self) -> None:
        """Note that an entry is no longer held: a full stream may have room again."""
        if self._full and any(self._has_room(stream) for stream in self._full):
            self.change()

    def readable(self) -> list[Stream]:
        """Return the streams that can be read at the moment: those with an open lease."""
        now = trio.current_time()
        return [
            stream
            for stream in super().readable()
            if (lease := stream.lease) is not None and lease.open_at(now)
        ]

    async def _read_on(self, connection: RedisConnection) -> None:
        up_count = self._link.up_count
        client = await connection.call("CLIENT", "ID")
        while self._goes_on(up_count):
            self._stale = False
            if await self._read_news():
                continue
            watched = {
                position: stream
                for stream in self.readable()
                if (position := self._position(stream)) is not None and not position.has_news
            }
            if self.stopped or self._stale:
                continue
            if self._flowing:
                # Ending a read that blocks takes longer than waiting for room.
                await self._wait_for_change(FLOW_WAIT_SECONDS)
                continue
            self.blocked = client
            if watched:
                await self._watch(connection, watched)
            else:
                await self._wait_for_change(READ_BLOCK_SECONDS)
            self.blocked = None
            self._end()

    async def _wait_for_change(self, seconds: float) -> None:
        self._woken = trio.Event()
        with trio.move_on_after(seconds):
            await self._rest(self._woken.wait)

    async def _watch(
        self, connection: RedisConnection, watched: dict[PartitionPosition, Stream]
    ) -> None:
        """Wait until there is news of streams that have none."""
        positions = {stream.encoded_key: position for position, stream in watched.items()}
        block_ms = round(READ_BLOCK_SECONDS * 1000)
        command: list[Any] = ["XREAD", "COUNT", 1, "BLOCK", block_ms, "STREAMS", *positions]
        command += [position.after for position in positions.values()]
        timeout = READ_BLOCK_SECONDS + connection.config.read_timeout
        reply = await connection.call(*command, timeout=timeout)
        self._succeeded()
        for key in reply or ():
            positions[key].has_news = True

    def _position(self, stream: Stream) -> PartitionPosition | None:
        """Return how far a stream is read under its present lease; None without a lease."""
        lease = stream.lease
        if lease is None:
            return None
        position = self._positions.get(stream)
        if position is None or position.lease is not lease:
            position = PartitionPosition(lease, stream.highest_id)
            self._positions[stream] = position
        return position

    # -- reading

    def _has_room(self, stream: Stream) -> bool:
        share = self._held.limit_bytes // 4
        has_bytes = not self._held.size or self._held.room_bytes >= share
        return has_bytes and self._quota - len(stream.held) >= max(1, self._quota // 4)

    async def _read_news(self) -> bool:
        """Read the streams that have news; return False if there was nothing to read."""
        wanted: list[tuple[Stream, PartitionPosition]] = []
        full: dict[Stream, int] = {}
        streams = self.readable()
        self._quota = max(1, self._held.limit // max(1, len(streams)))
        for stream in streams:
            position = self._position(stream)
            if position is None or not position.has_news:
                continue
            if not self._has_room(stream):
                full[stream] = len(stream.held)
                continue
            wanted.append((stream, position))
        self._flowing = any(self._full.get(stream) != held for stream, held in full.items())
        self._full = full
        if not wanted:
            return False
        fitting = self.fitting()
        if len(wanted) > fitting:
            # The others have their turn in a later round.
            random.shuffle(wanted)
            del wanted[fitting:]
        limits, most = self._limits(len(wanted)), max(1, fitting // len(wanted))
        reads: list[tuple[Stream, PartitionPosition, bool]] = []
        calls: list[ScriptCall] = []
        for stream, position in wanted:
            takes_over = bool(position.take_over_from)
            make = self._taking_over if takes_over else self._reading
            call = make(stream, position, min(most, self._quota - len(stream.held)), limits)
            calls.append(fenced(call, position.lease))
            reads.append((stream, position, takes_over))
        replies = await call_many(self._link, calls)
        # The scripts keep to the limits, so only many first entries of streams could be too large.
        self._trust(2 * most * len(calls))
        for (stream, position, takes_over), reply in zip(reads, replies, strict=True):
            if isinstance(reply, Exception):
                await self._refused_read(stream, position.lease, reply)
                continue
            self._succeeded()
            stream.inspect_at = -math.inf
            if takes_over:
                self._took_over(stream, position, *reply)
            else:
                self._have_read(stream, position, *reply)
        return True

    def _taking_over(
        self, stream: Stream, position: PartitionPosition, room: int, limits: tuple[int, int]
    ) -> ScriptCall:
        args = (self._keys.group, self._consumer, RELEASED, position.take_over_from, room)
        return PARTITION_TAKE_OVER, (stream.key,), (*args, *limits, *stream.held)

    def _reading(
        self, stream: Stream, position: PartitionPosition, room: int, limits: tuple[int, int]
    ) -> ScriptCall:
        args = (self._keys.group, self._consumer, position.after, room, *limits)
        return PARTITION_READ, (stream.key,), args

    def _limits(self, share: int) -> tuple[int, int]:
        """Return the largest size of a reply, one of `share`, and of an entry, in bytes."""
        config = self._link.config
        free = min(config.max_reply_size // 2, self._held.room_bytes)
        return free // share, max_entry_bytes(config)

    def _took_over(
        self,
        stream: Stream,
        position: PartitionPosition,
        taken: list[tuple[bytes, list[bytes], int, bytes]],
        gone: list[bytes],
        rest: bytes,
        last: bytes,
    ) -> None:
        """Take in the pending entries, in the order of the stream."""
        self._faults.trimmed(stream, gone)
        position.take_over_from = rest
        if position.lease.lost:
            return
        for entry_id, fields, deliveries, owner in taken:
            ours = not position.taken_from_others and as_text(owner) == self._consumer
            entry = self.intake(stream, entry_id, list(fields), int(deliveries))
            if entry is None:
                continue
            # An entry of our own was read under this lease, and the reply was lost: no listener has
            # seen it. Unless we know its id: then the group was created anew.
            isolated = as_text(owner) != RELEASED and not ours
            if ours and parse_id(entry_id) <= position.highest_seen:
                entry.shown_deliveries = max(2, entry.deliveries)
            position.highest_seen = max(position.highest_seen, parse_id(entry_id))
            self._enqueue([entry], isolated)
        if not rest:
            position.after, position.taken_from_others, position.has_news = last, False, True

    def _have_read(
        self,
        stream: Stream,
        position: PartitionPosition,
        last: bytes,
        found: list[tuple[bytes, Fields]] | None = None,
    ) -> None:
        if position.lease.lost:
            return
        if found is None:
            # The group has delivered more or less than we know: look through the pending entries.
            position.take_over_from = b"-"
            return
        self._faults.succeeded(READ_EVENTS)
        position.has_news = bool(found)
        if found:
            self._weight = self._weight * 15 // 16
        entries: list[Entry] = []
        for entry_id, fields in found:
            entry = self.intake(stream, entry_id, fields, 1)
            if entry is not None:
                if parse_id(entry_id) <= position.highest_seen:
                    # The group was created anew.
                    entry.shown_deliveries = 2
                entries.append(entry)
        if found:
            position.after = found[-1][0]
            position.highest_seen = max(position.highest_seen, parse_id(position.after))
        self._enqueue(entries, False)

    async def _refused_read(self, stream: Stream, lease: Lease, error: Exception) -> None:
        if fenced_by(error) is not None:
            # Closed here; the lease keeper notices it with the next renewal, and reports it.
            lease.until = -math.inf
        elif self._faults.is_gone(error):
            await self._faults.mend(stream)
            await trio.sleep(READ_PAUSE_SECONDS)
        else:
            raise error
