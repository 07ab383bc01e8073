"""A member of a consumer group, through confluent-kafka.

Theory of operation
-------------------

The client's consumer blocks, and calls back about rebalances in the thread that polls it, while the
poll goes on. During such a callback every other thread that calls the consumer waits for its end.
The callback in turn needs the loop: the owner of the member waits for listeners there, and commits.

So one thread per member calls the consumer, one job after another, from a queue that the loop
fills. A callback runs in this thread. It starts the owner's coroutine on the loop and, until that
is done, takes further jobs from the queue itself. So the coroutine's own calls of the consumer run
inside the callback, and there is no deadlock.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from operator import methodcaller
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar, cast

from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import OffsetSpec  # type: ignore[attr-defined]

from goevent import DriverError

from .client import REQUEST_SECONDS, RebalanceListener, take_over
from .confluent_errors import UNREACHABLE_CODES, to_driver_error
from .offsets import CommitPoint, KafkaRecord, note_of
from .refusals import (
    FENCED_INSTANCE,
    FETCH,
    FIND_COORDINATOR,
    HEARTBEAT,
    JOIN_GROUP,
    LEADER_NOT_AVAILABLE,
    LIST_OFFSETS,
    MEMBERSHIP,
    OFFSET_FETCH,
    PASSING,
    REMEDIES,
    SYNC_GROUP,
    Membership,
    ReadRefusedError,
    Refusal,
)

T = TypeVar("T")

CONFLUENT_LEAVE_SECONDS = 0.7
FIRST_OFFSET, END_OFFSET = cast("Any", OffsetSpec).earliest(), cast("Any", OffsetSpec).latest()
COMMIT_REFUSAL_CODES = {
    KafkaError.ILLEGAL_GENERATION,
    KafkaError.UNKNOWN_MEMBER_ID,
    KafkaError.REBALANCE_IN_PROGRESS,
}
# The client tells some refusals only to its log.
_LOGGED_REFUSAL = re.compile(
    r"(?P<request>(?i:JoinGroup response|SyncGroup error|FindCoordinator response error"
    r"|Heartbeat error response|session timed out))"
    r".*?(?P<error>\bBroker: [^():]+|Unknown broker error)"
)
_LOGGED_REQUESTS = {
    "joingroup response": JOIN_GROUP,
    "syncgroup error": SYNC_GROUP,
    "findcoordinator response error": FIND_COORDINATOR,
    "heartbeat error response": HEARTBEAT,
    "session timed out": HEARTBEAT,
}
# The parts of the client's error texts that tell the request.
_FAILURES = (
    ("JoinGroup", JOIN_GROUP),
    ("FindCoordinator", FIND_COORDINATOR),
    ("committed offsets", OFFSET_FETCH),
    ("logical offset", LIST_OFFSETS),
)
_CODES = {KafkaError(code).str(): code for code in (*PASSING, *REMEDIES)}


class GroupLog(logging.Handler):
    """The log of one group member: it keeps no line, and looks for refusals in them.

    Attributes:
        refused: Called with each refusal, in the thread that polls the client.
    """

    def __init__(self) -> None:
        super().__init__()
        self.refused: Callable[[Refusal], None] | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Look for a refusal in a line."""
        found = _LOGGED_REFUSAL.search(record.getMessage())
        if found is None or self.refused is None:
            return
        error = found["error"].strip()
        if error in _CODES:
            request = _LOGGED_REQUESTS[found["request"].lower()]
            self.refused(Refusal(request, _CODES[error], error))


