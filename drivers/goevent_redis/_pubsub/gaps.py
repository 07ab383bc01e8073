"""Gap detection: a subscriber finds out that messages never arrived.

A publisher numbers its messages per channel, from 1 up. The receiver asks the detector about each
number that arrives. The first number of an origin and channel is the baseline; a jump after that is
a gap. Publishers also announce their highest numbers now and then, so the loss of a last message is
found, too. A publisher that connects again has a new origin, with new numbers. Its announcements
name the earlier origins: a subscriber that knows one of them has missed all numbers before the
baseline. Nothing here does I/O.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

MAX_TRACKED_SEQUENCES = 10_000
"""The number of pairs of origin and channel that a subscriber remembers."""


class TrackedSequence:
    """The numbers of one origin and channel that one subscriber has seen.

    Attributes:
        origin: The origin.
        channel: The channel.
        highest: The highest number.
        before: The number of messages before the baseline that may have been missed.
    """

    __slots__ = ("before", "channel", "highest", "origin")

    def __init__(self, origin: str, channel: str, highest: int) -> None:
        self.origin = origin
        self.channel = channel
        self.highest = highest
        self.before = 0


_NO_SEQUENCE = TrackedSequence("", "", -1)


class GapDetector:
    """The highest sequence numbers that one subscriber has seen.

    Args:
        max_tracked: The number of pairs of origin and channel that are remembered; the pair that
            was seen least recently is forgotten first.
    """

    def __init__(self, max_tracked: int = MAX_TRACKED_SEQUENCES) -> None:
        self._max_tracked = max_tracked
        self._sequences: OrderedDict[tuple[str, str], TrackedSequence] = OrderedDict()
        self._newest = _NO_SEQUENCE  # the one at the end of the dict, or none

    def __len__(self) -> int:
        return len(self._sequences)

    def continues(self, origin: str, channel: str, number: int | None) -> bool:
        """Record a message if it is the next one after the message that was recorded last.

        Messages often come in runs of one origin and channel, and this is the short way for them.
        False means that nothing is recorded, and `message_arrived` has to be called.
        """
        newest = self._newest
        follower = newest.highest + 1
        if number == follower and channel == newest.channel and origin == newest.origin:
            newest.highest = follower
            return True
        return False

    def message_arrived(self, origin: str, channel: str, number: int) -> int:
        """Record a message; return how many messages before it are missing.

        The result is -1 for a late message, which an earlier call has counted as missing.
        """
        key = (origin, channel)
        sequence = self._sequences.get(key)
        if sequence is None:
            self._begin(key, number).before = max(number - 1, 0)
            return 0
        last = sequence.highest
        if number <= last:
            return -1
        sequence.highest = number
        if sequence is not self._newest:
            self._newest = sequence
            self._sequences.move_to_end(key)
        return number - last - 1

    def highest_announced(
        self, origin: str, channel: str, number: int, after: Sequence[str] = ()
    ) -> int:
        """Record a publisher's highest number; return how many messages up to it are missing.

        Args:
            after: The origins that the publisher had before, over earlier connections.
        """
        key = (origin, channel)
        sequence = self._sequences.get(key)
        was_there = any((earlier, channel) in self._sequences for earlier in after)
        if sequence is None:
            if not was_there:
                return 0
            self._begin(key, number)
            return number
        missing = 0
        if was_there:
            missing, sequence.before = sequence.before, 0
        if number > sequence.highest:
            missing += number - sequence.highest
            sequence.highest = number
        return missing

    def _begin(self, key: tuple[str, str], number: int) -> TrackedSequence:
        sequence = self._sequences[key] = self._newest = TrackedSequence(*key, number)
        if len(self._sequences) > self._max_tracked:
            self._sequences.popitem(last=False)
        return sequence

    def forget(self, is_gone: Callable[[str], bool]) -> None:
        """Forget unsubscribed channels: messages missing there are not a gap."""
        for key in [key for key in self._sequences if is_gone(key[1])]:
            if self._sequences.pop(key) is self._newest:
                self._newest = _NO_SEQUENCE
