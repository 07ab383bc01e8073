"""Flow control of one group member: it pauses partitions that have enough unsettled records.

A member that does not ask its client for records is removed from its group, so a full bus does not
stop asking. It pauses partitions, and the client then returns nothing of them. A partition resumes
when it is half empty, so that it does not change with every record.

The bytes of the records that wait for the bus are bounded together for all members of a bus, and
the buffers of the clients by their own limits. Both are shares of `prefetch_bytes`, which bounds
what the bus has.
"""

from __future__ import annotations

from collections.abc import Mapping

from .client import GroupMember
from .offsets import PartitionOffsets

WAITING_SHARE = 4


class WaitingBytes:
    """The bytes of the records that wait for the bus, of all its members.

    Attributes:
        max_bytes: The limit. A member without waiting records may read in any case, so that no
            topic keeps the others from being read, and an event of any size passes.
        total: The bytes that wait now.
    """

    def __init__(self, prefetch_bytes: int) -> None:
        self.max_bytes = prefetch_bytes // WAITING_SHARE
        self.total = 0


class PartitionFlow:
    """The paused partitions of one member.

    Args:
        max_records: The largest number of records between the committed offset and the position.
    """

    def __init__(self, max_records: int) -> None:
        self._max_records = max_records
        self._paused: set[int] = set()

    def assigned(self, partition: int) -> None:
        """Record that a partition is assigned anew: clients do not keep its pause."""
        self._paused.discard(partition)

    def is_paused(self, partition: int) -> bool:
        """Return whether a partition is paused."""
        return partition in self._paused

    def pause(self, member: GroupMember, partitions: set[int]) -> None:
        """Pause partitions."""
        new = partitions - self._paused
        if new:
            member.pause(new)
            self._paused |= new

    def adjust(self, member: GroupMember, partitions: Mapping[int, PartitionOffsets]) -> None:
        """Pause partitions that are full, and resume those that are half empty again."""
        most = self._max_records
        self.pause(member, {n for n, each in partitions.items() if len(each.records) >= most})
        resumed = {n for n in self._paused if n in partitions}
        resumed = {n for n in resumed if 2 * len(partitions[n].records) <= most}
        if resumed:
            member.resume(resumed)
            self._paused -= resumed
