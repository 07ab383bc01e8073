"""The ledger: the end of every delivery, counted in total and per listener.

The bus asks here for `Ledger` and `Snapshot`. Nothing is counted in this module: routes count the
deliveries that they accept, and actors count those that fail. Completed deliveries are the rest, so
an event that succeeds costs no counting.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from .._events.names import requested_name

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from ..drivers.contract import DriverSnapshot
    from .actor import Actor
    from .routing import Router


@dataclass(frozen=True, slots=True)
class Ledger:
    """Deliveries (event times listener) since the bus was opened.

    After `close`, `accepted == completed + failed + dropped + abandoned`. Before, the difference is
    the number of deliveries that have not ended yet.

    Attributes:
        accepted: Deliveries that a dispatch has committed to.
        completed: Deliveries that ended with the return of the listener.
        failed: Deliveries that ended with an exception of the listener, after the last attempt.
        dropped: Deliveries that overflow, middleware or unregistering took away.
        abandoned: Deliveries that the end of the bus cut off.
    """

    accepted: int = 0
    completed: int = 0
    failed: int = 0
    dropped: int = 0
    abandoned: int = 0

    def __add__(self, other: Ledger) -> Ledger:
        return Ledger(
            self.accepted + other.accepted,
            self.completed + other.completed,
            self.failed + other.failed,
            self.dropped + other.dropped,
            self.abandoned + other.abandoned,
        )


# A Struct, because a bus may have thousands of listeners: a frozen dataclass takes fifteen times as
# long to make. `gc=False`: no part of it can be in a cycle.
class ListenerSnapshot(msgspec.Struct, frozen=True, gc=False):
    """One listener at one moment.

    Attributes:
        event_names: Its event names and patterns; for a responder, the reserved name of requests.
        inline: True if the listener runs inside `dispatch`, False if it has a mailbox.
        depth: The number of events in the mailbox.
        oldest_age: Seconds that the oldest of them has waited; 0.0 if there is none.
        in_flight: The number of events that the listener works on.
        last_error: The newest failure in one line.
        state: `"idle"`, `"running"`, `"backing off"` before another attempt, `"restarting"` or
            `"escalating"`; `"stream"` for a stream, whose events a consumer takes. A listener with
            several events in flight shows the state of one of them.
        restarts: How often the supervision has restarted the listener.
        strays: The number of its threads that run on after their timeout.
        suspended_for: Seconds that all runs that the listener may have at once have waited without
            a step of the listener, so that no event can have ended; 0.0 for an inline listener, and
            if it could take one more event.
    """

    name: str
    event_names: tuple[str, ...]
    inline: bool
    depth: int
    oldest_age: float
    in_flight: int
    completed: int
    failed: int
    dropped: int
    abandoned: int
    last_error: str | None
    state: str = "idle"
    restarts: int = 0
    strays: int = 0
    suspended_for: float = 0.0

    @property
    def responds_to(self) -> str:
        """The event whose requests the listener answers; empty for one that is no responder."""
        return requested_name(self.event_names[0]) if self.event_names else ""


# For the functions of `dataclasses`: `asdict` of a snapshot makes dicts of its listeners, too.
dataclass(init=False, repr=False, eq=False, match_args=False)(ListenerSnapshot)


class EventSnapshot(msgspec.Struct, frozen=True, gc=False):
    """The events of one name, counted since the bus was made.

    A snapshot has the names that a listener is registered for, and those that were dispatched or
    arrived. Of names without a listener of their own and without a class, the first 1,000 are
    counted, because names may come from outside. Requests of an event have a reserved name, which
    begins with `goevent.requests.`.

    Attributes:
        dispatched: The events that this bus has dispatched.
        listeners: The listeners that get the events, in order; those of matching patterns, too.
        arrived: The events that the driver has brought.
    """

    name: str
    dispatched: int
    listeners: tuple[str, ...]
    arrived: int = 0


dataclass(init=False, repr=False, eq=False, match_args=False)(EventSnapshot)


@dataclass(slots=True, kw_only=True)
class RequestCounts:
    """The requests of a bus and their ends, since the bus was made.

    Attributes:
        asked: Requests of this bus. Each ends as one of the next four.
        answered: Those that got an answer.
        failed: Those that got an error: from the responder, from the driver, or because there was
            no responder.
        cancelled: Those whose caller was cancelled before the answer came.
        timed_out: Those whose answer did not come within their `timeout`.
        served: Requests that responders of this bus got, from this bus or from others.
        served_cancelled: Those for whose answer nobody waited any more.
        late: Messages that came for a request that was over, or that never was.
        malformed: Direct messages that made no sense.
    """

    asked: int = 0
    answered: int = 0
    failed: int = 0
    cancelled: int = 0
    timed_out: int = 0
    served: int = 0
    served_cancelled: int = 0
    late: int = 0
    malformed: int = 0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A bus at one moment; `state` is `"new"`, `"open"`, `"draining"` or `"closed"`.

    The ledger and the counts of listeners begin anew when the bus is opened. All other counts go on
    for as long as there is the bus, and never go down.

    Attributes:
        error_count: The failures that the supervisor has recorded.
        driver: The snapshot of the driver; None if the driver has none.
        events: The event names, those with a listener first.
        redelivered: The events that arrived again, because an earlier delivery was not acknowledged
            by this or another bus of the group.
        dead_lettered: The events that this bus has reported as dead letters.
        missing: The events of other buses that were reported as lost by `GapDetected`. An event
            that arrives after it was counted is not taken off.
        requests: The requests of the bus, and those that it has served.
    """

    state: str
    listeners: tuple[ListenerSnapshot, ...]
    ledger: Ledger
    error_count: int
    driver: DriverSnapshot | None = None
    events: tuple[EventSnapshot, ...] = ()
    redelivered: int = 0
    dead_lettered: int = 0
    missing: int = 0
    requests: RequestCounts = field(default_factory=RequestCounts)


