"""The offsets of one partition: the offset to commit, and the records behind it. No I/O.

`consumer` adds the records that it reads and settles them; it commits the `CommitPoint`.

Theory of operation
-------------------

Kafka keeps one number for each partition and consumer group, the committed offset: all records
below it are done. It knows no acknowledgement of a single record. FastStream's `ack()` commits the
position of the consumer, which lies behind everything that was read; records that are still being
worked on would be committed with it, and lost in a crash. So it is not used here.

Listeners end in any order. `PartitionOffsets` keeps the records from the first unsettled one to the
position, and moves `base` over the contiguous settled prefix, never further. The committed offset
is `base`. A slow record holds `base` back, while the records behind it are settled one by one;
`position`, the offset to be read next, is ahead of them all.

A crash would deliver everything between the two again, also the settled records, and without the
number of their deliveries. Kafka keeps a string beside each committed offset, its metadata. That
string holds a note: for each offset from `base` on, whether it is settled or how often it was
delivered, as runs of equal marks: `goevent/1:1x1,8xs,` says that the first record was delivered
once, and that the next eight are settled. The member that takes the partition over, even after a
crash, skips the settled records and continues the count of the deliveries of the others.

A NUL ends the metadata, since librdkafka returns them as a string of C: confluent-kafka sends the
NUL itself, and behind the metadata of other clients it returns whatever lies next in its memory. A
member that reads a note without a NUL, of an older goevent, skips what follows the last run.

A broker that was killed may go back to an older commit point, whose note does not know what came
later. So `history` remembers what this bus has had: what it has settled is settled again without
running, and other records are marked as repeats.

Records with the same key run one after another. Each key has a queue of its records; only the first
may be delivered, and a settled record makes the next one ready.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import groupby
from typing import Any, NamedTuple

from goevent.drivers import Backlog, KeyedFifo

from .history import PartitionHistory, Recollection

# Brokers take 4096 characters of metadata, unless they are configured otherwise.
MAX_NOTE_CHARS = 2000
MAX_NUMBER_DIGITS = 7
# A note about more records is not of goevent, and would fill the memory.
MAX_NOTE_RECORDS = 1_000_000
METADATA_END = "\0"
_NOTE_HEAD = "goevent/1:"
_SETTLED = -1


class CommitPoint(NamedTuple):
    """The state of a group in a partition, as the broker keeps it.

    Attributes:
        offset: The committed offset: the first one that is not settled.
        note: The metadata, a note about the records from `offset` on.
    """

    offset: int
    note: str = ""


NOTHING_COMMITTED = CommitPoint(-1)
"""Differs from every commit point, so that the next one is committed in any case."""


class RecordState(Enum):
    """The state of a record.

    READY: It waits to be delivered.
    DELIVERED: The bus has it.
    PAUSED: It waits for its next delivery.
    SETTLED: It is done.
    """

    READY = 1
    DELIVERED = 2
    PAUSED = 3
    SETTLED = 4


@dataclass(slots=True, eq=False)
class KafkaRecord:
    """One record of a partition.

    Attributes:
        published: The time of the record, in Unix seconds.
        raw: The client's own record.
        deliveries: How often it was delivered.
        is_repeat: This bus may have had it, and `deliveries` does not count that.
        offsets: The partition that it was added to.
    """

    partition: int
    offset: int
    key: bytes | None
    value: bytes
    headers: Mapping[str, str]
    published: float
    raw: Any
    deliveries: int = 0
    state: RecordState = RecordState.READY
    is_repeat: bool = False
    offsets: PartitionOffsets = field(init=False, repr=False)

    def mark_settled(self) -> None:
        """Mark the record as done, and free its body: it may stay behind a slow one for long."""
        self.state = RecordState.SETTLED
        self.value, self.raw = b"", None


class PartitionOffsets:
    """The records of one partition between the committed offset and the position.

    Args:
        history: What this bus has had of the partition before; None for nothing.

    Attributes:
        base: The offset that may be committed: everything below it is settled.
        position: The offset to be read next.
        repeats_until: Records below it may have been delivered by a bus that could not commit that.
        is_assigned: Whether the partition is assigned to this member now.
        committed: The last commit point that this member knows the broker to have.
        records: The records from the first unsettled one on, in the order of the partition.
        waiting_bytes: The size of the bodies of the records that neither the bus has nor are done.
    """

    def __init__(
        self, partition: int, start: CommitPoint, history: PartitionHistory | None = None
    ) -> None:
        self.partition = partition
        self.base = self.position = start.offset
        self.repeats_until = 0
        self.is_assigned = True
        self.committed = start
        self.records: deque[KafkaRecord] = deque()
        self.waiting_bytes = 0
        self._marks = read_note(start)
        self._history = PartitionHistory() if history is None else history
        self._order: KeyedFifo[bytes, KafkaRecord] = KeyedFifo()

    def add(self, record: KafkaRecord) -> bool:
        """Add a record; return whether it may be delivered now.

        It may not if it was settled before, was added already, or waits for one with its key.
        """
        if record.offset < self.position:
            return False
        record.offsets = self
        self.position = record.offset + 1
        mark = self._marks.pop(record.offset, 0)
        known = self._history.had(record.offset, record.published)
        self.records.append(record)
        if mark == _SETTLED or known is Recollection.SETTLED:
            record.mark_settled()
            self._history.settled(record.offset, record.published)
            self._advance()
            return False
        record.deliveries = mark
        record.is_repeat = known is Recollection.REPEAT or record.offset < self.repeats_until
        return record.key is None or self._order.add(record.key, record)

    def settle(self, record: KafkaRecord) -> KafkaRecord | None:
        """Mark a record as done; return the next one with its key, which is ready now."""
        if record.state is RecordState.SETTLED:
            return None
        record.mark_settled()
        self._history.settled(record.offset, record.published)
        self._advance()
        if record.key is None:
            return None
        # Only the first record of a key is delivered, so this one is the first.
        return self._order.pop(record.key)

    def _advance(self) -> None:
        records = self.records
        while records and records[0].state is RecordState.SETTLED:
            records.popleft()
        self.base = records[0].offset if records else self.position

    def ready(self) -> Iterator[KafkaRecord]:
        """Yield the records that may be delivered now."""
        for record in self.records:
            first = record.key is None or self._order.first(record.key) is record
            if record.state is RecordState.READY and first:
                yield record

    def delivered_count(self) -> int:
        """Return how many records the bus has."""
        return sum(record.state is RecordState.DELIVERED for record in self.records)

    def commit_point(self) -> CommitPoint:
        """Return the current commit point."""
        marks = {
            record.offset: _SETTLED if record.state is RecordState.SETTLED else record.deliveries
            for record in self.records
        }
        # Marks of the previous member for records that were not read yet are kept.
        return CommitPoint(self.base, write_note(self.base, self.position, marks | self._marks))


def write_note(base: int, position: int, marks: Mapping[int, int]) -> str:
    """Return the note about the offsets from `base` on, as runs of equal marks.

    An offset below the position without a mark holds no record and counts as settled. A note that
    would be too long is cut: the records behind the cut come again as if they were new.
    """
    end = max((offset + 1 for offset, mark in marks.items() if mark), default=base)
    each = (marks.get(n, _SETTLED if n < position else 0) for n in range(base, end))
    text = ""
    for mark, run in groupby(each):
        count = sum(1 for _ in run)
        added = f"{count}x{'s' if mark == _SETTLED else mark},"
        if len(text) + len(added) > MAX_NOTE_CHARS:
            break
        text += added
    return _NOTE_HEAD + text if text else ""


def read_note(point: CommitPoint) -> dict[int, int]:
    """Return the marks in a note by their offsets; none if goevent has not written it.

    A note ends at the first run that goevent cannot have written: confluent-kafka may return bytes
    behind the note of another client.
    """
    if not point.note.startswith(_NOTE_HEAD):
        return {}
    marks: dict[int, int] = {}
    offset = point.offset
    for run in point.note.removeprefix(_NOTE_HEAD).split(",")[:-1]:
        count, _, mark = run.partition("x")
        if not (_is_number(count) and (mark == "s" or _is_number(mark))):
            break
        end = offset + int(count)
        if end > point.offset + MAX_NOTE_RECORDS:
            break
        value = _SETTLED if mark == "s" else int(mark)
        if value:
            marks.update(dict.fromkeys(range(offset, end), value))
        offset = end
    return marks


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= MAX_NUMBER_DIGITS


def end_metadata(note: str) -> str:
    """Return a note as the metadata that a client writes as they are."""
    return note + METADATA_END if note else ""


def note_of(metadata: str | None) -> str:
    """Return the note in the metadata that a client has read."""
    return (metadata or "").partition(METADATA_END)[0]


def backlog_of(name: str, unread: int, partitions: Sequence[PartitionOffsets]) -> Backlog:
    """Return the work of a group; called from Trio's thread, so it only reads.

    Args:
        unread: How many records have not been read yet.
    """
    records = [record for partition in partitions for record in [*partition.records]]
    pending = [r for r in records if r.state in (RecordState.DELIVERED, RecordState.PAUSED)]
    ready = [r for r in records if r.state is RecordState.READY]
    # Of records that are not read yet, the time is unknown; those that are read came earlier.
    oldest_waiting = None if unread and not ready else _oldest_age(ready)
    return Backlog(
        event_name=name,
        lag=unread + len(ready),
        pending=len(pending),
        oldest_pending=_oldest_age(pending),
        oldest_waiting=oldest_waiting,
    )


def _oldest_age(records: Sequence[KafkaRecord]) -> float:
    oldest = min((record.published for record in records), default=None)
    return 0.0 if oldest is None else max(0.0, time.time() - oldest)
