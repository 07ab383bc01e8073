"""The sweeper: takes over what others have left, and shows that we are alive.

An actor of the driver. Entries that nobody has touched for `claim_idle` are free for all: their
consumer has died, or has handed them back. So a bus touches all that it holds three times as often.
"""

from __future__ import annotations

import math

import trio
from redis import exceptions as redis_errors

from goevent.drivers import Inbox

from .._link.errors import RedisLinkError
from .._link.link import Link
from .._link.resp import Encodable
from .acknowledger import Desk
from .claim_scripts import CLAIM
from .config import StreamsConfig
from .deliverer import Hands
from .faults import Troubles
from .keys import HEIR, Keys
from .reader import Reader
from .scripts import BEAT, Call, call_many
from .stream import Feed, Window, largest, text

EVERY = 0.5  # seconds between two looks for what others have left
GRACE = 2.0  # seconds without a look once a server is back: longer than others need to connect
LEAST = 0.01
AT_ONCE = 100  # entries taken over at once from each stream
BEATS = 1000  # entries in one sign of life


class Sweeper:
    """The sweeper of one open bus."""

    def __init__(
        self,
        link: Link,
        inbox: Inbox,
        desk: Desk,
        hands: Hands,
        reader: Reader,
        keys: Keys,
        config: StreamsConfig,
        consumer: str,
        window: Window,
        troubles: Troubles,
    ) -> None:
        self._link = link
        self._inbox = inbox
        self._desk = desk
        self._hands = hands
        self._reader = reader
        self._keys = keys
        self._config = config
        self._consumer = consumer
        self._window = window
        self._troubles = troubles
        self._sweep_at = self._rest_until = -math.inf
        self._hurry = trio.Event()
        desk.due = self.hurry

    def hurry(self, seconds: float) -> None:
        """Take note that something will be free in so many seconds."""
        self._sweep_at = min(self._sweep_at, trio.current_time() + seconds + LEAST)
        self._hurry.set()

    async def run(self) -> None:
        """Sweep and beat, until cancelled."""
        beat_every = self._config.claim_idle / 3
        beat_at = trio.current_time() + beat_every
        while True:
            now = trio.current_time()
            try:
                # First the sign of life: or we would take what is ours for left by another.
                if now >= beat_at:
                    beat_at = now + beat_every
                    await self._beat()
                if now >= max(self._sweep_at, self._rest_until):
                    self._sweep_at = now + min(EVERY, self._config.claim_idle / 2)
                    await self._sweep()
            except RedisLinkError:
                await self._link.ready()
                # As long as the server was away nobody could give a sign of life: others first.
                beat_at = trio.current_time()
                self._rest_until = beat_at + GRACE
                continue
            self._hurry = trio.Event()
            due = min(beat_at, max(self._sweep_at, self._rest_until))
            with trio.move_on_at(due):
                await self._hurry.wait()
            if trio.current_time() - due > beat_every:
                # We stood still, and perhaps others on this machine did, too: others first.
                beat_at = trio.current_time()
                self._rest_until = beat_at + min(GRACE, self._config.claim_idle)

    async def _sweep(self) -> None:
        feeds = [feed for feed in self._reader.readable() if not feed.fresh]
        free, config = self._window.room, self._link.config
        if self._reader.stopped or free < 1 or self._hands.has_suspects or not feeds:
            return
        room = max(1, min(AT_ONCE, free // len(feeds)))
        idle = round(self._config.claim_idle * 1000)
        most = config.max_reply_size // 2 // len(feeds)
        args = (self._keys.group, self._consumer, most, largest(config), idle, room)
        calls: list[Call] = [(CLAIM, (feed.key,), args) for feed in feeds]
        for feed, reply in zip(feeds, await call_many(self._link, calls), strict=True):
            if isinstance(reply, Exception):
                await self._refused(feed, reply)
            else:
                self._claimed(feed, *reply)

    def _claimed(self, feed: Feed, taken: list[list[bytes]], gone: list[bytes]) -> None:
        self._troubles.trimmed(feed, gone)
        for entry_id, fields, deliveries, owner in taken:
            count = int(deliveries)
            entry = self._reader.intake(feed, entry_id, list(fields), count)  # type: ignore[arg-type]
            if entry is not None:
                self._hands.take([entry], text(owner) != HEIR)
        if taken:
            self.hurry(0.0)  # there may be more

    async def _beat(self) -> None:
        calls: list[tuple[Feed, Call]] = []
        for feed in list(self._reader.ever.values()):
            ids = list(feed.held)
            for at in range(0, len(ids), BEATS):
                args: list[Encodable] = [self._keys.group, self._consumer, *ids[at : at + BEATS]]
                calls.append((feed, (BEAT, (feed.key,), args)))
        replies = await call_many(self._link, [call for _, call in calls])
        for (feed, _), reply in zip(calls, replies, strict=True):
            if isinstance(reply, Exception):
                await self._refused(feed, reply)

    async def _refused(self, feed: Feed, error: Exception) -> None:
        if self._troubles.is_gone(error):
            await self._troubles.mend(feed)
        elif isinstance(error, redis_errors.RedisError):
            self._troubles.refused(error, f"look after events of {feed.name!r}")
