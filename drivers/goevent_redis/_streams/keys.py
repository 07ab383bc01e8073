"""The keys under which durable events are kept in Redis.

A colon separates the parts of a key: neither event names nor groups contain one.
"""

from __future__ import annotations

RELEASED = "handed-back"
"""The consumer that owns released entries, until a bus claims them."""


class StreamKeys:
    """The keys of one group under one prefix.

    Attributes:
        names: A set: the event names that were ever published.
        dead: A stream: the dead letters of the group.
        marks: A hash: the id up to which the group has acknowledged each stream.
        patterns: A set: the patterns that the group knows.
        numbers: The numbers of the partitions of each name; `(None,)` without partitions.
    """

    def __init__(self, prefix: str, group: str, partitions: int = 1) -> None:
        self.prefix = prefix
        self.group = group
        self.partitions = partitions
        self.numbers: tuple[int | None, ...] = (None,) if partitions == 1 else (*range(partitions),)
        self.names = f"{prefix}names"
        self.dead = f"{prefix}dead:{group}"
        self.marks = f"{prefix}marks:{group}"
        self.patterns = f"{prefix}patterns:{group}"

    def stream(self, name: str, partition: int | None = None) -> str:
        """Return the stream of an event name, or of one of its partitions.

        If a name has partitions, the key without a number holds their count. A bus that expects no
        partitions, or the other way round, then meets a key of the wrong type.
        """
        return f"{self.prefix}stream:{name}{_suffix(partition)}"

    def replayed(self, name: str, group: str | None = None, partition: int | None = None) -> str:
        """Return the stream of the events that are replayed for one group only."""
        return f"{self.prefix}again:{group or self.group}:{name}{_suffix(partition)}"

    def leases(self, name: str) -> str:
        """Return the hash of the leases of a name: which bus of the group has which partition."""
        return f"{self.prefix}leases:{self.group}:{name}"

    def members(self, name: str) -> str:
        """Return the hash of the buses of the group that want partitions of a name."""
        return f"{self.prefix}members:{self.group}:{name}"

    def done(self) -> str:
        """Return the prefix of the keys that remember the handle ids of finished events."""
        return f"{self.prefix}done:{self.group}:"


def _suffix(partition: int | None) -> str:
    return "" if partition is None else f":{partition}"
