"""Kafka through aiokafka, the client behind `faststream.kafka.KafkaBroker`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from aiokafka import TopicPartition, errors  # type: ignore[import-untyped]
from aiokafka.admin import NewTopic  # type: ignore[import-untyped]
from aiokafka.admin.config_resource import (  # type: ignore[import-untyped]
    ConfigResource,
    ConfigResourceType,
)
from aiokafka.conn import CloseReason  # type: ignore[import-untyped]
from aiokafka.errors import KafkaConnectionError  # type: ignore[import-untyped]
from aiokafka.protocol.metadata import MetadataRequest  # type: ignore[import-untyped]
from faststream.kafka import KafkaBroker, Topic

from goevent import DriverConnectionError, DriverError
from goevent.drivers import Receipt

from .._adapter.connection import checked_broker
from .._adapter.contract import Adapter, Outgoing
from .._adapter.errors import no_answer, not_connected
from .._adapter.properties import all_headers
from .._config import BrokerConfig
from .adapter import KafkaAdapter, check_address
from .aiokafka_member import AiokafkaMember
from .aiokafka_patch import tolerate_invalid_metadata
from .aiokafka_producer import (
    NoProducerIdError,
    ProducerInProgress,
    UrlKafkaBroker,
    close_producer,
    set_unset_options,
    watch_tasks,
)
from .aiokafka_reader import AiokafkaReader
from .aiokafka_records import tolerate_invalid_header_names
from .aiokafka_requests import (
    CLIENT_ERRORS,
    AiokafkaRequests,
    find_login_error,
    to_driver_error,
)
from .client import (
    LIMIT_REQUEST_SECONDS,
    REQUEST_SECONDS,
    Answer,
    Failed,
    GroupMember,
    ProducerFailedError,
    RebalanceListener,
    answer_sent,
    missing_topic,
    publish_by_broker,
    record_receipt,
)
from .client_options import check_producer_settings, member_options, reader_options
from .limits import LIMIT_OF_TOPIC, ClientLimits, parse_limit
from .refusals import Membership
from .topic_reader import ClusterLayout, PartitionLayout, TopicReader
from .url import read_kafka_url

AIOKAFKA_CONNECT_SECONDS = 8.0
AIOKAFKA_RENEW_SECONDS = 4.0
AIOKAFKA_STOP_SECONDS = 0.4
# The replicas of a topic that neither the broker creates by itself nor a `Topic` describes.
MAX_DEFAULT_REPLICAS = 3
# At the end of the bus, for requests under way, one of which may be connecting.
LAST_REQUESTS_SECONDS = 0.6


def make_broker(url: str) -> KafkaBroker:
    """Return FastStream's broker for a `kafka://` URL."""
    parsed = read_kafka_url(url, context=True)
    return UrlKafkaBroker(
        parsed.servers,
        security=parsed.security,
        client_id="goevent",
        # An event that is accepted is there once.
        enable_idempotence=True,
        logger=None,
        apply_types=False,
    )


def make_adapter(broker: object, config: BrokerConfig, address: object) -> Adapter:
    """Return the adapter for a broker that uses aiokafka."""
    kafka = checked_broker(broker, KafkaBroker)
    untyped: Any = kafka
    check_producer_settings(untyped._connection_kwargs, "transactional_id")
    if kafka.config.broker_config.consumer_only:
        raise ValueError("a Kafka broker with consumer_only=True cannot publish")
    topic = check_address(address, Topic)
    prefix = None if topic is None else topic.name
    return KafkaAdapter(kafka, AiokafkaClient(kafka, topic), config, prefix)


