"""Names of goevent in the language of Kafka: topics, dead topics and consumer groups."""

from __future__ import annotations

import hashlib

LONGEST = 249  # characters of a topic's name
DEAD = "..dead"  # no event has an empty segment in its name, so no event's topic ends so


def topic_of(prefix: str, name: str) -> str:
    """Return the topic of an event name; no two share one.

    Kafka does not take all names that are this long: the end of one is replaced by its digest, and
    such a topic is not found by patterns.
    """
    topic = prefix + name
    if len(topic) + len(DEAD) <= LONGEST:
        return topic
    digest = hashlib.sha256(name.encode()).hexdigest()[:32]
    return f"{topic[: LONGEST - len(DEAD) - 34]}..{digest}"


def name_of(prefix: str, topic: str) -> str | None:
    """Return the event name of a topic; None if it has none, or cannot be told."""
    if not topic.startswith(prefix) or ".." in topic or topic.startswith("__"):
        return None
    return topic.removeprefix(prefix) or None


def consumer_group(group: str, topic: str) -> str:
    """Return the consumer group of a group for one topic; no two share one.

    Members of one consumer group that want different topics make it rebalance without end.
    """
    return f"{group.replace('.', '=')}.{topic}"
