"""Partitions: an event name as several streams, each of which has one reader in a group.

Events with the same key are in the same partition: its number is the CRC-32 of the key in UTF-8,
modulo how many there are. Events without a key are all in one partition, that of the name in place
of a key: one bus of the group gets them, in the order of dispatch.
"""

from __future__ import annotations

from zlib import crc32

from goevent import DriverError

from ..._link.link import Link
from ..keys import Keys
from ..scripts import Call, call
from .scripts import ESTABLISH


class PartitionsDiffer(DriverError):
    """A name is kept in another number of partitions than this bus is configured for.

    The number counts that a bus has used first. To change it, let all groups finish with the name,
    and delete its keys.

    Attributes:
        event_name: the name.
        configured: `StreamsConfig.partitions` of this bus.
        found: how many there are; 1 if it has none, 0 if that is unknown.
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


def partition_of(name: str, key: str | None, partitions: int) -> int:
    """Return the number of the partition in which an event is."""
    return crc32((name if key is None else key).encode()) % partitions


def establishing(keys: Keys, name: str) -> Call:
    """Return the call that notes how many partitions a name has, unless it has some already."""
    return ESTABLISH, (keys.stream(name), keys.names), (name, keys.partitions)


async def establish(link: Link, keys: Keys, name: str) -> None:
    """See that a name has as many partitions as this bus believes.

    Raises:
        PartitionsDiffer: It has not.
        redis.exceptions.RedisError: There is no connection, or the server refuses it.
    """
    script, where, args = establishing(keys, name)
    found = await call(link, script, where, *args)
    if found != keys.partitions:
        raise PartitionsDiffer(name, keys.partitions, found)
