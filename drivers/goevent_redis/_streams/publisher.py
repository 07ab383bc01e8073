"""The publisher: puts events into streams, and tries again while the server cannot be reached.

An actor of the driver. An event is sent in the step of its dispatch, and the reply goes to the bus;
only what has to be sent again gets a task, until that is done.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from typing import Any, ClassVar

import msgspec
import trio
from redis import exceptions as redis_errors

from goevent import DriverError
from goevent.drivers import Message, Receipt

from .._link.errors import ConnectionBroken, LinkClosed, RedisLinkError
from .._link.link import Link
from .._link.request import CallbackRequest, ignore_reply
from .._link.resp import Encodable, complete_command, pack, pack_prefix
from .config import StreamsConfig
from .faults import Troubles, refusal
from .keys import Keys
from .stream import place, text

PAUSE = 0.05  # seconds until a publish is tried again; doubles
LONGEST = 0.8
PLAIN = 4  # words before the event in a command that neither trims nor tells of a try before
KNOWN = 5.0  # seconds until the name of a stream is told again, which somebody may have deleted

Replied = Callable[[Receipt | Exception], None]

PASSING = (
    redis_errors.BusyLoadingError,
    redis_errors.ReadOnlyError,
    redis_errors.MasterDownError,
    redis_errors.TryAgainError,
)
"""What a server says that will take events again, or whose place another one takes."""


class Publisher:
    """The publisher of one open bus."""

    def __init__(self, link: Link, keys: Keys, config: StreamsConfig, troubles: Troubles) -> None:
        self._link = link
        self._keys = keys
        self._config = config
        self._troubles = troubles
        self._streams: dict[str, str] = {}
        self._heads: dict[str, bytes] = {}  # of commands, up to the length of the event
        self.trims = config.max_age is not None  # by the age of entries
        self._known: dict[str, float] = {}
        self._failed: deque[Attempt] = deque()
        self._work = trio.Event()
        self._turn = trio.Lock()
        self._now = trio.lowlevel.current_clock().current_time
        self._clock: float | None = None  # that of the server, less our own

    async def run(self) -> None:
        """Send again what has failed on its way, until cancelled."""
        while True:
            await self._work.wait()
            self._work = trio.Event()
            while self._failed:
                await self._again(self._failed.popleft())

    def publish_nowait(self, message: Message, replied: Replied) -> None:
        """Put an event into its stream; what the server says goes to a callback.

        Raises:
            trio.WouldBlock: there is no connection, or much waits to be sent.
        """
        conversation = self._link.writable()
        if conversation is None:
            raise trio.WouldBlock
        name = message.event_name
        data = message.encode()
        now = self._now()
        if now >= self._known.get(name, 0.0):
            self._known[name] = now + KNOWN
            conversation.submit(
                pack(("SADD", self._keys.names, name)), CallbackRequest(ignore_reply)
            )
        attempt = Attempt(self, name, data, now, replied)
        head = self._heads.get(name)
        if head is None:
            conversation.submit(pack(self._command(name, data)), attempt)
            self._learn_head(name)
        else:
            conversation.submit(complete_command(head, data), attempt)

    def _learn_head(self, name: str) -> None:
        """Remember what all commands for a name begin with, if nothing in them changes."""
        *head, data = self._command(name, b"")
        if len(head) == PLAIN and not data:
            self._heads[name] = pack_prefix(*head)

    async def publish(self, message: Message) -> Receipt:
        """Put an event into its stream; returns when the server has it.

        Raises:
            DriverError: The server refuses it, or could not be reached in time.
        """
        deadline = trio.current_time() + self._config.publish_timeout
        return await self._insist(message.event_name, message.encode(), deadline, retried=False)

    async def _insist(self, name: str, data: bytes, deadline: float, *, retried: bool) -> Receipt:
        pause, turn = PAUSE, False
        try:
            while True:
                left = max(0.0, deadline - trio.current_time())
                try:
                    receipt = text(await self._sent(name, data, left, retried=retried))
                    self.accepted(receipt)
                    return Receipt(id=receipt)
                except LinkClosed as error:
                    raise refusal(error, "take an event") from error
                except (RedisLinkError, *PASSING) as error:
                    if isinstance(error, ConnectionBroken):
                        retried = retried or error.maybe_executed
                    self._troubles.leave_replica(error)
                    if left <= pause:
                        raise refusal(error, f"take an event of {name!r}") from error
                    if turn:
                        await trio.sleep(random.uniform(0.5, 1) * pause)  # noqa: S311
                        pause = min(2 * pause, LONGEST)
                    # One at a time asks again, for all: a server that refuses has enough to do.
                    elif not (turn := await self._turned(deadline)):
                        raise refusal(error, f"take an event of {name!r}") from error
                except redis_errors.RedisError as error:
                    raise refusal(error, f"take an event of {name!r}") from error
        finally:
            if turn:
                self._turn.release()

    async def _turned(self, deadline: float) -> bool:
        """Wait for the turn to ask again; return False if it is too late for that."""
        with trio.move_on_at(deadline):
            await self._turn.acquire()
            return True
        return False

    async def _sent(self, name: str, data: bytes, patience: float, *, retried: bool) -> Any:
        # Those who listen to patterns learn of the stream. In one piece: it keeps its place.
        told_of = ("SADD", self._keys.names, name)
        command = self._command(name, data, retried=retried)
        _, reply = await self._link.pipeline([told_of, command], patience=patience)
        if isinstance(reply, Exception):
            raise reply
        return reply

    def _command(self, name: str, data: bytes, *, retried: bool = False) -> tuple[Encodable, ...]:
        stream = self._streams.get(name)
        if stream is None:
            stream = self._streams[name] = self._keys.stream(name)
        config = self._config
        if retried or config.maxlen is not None or config.max_age is not None:
            mark = ("r", "1") if retried else ()
            return ("XADD", stream, *self._trimming(), "*", "e", data, *mark)
        return ("XADD", stream, "*", "e", data)

    def _trimming(self) -> tuple[Encodable, ...]:
        if self._config.maxlen is not None:
            return ("MAXLEN", "~", self._config.maxlen)
        # By the server's clock, which made the ids: ours may be hours ahead.
        if self._config.max_age is not None and self._clock is not None:
            now = trio.current_time() + self._clock
            return ("MINID", "~", max(0, round((now - self._config.max_age) * 1000)))
        return ()

    def accepted(self, receipt: str) -> None:
        """Take note of the id of an entry."""
        if self.trims:
            self._clock = place(receipt)[0] / 1000 - self._now()

    # -- what was sent without a task

    def failed(self, attempt: Attempt, error: Exception) -> None:
        """Have an event sent again, if that may help."""
        if isinstance(error, (RedisLinkError, *PASSING)) and not isinstance(error, LinkClosed):
            attempt.retried = isinstance(error, ConnectionBroken) and error.maybe_executed
            self._troubles.leave_replica(error)
            self._failed.append(attempt)
            self._work.set()
        else:
            attempt.replied(refusal(error, f"take an event of {attempt.name!r}"))

    async def _again(self, attempt: Attempt) -> None:
        deadline = attempt.since + self._config.publish_timeout
        name, data, retried = attempt.name, attempt.data, attempt.retried
        try:
            receipt = await self._insist(name, data, deadline, retried=retried)
        except DriverError as error:
            attempt.replied(error)
        else:
            attempt.replied(receipt)


class Attempt(msgspec.Struct, eq=False):
    """One event that was sent, and whose reply goes to the bus."""

    answered_by_push: ClassVar[bool] = False

    publisher: Publisher
    name: str
    data: bytes
    since: float
    replied: Replied
    retried: bool = False

    def receive_reply(self, frame: Any, /) -> bool:
        """Take the reply, or what says that there will be none."""
        if isinstance(frame, Exception):
            self.publisher.failed(self, frame)
        else:
            receipt = frame.decode()
            if self.publisher.trims:
                self.publisher.accepted(receipt)
            self.replied(Receipt(id=receipt))
        return True

    def fail(self, error: Exception, /) -> None:
        """Take what says that there will be no reply."""
        self.receive_reply(error)