def ledger_of(actors: Iterable[Actor]) -> Ledger:
    """Return the ledger of some listeners, whose routes hold no counts for them."""
    accepted = failed = dropped = abandoned = unsettled = 0
    for actor in actors:
        accepted += actor.accepted
        failed += actor.failed
        dropped += actor.dropped
        abandoned += actor.abandoned
        unsettled += actor.unsettled
    # Completed deliveries are not counted, so they are the accepted ones without the rest.
    completed = accepted - failed - dropped - abandoned - unsettled
    return Ledger(accepted, completed, failed, dropped, abandoned)


def snapshots_of(
    actors: Iterable[Actor], now: float, suspended: Mapping[Actor, float]
) -> tuple[tuple[ListenerSnapshot, ...], Ledger]:
    """Return the snapshots of listeners, whose routes hold no counts for them, and their ledger.

    Args:
        actors: The listeners.
        now: The time by the clock of the scheduler.
        suspended: The seconds of `ListenerSnapshot.suspended_for`, where they are not 0.
    """
    # A bus may have thousands of listeners, and this holds the event loop. So it is one loop over
    # slots, with few calls, and in few steps for the listeners that have nothing to do.
    snapshots: list[ListenerSnapshot] = []
    add, make = snapshots.append, ListenerSnapshot
    accepted = failed = dropped = abandoned = unsettled = 0
    for actor in actors:
        depth, oldest_age, in_flight, state, waits = 0, 0.0, 0, "idle", 0.0
        accepted += (done := actor.accepted)
        if actor.scheduled or actor.pending_inline:
            if mail := actor.mail:
                depth, oldest_age = len(mail), max(0.0, now - next(iter(mail))._since)
            if (shared := actor.shared) is None:
                in_flight = actor.pending_inline if actor.current is None else 1
                paused = actor.state
            else:
                in_flight = len(shared.in_flight)
                paused = max(lane.state for lane in shared.lanes)
            state = paused or ("running" if in_flight else "idle")
            if actor.settles_on_arrival:
                state = "stream"
            else:
                unsettled += depth + in_flight
                done -= depth + in_flight
            waits = suspended.get(actor, 0.0)
        raised, lost, cut = actor.failed, actor.dropped, actor.abandoned
        if raised or lost or cut:
            failed += raised
            dropped += lost
            abandoned += cut
            done -= raised + lost + cut
        error, names, recovery = actor.last_error, actor.names, actor.recovery
        if error is not None and not isinstance(error, str):
            # Once for each failure: the text stays, and the exception need not.
            actor.last_error = error = str(error)
        add(
            make(
                actor.name,
                names if isinstance(names, tuple) else tuple(names),
                actor.inline,
                depth,
                oldest_age,
                in_flight,
                done,
                raised,
                lost,
                cut,
                error,
                state,
                0 if recovery is None else recovery.restarts,
                actor.stray_threads,
                waits,
            )
        )
    # Completed deliveries are not counted, so they are the accepted ones without the rest.
    completed = accepted - failed - dropped - abandoned - unsettled
    return tuple(snapshots), Ledger(accepted, completed, failed, dropped, abandoned)


