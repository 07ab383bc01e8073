"""What a bus remembers of a partition whose committed offset goes back."""

from __future__ import annotations

from goevent_faststream._kafka.history import PartitionHistory, Recollection

NEW, REPEAT, SETTLED = Recollection.NEW, Recollection.REPEAT, Recollection.SETTLED


def history_of(
    *settled: int, unsettled: tuple[int, ...] = (), limit: int = 100
) -> PartitionHistory:
    """Return the history of a bus that had records whose time is 1000 plus their offset."""
    history = PartitionHistory(limit)
    for offset in sorted((*settled, *unsettled)):
        assert history.had(offset, 1000 + offset) is NEW
    for offset in settled:
        history.settled(offset, 1000 + offset)
    return history


def test_settled_records_are_known_and_others_are_repeats() -> None:
    history = history_of(5, 6, 8, unsettled=(7,))
    assert [history.had(n, 1000 + n) for n in range(5, 9)] == [SETTLED, SETTLED, REPEAT, SETTLED]
    assert history.had(9, 1009) is NEW
    assert history.had(4, 900) is REPEAT


def test_records_are_settled_in_any_order() -> None:
    history = history_of(unsettled=(1, 2, 3, 9))
    for offset in (3, 9, 2):
        history.settled(offset, 1000 + offset)
    assert [history.had(n, 1000 + n) for n in (1, 3, 9)] == [REPEAT, SETTLED, SETTLED]
    history.settled(1, 1001)
    # It lies before the first one that is remembered.
    assert history.had(1, 1001) is REPEAT


def test_other_record_at_a_settled_offset_is_new_and_so_are_those_behind_it() -> None:
    history = history_of(*range(10))
    assert history.had(0, 1000) is SETTLED
    assert history.had(4, 1003) is NEW
    assert history.had(5, 1005) is NEW
    assert history.had(3, 1003) is SETTLED


def test_record_that_is_younger_than_all_had_is_new() -> None:
    history = history_of(*range(10), unsettled=(10,))
    assert history.had(10, 5000) is NEW
    assert history.had(9, 1009) is SETTLED
    assert history.had(10, 5000) is REPEAT


def test_record_without_a_time_is_never_settled_unseen() -> None:
    history = PartitionHistory()
    assert history.had(0, -1) is NEW
    history.settled(0, -1)
    assert history.had(0, -1) is REPEAT


def test_old_records_are_forgotten_and_run_again() -> None:
    history = history_of(*range(1000), limit=100)
    assert history.had(0, 1000) is REPEAT
    assert history.had(950, 1950) is SETTLED
    assert 800 <= history.first <= 900
    history = history_of(1, 2, 10_000, limit=100)
    assert history.had(2, 1002) is REPEAT
    assert history.had(10_000, 11_000) is SETTLED
