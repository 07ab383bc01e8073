"""Members of consumer groups, by confluent-kafka; and what its errors are to us."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar, cast

from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import OffsetSpec  # type: ignore[attr-defined]

from goevent import DriverConnectionError, DriverError

from .client import Owner
from .offsets import Place, Record

T = TypeVar("T")

ANSWER = 5.0  # seconds that one request may take
STOP = 0.7  # seconds for an orderly end
EARLIEST, LATEST = cast("Any", OffsetSpec).earliest(), cast("Any", OffsetSpec).latest()
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


def to_driver_error(error: BaseException | KafkaError) -> DriverError:
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
        raise to_driver_error(error) from error


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
        # The client commits, and ends, without a limit of time, which nothing cuts short; in a
        # black hole for minutes. Nobody may have to wait for that, also not the interpreter.
        self._thread = Thread(target=self._live, name=f"goevent-kafka-{topic}", daemon=True)
        self._ended = asyncio.Event()
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
        """Leave the group; if the client takes its time, its thread ends when it can."""
        self._ending = True
        if self._thread.is_alive():
            self._jobs.put(None)
            with suppress(TimeoutError):
                async with asyncio.timeout(STOP):
                    await self._ended.wait()
                self._thread.join()  # it has said that it is at its end
        else:
            self._close()

    def _close(self) -> None:
        with suppress(KafkaException, RuntimeError):
            self._consumer.close()

    # -- its thread

    def _live(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
        # Not as one of the jobs, which are done inside of callbacks, too: a client that is closed
        # while it calls back crashes the process.
        self._close()
        with suppress(RuntimeError):  # the loop has ended before
            self._loop.call_soon_threadsafe(self._ended.set)

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
            raise to_driver_error(error) from error

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
            raise to_driver_error(error) from error
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
