"""Kafka by confluent-kafka: the client behind `faststream.confluent.KafkaBroker`.

It blocks, and calls back from the thread that asks it, so nothing of it is asked by the loop's.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import NewTopic  # type: ignore[attr-defined]
from faststream.confluent import KafkaBroker, Topic

from goevent import DriverConnectionError, DriverError
from goevent.drivers import Receipt

from .._adapter.contract import Adapter, Outgoing
from .._adapter.properties import all_headers, split_properties
from .._config import BrokerConfig
from .adapter import KafkaAdapter
from .client import Answer, KafkaConsumer, Owner
from .confluent_consumer import ANSWER, ConfluentConsumer, asked, to_driver_error
from .url import read_kafka_url

DIAL = 5.0  # seconds until a broker has to have answered, at first
FETCH = 250  # milliseconds that a broker may wait for the first message of an answer
FLUSH = 0.4  # seconds for what waits to be sent, at the end
STEADY = {"acks": -1, "enable_idempotence": True}  # what was accepted is there, and once


def make_broker(url: str) -> KafkaBroker:
    """Return FastStream's broker for a `kafka+confluent://` URL."""
    servers, security = read_kafka_url(url, context=False)
    return KafkaBroker(
        servers,
        security=security,
        client_id="goevent",
        # The one of Java and of aiokafka: who shares a topic has to agree where a key belongs.
        partitioner="murmur2_random",
        logger=None,
        apply_types=False,
    )


def make_adapter(broker: object, config: BrokerConfig, address: object) -> Adapter:
    """Return Kafka for a broker of confluent."""
    if not isinstance(broker, KafkaBroker):
        raise TypeError(f"this is no KafkaBroker of confluent: {broker!r}")
    if address is not None and not isinstance(address, Topic):
        raise TypeError(f"the address of events in Kafka is a Topic of its broker, not {address!r}")
    prefix = None if address is None else address.name
    return KafkaAdapter(broker, Confluent(broker, address), config, prefix)


