"""The trace of an event: the tree of the events that it has caused on one bus, as a value.

The tracer makes it when the application asks for it. It holds texts and numbers only, so it may be
kept, printed and sent elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

INDENT = "  "


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class TracedListener:
    """One listener of a traced event.

    Attributes:
        name: The name of the listener, as in errors and snapshots; `"driver"` for the way of the
            event to the broker.
        outcome: `"completed"`, `"failed"`, `"dropped"` or `"abandoned"`; `"published"` for the
            driver; `"running"` or `"waiting"` if the listener has not finished the event.
        reason: The reason of a failure in one line, "Type: message" for an exception.
        attempts: The number of attempts.
    """

    name: str
    outcome: str
    reason: str = ""
    attempts: int = 1

    @property
    def failed(self) -> bool:
        """True if the listener did not complete the event."""
        return self.outcome in ("failed", "dropped", "abandoned")

    def __str__(self) -> str:
        tries = f" after {self.attempts} attempts" if self.attempts > 1 else ""
        return f"{self.name} {self.outcome}{tries}{': ' if self.reason else ''}{self.reason}"


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class EventTrace:
    """A traced event with the events that it has caused; `str()` gives the tree as text.

    Attributes:
        event_name: The name of the event.
        id: The id of the event, as `DispatchHandle.id`.
        correlation_id: The id of the first event of the chain.
        causation_id: The id of the event that has caused this one; empty for a first event.
        time: The Unix time at which the event was dispatched, or has arrived.
        after: Seconds from the dispatch of the root of the tree to that time.
        duration: Seconds until the last listener had finished the event; None if it has not.
        arrived: True if the driver has brought the event from the broker.
        listeners: The listeners that got the event.
        children: The events that it has caused, in the order of their dispatches.
        omitted: The number of events that it has caused and that are not shown: the tree would be
            too deep.
    """

    event_name: str
    id: str
    correlation_id: str
    causation_id: str
    time: float
    after: float
    duration: float | None
    arrived: bool
    listeners: tuple[TracedListener, ...]
    children: tuple[EventTrace, ...]
    omitted: int = 0

    def walk(self) -> Iterator[tuple[int, EventTrace]]:
        """Yield each event of the tree with its depth, this one first with the depth 0."""
        remaining = [(0, self)]
        while remaining:
            depth, event = remaining.pop()
            yield depth, event
            remaining += [(depth + 1, child) for child in reversed(event.children)]

    @property
    def done(self) -> bool:
        """True if every listener in the tree has finished."""
        return all(event.duration is not None for _, event in self.walk())

    @property
    def failed(self) -> bool:
        """True if a listener in the tree did not complete its event."""
        return any(listener.failed for _, event in self.walk() for listener in event.listeners)

    def __str__(self) -> str:
        began = datetime.fromtimestamp(self.time, UTC).isoformat(timespec="milliseconds")
        lines = [f"trace of {self.event_name} {self.id}, {began}"]
        for depth, event in self.walk():
            lines.append(f"{INDENT * depth}{event._line}")
            below = INDENT * (depth + 1)
            lines += [f"{below}- {listener}" for listener in event.listeners]
            if event.omitted:
                lines.append(f"{below}and {event.omitted} more event(s), too deep to be shown")
        return "\n".join(lines)

    @property
    def _line(self) -> str:
        end = "not done" if self.duration is None else f"{in_milliseconds(self.duration)}"
        arrived = ", from the broker" if self.arrived else ""
        return f"{self.event_name} at +{in_milliseconds(self.after)}, {end}{arrived}"

    def __repr__(self) -> str:
        count = sum(1 for _ in self.walk())
        return f"<EventTrace of {self.event_name!r}, {count} event(s)>"


def in_milliseconds(seconds: float) -> str:
    """Return a time as text with a tenth of a millisecond."""
    return f"{seconds * 1000:.1f} ms"
