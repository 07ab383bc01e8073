"""What a bus has published: numbers for its messages, told to the other buses now and then.

An actor of the driver. A number is taken when the bytes enter the socket buffer, so that a refused
or cancelled publish takes none. Each connection has numbers and an origin of its own: what was in
the buffers of a lost one may have been sent or not, and nobody can know.
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
from .gaps import Numbers, Series

EVERY = 5.0  # seconds between two tellings of the highest numbers
AT_ONCE = 1000  # numbers in one message
KEPT = 100  # connections lost since the last telling
NOBODY = Receipt(receivers=0)


class Tally:
    """The numbers of one open bus.

    Args:
        channel: where they are told.
        head: returns what the commands for an event name begin with.
        answer: returns what the bus is told of a reply, unless that says that nobody got it.
    """

    def __init__(
        self,
        inbox: Inbox,
        channel: str,
        head: Callable[[str], bytes],
        answer: Callable[[str, Any], Receipt | Exception],
    ) -> None:
        self._inbox = inbox
        self._channel = channel
        self._head = head
        self._answer = answer
        self._numbers = Numbers(head)
        self._earlier: deque[tuple[str, dict[str, int]]] = deque(maxlen=KEPT)
        self._news = trio.Event()
        self._has_news = False
        self._refused = False

    def renew(self) -> None:
        """Begin anew, for a new connection."""
        self._keep(self._inbox.origin, self._numbers.accepted_marks())
        self._inbox.renew_origin()
        self._numbers = Numbers(self._head)

    def publish(self, message: Message) -> Publish:
        """Return what gives a message its number when it is sent."""
        return Publish(self, message)

    def post(
        self,
        conversation: Conversation,
        message: Message,
        replied: Callable[[Receipt | Exception], None],
    ) -> None:
        """Send a message with its number, and have the bus told of the reply."""
        data, series, number = self.encode(message)
        publication = Publication(series, number, replied, self._answer)
        conversation.submit(complete_command(series.head, data), publication)

    def encode(self, message: Message) -> tuple[bytes, Series, int]:
        """Return a message with its number, which is taken if the message can be encoded."""
        series = self._numbers.of(message.event_name)
        number = series.last + 1
        data = message.encode(origin=self._inbox.origin, seq=number)
        series.last = number  # it is sent now
        if not self._has_news:
            self._has_news = True
            self._news.set()
        return data, series, number

    async def run(self, link: Link) -> None:
        """Tell the highest numbers, while there are new ones."""
        while True:
            await self._news.wait()
            await trio.sleep(EVERY)
            await self.tell(link)

    async def tell(self, link: Link) -> None:
        """Tell the highest numbers that were not told yet, as far as there is a connection."""
        if not link.connected:
            return  # the next one will have news of its own, or of this one
        self._news, self._has_news = trio.Event(), False
        await self._tell_of_earlier(link)
        origin, accepted = self._inbox.origin, self._numbers.accepted_marks()
        if not await self._told(link, origin, self._numbers.marks()):
            self._keep(origin, accepted)

    async def _tell_of_earlier(self, link: Link) -> None:
        while self._earlier:
            origin, marks = self._earlier.popleft()
            if not await self._told(link, origin, marks):
                self._keep(origin, marks)
                return

    async def _told(self, link: Link, origin: str, marks: dict[str, int]) -> bool:
        """Tell numbers; return False if the connection broke meanwhile, which is reported."""
        items = list(marks.items())
        for start in range(0, len(items), AT_ONCE):
            told = {"origin": origin, "marks": dict(items[start : start + AT_ONCE])}
            try:
                await link.execute("PUBLISH", self._channel, msgspec.json.encode(told))
            except RedisLinkError:
                return False
            except redis_errors.RedisError as error:
                self._refuse(error)
        return True

    def _keep(self, origin: str, marks: dict[str, int]) -> None:
        """Keep what is to be told of a connection that is lost."""
        if marks:
            self._earlier.append((origin, marks))
            self._has_news = True
            self._news.set()

    def _refuse(self, error: Exception) -> None:
        if not self._refused:
            self._refused = True
            text = f"other buses cannot be told what they may have missed: {error}"
            self._inbox.report(DriverError(text))


class Publication(msgspec.Struct, eq=False):
    """One message that was sent, and whose reply goes to the bus.

    Attributes:
        answer: see `Tally`.
    """

    answered_by_push: ClassVar[bool] = False

    series: Series
    number: int
    replied: Callable[[Receipt | Exception], None]
    answer: Callable[[str, Any], Receipt | Exception]

    def receive_reply(self, frame: Any, /) -> bool:
        """Take the reply, or what says that there will be none."""
        series = self.series
        if not frame:
            series.accepted = self.number
            self.replied(NOBODY)
        else:
            if not isinstance(frame, Exception):
                series.accepted = self.number
            self.replied(self.answer(series.name, frame))
        return True

    def fail(self, error: Exception, /) -> None:
        """Take what says that there will be no reply."""
        self.receive_reply(error)


class Publish:
    """One message on its way out."""

    __slots__ = ("_message", "_number", "_series", "_tally")

    def __init__(self, tally: Tally, message: Message) -> None:
        self._tally = tally
        self._message = message
        self._series: Series | None = None
        self._number = 0

    def last(self) -> tuple[bytes]:
        """Return the bytes; called at the moment that they are sent."""
        data, self._series, self._number = self._tally.encode(self._message)
        return (data,)

    def accepted(self) -> None:
        """Take note that the server has replied."""
        if self._series is not None:
            self._series.accept(self._number)
