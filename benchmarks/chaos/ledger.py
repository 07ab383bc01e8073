"""The ledger of a run: it compares the accepted events with the processed ones."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

MAX_DUPLICATE_SHARE = 0.25
"""The most duplicates, as a share of the accepted events."""

Time = tuple[int, int, int]
"""The end and the beginning of processing, by a clock that all processes share; the number."""


@dataclass
class Counts:
    """The counts of a run.

    Attributes:
        accepted: The number of events that the server has accepted.
        refused: The number of events that the producers know to be refused.
        lost: The events that were accepted and never processed.
        duplicates: The number of repeated processings.
        unflagged: The events with a repeated processing that had no flag.
        keys: The number of keys.
        overtaken: The events that were processed for the first time after a later event of their
            key, or that began before the event in front of them was processed.
        reports: The number of reports of consumers and producers, by class.
        samples: One report of each class.
        pending: The number of entries that were still pending at the end.
        settled_in: Seconds from the last kill until nothing was pending.
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
        """Return the broken promises."""
        found: list[str] = []
        if not self.accepted:
            found.append("nothing was accepted")
        if self.lost:
            found.append(f"{len(self.lost)} accepted events are lost, such as {self.lost[:5]}")
        if self.unflagged:
            found.append(f"{len(self.unflagged)} duplicates without a flag: {self.unflagged[:5]}")
        if self.duplicates > MAX_DUPLICATE_SHARE * self.accepted:
            found.append(f"{self.duplicates} duplicates of {self.accepted} events")
        if ordered and self.overtaken:
            found.append(f"{len(self.overtaken)} events out of order: {self.overtaken[:5]}")
        if self.pending:
            found.append(f"{self.pending} events are still pending")
        return found


def read(files: Iterable[Path]) -> Counts:
    """Return the counts from the records of all processes."""
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
                case ["report", kind, *text]:
                    counts.reports[kind] += 1
                    counts.samples.setdefault(kind, " ".join(text))
                case _:
                    pass
    counts.accepted = len(accepted)
    counts.lost = sorted(accepted - runs.keys())
    counts.duplicates = sum(len(flags) - 1 for flags in runs.values())
    # All processings of an event except one must have the flag.
    counts.unflagged = sorted(n for n, flags in runs.items() if flags.count(False) > 1)
    counts.keys = len(times)
    counts.overtaken = sorted(n for each in times.values() for n in overtaken(each))
    return counts


def overtaken(times: list[Time]) -> list[int]:
    """Return the events of one key whose first processing was out of order."""
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
