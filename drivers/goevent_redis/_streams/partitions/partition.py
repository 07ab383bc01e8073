"""A partition: one of the streams of an event name, which one bus of a group reads at a time.

Events with the same key are in the same partition: its number is the CRC-32 of the key in UTF-8,
modulo the number of partitions. Events without a key are all in one partition, as if the name were
their key: one bus of the group gets them, in the order of dispatch.
"""

from __future__ import annotations

from zlib import crc32

from goevent import DriverError

from ..._link.link import Link
from ..keys import StreamKeys
from ..lease import Lease
from ..scripts import ESTABLISH, ScriptCall, call
from ..stream import Stream


class PartitionsDiffer(DriverError):
    """An event name has another number of partitions than this bus is configured for.

    The first bus that uses a name decides the number. To change it, let all groups finish with the
    name, and delete its keys.

    Attributes:
        event_name: The name.
        configured: `StreamsConfig.partitions` of this bus.
        found: The number of partitions; 1 if the name has a single stream, 0 if it is unknown.
    """

    def __init__(self, event_name: str, configured: int, found: int) -> None:
        super().__init__(event_name, configured, found)
        self.event_name = event_name
        self.configured = configured
        self.found = found

    def __str__(self) -> str:
        found = {0: "another number of partitions", 1: "a single stream"}
        return (
            f"{self.event_name!r} is kept in {found.get(self.found, f'{self.found} partitions')}, "
            f"and this bus has partitions={self.configured}: all that use it need the same number"
        )


class Partition:
    """A partition of an event name, whether this bus has its lease or not.

    Attributes:
        streams: The stream of its events, and the stream of its replayed events.
        lease: The lease of this bus; None without one.
    """

    __slots__ = ("lease", "name", "number", "streams")

    def __init__(self, name: str, number: int) -> None:
        self.name = name
        self.number = number
        self.streams: list[Stream] = []
        self.lease: Lease | None = None

    def add(self, stream: Stream) -> None:
        """Add a stream."""
        if stream not in self.streams:
            self.streams.append(stream)
        stream.lease = self.lease

    def hold_by(self, lease: Lease | None) -> None:
        """Set the lease; None if this bus no longer has the partition."""
        self.lease = lease
        for stream in self.streams:
            stream.lease = lease

    @property
    def held_count(self) -> int:
        """How many of its entries this bus holds."""
        return sum(len(stream.held) for stream in self.streams)

    def drained(self, lease: Lease) -> bool:
        """Tell whether no listener has an entry of a lease, and Redis knows all finished ones."""
        return not any(
            entry.started and not entry.waiting and entry.lease is lease
            for stream in self.streams
            for entry in stream.held.values()
        )

    def __repr__(self) -> str:
        return f"<Partition {self.number} of {self.name!r}>"


def partition_of(name: str, key: str | None, partitions: int) -> int:
    """Return the number of the partition of an event."""
    return crc32((name if key is None else key).encode()) % partitions


def establishing(keys: StreamKeys, name: str) -> ScriptCall:
    """Return the call that notes how many partitions a name has, unless that is known already."""
    return ESTABLISH, (keys.stream(name), keys.names), (name, keys.partitions)


async def establish(link: Link, keys: StreamKeys, name: str) -> None:
    """Check that a name has as many partitions as this bus is configured for.

    Raises:
        PartitionsDiffer: It has another number.
        redis.exceptions.RedisError: There is no connection, or the server refuses it.
    """
    script, where, args = establishing(keys, name)
    found = await call(link, script, where, *args)
    if found != keys.partitions:
        raise PartitionsDiffer(name, keys.partitions, found)
