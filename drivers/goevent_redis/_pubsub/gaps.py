"""Gap detection: a subscriber finds out that messages never arrived.

A publisher numbers its messages per channel, from 1 up. The receiver asks the detector about each
number that arrives. The first number of an origin and channel is the baseline; a jump after that is
a gap. Publishers also announce their highest numbers now and then, so the loss of a last message is
found, too. Nothing here does I/O.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

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

    def __len__(self) -> int:
        return len(self._highest)

    def message_arrived(self, origin: str, channel: str, number: int) -> int:
        """Record a message; return how many messages before it are missing.

        The result is -1 for a late message, which an earlier call has counted as missing.
        """
        key = (origin, channel)
        last = self._highest.get(key)
        if last is None:
            self._highest[key] = number
            self._newest = key
            if len(self._highest) > self._max_tracked:
                self._highest.popitem(last=False)
            return 0
        if number <= last:
            return -1
        self._highest[key] = number
        # Messages often come in runs of one origin and channel. They need no move.
        if key != self._newest:
            self._newest = key
            self._highest.move_to_end(key)
        return number - last - 1

    def highest_announced(self, origin: str, channel: str, number: int) -> int:
        """Record a publisher's highest number; return how many messages up to it are missing."""
        last = self._highest.get((origin, channel))
        if last is None or number <= last:
            return 0
        self._highest[origin, channel] = number
        return number - last

    def forget(self, is_gone: Callable[[str], bool]) -> None:
        """Forget unsubscribed channels: messages missing there are not a gap."""
        for key in [key for key in self._highest if is_gone(key[1])]:
            del self._highest[key]
