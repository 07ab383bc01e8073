"""Streams that this bus reads, and their entries while this bus holds them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import msgspec

from goevent.drivers import Backlog, Settlement

from .._link.config import RedisConfig
from .lease import Lease

ENTRY_OVERHEAD_BYTES = 4096
"""Room in an entry for its fields beside the event."""

Fields = list[bytes]
EntryId = tuple[int, int]
OrderKey = tuple[str, bytes]
"""The name and the key of an event. Of the entries that share them, one runs at a time."""


class Stream:
    """A stream that this bus reads.

    Attributes:
        key: Its key in Redis.
        encoded_key: The same in bytes.
        name: The name of its events.
        replayed: It holds only events that are replayed for this group. Its entries are deleted
            when they are done.
        partition: The number of its partition; None if its name has no partitions.
        lease: The lease with which this bus may read it, if it is one of a partition.
        active: It is subscribed to.
        refused: Redis refused to read it the last time. The other streams are read
            without it.
        unrecovered: There may be pending entries of our own consumer name that we do not hold.
        held: The entries that this bus holds, by id.
        finished: The ids of entries that were done when the group had vanished, and could not be
            acknowledged.
        highest_id: The highest id that the group is known to have delivered.
        repeats_until: The highest id that may have been delivered before the group vanished; the
            group that was created anew delivers such entries again.
        backlog: The work of the group, as last seen.
        inspect_at: When the monitor looks at it again; set to the past when something happens.
        claim_at: When an entry may be free for a claim, as far as this bus knows.
        oldest_waiting_ms: The time of the oldest entry that was not delivered, as last seen; 0 if
            there is none, or if the monitor has to look for it.
        forget_oldest_at: When the monitor looks for that entry again.
        warned: A warning about its length was logged.
    """

    def __init__(
        self, key: str, name: str, *, replayed: bool = False, partition: int | None = None
    ) -> None:
        self.key = key
        self.encoded_key = key.encode()
        self.name = name
        self.replayed = replayed
        self.partition = partition
        self.lease: Lease | None = None
        self.active = True
        self.refused = False
        self.unrecovered = False
        self.held: dict[bytes, Entry] = {}
        self.finished: set[bytes] = set()
        self.highest_id: EntryId = (0, 0)
        self.repeats_until: EntryId = (0, 0)
        self.backlog: Backlog | None = None
        self.inspect_at = self.claim_at = self.forget_oldest_at = -math.inf
        self.oldest_waiting_ms = 0
        self.warned = False

    @property
    def has_pending_of_others(self) -> bool:
        """True if other consumers had pending entries when the monitor last looked."""
        return self.backlog is not None and self.backlog.pending > len(self.held)

    @property
    def is_quiet(self) -> bool:
        """True if its group had nothing to do when the monitor last looked."""
        backlog = self.backlog
        return backlog is not None and not (backlog.pending or backlog.lag or self.held)

    def __repr__(self) -> str:
        return f"<Stream {self.key}, {len(self.held)} held>"


# A struct: one is made for each entry.
class Entry(msgspec.Struct, eq=False):
    """An entry of a stream, while this bus holds it.

    Attributes:
        deliveries: How often it was delivered, including this time.
        size: The bytes of its fields.
        shown_deliveries: The number that the listeners see. It is the same, or 2 for an entry that
            may have been delivered before the group vanished.
        on_settled: Called when the listeners have ended.
        lease: The lease under which it was read, if it is one of a partition.
        started: A listener may have begun with it.
        handle_id: The handle id of its event, if duplicates are looked for.
        uncertain: The server may or may not have acknowledged it: the reply was lost.
        order_key: Set by `KeyOrder` for an entry that has a key.
        isolated: It runs while no other entry runs.
        waiting: `KeyOrder` keeps it: it waits for its next delivery, or for its lease.
    """

    stream: Stream
    id: bytes
    fields: Fields
    deliveries: int
    shown_deliveries: int
    on_settled: Callable[[Entry, Settlement], None]
    size: int
    lease: Lease | None = None
    started: bool = False
    handle_id: str = ""
    uncertain: bool = False
    order_key: OrderKey | None = None
    isolated: bool = False
    waiting: bool = False

    @property
    def oversized(self) -> bool:
        """True if it is too large to be read; a script left its fields out."""
        return not self.fields

    @property
    def data(self) -> bytes | None:
        """The bytes of the event; None if the entry has none."""
        return self.field(b"e")

    def field(self, name: bytes) -> bytes | None:
        """Return a field of the entry."""
        fields = self.fields
        for at in range(0, len(fields) - 1, 2):
            if fields[at] == name:
                return fields[at + 1]
        return None

    def settle(self, settlement: Settlement) -> None:
        """Pass the settlement of the listeners on."""
        self.on_settled(self, settlement)

    def __repr__(self) -> str:
        return f"<Entry {as_text(self.id)} of {self.stream.key}>"


def max_entry_bytes(config: RedisConfig) -> int:
    """Return the size above which an entry cannot hold an event that a bus has sent."""
    return config.max_event_size + ENTRY_OVERHEAD_BYTES


def parse_id(entry_id: bytes | str) -> EntryId:
    """Return an id as two numbers, which can be compared."""
    ms, _, seq = (entry_id.decode() if isinstance(entry_id, bytes) else entry_id).partition("-")
    return int(ms), int(seq or 0)


def as_text(value: Any) -> str:
    """Return a part of a reply as text."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
