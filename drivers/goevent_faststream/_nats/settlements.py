"""The settlements that this bus remembers, because the server may forget them.

A server that is killed forgets acknowledgements and counts of deliveries that it had not written to
its disk. It then delivers these events again as if for the first time. `NatsStream` owns one
`RememberedSettlements` for one life of the stream; the settler adds to it, and the consumers ask it
about events that they may have had before.

Theory of operation: Acknowledged events are kept as intervals of sequences, which are numbers of
the whole stream. A bus that listens to most events of the stream has few intervals, since they
merge. If other events lie in between, intervals stay apart, and the lowest ones are forgotten above
a limit: a server forgets what it was told last.

A killed server may also lose the last events of the stream, and give their sequences to new ones.
An acknowledgement of the old event must not hide the new one. So each interval has the newest time
at which one of its events was stored: the new event was stored later. From there on, all sequences
belong to new events.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from datetime import datetime

MAX_INTERVALS = 20_000
MAX_COUNTED_EVENTS = 10_000


class RememberedSettlements:
    """The events of one stream that this bus has acknowledged or returned.

    Args:
        max_intervals: How many separate intervals of acknowledged events are kept.
        max_counted_events: For how many returned events the deliveries are kept.
    """

    def __init__(
        self,
        max_intervals: int = MAX_INTERVALS,
        max_counted_events: int = MAX_COUNTED_EVENTS,
    ) -> None:
        self._max_intervals = max_intervals
        self._max_counted_events = max_counted_events
        # The intervals in rising order, each in the same place of the three lists.
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._newest: list[datetime] = []
        self._counted: OrderedDict[int, tuple[datetime, int]] = OrderedDict()

    def __len__(self) -> int:
        """Return the number of intervals."""
        return len(self._starts)

    def add(self, sequence: int, stored: datetime) -> None:
        """Remember that an event is acknowledged.

        Args:
            sequence: The sequence of the event in the stream.
            stored: The time at which the stream stored the event.
        """
        if self._counted:
            self._counted.pop(sequence, None)
        starts, ends, newest = self._starts, self._ends, self._newest
        if ends and sequence == ends[-1] + 1:
            ends[-1] = sequence
            if stored > newest[-1]:
                newest[-1] = stored
            return
        right = bisect_right(starts, sequence)
        left = right - 1
        is_next_to_left = left >= 0 and sequence <= ends[left] + 1
        is_next_to_right = right < len(starts) and starts[right] == sequence + 1
        if is_next_to_left:
            ends[left] = max(ends[left], sequence)
            newest[left] = max(newest[left], stored)
            if is_next_to_right:
                ends[left] = ends[right]
                newest[left] = max(newest[left], newest[right])
                del starts[right], ends[right], newest[right]
        elif is_next_to_right:
            starts[right] = sequence
            newest[right] = max(newest[right], stored)
        else:
            starts.insert(right, sequence)
            ends.insert(right, sequence)
            newest.insert(right, stored)
            if len(starts) > self._max_intervals:
                self._forget_lowest()

    def _forget_lowest(self) -> None:
        # Several at once, because deleting from the front moves all others.
        count = max(1, self._max_intervals // 10)
        del self._starts[:count], self._ends[:count], self._newest[:count]

    def is_acknowledged(self, sequence: int, stored: datetime) -> bool:
        """Tell whether this bus has acknowledged an event that arrives again."""
        index = bisect_right(self._starts, sequence) - 1
        if index < 0 or sequence > self._ends[index]:
            return False
        if stored <= self._newest[index]:
            return True
        self._forget_from(sequence)
        return False

    def _forget_from(self, sequence: int) -> None:
        """Forget all events from a sequence on, since it was given to a new event."""
        kept = bisect_right(self._starts, sequence - 1)
        for values in (self._starts, self._ends, self._newest):
            del values[kept:]
        if self._ends:
            self._ends[-1] = min(self._ends[-1], sequence - 1)

    def count(self, sequence: int, stored: datetime, deliveries: int) -> None:
        """Remember how often an event was delivered that this bus returns.

        Args:
            deliveries: The deliveries that count, the last one included if it does.
        """
        self._counted[sequence] = stored, deliveries
        self._counted.move_to_end(sequence)
        if len(self._counted) > self._max_counted_events:
            self._counted.popitem(last=False)

    def deliveries(self, sequence: int, stored: datetime) -> int:
        """Return how often an event was delivered before that arrives again; 0 if unknown."""
        stored_before, deliveries = self._counted.get(sequence, (stored, 0))
        return deliveries if stored_before == stored else 0
