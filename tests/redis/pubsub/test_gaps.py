"""Gap detection: exactly the missing messages are reported, and nothing else."""

from __future__ import annotations

from hypothesis import given, strategies as st

from goevent_redis._pubsub.gaps import GapDetector
from goevent_redis._pubsub.marks import MergedMarks, SequenceMarks
from goevent_redis._pubsub.sequencer import MessageSequence, SequenceTable


def take_number(sequence: MessageSequence) -> int:
    """Take the next number, as a publish does."""
    sequence.last += 1
    return sequence.last


def test_numbers_count_from_one_per_channel() -> None:
    table = SequenceTable()
    assert [take_number(table.of(channel)) for channel in "aab"] == [1, 2, 1]


def test_marks_announce_each_used_channel_once() -> None:
    table = SequenceTable()
    for channel in "aab":
        take_number(table.of(channel))
    assert table.take_marks() == {"a": 2, "b": 1}
    assert table.take_marks() == {}
    take_number(table.of("b"))
    assert table.take_marks() == {"b": 2}


def test_the_first_number_of_an_origin_is_the_baseline() -> None:
    gaps = GapDetector()
    assert gaps.message_arrived("one", "a", 700) == 0
    assert gaps.message_arrived("two", "a", 3) == 0
    assert gaps.message_arrived("one", "b", 5) == 0


def test_a_jump_reports_the_number_of_missing_messages_once() -> None:
    gaps = GapDetector()
    assert [gaps.message_arrived("one", "a", number) for number in (1, 2, 6, 7)] == [0, 0, 3, 0]


def test_a_late_message_is_reported_as_late_and_not_as_missing() -> None:
    gaps = GapDetector()
    assert [gaps.message_arrived("one", "a", number) for number in (1, 3, 2, 4)] == [0, 1, -1, 0]


def test_a_mark_finds_lost_last_messages_once() -> None:
    gaps = GapDetector()
    gaps.message_arrived("one", "a", 5)
    assert gaps.highest_announced("one", "a", 5) == 0
    assert gaps.highest_announced("one", "a", 8) == 3
    assert gaps.highest_announced("one", "a", 8) == 0
    assert gaps.message_arrived("one", "a", 9) == 0


def test_a_mark_of_an_unknown_channel_is_no_gap() -> None:
    gaps = GapDetector()
    assert gaps.highest_announced("one", "a", 8) == 0
    assert gaps.message_arrived("one", "a", 20) == 0


def test_an_unsubscribed_channel_gets_a_new_baseline() -> None:
    gaps = GapDetector()
    gaps.message_arrived("one", "a", 1)
    gaps.message_arrived("one", "b", 1)
    gaps.forget(lambda channel: channel == "a")
    assert gaps.message_arrived("one", "a", 50) == 0
    assert gaps.message_arrived("one", "b", 3) == 1


def test_a_full_detector_forgets_the_channel_that_was_silent_longest() -> None:
    gaps = GapDetector(max_tracked=3)
    for channel in "abc":
        gaps.message_arrived("one", channel, 1)
    gaps.message_arrived("one", "a", 2)
    gaps.message_arrived("one", "d", 1)
    assert len(gaps) == 3
    assert gaps.message_arrived("one", "a", 4) == 1
    assert gaps.message_arrived("one", "b", 9) == 0


def test_the_marks_of_a_broken_connection_count_accepted_messages_only() -> None:
    table = SequenceTable()
    for channel in "aaab":
        take_number(table.of(channel))
    table.of("a").accept(2)
    table.of("a").accept(1)
    assert table.accepted_marks() == {"a": 2}
    # An announcement may have been lost, so it changes nothing.
    table.take_marks()
    assert table.accepted_marks() == {"a": 2}
    assert table.all_marks() == {"a": 3, "b": 1}


