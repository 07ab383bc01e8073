"""The interface of a Kafka client: aiokafka or confluent-kafka, behind FastStream's brokers.

The adapter, the publisher and the consumers use a client only through these protocols. All of it
runs on the loop side. A client maps its own exceptions and raises `DriverError`s only. The
functions below are the parts of a client that are the same for both.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

from goevent import DriverConnectionError, DriverError
from goevent.drivers import Receipt, jittered

from .._adapter.contract import Outgoing
from .._adapter.properties import split_properties
from .limits import ClientLimits
from .offsets import CommitPoint, KafkaRecord
from .refusals import Membership, ReadRefusedError, Refusal
from .topic_reader import ClusterLayout, TopicReader

Answer = Callable[[Outgoing, Receipt | Exception], None]
Failed = Callable[[DriverError], None]

REQUEST_SECONDS = 5.0
# For a limit, which events can do without.
LIMIT_REQUEST_SECONDS = 2.0
TAKE_OVER_RETRY_SECONDS = 0.1
# The part of a session in which partitions are taken over: aiokafka sends no heartbeat meanwhile.
TAKE_OVER_SHARE = 0.5


class ProducerFailedError(DriverError):
    """The producer of a client can send nothing more, and has to be replaced."""


class RebalanceListener(Protocol):
    """The owner of a group member; the member calls it when partitions come and go."""

    async def assigned(self, points: Mapping[int, CommitPoint | None]) -> Mapping[int, int]:
        """Take partitions with their commit points; return the offsets to read from."""
        ...

    async def revoked(self, partitions: Collection[int]) -> None:
        """Give partitions up: this is the last chance to commit."""
        ...

    def lost(self, partitions: Collection[int]) -> None:
        """Forget partitions that another member has already."""
        ...

    def refused(self, refusal: Refusal) -> None:
        """Take note of a refusal that the member does not raise."""
        ...

    def works(self, request: str) -> None:
        """Take note that the broker has answered a request without an error."""
        ...


class GroupMember(Protocol):
    """A member of a consumer group, which reads one topic.

    Attributes:
        failure: Why the member reads nothing more, so that it has to be replaced; None while it
            can read.
    """

    failure: DriverError | None

    async def start(self) -> None:
        """Begin to join the group."""
        ...

    async def stop(self) -> None:
        """Leave the group."""
        ...

    async def read(self, count: int, seconds: float) -> Sequence[KafkaRecord]:
        """Return up to `count` records; waits `seconds` for the first one."""
        ...

    async def commit(self, points: Mapping[int, CommitPoint]) -> bool:
        """Commit; return False if the group refuses: another member may have the partitions."""
        ...

    async def first_offsets(self, partitions: Collection[int]) -> Mapping[int, int]:
        """Return the offsets of the first records that partitions hold."""
        ...

    async def end_offsets(self, partitions: Collection[int]) -> Mapping[int, int]:
        """Return the offsets behind the last records of partitions."""
        ...

    async def offsets_at(self, partitions: Collection[int], time: datetime) -> Mapping[int, int]:
        """Return the offsets of the first records since a time, of partitions that have some."""
        ...

    def reached(self, partition: int) -> int:
        """Return the offset up to which a partition is read, as far as known.

        It is behind the last record, if no event follows: transactions end with records that the
        client hides.
        """
        ...

    def pause(self, partitions: Collection[int]) -> None:
        """Read no more of partitions, and stay a member."""
        ...

    def resume(self, partitions: Collection[int]) -> None:
        """Read partitions again."""
        ...


class KafkaClient(Protocol):
    """The connection to a cluster, and its producer."""

    async def open(
        self, publish_timeout: float, broken: Callable[[str], None], failed: Failed
    ) -> DriverError | None:
        """Connect.

        Args:
            broken: Called on the loop, with the reason, when a connection breaks.
            failed: Called on the loop, with the reason, when the producer can send nothing more.

        Returns:
            The report of a promise that cannot be kept with this broker, if there is one.

        Raises:
            DriverConnectionError: No broker answers.
        """
        ...

    async def renew(self) -> None:
        """Replace the producer; what the old one has not sent is given up.

        Raises:
            DriverError: There is no new producer, and the old one stays.
        """
        ...

    async def close(self, *, lost: bool) -> None:
        """Disconnect, even if `open` has failed.

        Args:
            lost: There is no connection, so unsent events are given up at once.
        """
        ...

    async def ping(self) -> None:
        """Return when a broker has answered.

        Raises:
            DriverConnectionError: No broker answers.
        """
        ...

    async def topics(self) -> Collection[str]:
        """Return the names of all topics."""
        ...

    async def ensure_topic(self, topic: str) -> None:
        """Create a topic if it is missing."""
        ...

    @property
    def limits(self) -> ClientLimits:
        """The limits in the client's settings."""
        ...

    async def max_message_bytes(self, topic: str) -> int | None:
        """Return the largest batch that a topic takes; None if the broker does not tell."""
        ...

    async def flush(self) -> None:
        """Return when no event is under way, or after a time limit."""
        ...

    async def send(self, topic: str, outgoing: Outgoing, answer: Answer) -> None:
        """Send an event; `answer` is called with its result, which may be after this returns.

        Sequential calls keep the order of each key.

        Raises:
            ProducerFailedError: The producer takes no events. This one was not sent.
        """
        ...

    async def write(
        self, topic: str, key: bytes | None, value: bytes, headers: Mapping[str, str]
    ) -> None:
        """Write a record that is not an event; returns when the broker has it."""
        ...

    def join(self, membership: Membership, listener: RebalanceListener) -> GroupMember:
        """Return a new member of a group.

        Raises:
            DriverError: The client refuses the settings.
        """
        ...

    # -- for the inspection

    async def layout(self) -> ClusterLayout:
        """Return the brokers and the topics with their partitions; creates none."""
        ...

    async def committed(
        self, group: str, topic: str, partitions: Collection[int]
    ) -> Mapping[int, int]:
        """Return the offsets that a group has committed, of the partitions where it has."""
        ...

    async def topic_settings(self, topic: str) -> Mapping[str, str]:
        """Return the settings of a topic; none if the broker does not tell."""
        ...

    async def broker_settings(self, broker: int) -> Mapping[str, str]:
        """Return the settings of a broker; none if it does not tell."""
        ...

    def reader(self) -> TopicReader:
        """Return a new reader of topics without a group.

        Raises:
            DriverError: The client refuses the settings.
        """
        ...


