"""The names of everything that durable events keep in Redis.

A colon separates the parts: neither event names nor groups have one.
"""

from __future__ import annotations

HEIR = "handed-back"
"""The consumer to whom entries are given that wait for whoever takes them."""


class Keys:
    """The keys of one group under one prefix."""

    def __init__(self, prefix: str, group: str) -> None:
        self.prefix = prefix
        self.group = group
        self.names = f"{prefix}names"  # a set: the event names that were ever published
        self.dead = f"{prefix}dead:{group}"  # the dead letters, a stream
        self.marks = f"{prefix}marks:{group}"  # a hash: up to where each stream is acknowledged
        self.patterns = f"{prefix}patterns:{group}"  # a set: the patterns that the group knows

    def stream(self, name: str) -> str:
        """Return the stream of an event name."""
        return f"{self.prefix}stream:{name}"

    def again(self, name: str, group: str | None = None) -> str:
        """Return the stream of what one group only is to get once more."""
        return f"{self.prefix}again:{group or self.group}:{name}"

    def done(self) -> str:
        """Return what stands before a handle id in the key that says its event is finished."""
        return f"{self.prefix}done:{self.group}:"
