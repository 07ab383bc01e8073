"""The monitor: looks at each stream once a second, or less often if nothing happens there.

An actor of the driver. It finds out whether the group still exists, how far it has read, and how
much is left. The script of each round stores in Redis the id up to which everything is
acknowledged: a group that was destroyed begins anew there.

A look takes about 10 us here and 20 us at the server, so thousands of quiet streams are looked at
in turn. Each has its turn within half of `claim_idle`: before the entries of a consumer that died
there are free.
"""

from __future__ import annotations

import logging
import math
import random

import trio
from redis import exceptions as redis_errors

from goevent.drivers import Backlog

from .._link.errors import RedisLinkError
from .._link.link import Link
from .context import ConsumerContext
from .faults import inspecting
from .keys import RELEASED
from .reader import StreamReader
from .scripts import INSPECT, REMOVE_SILENT_CONSUMERS, ScriptCall, call_many
from .stream import Stream, as_text, parse_id

INSPECT_INTERVAL_SECONDS = 1.0
QUIET_STREAMS_PER_SECOND = 500
"""How many streams without any work are inspected per second, if there is time enough."""

MAX_QUIET_SECONDS = 15.0
"""The longest time between two inspections of a stream."""

OLDEST_WAITING_SECONDS = 10.0
"""How long the time of the oldest waiting entry of a stream is kept: the look copies the entry."""

MAX_INSPECTED_STREAMS = 2000
"""How many streams are inspected in one round."""

LARGE_STREAM_ENTRIES = 1_000_000
"""The length of a stream that is never trimmed, above which the monitor warns."""

SILENCE_FACTOR = 2
"""How many times `claim_idle` a consumer without entries is idle before it is removed."""

logger = logging.getLogger("goevent")


