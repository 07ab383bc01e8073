"""The records of a partition that this bus has had: the broker may forget commits. No I/O.

A consumer keeps one `PartitionHistory` for each partition, from its first assignment until it
stops; `PartitionOffsets` tells it of records that are read and settled.

Theory of operation
-------------------

A broker that was killed may go back to an older committed offset, or to none. It then returns
records again that this bus has had, and without the number of their deliveries. A record that is
not above the highest one had is a repeat, and one that this bus has settled need not run again.

Offsets alone do not tell that. A topic that is deleted and created again gives its offsets to other
records, and so does a broker that has lost the end of its log. To settle an event without running
it would lose it, so a settled record is known by its offset and its time. An offset that comes with
another time, or with a later time than any record had, belongs to a new record, and so do all
offsets from there on. A record without a time is never settled unseen.

The times of the last `MAX_REMEMBERED_RECORDS` settled offsets are kept, eight bytes for each. Older
ones run again, as repeats.
"""

from __future__ import annotations

from array import array
from enum import Enum

MAX_REMEMBERED_RECORDS = 20_000
_NOT_SETTLED = -1.0


class Recollection(Enum):
    """What a bus remembers of a record.

    NEW: It had no such record.
    REPEAT: It may have had it.
    SETTLED: It has settled it.
    """

    NEW = 1
    REPEAT = 2
    SETTLED = 3


class PartitionHistory:
    """The records of one partition that this bus has had.

    Args:
        max_records: How many settled offsets are remembered.

    Attributes:
        first: The first offset that is remembered one by one.
    """

    def __init__(self, max_records: int = MAX_REMEMBERED_RECORDS) -> None:
        self._max_records = max_records
        self._highest = -1
        self._newest = _NOT_SETTLED
        self.first = 0
        # The times of the offsets from `first` on.
        self._times = array("d")

    def had(self, offset: int, time: float) -> Recollection:
        """Record that a record is read, and return what is known of it.

        Args:
            time: The time of the record in Unix seconds, or a negative number for none.
        """
        if offset > self._highest:
            self._highest = offset
            if time > self._newest:
                self._newest = time
            return Recollection.NEW
        index = offset - self.first
        settled = self._times[index] if 0 <= index < len(self._times) else _NOT_SETTLED
        is_other = settled not in (_NOT_SETTLED, time)
        if is_other or time > self._newest:
            del self._times[max(0, index) :]
            self._highest, self._newest = offset, max(self._newest, time)
            return Recollection.NEW
        return Recollection.REPEAT if settled == _NOT_SETTLED else Recollection.SETTLED

    def settled(self, offset: int, time: float) -> None:
        """Remember that a record is settled."""
        times = self._times
        index, count = offset - self.first, len(times)
        if time < 0:
            return
        if index == count:
            times.append(time)
        elif 0 <= index < count:
            times[index] = time
        elif index > count + self._max_records or not count:
            self.first, self._times = offset, array("d", [time])
        elif index > 0:
            times.extend([_NOT_SETTLED] * (index - count))
            times.append(time)
        if count > 2 * self._max_records:
            excess = len(self._times) - self._max_records
            del self._times[:excess]
            self.first += excess
