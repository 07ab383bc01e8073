"""Kafka's names for event names: topics, dead-letter topics and consumer groups.

Brokers keep these names, so their bytes never change.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection

MAX_TOPIC_CHARS = 249
# No event name has an empty segment, so no event's topic ends like this.
DEAD_LETTER_SUFFIX = "..dead"
_DIGEST_CHARS = 32
MAX_PREFIX_CHARS = MAX_TOPIC_CHARS - len(DEAD_LETTER_SUFFIX) - len("..") - _DIGEST_CHARS
_PREFIX = re.compile(r"[A-Za-z0-9._-]*")


def check_prefix(prefix: str) -> None:
    """Check that topics may begin with a prefix.

    Raises:
        ValueError: It has characters that Kafka refuses, or leaves no room for the event names.
    """
    if not _PREFIX.fullmatch(prefix):
        raise ValueError(
            f"Kafka takes only letters, digits, '.', '_' and '-' in topics, and the prefix is "
            f"{prefix!r}"
        )
    if len(prefix) > MAX_PREFIX_CHARS:
        raise ValueError(
            f"Kafka takes topics of {MAX_TOPIC_CHARS} characters, so a prefix has at most "
            f"{MAX_PREFIX_CHARS}, and this one has {len(prefix)}"
        )
    if prefix.startswith("__") or ".." in prefix:
        raise ValueError(
            f"topics that begin with '__' are Kafka's own, and '..' marks dead letters: the prefix "
            f"must not be {prefix!r}"
        )


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
    return f"{topic[:MAX_PREFIX_CHARS]}..{digest}"


def name_of(prefix: str, topic: str) -> str | None:
    """Return the event name of a topic; None if the topic has none, or only its digest."""
    if not topic.startswith(prefix) or ".." in topic or topic.startswith("__"):
        return None
    return topic.removeprefix(prefix) or None


def colliding_topic(topic: str, topics: Collection[str]) -> str | None:
    """Return an existing topic that keeps Kafka from creating a topic, or None.

    Kafka creates no topic whose name differs from another one only in "." and "_".
    """
    if topic in topics:
        return None
    same = topic.replace(".", "_")
    return next((each for each in sorted(topics) if each.replace(".", "_") == same), None)


def consumer_group(group: str, topic: str) -> str:
    """Return the consumer group of a bus's group for one topic; no two share one.

    Each topic has a group of its own: members of one consumer group that subscribe to different
    topics make it rebalance without end.
    """
    return f"{group.replace('.', '=')}.{topic}"