class AiokafkaClient:
    """The connection of one broker object.

    Args:
        topic: The settings with which missing topics are created; None leaves them to the broker.

    Attributes:
        limits: The limits in the settings of the producer, once it is open.
    """

    limits: ClientLimits

    def __init__(self, broker: KafkaBroker, topic: Topic | None) -> None:
        self._broker: Any = broker
        self._topic_settings = topic
        self._producer: Any = None
        self._broken: Callable[[str], None] = _ignore
        self._failed: Failed = _ignore
        self._requests = AiokafkaRequests()
        # Kept, because the broker composes its middlewares each time that it is asked.
        self._has_middlewares = False

    async def open(
        self, publish_timeout: float, broken: Callable[[str], None], failed: Failed
    ) -> DriverError | None:
        """Connect."""
        self._requests = AiokafkaRequests()
        tolerate_invalid_metadata()
        tolerate_invalid_header_names()
        self._broken, self._failed = broken, failed
        self._has_middlewares = bool(self._broker.middlewares)
        set_unset_options(self._broker._connection_kwargs)
        try:
            return await self._requests.run(self._start(), AIOKAFKA_CONNECT_SECONDS)
        except DriverError as error:
            if self._producer is None or not isinstance(error.__cause__, KafkaConnectionError):
                raise
            login = find_login_error(self._producer.client)
            raise await self._requests.run(login) or error from error.__cause__

    async def _start(self) -> DriverError | None:
        report: DriverError | None = None
        options: dict[str, Any] = self._broker._connection_kwargs
        try:
            await self._connect()
        except NoProducerIdError as error:
            if not isinstance(self._broker, UrlKafkaBroker):
                raise
            await close_producer(self._producer, flush=False)
            options["enable_idempotence"] = False
            await self._connect()
            report = DriverError(
                "Kafka: the broker gives no producer ids, so an event that the client has to send "
                "again may be there twice"
            )
            report.__cause__ = error.__cause__
        await self._broker.start()
        return report

    async def _connect(self) -> None:
        """Connect with a new producer; if this fails, it is kept to be closed."""
        settings = self._broker.config.broker_config
        settings.producer = in_progress = ProducerInProgress(settings.producer)
        try:
            await self._broker.connect()
        finally:
            settings.producer = in_progress.producer
            self._producer = in_progress.native
        self._watch(self._producer)

    def _watch(self, producer: Any) -> None:
        """Watch the connections and the tasks of a producer."""
        self.limits = ClientLimits(
            producer._max_request_size,
            producer._message_accumulator._batch_size,
            compresses=bool(producer._compression_type),
        )
        # The client reconnects and does not report it. Only the producer's connections are watched:
        # the pings keep them busy, while a broker closes an idle connection without being lost.
        on_closed = producer.client._on_connection_closed

        def closed(connection: Any, reason: Any) -> None:
            on_closed(connection, reason)
            if reason in (CloseReason.CONNECTION_BROKEN, CloseReason.CONNECTION_TIMEOUT):
                self._broken(f"{connection.host}:{connection.port} has closed it")

        producer.client._on_connection_closed = closed
        for connection in producer.client._conns.values():
            connection._on_close_cb = closed
        watch_tasks(producer, self._failed)

    async def renew(self) -> None:
        """Replace the producer."""
        # `_renew` has a time limit of its own, and is over before this one.
        await self._requests.run(self._renew(), 2 * AIOKAFKA_RENEW_SECONDS)

    async def _renew(self) -> None:
        old = self._producer
        # FastStream connects only if it has no connection. It keeps the administrator.
        self._broker._connection = None
        try:
            async with asyncio.timeout(AIOKAFKA_RENEW_SECONDS):
                await self._connect()
        except BaseException as error:
            unfinished, self._producer = self._producer, old
            if unfinished is not None and unfinished is not old:
                await close_producer(unfinished, flush=False)
            if isinstance(error, TimeoutError):
                raise no_answer("Kafka", AIOKAFKA_RENEW_SECONDS) from error
            raise
        await close_producer(old, flush=False)

    async def close(self, *, lost: bool) -> None:
        """Disconnect; events that cannot be sent within a moment are given up."""
        await self._requests.close(LAST_REQUESTS_SECONDS)
        broker, producer = self._broker, self._producer
        admin = broker.config.broker_config.admin
        self._producer = None
        if producer is not None:
            await close_producer(producer, flush=not lost)
        if admin.admin_client is not None:
            with suppress(*CLIENT_ERRORS):
                await admin.admin_client.close()
            admin.admin_client = None
        with suppress(*CLIENT_ERRORS):
            async with asyncio.timeout(AIOKAFKA_STOP_SECONDS):
                await broker.stop()
        # FastStream would use the closed connection again at the next start.
        broker._connection = None

    @property
    def _client(self) -> Any:
        if self._producer is None:
            raise not_connected("Kafka")
        return self._producer.client

    async def ping(self) -> None:
        """Ask one broker after the other for an empty list of topics, until one answers."""
        client, reason = self._client, "no broker is known"
        for broker in client.cluster.brokers():
            request = client.send(broker.nodeId, MetadataRequest([]))
            try:
                await self._requests.run(request)
            except DriverError as error:
                reason = str(error).removeprefix("Kafka: ")
            else:
                return
        raise DriverConnectionError(f"Kafka: {reason}")

    async def topics(self) -> Collection[str]:
        """Return the names of all topics."""
        cluster = await self._requests.run(self._client.fetch_all_metadata())
        return set(cluster.topics())

    async def ensure_topic(self, topic: str) -> None:
        """Create a topic if it is missing."""
        missing = await missing_topic(self, self._topic_settings, topic)
        if missing is not None:
            await self._create(topic, missing.num_partitions, missing.replication_factor)
        try:
            # Most brokers create a topic when they are asked for it.
            partitions = self._producer.partitions_for(topic)
            await self._requests.run(partitions, REQUEST_SECONDS / 2)
        except DriverError as error:
            forbidden = isinstance(error.__cause__, errors.TopicAuthorizationFailedError)
            if self._topic_settings is not None or forbidden:
                raise
            # The versions of the request that aiokafka has do not know the broker's own defaults.
            replicas = min(MAX_DEFAULT_REPLICAS, len(self._client.cluster.brokers()))
            await self._create(topic, 1, max(1, replicas))

    async def _create(self, topic: str, partitions: int, replicas: int) -> None:
        admin = self._broker.config.broker_config.admin.admin_client
        if admin._client.cluster.controller is None:
            # aiokafka would raise an AttributeError.
            raise DriverError(f"Kafka: there is no topic {topic!r}, and no broker that creates it")
        request = admin.create_topics([NewTopic(topic, partitions, replicas)])
        response = await self._requests.run(request)
        for topic_error in response.topic_errors:
            kind = errors.for_code(topic_error[1])
            if kind not in (errors.NoError, errors.TopicAlreadyExistsError):
                raise to_driver_error(kind(*topic_error[2:3]))

    async def send(self, topic: str, outgoing: Outgoing, answer: Answer) -> None:
        """Send an event; `answer` is called with its result."""
        key = None if outgoing.key is None else outgoing.key.encode()
        try:
            if self._has_middlewares:
                future = await publish_by_broker(self._broker, topic, key, outgoing)
            else:
                future = await self._producer.send(
                    topic, outgoing.body, key, headers=all_headers(outgoing)
                )
        except ProducerFailedError:
            raise
        except Exception as error:  # noqa: BLE001 - a middleware may raise any exception
            answer(outgoing, to_driver_error(error))
            return
        future.add_done_callback(
            partial(answer_sent, outgoing, answer, _receipt, self._batch_error)
        )

    def _batch_error(self, error: BaseException) -> DriverError:
        """Return the error of a batch that was not written, and make the next ones acceptable.

        aiokafka counts the records of a refused batch as written, so the broker would refuse all
        later batches of the partition, because their sequence numbers leave a gap. The numbers
        begin anew with another producer id. The sender asks for it before it sends the next batch;
        batches under way keep the old one. A batch that the sender has taken before this call is
        refused as well, and the publisher sends its events again.
        """
        manager = self._producer and self._producer._txn_manager
        uses_numbers = isinstance(error, (errors.BrokerResponseError, errors.ProducerFenced))
        if manager and manager.has_pid() and uses_numbers:
            manager.__init__(manager.transactional_id, manager.transaction_timeout_ms)
        return to_driver_error(error)

    async def max_message_bytes(self, topic: str) -> int | None:
        """Return the largest batch that a topic takes; None if the broker does not tell."""
        settings = await self._settings(ConfigResourceType.TOPIC, topic, {LIMIT_OF_TOPIC: None})
        return parse_limit(settings.get(LIMIT_OF_TOPIC))

    async def _settings(
        self, kind: ConfigResourceType, name: str, wanted: Mapping[str, None] | None = None
    ) -> dict[str, str]:
        """Return settings of a topic or a broker; none if the broker does not tell.

        Args:
            wanted: The names of the settings; None for all.
        """
        admin = self._broker.config.broker_config.admin.admin_client
        resource = ConfigResource(kind, name, wanted)
        try:
            responses = await self._requests.run(
                admin.describe_configs([resource]), LIMIT_REQUEST_SECONDS
            )
        except (DriverError, NotImplementedError):
            # It lacks the right or knows no such request; or another request has failed, too.
            return {}
        return {
            name: value
            for response in responses
            for _, _, _, _, entries in response.resources
            for name, value, *_ in entries or ()
            if isinstance(value, str)
        }

    # -- for the inspection

    async def layout(self) -> ClusterLayout:
        """Return the brokers and the topics with their partitions."""
        cluster: Any = await self._requests.run(self._client.fetch_all_metadata())
        return ClusterLayout(
            sorted(broker.nodeId for broker in cluster.brokers()),
            {
                topic: [
                    PartitionLayout(each.partition, len(each.replicas), len(each.isr))
                    for each in cluster._partitions.get(topic, {}).values()
                ]
                for topic in cluster.topics()
            },
        )

    async def committed(
        self, group: str, topic: str, partitions: Collection[int]
    ) -> Mapping[int, int]:
        """Return the offsets that a group has committed."""
        if not partitions:
            return {}
        admin = self._broker.config.broker_config.admin.admin_client
        parts = [TopicPartition(topic, each) for each in partitions]
        try:
            found = await self._requests.run(
                admin.list_consumer_group_offsets(group, partitions=parts)
            )
        except DriverError as error:
            if isinstance(error.__cause__, errors.GroupIdNotFound):
                return {}
            raise
        # A negative offset means that nothing is committed.
        return {part.partition: at.offset for part, at in found.items() if at.offset >= 0}

    async def topic_settings(self, topic: str) -> Mapping[str, str]:
        """Return the settings of a topic; none if the broker does not tell."""
        return await self._settings(ConfigResourceType.TOPIC, topic)

    async def broker_settings(self, broker: int) -> Mapping[str, str]:
        """Return the settings of a broker; none if it does not tell."""
        return await self._settings(ConfigResourceType.BROKER, str(broker))

    def reader(self) -> TopicReader:
        """Return a new reader of topics without a group."""
        settings = self._broker.config.broker_config
        try:
            consumer = settings.builder(**reader_options(settings.client_id, None))
        except (*CLIENT_ERRORS, ValueError) as error:
            raise to_driver_error(error) from error
        return AiokafkaReader(consumer)

    async def flush(self) -> None:
        """Return when no event is under way, or after a time limit."""
        with suppress(DriverError):
            await self._requests.run(self._producer.flush())

    async def write(
        self, topic: str, key: bytes | None, value: bytes, headers: Mapping[str, str]
    ) -> None:
        """Write a record; returns when the broker has it."""
        pairs = [(name, text.encode()) for name, text in headers.items()]
        written = self._producer.send_and_wait(topic, value, key, headers=pairs)
        try:
            await self._requests.run(written)
        except DriverError as error:
            raise self._batch_error(error.__cause__ or error) from error.__cause__

    def join(self, membership: Membership, listener: RebalanceListener) -> GroupMember:
        """Return a new member of a group."""
        settings = self._broker.config.broker_config
        options = member_options(membership, settings.client_id)
        try:
            consumer = settings.builder(**options)
        except (*CLIENT_ERRORS, ValueError) as error:
            raise to_driver_error(error) from error
        return AiokafkaMember(consumer, membership, listener)


def _receipt(written: Any) -> Receipt:
    # There is no record of an event that the broker need not confirm.
    return (
        record_receipt(written.topic, written.partition, written.offset) if written else Receipt()
    )


def _ignore(_: object) -> None:
    """Ignore a change of a client that is not open."""
