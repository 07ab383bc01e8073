"""The settlements that a JetStream bus remembers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from random import Random

import pytest

from goevent_faststream._nats.settlements import RememberedSettlements


def stored(sequence: int, restarts: int = 0) -> datetime:
    """Return the time at which a stream stored an event; it grows with sequence and restarts."""
    return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=sequence + 1000 * restarts)


@pytest.mark.parametrize("seed", range(5))
def test_acknowledged_events_are_remembered_in_any_order(seed: int) -> None:
    random = Random(seed)
    remembered, expected = RememberedSettlements(), set[int]()
    for _ in range(400):
        sequence = random.randrange(1, 300)
        remembered.add(sequence, stored(sequence))
        expected.add(sequence)
    found = {n for n in range(301) if remembered.is_acknowledged(n, stored(n))}
    assert found == expected
    runs = sum(n + 1 not in expected for n in expected)
    assert len(remembered) == runs


def test_events_in_order_are_one_interval() -> None:
    remembered = RememberedSettlements()
    for n in range(1, 10_000):
        remembered.add(n, stored(n))
    assert len(remembered) == 1


def test_lowest_intervals_are_forgotten_above_the_limit() -> None:
    remembered = RememberedSettlements(max_intervals=20)
    for n in range(2, 2000, 2):
        remembered.add(n, stored(n))
    assert len(remembered) <= 20
    assert remembered.is_acknowledged(1998, stored(1998))
    assert not remembered.is_acknowledged(2, stored(2))


def test_new_events_with_sequences_of_lost_ones_are_not_acknowledged() -> None:
    remembered = RememberedSettlements()
    for n in range(1, 101):
        remembered.add(n, stored(n))
    # The server has lost the events from 91 on, and new ones have their sequences.
    assert not remembered.is_acknowledged(91, stored(91, 1))
    remembered.add(100, stored(100, 1))
    assert not remembered.is_acknowledged(95, stored(95, 1))
    assert remembered.is_acknowledged(90, stored(90))
    assert remembered.is_acknowledged(100, stored(100, 1))


def test_deliveries_of_returned_events_are_bounded_and_end_with_the_acknowledgement() -> None:
    remembered = RememberedSettlements(max_counted_events=2)
    for n in (1, 2, 3):
        remembered.count(n, stored(n), n + 1)
    assert [remembered.deliveries(n, stored(n)) for n in (1, 2, 3)] == [0, 3, 4]
    assert remembered.deliveries(3, stored(3, 1)) == 0
    remembered.add(3, stored(3))
    assert remembered.deliveries(3, stored(3)) == 0
