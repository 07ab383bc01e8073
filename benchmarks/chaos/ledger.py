"""The ledger of a run: it compares the accepted events with the processed ones."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from benchmarks.chaos.servers.contract import GRACE_SECONDS

MAX_DUPLICATE_SHARE = 0.25
"""The most duplicates, as a share of the accepted events, if a broker takes acknowledgements."""

NANOSECONDS_PER_SECOND = 1_000_000_000

Time = tuple[int, int, int]
"""The end and the beginning of processing, by a clock that all processes share; the number."""


class Interruption(NamedTuple):
    """A kill or a freeze.

    Attributes:
        kind: The kind, such as "consumer" or "server".
        began: Its time in nanoseconds, by the clock that all processes share.
        ended: When the server answered again, or the process was started or thawed.
    """

    kind: str
    began: int
    ended: int


@dataclass
class Counts:
    """The counts of a run.

    Attributes:
        accepted: The number of events that the server has accepted.
        refused: The number of events whose handle had an error, by the class of the error.
        perhaps: The events among these that were processed all the same, by the class.
        lost: The events that were accepted and never processed.
        duplicates: The number of repeated processings.
        unflagged: The events with a repeated processing that had no flag.
        keys: The number of keys.
        overtaken: The events that were processed for the first time after a later event of their
            key, or that began before the event in front of them was processed.
        reports: The number of reports of consumers and producers, by class.
        samples: One report of each class.
        recoveries: Seconds of each recovery, by the kind of interruption; see `recoveries`.
        cpu_while_down: The CPU of the busiest consumer and producer during an outage, in percent of
            one core.
        peak_mib: The largest resident set of a consumer, in MiB.
        pending: The number of events that the group had not acknowledged at the end.
        settled_in: Seconds from the last interruption until nothing was pending.
        hung: How often the broker was started again because its group hung.
        flagged: The events that the broker delivered again, by the mark of the delivery. One that
            the publisher has sent again, without knowing of the first time, is not among them.
        stops: Seconds that each rolling restart took from SIGTERM to the end of the process.
        unclean: The exit codes of restarted consumers that were not 0.
    """

    accepted: int = 0
    refused: Counter[str] = field(default_factory=Counter[str])
    perhaps: Counter[str] = field(default_factory=Counter[str])
    lost: list[int] = field(default_factory=list[int])
    duplicates: int = 0
    unflagged: list[int] = field(default_factory=list[int])
    keys: int = 0
    overtaken: list[int] = field(default_factory=list[int])
    reports: Counter[str] = field(default_factory=Counter[str])
    samples: dict[str, str] = field(default_factory=dict[str, str])
    recoveries: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    cpu_while_down: dict[str, float] = field(default_factory=dict[str, float])
    peak_mib: float = 0.0
    pending: int = 0
    settled_in: float = 0.0
    hung: int = 0
    flagged: list[int] = field(default_factory=list[int])
    stops: list[float] = field(default_factory=list[float])
    unclean: list[int] = field(default_factory=list[int])

    def complaints(
        self,
        *,
        durable: bool = True,
        lossless: bool = True,
        flagged: bool = True,
        few_repeats: bool = True,
        ordered: bool = False,
        once: bool = False,
        unmarked: bool = True,
    ) -> list[str]:
        """Return the broken promises.

        Args:
            durable: No accepted event may be lost. Otherwise no event may be repeated.
            lossless: The broker itself keeps what it has accepted; if not, losses prove nothing.
            flagged: Repeats have a flag.
            few_repeats: Few of the events are repeated, as `MAX_DUPLICATE_SHARE` says.
            ordered: The events of a key have an order.
            once: No process was killed, so no event is delivered twice.
            unmarked: Such an event has no mark of a repeat, either.
        """
        found: list[str] = []
        if not self.accepted:
            found.append("nothing was accepted")
        if self.lost and durable and lossless:
            found.append(f"{len(self.lost)} accepted events are lost, such as {self.lost[:5]}")
        if self.unflagged and flagged:
            found.append(f"{len(self.unflagged)} duplicates without a flag: {self.unflagged[:5]}")
        if self.duplicates and not durable:
            found.append(f"{self.duplicates} duplicates of events that arrive at most once")
        if few_repeats and self.duplicates > MAX_DUPLICATE_SHARE * self.accepted:
            found.append(f"{self.duplicates} duplicates of {self.accepted} events")
        if ordered and self.overtaken:
            found.append(f"{len(self.overtaken)} events out of order: {self.overtaken[:5]}")
        marked = self.flagged if unmarked else []
        if once and (self.duplicates or marked):
            found.append(
                f"{self.duplicates} duplicates and {len(marked)} events delivered again, "
                f"such as {marked[:5]}"
            )
        if self.unclean:
            found.append(f"exit codes of restarted consumers: {self.unclean}")
        if self.stops and max(self.stops) > GRACE_SECONDS:
            found.append(f"a consumer took {max(self.stops):.1f} s to stop")
        if self.pending:
            found.append(f"{self.pending} events are still pending")
        return found


def read(files: Iterable[Path], interruptions: Sequence[Interruption] = ()) -> Counts:
    """Return the counts from the records of all processes."""
    accepted: dict[int, int] = {}
    refused: dict[int, str] = {}
    runs: dict[int, list[bool]] = defaultdict(list)
    times: dict[str, list[Time]] = defaultdict(list)
    done: dict[int, int] = {}
    again: set[int] = set()
    counts = Counts()
    for path in files:
        for line in path.read_text().splitlines():
            match line.split():
                case ["accepted", n, at, *_]:
                    accepted[int(n)] = int(at)
                case ["refused", n, kind, *_]:
                    refused[int(n)] = kind
                case ["done", n, flagged, key, began, ended]:
                    number = int(n)
                    runs[number].append(flagged != "0")
                    if flagged == "2":
                        again.add(number)
                    times[key].append((int(ended), int(began), number))
                    done[number] = min(int(ended), done.get(number, int(ended)))
                case ["report", kind, *text]:
                    counts.reports[kind] += 1
                    counts.samples.setdefault(kind, " ".join(text))
                case _:
                    pass
    counts.accepted = len(accepted)
    counts.refused = Counter(refused.values())
    counts.perhaps = Counter(kind for n, kind in refused.items() if n in runs)
    counts.lost = sorted(accepted.keys() - runs.keys())
    counts.duplicates = sum(len(flags) - 1 for flags in runs.values())
    counts.flagged = sorted(again)
    # All processings of an event except one must have the flag.
    counts.unflagged = sorted(n for n, flags in runs.items() if flags.count(False) > 1)
    counts.keys = len(times)
    counts.overtaken = sorted(n for each in times.values() for n in overtaken(each))
    for interruption in interruptions:
        seconds = recovery(interruption, accepted, done)
        counts.recoveries.setdefault(interruption.kind, []).append(seconds)
    return counts


def recovery(interruption: Interruption, accepted: dict[int, int], done: dict[int, int]) -> float:
    """Return the seconds from the end of an interruption until the group had recovered from it.

    By then all events that were accepted before it had been processed, and one that was accepted
    after its end, too. Lost events do not count; they are counted as lost.

    Args:
        accepted: The time at which each event was accepted.
        done: The time at which each event had been processed for the first time.
    """
    both = accepted.keys() & done.keys()
    before = (done[n] for n in both if accepted[n] < interruption.began)
    after = (done[n] for n in both if accepted[n] > interruption.ended)
    last = max(max(before, default=0), min(after, default=0))
    return max(0, last - interruption.ended) / NANOSECONDS_PER_SECOND


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
