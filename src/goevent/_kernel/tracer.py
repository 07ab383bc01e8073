"""The tracer: notes the events of a bus, and makes the tree of the events that one has caused.

A bus has one only after `tracing` has been used. The dispatcher and the inbox note each event
when its dispatch has returned, so no traced dispatch takes the hot path. The tracer knows the
causes by the ids of the events, and so needs nothing from their listeners.

A note keeps the handle of its event until the last listener has finished. From then on it keeps
texts: a handle would keep the event, and an exception its frames. The newest notes are kept.
"""

# The internals of handles are for the kernel and the ports, not for users.
# pyright: reportPrivateUsage=false

from __future__ import annotations

from collections import deque
from time import time
from typing import TYPE_CHECKING, cast

import trio

from .event_trace import EventTrace, TracedListener

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .._errors import EventError
    from .._handle import DispatchHandle
    from .actor import Actor
    from .route import Route

MAX_DEPTH_LEVELS = 100
"""The deepest tree; a chain of events may be endless."""


class EventNote:
    """One dispatch or one arrival of an event.

    Attributes:
        arrived: True if the driver has brought the event.
        started: When the dispatch began, by the clock of the scheduler.
        ended: When the last listener had finished, by the same clock; None if it has not.
        time: The Unix time at `started`.
        awaits_arrival: True if the event reaches the listeners of its own bus by the broker only.
    """

    __slots__ = (
        *("_clock", "_handle", "_listeners", "_told"),
        *("arrived", "awaits_arrival", "causation_id", "correlation_id", "ended", "event_name"),
        *("id", "started", "time"),
    )

    def __init__(
        self,
        handle: DispatchHandle,
        started: float,
        clock: Callable[[], float],
        told: Callable[[], object],
        *,
        arrived: bool,
    ) -> None:
        route = cast("Route", handle._route)
        self.id: str = handle.id
        self.event_name: str = handle.event_name
        self.correlation_id: str = handle.correlation_id
        self.causation_id: str = handle.causation_id
        self.arrived: bool = arrived
        self.awaits_arrival: bool = not (arrived or route.listeners) and bool(route.local.listeners)
        self.started: float = started
        self.ended: float | None = None
        self._clock = clock
        self._told = told
        self.time: float = time() - (clock() - started)
        self._handle: DispatchHandle | None = handle
        self._listeners: tuple[TracedListener, ...] = ()
        handle._when_done(self._end)

    def _end(self, errors: tuple[EventError, ...]) -> None:
        handle, self._handle = self._handle, None
        if handle is not None:
            self.ended = self._clock()
            self._listeners = tuple(listeners_of(handle, errors))
            self._told()

    @property
    def listeners(self) -> tuple[TracedListener, ...]:
        """The listeners with the outcome that they have now."""
        handle = self._handle
        return self._listeners if handle is None else tuple(listeners_of(handle, handle._failed()))


def listeners_of(
    handle: DispatchHandle, errors: tuple[EventError, ...]
) -> Iterator[TracedListener]:
    """Yield the listeners of an event; then the failures of others, such as middleware."""
    failures: dict[str, deque[EventError]] = {}
    for error in errors:
        failures.setdefault(error.listener, deque()).append(error)
    route = cast("Route", handle._route)
    actors = [actor for actor in route.listeners if actor.order] if handle.listeners else []
    for actor in actors:
        if waiting := failures.get(actor.name):
            yield failed_listener(waiting.popleft())
        else:
            yield TracedListener(name=actor.name, outcome=outcome_of(actor, handle))
    if route.publisher is not None and not failures.get(route.publisher.actor.name):
        queued = handle in route.publisher.posted or outcome_of(route.publisher.actor, handle) in (
            "waiting",
            "running",
        )
        outcome = "waiting" if queued else "published"
        yield TracedListener(name=route.publisher.actor.name, outcome=outcome)
    for waiting in failures.values():
        yield from map(failed_listener, waiting)


