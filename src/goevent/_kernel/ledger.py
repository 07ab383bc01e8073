"""The books of a bus: where every delivery went, in total and per listener."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..drivers.contract import DriverSnapshot
    from .actor import Actor
    from .routing import Router


@dataclass(frozen=True, slots=True)
class Ledger:
    """Deliveries (event times listener) since the bus was opened.

    After `close`, `accepted == completed + failed + dropped + abandoned`; before, the difference is
    what listeners still have to do.
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
        inline: True if it runs inside `dispatch`, False if it has a mailbox.
        depth: events waiting in the mailbox.
        oldest_age: seconds that the oldest of them has waited; 0.0 if none does.
        in_flight: events that the listener is working on.
        last_error: the newest failure in one line.
        state: `"idle"`, `"running"`, `"backing off"` before another attempt, `"restarting"` or
            `"escalating"`; with several events at once, what one of them is at.
        restarts: how often its supervision has restarted it.
        strays: threads of it that run on after their timeout.
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
        driver: what the driver tells of itself; None if it tells nothing.
    """

    state: str
    listeners: tuple[ListenerSnapshot, ...]
    ledger: Ledger
    error_count: int
    driver: DriverSnapshot | None = None


def ledger_of(actor: Actor, counted: int) -> Ledger:
    """Return the books of one listener; `counted` are deliveries not yet folded into it."""
    accepted = actor.accepted + counted
    lost = actor.failed + actor.dropped + actor.abandoned
    return Ledger(
        accepted, accepted - lost - actor.unsettled, actor.failed, actor.dropped, actor.abandoned
    )


def snapshot_of(actor: Actor, counted: int, now: float) -> ListenerSnapshot:
    books = ledger_of(actor, counted)
    return ListenerSnapshot(
        name=actor.name,
        event_names=actor.event_names,
        inline=actor.inline,
        depth=len(actor.mail),
        oldest_age=max(0.0, now - next(iter(actor.mail)).since) if actor.mail else 0.0,
        in_flight=len(actor.in_flight) + actor.pending_inline,
        completed=books.completed,
        failed=actor.failed,
        dropped=actor.dropped,
        abandoned=actor.abandoned,
        last_error=str(actor.last_error) if actor.last_error is not None else None,
        state=max((lane.state for lane in actor.lanes), default="")
        or ("running" if actor.in_flight or actor.pending_inline else "idle"),
        restarts=actor.recovery.restarts if actor.recovery is not None else 0,
        strays=actor.stray_threads,
    )


class LedgerBook:
    """Adds up the ledger of listeners that are there and of those that are gone."""

    def __init__(self, router: Router) -> None:
        self._router = router
        self._gone: list[Actor] = []
        self._closed = Ledger()

    def reset(self) -> None:
        """Begin a new ledger, as the bus is opened."""
        self._router.fold_all()
        self._gone.clear()
        self._closed = Ledger()
        for actor in self._router.listeners():
            actor.accepted = actor.failed = actor.dropped = actor.abandoned = 0
            if actor.recovery is not None:
                actor.recovery.reset()

    def depart(self, actor: Actor) -> None:
        """Keep the books of a listener that was unregistered."""
        self._gone.append(actor)

    def fold(self) -> None:
        """Forget departed listeners that have finished; only while no dispatch is under way."""
        self._router.fold()
        self._closed += total(ledger_of(actor, 0) for actor in self._gone if not actor.unsettled)
        self._gone = [actor for actor in self._gone if actor.unsettled]

    @property
    def gone(self) -> list[Actor]:
        return self._gone

    def ledger(self) -> Ledger:
        counts = self._router.counts()
        actors = [*self._router.listeners(), *self._gone]
        return self._closed + total(ledger_of(actor, counts.get(actor, 0)) for actor in actors)


def total(ledgers: Iterable[Ledger]) -> Ledger:
    return sum(ledgers, Ledger())
