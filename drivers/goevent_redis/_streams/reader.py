"""The reader: takes entries off the streams, in batches, on a connection of its own.

An actor of the driver. Redis ends a blocking read, not the reader: a read that is cancelled here
would swallow the next entry, which the server would deliver and no bus would receive. `nudge` asks
Redis with `CLIENT UNBLOCK` to end it. Whenever a connection was lost, the reader looks through its
own pending entries for those that were delivered to that connection.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import trio
from redis import exceptions as redis_errors

from goevent.drivers import Settlement

from .._link.connection import RedisConnection
from .._link.errors import RedisLinkError
from .._link.resp import Encodable
from .context import ConsumerContext
from .scripts import RECOVER, call
from .stream import Entry, Fields, Stream, max_entry_bytes, parse_id

READ_BLOCK_SECONDS = 2.0
"""How long a read waits at the server."""

READ_PAUSE_SECONDS = 0.05
"""The pause before a read is tried again after an error; it doubles."""

MAX_READ_PAUSE_SECONDS = 1.0
NUDGE_PAUSE_SECONDS = 0.01
"""The pause between two attempts to end a read."""

READ_EVENTS = "read events"
"""The action of the reader in reports."""

Enqueue = Callable[[list[Entry], bool], None]
"""Takes entries on their way to the listeners, and whether they run isolated."""

OnSettled = Callable[[Entry, Settlement], None]


class StreamReader:
    """The reader of one open bus.

    Attributes:
        streams: The streams that it reads, by key.
        ever_read: All streams that it has read at some time, by key.
        blocked: The client id of the connection on which a read may wait.
        stopped: Nothing more is read.
    """

    def __init__(
        self,
        context: ConsumerContext,
        enqueue: Enqueue,
        on_settled: OnSettled,
        on_finished: Callable[[Entry], None],
    ) -> None:
        """Prepare to read.

        Args:
            enqueue: Takes the entries on their way to the listeners.
            on_settled: Called by the bus when the listeners of an entry have ended.
            on_finished: Takes entries that were done before their group vanished.
        """
        self.streams: dict[bytes, Stream] = {}
        self.ever_read: dict[bytes, Stream] = {}
        self.blocked: int | None = None
        self.stopped = False
        self._link = context.link
        self._pool = context.pool
        self._keys = context.keys
        self._consumer = context.consumer
        self._held = context.held
        self._faults = context.faults
        self._enqueue = enqueue
        self._on_settled = on_settled
        self._on_finished = on_finished
        # The set of streams has changed since the read under way began.
        self._stale = False
        self._changed = trio.Event()
        self._woken = trio.Event()
        self._round_ended = trio.Event()
        self._recover_at = -math.inf
        # About the bytes of the largest recent entries.
        self._weight = 0

    # -- the set of streams

    def add(
        self, key: str, name: str, *, replayed: bool = False, partition: int | None = None
    ) -> Stream:
        """Read a stream from now on, beside the others."""
        encoded = key.encode()
        stream = self.ever_read.get(encoded)
        if stream is None:
            stream = Stream(key, name, replayed=replayed, partition=partition)
            self.ever_read[encoded] = stream
        stream.active = True
        self.streams[encoded] = stream
        self.change()
        return stream

    async def drop(self, streams: list[Stream]) -> None:
        """Stop reading streams; returns when no entry of them can come any more."""
        for stream in streams:
            stream.active = False
        await self._end_round()
        for stream in streams:
            self.streams.pop(stream.key.encode(), None)

    async def stop(self) -> None:
        """Stop reading; returns when no entry can come any more."""
        self.stopped = True
        await self._end_round()

    def change(self) -> None:
        """Look at the set of streams again."""
        self._stale = True
        self._changed.set()
        self._woken.set()

    def readable(self) -> list[Stream]:
        """Return the streams that can be read at the moment."""
        return [each for each in self.streams.values() if each.active and not each.refused]

    def allow(self, stream: Stream) -> None:
        """Read a stream again after Redis had refused to read it."""
        stream.refused = False
        self.change()

    async def _end_round(self) -> None:
        self.change()
        ended = self._round_ended
        if self.blocked is not None:
            await ended.wait()

    async def nudge(self) -> None:
        """End the reads of an outdated set of streams, until cancelled; a task of its own."""
        while True:
            await self._changed.wait()
            self._changed = trio.Event()
            while self._stale and self.blocked is not None:
                try:
                    await self._link.execute("CLIENT", "UNBLOCK", self.blocked)
                except RedisLinkError:
                    await self._link.ready()
                except redis_errors.RedisError:
                    # The server forbids it: the read ends by itself.
                    break
                # The read may not have reached the server yet.
                await trio.sleep(NUDGE_PAUSE_SECONDS)

    # -- reading

    async def run(self) -> None:
        """Read until stopped or cancelled."""
        pause = READ_PAUSE_SECONDS
        while not self.stopped:
            if not self.readable():
                await self._wait_for_streams()
                continue
            began = trio.current_time()
            try:
                await self._link.ready()
                async with self._pool.connection() as connection:
                    try:
                        await self._read_on(connection)
                    except redis_errors.ResponseError:
                        # Not back to the pool: the address may lead to another server by now.
                        await connection.aclose()
                        raise
                continue
            except RedisLinkError:
                # The link meets the same fault and reports it. Or the reply was too large: then
                # `_recover` reads the same entries in smaller pieces.
                pass
            except redis_errors.RedisError as error:
                self._faults.refused(error, READ_EVENTS)
            # Not if cancelled: `Claimer.leave` has to know of a read that the server may still run.
            self.blocked = None
            self._end()
            worked = trio.current_time() - began > 2 * MAX_READ_PAUSE_SECONDS
            pause = READ_PAUSE_SECONDS if worked else min(2 * pause, MAX_READ_PAUSE_SECONDS)
            await trio.sleep(pause)

    async def _wait_for_streams(self) -> None:
        self._end()
        self._woken = trio.Event()
        await self._woken.wait()

    def _end(self) -> None:
        ended, self._round_ended = self._round_ended, trio.Event()
        ended.set()

    async def _read_on(self, connection: RedisConnection) -> None:
        """Read over one connection, until there is no stream to read."""
        client = await connection.call("CLIENT", "ID")
        # The server may not know yet that an earlier connection is gone, and deliver entries to it.
        # So the pending entries are recovered now, and again when that read must have ended.
        await self._recover()
        self._recover_at = trio.current_time() + READ_BLOCK_SECONDS + 0.5
        while not self.stopped and self.readable():
            await self._held.wait_for_room(max(1, self._held.limit // 4))
            if trio.current_time() > self._recover_at:
                await self._recover()
            self._stale = False
            await self._recover_new()
            streams = self.readable()
            if self.stopped or not streams or self._stale:
                continue
            self.blocked = client
            await self._read(connection, {each.key.encode(): each for each in streams})
            self.blocked = None
            self._end()

    async def _read(self, connection: RedisConnection, streams: dict[bytes, Stream]) -> None:
        fits = connection.config.max_reply_size // 2 // (self._weight + 1)
        count = max(1, min(self._held.room, fits) // len(streams))
        command: list[Any] = ["XREADGROUP", "GROUP", self._keys.group, self._consumer]
        command += ["COUNT", count, "BLOCK", round(READ_BLOCK_SECONDS * 1000), "STREAMS", *streams]
        command += [">"] * len(streams)
        timeout = READ_BLOCK_SECONDS + connection.config.read_timeout
        try:
            reply = await connection.call(*command, timeout=timeout)
        except redis_errors.ResponseError as error:
            if not self._faults.is_gone(error):
                raise
            for stream in list(streams.values()):
                await self._faults.mend(stream)
            # The group may not be mendable; the next read would fail at once.
            await trio.sleep(READ_PAUSE_SECONDS)
            return
        if reply:
            if not any(stream.refused for stream in self.streams.values()):
                self._faults.succeeded(READ_EVENTS)
            for key, found in reply.items():
                self._arrived(streams[key], found)

    def _arrived(self, stream: Stream, found: list[tuple[bytes, Fields]]) -> None:
        if not found:
            # The entry that woke the read was trimmed before it was read.
            return
        first, last = parse_id(found[0][0]), parse_id(found[-1][0])
        self._weigh(found[0][1], found[-1][1])
        # A group delivers rising ids only. If it goes back, it was created anew.
        repeats = first <= stream.highest_id
        stream.highest_id = max(stream.highest_id, last)
        entries: list[Entry] = []
        for entry_id, fields in found:
            entry = self.intake(stream, entry_id, fields, 1)
            if entry is not None:
                if repeats:
                    entry.shown_deliveries = 2
                entries.append(entry)
        self._enqueue(entries, False)

    def _weigh(self, *entries: Fields) -> None:
        """Update the size of recent entries; a sample of each reply is enough."""
        for fields in entries:
            if fields:
                self._weight = max(self._weight * 15 // 16, len(fields[-1]))

    def intake(
        self, stream: Stream, entry_id: bytes, fields: Fields, deliveries: int
    ) -> Entry | None:
        """Return an entry to hold from now on; None if it is held already, or finished."""
        if entry_id in stream.held:
            return None
        entry = Entry(
            stream, entry_id, fields, deliveries, deliveries, self._on_settled, stream.lease
        )
        stream.held[entry_id] = entry
        self._held.count += 1
        if entry_id in stream.finished:
            stream.finished.discard(entry_id)
            self._on_finished(entry)
            return None
        return entry

    # -- pending entries of our own

    async def _recover(self) -> None:
        """Look through our own pending entries for those that we do not hold."""
        self._recover_at = math.inf
        for stream in self.readable():
            await self._recover_from(stream)

    async def _recover_new(self) -> None:
        for stream in self.readable():
            if stream.unrecovered:
                await self._recover_from(stream)

    async def _recover_from(self, stream: Stream) -> None:
        # An earlier bus of the same consumer name may have begun with its entries and died.
        isolated, more = stream.unrecovered, 1
        config = self._link.config
        limits = config.max_reply_size // 2, max_entry_bytes(config)
        while more:
            args: list[Encodable] = [self._keys.group, self._consumer, *limits, int(isolated)]
            args += stream.held
            try:
                taken, gone, more = await call(self._link, RECOVER, (stream.key,), *args)
            except redis_errors.ResponseError as error:
                if not self._faults.is_gone(error):
                    raise
                await self._faults.mend(stream)
                return
            self._faults.trimmed(stream, gone)
            self._weigh(*(each[1] for each in taken))
            entries = [self.intake(stream, each[0], each[1], each[2]) for each in taken]
            self._enqueue([entry for entry in entries if entry is not None], isolated)
        stream.unrecovered = False
