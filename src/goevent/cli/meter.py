"""The meter of `goevent top`: makes frames of samples, with the rates between two of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .. import Backlog, ListenerSnapshot, Snapshot

SHOWN_LISTENERS = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What a source tells at one moment.

    Attributes:
        state: The state of the bus, or of the connection to the broker.
        snapshot: The snapshot of a bus; None for a group at its broker.
        backlogs: The work that the broker holds for the group.
        dead_letters: The dead letters at the broker; None if it was not asked.
    """

    state: str
    snapshot: Snapshot | None = None
    backlogs: Sequence[Backlog] = ()
    dead_letters: int | None = None


@dataclass(slots=True)
class Frame:
    """One picture: facts, and tables with a title, columns and rows."""

    title: str
    facts: dict[str, object]
    tables: list[tuple[str, Sequence[str], list[Sequence[object]]]] = field(
        default_factory=list[tuple[str, Sequence[str], list[Sequence[object]]]]
    )


class Meter:
    """Makes frames of samples; the rates are those since the sample before."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._before: tuple[float, Snapshot] | None = None

    def frame(self, sample: Sample, now: float) -> Frame:
        """Return the frame of a sample.

        Args:
            sample: The newest sample.
            now: The time by a steady clock, in seconds.
        """
        frame = Frame(f"{self._name}: {sample.state}", {})
        if sample.snapshot is not None:
            frame.facts |= self._facts(sample.snapshot, now)
            frame.tables.append(self._listeners(sample.snapshot, now))
            self._before = now, sample.snapshot
        if sample.dead_letters is not None:
            frame.facts["dead letters"] = sample.dead_letters
        if sample.backlogs or sample.snapshot is None:
            frame.facts["lag"] = total([each.lag for each in sample.backlogs])
            frame.facts["pending"] = sum(each.pending for each in sample.backlogs)
            frame.facts["oldest s"] = max(map(oldest, sample.backlogs), default=0.0)
            rows: list[Sequence[object]] = [
                (
                    each.event_name,
                    "?" if each.lag is None else each.lag,
                    each.pending,
                    "?" if each.oldest_waiting is None else round(each.oldest_waiting, 1),
                    round(each.oldest_pending, 1),
                )
                for each in sample.backlogs
            ]
            columns = ("event", "lag", "pending", "oldest waiting s", "oldest pending s")
            frame.tables.append(("Backlog", columns, rows))
        return frame

    def _facts(self, snapshot: Snapshot, now: float) -> dict[str, object]:
        ledger = snapshot.ledger
        ended = ledger.completed + ledger.failed + ledger.dropped + ledger.abandoned
        before_ended = before_accepted = 0
        if self._before is not None:
            before = self._before[1].ledger
            before_accepted = before.accepted
            before_ended = before.completed + before.failed + before.dropped + before.abandoned
        return {
            "accepted/s": self._rate(ledger.accepted, before_accepted, now),
            "done/s": self._rate(ended, before_ended, now),
            "depth": sum(each.depth for each in snapshot.listeners),
            "in flight": sum(each.in_flight for each in snapshot.listeners),
            "oldest mail s": round(max((e.oldest_age for e in snapshot.listeners), default=0.0), 1),
            "failed": ledger.failed,
            "errors": snapshot.error_count,
            "redelivered": snapshot.redelivered,
            "dead letters": snapshot.dead_lettered,
            "missing": snapshot.missing,
            "asked": snapshot.requests.asked,
            "served": snapshot.requests.served,
        }

    def _rate(self, count: int, before: int, now: float) -> float:
        if self._before is None or now <= self._before[0]:
            return 0.0
        # A bus that was opened anew begins at 0.
        return round(max(0, count - before) / (now - self._before[0]), 1)

    def _listeners(
        self, snapshot: Snapshot, now: float
    ) -> tuple[str, Sequence[str], list[Sequence[object]]]:
        before: dict[str, ListenerSnapshot] = {}
        if self._before is not None:
            before = {each.name: each for each in self._before[1].listeners}
        rows: list[tuple[Any, ...]] = []
        for each in snapshot.listeners:
            earlier = before.get(each.name)
            done = 0 if earlier is None else earlier.completed + earlier.failed
            rate = self._rate(each.completed + each.failed, done, now)
            age = round(each.oldest_age, 1)
            name = each.name
            if each.responds_to:
                name = f"{name} (responds to {each.responds_to})"
            rows.append((name, rate, each.depth, age, each.in_flight, each.failed, each.state))
        # The busy ones first; the others keep the order of registration.
        rows.sort(key=lambda row: (-row[2], -row[4], -row[1]))
        hidden = len(rows) - SHOWN_LISTENERS
        title = "Listeners" if hidden <= 0 else f"Listeners ({hidden} more)"
        columns = ("listener", "done/s", "depth", "oldest s", "in flight", "failed", "state")
        return title, columns, [*rows[:SHOWN_LISTENERS]]


def total(lags: Sequence[int | None]) -> int | str:
    """Return the sum of lags; a question mark if one is not known."""
    return "?" if None in lags else sum(each for each in lags if each is not None)


def oldest(backlog: Backlog) -> float:
    """Return the age of the oldest event of a backlog in seconds."""
    return round(max(backlog.oldest_pending, backlog.oldest_waiting or 0.0), 1)
