"""The claimer: takes over idle entries of other consumers, and protects those of this bus.

An actor of the driver, for competing consumers. Partitions have a lease keeper in its place.

Theory of operation
-------------------

Redis knows for how long each pending entry has been idle. An entry that has been idle for
`claim_idle` is free for all: its consumer has died, or has released it. A bus that holds an entry
resets its idle time three times as often (the heartbeat), however long the listeners take.

A consumer that leaves, or that gives up a single entry, gives it to the consumer `RELEASED`, with
an idle time that lets any bus claim it, at once or after a pause. So retry, release and take-over
are one mechanism. An entry that is claimed from any other owner may have killed its consumer, and
runs isolated.

After an outage of the server, or a standstill of this machine, no bus could send heartbeats, and
all entries look idle. So the claimer sends its own heartbeat first, and waits before it claims: the
others do the same.
"""

from __future__ import annotations

import math
import random

import trio
from redis import exceptions as redis_errors

from .._link.errors import RedisLinkError
from .._link.resp import Encodable
from .context import ConsumerContext
from .deliverer import Deliverer
from .keys import RELEASED
from .order import CompetingOrder
from .reader import StreamReader
from .scripts import CLAIM, HEARTBEAT, LEAVE, ScriptCall, call_many
from .stream import Stream, as_text, max_entry_bytes

CLAIM_INTERVAL_SECONDS = 0.5
CLAIM_REST_SECONDS = 2.0
"""How long nothing is claimed after a reconnect: longer than other buses need to connect."""

CLAIM_MARGIN_SECONDS = 0.01
"""Added to the pause of a released entry, so that the claim does not come a moment too early."""

MAX_CLAIMED_ENTRIES = 100
"""How many entries are claimed at once from each stream."""

MAX_CLAIMED_STREAMS = 500
"""Up to how many streams the claimer asks all of them, whether entries are pending or not."""

MAX_HEARTBEAT_ENTRIES = 1000
"""How many entries are in one call of the heartbeat."""


