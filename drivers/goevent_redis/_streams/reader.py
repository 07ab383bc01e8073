"""The reader: takes entries off the streams, in batches, on a connection of its own.

An actor of the driver. Redis ends a blocking read, not the reader: a read that is cancelled here
would swallow the next entry, which the server would deliver and no bus would receive. `nudge` asks
Redis with `CLIENT UNBLOCK` to end it. Whenever a connection was lost, the reader looks through its
own pending entries for those that were delivered to that connection.

Theory of operation
-------------------
*Bytes.* XREADGROUP knows a limit in entries only, and it counts for each stream. So the reader
estimates how many entries fit into the free bytes of the prefetch, by the size of the largest
recent ones. It begins with a number that fits whatever their size, and at most doubles it.

*Many streams.* If there are more streams than entries that fit, one read of all of them could bring
too many entries. So while there is a backlog, the reader takes the streams in turn, as many as
entries fit, and does not block. When a whole turn has brought nothing, it waits for all of them: a
read that blocks is answered by the first entry that comes.

*Silence.* A reader that cannot read reports why, once for each reason. If no read succeeds for
`READ_SILENCE_SECONDS` although the link is up, the watchdog reports that.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import trio
from redis import exceptions as redis_errors

from goevent.drivers import READ_SILENCE_SECONDS, ReadWatchdog, Settlement

from .._link.connection import RedisConnection
from .._link.errors import RedisLinkError
from .._link.resp import Encodable
from .context import ConsumerContext
from .scripts import RECOVER, ScriptCall, call_many
from .stream import Entry, EntryId, Fields, Stream, max_entry_bytes, parse_id

READ_BLOCK_SECONDS = 2.0
"""How long a read waits at the server."""

READ_PAUSE_SECONDS = 0.05
"""The pause before a read is tried again after an error; it doubles."""

MAX_READ_PAUSE_SECONDS = 1.0
NUDGE_PAUSE_SECONDS = 0.01
"""The pause between two attempts to end a read."""

MAX_RECOVERED_STREAMS = 100
"""How many streams are looked through at once for pending entries of our own."""

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
        on_wrong_type: Called when Redis refuses a read because of the type of a key, which it does
            not name.
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
        self.on_wrong_type: Callable[[], None] = lambda: None
        self._link = context.link
        self._inbox = context.inbox
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
        self._recover_at = math.inf
        # A bus with a name of its own may have left pending entries when it crashed.
        self._has_left_entries = context.config.consumer is not None
        self._has_read = False  # there was a connection before this one
        # About the bytes of the largest recent entries.
        self._weight = 0
        # How many entries may be read at once, by the number that came at once before.
        self._trusted = max(1, self._held.limit_bytes // max_entry_bytes(self._link.config))
        self._backlogged = True  # more streams than fit have entries, perhaps
        self._turn: deque[Stream] = deque()  # the streams that are still to be read in this turn
        self._turn_found = False
        self._watchdog = ReadWatchdog(
            f"the streams of the group {self._keys.group!r}", limit_seconds=READ_SILENCE_SECONDS
        )
        self._resting = True  # nothing is to be read at the moment
        self._last_failure = ""

    # -- the set of streams

    def add(
        self, key: str, name: str, *, replayed: bool = False, partition: int | None = None
    ) -> Stream:
        """Read a stream from now on, beside the others."""
        encoded = key.encode()
        stream = self.ever_read.get(encoded)
        if stream is None:
            stream = Stream(key, name, replayed=replayed, partition=partition)
            stream.unrecovered = self._has_left_entries
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
            opened = False
            try:
                await self._link.ready()
                async with self._pool.connection() as connection:
                    opened = True
                    try:
                        await self._read_on(connection)
                    except redis_errors.ResponseError:
                        # Not back to the pool: the address may lead to another server by now.
                        await connection.aclose()
                        raise
                continue
            except RedisLinkError as error:
                # The link meets the same fault and reports it, unless Redis takes no further
                # connection. Or the reply was too large: then `_recover` reads the same entries in
                # smaller pieces.
                self._last_failure = str(error)
                if not opened and self._link.connected:
                    self._faults.cannot_open(error)
            except redis_errors.RedisError as error:
                self._refused(error)
            # Not if cancelled: `Claimer.leave` has to know of a read that the server may still run.
            self.blocked = None
            self._end()
            worked = trio.current_time() - began > 2 * MAX_READ_PAUSE_SECONDS
            pause = READ_PAUSE_SECONDS if worked else min(2 * pause, MAX_READ_PAUSE_SECONDS)
            await trio.sleep(pause)

    def _refused(self, error: redis_errors.RedisError) -> None:
        self._last_failure = str(error)
        if str(error).startswith("WRONGTYPE"):
            # The monitor finds the key and reports it; then the others are read without it.
            self.on_wrong_type()
        else:
            self._faults.refused(error, READ_EVENTS)

    def _succeeded(self) -> None:
        """Note that the server has answered a read, with entries or without."""
        self._watchdog.read(trio.current_time())

    async def watch(self) -> None:
        """Report that no read succeeds, until cancelled; a task of its own."""
        self._succeeded()
        seen = self._link.up_count
        while True:
            await trio.sleep(self._watchdog.seconds_left(trio.current_time()))
            if not self._link.connected:
                await self._link.ready()
            if self._resting or self.stopped or self._link.up_count != seen:
                seen = self._link.up_count
                self._succeeded()
                continue
            silence = self._watchdog.silence(trio.current_time(), reason=self._last_failure)
            if silence is not None:
                self._inbox.report(silence)

    async def _wait_for_streams(self) -> None:
        self._end()
        self._woken = trio.Event()
        await self._rest(self._woken.wait)

    async def _rest(self, wait: Callable[[], Awaitable[None]]) -> None:
        """Wait for something else than the server."""
        self._resting = True
        try:
            await wait()
        finally:
            self._resting = False
            self._succeeded()

    def _end(self) -> None:
        ended, self._round_ended = self._round_ended, trio.Event()
        ended.set()

    def _goes_on(self, up_count: int) -> bool:
        """Tell whether to read on, over a connection that was opened at this count of the link."""
        # If the link has a new connection, its address may lead to another server by now. The old
        # one may live on at a server that gets no events; the pool does not lend it again.
        return not self.stopped and self._link.up_count == up_count and bool(self.readable())

    async def _read_on(self, connection: RedisConnection) -> None:
        """Read over one connection, until there is no stream to read."""
        up_count = self._link.up_count
        client = await connection.call("CLIENT", "ID")
        if self._has_read:
            # The server may not know yet that the earlier connection is gone, and deliver entries
            # to it. So pending entries are recovered now, and again when that read has ended.
            await self._recover(self.readable(), isolated=False)
            self._recover_at = trio.current_time() + READ_BLOCK_SECONDS + 0.5
        self._has_read = self._backlogged = True
        while self._goes_on(up_count):
            if trio.current_time() > self._recover_at:
                self._recover_at = math.inf
                await self._recover(self.readable(), isolated=False)
            self._stale = False
            await self._recover_new()
            streams, self._turn = self.readable(), deque()
            # A turn of many streams takes many reads.
            while streams and not self.stopped:
                await self._wait_for_room(max(1, self._held.limit // 4))
                if self._stale:
                    break
                self.blocked = client
                await self._read_some(connection, streams)
                self.blocked = None
                self._end()
                if not self._turn:
                    break

    async def _wait_for_room(self, room: int) -> None:
        # Without a wait this is no rest: a reader that is refused comes here again and again.
        if not self._held.has_room(room):
            await self._rest(lambda: self._held.wait_for_room(room))

    def fitting(self) -> int:
        """Return how many entries may be read at once; at least 1."""
        free = min(self._held.room_bytes, self._link.config.max_reply_size // 2)
        return max(1, min(self._held.room, free // (self._weight + 1), self._trusted))

    def _trust(self, count: int) -> None:
        """Read up to `count` entries at once from now on, if their size allows it."""
        self._trusted = max(self._trusted, min(self._held.limit, count))

    async def _read_some(self, connection: RedisConnection, streams: list[Stream]) -> None:
        """Read all streams, or some of them if all could bring too many entries."""
        fitting = self.fitting()
        if len(streams) <= fitting:
            await self._read(connection, streams, fitting // len(streams), blocks=True)
        elif not self._backlogged:
            self._backlogged = await self._read(connection, streams, 1, blocks=True) > fitting
        else:
            if not self._turn:
                self._turn.extend(streams)
                self._turn_found = False
            part = [self._turn.popleft() for _ in range(min(fitting, len(self._turn)))]
            if await self._read(connection, part, 1, blocks=False):
                self._turn_found = True
            if not self._turn:
                self._backlogged = self._turn_found

    async def _read(
        self, connection: RedisConnection, streams: list[Stream], count: int, *, blocks: bool
    ) -> int:
        """Read at most `count` entries of each stream; return how many entries came."""
        # The ids from before the read: the monitor asks over another connection, and may learn of
        # the entries of this very read before its reply is here.
        by_key = {each.encoded_key: (each, each.highest_id) for each in streams}
        command: list[Any] = ["XREADGROUP", "GROUP", self._keys.group, self._consumer]
        command += ["COUNT", count]
        if blocks:
            command += ["BLOCK", round(READ_BLOCK_SECONDS * 1000)]
        command += ["STREAMS", *by_key]
        command += [">"] * len(by_key)
        timeout = READ_BLOCK_SECONDS + connection.config.read_timeout
        try:
            reply = await connection.call(*command, timeout=timeout)
        except redis_errors.ResponseError as error:
            if not self._faults.is_gone(error):
                raise
            for stream in streams:
                await self._faults.mend(stream)
            # The group may not be mendable; the next read would fail at once.
            await trio.sleep(READ_PAUSE_SECONDS)
            return 0
        self._succeeded()
        total = 0
        if reply:
            if not any(stream.refused for stream in self.streams.values()):
                self._faults.succeeded(READ_EVENTS)
            for key, found in reply.items():
                self._arrived(*by_key[key], found)
                total += len(found)
            self._trust(2 * total)
        return total

    def _arrived(
        self, stream: Stream, highest_before: EntryId, found: list[tuple[bytes, Fields]]
    ) -> None:
        """Hold the entries of a reply, and enqueue them.

        Args:
            highest_before: The highest id that the group was known to have delivered before the
                server was asked.
        """
        if not found:
            # The entry that woke the read was trimmed before it was read.
            return
        first, last = parse_id(found[0][0]), parse_id(found[-1][0])
        self._weight = self._weight * 15 // 16  # `intake` raises it again
        # A group delivers rising ids only. If it goes back, it was created anew.
        repeats = first <= max(highest_before, stream.repeats_until)
        stream.highest_id = max(stream.highest_id, last)
        stream.inspect_at = -math.inf
        entries: list[Entry] = []
        for entry_id, fields in found:
            entry = self.intake(stream, entry_id, fields, 1)
            if entry is not None:
                if repeats:
                    entry.shown_deliveries = 2
                entries.append(entry)
        self._enqueue(entries, False)

    def intake(
        self, stream: Stream, entry_id: bytes, fields: Fields, deliveries: int
    ) -> Entry | None:
        """Return an entry to hold from now on; None if it is held already, or finished."""
        if entry_id in stream.held:
            return None
        size = len(fields[1]) if len(fields) == 2 else sum(map(len, fields))
        if size > self._weight:
            self._weight = size
        entry = Entry(
            stream, entry_id, fields, deliveries, deliveries, self._on_settled, size, stream.lease
        )
        # Not a method of the two: this is done for each entry.
        stream.held[entry_id] = entry
        held = self._held
        held.count += 1
        held.size += size
        if entry_id in stream.finished:
            stream.finished.discard(entry_id)
            self._on_finished(entry)
            return None
        return entry

    # -- pending entries of our own

    async def _recover_new(self) -> None:
        if self._has_left_entries:
            streams = [stream for stream in self.readable() if stream.unrecovered]
            # An earlier bus of the same consumer name may have begun with its entries and died.
            await self._recover(streams, isolated=True)

    async def _recover(self, streams: list[Stream], *, isolated: bool) -> None:
        """Look through our own pending entries for those that we do not hold."""
        left = deque(streams)
        while left and not self.stopped:
            await self._wait_for_room(1)
            part = [left.popleft() for _ in range(min(MAX_RECOVERED_STREAMS, len(left)))]
            calls = [self._recovering(stream, len(part), isolated) for stream in part]
            for stream, reply in zip(part, await call_many(self._link, calls), strict=True):
                if isinstance(reply, Exception):
                    if not self._faults.is_gone(reply):
                        raise reply
                    await self._faults.mend(stream)
                    continue
                taken, gone, more = reply
                self._faults.trimmed(stream, gone)
                entries = [self.intake(stream, each[0], each[1], each[2]) for each in taken]
                self._enqueue([entry for entry in entries if entry is not None], isolated)
                if more:
                    left.append(stream)
                else:
                    stream.unrecovered = False

    def _recovering(self, stream: Stream, share: int, isolated: bool) -> ScriptCall:
        """Return the call for one of `share` streams that have the free bytes together."""
        config = self._link.config
        max_reply = min(config.max_reply_size // 2, self._held.room_bytes) // share
        limits = max_reply, max_entry_bytes(config)
        args: list[Encodable] = [self._keys.group, self._consumer, *limits, int(isolated)]
        return RECOVER, (stream.key,), [*args, *stream.held]