class DroppedConsumer:
    """Stands in for a consumer that was let go of: its calls fail as those of a closed one do."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def refuse(*_: object, **__: object) -> None:
            raise RuntimeError("the consumer has failed")

        return refuse


class ConfluentMember:
    """A member of a group; it owns the thread that calls its consumer.

    Args:
        consumer: The client's consumer, made by FastStream.
        admin: The client's administrator, which has a connection of its own.
        log: The log of the consumer; None if the user has one.

    Attributes:
        failure: Why the member reads nothing more; None while it can.
    """

    def __init__(
        self,
        consumer: Any,
        admin: Any,
        membership: Membership,
        listener: RebalanceListener,
        log: GroupLog | None,
    ) -> None:
        self._consumer: Any = consumer
        # The client does nothing more, not even close.
        self._has_fatal_error = False
        self._admin = admin
        self._membership = membership
        self._topic = topic = membership.topic
        self._listener = listener
        # The ends of partitions that the client has reached.
        self._reached: dict[int, int] = {}
        if log is not None:
            log.refused = self._refused
        self._loop = asyncio.get_running_loop()
        self._jobs: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        # The client commits and closes without a time limit, and nothing can interrupt it; if the
        # broker does not answer, that takes minutes. A daemon, so that the interpreter need not
        # wait for it either.
        self._thread = Thread(target=self._run_jobs, name=f"goevent-kafka-{topic}", daemon=True)
        self._ended = asyncio.Event()
        self._is_stopping = False
        self.failure: DriverError | None = None

    def _topic_partitions(self, partitions: Collection[int]) -> list[TopicPartition]:
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
        """Leave the group; if the client takes longer, its thread ends when it can."""
        self._is_stopping = True
        if self._thread.is_alive():
            self._jobs.put(None)
            with suppress(TimeoutError):
                async with asyncio.timeout(CONFLUENT_LEAVE_SECONDS):
                    await self._ended.wait()
                # Blocks the loop, but not for long: setting `_ended` is the thread's last act.
                self._thread.join()
        else:
            self._close()

    def _close(self) -> None:
        if self._has_fatal_error:
            # The client refuses to close after a fatal error, and then waits for its own end for
            # ever, with a thread that runs hot. It ends if nothing refers to it any more.
            self._consumer = DroppedConsumer()
            return
        with suppress(KafkaException, RuntimeError):
            self._consumer.close()

    # -- in the member's thread

    def _run_jobs(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
        # Not as a job, because jobs also run inside callbacks, and a consumer that is closed inside
        # a callback crashes the process.
        self._close()
        # The loop may have ended before.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._ended.set)

    async def _call(self, function: Callable[..., T], *args: Any, **options: Any) -> T:
        """Call a function of the client in the thread, and return its result.

        Raises:
            DriverError: It has failed.
        """
        loop = self._loop
        answered: asyncio.Future[T] = loop.create_future()

        def set_answer(result: T | None, error: Exception | None) -> None:
            # The caller may have been cancelled.
            if answered.done():
                return
            if error is None:
                answered.set_result(cast("T", result))
            else:
                answered.set_exception(error)

        def job() -> None:
            result, error = None, None
            try:
                result = function(*args, **options)
            except Exception as failure:  # noqa: BLE001 - the caller gets it
                error = failure
            # The loop may have ended, and the caller with it.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(set_answer, result, error)

        self._jobs.put(job)
        try:
            return await answered
        except (KafkaException, RuntimeError, OSError) as error:
            raise to_driver_error(error) from error

    def _run_on_loop(self, work: Coroutine[Any, Any, T]) -> T | None:
        """Run a coroutine on the loop from inside a callback, and run the jobs that it needs."""
        if self._is_stopping:
            work.close()
            return None
        done = asyncio.run_coroutine_threadsafe(work, self._loop)
        # The end of the coroutine wakes the `get` below.
        done.add_done_callback(lambda _: self._jobs.put(_do_nothing))
        while not done.done():
            job = self._jobs.get()
            if job is None:
                # The member stops: leave the callback, and let the thread see the end itself.
                self._jobs.put(None)
                # This thread does nothing more for the coroutine.
                with suppress(RuntimeError):
                    self._loop.call_soon_threadsafe(done.cancel)
                return None
            job()
        return done.result()

    def _on_assign(self, _: Any, partitions: list[Any]) -> None:
        try:
            committed = partial(self._committed, [each.partition for each in partitions])
            taking = take_over(committed, self._listener, self._membership)
            begin = self._run_on_loop(taking) or {}
        except DriverError as error:
            if not isinstance(error, ReadRefusedError):
                error = type(error)(f"Kafka: partitions could not be taken over: {error}")
            self.failure = error
            return
        self._consumer.assign([TopicPartition(self._topic, n, at) for n, at in begin.items()])

    def _on_revoke(self, _: Any, partitions: list[Any]) -> None:
        self._run_on_loop(self._listener.revoked([each.partition for each in partitions]))

    def _on_lost(self, _: Any, partitions: list[Any]) -> None:
        self._run_on_loop(self._lost([each.partition for each in partitions]))

    async def _committed(self, partitions: Collection[int]) -> Mapping[int, CommitPoint | None]:
        points: dict[int, CommitPoint | None] = {}
        if partitions:
            parts = self._topic_partitions(partitions)
            try:
                found = await self._call(self._consumer.committed, parts, timeout=REQUEST_SECONDS)
            except DriverError as error:
                raise self._explained(OFFSET_FETCH, error) from error.__cause__
            for each in found:
                if each.error is not None:
                    raise ReadRefusedError(_refusal(OFFSET_FETCH, each.error), self._membership)
                # A negative offset means that nothing is committed.
                is_committed = each.offset >= 0
                points[each.partition] = (
                    CommitPoint(each.offset, note_of(_metadata(each))) if is_committed else None
                )
        return points

    async def _lost(self, partitions: Collection[int]) -> None:
        self._listener.lost(partitions)

    # -- called by the consumer

    async def read(self, count: int, seconds: float) -> Sequence[KafkaRecord]:
        """Return up to `count` records; waits `seconds` for the first one."""
        return await self._call(self._poll, count, seconds)

    def _poll(self, count: int, seconds: float) -> Sequence[KafkaRecord]:
        if self._is_stopping:
            return ()
        first = self._consumer.poll(seconds)
        if first is None:
            return ()
        others = self._consumer.consume(count - 1, 0) if count > 1 else ()
        return [confluent_record(each) for each in (first, *others) if self._is_record(each)]

    def _is_record(self, raw: Any) -> bool:
        """Return True for a record; otherwise take note of the error.

        Raises:
            DriverError: The client does not recover from it by itself.
        """
        error = raw.error()
        if error is None:
            return True
        code = error.code()
        if code == KafkaError._PARTITION_EOF:
            self._reached[raw.partition()] = raw.offset()
            return False
        if error.fatal() or code == KafkaError._FATAL:
            raise self._fatal(error.str())
        if code < KafkaError.UNKNOWN or code in UNREACHABLE_CODES:
            # An error of the client itself, as a lost connection, which the pings report.
            return False
        request = next((name for text, name in _FAILURES if text in error.str()), FETCH)
        refusal = Refusal(request, code, KafkaError(code).str())
        if request == FETCH:
            self._tell(refusal)
            return False
        self._refused(refusal)
        if self.failure is not None:
            raise self.failure
        return False

    def _fatal(self, text: str) -> DriverError:
        """Return the error of a consumer that does nothing more."""
        self._has_fatal_error = True
        for known, code in _CODES.items():
            if known in text:
                return ReadRefusedError(Refusal(MEMBERSHIP, code, known), self._membership)
        return DriverError(f"Kafka: the consumer has failed: {text}")

    def _refused(self, refusal: Refusal) -> None:
        """Take note of a refusal by the group: it ends the member, unless it passes."""
        # The log tells it before the client does.
        self._has_fatal_error |= refusal.code == FENCED_INSTANCE
        if refusal.passes or refusal.request == HEARTBEAT:
            # A fenced member gets a fatal error, too.
            if refusal.code != FENCED_INSTANCE:
                self._tell(refusal)
        else:
            self.failure = ReadRefusedError(refusal, self._membership)

    def _tell(self, refusal: Refusal) -> None:
        # The loop may have ended.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._listener.refused, refusal)

    def _explained(self, request: str, error: DriverError) -> DriverError:
        """Return a refusal in place of an error that the broker has answered a request with."""
        cause = error.__cause__
        found = cause.args[0] if isinstance(cause, KafkaException) and cause.args else None
        if not isinstance(found, KafkaError):
            return error
        if request == LIST_OFFSETS and found.code() == KafkaError._NOENT:
            # The client asks for the leaders of the partitions first, and the broker knew none.
            return ReadRefusedError(Refusal(request, LEADER_NOT_AVAILABLE), self._membership)
        if found.code() < KafkaError.UNKNOWN:
            return error
        return ReadRefusedError(_refusal(request, found), self._membership)

    def reached(self, partition: int) -> int:
        """Return the offset up to which a partition is read, as far as known."""
        return self._reached.get(partition, 0)

    async def commit(self, points: Mapping[int, CommitPoint]) -> bool:
        """Commit; return False if the group refuses it."""
        offsets = [
            TopicPartition(self._topic, partition, point.offset, point.note)
            for partition, point in points.items()
        ]
        return await self._call(self._commit, offsets)

    def _commit(self, offsets: list[TopicPartition]) -> bool:
        try:
            self._consumer.commit(offsets=offsets, asynchronous=False)
        except KafkaException as error:
            if error.args[0].code() not in COMMIT_REFUSAL_CODES:
                raise
            return False
        return True

    async def first_offsets(self, partitions: Collection[int]) -> dict[int, int]:
        """Return the offsets of the first records that partitions hold."""
        return await self._list_offsets(partitions, FIRST_OFFSET)

    async def end_offsets(self, partitions: Collection[int]) -> dict[int, int]:
        """Return the offsets behind the last records of partitions."""
        return await self._list_offsets(partitions, END_OFFSET)

    async def _list_offsets(self, partitions: Collection[int], spec: Any) -> dict[int, int]:
        # Through the administrator, because the connection of the consumer may be waiting for
        # records.
        wanted = dict.fromkeys(self._topic_partitions(partitions), spec)
        if not wanted:
            return {}
        try:
            futures = self._admin.list_offsets(wanted, request_timeout=REQUEST_SECONDS)
            found = await asyncio.gather(*map(asyncio.wrap_future, futures.values()))
        except (KafkaException, ValueError) as error:
            mapped = to_driver_error(error)
            raise self._explained(LIST_OFFSETS, mapped) from error
        return {part.partition: at.offset for part, at in zip(futures, found, strict=True)}

    async def offsets_at(self, partitions: Collection[int], time: datetime) -> dict[int, int]:
        """Return the offsets of the first records since a time."""
        milliseconds = int(time.timestamp() * 1000)
        parts = [TopicPartition(self._topic, each, milliseconds) for each in partitions]
        found = await self._call(self._consumer.offsets_for_times, parts, timeout=REQUEST_SECONDS)
        return {each.partition: each.offset for each in found if each.offset >= 0}

    def pause(self, partitions: Collection[int]) -> None:
        """Read no more of partitions."""
        # A partition may have gone to another member meanwhile.
        with suppress(KafkaException, RuntimeError):
            self._consumer.pause(self._topic_partitions(partitions))

    def resume(self, partitions: Collection[int]) -> None:
        """Read partitions again."""
        with suppress(KafkaException, RuntimeError):
            self._consumer.resume(self._topic_partitions(partitions))


def _do_nothing() -> None:
    """Do nothing: a job that only wakes the thread."""


def _metadata(committed: Any) -> str | None:
    """Return the metadata of a commit; bytes that are not UTF-8 are replaced.

    The client decodes them each time that they are read. It also decodes the bytes of its memory
    that follow those that another client has written without a NUL.
    """
    try:
        metadata: str | None = committed.metadata
    except UnicodeDecodeError as error:
        return error.object.decode(errors="replace")
    return metadata


def _refusal(request: str, error: KafkaError) -> Refusal:
    return Refusal(request, error.code(), KafkaError(error.code()).str())


# For a name that is not UTF-8 the client returns broken pairs together with an exception; reading
# them crashes the process. Python checks for that, but not in a plain call that it has made often.
# It always does in a call from C.
_read_headers = methodcaller("headers")


def confluent_record(raw: Any) -> KafkaRecord:
    """Return a record of the client as the driver's own.

    A record comes without its headers if the name of one is not UTF-8: the client gives none then.
    """
    try:
        pairs = _read_headers(raw) or ()
    except (SystemError, UnicodeDecodeError) as error:
        if UnicodeDecodeError not in (type(error), type(error.__cause__)):
            raise
        # The client keeps its broken headers, and FastStream would read them.
        raw.set_headers([])
        pairs = ()
    headers = {name: (value or b"").decode(errors="replace") for name, value in pairs}
    return KafkaRecord(
        raw.partition(),
        raw.offset(),
        raw.key(),
        raw.value() or b"",
        headers,
        raw.timestamp()[1] / 1000,
        raw,
    )
