"""Kafka's names for event names: topics, dead-letter topics and consumer groups.

Brokers keep these names, so their bytes never change.
"""

from __future__ import annotations

import hashlib

MAX_TOPIC_CHARS = 249
# No event name has an empty segment, so no event's topic ends like this.
DEAD_LETTER_SUFFIX = "..dead"
_DIGEST_CHARS = 32


def topic_of(prefix: str, name: str) -> str:
    """Return the topic of an event name; no two names share one.

    Kafka takes shorter names than goevent. The end of a name that is too long is replaced by a
    digest of the name, and patterns do not find such a topic.

    Example:
        >>> topic_of("goevent.", "order.paid")
        'goevent.order.paid'
    """
    topic = prefix + name
    if len(topic) + len(DEAD_LETTER_SUFFIX) <= MAX_TOPIC_CHARS:
        return topic
    digest = hashlib.sha256(name.encode()).hexdigest()[:_DIGEST_CHARS]
    kept = MAX_TOPIC_CHARS - len(DEAD_LETTER_SUFFIX) - len("..") - _DIGEST_CHARS
    return f"{topic[:kept]}..{digest}"


def name_of(prefix: str, topic: str) -> str | None:
    """Return the event name of a topic; None if the topic has none, or only its digest."""
    if not topic.startswith(prefix) or ".." in topic or topic.startswith("__"):
        return None
    return topic.removeprefix(prefix) or None


def consumer_group(group: str, topic: str) -> str:
    """Return the consumer group of a bus's group for one topic; no two share one.

    Each topic has a group of its own: members of one consumer group that subscribe to different
    topics make it rebalance without end.
    """
    return f"{group.replace('.', '=')}.{topic}"
