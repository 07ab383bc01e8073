"""The overlap filter: of the copies of one message, it lets one through."""

from __future__ import annotations

from goevent_faststream._adapter.overlap import OverlapFilter


def test_copies_are_told_from_equal_messages() -> None:
    overlap = OverlapFilter()
    overlap.add("a.b")
    overlap.add("a.*")
    first = [
        overlap.is_first(pattern, "a.b", b"same") for pattern in ("a.*", "a.b", "a.b", "a.*", "a.*")
    ]
    assert first == [True, False, True, False, True]
    assert not overlap.is_first("a.*", "a.b.c", b"")
    overlap.remove("a.*")
    assert not overlap.is_first("a.*", "a.b", b"late")


def test_a_copy_for_the_last_subscription_left_comes_once() -> None:
    overlap = OverlapFilter()
    overlap.add("a.b")
    overlap.add("a.*")
    assert overlap.is_first("a.*", "a.b", b"both")
    overlap.remove("a.*")
    assert not overlap.is_first("a.b", "a.b", b"both")
    assert overlap.is_first("a.b", "a.b", b"new")
    assert overlap.is_first("a.b", "a.b", b"both")
