"""The ledger of a run: what was accepted against what was done."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

MOST_DUPLICATES = 0.25  # of what was accepted

Time = tuple[int, int, int]
"""When an event was done, when that had begun, and its number; by a clock that all share."""


@dataclass
class Counts:
    """What became of the events.

    Attributes:
        accepted: how many the server has accepted.
        refused: how many it has not, as far as their producers know.
        lost: those that were accepted and never done.
        duplicates: how often an event was done that had been done before.
        unflagged: duplicates that nobody could have recognised.
        keys: how many keys the events have.
        overtaken: events that were done for the first time after one of their key that was
            dispatched later, or were begun with before the one in front of them was done.
        reports: what consumers and producers have reported, by kind.
        samples: one report of each kind.
        pending: entries that were still pending at the end.
        settled_in: seconds from the last kill until nothing was pending.
    """

    accepted: int = 0
    refused: int = 0
    lost: list[int] = field(default_factory=list[int])
    duplicates: int = 0
    unflagged: list[int] = field(default_factory=list[int])
    keys: int = 0
    overtaken: list[int] = field(default_factory=list[int])
    reports: Counter[str] = field(default_factory=Counter[str])
    samples: dict[str, str] = field(default_factory=dict[str, str])
    pending: int = 0
    settled_in: float = 0.0

    def complaints(self, *, ordered: bool = False) -> list[str]:
        """Return what is wrong; nothing, if all promises are kept."""
        found: list[str] = []
        if not self.accepted:
            found.append("nothing was accepted")
        if self.lost:
            found.append(f"{len(self.lost)} accepted events are lost, such as {self.lost[:5]}")
        if self.unflagged:
            found.append(f"{len(self.unflagged)} duplicates without a flag: {self.unflagged[:5]}")
        if self.duplicates > MOST_DUPLICATES * self.accepted:
            found.append(f"{self.duplicates} duplicates of {self.accepted} events")
        if ordered and self.overtaken:
            found.append(f"{len(self.overtaken)} events out of order: {self.overtaken[:5]}")
        if self.pending:
            found.append(f"{self.pending} events are still pending")
        return found


def read(files: Iterable[Path]) -> Counts:
    """Return the counts of what the processes of a run have noted."""
    accepted: set[int] = set()
    runs: dict[int, list[bool]] = defaultdict(list)
    times: dict[str, list[Time]] = defaultdict(list)
    counts = Counts()
    for path in files:
        for line in path.read_text().splitlines():
            match line.split():
                case ["accepted", n, _]:
                    accepted.add(int(n))
                case ["refused", *_]:
                    counts.refused += 1
                case ["done", n, deliveries, retried, key, began, ended]:
                    runs[int(n)].append(int(deliveries) > 1 or retried == "1")
                    times[key].append((int(ended), int(began), int(n)))
                case ["report", kind, *said]:
                    counts.reports[kind] += 1
                    counts.samples.setdefault(kind, " ".join(said))
                case _:
                    pass
    counts.accepted = len(accepted)
    counts.lost = sorted(accepted - runs.keys())
    counts.duplicates = sum(len(flags) - 1 for flags in runs.values())
    # All but one of the runs of an event have to be flagged.
    counts.unflagged = sorted(n for n, flags in runs.items() if flags.count(False) > 1)
    counts.keys = len(times)
    counts.overtaken = sorted(n for each in times.values() for n in overtaken(each))
    return counts


def overtaken(times: list[Time]) -> list[int]:
    """Return which of the events of one key were not in order when they were first done."""
    firsts: dict[int, Time] = {}
    for time in sorted(times):
        firsts.setdefault(time[2], time)
    found: list[int] = []
    highest, free = -1, 0
    for _, _, n in firsts.values():
        if n < highest:
            found.append(n)
        highest = max(highest, n)
    for n in sorted(firsts):
        ended, began, _ = firsts[n]
        if began < free and n not in found:
            found.append(n)
        free = max(free, ended)
    return found
