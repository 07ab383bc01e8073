"""What the Kafka adapter asks of a client: aiokafka or confluent, behind FastStream's brokers.

All of it runs on the loop side. A client maps its own exceptions: it raises `DriverError`s only.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import Protocol

from goevent.drivers import Receipt

from .._adapter.contract import Outgoing
from .offsets import Place, Record

Answer = Callable[[Outgoing, Receipt | Exception], None]


class Owner(Protocol):
    """Who reads from a consumer, and is told of partitions."""

    async def assigned(self, places: Mapping[int, Place | None]) -> Mapping[int, int]:
        """Take partitions over, with what is committed of them; return where to read on."""
        ...

    async def revoked(self, partitions: Collection[int]) -> None:
        """Give partitions up: commit what can be committed, as they are another's afterwards."""
        ...

    def lost(self, partitions: Collection[int]) -> None:
        """Forget partitions, which are another's already."""
        ...


class KafkaConsumer(Protocol):
    """A member of a consumer group, which reads one topic."""

    async def start(self) -> None:
        """Begin to join the group."""
        ...

    async def stop(self) -> None:
        """Leave the group."""
        ...

    async def read(self, most: int, patience: float) -> Sequence[Record]:
        """Return what there is, and wait so many seconds for the first."""
        ...

    async def commit(self, places: Mapping[int, Place]) -> bool:
        """Commit offsets and notes; return False if the partitions may be another's since."""
        ...

    async def find(self, partitions: Collection[int], start: str | datetime) -> Mapping[int, int]:
        """Return the offsets of "earliest", "latest", an offset, or the first since a time."""
        ...

    def pause(self, partitions: Collection[int]) -> None:
        """Read no more of partitions, and stay a member."""
        ...

    def resume(self, partitions: Collection[int]) -> None:
        """Read of them again."""
        ...

    async def ends(self, partitions: Collection[int]) -> Mapping[int, int]:
        """Return the offsets that come next at the ends of partitions."""
        ...


class KafkaClient(Protocol):
    """The connection to a cluster, and its producer."""

    async def open(self, publish_timeout: float, broken: Callable[[str], None]) -> None:
        """Connect.

        Args:
            broken: called on the loop, with the reason, when a connection breaks.

        Raises:
            DriverConnectionError: no broker answers.
        """
        ...

    async def close(self, *, lost: bool) -> None:
        """Disconnect; also if `open` has failed.

        Args:
            lost: there is no connection, so what was not sent is given up.
        """
        ...

    async def ping(self) -> None:
        """Return when a broker has answered.

        Raises:
            DriverConnectionError: none does.
        """
        ...

    async def topics(self) -> Collection[str]:
        """Return the topics that there are."""
        ...

    async def ensure(self, topic: str) -> None:
        """See to it that a topic exists."""
        ...

    async def send(self, topic: str, outgoing: Outgoing, answer: Answer) -> None:
        """Send an event; `answer` is called with what comes of it, not before this has returned.

        Calls one after the other keep the order of each key.
        """
        ...

    async def write(
        self, topic: str, key: bytes | None, value: bytes, headers: Mapping[str, str]
    ) -> None:
        """Write a message that is no event; returns when the broker has it."""
        ...

    def consumer(self, topic: str, group: str, silence: float, owner: Owner) -> KafkaConsumer:
        """Make a member of a group, which is not one any more after so many seconds of silence."""
        ...
