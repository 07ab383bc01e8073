"""A reader of topics without a consumer group, and the layout of a cluster.

The inspection uses both. Each client has a reader of its own, made by `KafkaClient.reader`. It
joins no group and commits nothing, so no group notices it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from .offsets import KafkaRecord

Place = tuple[str, int]
"""A topic and one of its partitions."""


@dataclass(frozen=True, slots=True)
class PartitionLayout:
    """The replicas of one partition, as a broker tells them.

    Attributes:
        partition: The number of the partition.
        replicas: How many replicas it has.
        in_sync: How many of them have every record.
    """

    partition: int
    replicas: int
    in_sync: int


@dataclass(frozen=True, slots=True)
class ClusterLayout:
    """The topics of a cluster.

    Attributes:
        brokers: The ids of the brokers.
        topics: The partitions of each topic.
    """

    brokers: Sequence[int]
    topics: Mapping[str, Sequence[PartitionLayout]]

    def places(self, topics: Collection[str]) -> list[Place]:
        """Return the partitions of some topics, of those that exist."""
        return [(topic, each.partition) for topic in topics for each in self.topics.get(topic, ())]


class TopicReader(Protocol):
    """A reader of partitions; it begins where it is told to."""

    async def start(self) -> None:
        """Connect.

        Raises:
            DriverError: No broker answers.
        """
        ...

    async def stop(self) -> None:
        """Disconnect, even if `start` has failed."""
        ...

    async def assign(self, positions: Mapping[Place, int]) -> None:
        """Read these partitions and no others, each from an offset on.

        An offset that a partition no longer has stands for the first one that it has.
        """
        ...

    async def read(self, count: int, seconds: float) -> Sequence[tuple[str, KafkaRecord]]:
        """Return up to `count` records with their topics; waits `seconds` for the first one.

        Raises:
            DriverError: A broker refuses to deliver, or the client cannot go on.
        """
        ...

    async def first_offsets(self, places: Collection[Place]) -> Mapping[Place, int]:
        """Return the offsets of the first records that partitions hold."""
        ...

    async def end_offsets(self, places: Collection[Place]) -> Mapping[Place, int]:
        """Return the offsets behind the last records of partitions."""
        ...
