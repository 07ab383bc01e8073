"""Kafka by aiokafka: the client behind `faststream.kafka.KafkaBroker`."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Any

from aiokafka import ConsumerRebalanceListener, OffsetAndMetadata, TopicPartition, errors
from aiokafka.admin import NewTopic
from aiokafka.protocol.metadata import MetadataRequest
from faststream.kafka import KafkaBroker, Topic

from goevent import DriverConnectionError, DriverError, Receipt

from ._config import BrokerConfig
from ._dialect import Dialect, Outgoing
from ._kafka_client import Answer, KafkaConsumer, Owner
from ._kafka_dialect import KafkaDialect
from ._kafka_url import read_kafka_url
from ._kafka_window import Place, Record

ANSWER = 5.0  # seconds that one request may take
FETCH = 250  # milliseconds that a broker may wait for the first message of an answer
STOP = 0.6  # seconds for an orderly end
STEADY = {"acks": "all", "enable_idempotence": True}  # what was accepted is there, and once
UNREACHABLE = (
    errors.KafkaConnectionError,
    errors.NodeNotReadyError,
    errors.RequestTimedOutError,
    errors.KafkaTimeoutError,
    errors.NoBrokersAvailable,
    errors.StaleMetadata,
    errors.CoordinatorNotAvailableError,
    OSError,
    TimeoutError,
)
FAILURES = (errors.KafkaError, OSError, TimeoutError)


def broker_at(url: str) -> KafkaBroker:
    """Return FastStream's broker for a `kafka://` URL."""
    servers, security = read_kafka_url(url, context=True)
    return KafkaBroker(
        servers, security=security, client_id="goevent", logger=None, apply_types=False
    )


def dialect(broker: object, config: BrokerConfig, address: object) -> Dialect:
    """Return Kafka for a broker of aiokafka."""
    if not isinstance(broker, KafkaBroker):
        raise TypeError(f"this is no KafkaBroker: {broker!r}")
    if address is not None and not isinstance(address, Topic):
        raise TypeError(f"the address of events in Kafka is a Topic of its broker, not {address!r}")
    prefix = None if address is None else address.name
    return KafkaDialect(broker, AioKafka(broker, address), config, prefix)


def refusal(error: BaseException) -> DriverError:
    """Return the error of the contract for one of aiokafka; one of the contract as it is."""
    if isinstance(error, DriverError):
        return error
    kind = DriverConnectionError if isinstance(error, UNREACHABLE) else DriverError
    mapped = kind(f"Kafka: {str(error) or type(error).__name__}")
    mapped.__cause__ = error
    return mapped


