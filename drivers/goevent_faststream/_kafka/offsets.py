"""Windows: what a bus holds of one partition, between what is committed and what is read.

No I/O. Kafka knows one number for each partition and group, the committed offset, and a note beside
it. A window moves that number over the contiguous prefix of what is settled, never further, and
puts into the note what is known of the events behind it: how often each was handed out, and which
are settled already. Who gets the partition next, also after a crash, goes on from there.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import groupby
from typing import Any, NamedTuple

from goevent.drivers import Backlog

LONGEST = 2000  # characters of a note; brokers take 4096
_HEAD = "goevent/1:"
_SETTLED = -1


class Place(NamedTuple):
    """Where a group is in a partition: the next offset to be settled, and the note beside it."""

    offset: int
    note: str = ""


class State(Enum):
    """Where an event is.

    WAITING: here, for its turn.
    HANDED: with the bus.
    RESTING: here, until it comes again.
    SETTLED: done with.
    """

    WAITING = 1
    HANDED = 2
    RESTING = 3
    SETTLED = 4


@dataclass(slots=True, eq=False)
class Record:
    """One message of a partition.

    Attributes:
        published: unix time in seconds.
        raw: what the client has read.
        deliveries: how often it was handed out.
        window: where it belongs.
    """

    partition: int
    offset: int
    key: bytes | None
    value: bytes
    headers: Mapping[str, str]
    published: float
    raw: Any
    deliveries: int = 0
    state: State = State.WAITING
    window: Window = field(init=False, repr=False)


class Window:
    """What a bus holds of one partition.

    Attributes:
        base: everything below it is settled.
        position: the offset to be read next.
        live: the partition is this bus's.
        committed: what the broker was told last.
        records: from the first that is not settled on, in the order of the partition.
    """

    def __init__(self, partition: int, place: Place) -> None:
        self.partition = partition
        self.base = self.position = place.offset
        self.live = True
        self.committed = place
        self.records: deque[Record] = deque()
        self._marks = read_note(place)
        self._keys: dict[bytes, deque[Record]] = {}

    def admit(self, record: Record) -> bool:
        """Take a message in; return whether it may be handed over now.

        It may not if it was settled before, was taken in already, or waits for one with its key.
        """
        if record.offset < self.position:
            return False
        record.window = self
        self.position = record.offset + 1
        mark = self._marks.pop(record.offset, 0)
        self.records.append(record)
        if mark == _SETTLED:
            record.state = State.SETTLED
            self._move()
            return False
        record.deliveries = mark
        return self._is_first_of_its_key(record)

    def _is_first_of_its_key(self, record: Record) -> bool:
        if record.key is None:
            return True
        waiting = self._keys.get(record.key)
        if waiting is None:
            self._keys[record.key] = deque((record,))
            return True
        waiting.append(record)
        return False

    def settle(self, record: Record) -> Record | None:
        """Take note that a message is done with; return the next of its key."""
        if record.state is State.SETTLED:
            return None
        record.state = State.SETTLED
        self._move()
        if record.key is None:
            return None
        waiting = self._keys[record.key]
        waiting.popleft()
        if waiting:
            return waiting[0]
        del self._keys[record.key]
        return None

    def _move(self) -> None:
        records = self.records
        while records and records[0].state is State.SETTLED:
            records.popleft()
        self.base = records[0].offset if records else self.position

    def waiting(self) -> Iterator[Record]:
        """Return those that may be handed over, and were not."""
        for record in self.records:
            first = record.key is None or self._keys[record.key][0] is record
            if record.state is State.WAITING and first:
                yield record

    def handed(self) -> int:
        """Return how many the bus has."""
        return sum(record.state is State.HANDED for record in self.records)

    def place(self) -> Place:
        """Return what the broker is to be told."""
        marks = {
            record.offset: _SETTLED if record.state is State.SETTLED else record.deliveries
            for record in self.records
        }
        return Place(self.base, write_note(self.base, self.position, marks | self._marks))


def write_note(base: int, position: int, marks: Mapping[int, int]) -> str:
    """Return what is known of the offsets from `base` on, as runs of equal marks.

    An offset that is not there, below the position, holds no message: it counts as settled. What
    would make the note too long is left out: it comes again as if it were new.
    """
    end = max((offset + 1 for offset, mark in marks.items() if mark), default=base)
    each = (marks.get(n, _SETTLED if n < position else 0) for n in range(base, end))
    text = ""
    for mark, run in groupby(each):
        count = sum(1 for _ in run)
        added = f"{count}x{'s' if mark == _SETTLED else mark},"
        if len(text) + len(added) > LONGEST:
            break
        text += added
    return _HEAD + text if text else ""


def read_note(place: Place) -> dict[int, int]:
    """Return the marks in a note; none if it is another's."""
    if not place.note.startswith(_HEAD):
        return {}
    marks: dict[int, int] = {}
    offset = place.offset
    for run in place.note.removeprefix(_HEAD).split(",")[:-1]:
        count, _, mark = run.partition("x")
        if not count.isdigit() or not (mark == "s" or mark.isdigit()) or len(count) > 7:
            return {}
        value = _SETTLED if mark == "s" else int(mark)
        if value:
            marks.update(dict.fromkeys(range(offset, offset + int(count)), value))
        offset += int(count)
    return marks


def backlog_of(name: str, lag: int, windows: Sequence[Window]) -> Backlog:
    """Return what there is to do; called by Trio, so it only looks.

    Args:
        lag: how many were not read yet.
    """
    records = [record for window in windows for record in [*window.records]]
    held = [r for r in records if r.state in (State.HANDED, State.RESTING)]
    oldest = min((record.published for record in held), default=None)
    return Backlog(
        event_name=name,
        lag=lag + sum(record.state is State.WAITING for record in records),
        pending=len(held),
        oldest_pending=0.0 if oldest is None else max(0.0, time.time() - oldest),
    )
