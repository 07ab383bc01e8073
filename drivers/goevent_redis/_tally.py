"""What a bus has published: numbers for its messages, told to the other buses now and then.

An actor of the driver. A number is taken when the bytes enter the socket buffer, so that a refused
or cancelled publish takes none. Each connection has numbers and an origin of its own: what was in
the buffers of a lost one may have been sent or not, and nobody can know.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec
import trio
from redis import exceptions as redis_errors

from goevent import DriverError, Inbox, Message, Receipt

from ._errors import RedisLinkError
from ._gaps import Sequence
from ._link import Link
from ._request import Request

EVERY = 5.0  # seconds between two tellings of the highest numbers
AT_ONCE = 1000  # numbers in one message
KEPT = 100  # connections lost since the last telling


class Tally:
    """The numbers of one open bus."""

    def __init__(self, inbox: Inbox, channel: str) -> None:
        self._inbox = inbox
        self._channel = channel
        self._numbers = Sequence()
        self._earlier: deque[tuple[str, dict[str, int]]] = deque(maxlen=KEPT)
        self._news = trio.Event()
        self._refused = False

    def renew(self) -> None:
        """Begin anew, for a new connection."""
        self._keep(self._inbox.origin, self._numbers.last_marks())
        self._inbox.renew_origin()
        self._numbers = Sequence()

    def publish(self, message: Message) -> Publish:
        """Return what gives a message its number when it is sent."""
        return Publish(self, message)

    def encode(self, message: Message) -> tuple[bytes, Sequence, int]:
        """Return a message with its number, which is taken if the message can be encoded."""
        numbers, name = self._numbers, message.event_name
        number = numbers.next(name)
        data = message.encode(origin=self._inbox.origin, seq=number)
        numbers.take(name)
        self._news.set()
        return data, numbers, number

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
        self._news = trio.Event()
        await self._tell_of_earlier(link)
        origin, accepted = self._inbox.origin, dict(self._numbers.last_marks())
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
            self._news.set()

    def _refuse(self, error: Exception) -> None:
        if not self._refused:
            self._refused = True
            text = f"other buses cannot be told what they may have missed: {error}"
            self._inbox.report(DriverError(text))


class Publication(Request):
    """One message that was sent, and whose reply goes to the bus."""

    __slots__ = ("_mapped", "_name", "_number", "_numbers", "_receipt", "_replied")

    def __init__(
        self,
        name: str,
        numbers: Sequence,
        number: int,
        replied: Callable[[Receipt | Exception], None],
        receipt: Callable[[str, int], Receipt],
        mapped: Callable[[Exception], Exception],
    ) -> None:
        self._name = name
        self._numbers = numbers
        self._number = number
        self._replied = replied
        self._receipt = receipt
        self._mapped = mapped

    def take(self, frame: Any) -> bool:
        """Take the reply, or what says that there will be none."""
        if isinstance(frame, Exception):
            self._replied(self._mapped(frame))
        else:
            self._numbers.accept(self._name, self._number)
            self._replied(self._receipt(self._name, frame))
        return True

    def settle(self, result: Any) -> None:
        """Take what says that there will be no reply."""
        self.take(result)


class Publish:
    """One message on its way out."""

    __slots__ = ("_message", "_number", "_numbers", "_tally")

    def __init__(self, tally: Tally, message: Message) -> None:
        self._tally = tally
        self._message = message
        self._numbers: Sequence | None = None
        self._number = 0

    def last(self) -> tuple[bytes]:
        """Return the bytes; called at the moment that they are sent."""
        data, self._numbers, self._number = self._tally.encode(self._message)
        return (data,)

    def accepted(self) -> None:
        """Take note that the server has replied."""
        if self._numbers is not None:
            self._numbers.accept(self._message.event_name, self._number)
