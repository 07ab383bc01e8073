"""The guard: looks after the streams, so that nothing happens to them in silence.

An actor of the driver. Every second it looks at each stream: whether the group is still there, how
far it is, how much it has to do. It notes in Redis up to where everything is acknowledged: there a
group begins anew that somebody has destroyed.
"""

from __future__ import annotations

import logging
import math

import trio
from redis import exceptions as redis_errors

from goevent.drivers import Backlog

from .._link.errors import RedisLinkError
from .._link.link import Link
from .config import StreamsConfig
from .faults import Troubles
from .keys import HEIR, Keys
from .reader import Reader
from .scripts import LOOK, TIDY, Call, call_many
from .stream import Feed, place, text

EVERY = 1.0  # seconds between two looks
LARGE = 1_000_000  # entries in a stream that nobody trims, of which is warned
SILENCE = 2  # times `claim_idle` until a consumer without entries is forgotten

logger = logging.getLogger("goevent")


class Guard:
    """The guard of one open bus."""

    def __init__(
        self,
        link: Link,
        reader: Reader,
        keys: Keys,
        config: StreamsConfig,
        consumer: str,
        troubles: Troubles,
    ) -> None:
        self._link = link
        self._reader = reader
        self._keys = keys
        self._config = config
        self._consumer = consumer
        self._troubles = troubles
        self._tidy_at = -math.inf
        self._look = trio.Event()

    def hurry(self) -> None:
        """Have it look at once."""
        self._look.set()

    async def run(self) -> None:
        """Look, until cancelled."""
        while True:
            try:
                await self._round()
            except RedisLinkError:
                await self._link.ready()
            self._look = trio.Event()
            with trio.move_on_after(EVERY):
                await self._look.wait()

    async def _round(self) -> None:
        feeds = [feed for feed in self._reader.feeds.values() if feed.active]
        trims = self._config.retention == "acked"
        calls: list[Call] = [
            (
                LOOK,
                (feed.key, self._keys.marks, self._again(feed)),
                (self._keys.group, int(trims and not feed.again)),
            )
            for feed in feeds
        ]
        for feed, reply in zip(feeds, await call_many(self._link, calls), strict=True):
            if not isinstance(reply, Exception):
                self._saw(feed, *reply)
                if feed.barred:
                    self._reader.unbar(feed)
            elif self._troubles.is_gone(reply):
                await self._troubles.mend(feed)
            elif isinstance(reply, redis_errors.RedisError):
                self._troubles.refused(reply, f"look after {feed.key}")
                # A full server must be read from, or it stays full.
                feed.barred = not isinstance(reply, redis_errors.OutOfMemoryError)
        await self._tidy(feeds)

    def _saw(
        self,
        feed: Feed,
        pending: int,
        lag: int,
        age: int,
        last: bytes,
        high: bytes,
        size: int,
        again: int,
    ) -> None:
        feed.high = max(feed.high, place(last), place(high))
        feed.backlog = Backlog(
            event_name=feed.name,
            lag=None if lag < 0 else lag,
            pending=pending,
            oldest_pending=age / 1000,
        )
        if again and not feed.again:
            self._read_again(feed)
        untrimmed = self._config.retention == "all" and self._config.maxlen is None
        if size > LARGE and untrimmed and self._config.max_age is None and not feed.warned:
            feed.warned = True
            logger.warning(
                "the stream of %r has %d entries and is never trimmed: see StreamsConfig.retention",
                feed.name,
                size,
            )

    def _read_again(self, feed: Feed) -> None:
        """Read what the group is to get once more of a feed."""
        key = self._again(feed)
        known = self._reader.feeds.get(key.encode())
        if known is None or not known.active:
            self._reader.add(key, feed.name, again=True, partition=feed.partition)

    def _again(self, feed: Feed) -> str:
        partition = None if feed.partition is None else feed.partition.number
        return self._keys.again(feed.name, partition=partition)

    async def _tidy(self, feeds: list[Feed]) -> None:
        """Forget consumers that have died and left nothing."""
        now, silence = trio.current_time(), SILENCE * self._config.claim_idle
        if now < self._tidy_at:
            return
        self._tidy_at = now + silence / 2
        args = (self._keys.group, round(silence * 1000), self._consumer, HEIR)
        calls: list[Call] = [(TIDY, (feed.key,), args) for feed in feeds]
        for feed, reply in zip(feeds, await call_many(self._link, calls), strict=True):
            if not isinstance(reply, Exception) and reply:
                names = ", ".join(map(text, reply))
                logger.info("forgot consumers of %r that are gone: %s", feed.name, names)


async def warn_of_memory_only(link: Link) -> None:
    """Warn if the server keeps nothing over a restart, as far as it tells."""
    try:
        reply = await link.execute("CONFIG", "GET", "appendonly")
    except RedisLinkError:
        raise
    except redis_errors.RedisError:
        return  # it is forbidden
    if reply.get(b"appendonly") == b"no":
        logger.warning(
            "the Redis server at %s has no append-only file: a crash of it loses durable events",
            link.config.where(),
        )
