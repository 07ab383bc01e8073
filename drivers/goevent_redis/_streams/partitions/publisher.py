"""The publisher of names that have partitions: it keeps the order of dispatch.

An event that cannot be sent at once, or whose way was cut off, stands in a line; while there is a
line, all that comes after stands in it, too. So what is tried again is not overtaken by what was
dispatched later. On a new connection the first event goes alone, as the server may be loading yet.
(If it refuses an event on a connection that has worked, and takes the very next one that is under
way, as in the moment in which a replica becomes a primary, these two change places.)
"""

from __future__ import annotations

import random
from bisect import insort
from typing import Any

import trio
from redis import exceptions as redis_errors

from goevent.drivers import Message, Receipt

from ..._link.conversation import Conversation
from ..._link.errors import ConnectionBroken, LinkClosed, RedisLinkError
from ..._link.link import Link
from ..._link.request import CallbackRequest
from ..._link.resp import Encodable, pack
from ..config import StreamsConfig
from ..faults import Troubles, refusal
from ..keys import Keys
from ..publisher import KNOWN, LONGEST, PASSING, PAUSE, Attempt, Publisher, Replied
from .partitions import PartitionsDiffer, establish, establishing, partition_of

AT_ONCE = 500


class OrderedAttempt(Attempt, eq=False, kw_only=True):
    """One event of a partition that was sent, or is to be sent."""

    sequence: int  # its place in the order of dispatch
    stream: str
    key: str | None


class OrderedPublisher(Publisher):
    """The publisher of one open bus whose names have partitions."""

    def __init__(self, link: Link, keys: Keys, config: StreamsConfig, troubles: Troubles) -> None:
        super().__init__(link, keys, config, troubles)
        self._line: list[OrderedAttempt] = []  # in the order of dispatch
        self._count = 0
        self._proven: Conversation | None = None  # the connection that has taken an event

    async def run(self) -> None:
        """Send what stands in line, until cancelled."""
        pause = PAUSE
        while True:
            await self._work.wait()
            self._work = trio.Event()
            while self._line:
                if await self._send():
                    pause = PAUSE
                else:
                    await trio.sleep(random.uniform(0.5, 1) * pause)  # noqa: S311
                    pause = min(2 * pause, LONGEST)

    def publish_nowait(self, message: Message, replied: Replied) -> None:
        """Put an event into its stream; what the server says goes to a callback.

        Raises:
            trio.WouldBlock: there is no connection, or others are to be sent before.
        """
        conversation = self._link.writable()
        name = message.event_name
        proven = conversation is not None and conversation is self._proven
        if conversation is None or not proven or self._line or name not in self._known:
            raise trio.WouldBlock
        attempt = self._attempt(message, replied)
        if attempt.since >= self._known[name]:
            self._known[name] = attempt.since + KNOWN
            script, keys, args = establishing(self._keys, name)
            told = pack(("EVALSHA", script.sha, len(keys), *keys, *args))
            conversation.submit(told, CallbackRequest(lambda found: self._is_known(name, found)))
        conversation.submit(pack(self._adding(attempt)), attempt)

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
        self._enlist(attempt)
        try:
            await ended.wait()
        finally:
            if not results and attempt in self._line:
                self._line.remove(attempt)
        (result,) = results
        if isinstance(result, Exception):
            raise result
        return result

    def failed(self, attempt: Attempt, error: Exception) -> None:
        """Have an event sent again, if that may help."""
        passes = isinstance(error, (RedisLinkError, *PASSING)) and not isinstance(error, LinkClosed)
        if passes and isinstance(attempt, OrderedAttempt):
            self._note(attempt, error)
            self._enlist(attempt)
        else:
            attempt.replied(refusal(error, f"take an event of {attempt.name!r}"))

    # -- the line

    def _attempt(self, message: Message, replied: Replied) -> OrderedAttempt:
        name, key = message.event_name, message.key
        data = message.encode()
        self._count += 1
        return OrderedAttempt(
            self,
            name,
            data,
            self._now(),
            replied,
            sequence=self._count,
            stream=self._keys.stream(name, partition_of(name, key, self._keys.partitions)),
            key=key,
        )

    def _adding(self, attempt: OrderedAttempt) -> tuple[Encodable, ...]:
        command: tuple[Encodable, ...]
        command = ("XADD", attempt.stream, *self._trimming(), "*", "e", attempt.data)
        if attempt.key is not None:
            command += ("k", attempt.key)
        return (*command, "r", "1") if attempt.retried else command

    def _enlist(self, attempt: OrderedAttempt) -> None:
        insort(self._line, attempt, key=_sequence)
        self._work.set()

    def _note(self, attempt: OrderedAttempt, error: Exception) -> None:
        if isinstance(error, ConnectionBroken):
            attempt.retried = attempt.retried or error.maybe_executed
        self._troubles.leave_replica(error)

    async def _send(self) -> bool:
        """Send what stands in line; return False if something of it has to be sent again."""
        conversation = self._link.writable()
        proven = conversation is not None and conversation is self._proven
        line = self._line[: AT_ONCE if proven else 1]
        ends = min(attempt.since for attempt in line) + self._config.publish_timeout
        patience = max(0.0, ends - trio.current_time())
        try:
            for name in {attempt.name for attempt in line}:
                if name not in self._known:
                    await self._make_known(name, patience)
            line = [attempt for attempt in line if attempt in self._line]
            commands = [self._adding(attempt) for attempt in line]
            replies = await self._link.pipeline(commands, patience=patience)
        except (RedisLinkError, *PASSING) as error:
            for attempt in line:
                self._note(attempt, error)
            self._give_up(error)
            return False
        except redis_errors.RedisError as error:
            for attempt in line:
                self._end(attempt, refusal(error, f"take an event of {attempt.name!r}"))
            return True
        passing: Exception | None = None
        for attempt, reply in zip(line, replies, strict=True):
            if isinstance(reply, PASSING):
                passing = reply
                self._note(attempt, reply)
            elif isinstance(reply, Exception):
                self._end(attempt, refusal(reply, f"take an event of {attempt.name!r}"))
            else:
                self._end(attempt, Receipt(id=reply.decode()))
        if passing is not None:
            self._proven = None
            self._give_up(passing)
        elif line and self._link.writable() is conversation:
            self._proven = conversation
        return passing is None

    def _give_up(self, error: Exception) -> None:
        """End what has stood in line for too long."""
        now = trio.current_time()
        closed = isinstance(error, LinkClosed)
        for attempt in list(self._line):
            if closed or now >= attempt.since + self._config.publish_timeout:
                self._end(attempt, refusal(error, f"take an event of {attempt.name!r}"))

    def _end(self, attempt: OrderedAttempt, result: Receipt | Exception) -> None:
        if attempt in self._line:
            self._line.remove(attempt)
            attempt.replied(result)

    # -- the number of partitions

    async def _make_known(self, name: str, patience: float) -> None:
        """See that a name has as many partitions as we believe; end its events if not."""
        with trio.move_on_after(patience):
            await self._link.ready()
        try:
            await establish(self._link, self._keys, name)
        except PartitionsDiffer as error:
            for attempt in [each for each in self._line if each.name == name]:
                self._end(attempt, error)
        else:
            self._known[name] = trio.current_time() + KNOWN

    def _is_known(self, name: str, found: Any) -> None:
        if found != self._keys.partitions:
            self._known.pop(name, None)  # it is asked for again before the next event


def _sequence(attempt: OrderedAttempt) -> int:
    return attempt.sequence