class StreamMonitor:
    """The monitor of one open bus."""

    def __init__(self, context: ConsumerContext, reader: StreamReader) -> None:
        self._link = context.link
        self._keys = context.keys
        self._config = context.config
        self._consumer = context.consumer
        self._faults = context.faults
        self._reader = reader
        self._clean_up_at = -math.inf
        self._woken = trio.Event()

    def inspect_soon(self) -> None:
        """Look at the streams that are due at once."""
        self._woken.set()

    def inspect_all(self) -> None:
        """Look at all streams at once."""
        for stream in self._reader.streams.values():
            stream.inspect_at = -math.inf
        self._woken.set()

    async def run(self) -> None:
        """Look at the streams, until cancelled."""
        while True:
            # Before the round: what is wanted meanwhile is done in the next one.
            self._woken = trio.Event()
            try:
                await self._inspect()
            except RedisLinkError:
                await self._link.ready()
                # The server may have lost any of them.
                self.inspect_all()
            with trio.move_on_after(INSPECT_INTERVAL_SECONDS):
                await self._woken.wait()

    async def _inspect(self) -> None:
        streams = self._due()
        trims = self._config.retention == "acked"
        calls: list[ScriptCall] = [
            (
                INSPECT,
                (stream.key, self._keys.marks, self._replayed_key(stream)),
                (
                    self._keys.group,
                    int(trims and not stream.replayed),
                    _known_oldest_waiting(stream),
                ),
            )
            for stream in streams
        ]
        for stream, reply in zip(streams, await call_many(self._link, calls), strict=True):
            if not isinstance(reply, Exception):
                self._inspected(stream, *reply)
                self._faults.succeeded(inspecting(stream))
                # The script worked, so a read will, too: a refusal is over.
                if stream.refused:
                    self._reader.allow(stream)
            elif self._faults.is_gone(reply):
                await self._faults.mend(stream)
            elif isinstance(reply, redis_errors.RedisError):
                self._faults.refused(reply, inspecting(stream), stream)
                # A server that is out of memory must be read from, or it stays full.
                stream.refused = not isinstance(reply, redis_errors.OutOfMemoryError)
        await self._remove_silent_consumers()

    def _due(self) -> list[Stream]:
        """Return the streams to inspect now, and note when each is due again."""
        now = trio.current_time()
        active = [stream for stream in self._reader.streams.values() if stream.active]
        due = [stream for stream in active if now >= stream.inspect_at]
        if len(due) > MAX_INSPECTED_STREAMS:
            due.sort(key=_inspect_at)
            del due[MAX_INSPECTED_STREAMS:]
            self._woken.set()
        quiet_seconds = min(
            MAX_QUIET_SECONDS,
            self._config.claim_idle / 2,
            len(active) / QUIET_STREAMS_PER_SECOND,
        )
        for stream in due:
            # Spread, so that they do not come all at once again.
            wait = quiet_seconds * random.uniform(0.8, 1.0) if stream.is_quiet else 0.0  # noqa: S311
            stream.inspect_at = now + wait
        return due

    def _inspected(
        self,
        stream: Stream,
        pending: int,
        lag: int,
        age_ms: int,
        last: bytes,
        highest: bytes,
        length: int,
        has_replayed: int,
        waiting_ms: int,
        oldest_ms: int,
    ) -> None:
        stream.repeats_until = max(stream.repeats_until, parse_id(highest))
        stream.highest_id = max(stream.highest_id, parse_id(last), stream.repeats_until)
        stream.backlog = Backlog(
            event_name=stream.name,
            lag=None if lag < 0 else lag,
            pending=pending,
            oldest_pending=age_ms / 1000,
            oldest_waiting=waiting_ms / 1000,
        )
        if not stream.oldest_waiting_ms and oldest_ms:
            stream.forget_oldest_at = trio.current_time() + OLDEST_WAITING_SECONDS
        stream.oldest_waiting_ms = oldest_ms
        # Any bus may have called `replay` for this group: the others notice it here.
        if has_replayed and not stream.replayed:
            self._read_replayed(stream)
        untrimmed = self._config.retention == "all" and self._config.maxlen is None
        is_large = length > LARGE_STREAM_ENTRIES
        if is_large and untrimmed and self._config.max_age is None and not stream.warned:
            stream.warned = True
            logger.warning(
                "the stream of %r has %d entries and is never trimmed: see StreamsConfig.retention",
                stream.name,
                length,
            )

    def _read_replayed(self, stream: Stream) -> None:
        """Read the events of a stream that the group gets again."""
        key = self._replayed_key(stream)
        known = self._reader.streams.get(key.encode())
        if known is None or not known.active:
            self._reader.add(key, stream.name, replayed=True, partition=stream.partition)

    def _replayed_key(self, stream: Stream) -> str:
        return self._keys.replayed(stream.name, partition=stream.partition)

    async def _remove_silent_consumers(self) -> None:
        """Remove consumers that have died and own nothing."""
        now, silence = trio.current_time(), SILENCE_FACTOR * self._config.claim_idle
        if now < self._clean_up_at:
            return
        # Each bus of the group does this; a consumer that is gone already is not an error.
        self._clean_up_at = now + silence / 2
        args = (self._keys.group, round(silence * 1000), self._consumer, RELEASED)
        streams = [stream for stream in self._reader.streams.values() if stream.active]
        calls: list[ScriptCall] = [
            (REMOVE_SILENT_CONSUMERS, (stream.key,), args) for stream in streams
        ]
        for stream, reply in zip(streams, await call_many(self._link, calls), strict=True):
            if not isinstance(reply, Exception) and reply:
                names = ", ".join(map(as_text, reply))
                logger.info("removed silent consumers of %r: %s", stream.name, names)


def _known_oldest_waiting(stream: Stream) -> int | str:
    """Return the time of the oldest waiting entry in ms; empty if the script has to look for it."""
    if trio.current_time() >= stream.forget_oldest_at:
        stream.oldest_waiting_ms = 0
    return stream.oldest_waiting_ms or ""


def _inspect_at(stream: Stream) -> float:
    return stream.inspect_at


async def warn_of_memory_only(link: Link) -> None:
    """Warn if the server says that it keeps nothing over a restart."""
    try:
        reply = await link.execute("CONFIG", "GET", "appendonly")
    except RedisLinkError:
        raise
    except redis_errors.RedisError:
        # The server forbids the question.
        return
    if reply.get(b"appendonly") == b"no":
        logger.warning(
            "the Redis server at %s has no append-only file: a crash of it loses durable events",
            link.config.where(),
        )
