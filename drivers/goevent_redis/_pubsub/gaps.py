"""Sequence numbers: by which a subscriber notices that a message never arrived.

A publisher counts its messages per channel, from 1 up. A subscriber takes the first number that it
sees as the baseline; a jump after that is a gap. Publishers tell their highest numbers now and
then, so that a lost tail is noticed, too. Nothing in here does I/O.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

KEPT = 10_000  # pairs of origin and channel that a subscriber remembers


class Series:
    """The numbers that one publisher gives to its messages of one name.

    Attributes:
        name: the event name.
        head: what all commands that publish it begin with.
        last: the highest number that is taken, 0 for none.
        accepted: the highest one that the broker has accepted, as far as is known.
        told: the highest one that others were told of.
    """

    __slots__ = ("accepted", "head", "last", "name", "told")

    def __init__(self, name: str, head: bytes) -> None:
        self.name = name
        self.head = head
        self.last = self.accepted = self.told = 0

    def accept(self, number: int) -> None:
        """Take note that the broker has accepted a message."""
        if number > self.accepted:
            self.accepted = number


class Numbers:
    """The numbers that one publisher gives to its messages.

    Args:
        head: returns what the commands for an event name begin with.
    """

    def __init__(self, head: Callable[[str], bytes] = lambda _: b"") -> None:
        self._head = head
        self._series: dict[str, Series] = {}

    def of(self, name: str) -> Series:
        """Return the numbers of an event name."""
        series = self._series.get(name)
        if series is None:
            self._series[name] = series = Series(name, self._head(name))
        return series

    def marks(self) -> dict[str, int]:
        """Return the highest number of each name that was used since the last call."""
        marks: dict[str, int] = {}
        for series in self._untold():
            marks[series.name] = series.told = series.last
        return marks

    def accepted_marks(self) -> dict[str, int]:
        """Return what `marks` would, as far as the broker has accepted it."""
        return {series.name: series.accepted for series in self._untold() if series.accepted}

    def _untold(self) -> list[Series]:
        return [series for series in self._series.values() if series.last > series.told]


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
