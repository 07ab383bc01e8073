"""The sequencer: numbers for published messages, and announcements of the highest numbers.

The driver asks it for each message that it publishes, and runs it as a task. Other buses detect
gaps by the numbers. Every `MARKS_INTERVAL_SECONDS` the sequencer announces the highest numbers, the
marks, on a channel of their own, so other buses also notice that the last messages were lost.

Theory of operation
-------------------
A message gets its number when its bytes enter the write buffer. So a publish that is refused or
cancelled before takes no number, and numbers leave in order.

Each connection has an origin and numbers of its own. When a connection breaks, its last messages
may have been sent or not, and nothing can tell which. So the marks of a lost connection only count
messages that the server has accepted. They are kept, and announced over a later connection.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, ClassVar

import msgspec
import trio
from redis import exceptions as redis_errors

from goevent import DriverError
from goevent.drivers import Inbox, Message, Receipt

from .._link.conversation import Conversation
from .._link.errors import RedisLinkError
from .._link.link import Link
from .._link.resp import complete_command

MARKS_INTERVAL_SECONDS = 5.0
"""The time between new messages and the announcement of their numbers."""

MAX_MARKS_PER_MESSAGE = 1000

MAX_LOST_CONNECTIONS = 100
"""The number of lost connections whose marks are kept for a later announcement."""

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
        for sequence in self._unannounced():
            marks[sequence.name] = sequence.announced = sequence.last
        return marks

    def accepted_marks(self) -> dict[str, int]:
        """Return the marks of `take_marks`, limited to the numbers that the server has accepted."""
        return {
            sequence.name: sequence.accepted
            for sequence in self._unannounced()
            if sequence.accepted
        }

    def _unannounced(self) -> list[MessageSequence]:
        return [each for each in self._sequences.values() if each.last > each.announced]


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
        # The origins of lost connections, with their marks.
        self._kept_marks: deque[tuple[str, dict[str, int]]] = deque(maxlen=MAX_LOST_CONNECTIONS)
        self._news = trio.Event()
        self._has_news = False  # the same as `_news.is_set()`, which is slower
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
            await self.announce_marks(link)

    async def announce_marks(self, link: Link) -> None:
        """Announce the highest numbers that were not announced yet, if there is a connection."""
        if not link.connected:
            return  # `start_connection` keeps the marks for the next connection
        # Before the announcement: a message that is published during it is news again.
        self._news, self._has_news = trio.Event(), False
        await self._announce_kept_marks(link)
        # Before the call, which may end on another connection: then these are the marks to keep.
        origin, accepted = self._inbox.origin, self._table.accepted_marks()
        if not await self._announce(link, origin, self._table.take_marks()):
            self._keep_marks(origin, accepted)

    async def _announce_kept_marks(self, link: Link) -> None:
        while self._kept_marks:
            origin, marks = self._kept_marks.popleft()
            if not await self._announce(link, origin, marks):
                self._keep_marks(origin, marks)
                return

    async def _announce(self, link: Link, origin: str, marks: dict[str, int]) -> bool:
        """Announce marks; return False if the connection broke meanwhile."""
        items = list(marks.items())
        for start in range(0, len(items), MAX_MARKS_PER_MESSAGE):
            piece = dict(items[start : start + MAX_MARKS_PER_MESSAGE])
            data = msgspec.json.encode({"origin": origin, "marks": piece})
            try:
                await link.execute("PUBLISH", self._channel, data)
            except RedisLinkError:
                return False
            except redis_errors.RedisError as error:
                self._report_refusal(error)
        return True

    def _keep_marks(self, origin: str, marks: dict[str, int]) -> None:
        """Keep the marks of a lost connection for the next announcement."""
        if marks:
            self._kept_marks.append((origin, marks))
            self._has_news = True
            self._news.set()

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
