"""The sequencer: numbers for published messages, and announcements of the highest numbers.

The driver asks it for each message that it publishes, and runs its two tasks. Other buses detect
gaps by the numbers. `MARKS_INTERVAL_SECONDS` after new messages the sequencer announces the highest
numbers, the marks, on a channel of their own, so other buses also notice that the last messages
were lost.

Theory of operation
-------------------
A message gets its number when its bytes enter the write buffer. So a publish that is refused or
cancelled before takes no number, and numbers leave in order.

Each connection has an origin and numbers of its own. When a connection breaks, its last messages
may have been sent or not, and nothing can tell which. So the marks of a lost connection only count
messages that the server has accepted. They are kept, and announced over a later connection.

A bus that was away has missed the marks of that time. So it asks for them when it is connected
again, and every other bus announces all its marks once more, those of its lost connections, too. A
bus that has just connected again, and one that closes, announces all of them unasked. So a mark is
heard at last, and buses that are idle send nothing.

The marks of a connection name the origins of the connections before it (`after`). A subscriber that
has heard one of these was there before the numbers began, so all numbers from 1 on were for it.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import msgspec
import trio
from redis import exceptions as redis_errors

from goevent import DriverError
from goevent.drivers import BatchReplied, Inbox, Message, Receipt

from .._link.conversation import Conversation
from .._link.errors import RedisLinkError
from .._link.link import Link
from .._link.request import CallbackPipelineRequest
from .._link.resp import complete_command
from .marks import SequenceMarks, encode_marks

MARKS_INTERVAL_SECONDS = 5.0
"""The time between new messages and the announcement of their numbers."""

MAX_MARKS_PER_MESSAGE = 1000

MAX_LOST_CONNECTIONS = 100
"""The number of lost connections whose marks are kept for later announcements."""

MAX_KEPT_MARKS = 10_000
"""The number of marks of lost connections that are kept: subscribers do not remember more."""

ANSWER_PAUSE_SECONDS = 0.5
"""The longest pause before an answer: buses that lost the same server ask at about one time."""

NO_RECEIVERS = Receipt(receivers=0)


class MessageSequence:
    """The numbers that one publisher gives to its messages of one event name.

    Attributes:
        name: The event name.
        command_prefix: The beginning of all commands that publish the event.
        last: The highest number that is taken; 0 for none.
        accepted: The highest number that the server is known to have accepted.
        announced: The highest number that was announced to other buses.
    """

    __slots__ = ("accepted", "announced", "command_prefix", "last", "name")

    def __init__(self, name: str, command_prefix: bytes) -> None:
        self.name = name
        self.command_prefix = command_prefix
        self.last = self.accepted = self.announced = 0

    def accept(self, number: int) -> None:
        """Record that the server has accepted a message."""
        if number > self.accepted:
            self.accepted = number


SentMessage = tuple[int, MessageSequence, int]
"""A message of a batch: its place there, the sequence of its event name, and its number."""


class SequenceTable:
    """The sequences of one publisher over one connection.

    Args:
        command_prefix: Returns the beginning of the commands that publish an event name.
    """

    def __init__(self, command_prefix: Callable[[str], bytes] = lambda _: b"") -> None:
        self._command_prefix = command_prefix
        self._sequences: dict[str, MessageSequence] = {}

    def of(self, name: str) -> MessageSequence:
        """Return the sequence of an event name."""
        sequence = self._sequences.get(name)
        if sequence is None:
            sequence = MessageSequence(name, self._command_prefix(name))
            self._sequences[name] = sequence
        return sequence

    def take_marks(self) -> dict[str, int]:
        """Return the highest number of each name that was used since the last call."""
        marks: dict[str, int] = {}
        for sequence in self._sequences.values():
            if sequence.last > sequence.announced:
                marks[sequence.name] = sequence.announced = sequence.last
        return marks

    def all_marks(self) -> dict[str, int]:
        """Return the highest number of each name."""
        return {each.name: each.last for each in self._sequences.values() if each.last}

    def accepted_marks(self) -> dict[str, int]:
        """Return the highest number of each name that the server is known to have accepted."""
        return {each.name: each.accepted for each in self._sequences.values() if each.accepted}


class PublishSequencer:
    """The numbers of one open bus.

    Args:
        inbox: The bus.
        channel: The channel for the marks.
        command_prefix: Returns the beginning of the commands that publish an event name.
        to_receipt: Turns a reply for an event name into the bus's receipt or error. It is not
            called for a reply of 0 receivers.
    """

    def __init__(
        self,
        inbox: Inbox,
        channel: str,
        command_prefix: Callable[[str], bytes],
        to_receipt: Callable[[str, Any], Receipt | Exception],
    ) -> None:
        self._inbox = inbox
        self._channel = channel
        self._command_prefix = command_prefix
        self._to_receipt = to_receipt
        self._table = SequenceTable(command_prefix)
        # The origins of lost connections, with their marks; the oldest first.
        self._kept_marks: deque[tuple[str, dict[str, int]]] = deque()
        self._news = trio.Event()
        self._has_news = False  # the same as `_news.is_set()`, which is slower
        self._to_tell = trio.Event()
        self._was_away = False  # this bus has to ask for the marks of the others
        self._refusal_reported = False

    def start_connection(self) -> None:
        """Begin a new origin with new numbers, for a new connection."""
        # With the old origin, a subscriber would take a message that was lost with the connection
        # for a gap, although its publisher has reported it as failed.
        self._keep_marks(self._inbox.origin, self._table.accepted_marks())
        self._inbox.renew_origin()
        self._table = SequenceTable(self._command_prefix)

    def publish(self, message: Message) -> AwaitedPublish:
        """Return a publish for a task that waits for the reply."""
        return AwaitedPublish(self, message)

    def post(
        self,
        conversation: Conversation,
        message: Message,
        replied: Callable[[Receipt | Exception], None],
    ) -> None:
        """Send a message with its number, and have `replied` called with the outcome."""
        data, sequence, number = self.encode(message)
        publish = PostedPublish(sequence, number, replied, self._to_receipt)
        conversation.submit(complete_command(sequence.command_prefix, data), publish)

    def post_many(
        self,
        conversation: Conversation,
        messages: Sequence[Message],
        replied: BatchReplied,
        max_bytes: int,
    ) -> int:
        """Send messages with their numbers in one write, and return how many were taken.

        Args:
            conversation: The conversation over the present connection.
            messages: The messages.
            replied: Called with the outcomes.
            max_bytes: The bytes after which no other message is taken.
        """
        commands: list[bytes] = []
        sent: list[SentMessage] = []
        taken = 0
        for message in messages:
            if max_bytes <= 0:
                break
            try:
                data, sequence, number = self.encode(message)
            except Exception as error:  # noqa: BLE001 - it is the result of this event only
                replied([error], taken)
            else:
                command = complete_command(sequence.command_prefix, data)
                commands.append(command)
                sent.append((taken, sequence, number))
                max_bytes -= len(command)
            taken += 1
        if sent:
            request = CallbackPipelineRequest(
                len(sent), lambda replies: self._batch_answered(sent, replied, replies)
            )
            conversation.submit(b"".join(commands), request)
        return taken

    def _batch_answered(
        self, sent: list[SentMessage], replied: BatchReplied, replies: list[Any]
    ) -> None:
        results: list[Receipt | Exception | None] = []
        for (_, sequence, number), reply in zip(sent, replies, strict=True):
            if not isinstance(reply, Exception):
                sequence.accepted = number
            results.append(self._to_receipt(sequence.name, reply) if reply else NO_RECEIVERS)
        first = sent[0][0]
        if len(sent) == sent[-1][0] - first + 1:
            replied(results, first)
        else:
            # Some of the batch could not be encoded.
            for (place, _, _), result in zip(sent, results, strict=True):
                replied([result], place)

    def encode(self, message: Message) -> tuple[bytes, MessageSequence, int]:
        """Encode a message with its number, which is only taken if the encoding succeeds."""
        sequence = self._table.of(message.event_name)
        number = sequence.last + 1
        # This may raise, for instance for an event that is too large. Then the number stays free.
        data = message.encode(origin=self._inbox.origin, seq=number)
        sequence.last = number
        if not self._has_news:
            self._has_news = True
            self._news.set()
        return data, sequence, number

    async def run(self, link: Link) -> None:
        """Announce the highest numbers while there are new ones; until cancelled."""
        while True:
            await self._news.wait()
            await trio.sleep(MARKS_INTERVAL_SECONDS)
            # Before the announcement: a message that is published during it is news again.
            self._news, self._has_news = trio.Event(), False
            # Without a connection, `start_connection` keeps the marks for the next one.
            if link.connected:
                await self._announce(link, self._table, self._table.take_marks())

    def asked(self) -> None:
        """Announce all marks soon, because another bus has asked for them."""
        self._to_tell.set()

    def connected_again(self) -> None:
        """Announce all marks soon, and ask for those of the others."""
        self._was_away = True
        self._to_tell.set()

    async def answer(self, link: Link) -> None:
        """Announce all marks whenever `asked` or `connected_again` was called; until cancelled."""
        while True:
            await self._to_tell.wait()
            await trio.sleep(random.uniform(0, ANSWER_PAUSE_SECONDS))  # noqa: S311
            self._to_tell = trio.Event()
            await self.announce_all(link)

    async def announce_all(self, link: Link) -> None:
        """Announce all marks, if there is a connection, and ask for those of others if needed."""
        # If the connection breaks meanwhile, the next one begins with all of this again.
        was_away, self._was_away = self._was_away, False
        after: list[str] = []
        for origin, marks in list(self._kept_marks):
            if not await self._send_marks(link, origin, marks, after):
                return
            after.append(origin)
        await self._announce(link, self._table, self._table.all_marks(), asks=was_away)

    async def _announce(
        self, link: Link, table: SequenceTable, marks: dict[str, int], *, asks: bool = False
    ) -> None:
        """Announce marks of the present connection."""
        origin, after = self._inbox.origin, [origin for origin, _ in self._kept_marks]
        await self._send_marks(link, origin, marks, after, table=table, asks=asks)

    async def _send_marks(
        self,
        link: Link,
        origin: str,
        marks: dict[str, int],
        after: list[str],
        *,
        table: SequenceTable | None = None,
        asks: bool = False,
    ) -> bool:
        """Send marks; return False if the connection broke meanwhile.

        Args:
            after: The origins of the connections before this one.
            table: The table of the marks, which must not be sent over a later connection: then
                they would count messages that the server has not accepted.
            asks: Ask other buses for their marks.
        """
        items = list(marks.items())
        pieces = [
            dict(items[start : start + MAX_MARKS_PER_MESSAGE])
            for start in range(0, len(items), MAX_MARKS_PER_MESSAGE)
        ]
        for piece in pieces or ([{}] if asks else []):
            message = SequenceMarks(origin, piece, after, asks)

            def encode(message: SequenceMarks = message) -> tuple[bytes]:
                if table is not None and table is not self._table:
                    message = SequenceMarks(origin, {}, asks=message.asks)
                return (encode_marks(message),)

            try:
                await link.execute("PUBLISH", self._channel, extend=encode)
            except RedisLinkError:
                return False
            except redis_errors.RedisError as error:
                self._report_refusal(error)
            asks = False
        return True

    def _keep_marks(self, origin: str, marks: dict[str, int]) -> None:
        """Keep the marks of a lost connection for later announcements."""
        if not marks:
            return
        kept = self._kept_marks
        kept.append((origin, marks))
        count = sum(len(each) for _, each in kept)
        while len(kept) > MAX_LOST_CONNECTIONS or (count > MAX_KEPT_MARKS and len(kept) > 1):
            _, oldest = kept.popleft()
            count -= len(oldest)

    def _report_refusal(self, error: Exception) -> None:
        if not self._refusal_reported:
            self._refusal_reported = True
            text = f"other buses cannot be told how many events this bus has published: {error}"
            self._inbox.report(DriverError(text))


class PostedPublish(msgspec.Struct, eq=False):
    """One message that was sent without a task that waits for the reply.

    Attributes:
        sequence: The sequence of the message's event name.
        number: The message's number.
        replied: Called with the receipt or the error.
        to_receipt: See `PublishSequencer`.
    """

    answered_by_push: ClassVar[bool] = False

    sequence: MessageSequence
    number: int
    replied: Callable[[Receipt | Exception], None]
    to_receipt: Callable[[str, Any], Receipt | Exception]

    def receive_reply(self, frame: Any, /) -> bool:
        """Take the reply, or the error in its place."""
        sequence = self.sequence
        # Replies arrive in the order of the numbers, so a later number is never overwritten.
        if not frame:
            sequence.accepted = self.number
            self.replied(NO_RECEIVERS)
        else:
            if not isinstance(frame, Exception):
                sequence.accepted = self.number
            self.replied(self.to_receipt(sequence.name, frame))
        return True

    def fail(self, error: Exception, /) -> None:
        """Take an error, because no reply will arrive."""
        self.receive_reply(error)


class AwaitedPublish:
    """One message that is sent by a task that waits for the reply."""

    __slots__ = ("_message", "_number", "_sequence", "_sequencer")

    def __init__(self, sequencer: PublishSequencer, message: Message) -> None:
        self._sequencer = sequencer
        self._message = message
        self._sequence: MessageSequence | None = None
        self._number = 0

    def last_argument(self) -> tuple[bytes]:
        """Return the bytes of the message; called when they enter the write buffer."""
        data, self._sequence, self._number = self._sequencer.encode(self._message)
        return (data,)

    def accept(self) -> None:
        """Record that the server has replied."""
        if self._sequence is not None:
            self._sequence.accept(self._number)
