"""The names of everything that durable events keep in Redis.

A colon separates the parts: neither event names nor groups have one.
"""

from __future__ import annotations

HEIR = "handed-back"
"""The consumer to whom entries are given that wait for whoever takes them."""


class Keys:
    """The keys of one group under one prefix.

    Attributes:
        numbers: those of the partitions of each name; one that is None, if there are none.
    """

    def __init__(self, prefix: str, group: str, partitions: int = 1) -> None:
        self.prefix = prefix
        self.group = group
        self.partitions = partitions
        self.numbers: tuple[int | None, ...] = (None,) if partitions == 1 else (*range(partitions),)
        self.names = f"{prefix}names"  # a set: the event names that were ever published
        self.dead = f"{prefix}dead:{group}"  # the dead letters, a stream
        self.marks = f"{prefix}marks:{group}"  # a hash: up to where each stream is acknowledged
        self.patterns = f"{prefix}patterns:{group}"  # a set: the patterns that the group knows

    def stream(self, name: str, partition: int | None = None) -> str:
        """Return the stream of an event name, or of one of its partitions.

        Of a name that has partitions, the key without one holds how many they are: whoever takes
        the name for one without, or the other way round, meets with a key of the wrong type.
        """
        return f"{self.prefix}stream:{name}{_numbered(partition)}"

    def again(self, name: str, group: str | None = None, partition: int | None = None) -> str:
        """Return the stream of what one group only is to get once more."""
        return f"{self.prefix}again:{group or self.group}:{name}{_numbered(partition)}"

    def leases(self, name: str) -> str:
        """Return the hash that says who of the group has which partition of a name."""
        return f"{self.prefix}leases:{self.group}:{name}"

    def members(self, name: str) -> str:
        """Return the hash of those of the group who want partitions of a name."""
        return f"{self.prefix}members:{self.group}:{name}"

    def done(self) -> str:
        """Return what stands before a handle id in the key that says its event is finished."""
        return f"{self.prefix}done:{self.group}:"


def _numbered(partition: int | None) -> str:
    return "" if partition is None else f":{partition}"
