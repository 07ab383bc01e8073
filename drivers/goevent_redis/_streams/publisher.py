"""The publisher: puts events into streams, and tries again while the server cannot be reached.

An actor of the driver. An event is sent within its dispatch, and the reply goes straight to the
bus. Only an event that has to be sent again costs a task, until it is sent.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import msgspec
import trio
from redis import exceptions as redis_errors

from goevent import DriverError
from goevent.drivers import BatchReplied, Message, Receipt, jittered

from .._link.conversation import Conversation
from .._link.errors import ConnectionBroken, LinkClosed, RedisLinkError
from .._link.link import Link
from .._link.request import CallbackPipelineRequest, CallbackRequest
from .._link.resp import Encodable, complete_command, pack, pack_prefix
from .config import StreamsConfig
from .faults import StreamFaults, refusal
from .keys import StreamKeys
from .stream import as_text, parse_id

PUBLISH_PAUSE_SECONDS = 0.05
"""The pause before a publish is tried again; it doubles."""

MAX_PUBLISH_PAUSE_SECONDS = 0.8
WORDS_OF_PLAIN_XADD = 4
"""The words before the event in an XADD that neither trims nor flags a retried publish."""

NAME_INTERVAL_SECONDS = 5.0
"""How often the name of a stream is sent again: the set of names may have been deleted."""

Replied = Callable[[Receipt | Exception], None]

SentEvent = tuple[int, str, bytes]
"""An event of a batch: its place there, its name and its bytes."""

PASSING_ERRORS = (
    redis_errors.BusyLoadingError,
    redis_errors.ReadOnlyError,
    redis_errors.MasterDownError,
    redis_errors.TryAgainError,
)
"""The errors of a server that will take events later, or that another server will replace."""


class StreamPublisher:
    """The publisher of one open bus.

    Attributes:
        trims_by_age: Streams are trimmed by the age of their entries.
    """

    def __init__(
        self, link: Link, keys: StreamKeys, config: StreamsConfig, faults: StreamFaults
    ) -> None:
        self.trims_by_age = config.max_age is not None
        self._link = link
        self._keys = keys
        self._config = config
        self._faults = faults
        self._streams: dict[str, str] = {}
        # The packed XADD of each name, up to the length of the event.
        self._heads: dict[str, bytes] = {}
        # When the name of each stream is to be sent again.
        self._name_due: dict[str, float] = {}
        self._failed: deque[PublishAttempt] = deque()
        self._work = trio.Event()
        self._turn = trio.Lock()
        self._now = trio.lowlevel.current_clock().current_time
        # The clock of the server minus our own.
        self._server_clock: float | None = None

    async def run(self) -> None:
        """Send events again that failed on their way, until cancelled."""
        while True:
            await self._work.wait()
            self._work = trio.Event()
            while self._failed:
                await self._send_again(self._failed.popleft())

    def publish_nowait(self, message: Message, replied: Replied) -> None:
        """Put an event into its stream; the server's reply goes to a callback.

        Raises:
            trio.WouldBlock: There is no connection, or too much waits to be sent.
        """
        conversation = self._link.writable()
        if conversation is None:
            raise trio.WouldBlock
        name = message.event_name
        data = message.encode()
        now = self._now()
        self._send_name(conversation, name, now)
        attempt = PublishAttempt(self, name, data, now, replied)
        conversation.submit(self._packed(name, data), attempt)

    def publish_many_nowait(self, messages: Sequence[Message], replied: BatchReplied) -> int:
        """Put events into their streams with one write; return how many are taken now."""
        conversation, left = self._link.writable(), self._link.writable_bytes
        if conversation is None:
            return 0
        now, heads = self._now(), self._heads
        commands: list[bytes] = []
        sent: list[SentEvent] = []
        taken, last_name = 0, ""
        for message in messages:
            if left <= 0:
                break
            try:
                data = message.encode()
            except Exception as error:  # noqa: BLE001 - it is the result of this event only
                replied([error], taken)
            else:
                name = message.event_name
                if name != last_name:
                    self._send_name(conversation, name, now)
                    last_name = name
                head = heads.get(name)
                command = complete_command(head, data) if head else self._packed(name, data)
                commands.append(command)
                sent.append((taken, name, data))
                left -= len(command)
            taken += 1
        if sent:
            request = CallbackPipelineRequest(
                len(sent), lambda replies: self._batch_answered(sent, now, replied, replies)
            )
            conversation.submit(b"".join(commands), request)
        return taken

    def _batch_answered(
        self, sent: list[SentEvent], since: float, replied: BatchReplied, replies: list[Any]
    ) -> None:
        """Pass on the receipts of a batch, and have the events sent again that have none."""
        receipts = [Receipt(id=each.decode()) for each in replies if type(each) is bytes]
        if receipts and self.trims_by_age:
            self.accepted(receipts[-1].id)
        first = sent[0][0]
        if len(receipts) == len(sent) == sent[-1][0] - first + 1:
            replied(receipts, first)
            return
        for (place, name, data), reply in zip(sent, replies, strict=True):
            attempt = PublishAttempt(self, name, data, since, in_batch(replied, place))
            attempt.receive_reply(reply)

    def _send_name(self, conversation: Conversation, name: str, now: float) -> None:
        """Note the name of an event at the server, from time to time."""
        if now >= self._name_due.get(name, 0.0):
            self._name_due[name] = now + NAME_INTERVAL_SECONDS
            naming = pack(("SADD", self._keys.names, name))
            conversation.submit(naming, CallbackRequest(self._named))

    def _packed(self, name: str, data: bytes) -> bytes:
        """Return the packed command that puts an event into its stream."""
        head = self._heads.get(name)
        if head is not None:
            return complete_command(head, data)
        self._learn_head(name)
        return pack(self._command(name, data))

    def _learn_head(self, name: str) -> None:
        """Remember the packed beginning of all commands for a name, if it never changes."""
        *head, data = self._command(name, b"")
        if len(head) == WORDS_OF_PLAIN_XADD and not data:
            self._heads[name] = pack_prefix(*head)

    async def publish(self, message: Message) -> Receipt:
        """Put an event into its stream; returns when the server has it.

        Raises:
            DriverError: The server refuses it, or could not be reached in time.
        """
        deadline = trio.current_time() + self._config.publish_timeout
        return await self._publish_with_retries(
            message.event_name, message.encode(), deadline, retried=False
        )

    async def _publish_with_retries(
        self, name: str, data: bytes, deadline: float, *, retried: bool
    ) -> Receipt:
        """Send an event until the server has it, or the time is over."""
        pause, has_turn = PUBLISH_PAUSE_SECONDS, False
        try:
            while True:
                left = max(0.0, deadline - trio.current_time())
                try:
                    receipt = as_text(await self._send(name, data, left, retried=retried))
                    self.accepted(receipt)
                    return Receipt(id=receipt)
                except LinkClosed as error:
                    raise refusal(error, "take an event") from error
                except (RedisLinkError, *PASSING_ERRORS) as error:
                    if isinstance(error, ConnectionBroken):
                        retried = retried or error.maybe_executed
                    self._faults.leave_replica(error)
                    if left <= pause:
                        raise refusal(error, f"take an event of {name!r}") from error
                    if has_turn:
                        await trio.sleep(jittered(pause))
                        pause = min(2 * pause, MAX_PUBLISH_PAUSE_SECONDS)
                    # One publish at a time tries again, for all of them: a server that recovers
                    # must not be flooded.
                    elif not (has_turn := await self._take_turn(deadline)):
                        raise refusal(error, f"take an event of {name!r}") from error
                except redis_errors.RedisError as error:
                    raise refusal(error, f"take an event of {name!r}") from error
        finally:
            if has_turn:
                self._turn.release()

    async def _take_turn(self, deadline: float) -> bool:
        """Wait for the turn to try again; return False if it comes too late."""
        with trio.move_on_at(deadline):
            await self._turn.acquire()
            return True
        return False

    async def _send(self, name: str, data: bytes, patience: float, *, retried: bool) -> Any:
        # The name goes along: buses that listen to patterns find the stream by it. Both are one
        # pipeline, so that the event keeps its place among the others.
        naming = ("SADD", self._keys.names, name)
        command = self._command(name, data, retried=retried)
        named, reply = await self._link.pipeline([naming, command], patience=patience)
        self._named(named)
        if isinstance(reply, Exception):
            raise reply
        return reply

    def _named(self, reply: Any) -> None:
        """Report that the server does not note a name: buses with a pattern do not find it."""
        if isinstance(reply, redis_errors.ResponseError):
            self._faults.refused(reply, "note the names of events, which patterns need")

    def _command(self, name: str, data: bytes, *, retried: bool = False) -> tuple[Encodable, ...]:
        stream = self._streams.get(name)
        if stream is None:
            stream = self._streams[name] = self._keys.stream(name)
        config = self._config
        if retried or config.maxlen is not None or config.max_age is not None:
            flag = ("r", "1") if retried else ()
            return ("XADD", stream, *self._trimming(), "*", "e", data, *flag)
        return ("XADD", stream, "*", "e", data)

    def _trimming(self) -> tuple[Encodable, ...]:
        if self._config.maxlen is not None:
            return ("MAXLEN", "~", self._config.maxlen)
        # By the server's clock, which made the ids: ours may be hours ahead.
        if self._config.max_age is not None and self._server_clock is not None:
            now = trio.current_time() + self._server_clock
            return ("MINID", "~", max(0, round((now - self._config.max_age) * 1000)))
        return ()

    def accepted(self, receipt: str) -> None:
        """Learn the server's clock from the id of a new entry."""
        if self.trims_by_age:
            self._server_clock = parse_id(receipt)[0] / 1000 - self._now()

    # -- events that were sent without a task

    def failed(self, attempt: PublishAttempt, error: Exception) -> None:
        """Have an event sent again, if that may help; otherwise pass the error on."""
        if isinstance(error, (RedisLinkError, *PASSING_ERRORS)) and not isinstance(
            error, LinkClosed
        ):
            attempt.retried = isinstance(error, ConnectionBroken) and error.maybe_executed
            self._faults.leave_replica(error)
            self._failed.append(attempt)
            self._work.set()
        else:
            attempt.replied(refusal(error, f"take an event of {attempt.name!r}"))

    async def _send_again(self, attempt: PublishAttempt) -> None:
        deadline = attempt.since + self._config.publish_timeout
        name, data, retried = attempt.name, attempt.data, attempt.retried
        try:
            receipt = await self._publish_with_retries(name, data, deadline, retried=retried)
        except DriverError as error:
            attempt.replied(error)
        else:
            attempt.replied(receipt)


class PublishAttempt(msgspec.Struct, eq=False):
    """An event on its way to the server: a request of the link whose reply goes to the bus.

    Attributes:
        since: When it was dispatched, on Trio's clock.
        retried: An earlier attempt may have succeeded; the entry is flagged.
    """

    answered_by_push: ClassVar[bool] = False

    publisher: StreamPublisher
    name: str
    data: bytes
    since: float
    replied: Replied
    retried: bool = False

    def receive_reply(self, frame: Any, /) -> bool:
        """Take the reply, or the error in its place."""
        if isinstance(frame, Exception):
            self.publisher.failed(self, frame)
        else:
            receipt = frame.decode()
            if self.publisher.trims_by_age:
                self.publisher.accepted(receipt)
            self.replied(Receipt(id=receipt))
        return True

    def fail(self, error: Exception, /) -> None:
        """Take an error, because no reply will come."""
        self.receive_reply(error)


def in_batch(replied: BatchReplied, place: int) -> Replied:
    """Return the callback for one event of a batch."""
    return lambda result: replied([result], place)
