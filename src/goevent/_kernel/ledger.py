"""The ledger: the end of every delivery, counted in total and per listener.

The bus asks here for `Ledger` and `Snapshot`. Nothing is counted in this module: routes count the
deliveries that they accept, and actors count those that fail. Completed deliveries are the rest, so
an event that succeeds costs no counting.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

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


@dataclass(frozen=True, slots=True)
class ListenerSnapshot:
    """One listener at one moment.

    Attributes:
        inline: True if the listener runs inside `dispatch`, False if it has a mailbox.
        depth: The number of events in the mailbox.
        oldest_age: Seconds that the oldest of them has waited; 0.0 if there is none.
        in_flight: The number of events that the listener works on.
        last_error: The newest failure in one line.
        state: `"idle"`, `"running"`, `"backing off"` before another attempt, `"restarting"` or
            `"escalating"`. A listener with several events in flight shows the state of one of them.
        restarts: How often the supervision has restarted the listener.
        strays: The number of its threads that run on after their timeout.
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


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A bus at one moment; `state` is `"new"`, `"open"`, `"draining"` or `"closed"`.

    Attributes:
        driver: The snapshot of the driver; None if the driver has none.
    """

    state: str
    listeners: tuple[ListenerSnapshot, ...]
    ledger: Ledger
    error_count: int
    driver: DriverSnapshot | None = None


def ledger_of(actor: Actor, counted: int) -> Ledger:
    """Return the ledger of one listener.

    Args:
        actor: The listener.
        counted: The deliveries that its routes count and that `Actor.accepted` does not hold yet.
    """
    # Completed deliveries are not counted, so they are the accepted ones without the rest.
    accepted = actor.accepted + counted
    lost = actor.failed + actor.dropped + actor.abandoned
    return Ledger(
        accepted, accepted - lost - actor.unsettled, actor.failed, actor.dropped, actor.abandoned
    )


def snapshot_of(actor: Actor, counted: int, now: float) -> ListenerSnapshot:
    """Return the snapshot of one listener; for `counted` see `ledger_of`."""
    ledger = ledger_of(actor, counted)
    return ListenerSnapshot(
        name=actor.name,
        event_names=actor.event_names,
        inline=actor.inline,
        depth=len(actor.mail),
        oldest_age=max(0.0, now - next(iter(actor.mail))._since) if actor.mail else 0.0,
        in_flight=len(actor.in_flight) + actor.pending_inline,
        completed=ledger.completed,
        failed=actor.failed,
        dropped=actor.dropped,
        abandoned=actor.abandoned,
        last_error=str(actor.last_error) if actor.last_error is not None else None,
        state=max((lane.state for lane in actor.lanes), default="")
        or ("running" if actor.in_flight or actor.pending_inline else "idle"),
        restarts=actor.recovery.restarts if actor.recovery is not None else 0,
        strays=actor.stray_threads,
    )


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
        self._router.fold_all()
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
                self._closed += ledger_of(actor, 0)
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
        counts = self._router.counts()
        actors = [*self._router.listeners(), *self._unregistered]
        return self._closed + total(ledger_of(actor, counts.get(actor, 0)) for actor in actors)


def total(ledgers: Iterable[Ledger]) -> Ledger:
    return sum(ledgers, Ledger())
