"""Kafka by aiokafka: the client behind `faststream.kafka.KafkaBroker`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from aiokafka import errors  # type: ignore[import-untyped]
from aiokafka.admin import NewTopic  # type: ignore[import-untyped]
from aiokafka.conn import CloseReason  # type: ignore[import-untyped]
from aiokafka.protocol.metadata import MetadataRequest  # type: ignore[import-untyped]
from faststream.kafka import KafkaBroker, Topic

from goevent import DriverConnectionError, DriverError
from goevent.drivers import Receipt

from .._adapter.contract import Adapter, Outgoing
from .._adapter.properties import all_headers, split_properties
from .._config import BrokerConfig
from .adapter import KafkaAdapter
from .aiokafka_consumer import AioConsumer
from .aiokafka_requests import ANSWER, FAILURES, Requests, to_driver_error
from .client import Answer, KafkaConsumer, Owner
from .url import read_kafka_url

DIAL = 8.0  # seconds until there has to be a connection
FETCH = 250  # milliseconds that a broker may wait for the first message of an answer
LAST = 0.6  # seconds for what is under way at the end, which may be connecting
STOP = 0.4  # seconds for an orderly end
STEADY = {
    "acks": "all",  # what was accepted is there,
    "enable_idempotence": True,  # and once
    "request_timeout_ms": 10_000,
}


def make_broker(url: str) -> KafkaBroker:
    """Return FastStream's broker for a `kafka://` URL."""
    servers, security = read_kafka_url(url, context=True)
    return KafkaBroker(
        servers, security=security, client_id="goevent", logger=None, apply_types=False
    )


def make_adapter(broker: object, config: BrokerConfig, address: object) -> Adapter:
    """Return Kafka for a broker of aiokafka."""
    if not isinstance(broker, KafkaBroker):
        raise TypeError(f"this is no KafkaBroker: {broker!r}")
    if address is not None and not isinstance(address, Topic):
        raise TypeError(f"the address of events in Kafka is a Topic of its broker, not {address!r}")
    prefix = None if address is None else address.name
    return KafkaAdapter(broker, AioKafka(broker, address), config, prefix)


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
        self._wrapped = False  # by middlewares; the broker composes them each time it is asked

    async def open(self, publish_timeout: float, broken: Callable[[str], None]) -> None:
        """Connect."""
        self._requests = Requests()
        self._wrapped = bool(self._broker.middlewares)
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
        await self._requests.end(LAST)
        broker, producer = self._broker, self._producer
        admin = broker.config.broker_config.admin
        self._producer = None
        if producer is not None:
            if not lost:
                with suppress(*FAILURES):
                    async with asyncio.timeout(STOP):
                        await producer.flush()
            # Its own `stop` waits for all that is not sent, and closes nothing until then.
            producer._closed = True
            if producer._sender is not None and producer._sender.sender_task is not None:
                producer._sender.sender_task.cancel()
                await asyncio.gather(producer._sender.sender_task, return_exceptions=True)
            await producer.client.close()
        if admin.admin_client is not None:
            with suppress(*FAILURES):
                await admin.admin_client.close()
            admin.admin_client = None
        with suppress(*FAILURES):
            async with asyncio.timeout(STOP):
                await broker.stop()
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
                raise to_driver_error(kind(*answer[2:3]))

    async def send(self, topic: str, outgoing: Outgoing, answer: Answer) -> None:
        """Send an event; by the broker if it has middlewares, which is a lot slower."""
        key = None if outgoing.key is None else outgoing.key.encode()
        broker = self._broker
        try:
            if self._wrapped:
                future = await broker.publish(
                    outgoing.body,
                    topic,
                    key=key,
                    headers={**outgoing.headers},
                    correlation_id=split_properties(outgoing).correlation_id,
                    no_confirm=True,
                )
            else:
                future = await self._producer.send(
                    topic, outgoing.body, key, headers=all_headers(outgoing)
                )
        except Exception as error:  # noqa: BLE001 - the client's, or a middleware's own
            answer(outgoing, to_driver_error(error))
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
        answer(outgoing, to_driver_error(error))
        return
    done = future.result()
    answer(outgoing, Receipt(id=f"{done.topic}-{done.partition}@{done.offset}"))