class Claimer:
    """The claimer of one open bus."""

    def __init__(
        self,
        context: ConsumerContext,
        reader: StreamReader,
        deliverer: Deliverer,
        order: CompetingOrder,
    ) -> None:
        self._link = context.link
        self._keys = context.keys
        self._config = context.config
        self._consumer = context.consumer
        self._held = context.held
        self._faults = context.faults
        self._reader = reader
        self._deliverer = deliverer
        self._claim_at = self._rest_until = -math.inf
        self._woken = trio.Event()
        order.on_retry = self.claim_after

    def claim_after(self, stream: Stream, seconds: float) -> None:
        """Claim from a stream after some seconds, when an entry of it will be free."""
        at = trio.current_time() + seconds + CLAIM_MARGIN_SECONDS
        stream.claim_at = min(stream.claim_at, at)
        self._claim_at = min(self._claim_at, at)
        self._woken.set()

    async def run(self) -> None:
        """Send heartbeats and claim, until cancelled."""
        interval = self._config.claim_idle / 3
        heartbeat_at = trio.current_time() + interval
        while True:
            now = trio.current_time()
            try:
                # The heartbeat first: otherwise the claim would find our own entries idle.
                if now >= heartbeat_at:
                    heartbeat_at = now + interval
                    await self._send_heartbeat()
                if now >= max(self._claim_at, self._rest_until):
                    self._claim_at = now + min(CLAIM_INTERVAL_SECONDS, self._config.claim_idle / 2)
                    await self._claim()
            except RedisLinkError:
                await self._link.ready()
                # No bus could send a heartbeat while the server was away: let the others send
                # theirs first.
                heartbeat_at = trio.current_time()
                self._rest_until = heartbeat_at + CLAIM_REST_SECONDS
                continue
            self._woken = trio.Event()
            due = min(heartbeat_at, max(self._claim_at, self._rest_until))
            with trio.move_on_at(due):
                await self._woken.wait()
            if trio.current_time() - due > interval:
                # This process stood still, and others on this machine may have, too.
                heartbeat_at = trio.current_time()
                self._rest_until = heartbeat_at + min(CLAIM_REST_SECONDS, self._config.claim_idle)

    async def _claim(self) -> None:
        due, config = self._due(), self._link.config
        idle_ms = round(self._config.claim_idle * 1000)
        while due and not self._reader.stopped:
            if self._held.room < 1 or self._deliverer.has_isolated:
                return
            fitting = self._reader.fitting()
            streams, due = due[:fitting], due[fitting:]
            room = max(1, min(MAX_CLAIMED_ENTRIES, fitting // len(streams)))
            max_reply = min(config.max_reply_size // 2, self._held.room_bytes) // len(streams)
            limits = max_reply, max_entry_bytes(config)
            args = (self._keys.group, self._consumer, *limits, idle_ms, room)
            calls: list[ScriptCall] = []
            for stream in streams:
                stream.claim_at = math.inf
                calls.append((CLAIM, (stream.key,), args))
            for stream, reply in zip(streams, await call_many(self._link, calls), strict=True):
                if isinstance(reply, Exception):
                    await self._refused(stream, reply)
                else:
                    self._claimed(stream, *reply)

    def _due(self) -> list[Stream]:
        """Return the streams to claim from now."""
        now = trio.current_time()
        # A stream is claimed from only after its own pending entries were recovered.
        streams = [each for each in self._reader.readable() if not each.unrecovered]
        if len(streams) > min(MAX_CLAIMED_STREAMS, self._reader.fitting()):
            # The monitor looks at each of them soon enough to know of pending entries.
            streams = [
                each for each in streams if now >= each.claim_at or each.has_pending_of_others
            ]
            # Perhaps only the first ones have room.
            random.shuffle(streams)
        return streams

    def _claimed(
        self,
        stream: Stream,
        taken: list[tuple[bytes, list[bytes], int, bytes]],
        gone: list[bytes],
    ) -> None:
        self._faults.trimmed(stream, gone)
        for entry_id, fields, deliveries, owner in taken:
            entry = self._reader.intake(stream, entry_id, list(fields), int(deliveries))
            if entry is not None:
                self._deliverer.enqueue([entry], as_text(owner) != RELEASED)
        if taken:
            stream.inspect_at = -math.inf
            # There may be more.
            self.claim_after(stream, 0.0)

    async def _send_heartbeat(self) -> None:
        calls: list[tuple[Stream, ScriptCall]] = []
        for stream in list(self._reader.ever_read.values()):
            ids = list(stream.held)
            for at in range(0, len(ids), MAX_HEARTBEAT_ENTRIES):
                part = ids[at : at + MAX_HEARTBEAT_ENTRIES]
                args: list[Encodable] = [self._keys.group, self._consumer, *part]
                calls.append((stream, (HEARTBEAT, (stream.key,), args)))
        replies = await call_many(self._link, [call for _, call in calls])
        for (stream, _), reply in zip(calls, replies, strict=True):
            if isinstance(reply, Exception):
                await self._refused(stream, reply)

    async def _refused(self, stream: Stream, error: Exception) -> None:
        if self._faults.is_gone(error):
            await self._faults.mend(stream)
        elif isinstance(error, redis_errors.RedisError):
            action = f"keep or claim events of {stream.name!r}"
            self._faults.refused(error, action, stream)

    # -- the end

    def stop(self) -> None:
        """Do nothing: a stopped reader ends the claims."""

    async def leave(self) -> None:
        """Release all that is left, and leave the group."""
        first: list[tuple[Encodable, ...]] = []
        if self._reader.blocked is not None:
            # Its connection is closed, but the server may not know, and would deliver to it.
            first = [("CLIENT", "UNBLOCK", self._reader.blocked)]
        calls = [self._leaving(stream) for stream in self._reader.ever_read.values()]
        await call_many(self._link, calls, first=first)

    def _leaving(self, stream: Stream) -> ScriptCall:
        started = [entry.id for entry in stream.held.values() if entry.started]
        idle_ms = round(self._config.claim_idle * 1000)
        args = (self._keys.group, self._consumer, RELEASED, idle_ms, 1)
        return LEAVE, (stream.key,), (*args, *started)
