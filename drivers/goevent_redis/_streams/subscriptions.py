"""Names: what is subscribed to, and which streams a pattern stands for.

Redis cannot read a pattern of streams. Publishers keep a set of the names that they use; a bus that
listens to a pattern looks into it twice a second. A stream that appeared after its group had begun
to listen to the pattern is read from its beginning: nothing is missed, however late it is found.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence

import trio
from redis import exceptions as redis_errors

from goevent import DriverError, compile_pattern

from .._link.errors import LinkClosed, RedisLinkError
from .._link.link import Link
from .config import StreamsConfig, before
from .faults import Troubles, refusal
from .keys import Keys
from .monitor import Guard
from .reader import Reader
from .scripts import JOIN, Call, call_many
from .stream import Feed

EVERY = 0.5  # seconds between two looks for new names
ROUNDS = 8  # looks, of which one reads the names also if there are as many as before


class Names:
    """What one open bus is subscribed to."""

    def __init__(
        self,
        link: Link,
        reader: Reader,
        guard: Guard,
        keys: Keys,
        config: StreamsConfig,
        troubles: Troubles,
    ) -> None:
        self._link = link
        self._reader = reader
        self._guard = guard
        self._keys = keys
        self._config = config
        self._troubles = troubles
        self._exact: dict[str, None] = {}
        self._tests: dict[str, Callable[[str], object]] = {}
        self._feeds: dict[str, Feed] = {}
        self._changing = trio.Lock()
        self._size = 0  # of the set of names, when it was last looked at
        self._looks = 0
        self._wide = trio.Event()

    async def add(self, names: Sequence[str]) -> None:
        """Subscribe; waits for a connection, and returns when the groups exist.

        Raises:
            DriverError: The server refuses it.
        """
        async with self._changing:
            exact = [name for name in names if "*" not in name]
            patterns = [name for name in names if "*" in name]
            begin = before(self._config.start)
            try:
                await self._insist(lambda: self._join(exact, begin))
                if patterns:
                    await self._insist(lambda: self._widen(patterns, begin))
            except redis_errors.RedisError as error:
                raise refusal(error, "subscribe") from error
            self._exact.update(dict.fromkeys(exact))
            self._tests.update({each: compile_pattern(each) for each in patterns})
            if patterns:
                self._wide.set()
            self._guard.hurry()

    async def remove(self, names: Iterable[str]) -> None:
        """Unsubscribe; returns when nothing can come any more."""
        async with self._changing:
            for name in names:
                self._exact.pop(name, None)
                self._tests.pop(name, None)
            gone = [feed for name, feed in self._feeds.items() if not self._wants(name)]
            for feed in gone:
                del self._feeds[feed.name]
            lost = {feed.name for feed in gone}
            await self._reader.drop([f for f in self._reader.feeds.values() if f.name in lost])

    async def run(self) -> None:
        """Look for new names while there are patterns, until cancelled."""
        while True:
            await self._wide.wait()
            await trio.sleep(EVERY)
            if not self._tests:
                self._wide = trio.Event()
                continue
            try:
                async with self._changing:
                    await self._look()
            except RedisLinkError:
                await self._link.ready()
            except (redis_errors.RedisError, DriverError) as error:
                self._troubles.refused(error, "tell the names of streams")

    async def _look(self) -> None:
        size = await self._link.execute("SCARD", self._keys.names)
        self._looks += 1
        if size != self._size or self._looks % ROUNDS == 0:
            known = await self._link.execute("SMEMBERS", self._keys.names)
            await self._join(self._matching(known, self._tests.values()), "0")
            self._size = size

    async def _widen(self, patterns: list[str], begin: str) -> None:
        """Read the streams that patterns stand for."""
        for pattern in patterns:
            old = await self._link.execute("SISMEMBER", self._keys.patterns, pattern)
            known = await self._link.execute("SMEMBERS", self._keys.names)
            # To a pattern that the group knows, it has listened when the stream appeared.
            found = self._matching(known, [compile_pattern(pattern)])
            await self._join(found, "0" if old else begin)
            await self._link.execute("SADD", self._keys.patterns, pattern)

    def _matching(
        self, known: Iterable[bytes], tests: Iterable[Callable[[str], object]]
    ) -> list[str]:
        chosen = list(tests)
        names = (each.decode("ascii", "replace") for each in known)
        return [name for name in names if any(test(name) for test in chosen) and _is_name(name)]

    async def _join(self, names: Sequence[str], begin: str) -> None:
        """Create the groups of streams where they do not exist, and read them."""
        new = [name for name in names if name not in self._feeds]
        calls: list[Call] = [
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
                self._feeds[name] = self._reader.add(self._keys.stream(name), name)
        if refused is not None:
            raise refused

    async def _insist(self, ask: Callable[[], Awaitable[None]]) -> None:
        """Have something done, on the next connection if this one breaks."""
        while True:
            await self._link.ready()
            try:
                return await ask()
            except LinkClosed:
                raise
            except RedisLinkError:
                continue  # its loss is reported

    def _wants(self, name: str) -> bool:
        return name in self._exact or any(test(name) for test in self._tests.values())


def _is_name(text: str) -> bool:
    """Tell whether this is the name of an event: anybody may write into the set of names."""
    try:
        compile_pattern(text)
    except ValueError:
        return False
    return "*" not in text
