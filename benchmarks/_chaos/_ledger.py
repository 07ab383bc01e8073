"""The ledger of a run: what was accepted against what was done."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

MOST_DUPLICATES = 0.25  # of what was accepted


@dataclass
class Counts:
    """What became of the events.

    Attributes:
        accepted: how many the server has accepted.
        refused: how many it has not, as far as their producers know.
        lost: those that were accepted and never done.
        duplicates: how often an event was done that had been done before.
        unflagged: duplicates that nobody could have recognised.
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
    reports: Counter[str] = field(default_factory=Counter[str])
    samples: dict[str, str] = field(default_factory=dict[str, str])
    pending: int = 0
    settled_in: float = 0.0

    def complaints(self) -> list[str]:
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
        if self.pending:
            found.append(f"{self.pending} events are still pending")
        return found


def read(files: Iterable[Path]) -> Counts:
    """Return the counts of what the processes of a run have noted."""
    accepted: set[int] = set()
    runs: dict[int, list[bool]] = defaultdict(list)
    counts = Counts()
    for path in files:
        for line in path.read_text().splitlines():
            match line.split():
                case ["accepted", n, _]:
                    accepted.add(int(n))
                case ["refused", *_]:
                    counts.refused += 1
                case ["done", n, deliveries, retried]:
                    runs[int(n)].append(int(deliveries) > 1 or retried == "1")
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
    return counts
