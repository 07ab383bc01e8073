"""The publisher: puts events into streams, and tries again while the server cannot be reached."""

from __future__ import annotations

import random
import time

import trio
from redis import exceptions as redis_errors

from goevent import Message, Receipt

from .._errors import ConnectionBroken, LinkClosed, RedisLinkError
from .._link import Link
from .._resp import Encodable
from ._config import StreamsConfig
from ._feed import text
from ._keys import Keys
from ._troubles import Troubles, refusal

PAUSE = 0.05  # seconds until a publish is tried again; doubles
LONGEST = 0.8
KNOWN = 5.0  # seconds until the name of a stream is told again, which somebody may have deleted

_PASSING = (
    redis_errors.BusyLoadingError,
    redis_errors.ReadOnlyError,
    redis_errors.MasterDownError,
    redis_errors.TryAgainError,
)


class Publisher:
    """The publisher of one open bus."""

    def __init__(self, link: Link, keys: Keys, config: StreamsConfig, troubles: Troubles) -> None:
        self._link = link
        self._keys = keys
        self._config = config
        self._troubles = troubles
        self._known: dict[str, float] = {}

    async def publish(self, message: Message) -> Receipt:
        """Put an event into its stream; returns when the server has it.

        Raises:
            DriverError: The server refuses it, or could not be reached in time.
        """
        name = message.event_name
        data = message.encode()
        deadline = trio.current_time() + self._config.publish_timeout
        retried, pause = False, PAUSE
        while True:
            left = deadline - trio.current_time()
            try:
                entry_id = await self._sent(name, data, max(0.0, left), retried=retried)
                return Receipt(id=text(entry_id))
            except LinkClosed as error:
                raise refusal(error, "take an event") from error
            except (RedisLinkError, *_PASSING) as error:
                if left <= pause:
                    raise refusal(error, f"take an event of {name!r}") from error
                if isinstance(error, ConnectionBroken):
                    retried = retried or error.maybe_executed
                self._troubles.leave_replica(error)
            except redis_errors.RedisError as error:
                raise refusal(error, f"take an event of {name!r}") from error
            await trio.sleep(random.uniform(0.5, 1) * pause)  # noqa: S311
            pause = min(2 * pause, LONGEST)

    def _command(
        self, name: str, data: bytes, *, retried: bool
    ) -> tuple[str, *tuple[Encodable, ...]]:
        trim: tuple[Encodable, ...] = ()
        if self._config.maxlen is not None:
            trim = ("MAXLEN", "~", self._config.maxlen)
        elif self._config.max_age is not None:
            trim = ("MINID", "~", max(0, round((time.time() - self._config.max_age) * 1000)))
        mark = ("r", "1") if retried else ()
        return ("XADD", self._keys.stream(name), *trim, "*", "e", data, *mark)

    async def _sent(self, name: str, data: bytes, patience: float, *, retried: bool) -> bytes:
        command = self._command(name, data, retried=retried)
        now = trio.current_time()
        if now < self._known.get(name, 0.0):
            entry_id: bytes = await self._link.execute(*command, patience=patience)
            return entry_id
        # Those who listen to patterns learn of the stream. In one piece: it keeps its place.
        self._known[name] = now + KNOWN
        told = False
        try:
            told_of = ("SADD", self._keys.names, name)
            _, reply = await self._link.pipeline([told_of, command], patience=patience)
            told = True
        finally:
            if not told:
                self._known.pop(name, None)
        if isinstance(reply, Exception):
            raise reply
        return bytes(reply)
