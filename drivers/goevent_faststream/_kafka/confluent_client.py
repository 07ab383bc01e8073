"""Kafka through confluent-kafka, the client behind `faststream.confluent.KafkaBroker`.

The client blocks, and calls back in the thread that polls it. So the loop's thread never calls a
function of it that waits: those run in threads.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable, Collection, Generator, Mapping
from contextlib import contextmanager, suppress
from copy import copy
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

from confluent_kafka import (
    ConsumerGroupTopicPartitions,
    KafkaError,
    KafkaException,
    TopicPartition,
)
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    ConfigResource,  # pyright: ignore[reportPrivateImportUsage]
    NewTopic,  # pyright: ignore[reportPrivateImportUsage]
    ResourceType,  # pyright: ignore[reportPrivateImportUsage]
)
from faststream.confluent import KafkaBroker, Topic
from faststream.confluent.helpers.client import AsyncConfluentProducer

from goevent import DriverError
from goevent.drivers import Receipt, TlsSettings

from .._adapter.contract import Adapter, Outgoing
from .._adapter.errors import map_error, not_connected
from .._adapter.properties import all_headers
from .._adapter.tls import probe_tls
from .._config import BrokerConfig
from .adapter import KafkaAdapter, check_address
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
from .client_options import (
    MAX_READER_BYTES,
    check_producer_settings,
    fetch_bytes,
    member_options,
    reader_options,
)
from .confluent_errors import LOGIN_CODES, call_blocking, to_driver_error
from .confluent_member import ConfluentMember, GroupLog
from .confluent_producer import NewProducer, WatchedProducer, stop_producer
from .confluent_reader import ConfluentReader
from .limits import LIMIT_OF_TOPIC, ClientLimits, ProducerRefusedError, parse_limit
from .refusals import Membership
from .topic_reader import ClusterLayout, PartitionLayout, TopicReader
from .url import read_kafka_url

CONFLUENT_CONNECT_SECONDS = 5.0
CONFLUENT_FLUSH_SECONDS = 0.4
CONFLUENT_PING_SECONDS = 2.0
REASON_SECONDS = 1.0
# The defaults of librdkafka.
CONFLUENT_REQUEST_BYTES = CONFLUENT_BATCH_BYTES = 1_000_000
# A topic that cannot be created either.
REFUSED_TOPIC_CODES = (KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.TOPIC_EXCEPTION)
FASTSTREAM_REQUEST_MILLISECONDS = 40_000
# The two names of the option for the requests under way on one connection.
IN_FLIGHT = ("max.in.flight.requests.per.connection", "max.in.flight")
CONNECTION_LOST_CODES = (KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN)

# A member is told when it reaches the end of a partition, even behind records that it does not see.
CONFLUENT_MEMBER_OPTIONS = {"enable.partition.eof": True}


def make_broker(url: str) -> KafkaBroker:
    """Return FastStream's broker for a `kafka+confluent://` or `kafka+confluent+tls://` URL."""
    parsed = read_kafka_url(url, context=False)
    config: Any = None if parsed.tls is None else _tls_options(parsed.tls)
    return KafkaBroker(
        parsed.servers,
        config=config,
        security=parsed.security,
        client_id="goevent",
        # As Java's client and aiokafka: all writers of a topic must agree on a key's partition.
        partitioner="murmur2_random",
        # An event that is accepted is there once.
        enable_idempotence=True,
        logger=None,
        apply_types=False,
    )


def _tls_options(tls: TlsSettings) -> dict[str, Any]:
    """Return the client's options for TLS.

    Raises:
        ValueError: A file has no certificate or key that can be used.
    """
    # The client would tell this later, and not name the option.
    tls.context()
    options: dict[str, Any] = {
        "ssl.ca.location": tls.cafile,
        "ssl.certificate.location": tls.certfile,
        "ssl.key.location": tls.keyfile or tls.certfile,
        "ssl.endpoint.identification.algorithm": "https" if tls.check_hostname else "none",
    }
    return {name: value for name, value in options.items() if value is not None}