class TopicSettings(Protocol):
    """The settings of a topic that is created if it is missing; FastStream's `Topic` has them."""

    declare: bool
    num_partitions: int
    replication_factor: int


# -- the same for both clients


async def take_over(
    committed: Callable[[], Awaitable[Mapping[int, CommitPoint | None]]],
    listener: RebalanceListener,
    membership: Membership,
) -> Mapping[int, int]:
    """Give assigned partitions to the listener; return the offsets to read from.

    A broker that has just started may know neither its leaders nor the commits of the group for a
    moment. A member that left the group for that reason would make all the others rebalance, so
    requests that fail with such an error are made again. The time for that is limited.

    Args:
        committed: Asks for the commit points.

    Raises:
        DriverError: The broker does not answer, or refuses a request for good.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + TAKE_OVER_SHARE * membership.claim_idle
    while True:
        try:
            return await listener.assigned(await committed())
        except DriverError as error:
            if not _may_pass(error) or loop.time() >= until:
                raise
        await asyncio.sleep(jittered(TAKE_OVER_RETRY_SECONDS))


def _may_pass(error: DriverError) -> bool:
    if isinstance(error, ReadRefusedError):
        return error.refusal.passes
    return isinstance(error, DriverConnectionError)


async def start_offsets(
    member: GroupMember, partitions: Collection[int], start: str | datetime
) -> Mapping[int, int]:
    """Return the offsets at which a new group begins.

    Args:
        start: "earliest", "latest", an offset, or a time.
    """
    if start == "earliest":
        return await member.first_offsets(partitions)
    ends = await member.end_offsets(partitions)
    if isinstance(start, datetime):
        # A partition without records since then begins at its end.
        return {**ends, **await member.offsets_at(partitions, start)}
    if start == "latest":
        return ends
    return {partition: min(int(start), end) for partition, end in ends.items()}


async def missing_topic(
    client: KafkaClient, settings: TopicSettings | None, topic: str
) -> TopicSettings | None:
    """Return the settings with which to create a missing topic; None to create none.

    Raises:
        DriverError: It is missing, and the user's `Topic` forbids its creation.
    """
    if settings is None or topic in await client.topics():
        return None
    if not settings.declare:
        raise DriverError(f"Kafka: there is no topic {topic!r}, and its Topic has declare=False")
    return settings


async def publish_by_broker(broker: Any, topic: str, key: bytes | None, outgoing: Outgoing) -> Any:
    """Publish through FastStream's broker, so that its middlewares run; return a future.

    This takes several times as long as the client alone, so it is used only with middlewares.
    """
    return await broker.publish(
        outgoing.body,
        topic,
        key=key,
        headers={**outgoing.headers},
        correlation_id=split_properties(outgoing).correlation_id,
        no_confirm=True,
    )


def record_receipt(topic: str, partition: int, offset: int | None) -> Receipt:
    """Return the receipt of a record; its id is empty if the broker has not told its offset."""
    return (
        Receipt() if offset is None or offset < 0 else Receipt(id=f"{topic}-{partition}@{offset}")
    )


def answer_sent(
    outgoing: Outgoing,
    answer: Answer,
    receipt: Callable[[Any], Receipt],
    to_driver_error: Callable[[BaseException], DriverError],
    future: Any,
) -> None:
    """Answer an event when the future of its send is done."""
    if future.cancelled():
        answer(outgoing, DriverConnectionError("Kafka: the client has given the event up"))
        return
    error = future.exception()
    answer(outgoing, receipt(future.result()) if error is None else to_driver_error(error))
