"""Marks: the highest sequence numbers of a publisher, and the messages that announce them.

The sequencer sends them on a channel of their own, and the receiver compares them with the numbers
that have arrived. A message of marks has at most a thousand names. Nothing here does I/O.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

import msgspec

MARKS_CHANNEL_NAME = "$marks"
"""The channel of the announced sequence numbers; no event can have this name."""


class SequenceMarks(msgspec.Struct, omit_defaults=True):
    """The highest sequence numbers that a publisher has used, by event name.

    Attributes:
        origin: The publisher, over one connection.
        marks: The highest number of each event name.
        after: The origins that the same publisher had over earlier connections.
        asks: All other buses are asked for their marks.
    """

    origin: str
    marks: dict[str, int]
    after: list[str] = []
    asks: bool = False


encode_marks = msgspec.json.Encoder().encode
decode_marks = msgspec.json.Decoder(SequenceMarks).decode


class MergedMarks:
    """Marks that wait while the receiver's queue is full: the latest ones of each publisher.

    Args:
        max_marks: How many marks are kept; those of the publisher that was heard least recently are
            dropped first. A gap detector remembers no more.
    """

    def __init__(self, max_marks: int) -> None:
        self._max_marks = max_marks
        self._count = 0
        self._by_origin: OrderedDict[str, SequenceMarks] = OrderedDict()

    def add(self, later: SequenceMarks) -> None:
        """Add marks; of two marks for one name of a publisher, the later one counts."""
        merged = self._by_origin.get(later.origin)
        if merged is None:
            merged = self._by_origin[later.origin] = SequenceMarks(later.origin, {})
        self._by_origin.move_to_end(later.origin)
        self._count -= len(merged.marks)
        merged.marks.update(later.marks)
        merged.after = later.after
        self._count += len(merged.marks)
        while self._count > self._max_marks and len(self._by_origin) > 1:
            _, oldest = self._by_origin.popitem(last=False)
            self._count -= len(oldest.marks)

    def all(self) -> Iterable[SequenceMarks]:
        """Return the marks of all publishers, in the order of their last messages."""
        return self._by_origin.values()
