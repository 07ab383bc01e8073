"""Sequence numbers: exactly what is missing is reported, and nothing else."""

from __future__ import annotations

from hypothesis import given, strategies as st

from goevent_redis._pubsub.gaps import GapWatch, Numbers, Series


def take(series: Series) -> int:
    """Take the next number, as a publish does."""
    series.last += 1
    return series.last


def test_numbers_count_from_one_per_channel() -> None:
    numbers = Numbers()
    assert [take(numbers.of(channel)) for channel in "aab"] == [1, 2, 1]


def test_marks_tell_each_used_channel_once() -> None:
    numbers = Numbers()
    for channel in "aab":
        take(numbers.of(channel))
    assert numbers.marks() == {"a": 2, "b": 1}
    assert numbers.marks() == {}
    take(numbers.of("b"))
    assert numbers.marks() == {"b": 2}


def test_the_first_number_of_an_origin_is_the_baseline() -> None:
    watch = GapWatch()
    assert watch.arrived("one", "a", 700) == 0
    assert watch.arrived("two", "a", 3) == 0
    assert watch.arrived("one", "b", 5) == 0


def test_a_jump_tells_how_many_are_missing_and_tells_it_once() -> None:
    watch = GapWatch()
    assert [watch.arrived("one", "a", number) for number in (1, 2, 6, 7)] == [0, 0, 3, 0]


def test_one_that_comes_late_is_told_from_one_that_is_missing() -> None:
    watch = GapWatch()
    assert [watch.arrived("one", "a", number) for number in (1, 3, 2, 4)] == [0, 1, -1, 0]


def test_a_mark_finds_a_lost_tail_once() -> None:
    watch = GapWatch()
    watch.arrived("one", "a", 5)
    assert watch.told("one", "a", 5) == 0
    assert watch.told("one", "a", 8) == 3
    assert watch.told("one", "a", 8) == 0
    assert watch.arrived("one", "a", 9) == 0


def test_a_mark_of_a_channel_never_heard_of_is_no_gap() -> None:
    watch = GapWatch()
    assert watch.told("one", "a", 8) == 0
    assert watch.arrived("one", "a", 20) == 0


def test_a_channel_that_was_unsubscribed_begins_anew() -> None:
    watch = GapWatch()
    watch.arrived("one", "a", 1)
    watch.arrived("one", "b", 1)
    watch.forget(lambda channel: channel == "a")
    assert watch.arrived("one", "a", 50) == 0
    assert watch.arrived("one", "b", 3) == 1


def test_what_is_remembered_is_bounded_and_the_longest_silent_goes_first() -> None:
    watch = GapWatch(kept=3)
    for channel in "abc":
        watch.arrived("one", channel, 1)
    watch.arrived("one", "a", 2)
    watch.arrived("one", "d", 1)
    assert len(watch) == 3
    assert watch.arrived("one", "a", 4) == 1
    assert watch.arrived("one", "b", 9) == 0


def test_of_a_broken_connection_only_what_was_accepted_is_told() -> None:
    numbers = Numbers()
    for channel in "aaab":
        take(numbers.of(channel))
    numbers.of("a").accept(2)
    numbers.of("a").accept(1)
    assert numbers.accepted_marks() == {"a": 2}
    numbers.marks()
    assert numbers.accepted_marks() == {}
    numbers.of("a").accept(3)
    assert numbers.accepted_marks() == {}  # it was told already


@given(st.lists(st.booleans(), min_size=1, max_size=60))
def test_for_any_losses_the_reported_numbers_add_up(lost: list[bool]) -> None:
    watch, numbers = GapWatch(), Numbers()
    series = numbers.of("a")
    watch.arrived("one", "a", take(series))
    missing = 0
    for gone in lost:
        number = take(series)
        if not gone:
            missing += watch.arrived("one", "a", number)
    missing += watch.told("one", "a", numbers.marks()["a"])
    assert missing == sum(lost)