class AioKafka:
    """The connection of one broker object.

    Args:
        address: says how topics are made that are missing.
    """

    def __init__(self, broker: KafkaBroker, address: Topic | None) -> None:
        self._broker: Any = broker
        self._address = address
        self._producer: Any = None

    async def open(self, publish_timeout: float) -> None:
        """Connect."""
        broker = self._broker
        broker._connection_kwargs.update(STEADY)
        try:
            await broker.start()
        except FAILURES as error:
            raise refusal(error) from error
        self._producer = broker.config.broker_config.producer._producer.producer

    async def close(self, *, lost: bool) -> None:
        """Disconnect; what could not be sent within a moment is given up."""
        broker, producer = self._broker, self._producer
        self._producer = None
        with suppress(*FAILURES):
            async with asyncio.timeout(0.0 if lost else STOP):
                await broker.stop()
        if producer is not None and producer._sender.sender_task is not None:
            producer._sender.sender_task.cancel()
            await asyncio.gather(producer._sender.sender_task, return_exceptions=True)
            await producer.client.close()
        admin = broker.config.broker_config.admin
        if admin.admin_client is not None:
            with suppress(*FAILURES):
                await admin.admin_client.close()
            admin.admin_client = None
        broker._connection = None

    @property
    def _client(self) -> Any:
        if self._producer is None:
            raise DriverConnectionError("Kafka: there is no connection")
        return self._producer.client

    async def ping(self) -> None:
        """Ask any broker for nothing."""
        client, reason = self._client, "no broker is known"
        for broker in client.cluster.brokers():
            try:
                await client.send(broker.nodeId, MetadataRequest([]))
            except FAILURES as error:
                reason = str(error) or type(error).__name__
            else:
                return
        raise DriverConnectionError(f"Kafka: {reason}")

    async def topics(self) -> Collection[str]:
        """Return the topics that there are."""
        try:
            cluster = await self._client.fetch_all_metadata()
        except FAILURES as error:
            raise refusal(error) from error
        return set(cluster.topics())

    async def ensure(self, topic: str) -> None:
        """Have a topic exist: by asking for it where brokers make it then, or as an administrator."""
        given = self._address
        try:
            if given is not None and topic not in await self.topics():
                if not given.declare:
                    raise DriverError(f"Kafka: there is no topic {topic!r}, and it is not ours to make")
                await self._make(topic, given.num_partitions, given.replication_factor)
            try:
                async with asyncio.timeout(ANSWER / 2):
                    await self._producer.partitions_for(topic)
            except (TimeoutError, errors.UnknownTopicOrPartitionError):
                if given is not None:
                    raise
                await self._make(topic, -1, -1)
        except FAILURES as error:
            raise refusal(error) from error

    async def _make(self, topic: str, partitions: int, replicas: int) -> None:
        admin = self._broker.config.broker_config.admin.admin_client
        async with asyncio.timeout(ANSWER):
            response = await admin.create_topics([NewTopic(topic, partitions, replicas)])
        for answer in response.topic_errors:
            kind = errors.for_code(answer[1])
            if kind not in (errors.NoError, errors.TopicAlreadyExistsError):
                raise kind(*answer[2:3])

    async def send(self, topic: str, outgoing: Outgoing, answer: Answer) -> None:
        """Send an event; by the broker if it has middlewares, which is a lot slower."""
        key = None if outgoing.key is None else outgoing.key.encode()
        broker = self._broker
        try:
            if broker.middlewares or outgoing.headers:
                future = await broker.publish(
                    outgoing.body,
                    topic,
                    key=key,
                    headers={**outgoing.headers},
                    correlation_id=outgoing.id,
                    no_confirm=True,
                )
            else:
                future = await self._producer.send(
                    topic, outgoing.body, key, headers=[("correlation_id", outgoing.id.encode())]
                )
        except Exception as error:  # noqa: BLE001 - the client's, or a middleware's own
            answer(outgoing, refusal(error))
            return
        future.add_done_callback(partial(_answered, outgoing, answer))

    async def write(
        self, topic: str, key: bytes | None, value: bytes, headers: Mapping[str, str]
    ) -> None:
        """Write a message."""
        pairs = [(name, text.encode()) for name, text in headers.items()]
        try:
            async with asyncio.timeout(ANSWER):
                future = await self._producer.send(topic, value, key, headers=pairs)
                await future
        except FAILURES as error:
            raise refusal(error) from error

    def consumer(
        self, topic: str, group: str, silence: float, owner: Owner
    ) -> KafkaConsumer:
        """Make a member of a group."""
        build = self._broker.config.broker_config.builder
        client_id = self._broker.config.broker_config.client_id
        consumer = build(
            group_id=group,
            client_id=client_id,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            session_timeout_ms=int(silence * 1000),
            heartbeat_interval_ms=int(silence * 1000 / 4),
            fetch_max_wait_ms=FETCH,
        )
        return AioConsumer(consumer, topic, owner)


def _answered(outgoing: Outgoing, answer: Answer, future: Any) -> None:
    if future.cancelled():
        answer(outgoing, DriverConnectionError("Kafka: the client has given the event up"))
        return
    error = future.exception()
    if error is not None:
        answer(outgoing, refusal(error))
        return
    done = future.result()
    answer(outgoing, Receipt(id=f"{done.topic}-{done.partition}@{done.offset}"))


