"""Channels of Redis: names, globs, and that a message counts exactly once."""

from __future__ import annotations

import pytest

from goevent_redis._pubsub.channels import Channels


@pytest.fixture
def channels() -> Channels:
    return Channels("goevent:")


def test_a_channel_is_the_prefix_and_the_name(channels: Channels) -> None:
    assert channels.channel("order.paid") == "goevent:order.paid"
    assert channels.name("goevent:order.paid") == "order.paid"
    assert channels.name("other:order.paid") is None


def test_glob_characters_of_the_prefix_match_only_themselves() -> None:
    channels = Channels(r"a*[b]?\:")
    assert channels.glob("x.*") == r"a\*\[b\]\?\\:x.*"
    channels.add(["x.*"])
    assert channels.matching_subscriptions("x.y") == 1
    assert channels.matching_subscriptions("y.x") == 0


def test_both_wildcards_are_one_glob_which_is_subscribed_once(channels: Channels) -> None:
    assert channels.split(["order.*", "order.**", "order.paid"]) == (
        ["goevent:order.paid"],
        ["goevent:order.*"],
    )


def test_a_message_counts_from_its_exact_subscription_if_there_is_one(channels: Channels) -> None:
    channels.add(["order.*", "order.paid"])
    assert channels.counts("order.paid", None)
    assert not channels.counts("order.paid", "goevent:order.*")
    assert channels.matching_subscriptions("order.paid") == 2


def test_a_message_counts_from_the_first_glob_with_a_pattern_that_matches(
    channels: Channels,
) -> None:
    channels.add(["*.paid", "order.*", "**"])
    globs = ["goevent:*.paid", "goevent:order.*", "goevent:*"]
    for name, first in [("order.paid", 0), ("order.lost", 1), ("a.b.c", 2), ("a.b.paid", 2)]:
        assert [channels.counts(name, glob) for glob in globs] == [i == first for i in range(3)]


def test_a_message_that_only_the_glob_matches_does_not_count(channels: Channels) -> None:
    channels.add(["order.*"])
    assert not channels.counts("order.a.b", "goevent:order.*")
    assert not channels.covers("order.a.b")


def test_the_next_subscription_counts_when_one_ends(
    channels: Channels,
) -> None:
    channels.add(["order.*", "**", "order.paid"])
    channels.remove(["order.paid"])
    assert channels.counts("order.paid", "goevent:order.*")
    channels.remove(["order.*"])
    assert channels.counts("order.paid", "goevent:*")
    channels.remove(["**"])
    assert not channels.covers("order.paid")


def test_a_glob_is_kept_while_one_of_its_patterns_is_in_use(channels: Channels) -> None:
    channels.add(["order.*", "order.**"])
    channels.remove(["order.*"])
    assert channels.patterns("goevent:order.*") == ["order.**"]
    assert channels.counts("order.a.b", "goevent:order.*")
    channels.remove(["order.**"])
    assert channels.patterns("goevent:order.*") == []
    assert channels.all() == ([], [])


def test_the_patterns_of_a_glob_can_be_replaced(channels: Channels) -> None:
    channels.set_glob("goevent:order.*", ["order.**"])
    assert channels.counts("order.a.b", "goevent:order.*")
    channels.set_glob("goevent:order.*", ["order.*"])
    assert not channels.counts("order.a.b", "goevent:order.*")
    assert channels.matching_subscriptions("order.a.b") == 1
    channels.set_glob("goevent:order.*", None)
    assert channels.matching_subscriptions("order.a.b") == 0
    channels.set_glob("goevent:order.*", None)


def test_clearing_removes_all_subscriptions(channels: Channels) -> None:
    channels.add(["order.*", "order.paid"])
    channels.clear()
    assert not channels.covers("order.paid")
    assert channels.all() == ([], [])
