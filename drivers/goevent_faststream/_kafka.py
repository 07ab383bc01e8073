"""Kafka by aiokafka: the client behind `faststream.kafka.KafkaBroker`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

from aiokafka import ConsumerRebalanceListener, OffsetAndMetadata, TopicPartition, errors  # type: ignore[import-untyped]
from aiokafka.admin import NewTopic  # type: ignore[import-untyped]
from aiokafka.conn import CloseReason  # type: ignore[import-untyped]
from aiokafka.protocol.metadata import MetadataRequest  # type: ignore[import-untyped]
from faststream.kafka import KafkaBroker, Topic

from goevent import DriverConnectionError, DriverError, Receipt

from ._config import BrokerConfig
from ._dialect import Dialect, Outgoing
from ._kafka_client import Answer, KafkaConsumer, Owner
from ._kafka_dialect import KafkaDialect
from ._kafka_url import read_kafka_url
from ._kafka_window import Place, Record

T = TypeVar("T")

ANSWER = 5.0  # seconds that one request may take
DIAL = 8.0  # seconds until there has to be a connection
JOIN = 30.0  # seconds that a group may take to take us in
FETCH = 250  # milliseconds that a broker may wait for the first message of an answer
STOP = 0.4  # seconds for an orderly end
STEADY = {
    "acks": "all",  # what was accepted is there,
    "enable_idempotence": True,  # and once
    "request_timeout_ms": 10_000,
}
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
ANOTHERS = (
    errors.CommitFailedError,
    errors.IllegalStateError,
    errors.RebalanceInProgressError,
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


class Requests:
    """What is asked of aiokafka: it goes on if nobody waits any more.

    A request may be what connects, and one that is cancelled then leaves its socket behind.
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    async def ask(self, work: Coroutine[Any, Any, T], patience: float = ANSWER) -> T:
        """Return what the client returns.

        Raises:
            DriverError: it has failed, or was not there in time.
        """
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        await asyncio.wait({task}, timeout=patience)
        if not task.done():
            raise DriverConnectionError(f"Kafka: no answer within {patience:g} s")
        try:
            return task.result()
        except FAILURES as error:
            raise refusal(error) from error
        except asyncio.CancelledError:
            raise DriverConnectionError(
                "Kafka: the connection was closed before the answer"
            ) from None

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # who waits has it

    async def end(self) -> None:
        """Let what is under way end, but not for long."""
        if self._tasks:
            await asyncio.wait({*self._tasks}, timeout=STOP / 2)
        tasks = [*self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Dial:
    """Stands in for FastStream's producer while it connects, and remembers what it is given."""

    def __init__(self, producer: Any) -> None:
        self.native: Any = None
        self.producer = producer

    async def connect(self, native: Any, **options: Any) -> None:
        """Connect it."""
        self.native = native
        await self.producer.connect(native, **options)


class AioKafka:
    """The connection of one broker object.

    Args:
        address: says how topics are made that are missing.
    """

    def __init__(self, broker: KafkaBroker, address: Topic | None) -> None:
        self._broker: Any = broker
        self._address = address
        self._producer: Any = None
        self._requests = Requests()

    async def open(self, publish_timeout: float, broken: Callable[[str], None]) -> None:
        """Connect."""
        self._requests = Requests()
        self._broker._connection_kwargs.update(STEADY)
        await self._requests.ask(self._dial(), DIAL)
        producer = self._producer
        # It connects again and tells nobody; only its own are watched, which the pings keep busy.
        theirs = producer.client._on_connection_closed

        def closed(connection: Any, reason: Any) -> None:
            theirs(connection, reason)
            if reason in (CloseReason.CONNECTION_BROKEN, CloseReason.CONNECTION_TIMEOUT):
                broken(f"{connection.host}:{connection.port} has closed it")

        producer.client._on_connection_closed = closed
        for connection in producer.client._conns.values():
            connection._on_close_cb = closed

    async def _dial(self) -> None:
        broker, settings = self._broker, self._broker.config.broker_config
        # If this fails or is cancelled, FastStream forgets the client that it has begun to connect.
        settings.producer = dial = Dial(settings.producer)
        try:
            await broker.connect()
        finally:
            settings.producer = dial.producer
            self._producer = dial.native
        await broker.start()

    async def close(self, *, lost: bool) -> None:
        """Disconnect; what could not be sent within a moment is given up."""
        await self._requests.end()
        broker, producer = self._broker, self._producer
        self._producer = None
        with suppress(*FAILURES):
            async with asyncio.timeout(0.0 if lost else STOP):
                await broker.stop()
        if producer is not None:
            producer._closed = True  # also if it was not, for want of time
            task = producer._sender and producer._sender.sender_task
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
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
                await self._requests.ask(client.send(broker.nodeId, MetadataRequest([])))
            except DriverError as error:
                reason = str(error).removeprefix("Kafka: ")
            else:
                return
        raise DriverConnectionError(f"Kafka: {reason}")

    async def topics(self) -> Collection[str]:
        """Return the topics that there are."""
        cluster = await self._requests.ask(self._client.fetch_all_metadata())
        return set(cluster.topics())

    async def ensure(self, topic: str) -> None:
        """Have a topic exist: brokers make it when asked for it, or an administrator does."""
        given = self._address
        if given is not None and topic not in await self.topics():
            if not given.declare:
                raise DriverError(f"Kafka: there is no topic {topic!r}, and it is not ours to make")
            await self._make(topic, given.num_partitions, given.replication_factor)
        try:
            await self._requests.ask(self._producer.partitions_for(topic), ANSWER / 2)
        except DriverError:
            if given is not None:
                raise
            await self._make(topic, -1, -1)

    async def _make(self, topic: str, partitions: int, replicas: int) -> None:
        admin = self._broker.config.broker_config.admin.admin_client
        new = NewTopic(topic, partitions, replicas)
        response = await self._requests.ask(admin.create_topics([new]))
        for answer in response.topic_errors:
            kind = errors.for_code(answer[1])
            if kind not in (errors.NoError, errors.TopicAlreadyExistsError):
                raise refusal(kind(*answer[2:3]))

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
        await self._requests.ask(self._producer.send_and_wait(topic, value, key, headers=pairs))

    def consumer(self, topic: str, group: str, silence: float, owner: Owner) -> KafkaConsumer:
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
        self._requests = Requests()
        self._failure: DriverError | None = None

    def _parts(self, partitions: Collection[int]) -> list[TopicPartition]:
        return [TopicPartition(self._topic, each) for each in partitions]

    async def start(self) -> None:
        """Begin to join the group."""
        self._consumer.subscribe([self._topic], listener=self)
        await self._requests.ask(self._consumer.start(), JOIN)  # it waits for partitions

    async def stop(self) -> None:
        """Leave the group."""
        await self._requests.end()
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

    async def on_partitions_revoked(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, revoked: set[Any]
    ) -> None:
        """Give partitions up."""
        await self._owner.revoked([each.partition for each in revoked])

    async def on_partitions_assigned(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, assigned: set[Any]
    ) -> None:
        """Take partitions over, from where the group is."""
        parts = sorted(assigned)
        # The public `committed` does not return the note.
        try:
            found = await self._consumer._coordinator.fetch_committed_offsets(parts)
            places: dict[int, Place | None] = dict.fromkeys(each.partition for each in parts)
            for part, at in found.items():
                places[part.partition] = Place(at.offset, at.metadata or "")
            for partition, offset in (await self._owner.assigned(places)).items():
                self._consumer.seek(TopicPartition(self._topic, partition), offset)
        except (DriverError, *FAILURES) as error:
            # The client would only log it, and read from anywhere.
            self._failure = DriverError(f"Kafka: partitions could not be taken over: {error}")

    # -- what the owner calls

    async def read(self, most: int, patience: float) -> Sequence[Record]:
        """Return what there is."""
        if self._failure is not None:
            raise self._failure
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

    async def commit(self, places: Mapping[int, Place]) -> bool:
        """Commit offsets and notes."""
        offsets = {
            TopicPartition(self._topic, partition): OffsetAndMetadata(place.offset, place.note)
            for partition, place in places.items()
        }
        try:
            await self._requests.ask(self._consumer.commit(offsets))
        except DriverError as error:
            if not isinstance(error.__cause__, ANOTHERS):
                raise
            return False
        return True

    async def find(self, partitions: Collection[int], start: str | datetime) -> Mapping[int, int]:
        """Return the offsets of a start."""
        parts, consumer = self._parts(partitions), self._consumer
        if start == "earliest":
            found = await self._requests.ask(consumer.beginning_offsets(parts))
            return {part.partition: offset for part, offset in found.items()}
        ends = await self.ends(partitions)
        if isinstance(start, datetime):
            times = dict.fromkeys(parts, int(start.timestamp() * 1000))
            found = await self._requests.ask(consumer.offsets_for_times(times))
            return ends | {part.partition: at.offset for part, at in found.items() if at}
        if start == "latest":
            return ends
        return {partition: min(int(start), end) for partition, end in ends.items()}

    async def ends(self, partitions: Collection[int]) -> dict[int, int]:
        """Return the offsets that come next."""
        found = await self._requests.ask(self._consumer.end_offsets(self._parts(partitions)))
        return {part.partition: offset for part, offset in found.items()}

    def pause(self, partitions: Collection[int]) -> None:
        """Read no more of partitions."""
        with suppress(errors.IllegalStateError):  # they are another's since
            self._consumer.pause(*self._parts(partitions))

    def resume(self, partitions: Collection[int]) -> None:
        """Read of them again."""
        with suppress(errors.IllegalStateError):
            self._consumer.resume(*self._parts(partitions))
