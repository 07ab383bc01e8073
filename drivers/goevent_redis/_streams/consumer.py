"""The service: one bus as a consumer of its group, from its first read to its leave.

It owns nothing but the others: the reader takes entries off the streams, the hands bring them to
the bus, the desk tells Redis what became of them, the sweeper takes over what others have left, and
the guard looks after the streams. Where names have partitions, a keeper has leases of them in place
of the sweeper, and turns keep the order of each key.
"""

from __future__ import annotations

from collections.abc import Sequence

import trio
from redis import exceptions as redis_errors

from goevent.drivers import Backlog, Inbox

from .._link.link import Link
from .._link.pool import Pool
from .._link.resp import Encodable
from .acknowledger import Desk
from .claimer import Sweeper
from .config import StreamsConfig
from .deliverer import Hands
from .faults import Troubles
from .keys import HEIR, Keys
from .monitor import Guard
from .partitions.key_order import Turns
from .partitions.lease_keeper import Keeper
from .partitions.reader import PartitionReader, PartitionWindow
from .partitions.subscriptions import PartitionedNames, whole
from .reader import Reader
from .scripts import LEAVE, Call, call_many
from .stream import Feed, Window
from .subscriptions import Names


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
        self._keeper: Keeper | None = None
        if config.partitions > 1:
            room = PartitionWindow(config.prefetch)
            self.desk = desk = Desk(link, inbox, keys, config, consumer, room, troubles)
            self._hands = hands = Hands(link, inbox, desk, keys, config)
            turns = Turns(link, inbox, hands.take, desk.forget, keys.group, consumer, troubles)
            parts = PartitionReader(link, pool, desk, keys, consumer, room, troubles, turns.enter)
            keeper = Keeper(link, inbox, desk, parts, turns, keys, config, consumer, troubles)
            room.told += [parts.freed, keeper.freed]
            self._reader: Reader = parts
            self._keeper = keeper
            self._guard = Guard(link, parts, keys, config, consumer, troubles)
            self.names: Names = PartitionedNames(
                link, parts, self._guard, keeper, keys, config, troubles
            )
            self._works = [turns.run, keeper.run]
        else:
            window = Window(config.prefetch)
            self.desk = desk = Desk(link, inbox, keys, config, consumer, window, troubles)
            self._hands = hands = Hands(link, inbox, desk, keys, config)
            take = hands.take
            reader = Reader(link, pool, desk, keys, consumer, window, troubles, take)
            self._reader = reader
            sweeper = Sweeper(
                link, inbox, desk, hands, reader, keys, config, consumer, window, troubles
            )
            self._guard = Guard(link, reader, keys, config, consumer, troubles)
            self.names = Names(link, reader, self._guard, keys, config, troubles)
            self._works = [sweeper.run]

    def start(self, nursery: trio.Nursery) -> None:
        """Have all of them at work in a nursery."""
        for work in (
            self._reader.run,
            self._reader.nudge,
            self._hands.run,
            self.desk.run,
            self._guard.run,
            self.names.run,
            *self._works,
        ):
            nursery.start_soon(work)

    async def stop(self) -> None:
        """Read no more, and hand back what no listener has got."""
        if self._keeper is not None:
            self._keeper.stop()
        await self._reader.stop()
        await self._hands.stop()

    async def drop(self, names: Sequence[str]) -> None:
        """Unsubscribe, and hand back what no listener has got."""
        await self.names.remove(names)
        self._hands.drop_inactive()

    def backlogs(self) -> tuple[Backlog, ...]:
        """Return what the group has to do, as last seen; what comes once more is part of it."""
        feeds = self._reader.feeds.values()
        return whole([feed.backlog for feed in feeds if feed.backlog is not None])

    async def leave(self) -> None:
        """Tell the last ends, hand back what is left, and leave the group."""
        self.desk.closed = True
        feeds = self._reader.ever
        if not feeds or not self._link.connected:
            return None
        try:
            await self.desk.flush()
            if self._keeper is not None:
                return await self._keeper.leave()
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