# How many unregistered listeners that still have deliveries a `fold` looks at before it ends.
MAX_UNSETTLED_AT_ONCE = 8


class LedgerBook:
    """Adds up the ledgers of registered and of unregistered listeners.

    An unregistered listener stays here until its last delivery has ended. Then only its numbers are
    kept. `fold` looks at the newest of them first, then at the others in turn, and ends after a few
    that still have deliveries. If it looked at all of them each time, to unregister many listeners
    with deliveries would take a time that grows with the square of their number.
    """

    def __init__(self, router: Router) -> None:
        self._router = router
        self._unregistered: deque[Actor] = deque()
        self._closed = Ledger()

    def reset(self) -> None:
        """Start a new ledger, because the bus is opened."""
        self._router.fold_counts()
        self._unregistered.clear()
        self._closed = Ledger()
        for actor in self._router.listeners():
            actor.accepted = actor.failed = actor.dropped = actor.abandoned = 0
            if actor.recovery is not None:
                actor.recovery.reset()

    def add_unregistered(self, actor: Actor) -> None:
        """Keep the ledger of a listener that was unregistered."""
        self._unregistered.appendleft(actor)

    def fold(self) -> None:
        """Forget unregistered listeners that have finished; only while no dispatch is under way."""
        # While a dispatch is under way its route may still count for a listener that is gone.
        self._router.fold()
        unsettled: list[Actor] = []
        while self._unregistered and len(unsettled) < MAX_UNSETTLED_AT_ONCE:
            actor = self._unregistered.popleft()
            if actor.unsettled:
                unsettled.append(actor)
            else:
                self._closed += ledger_of((actor,))
        self._unregistered += unsettled

    @property
    def has_leftovers(self) -> bool:
        """True if there are unregistered listeners, or replaced routes, that are not folded."""
        return bool(self._unregistered) or self._router.has_retired

    @property
    def unregistered(self) -> Collection[Actor]:
        """The unregistered listeners that may still have deliveries."""
        return self._unregistered

    def ledger(self) -> Ledger:
        """Return the ledger of the bus."""
        self._router.fold_counts()
        registered, unregistered = self._router.listeners(), self._unregistered
        return self._closed + ledger_of(registered) + ledger_of(unregistered)

    def snapshots(
        self, now: float, suspended: Mapping[Actor, float]
    ) -> tuple[tuple[ListenerSnapshot, ...], Ledger]:
        """Return the snapshot of each listener, in the order of registration, and the ledger.

        Args:
            now: The time by the clock of the scheduler.
            suspended: The seconds of `ListenerSnapshot.suspended_for`, where they are not 0.
        """
        self._router.fold_counts()
        snapshots, ledger = snapshots_of(self._router.listeners(), now, suspended)
        return snapshots, self._closed + ledger + ledger_of(self._unregistered)

    def events(self) -> tuple[EventSnapshot, ...]:
        """Return the snapshot of each event name, as counted at the last call of `snapshots`."""
        return tuple(
            [
                EventSnapshot(name, dispatched.count, listeners, arrived.count)
                for name, listeners, dispatched, arrived in self._router.event_rows()
            ]
        )