def test_a_subscriber_that_knew_the_publisher_before_has_missed_its_first_numbers() -> None:
    gaps = GapDetector()
    gaps.message_arrived("old", "a", 1)
    gaps.message_arrived("old", "b", 1)
    assert gaps.message_arrived("new", "a", 6) == 0
    assert gaps.highest_announced("new", "a", 8, ["older", "old"]) == 5 + 2
    assert gaps.highest_announced("new", "a", 8, ["older", "old"]) == 0
    # Nothing of this one has arrived at all.
    assert gaps.highest_announced("new", "b", 3, ["older", "old"]) == 3
    assert gaps.message_arrived("new", "b", 4) == 0
    # It did not know this channel when the numbers began.
    assert gaps.message_arrived("new", "c", 6) == 0
    assert gaps.highest_announced("new", "c", 6, ["old"]) == 0


def test_a_new_subscriber_has_missed_no_first_numbers() -> None:
    gaps = GapDetector()
    gaps.message_arrived("old", "a", 1)
    gaps.forget(lambda channel: channel == "a")
    assert gaps.message_arrived("new", "a", 6) == 0
    assert gaps.highest_announced("new", "a", 6, ["old"]) == 0


def test_merged_marks_keep_the_latest_of_each_publisher_and_name() -> None:
    merged = MergedMarks(3)
    merged.add(SequenceMarks("one", {"a": 1, "b": 1}))
    merged.add(SequenceMarks("two", {"a": 5}))
    merged.add(SequenceMarks("one", {"a": 2}, ["zero"]))
    assert [*merged.all()] == [
        SequenceMarks("two", {"a": 5}),
        SequenceMarks("one", {"a": 2, "b": 1}, ["zero"]),
    ]
    merged.add(SequenceMarks("three", {"a": 7}))
    assert [each.origin for each in merged.all()] == ["one", "three"]


@given(st.lists(st.booleans(), min_size=1, max_size=60))
def test_for_any_losses_the_reported_numbers_add_up(lost: list[bool]) -> None:
    gaps, table = GapDetector(), SequenceTable()
    sequence = table.of("a")
    gaps.message_arrived("one", "a", take_number(sequence))
    missing = 0
    for is_lost in lost:
        number = take_number(sequence)
        if not is_lost:
            missing += gaps.message_arrived("one", "a", number)
    missing += gaps.highest_announced("one", "a", table.take_marks()["a"])
    assert missing == sum(lost)


@given(
    st.lists(
        st.tuples(st.sampled_from(["one", "two"]), st.sampled_from("ab"), st.integers(-1, 9)),
        max_size=60,
    ),
    st.sets(st.integers(0, 59), max_size=5),
)
def test_the_short_way_for_consecutive_messages_changes_no_result(
    messages: list[tuple[str, str, int]], forgotten_at: set[int]
) -> None:
    long, short = GapDetector(max_tracked=3), GapDetector(max_tracked=3)
    for index, (origin, channel, number) in enumerate(messages):
        missing = long.message_arrived(origin, channel, number)
        if short.continues(origin, channel, number):
            assert missing == 0
        else:
            assert missing == short.message_arrived(origin, channel, number)
        if index in forgotten_at:
            for each in (long, short):
                each.forget(lambda name: name == "a")
        assert len(long) == len(short)
    for origin in ("one", "two"):
        for channel in "ab":
            marks = (origin, channel, 20, ["one", "two"])
            assert long.highest_announced(*marks) == short.highest_announced(*marks)


def test_only_the_next_message_of_the_same_sequence_takes_the_short_way() -> None:
    gaps = GapDetector()
    assert not gaps.continues("one", "a", 1)
    gaps.message_arrived("one", "a", 1)
    assert not gaps.continues("one", "a", 3)
    assert not gaps.continues("one", "a", 1)
    assert not gaps.continues("one", "b", 2)
    assert not gaps.continues("two", "a", 2)
    assert not gaps.continues("one", "a", None)
    assert gaps.continues("one", "a", 2)
    gaps.forget(lambda channel: channel == "a")
    assert not gaps.continues("one", "a", 3)
