"""The backlog of a group, from the times at which its unsettled events were published."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from goevent.drivers import Backlog


def make_backlog(
    event_name: str, *, lag: int | None, pending: int, published: Iterable[datetime]
) -> Backlog:
    """Return a backlog.

    Args:
        event_name: The event name, or a name for the events of all patterns.
        lag: How many events wait in the broker; None if that is unknown.
        pending: How many events are delivered and not settled.
        published: The times at which the events that this bus holds were published.
    """
    oldest = min(published, default=None)
    age = 0.0 if oldest is None else (datetime.now(UTC) - oldest).total_seconds()
    # The broker's clock may be ahead of ours.
    return Backlog(
        event_name=event_name,
        lag=lag,
        pending=pending,
        oldest_pending=max(0.0, age),
        # To know more, the broker would have to be asked for an event each time.
        oldest_waiting=0.0 if lag == 0 else None,
    )
