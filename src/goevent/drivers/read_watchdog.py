"""The watchdog of a reader: it notices that a broker has answered no fetch for too long.

A driver that reads owns one `ReadWatchdog` per consumer. It tells the watchdog of each successful
fetch, and asks it from time to time. An answer without events is a successful fetch, too: only a
reader that gets no answer is in trouble. The watchdog has no clock and no task of its own, so that
it serves Trio and asyncio alike; a driver passes the time in.

While the connection is lost a driver does not ask, because it has reported the loss already, and
it calls `read` when the connection is back.
"""

from __future__ import annotations

from .._errors import DriverError

READ_SILENCE_SECONDS = 30.0
"""How long a broker may answer no fetch until that is reported."""


class ReadWatchdog:
    """Notices that a reader has had no successful fetch for too long.

    Example:
        >>> watchdog = ReadWatchdog("the topic 'orders'", limit_seconds=10.0)
        >>> watchdog.read(100.0)
        >>> print(watchdog.silence(111.0))
        no successful fetch from the topic 'orders' for 11 s: its events wait in the broker
        >>> print(watchdog.silence(112.0))
        None

    Args:
        source: The place that is read, as the report names it.
        limit_seconds: How long no fetch may succeed. It must be longer than the broker may hold
            back the answer to a fetch.
    """

    __slots__ = ("_is_reported", "_last_read", "_limit_seconds", "_source")

    def __init__(self, source: str, *, limit_seconds: float = READ_SILENCE_SECONDS) -> None:
        self._source = source
        self._limit_seconds = limit_seconds
        self._last_read: float | None = None
        self._is_reported = False

    def read(self, now: float) -> None:
        """Record a successful fetch, or the start of reading.

        Args:
            now: The time in seconds, by any clock that never goes back.
        """
        self._last_read = now
        self._is_reported = False

    def silence(self, now: float, *, reason: str = "") -> DriverError | None:
        """Return the report of a silence that has become too long; None the next times.

        Args:
            now: The time in seconds, by the clock of `read`.
            reason: The last failure of a fetch, if there was one.
        """
        if self._last_read is None:
            self._last_read = now
        seconds = now - self._last_read
        if self._is_reported or seconds < self._limit_seconds:
            return None
        self._is_reported = True
        text = f"no successful fetch from {self._source} for {seconds:.0f} s"
        return DriverError(f"{text}: {reason or 'its events wait in the broker'}")

    def seconds_left(self, now: float) -> float:
        """Return the time after which to ask `silence` again, in seconds; always above 0."""
        if self._is_reported or self._last_read is None:
            return self._limit_seconds
        return max(0.001, self._last_read + self._limit_seconds - now)
