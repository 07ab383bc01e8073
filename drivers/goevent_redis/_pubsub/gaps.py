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


class GapDetector:
    """The highest sequence numbers that one subscriber has seen.

    Args:
        max_tracked: The number of pairs of origin and channel that are remembered; the pair that
            was seen least recently is forgotten first.
    """

    def __init__(self, max_tracked: int = MAX_TRACKED_SEQUENCES) -> None:
        self._max_tracked = max_tracked
        self._highest: OrderedDict[tuple[str, str], int] = OrderedDict()
        self._newest: tuple[str, str] | None = None  # the key at the end of the dict
        # How many numbers came before the baseline, where it was not the first number.
        self._before: dict[tuple[str, str], int] = {}

    def __len__(self) -> int:
        return len(self._highest)

    def message_arrived(self, origin: str, channel: str, number: int) -> int:
        """Record a message; return how many messages before it are missing.

        The result is -1 for a late message, which an earlier call has counted as missing.
        """
        key = (origin, channel)
        last = self._highest.get(key)
        if last is None:
            self._begin(key, number)
            if number > 1:
                self._before[key] = number - 1
            return 0
        if number <= last:
            return -1
        self._highest[key] = number
        # Messages often come in runs of one origin and channel. They need no move.
        if key != self._newest:
            self._newest = key
            self._highest.move_to_end(key)
        return number - last - 1

    def highest_announced(
        self, origin: str, channel: str, number: int, after: Sequence[str] = ()
    ) -> int:
        """Record a publisher's highest number; return how many messages up to it are missing.

        Args:
            after: The origins that the publisher had before, over earlier connections.
        """
        key = (origin, channel)
        last = self._highest.get(key)
        was_there = any((earlier, channel) in self._highest for earlier in after)
        if last is None:
            if not was_there:
                return 0
            self._begin(key, number)
            return number
        missing = self._before.pop(key, 0) if was_there else 0
        if number > last:
            self._highest[key] = number
            missing += number - last
        return missing

    def _begin(self, key: tuple[str, str], number: int) -> None:
        self._highest[key] = number
        self._newest = key
        if len(self._highest) > self._max_tracked:
            oldest, _ = self._highest.popitem(last=False)
            self._before.pop(oldest, None)

    def forget(self, is_gone: Callable[[str], bool]) -> None:
        """Forget unsubscribed channels: messages missing there are not a gap."""
        for key in [key for key in self._highest if is_gone(key[1])]:
            del self._highest[key]
            self._before.pop(key, None)
