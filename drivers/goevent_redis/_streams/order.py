"""The order of deliveries: a strategy that differs between competing consumers and partitions.

The deliverer, the acknowledger and the reader do their work in the same way for both. Whenever a
step depends on the order, they ask the `DeliveryOrder` of their consumer. `CompetingOrder` keeps no
order: an entry that is not done goes back to Redis, where each consumer of the group may claim it.
`partitions.key_order.KeyOrder` keeps the entries of each key in order, under the lease of
their partition.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from .config import StreamsConfig
from .lease import Lease
from .scripts import ScriptCall
from .stream import Entry, Stream


@dataclass(slots=True, eq=False)
class ReleasedEntry:
    """An entry that goes back to Redis: after a failure, or because no listener began with it.

    Attributes:
        idle_ms: The milliseconds for which the entry counts as idle already. Consumers may claim it
            when it has been idle for `claim_idle`.
        deliveries: The number of deliveries that Redis notes.
    """

    entry: Entry
    idle_ms: int
    deliveries: int


class DeliveryOrder(Protocol):
    """The decisions that depend on the order of deliveries.

    Attributes:
        uncounted: How many deliveries of an isolated entry Redis has not counted before the entry
            begins.
    """

    uncounted: int

    def may_start(self, entry: Entry) -> bool:
        """Tell whether listeners may begin with an entry now; keep it for later if not."""
        ...

    async def may_start_isolated(self, entry: Entry) -> bool:
        """Tell whether an isolated entry may begin now, and count its delivery."""
        ...

    def finished(self, entry: Entry) -> None:
        """Note that an entry is done, or a dead letter at the server."""
        ...

    def retry(self, entry: Entry, after: float) -> ReleasedEntry | None:
        """Deliver a failed entry again after a pause in seconds.

        Returns:
            The release to send to Redis; None if this bus keeps the entry.
        """
        ...

    def release(self, entry: Entry, after: float = 0.0) -> ReleasedEntry | None:
        """Release an entry with which no listener began; the delivery does not count.

        Args:
            after: Seconds until a bus may have it again.

        Returns:
            The release to send to Redis; None if this bus keeps the entry.
        """
        ...

    def fenced(self, call: ScriptCall, lease: Lease | None) -> ScriptCall:
        """Return a call that takes effect only as long as this bus may settle the entries."""
        ...


class CompetingOrder:
    """The order of competing consumers: none.

    Attributes:
        on_retry: Called with the stream of an entry that failed, and the seconds until it can be
            claimed again.
    """

    uncounted = 0

    def __init__(self, config: StreamsConfig) -> None:
        self._config = config
        self.on_retry: Callable[[Stream, float], None] = _retry_nothing

    def may_start(self, entry: Entry) -> bool:
        """Return True: any consumer may begin with any entry."""
        return True

    async def may_start_isolated(self, entry: Entry) -> bool:
        """Return True: the claim has counted the delivery."""
        return True

    def finished(self, entry: Entry) -> None:
        """Do nothing: no entry waits for another one."""

    def retry(self, entry: Entry, after: float) -> ReleasedEntry | None:
        """Release a failed entry; its delivery counts."""
        self.on_retry(entry.stream, after)
        return self._released(entry, after, entry.deliveries)

    def release(self, entry: Entry, after: float = 0.0) -> ReleasedEntry | None:
        """Release an entry as if it had not been delivered."""
        return self._released(entry, after, max(0, entry.deliveries - 1))

    def fenced(self, call: ScriptCall, lease: Lease | None) -> ScriptCall:
        """Return the call: the scripts check the owner of each entry themselves."""
        return call

    def _released(self, entry: Entry, after: float, deliveries: int) -> ReleasedEntry:
        idle = max(0.0, self._config.claim_idle - after)
        return ReleasedEntry(entry, round(idle * 1000), deliveries)


def _retry_nothing(stream: Stream, seconds: float) -> None:
    """Do nothing: no consumer set a callback."""