def failed_listener(error: EventError) -> TracedListener:
    return TracedListener(
        name=error.listener, outcome=error.outcome, reason=error.reason, attempts=error.attempts
    )


def outcome_of(actor: Actor, handle: DispatchHandle) -> str:
    """Return how far a listener is with an event that it has not failed."""
    if handle.done or actor.inline:
        return "completed"
    if any(each is handle for each in actor.in_flight):
        return "running"
    return "waiting" if any(each is handle for each in actor.mail) else "completed"


class Tracer:
    """The traced events of one bus.

    Attributes:
        blocks: The number of `tracing` blocks that are open.
        max_events: The number of the newest events that are kept.
        changed: Tasks wait here until an event is noted, or has ended.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.blocks: int = 0
        self.max_events: int = 0
        self.changed: trio.lowlevel.ParkingLot = trio.lowlevel.ParkingLot()
        self.now: Callable[[], float] = clock
        self._order: deque[EventNote] = deque()
        # An event of a durable driver has several notes: its dispatch, and each of its arrivals.
        self._notes: dict[str, list[EventNote]] = {}
        self._caused: dict[str, dict[str, None]] = {}

    def note(self, handle: DispatchHandle, started: float, *, arrived: bool = False) -> None:
        """Note an event whose dispatch has returned.

        Args:
            handle: The handle of the event.
            started: The time at which the dispatch began, by `now`.
            arrived: True if the driver has brought the event.
        """
        note = EventNote(handle, started, self.now, self.changed.unpark_all, arrived=arrived)
        self._order.append(note)
        self._notes.setdefault(note.id, []).append(note)
        if note.causation_id:
            self._caused.setdefault(note.causation_id, {})[note.id] = None
        while len(self._order) > self.max_events:
            self._forget(self._order.popleft())
        self.changed.unpark_all()

    def _forget(self, note: EventNote) -> None:
        notes = self._notes[note.id]
        notes.remove(note)
        if notes:
            return
        del self._notes[note.id]
        if (siblings := self._caused.get(note.causation_id)) is not None:
            siblings.pop(note.id, None)
            if not siblings:
                del self._caused[note.causation_id]

    # -- trees

    def trace(self, event_id: str) -> EventTrace | None:
        """Return what an event has caused; None if the event has no note."""
        if event_id not in self._notes:
            return None
        root = self._notes[event_id][0].started
        # Each event once, even if hostile headers claim a circle, and each before its children.
        levels: dict[str, int] = {event_id: 0}
        order = [event_id]
        children: dict[str, list[str]] = {}
        for parent in order:
            found = [each for each in self._caused.get(parent, ()) if each not in levels]
            children[parent] = sorted(found, key=lambda each: self._notes[each][0].started)
            levels.update(dict.fromkeys(found, levels[parent] + 1))
            order += children[parent]
        below: dict[str, int] = {}
        made: dict[str, EventTrace] = {}
        for each in reversed(order):
            below[each] = sum(1 + below[child] for child in children[each])
            if levels[each] <= MAX_DEPTH_LEVELS:
                shown = levels[each] < MAX_DEPTH_LEVELS
                made[each] = self._event_trace(
                    self._notes[each],
                    root,
                    tuple(made[child] for child in children[each]) if shown else (),
                    0 if shown else below[each],
                )
        return made[event_id]

    def _event_trace(
        self,
        notes: list[EventNote],
        root: float,
        children: tuple[EventTrace, ...],
        omitted: int,
    ) -> EventTrace:
        first = notes[0]
        ends = [note.ended for note in notes]
        known = [end for end in ends if end is not None]
        if len(known) < len(ends) or all(note.awaits_arrival for note in notes):
            duration = None
        else:
            duration = max(known) - first.started
        return EventTrace(
            event_name=first.event_name,
            id=first.id,
            correlation_id=first.correlation_id,
            causation_id=first.causation_id,
            time=first.time,
            after=first.started - root,
            duration=duration,
            arrived=any(note.arrived for note in notes),
            listeners=tuple(each for note in notes for each in note.listeners),
            children=children,
            omitted=omitted,
        )
