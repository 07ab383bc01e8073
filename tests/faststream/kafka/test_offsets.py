"""The offsets of a partition, and their commit points."""

from __future__ import annotations

import pytest

from goevent_faststream._kafka.offsets import (
    CommitPoint,
    KafkaRecord,
    PartitionOffsets,
    end_metadata,
    note_of,
    read_note,
    write_note,
)


def record(offset: int, key: bytes | None = None) -> KafkaRecord:
    return KafkaRecord(0, offset, key, b"", {}, 0.0, None)


def added(
    partition: PartitionOffsets, *offsets: int, key: bytes | None = None
) -> list[KafkaRecord]:
    records = [record(offset) for offset in offsets]
    for each in records:
        if partition.add(each):
            each.deliveries += 1
    return records


def test_only_the_settled_prefix_is_committed_and_the_note_tells_the_rest() -> None:
    partition = PartitionOffsets(0, CommitPoint(10))
    first, *rest = added(partition, *range(10, 20))
    for each in rest[:8]:
        partition.settle(each)
    assert partition.commit_point() == CommitPoint(10, "goevent/1:1x1,8xs,1x1,")
    partition.settle(first)
    assert partition.commit_point() == CommitPoint(19, "goevent/1:1x1,")
    partition.settle(rest[8])
    assert partition.commit_point() == CommitPoint(20)


def test_next_member_skips_settled_records_and_continues_the_counts() -> None:
    partition = PartitionOffsets(0, CommitPoint(10, "goevent/1:1x2,8xs,"))
    records = [record(offset) for offset in range(10, 21)]
    handed = [each for each in records if partition.add(each)]
    assert [(each.offset, each.deliveries) for each in handed] == [(10, 2), (19, 0), (20, 0)]
    partition.settle(records[0])
    assert partition.commit_point().offset == 19


def test_offsets_without_records_do_not_hold_back_the_prefix() -> None:
    partition = PartitionOffsets(0, CommitPoint(0))
    one, two = added(partition, 3, 8)
    partition.settle(two)
    assert partition.commit_point() == CommitPoint(3, "goevent/1:1x1,5xs,")
    partition.settle(one)
    assert partition.commit_point() == CommitPoint(9)


def test_records_of_a_key_wait_for_each_other_and_others_do_not() -> None:
    partition = PartitionOffsets(0, CommitPoint(0))
    one, two, other = record(0, b"a"), record(1, b"a"), record(2, b"b")
    assert [partition.add(each) for each in (one, two, other)] == [True, False, True]
    assert partition.settle(other) is None
    assert partition.settle(one) is two
    assert partition.settle(two) is None
    assert partition.commit_point() == CommitPoint(3)


def test_record_that_is_read_twice_is_added_once() -> None:
    partition = PartitionOffsets(0, CommitPoint(5))
    assert partition.add(record(5))
    assert not partition.add(record(5))
    assert not partition.add(record(4))
    assert len(partition.records) == 1


def test_record_that_another_bus_may_have_had_is_a_repeat() -> None:
    partition = PartitionOffsets(0, CommitPoint(5))
    partition.repeats_until = 7
    records = added(partition, 5, 6, 7)
    assert [each.is_repeat for each in records] == [True, True, False]


@pytest.mark.parametrize("note", ["", "theirs", "goevent/1:x,", "goevent/1:99999999xs,", "1x1,"])
def test_foreign_note_is_ignored(note: str) -> None:
    assert read_note(CommitPoint(7, note)) == {}


@pytest.mark.parametrize(
    "rest",
    [
        "\ufffd\ufffd1",
        "\x01,",
        "\ufffd5x,7",
        "\u00b2x1,",
        "1x\u00b2,",
        "1x99999999,",
        "999999x1," * 2,
    ],
)
def test_note_ends_in_front_of_what_goevent_cannot_have_written(rest: str) -> None:
    note = "goevent/1:1x2,3xs,"
    assert read_note(CommitPoint(7, note + rest)) == {7: 2, 8: -1, 9: -1, 10: -1}


@pytest.mark.parametrize("note", ["", "goevent/1:1x1,8xs,"])
def test_metadata_end_with_a_nul_that_is_no_part_of_the_note(note: str) -> None:
    assert note_of(end_metadata(note)) == note
    assert note_of(note) == note
    assert note_of(None) == ""
    assert end_metadata(note)[-1:] in ("", "\0")


def test_note_is_cut_at_its_limit() -> None:
    marks = {n: -1 if n % 2 else 1 for n in range(10_000)}
    note = write_note(0, 10_000, marks)
    assert len(note) < 2100
    read = read_note(CommitPoint(0, note))
    assert 100 < len(read) < len(marks)
    assert all(marks[offset] == mark for offset, mark in read.items())