def make_adapter(broker: object, config: BrokerConfig, address: object) -> Adapter:
    """Return the adapter for a broker that uses confluent-kafka."""
    # aiokafka's broker has the same name, so the text says which of them is meant.
    if not isinstance(broker, KafkaBroker):
        raise TypeError(f"the broker must be a KafkaBroker of faststream.confluent, not {broker!r}")
    options = broker.config.broker_config.connection_config.producer_config
    check_producer_settings(options, "transactional.id")
    topic = check_address(address, Topic)
    prefix = None if topic is None else topic.name
    return KafkaAdapter(broker, ConfluentClient(broker, topic), config, prefix)


class ConfluentClient:
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
        self._watched: Any = None
        self._known_topic = ""
        self._has_controller = False
        self._delivered: deque[tuple[Outgoing, Answer, Receipt | Exception]] = deque()
        self._loop_called = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._login_error: KafkaError | None = None
        self._broken: Callable[[str], None] = _ignore
        self._failed: Failed = _ignore
        # Why the producer has failed.
        self._failure: DriverError | None = None
        self._has_failed = asyncio.Event()
        self._users_error_cb = self._settings.connection_config.config.get("error_cb", _ignore)
        # Kept, because the broker composes its middlewares each time that it is asked.
        self._has_middlewares = False

    @property
    def _settings(self) -> Any:
        return self._broker.config.broker_config

    async def open(
        self, publish_timeout: float, broken: Callable[[str], None], failed: Failed
    ) -> DriverError | None:
        """Connect."""
        self._loop = asyncio.get_running_loop()
        self._has_failed = asyncio.Event()
        self._broken, self._failed = broken, failed
        self._has_middlewares = bool(self._broker.middlewares)
        connection = self._settings.connection_config
        raw = connection.raw_producer_config
        if raw["request_timeout_ms"] == FASTSTREAM_REQUEST_MILLISECONDS:
            raw["request_timeout_ms"] = int(REQUEST_SECONDS * 1000)
        connection.config = {
            "delivery.timeout.ms": int(publish_timeout * 1000),
            "socket.keepalive.enable": True,
            "socket.timeout.ms": 10_000,
            # The client would write to stderr before its errors can be looked at.
            "log_level": 0,
        } | connection.config
        options = connection.producer_config
        max_request_bytes = int(options.get("message.max.bytes", CONFLUENT_REQUEST_BYTES))
        codec = options.get("compression.type") or options.get("compression.codec")
        self.limits = ClientLimits(
            max_request_bytes,
            min(max_request_bytes, int(options.get("batch.size", CONFLUENT_BATCH_BYTES))),
            compresses=codec not in (None, "none"),
        )
        self._delivered.clear()
        self._loop_called = False
        settings = self._settings
        settings.producer = stand_in = NewProducer(settings.producer, self._use)
        try:
            with self._producer_options():
                await self._broker.start()
        finally:
            settings.producer = stand_in.producer
        await self._check(self._producer)
        return None

    @contextmanager
    def _producer_options(self) -> Generator[None]:
        """Add options of a producer to those of the clients that are made inside the block."""
        self._login_error = None
        connection = self._settings.connection_config
        users_options = connection.config
        options: dict[str, Any] = {"error_cb": self._on_error}
        is_idempotent = connection.producer_config.get("enable.idempotence")
        if not is_idempotent and not users_options.keys() & {*IN_FLIGHT}:
            # Or a batch that is sent again could come behind later events of its key.
            options[IN_FLIGHT[0]] = 1
        connection.config = users_options | options
        try:
            yield
        finally:
            # Clients that are made from here on are group members; the errors of one client
            # suffice.
            connection.config = {"error_cb": _ignore} | users_options

    def _use(self, fast_producer: AsyncConfluentProducer) -> None:
        """Publish with a producer of FastStream from here on."""
        self._producer = producer = fast_producer.producer
        self._failure = None
        self._has_failed.clear()
        self._watched = WatchedProducer(producer, partial(self._tell_failure, producer))
        fast_producer.producer = self._watched

    def _on_error(self, error: Any) -> None:
        """Take an error of a producer; called in the thread that polls it."""
        self._users_error_cb(error)
        if error.code() in LOGIN_CODES:
            self._login_error = error
        if error.code() in CONNECTION_LOST_CODES:
            self._call_soon(self._broken, error.str())

    def _tell_failure(self, producer: Any, error: KafkaException) -> None:
        """Pass on that a producer has failed; called in the thread that polls it."""
        self._call_soon(self._fail, producer, to_driver_error(error))

    def _call_soon(self, function: Callable[..., None], *args: object) -> None:
        # The loop may have ended.
        with suppress(RuntimeError):
            if self._loop is not None:
                self._loop.call_soon_threadsafe(function, *args)

    def _fail(self, producer: Any, error: DriverError) -> None:
        if producer is self._producer and self._failure is None:
            self._failure = error
            self._has_failed.set()
            self._failed(error)

    async def _reason(self, error: DriverError) -> ProducerFailedError:
        """Return why the producer has failed; the client tells it once, to its poller."""
        with suppress(TimeoutError):
            async with asyncio.timeout(REASON_SECONDS):
                await self._has_failed.wait()
        return ProducerFailedError(str(self._failure or error))

    async def _check(self, producer: Any) -> None:
        """Return when a broker has answered a producer."""
        try:
            await call_blocking(producer.list_topics, timeout=CONFLUENT_CONNECT_SECONDS)
        except DriverError:
            # The client tells the reason to the callback, and then raises that it has no answer.
            failure = await self._find_tls_failure(self._settings.connection_config.producer_config)
            if failure is not None:
                raise map_error("Kafka", failure, ()) from None
            if self._login_error is None:
                raise
            raise to_driver_error(self._login_error) from None

    async def renew(self) -> None:
        """Replace the producer."""
        settings = self._settings
        producer = settings.producer
        old = producer._producer.producer
        with self._producer_options():
            new = AsyncConfluentProducer(logger=settings.logger, config=settings.connection_config)
        old_state = self._producer, self._watched, self._failure
        self._use(new)
        try:
            await self._check(self._producer)
        except BaseException:
            self._producer, self._watched, self._failure = old_state
            await stop_producer(new)
            raise
        producer.connect(new, producer.serializer, producer.codec)
        await stop_producer(old)

    async def _find_tls_failure(self, options: Mapping[str, Any]) -> ssl.SSLError | None:
        """Return why TLS fails, if it is used; the client does not tell it."""
        if "ssl" not in str(options.get("security.protocol")).lower():
            return None
        tls = TlsSettings(
            options.get("ssl.ca.location"),
            options.get("ssl.certificate.location"),
            options.get("ssl.key.location"),
            check_hostname=options.get("ssl.endpoint.identification.algorithm") != "none",
        )
        for address in str(options["bootstrap.servers"]).split(","):
            host, _, port = address.rpartition(":")
            failure = await probe_tls(host.strip("[]"), int(port), tls.context())
            if failure is not None:
                return failure
        return None

    async def close(self, *, lost: bool) -> None:
        """Disconnect; events that cannot be sent within a moment are given up."""
        producer, self._producer = self._producer, None
        if producer is not None:
            if not lost:
                with suppress(DriverError):
                    await call_blocking(producer.flush, CONFLUENT_FLUSH_SECONDS)
            # Unsent events would keep the client from ending.
            producer.purge()
        with suppress(KafkaException):
            await self._broker.stop()
        # FastStream would use the closed connection again at the next start.
        self._broker._connection = None

    @property
    def _client(self) -> Any:
        if self._producer is None:
            raise not_connected("Kafka")
        return self._producer

    async def ping(self) -> None:
        """Ask for one topic that is known, since there may be very many."""
        topics = (self._known_topic,) if self._known_topic else ()
        await call_blocking(self._client.list_topics, *topics, timeout=CONFLUENT_PING_SECONDS)

    async def topics(self) -> Collection[str]:
        """Return the names of all topics."""
        found = await call_blocking(self._client.list_topics, timeout=REQUEST_SECONDS)
        # A broker answers for a name that no topic may have, too.
        return {
            name
            for name, topic in found.topics.items()
            if topic.error is None or topic.error.code() != KafkaError.TOPIC_EXCEPTION
        }

    async def ensure_topic(self, topic: str) -> None:
        """Create a topic if it is missing."""
        missing = await missing_topic(self, self._topic_settings, topic)
        if missing is not None:
            await self._create(NewTopic(topic, missing.num_partitions, missing.replication_factor))
        # Most brokers create a topic when they are asked for it, and the next answer has it.
        if not await self._exists(topic) and not await self._exists(topic):
            await self._create(NewTopic(topic, -1, -1))
        self._known_topic = topic

    async def _exists(self, topic: str) -> bool:
        found = await call_blocking(self._client.list_topics, topic, timeout=REQUEST_SECONDS)
        self._has_controller = found.controller_id in found.brokers
        error = found.topics[topic].error
        if error is not None and error.code() in REFUSED_TOPIC_CODES:
            raise to_driver_error(error)
        return error is None

    async def _create(self, topic: Any) -> None:
        created = self._settings.admin.client.create_topics(
            [topic], request_timeout=REQUEST_SECONDS
        )
        for future in created.values():
            try:
                async with asyncio.timeout(REQUEST_SECONDS + 1):
                    await asyncio.wrap_future(future)
            except (KafkaException, TimeoutError) as error:
                cause = error.args[0] if error.args else None
                code = cause.code() if isinstance(cause, KafkaError) else None
                if code != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise to_driver_error(error) from error

    async def max_message_bytes(self, topic: str) -> int | None:
        """Return the largest batch that a topic takes; None if the broker does not tell."""
        return parse_limit((await self.topic_settings(topic)).get(LIMIT_OF_TOPIC))

    # -- for the inspection

    async def topic_settings(self, topic: str) -> Mapping[str, str]:
        """Return the settings of a topic; none if the broker does not tell."""
        return await self._described(ConfigResource(ResourceType.TOPIC, topic))

    async def broker_settings(self, broker: int) -> Mapping[str, str]:
        """Return the settings of a broker; none if it does not tell."""
        return await self._described(ConfigResource(ResourceType.BROKER, str(broker)))

    async def _described(self, resource: Any) -> dict[str, str]:
        if not self._has_controller:
            # The client would wait for one.
            return {}
        try:
            asked = self._settings.admin.client.describe_configs(
                [resource], request_timeout=LIMIT_REQUEST_SECONDS
            )
            async with asyncio.timeout(LIMIT_REQUEST_SECONDS + 1):
                found = await asyncio.wrap_future(asked[resource])
        except (KafkaException, TimeoutError):
            # It lacks the right or knows no such request; or another request has failed, too.
            return {}
        return {name: entry.value for name, entry in found.items() if isinstance(entry.value, str)}

    async def layout(self) -> ClusterLayout:
        """Return the brokers and the topics with their partitions."""
        found = await call_blocking(self._client.list_topics, timeout=REQUEST_SECONDS)
        self._has_controller = found.controller_id in found.brokers
        return ClusterLayout(
            sorted(found.brokers),
            {
                name: [
                    PartitionLayout(each.id, len(each.replicas), len(each.isrs))
                    for each in topic.partitions.values()
                ]
                for name, topic in found.topics.items()
                if topic.error is None
            },
        )

    async def committed(
        self, group: str, topic: str, partitions: Collection[int]
    ) -> Mapping[int, int]:
        """Return the offsets that a group has committed."""
        if not partitions:
            return {}
        parts = [TopicPartition(topic, each) for each in partitions]
        try:
            asked = self._settings.admin.client.list_consumer_group_offsets(
                [ConsumerGroupTopicPartitions(group, parts)], request_timeout=REQUEST_SECONDS
            )
            async with asyncio.timeout(REQUEST_SECONDS + 1):
                found = await asyncio.wrap_future(asked[group])
        except (KafkaException, TimeoutError) as error:
            cause = error.args[0] if error.args else None
            if isinstance(cause, KafkaError) and cause.code() == KafkaError.GROUP_ID_NOT_FOUND:
                return {}
            raise to_driver_error(error) from error
        # A negative offset means that nothing is committed.
        return {each.partition: each.offset for each in found.topic_partitions if each.offset >= 0}

    def reader(self) -> TopicReader:
        """Return a new reader of topics without a group."""
        settings = self._settings
        config = copy(settings.connection_config)
        config.config = {
            "queued.max.messages.kbytes": MAX_READER_BYTES >> 10,
            "log_level": 0,
        } | config.config
        builder = replace(settings.builder, config=config)
        try:
            consumer = builder(
                partitions=(),
                allow_auto_create_topics=False,
                # The client needs the name of a group; it joins none and commits nothing.
                **reader_options(settings.client_id, f"goevent-reader-{uuid4().hex}"),
            ).consumer
        except KafkaException as error:
            raise to_driver_error(error) from error
        return ConfluentReader(consumer, settings.admin.client)

    async def flush(self) -> None:
        """Return when no event is under way, or after a time limit."""
        with suppress(DriverError):
            await call_blocking(self._watched.flush, REQUEST_SECONDS)

    async def send(self, topic: str, outgoing: Outgoing, answer: Answer) -> None:
        """Send an event; `answer` is called with its result."""
        if self._failure is not None:
            raise ProducerFailedError(str(self._failure))
        key = None if outgoing.key is None else outgoing.key.encode()
        try:
            if self._has_middlewares:
                future = await publish_by_broker(self._broker, topic, key, outgoing)
                future.add_done_callback(
                    partial(answer_sent, outgoing, answer, _receipt, to_driver_error)
                )
            else:
                self._client.produce(
                    topic,
                    outgoing.body,
                    key,
                    headers=all_headers(outgoing),
                    on_delivery=partial(self._on_delivery, outgoing, answer, self._loop),
                )
        except Exception as error:
            failure = to_driver_error(error)
            if isinstance(failure, ProducerFailedError):
                raise await self._reason(failure) from error
            answer(outgoing, failure)

    def _on_delivery(
        self,
        outgoing: Outgoing,
        answer: Answer,
        loop: asyncio.AbstractEventLoop | None,
        error: Any,
        message: Any,
    ) -> None:
        """Queue the result of an event for the loop; called in the thread that polls the client."""
        result = _receipt(message) if error is None else to_driver_error(error)
        self._delivered.append((outgoing, answer, result))
        # One call for all results that come before the loop has its turn.
        if loop is not None and not self._loop_called:
            self._loop_called = True
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(self._answer_delivered)

    def _answer_delivered(self) -> None:
        # Before the first result is taken: a result that comes from here on calls again.
        self._loop_called = False
        delivered = self._delivered
        while delivered:
            outgoing, answer, result = delivered.popleft()
            answer(outgoing, result)

    async def write(
        self, topic: str, key: bytes | None, value: bytes, headers: Mapping[str, str]
    ) -> None:
        """Write a record; returns when the broker has it."""
        loop = asyncio.get_running_loop()
        written: asyncio.Future[Any] = loop.create_future()

        def on_delivery(error: Any, _: Any) -> None:
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(set_written, error)

        def set_written(error: Any) -> None:
            # The writer may have been cancelled.
            if not written.done():
                written.set_result(error)

        pairs = [(name, text.encode()) for name, text in headers.items()]
        try:
            self._client.produce(topic, value, key, headers=pairs, on_delivery=on_delivery)
        except (KafkaException, BufferError) as error:
            raise to_driver_error(error) from error
        failure = await written
        if failure is not None:
            refusal = to_driver_error(failure)
            if isinstance(refusal, ProducerRefusedError):
                # A later attempt goes through another producer.
                self._fail(self._producer, ProducerFailedError(str(refusal)))
            raise refusal

    def join(self, membership: Membership, listener: RebalanceListener) -> GroupMember:
        """Return a new member of a group."""
        settings = self._settings
        shared, log = settings.connection_config, None
        config = copy(shared)
        max_bytes = fetch_bytes(membership.prefetch_bytes)
        options = {
            **CONFLUENT_MEMBER_OPTIONS,
            # What the client fetches ahead, of all partitions together.
            "queued.max.messages.kbytes": max_bytes >> 10,
            # The client takes no less than the largest record that it may send.
            "fetch.max.bytes": max(
                max_bytes, int(shared.config.get("message.max.bytes", CONFLUENT_REQUEST_BYTES))
            ),
        }
        config.config = options | shared.config
        builder = replace(settings.builder, config=config)
        if not shared.config.get("log_level") and "debug" not in shared.config:
            # The user wants no log, so the member may have it.
            log = GroupLog()
            config.config |= {"log_level": 7, "debug": "cgrp"}
            builder.logger = SimpleNamespace(logger=SimpleNamespace(logger=log))
        try:
            consumer = builder(
                partitions=(),
                allow_auto_create_topics=True,
                **member_options(membership, settings.client_id),
            ).consumer
        except KafkaException as error:
            raise to_driver_error(error) from error
        return ConfluentMember(consumer, settings.admin.client, membership, listener, log)


def _receipt(message: Any) -> Receipt:
    return record_receipt(message.topic(), message.partition(), message.offset())


def _ignore(_: object) -> None:
    """Ignore a change of a client that is not open."""
