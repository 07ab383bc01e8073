"""Kafka's names for event names."""

from __future__ import annotations

from goevent_faststream._kafka.topics import (
    DEAD_LETTER_SUFFIX,
    MAX_TOPIC_CHARS,
    colliding_topic,
    consumer_group,
    name_of,
    topic_of,
)


def test_no_two_names_share_a_topic_and_no_event_has_a_dead_letter_topic() -> None:
    names = ["a.b", "a-b", "ab", "a.b.dead", "x" * 255, "x" * 254]
    topics = [topic_of("goevent.", name) for name in names]
    assert len({*topics}) == len(names)
    assert max(map(len, topics)) + len(DEAD_LETTER_SUFFIX) <= MAX_TOPIC_CHARS
    assert [name_of("goevent.", topic) for topic in topics] == [*names[:4], None, None]
    assert name_of("goevent.", "goevent.a" + DEAD_LETTER_SUFFIX) is None
    assert consumer_group("a.b", "c") != consumer_group("a", "b.c")


def test_topics_that_differ_only_in_dots_and_underscores_collide() -> None:
    assert colliding_topic("a.b", {"a", "a_b", "a-b"}) == "a_b"
    assert colliding_topic("a_b.c", {"a.b_c"}) == "a.b_c"
    assert colliding_topic("a.b", {"a.b", "a_b"}) is None
    assert colliding_topic("a.b", {"a-b", "ab", "a.b.c"}) is None
