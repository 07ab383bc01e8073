"""The publisher for names with partitions: it keeps the order of dispatch.

An event that cannot be sent at once, or whose connection broke, stands in a queue. While there is a
queue, later events stand in it, too: an event that is sent again is not overtaken by later ones. On
a new connection the first event is sent by itself, because the server may still be loading.

One case is left. When a replica becomes a primary, it may refuse an event on a connection that has
worked and then take the next one, which is already under way. These two change places.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence
from typing import Any

import trio
from redis import exceptions as redis_errors

from goevent.drivers import BatchReplied, Message, Receipt, jittered

from ..._link.conversation import Conversation
from ..._link.errors import ConnectionBroken, LinkClosed, RedisLinkError
from ..._link.link import Link
from ..._link.request import CallbackPipelineRequest, CallbackRequest
from ..._link.resp import Encodable, pack
from ..config import StreamsConfig
from ..faults import StreamFaults, refusal
from ..keys import StreamKeys
from ..publisher import (
    MAX_PUBLISH_PAUSE_SECONDS,
    NAME_INTERVAL_SECONDS,
    PASSING_ERRORS,
    PUBLISH_PAUSE_SECONDS,
    PublishAttempt,
    Replied,
    StreamPublisher,
    in_batch,
)
from .partition import PartitionsDiffer, establish, establishing, partition_of

MAX_EVENTS_PER_PIPELINE = 500


class PartitionPublishAttempt(PublishAttempt, eq=False, kw_only=True):
    """An event of a partition on its way to the server.

    Attributes:
        sequence: Its place in the order of dispatch.
    """

    sequence: int
    stream: str
    key: str | None


class PartitionPublisher(StreamPublisher):
    """The publisher of one open bus whose names have partitions."""

    def __init__(
        self, link: Link, keys: StreamKeys, config: StreamsConfig, faults: StreamFaults
    ) -> None:
        super().__init__(link, keys, config, faults)
        # In the order of dispatch.
        self._queue: list[PartitionPublishAttempt] = []
        self._dispatched = 0
        # The connection on which the server has taken an event.
        self._proven: Conversation | None = None

    async def run(self) -> None:
        """Send the queue, until cancelled."""
        pause = PUBLISH_PAUSE_SECONDS
        while True:
            await self._work.wait()
            self._work = trio.Event()
            while self._queue:
                if await self._send_queue():
                    pause = PUBLISH_PAUSE_SECONDS
                else:
                    await trio.sleep(jittered(pause))
                    pause = min(2 * pause, MAX_PUBLISH_PAUSE_SECONDS)

    def publish_nowait(self, message: Message, replied: Replied) -> None:
        """Put an event into its stream; the server's reply goes to a callback.

        Raises:
            trio.WouldBlock: There is no connection, or other events have to be sent first.
        """
        conversation = self._link.writable()
        name = message.event_name
        proven = conversation is not None and conversation is self._proven
        if conversation is None or not proven or self._queue or name not in self._name_due:
            raise trio.WouldBlock
        attempt = self._attempt(message, replied)
        self._send_check(conversation, attempt)
        conversation.submit(pack(self._adding(attempt)), attempt)

    def publish_many_nowait(self, messages: Sequence[Message], replied: BatchReplied) -> int:
        """Put events into their streams with one write; return how many are taken now."""
        conversation, left = self._link.writable(), self._link.writable_bytes
        if conversation is None or conversation is not self._proven or self._queue:
            return 0
        attempts: list[PartitionPublishAttempt] = []
        commands: list[bytes] = []
        taken = 0
        for message in messages:
            if left <= 0 or message.event_name not in self._name_due:
                break
            try:
                attempt = self._attempt(message, in_batch(replied, taken))
            except Exception as error:  # noqa: BLE001 - it is the result of this event only
                replied([error], taken)
            else:
                self._send_check(conversation, attempt)
                command = pack(self._adding(attempt))
                attempts.append(attempt)
                commands.append(command)
                left -= len(command)
            taken += 1
        if attempts:

            def answered(replies: list[Any]) -> None:
                for attempt, reply in zip(attempts, replies, strict=True):
                    attempt.receive_reply(reply)

            request = CallbackPipelineRequest(len(attempts), answered)
            conversation.submit(b"".join(commands), request)
        return taken

    def _send_check(self, conversation: Conversation, attempt: PartitionPublishAttempt) -> None:
        """Check the number of partitions of a name, from time to time.

        The check goes out in front of the event, without waiting for its reply: a name that was
        deleted meanwhile gets its number of partitions back.
        """
        name = attempt.name
        if attempt.since >= self._name_due[name]:
            self._name_due[name] = attempt.since + NAME_INTERVAL_SECONDS
            script, keys, args = establishing(self._keys, name)
            checking = pack(("EVALSHA", script.sha, len(keys), *keys, *args))
            conversation.submit(checking, CallbackRequest(lambda found: self._checked(name, found)))

    async def publish(self, message: Message) -> Receipt:
        """Put an event into its stream; returns when the server has it.

        Raises:
            DriverError: The server refuses it, could not be reached in time, or keeps the name in
                another number of partitions.
        """
        results: list[Receipt | Exception] = []
        ended = trio.Event()

        def replied(result: Receipt | Exception) -> None:
            results.append(result)
            ended.set()

        attempt = self._attempt(message, replied)
        self._enqueue(attempt)
        try:
            await ended.wait()
        finally:
            # Cancelled: an event in the queue is not sent; one under way may still arrive.
            if not results and attempt in self._queue:
                self._queue.remove(attempt)
        (result,) = results
        if isinstance(result, Exception):
            raise result
        return result

    def failed(self, attempt: PublishAttempt, error: Exception) -> None:
        """Have an event sent again, if that may help; otherwise pass the error on."""
        passes = isinstance(error, (RedisLinkError, *PASSING_ERRORS))
        if (
            passes
            and not isinstance(error, LinkClosed)
            and isinstance(attempt, PartitionPublishAttempt)
        ):
            self._note_failure(attempt, error)
            self._enqueue(attempt)
        else:
            attempt.replied(refusal(error, f"take an event of {attempt.name!r}"))

    # -- the queue

    def _attempt(self, message: Message, replied: Replied) -> PartitionPublishAttempt:
        name, key = message.event_name, message.key
        data = message.encode()
        self._dispatched += 1
        return PartitionPublishAttempt(
            self,
            name,
            data,
            self._now(),
            replied,
            sequence=self._dispatched,
            stream=self._keys.stream(name, partition_of(name, key, self._keys.partitions)),
            key=key,
        )

    def _adding(self, attempt: PartitionPublishAttempt) -> tuple[Encodable, ...]:
        command: tuple[Encodable, ...]
        command = ("XADD", attempt.stream, *self._trimming(), "*", "e", attempt.data)
        if attempt.key is not None:
            command += ("k", attempt.key)
        return (*command, "r", "1") if attempt.retried else command

    def _enqueue(self, attempt: PartitionPublishAttempt) -> None:
        insort(self._queue, attempt, key=_sequence)
        self._work.set()

    def _note_failure(self, attempt: PartitionPublishAttempt, error: Exception) -> None:
        if isinstance(error, ConnectionBroken):
            attempt.retried = attempt.retried or error.maybe_executed
        self._faults.leave_replica(error)

    async def _send_queue(self) -> bool:
        """Send the queue; return False if an event of it has to be sent again."""
        conversation = self._link.writable()
        proven = conversation is not None and conversation is self._proven
        batch = self._queue[: MAX_EVENTS_PER_PIPELINE if proven else 1]
        ends = min(attempt.since for attempt in batch) + self._config.publish_timeout
        patience = max(0.0, ends - trio.current_time())
        try:
            for name in {attempt.name for attempt in batch}:
                if name not in self._name_due:
                    await self._check_partitions(name, patience)
            # Some may have been cancelled or refused meanwhile.
            batch = [attempt for attempt in batch if attempt in self._queue]
            commands = [self._adding(attempt) for attempt in batch]
            replies = await self._link.pipeline(commands, patience=patience)
        except (RedisLinkError, *PASSING_ERRORS) as error:
            for attempt in batch:
                self._note_failure(attempt, error)
            self._give_up_late(error)
            return False
        except redis_errors.RedisError as error:
            for attempt in batch:
                self._end(attempt, refusal(error, f"take an event of {attempt.name!r}"))
            return True
        passing: Exception | None = None
        for attempt, reply in zip(batch, replies, strict=True):
            if isinstance(reply, PASSING_ERRORS):
                passing = reply
                self._note_failure(attempt, reply)
            elif isinstance(reply, Exception):
                self._end(attempt, refusal(reply, f"take an event of {attempt.name!r}"))
            else:
                self._end(attempt, Receipt(id=reply.decode()))
        if passing is not None:
            self._proven = None
            self._give_up_late(passing)
        elif batch and self._link.writable() is conversation:
            self._proven = conversation
        return passing is None

    def _give_up_late(self, error: Exception) -> None:
        """End the events that have waited for too long."""
        now = trio.current_time()
        closed = isinstance(error, LinkClosed)
        for attempt in list(self._queue):
            if closed or now >= attempt.since + self._config.publish_timeout:
                self._end(attempt, refusal(error, f"take an event of {attempt.name!r}"))

    def _end(self, attempt: PartitionPublishAttempt, result: Receipt | Exception) -> None:
        if attempt in self._queue:
            self._queue.remove(attempt)
            attempt.replied(result)

    # -- the number of partitions

    async def _check_partitions(self, name: str, patience: float) -> None:
        """Check the number of partitions of a name; end its events if it differs."""
        with trio.move_on_after(patience):
            await self._link.ready()
        try:
            await establish(self._link, self._keys, name)
        except PartitionsDiffer as error:
            for attempt in [each for each in self._queue if each.name == name]:
                self._end(attempt, error)
        else:
            self._name_due[name] = trio.current_time() + NAME_INTERVAL_SECONDS

    def _checked(self, name: str, found: Any) -> None:
        if found != self._keys.partitions:
            # The next event of the name waits for another check.
            self._name_due.pop(name, None)


def _sequence(attempt: PartitionPublishAttempt) -> int:
    return attempt.sequence