class AioConsumer(ConsumerRebalanceListener):  # type: ignore[misc]
    """A member of a group."""

    def __init__(self, consumer: Any, topic: str, owner: Owner) -> None:
        self._consumer = consumer
        self._topic = topic
        self._owner = owner

    def _parts(self, partitions: Collection[int]) -> list[TopicPartition]:
        return [TopicPartition(self._topic, each) for each in partitions]

    async def start(self) -> None:
        """Begin to join the group."""
        self._consumer.subscribe([self._topic], listener=self)
        try:
            await self._consumer.start()
        except FAILURES as error:
            raise refusal(error) from error

    async def stop(self) -> None:
        """Leave the group."""
        with suppress(*FAILURES):
            async with asyncio.timeout(STOP):
                await self._consumer.stop()
                return
        # It was not over in time, which leaves tasks and sockets of the client.
        consumer = self._consumer
        for part in (consumer._coordinator, consumer._fetcher, consumer._client):
            with suppress(*FAILURES):
                async with asyncio.timeout(STOP / 6):
                    await part.close()

    # -- what the client calls

    async def on_partitions_revoked(self, revoked: set[Any]) -> None:
        """Give partitions up."""
        await self._owner.revoked([each.partition for each in revoked])

    async def on_partitions_assigned(self, assigned: set[Any]) -> None:
        """Take partitions over, from where the group is."""
        parts = sorted(assigned)
        # The public `committed` does not return the note.
        found = await self._consumer._coordinator.fetch_committed_offsets(parts)
        places: dict[int, Place | None] = {}
        for part in parts:
            at = found.get(part)
            known = at is not None and at.offset >= 0
            places[part.partition] = Place(at.offset, at.metadata or "") if known else None
        for partition, offset in (await self._owner.assigned(places)).items():
            self._consumer.seek(TopicPartition(self._topic, partition), offset)

    # -- what the owner calls

    async def read(self, most: int, patience: float) -> Sequence[Record]:
        """Return what there is."""
        try:
            found = await self._consumer.getmany(timeout_ms=patience * 1000, max_records=most)
        except FAILURES as error:
            raise refusal(error) from error
        return [
            Record(
                raw.partition,
                raw.offset,
                raw.key,
                raw.value or b"",
                {name: (value or b"").decode(errors="replace") for name, value in raw.headers},
                raw.timestamp / 1000,
                raw,
            )
            for records in found.values()
            for raw in records
        ]

    async def commit(self, places: Mapping[int, Place]) -> None:
        """Commit offsets and notes."""
        offsets = {
            TopicPartition(self._topic, partition): OffsetAndMetadata(place.offset, place.note)
            for partition, place in places.items()
        }
        try:
            async with asyncio.timeout(ANSWER):
                await self._consumer.commit(offsets)
        except (errors.CommitFailedError, errors.IllegalStateError):
            pass  # they are another's since; it was told, or will be
        except FAILURES as error:
            raise refusal(error) from error

    async def find(self, partitions: Collection[int], start: str | datetime) -> Mapping[int, int]:
        """Return the offsets of a start."""
        parts = self._parts(partitions)
        try:
            if start == "earliest":
                found = await self._consumer.beginning_offsets(parts)
                return {part.partition: offset for part, offset in found.items()}
            found = await self._consumer.end_offsets(parts)
            ends = {part.partition: offset for part, offset in found.items()}
            if isinstance(start, datetime):
                time = int(start.timestamp() * 1000)
                times = await self._consumer.offsets_for_times(dict.fromkeys(parts, time))
                first = {part.partition: at.offset for part, at in times.items() if at is not None}
                return ends | first
        except FAILURES as error:
            raise refusal(error) from error
        if start == "latest":
            return ends
        return {partition: min(int(start), end) for partition, end in ends.items()}

    def pause(self, partitions: Collection[int]) -> None:
        """Read no more of partitions."""
        with suppress(errors.IllegalStateError):  # they are another's since
            self._consumer.pause(*self._parts(partitions))

    def resume(self, partitions: Collection[int]) -> None:
        """Read of them again."""
        with suppress(errors.IllegalStateError):
            self._consumer.resume(*self._parts(partitions))

    async def ends(self, partitions: Collection[int]) -> Mapping[int, int]:
        """Return the offsets that come next."""
        try:
            async with asyncio.timeout(ANSWER):
                found = await self._consumer.end_offsets(self._parts(partitions))
        except FAILURES as error:
            raise refusal(error) from error
        return {part.partition: offset for part, offset in found.items()}