class Confluent:
    """The connection of one broker object.

    Args:
        address: says how topics are made that are missing.
    """

    def __init__(self, broker: KafkaBroker, address: Topic | None) -> None:
        self._broker: Any = broker
        self._address = address
        self._producer: Any = None
        self._known = ""
        self._done: deque[tuple[Outgoing, Answer, Receipt | Exception]] = deque()
        self._called = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wrapped = False  # by middlewares; the broker composes them each time it is asked

    @property
    def _settings(self) -> Any:
        return self._broker.config.broker_config

    async def open(self, publish_timeout: float, broken: Callable[[str], None]) -> None:
        """Connect."""
        loop = self._loop = asyncio.get_running_loop()
        self._wrapped = bool(self._broker.middlewares)

        def failed(error: Any) -> None:
            if error.code() in (KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN):
                with suppress(RuntimeError):  # the bus has ended
                    loop.call_soon_threadsafe(broken, error.str())

        connection = self._settings.connection_config
        connection.raw_producer_config.update(STEADY)
        connection.raw_producer_config["request_timeout_ms"] = int(ANSWER * 1000)
        given = {**connection.config}
        given.pop("error_cb", None)
        connection.config = {
            "delivery.timeout.ms": int(publish_timeout * 1000),
            "socket.keepalive.enable": True,
            "socket.timeout.ms": 10_000,
            "log_level": 0,  # it would write to stderr before anybody has looked at its errors
            "error_cb": failed,
        } | given
        self._done.clear()
        self._called = False
        await self._broker.start()
        # Clients that are made from here on are members of groups; one is enough to listen to.
        connection.config["error_cb"] = _ignored
        self._producer = self._settings.producer._producer.producer.producer
        await asked(self._producer.list_topics, timeout=DIAL)

    async def close(self, *, lost: bool) -> None:
        """Disconnect; what could not be sent within a moment is given up, or nothing would end."""
        producer, self._producer = self._producer, None
        if producer is not None:
            if not lost:
                await asyncio.to_thread(producer.flush, FLUSH)
            producer.purge()
        with suppress(KafkaException):
            await self._broker.stop()
        self._broker._connection = None

    @property
    def _client(self) -> Any:
        if self._producer is None:
            raise DriverConnectionError("Kafka: there is no connection")
        return self._producer

    async def ping(self) -> None:
        """Ask for a topic that is known, as all of them may be many."""
        await asked(self._client.list_topics, *((self._known,) if self._known else ()), timeout=2.0)

    async def topics(self) -> Collection[str]:
        """Return the topics that there are."""
        return set((await asked(self._client.list_topics, timeout=ANSWER)).topics)

    async def ensure(self, topic: str) -> None:
        """Have a topic exist: brokers make it when asked for it, or an administrator does."""
        given = self._address
        if given is not None and topic not in await self.topics():
            if not given.declare:
                raise DriverError(f"Kafka: there is no topic {topic!r}, and it is not ours to make")
            await self._make(NewTopic(topic, given.num_partitions, given.replication_factor))
        found = await asked(self._client.list_topics, topic, timeout=ANSWER)
        error = found.topics[topic].error
        if error is not None:
            # It may be on its way: the next answer tells.
            found = await asked(self._client.list_topics, topic, timeout=ANSWER)
            error = found.topics[topic].error
        if error is not None:
            await self._make(NewTopic(topic, -1, -1))
        self._known = topic

    async def _make(self, topic: Any) -> None:
        made = self._settings.admin.client.create_topics([topic], request_timeout=ANSWER)
        for future in made.values():
            try:
                async with asyncio.timeout(ANSWER + 1):
                    await asyncio.wrap_future(future)
            except (KafkaException, TimeoutError) as error:
                said = error.args[0] if error.args else None
                if not isinstance(said, KafkaError) or (
                    said.code() != KafkaError.TOPIC_ALREADY_EXISTS
                ):
                    raise to_driver_error(error) from error

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
                future.add_done_callback(partial(_published, outgoing, answer))
            else:
                self._client.produce(
                    topic,
                    outgoing.body,
                    key,
                    headers=all_headers(outgoing),
                    on_delivery=partial(self._delivered, outgoing, answer, self._loop),
                )
        except Exception as error:  # noqa: BLE001 - the client's, or a middleware's own
            answer(outgoing, to_driver_error(error))

    def _delivered(
        self,
        outgoing: Outgoing,
        answer: Answer,
        loop: asyncio.AbstractEventLoop | None,
        error: Any,
        message: Any,
    ) -> None:
        """Take the answer of a broker, in the thread that asks for it; the loop is called once."""
        result = receipt(message) if error is None else to_driver_error(error)
        self._done.append((outgoing, answer, result))
        if loop is not None and not self._called:
            self._called = True
            with suppress(RuntimeError):  # the bus has ended, and so has who waits
                loop.call_soon_threadsafe(self._tell)

    def _tell(self) -> None:
        self._called = False  # before the first is taken: what comes from here on calls again
        done = self._done
        while done:
            outgoing, answer, result = done.popleft()
            answer(outgoing, result)

    async def write(
        self, topic: str, key: bytes | None, value: bytes, headers: Mapping[str, str]
    ) -> None:
        """Write a message."""
        loop = asyncio.get_running_loop()
        written: asyncio.Future[Any] = loop.create_future()

        def delivered(error: Any, _: Any) -> None:
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(arrived, error)

        def arrived(error: Any) -> None:
            if not written.done():
                written.set_result(error)

        pairs = [(name, text.encode()) for name, text in headers.items()]
        try:
            self._client.produce(topic, value, key, headers=pairs, on_delivery=delivered)
        except (KafkaException, BufferError) as error:
            raise to_driver_error(error) from error
        failure = await written
        if failure is not None:
            raise to_driver_error(failure)

    def consumer(self, topic: str, group: str, silence: float, owner: Owner) -> KafkaConsumer:
        """Make a member of a group."""
        wrapped = self._settings.builder(
            partitions=(),
            group_id=group,
            client_id=self._settings.client_id,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            session_timeout_ms=int(silence * 1000),
            heartbeat_interval_ms=int(silence * 1000 / 4),
            fetch_max_wait_ms=FETCH,
            allow_auto_create_topics=True,
        )
        return ConfluentConsumer(wrapped.consumer, self._settings.admin.client, topic, owner)


def receipt(message: Any) -> Receipt:
    """Return the place of a message that was written."""
    return Receipt(id=f"{message.topic()}-{message.partition()}@{message.offset()}")


def _ignored(_: Any) -> None:
    """Take an error that the producer has as well; unheard, it would be logged."""


def _published(outgoing: Outgoing, answer: Answer, future: Any) -> None:
    error = None if future.cancelled() else future.exception()
    if future.cancelled() or error is not None:
        answer(
            outgoing, to_driver_error(error or TimeoutError("the client has given the event up"))
        )
    else:
        answer(outgoing, receipt(future.result()))
