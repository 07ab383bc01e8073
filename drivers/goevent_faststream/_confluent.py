"""Kafka by confluent-kafka: the client behind `faststream.confluent.KafkaBroker`.

It blocks, and calls back from the thread that asks it. A consumer is asked in a thread of its own,
as FastStream does; what it calls back for runs on the loop, while that thread waits.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar, cast

from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import (
    NewTopic,  # type: ignore[attr-defined]
    OffsetSpec,  # type: ignore[attr-defined]
)
from faststream.confluent import KafkaBroker, Topic

from goevent import DriverConnectionError, DriverError, Receipt

from ._config import BrokerConfig
from ._dialect import Dialect, Outgoing
from ._kafka_client import Answer, KafkaConsumer, Owner
from ._kafka_dialect import KafkaDialect
from ._kafka_url import read_kafka_url
from ._kafka_window import Place, Record

T = TypeVar("T")

EARLIEST, LATEST = cast("Any", OffsetSpec).earliest(), cast("Any", OffsetSpec).latest()
ANSWER = 5.0  # seconds that one request may take
DIAL = 5.0
FETCH = 250  # milliseconds that a broker may wait for the first message of an answer
FLUSH = 0.4  # seconds for what waits to be sent, at the end
STEADY = {"acks": -1, "enable_idempotence": True}  # what was accepted is there, and once
UNREACHABLE = {
    KafkaError._TRANSPORT,
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError._TIMED_OUT,
    KafkaError._MSG_TIMED_OUT,
    KafkaError._TIMED_OUT_QUEUE,
    KafkaError._RESOLVE,
    KafkaError._WAIT_COORD,
    KafkaError._PURGE_QUEUE,
    KafkaError._PURGE_INFLIGHT,
    KafkaError.REQUEST_TIMED_OUT,
}
ANOTHERS = {
    KafkaError.ILLEGAL_GENERATION,
    KafkaError.UNKNOWN_MEMBER_ID,
    KafkaError.REBALANCE_IN_PROGRESS,
}


def broker_at(url: str) -> KafkaBroker:
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


def dialect(broker: object, config: BrokerConfig, address: object) -> Dialect:
    """Return Kafka for a broker of confluent."""
    if not isinstance(broker, KafkaBroker):
        raise TypeError(f"this is no KafkaBroker of confluent: {broker!r}")
    if address is not None and not isinstance(address, Topic):
        raise TypeError(f"the address of events in Kafka is a Topic of its broker, not {address!r}")
    prefix = None if address is None else address.name
    return KafkaDialect(broker, Confluent(broker, address), config, prefix)


def refusal(error: BaseException | KafkaError) -> DriverError:
    """Return the error of the contract for one of confluent; one of the contract as it is."""
    if isinstance(error, DriverError):
        return error
    said = error.args[0] if isinstance(error, KafkaException) and error.args else error
    away = isinstance(said, KafkaError) and said.code() in UNREACHABLE
    away = away or isinstance(said, (OSError, TimeoutError))
    text = said.str() if isinstance(said, KafkaError) else str(said) or type(said).__name__
    mapped = DriverConnectionError(f"Kafka: {text}") if away else DriverError(f"Kafka: {text}")
    mapped.__cause__ = error if isinstance(error, BaseException) else None
    return mapped


async def asked(work: Callable[..., T], *args: Any, **options: Any) -> T:
    """Return what a call of the client returns, which blocks.

    Raises:
        DriverError: it has failed.
    """
    try:
        return await asyncio.to_thread(work, *args, **options)
    except (KafkaException, OSError, TimeoutError) as error:
        raise refusal(error) from error


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

    @property
    def _settings(self) -> Any:
        return self._broker.config.broker_config

    async def open(self, publish_timeout: float, broken: Callable[[str], None]) -> None:
        """Connect."""
        loop = asyncio.get_running_loop()

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
                    raise refusal(error) from error

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
                future.add_done_callback(partial(_published, outgoing, answer))
            else:
                self._client.produce(
                    topic,
                    outgoing.body,
                    key,
                    headers=[("correlation_id", outgoing.id.encode())],
                    on_delivery=partial(
                        self._delivered, outgoing, answer, asyncio.get_running_loop()
                    ),
                )
        except Exception as error:  # noqa: BLE001 - the client's, or a middleware's own
            answer(outgoing, refusal(error))

    def _delivered(
        self,
        outgoing: Outgoing,
        answer: Answer,
        loop: asyncio.AbstractEventLoop,
        error: Any,
        message: Any,
    ) -> None:
        """Take the answer of a broker, in the thread that asks for it; the loop is called once."""
        result = receipt(message) if error is None else refusal(error)
        self._done.append((outgoing, answer, result))
        if not self._called:
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
            raise refusal(error) from error
        failure = await written
        if failure is not None:
            raise refusal(failure)

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


def _published(outgoing: Outgoing, answer: Answer, future: Any) -> None:
    error = None if future.cancelled() else future.exception()
    if future.cancelled() or error is not None:
        answer(outgoing, refusal(error or TimeoutError("the client has given the event up")))
    else:
        answer(outgoing, receipt(future.result()))


class ConfluentConsumer:
    """A member of a group; it owns the thread that alone asks the client, one thing after another.

    While the client calls back, that thread serves what the loop asks, and nothing else of it may:
    a call from another thread would wait for the end of the callback.
    """

    def __init__(self, consumer: Any, admin: Any, topic: str, owner: Owner) -> None:
        self._consumer = consumer
        self._admin = admin
        self._topic = topic
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._jobs: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._thread = Thread(target=self._live, name=f"goevent-kafka-{topic}")
        self._ending = False
        self._failure: DriverError | None = None

    def _parts(self, partitions: Collection[int]) -> list[TopicPartition]:
        return [TopicPartition(self._topic, each) for each in partitions]

    async def start(self) -> None:
        """Begin to join the group."""
        self._consumer.subscribe(
            [self._topic],
            on_assign=self._on_assign,
            on_revoke=self._on_revoke,
            on_lost=self._on_lost,
        )
        self._thread.start()

    async def stop(self) -> None:
        """Leave the group."""
        self._ending = True
        if self._thread.is_alive():
            self._jobs.put(self._close)
            self._jobs.put(None)
            await asyncio.to_thread(self._thread.join)
        else:
            self._close()

    def _close(self) -> None:
        with suppress(KafkaException, RuntimeError):
            self._consumer.close()

    # -- its thread

    def _live(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()

    async def _ask(self, work: Callable[..., T], *args: Any, **options: Any) -> T:
        """Have the thread call the client, and return what it returns.

        Raises:
            DriverError: it has failed.
        """
        loop = self._loop
        answered: asyncio.Future[T] = loop.create_future()

        def tell(result: T | None, error: Exception | None) -> None:
            if answered.done():
                return  # nobody waits any more
            if error is None:
                answered.set_result(cast("T", result))
            else:
                answered.set_exception(error)

        def job() -> None:
            result, error = None, None
            try:
                result = work(*args, **options)
            except Exception as failure:  # noqa: BLE001 - who asked gets it
                error = failure
            with suppress(RuntimeError):  # the loop has ended, and so has who asked
                loop.call_soon_threadsafe(tell, result, error)

        self._jobs.put(job)
        try:
            return await answered
        except (KafkaException, RuntimeError, OSError) as error:
            raise refusal(error) from error

    def _on_loop(self, work: Coroutine[Any, Any, T]) -> T | None:
        """Have the loop run a coroutine while the client calls back, and do what that asks."""
        if self._ending:
            work.close()
            return None
        done = asyncio.run_coroutine_threadsafe(work, self._loop)
        done.add_done_callback(lambda _: self._jobs.put(_nothing))
        while not done.done():
            job = self._jobs.get()
            if job is None:
                self._jobs.put(None)
                return None
            job()
        return done.result()

    def _on_assign(self, _: Any, partitions: list[Any]) -> None:
        try:
            begin = self._on_loop(self._assigned([each.partition for each in partitions])) or {}
        except DriverError as error:
            self._failure = DriverError(f"Kafka: partitions could not be taken over: {error}")
            return
        self._consumer.assign([TopicPartition(self._topic, n, at) for n, at in begin.items()])

    def _on_revoke(self, _: Any, partitions: list[Any]) -> None:
        self._on_loop(self._owner.revoked([each.partition for each in partitions]))

    def _on_lost(self, _: Any, partitions: list[Any]) -> None:
        self._on_loop(self._lose([each.partition for each in partitions]))

    async def _assigned(self, partitions: Collection[int]) -> Mapping[int, int]:
        places: dict[int, Place | None] = {}
        if partitions:
            parts = self._parts(partitions)
            for each in await self._ask(self._consumer.committed, parts, timeout=ANSWER):
                known = each.offset >= 0
                places[each.partition] = Place(each.offset, each.metadata or "") if known else None
        return await self._owner.assigned(places)

    async def _lose(self, partitions: Collection[int]) -> None:
        self._owner.lost(partitions)

    # -- what the owner calls

    async def read(self, most: int, patience: float) -> Sequence[Record]:
        """Return what there is."""
        if self._failure is not None:
            raise self._failure
        return await self._ask(self._take, most, patience)

    def _take(self, most: int, patience: float) -> Sequence[Record]:
        if self._ending:
            return ()
        first = self._consumer.poll(patience)
        if first is None:
            return ()
        rest = self._consumer.consume(most - 1, 0) if most > 1 else ()
        return [_record(each) for each in (first, *rest) if _is_message(each)]

    async def commit(self, places: Mapping[int, Place]) -> bool:
        """Commit offsets and notes."""
        offsets = [
            TopicPartition(self._topic, partition, place.offset, place.note)
            for partition, place in places.items()
        ]
        return await self._ask(self._commit, offsets)

    def _commit(self, offsets: list[TopicPartition]) -> bool:
        try:
            self._consumer.commit(offsets=offsets, asynchronous=False)
        except KafkaException as error:
            if error.args[0].code() not in ANOTHERS:
                raise
            return False
        return True

    async def find(self, partitions: Collection[int], start: str | datetime) -> Mapping[int, int]:
        """Return the offsets of a start."""
        if isinstance(start, datetime):
            time = int(start.timestamp() * 1000)
            parts = [TopicPartition(self._topic, each, time) for each in partitions]
            found = await self._ask(self._consumer.offsets_for_times, parts, timeout=ANSWER)
            first = {each.partition: each.offset for each in found if each.offset >= 0}
            return await self.ends(partitions) | first
        if start == "earliest":
            return await self._bounds(partitions, EARLIEST)
        ends = await self.ends(partitions)
        if start == "latest":
            return ends
        return {partition: min(int(start), end) for partition, end in ends.items()}

    async def ends(self, partitions: Collection[int]) -> dict[int, int]:
        """Return the offsets that come next."""
        return await self._bounds(partitions, LATEST)

    async def _bounds(self, partitions: Collection[int], spec: Any) -> dict[int, int]:
        """Ask as an administrator, by another connection: this one's may wait for messages."""
        wanted = dict.fromkeys(self._parts(partitions), spec)
        if not wanted:
            return {}
        try:
            futures = self._admin.list_offsets(wanted, request_timeout=ANSWER)
            found = await asyncio.gather(*map(asyncio.wrap_future, futures.values()))
        except (KafkaException, ValueError) as error:
            raise refusal(error) from error
        return {part.partition: at.offset for part, at in zip(futures, found, strict=True)}

    def pause(self, partitions: Collection[int]) -> None:
        """Read no more of partitions."""
        with suppress(KafkaException, RuntimeError):  # they are another's since
            self._consumer.pause(self._parts(partitions))

    def resume(self, partitions: Collection[int]) -> None:
        """Read of them again."""
        with suppress(KafkaException, RuntimeError):
            self._consumer.resume(self._parts(partitions))


def _nothing() -> None:
    """Wake the thread."""


def _is_message(raw: Any) -> bool:
    error = raw.error()
    if error is None:
        return True
    if error.fatal() or error.code() in (
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
    ):
        raise KafkaException(error)
    return False  # the client mends it by itself, and whoever watches the connection tells of it


def _record(raw: Any) -> Record:
    headers = {name: (value or b"").decode(errors="replace") for name, value in raw.headers() or ()}
    return Record(
        raw.partition(),
        raw.offset(),
        raw.key(),
        raw.value() or b"",
        headers,
        raw.timestamp()[1] / 1000,
        raw,
    )
