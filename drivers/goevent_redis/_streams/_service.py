"""The service: one bus as a consumer of its group, from its first read to its leave.

It owns nothing but the others: the reader takes entries off the streams, the hands bring them to
the bus, the desk tells Redis what became of them, the sweeper takes over what others have left, and
the guard looks after the streams.
"""

from __future__ import annotations

from collections.abc import Sequence

import trio
from redis import exceptions as redis_errors

from goevent import Backlog, Inbox

from .._link import Link
from .._pool import Pool
from .._resp import Encodable
from ._config import StreamsConfig
from ._desk import Desk
from ._feed import Feed, Window
from ._guard import Guard
from ._hands import Hands
from ._keys import HEIR, Keys
from ._names import Names
from ._reader import Reader
from ._scripts import LEAVE, Call, call_many
from ._sweeper import Sweeper
from ._troubles import Troubles


class Service:
    """One open bus as a consumer."""

    def __init__(
        self,
        link: Link,
        pool: Pool,
        inbox: Inbox,
        keys: Keys,
        config: StreamsConfig,
        consumer: str,
        troubles: Troubles,
    ) -> None:
        self._link = link
        self._keys = keys
        self._config = config
        self._consumer = consumer
        window = Window(config.prefetch)
        self.desk = Desk(link, inbox, keys, config, consumer, window, troubles)
        self._hands = Hands(link, inbox, self.desk, keys, config)
        self._reader = Reader(
            link, pool, self.desk, keys, consumer, window, troubles, self._hands.take
        )
        self._sweeper = Sweeper(
            link,
            inbox,
            self.desk,
            self._hands,
            self._reader,
            keys,
            config,
            consumer,
            window,
            troubles,
        )
        self._guard = Guard(link, self._reader, keys, config, consumer, troubles)
        self.names = Names(link, self._reader, self._guard, keys, config, troubles)

    def start(self, nursery: trio.Nursery) -> None:
        """Have all of them at work in a nursery."""
        for work in (
            self._reader.run,
            self._reader.nudge,
            self._hands.run,
            self.desk.run,
            self._sweeper.run,
            self._guard.run,
            self.names.run,
        ):
            nursery.start_soon(work)

    async def stop(self) -> None:
        """Read no more, and hand back what no listener has got."""
        await self._reader.stop()
        await self._hands.stop()

    async def drop(self, names: Sequence[str]) -> None:
        """Unsubscribe, and hand back what no listener has got."""
        await self.names.remove(names)
        self._hands.drop_inactive()

    def backlogs(self) -> tuple[Backlog, ...]:
        """Return what the group has to do, as last seen; what comes once more is part of it."""
        found: dict[str, Backlog] = {}
        for feed in self._reader.feeds.values():
            if feed.backlog is not None:
                known = found.get(feed.name)
                found[feed.name] = feed.backlog if known is None else _both(known, feed.backlog)
        return tuple(found.values())

    async def leave(self) -> None:
        """Tell the last ends, hand back what is left, and leave the group."""
        self.desk.closed = True
        feeds = self._reader.ever
        if not feeds or not self._link.connected:
            return
        try:
            await self.desk.flush()
            first: list[tuple[Encodable, ...]] = []
            if self._reader.blocked is not None:
                # Its connection is closed, but the server may not know yet.
                first = [("CLIENT", "UNBLOCK", self._reader.blocked)]
            await call_many(self._link, [self._leave(feed) for feed in feeds.values()], first=first)
        except redis_errors.RedisError:
            pass  # others take over what is ours when it has been idle for long enough

    def _leave(self, feed: Feed) -> Call:
        started = [entry.id for entry in feed.held.values() if entry.started]
        idle = round(self._config.claim_idle * 1000)
        args = (self._keys.group, self._consumer, HEIR, idle, 1)
        return LEAVE, (feed.key,), (*args, *started)


def _both(one: Backlog, other: Backlog) -> Backlog:
    unknown = one.lag is None or other.lag is None
    return Backlog(
        event_name=one.event_name,
        lag=None if unknown else (one.lag or 0) + (other.lag or 0),
        pending=one.pending + other.pending,
        oldest_pending=max(one.oldest_pending, other.oldest_pending),
    )
