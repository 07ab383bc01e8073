"""The deduplicator: finds events that were finished before, by the ids of their handles.

A publisher whose connection breaks sends an event again, and the server may have taken it twice.
With `StreamsConfig.deduplicate`, the scripts of the acknowledger remember the handle id of each
finished event for a while, and the deliverer asks before it delivers a batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import trio
from redis import exceptions as redis_errors

from goevent import DecodeError

from .._link.errors import RedisLinkError
from .context import ConsumerContext
from .stream import Entry

MAX_REMEMBERED_IDS = 10_000
"""How many handle ids of events that this bus has finished are remembered here."""


class Deduplicator:
    """The finished events that one open bus remembers.

    Attributes:
        enabled: Whether duplicates are looked for.
    """

    def __init__(self, context: ConsumerContext) -> None:
        self._link = context.link
        self._inbox = context.inbox
        self._keys = context.keys
        self._window = context.config.deduplicate
        self._running = context.held.by_handle_id
        self._finished_at: dict[str, float] = {}
        self.enabled = self._window > 0

    def remember(self, handle_id: str) -> None:
        """Remember an event that this bus has acknowledged."""
        # Removed first, so that the dict stays in the order of time.
        self._finished_at.pop(handle_id, None)
        self._finished_at[handle_id] = trio.current_time()
        if len(self._finished_at) > MAX_REMEMBERED_IDS:
            del self._finished_at[next(iter(self._finished_at))]

    async def finished_among(self, batch: Iterable[Entry]) -> set[str]:
        """Return the handle ids in a batch whose events are finished, according to the server.

        It sets the `handle_id` of each entry of the batch.
        """
        ids: list[str] = []
        for entry in batch:
            data = entry.data
            if data is None or entry.field(b"o") is not None:
                # Without an event, or replayed: a replayed event runs again on purpose.
                continue
            try:
                handle_id = self._inbox.decode(entry.stream.name, data).handle_id
            except DecodeError:
                # The deliverer reports it.
                continue
            if handle_id:
                entry.handle_id = handle_id
                ids.append(handle_id)
        while ids:
            prefix = self._keys.done()
            try:
                found = await self._link.execute("MGET", *(prefix + each for each in ids))
            except RedisLinkError:
                await self._link.ready()
                continue
            except redis_errors.RedisError:
                # The server refuses to answer. The events run, flagged as retried by their
                # publisher.
                break
            return {each for each, value in zip(ids, found, strict=True) if value is not None}
        return set()

    def is_finished(self, entry: Entry, finished: set[str]) -> bool:
        """Tell whether an event is finished, given the answer of the server for its batch.

        An event that this bus has finished since then counts, too.
        """
        if entry.handle_id in finished:
            return True
        since = trio.current_time() - self._window
        return self._finished_at.get(entry.handle_id, -math.inf) > since

    def is_running(self, entry: Entry) -> bool:
        """Tell whether another entry with the same event is held; if not, this one counts."""
        return self._running.setdefault(entry.handle_id, entry) is not entry
