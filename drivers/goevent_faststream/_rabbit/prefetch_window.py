"""The number of events that the server may send ahead on one queue, by the size of its events.

AMQP bounds the events of a consumer by number only; RabbitMQ has no bound in bytes. So the adapter
consumes each queue with a window that is small while the size of its events is unknown, and
consumes it anew with another one when the events that came say so. A `PrefetchWindow` chooses its
size. It is owned by the adapter, has no clock, and does not touch the server.
"""

from __future__ import annotations

USUAL_MAX_EVENT_BYTES = 1 << 20  # the limit of goevent's codecs


def first_window(prefetch: int, prefetch_bytes: int, queues: int = 1) -> int:
    """Return the size of the window of a queue whose events are not known yet.

    Args:
        queues: The number of queues that share the bytes.
    """
    return min(prefetch, max(1, prefetch_bytes // USUAL_MAX_EVENT_BYTES // max(1, queues)))


class PrefetchWindow:
    """The window of one queue.

    Attributes:
        size: How many unacknowledged events the server may send; 0 while nothing is consumed,
            because the bus holds enough bytes.
    """

    def __init__(self, prefetch: int, prefetch_bytes: int) -> None:
        self._prefetch = prefetch
        self._prefetch_bytes = prefetch_bytes
        self._arrived = 0
        self._largest_bytes = self._largest_before_bytes = 1
        self.size = first_window(prefetch, prefetch_bytes)

    def arrived(self, body_bytes: int) -> bool:
        """Note an event; return whether so many have come that the window may have to change."""
        self._arrived += 1
        self._largest_bytes = max(self._largest_bytes, body_bytes)
        return self._arrived >= self.size or body_bytes > USUAL_MAX_EVENT_BYTES

    def fitting(self, held: int, held_bytes: int, queues: int) -> int:
        """Return the size that the window should have; the size now if that is good enough.

        Args:
            held: The number of events of this queue that the bus holds.
            held_bytes: The size of all events that the bus holds.
            queues: The number of queues that the bus consumes.
        """
        limit, largest = self._prefetch_bytes, max(self._largest_bytes, self._largest_before_bytes)
        if not self.size:
            if 2 * held_bytes > limit:
                return 0
            first = first_window(self._prefetch, limit, queues)
            return min(first, self._bounded(limit // 2 // largest))
        if held_bytes > limit:
            return 0
        is_known = self._arrived >= self.size
        if is_known:
            # The sizes of a whole window of events are known; the next one may have others.
            self._largest_before_bytes = self._largest_bytes
            self._arrived, self._largest_bytes = 0, 1
        if (bounded := self._bounded(limit // largest)) < self.size:
            return bounded
        if is_known and held >= self.size:
            # The events of the window before are still held, and come on top.
            larger = self._bounded((limit - held_bytes) // (2 * largest))
            if larger >= 2 * self.size:
                return larger
        return self.size

    def _bounded(self, events: int) -> int:
        return max(1, min(self._prefetch, events))
