"""Names of goevent in the language of Kafka: topics, dead topics and consumer groups."""

from __future__ import annotations

from goevent import DriverError

LONGEST = 249  # characters of a topic's name
DEAD = "..dead"  # no event has an empty segment in its name, so no event's topic ends so


def topic_of(prefix: str, name: str) -> str:
    """Return the topic of an event name.

    Raises:
        DriverError: Kafka does not take names that long.
    """
    topic = prefix + name
    if len(topic) + len(DEAD) > LONGEST:
        raise DriverError(
            f"Kafka takes topics of at most {LONGEST} characters, with {DEAD!r} behind them: "
            f"{topic!r} is too long"
        )
    return topic


def name_of(prefix: str, topic: str) -> str | None:
    """Return the event name of a topic; None if it has none."""
    if not topic.startswith(prefix) or topic.endswith(DEAD) or topic.startswith("__"):
        return None
    return topic.removeprefix(prefix) or None


def consumer_group(group: str, topic: str) -> str:
    """Return the consumer group of a group for one topic; no two share one.

    Members of one consumer group that want different topics make it rebalance without end.
    """
    return f"{group.replace('.', '=')}.{topic}"
