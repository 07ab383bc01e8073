"""Sequence numbers: by which a subscriber notices that a message never arrived.

A publisher counts its messages per channel, from 1 up. A subscriber takes the first number that it
sees as the baseline; a jump after that is a gap. Publishers tell their highest numbers now and
then, so that a lost tail is noticed, too. Nothing in here does I/O.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

KEPT = 10_000  # pairs of origin and channel that a subscriber remembers


class Sequence:
    """The numbers that one publisher gives to its messages."""

    def __init__(self) -> None:
        self._last: dict[str, int] = {}
        self._untold: dict[str, int] = {}
        self._accepted: dict[str, int] = {}

    def next(self, channel: str) -> int:
        """Return the number that the next message on a channel is going to get."""
        return self._last.get(channel, 0) + 1

    def take(self, channel: str) -> int:
        """Return the number of the next message on a channel; it must now be sent."""
        number = self._last.get(channel, 0) + 1
        self._last[channel] = self._untold[channel] = number
        return number

    def accept(self, channel: str, number: int) -> None:
        """Take note that the broker has accepted a message."""
        if channel in self._untold and number > self._accepted.get(channel, 0):
            self._accepted[channel] = number

    def marks(self) -> dict[str, int]:
        """Return the highest number of each channel that was used since the last call."""
        marks, self._untold = self._untold, {}
        self._accepted.clear()
        return marks

    def last_marks(self) -> dict[str, int]:
        """Return what `marks` would, as far as the broker has accepted it: the connection broke."""
        return self._accepted


class GapWatch:
    """What one subscriber has seen, of the origins and channels it heard of last."""

    def __init__(self, kept: int = KEPT) -> None:
        self._kept = kept
        self._seen: OrderedDict[tuple[str, str], int] = OrderedDict()
        self._newest: tuple[str, str] | None = None  # who was heard of last

    def __len__(self) -> int:
        return len(self._seen)

    def arrived(self, origin: str, channel: str, number: int) -> int:
        """Take note of a message; return how many before it are missing.

        Negative for one that comes late, after it was counted as missing.
        """
        key = (origin, channel)
        last = self._seen.get(key)
        if last is None:
            self._seen[key] = number
            self._newest = key
            if len(self._seen) > self._kept:
                self._seen.popitem(last=False)
            return 0
        if number <= last:
            return -1
        self._seen[key] = number
        if key != self._newest:
            self._newest = key
            self._seen.move_to_end(key)
        return number - last - 1

    def told(self, origin: str, channel: str, number: int) -> int:
        """Take note of a publisher's highest number; return how many up to it are missing."""
        last = self._seen.get((origin, channel))
        if last is None or number <= last:
            return 0
        self._seen[origin, channel] = number
        return number - last

    def forget(self, gone: Callable[[str], bool]) -> None:
        """Forget the channels that are not subscribed any more, in which all may be missed."""
        for key in [key for key in self._seen if gone(key[1])]:
            del self._seen[key]
