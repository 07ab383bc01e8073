"""The ledger of the chaos run finds what it has to find."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks.chaos.ledger import Counts, Interruption, read
from benchmarks.chaos.servers.contract import GRACE_SECONDS


def counted(directory: Path, *interruptions: Interruption, **files: list[str]) -> Counts:
    """Return the counts of records with these lines."""
    for name, lines in files.items():
        (directory / name).write_text("".join(f"{line}\n" for line in lines))
    return read(directory.iterdir(), interruptions)


@pytest.mark.parametrize(
    ("done", "overtaken"),
    [
        (["1 1 2", "2 3 4", "3 5 6"], []),
        # Repeats of a prefix overtake nothing.
        (["1 1 2", "2 3 4", "1 5 6", "2 7 8", "3 9 10"], []),
        # The third event comes too early, and the second one too late.
        (["1 1 2", "3 3 4", "2 5 6"], [2, 3]),
        # The second event begins before the first one ends.
        (["1 1 4", "2 3 5"], [2]),
    ],
)
def test_finds_overtaken_events(tmp_path: Path, done: list[str], overtaken: list[int]) -> None:
    lines = [f"done {n} 0 a {began} {ended}" for n, began, ended in (each.split() for each in done)]
    counts = counted(tmp_path, consume_1=lines[::2], consume_2=lines[1::2])
    assert counts.overtaken == overtaken
    has_complaint = len(counts.complaints(ordered=True)) > len(counts.complaints())
    assert has_complaint == bool(overtaken)


def test_finds_lost_events_and_unflagged_repeats(tmp_path: Path) -> None:
    counts = counted(
        tmp_path,
        produce_1=["accepted 1 1", "accepted 2 1", "accepted 3 1"],
        consume_1=["ready", "done 1 0 a 1 2", "done 2 0 a 2 3"],
        consume_2=["done 1 1 a 3 4", "done 2 0 a 4 5"],
    )
    assert (counts.lost, counts.unflagged, counts.duplicates) == ([3], [2], 2)
    assert len(counts.complaints()) == 3
    assert len(counts.complaints(flagged=False)) == len(counts.complaints(lossless=False)) == 2


def test_finds_too_many_repeats_where_they_have_a_bound(tmp_path: Path) -> None:
    counts = counted(
        tmp_path,
        produce_1=[f"accepted {n} 1" for n in range(4)],
        consume_1=[f"done {n} 1 a 1 2" for n in range(4)] + ["done 1 1 a 3 4", "done 2 1 a 3 4"],
    )
    (complaint,) = counts.complaints()
    assert "2 duplicates of 4 events" in complaint
    assert not counts.complaints(few_repeats=False)


def test_allows_losses_but_no_repeat_where_events_arrive_at_most_once(tmp_path: Path) -> None:
    counts = counted(
        tmp_path,
        produce_1=[f"accepted {n} 1" for n in range(10)],
        consume_1=["done 1 0 a 1 2", "done 1 1 a 3 4"],
    )
    assert len(counts.lost) == 9
    (complaint,) = counts.complaints(durable=False)
    assert "1 duplicates" in complaint


def test_finds_refused_events_that_were_processed(tmp_path: Path) -> None:
    counts = counted(
        tmp_path,
        produce_1=["refused 1 DriverError", "refused 2 DriverConnectionError", "accepted 3 1"],
        consume_1=["done 1 0 a 1 2", "done 3 0 a 1 2"],
    )
    assert counts.refused == {"DriverError": 1, "DriverConnectionError": 1}
    assert counts.perhaps == {"DriverError": 1}


SECOND = 1_000_000_000


@pytest.mark.parametrize(
    ("done", "seconds"),
    [
        # Event 1 was accepted before the interruption, event 2 after its end; 3 is not needed.
        ({1: 4, 2: 7, 3: 9}, 2.0),
        ({1: 8, 2: 6, 3: 9}, 3.0),
        # Processed before its end already, and nothing was accepted after it.
        ({1: 4}, 0.0),
        # A lost event is counted elsewhere.
        ({2: 6, 3: 7}, 1.0),
    ],
)
def test_recovery_ends_with_the_old_events_and_the_first_new_one(
    tmp_path: Path, done: dict[int, int], seconds: float
) -> None:
    accepted = {1: 2, 2: 6, 3: 6}
    counts = counted(
        tmp_path,
        Interruption("server", 3 * SECOND, 5 * SECOND),
        produce_1=[f"accepted {n} {at * SECOND}" for n, at in accepted.items()],
        consume_1=[f"done {n} 0 a 1 {at * SECOND}" for n, at in done.items()],
    )
    assert counts.recoveries == {"server": [seconds]}


def test_finds_repeats_after_restarts_and_consumers_that_stop_late_or_fail(tmp_path: Path) -> None:
    counts = counted(
        tmp_path,
        produce_1=["accepted 1 1", "accepted 2 1", "accepted 3 1"],
        consume_1=["done 1 0 a 1 2", "done 2 2 a 3 4", "done 3 1 a 5 6"],
    )
    assert counts.flagged == [2]
    assert not counts.complaints()
    counts.stops, counts.unclean = [1.0, GRACE_SECONDS + 1], [1]
    again, code, late = counts.complaints(once=True)
    assert "1 events delivered again, such as [2]" in again
    code_alone, _ = counts.complaints(once=True, unmarked=False)
    assert code_alone == code
    assert "[1]" in code
    assert "26.0 s to stop" in late
