"""The subscriptions of one open bus: names, patterns, and the streams that a pattern stands for.

Redis cannot read a pattern of streams. Publishers keep a set of the names that they use, and a bus
that listens to a pattern looks into the set twice a second. A stream that appeared after its group
had begun to listen to the pattern is read from its beginning: no event is missed, however late the
stream is found.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence

import trio
from redis import exceptions as redis_errors

from goevent import DriverError, compile_pattern

from .._event_names import is_event_name
from .._link.errors import LinkClosed, RedisLinkError
from .config import id_before
from .context import ConsumerContext
from .faults import refusal
from .monitor import StreamMonitor
from .reader import StreamReader
from .scripts import JOIN, ScriptCall, call_many
from .stream import Stream

LOOK_INTERVAL_SECONDS = 0.5
LOOKS_PER_FULL_READ = 8
"""After how many looks the names are read although their number is the same as before."""


class StreamSubscriptions:
    """The subscriptions of one open bus."""

    def __init__(
        self, context: ConsumerContext, reader: StreamReader, monitor: StreamMonitor
    ) -> None:
        self._link = context.link
        self._keys = context.keys
        self._config = context.config
        self._faults = context.faults
        self._reader = reader
        self._monitor = monitor
        self._exact: dict[str, None] = {}
        self._patterns: dict[str, Callable[[str], object]] = {}
        self._streams: dict[str, Stream] = {}
        self._changing = trio.Lock()
        # The number of known names when the set was last read.
        self._names_seen = 0
        self._looks = 0
        self._has_patterns = trio.Event()

    async def add(self, names: Sequence[str]) -> None:
        """Subscribe to names and patterns; returns when the groups exist.

        While there is no connection, it waits.

        Raises:
            DriverError: The server refuses it.
        """
        async with self._changing:
            exact = [name for name in names if "*" not in name]
            patterns = [name for name in names if "*" in name]
            # "latest" means the end of the stream at the moment in which the group is created.
            begin = id_before(self._config.start)
            try:
                await self._retry_until_connected(lambda: self._join(exact, begin))
                if patterns:
                    await self._retry_until_connected(lambda: self._join_patterns(patterns, begin))
            except redis_errors.RedisError as error:
                raise refusal(error, "subscribe") from error
            self._exact.update(dict.fromkeys(exact))
            self._patterns.update({each: compile_pattern(each) for each in patterns})
            if patterns:
                self._has_patterns.set()
            self._monitor.inspect_soon()

    async def remove(self, names: Iterable[str]) -> None:
        """Unsubscribe; returns when no entry can come any more."""
        async with self._changing:
            for name in names:
                self._exact.pop(name, None)
                self._patterns.pop(name, None)
            gone = {name for name in self._streams if not self._wants(name)}
            for name in gone:
                del self._streams[name]
            # Together with their streams of replayed events.
            await self._reader.drop([s for s in self._reader.streams.values() if s.name in gone])

    async def run(self) -> None:
        """Look for new names while there are patterns, until cancelled."""
        while True:
            await self._has_patterns.wait()
            await trio.sleep(LOOK_INTERVAL_SECONDS)
            if not self._patterns:
                self._has_patterns = trio.Event()
                continue
            try:
                async with self._changing:
                    await self._look()
            except RedisLinkError:
                await self._link.ready()
            except (redis_errors.RedisError, DriverError) as error:
                self._faults.refused(error, "list the names of streams")

    async def _look(self) -> None:
        size = await self._link.execute("SCARD", self._keys.names)
        self._looks += 1
        if size != self._names_seen or self._looks % LOOKS_PER_FULL_READ == 0:
            known = await self._link.execute("SMEMBERS", self._keys.names)
            await self._join(self._matching(known, self._patterns.values()), "0")
            self._names_seen = size

    async def _join_patterns(self, patterns: list[str], begin: str) -> None:
        """Read the streams that patterns stand for."""
        for pattern in patterns:
            known_before = await self._link.execute("SISMEMBER", self._keys.patterns, pattern)
            known = await self._link.execute("SMEMBERS", self._keys.names)
            found = self._matching(known, [compile_pattern(pattern)])
            # If the group knows the pattern, it listened to it when the stream appeared.
            await self._join(found, "0" if known_before else begin)
            await self._link.execute("SADD", self._keys.patterns, pattern)

    def _matching(
        self, known: Iterable[bytes], patterns: Iterable[Callable[[str], object]]
    ) -> list[str]:
        tests = list(patterns)
        names = (each.decode("ascii", "replace") for each in known)
        return [name for name in names if any(test(name) for test in tests) and is_event_name(name)]

    async def _join(self, names: Sequence[str], begin: str) -> None:
        """Create the groups of streams where they do not exist, and read the streams."""
        new = [name for name in names if name not in self._streams]
        calls: list[ScriptCall] = [
            (JOIN, (self._keys.stream(name), self._keys.marks), (self._keys.group, begin))
            for name in new
        ]
        if not calls:
            return
        refused: Exception | None = None
        for name, reply in zip(new, await call_many(self._link, calls), strict=True):
            if isinstance(reply, Exception):
                refused = reply
            else:
                self._streams[name] = self._reader.add(self._keys.stream(name), name)
        if refused is not None:
            raise refused

    async def _retry_until_connected(self, action: Callable[[], Awaitable[None]]) -> None:
        """Carry out an action, again on the next connection if this one breaks."""
        while True:
            await self._link.ready()
            try:
                return await action()
            except LinkClosed:
                raise
            except RedisLinkError:
                # The driver reports the lost connection.
                continue

    def _wants(self, name: str) -> bool:
        return name in self._exact or any(test(name) for test in self._patterns.values())
