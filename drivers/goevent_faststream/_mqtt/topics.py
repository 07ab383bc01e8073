"""Event names as topics of MQTT, and topics as event names."""

from __future__ import annotations


def topic_of(name: str) -> str:
    """Return the topic of an event name, or of a prefix."""
    return name.replace(".", "/")


def event_name_of(topic: str) -> str:
    """Return the event name of a topic; empty if the topic stands for no event name."""
    return "" if "." in topic else topic.replace("/", ".")
