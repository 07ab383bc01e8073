"""Kafka: durable, at least once, one bus of each group gets each event, in order of its key.

Each event name is a topic, and each group has a consumer group of its own for each topic. A pattern
stands for the topics that match it: those that there are, and those that come, which are looked for
every second.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from goevent import DriverConnectionError, DriverError, compile_pattern
from goevent.drivers import Backlog, Capabilities

from .._adapter.contract import AdapterHost, Decision, Outgoing
from .._config import BrokerConfig
from .client import KafkaClient
from .connection import KafkaConnection
from .consumer import Feed
from .publisher import Publisher
from .settler import Undertaker
from .topics import name_of

DISCOVERY_PAUSE_SECONDS = 1.0  # between two looks for new topics
IN_FLIGHT = 1000  # publishes that wait for their acknowledgement
MAX_SIZE = 1_000_000  # brokers take 1 MiB, headers included, unless told otherwise
PREFIX = "goevent."


class KafkaAdapter:
    """Kafka, by one of two clients.

    Args:
        broker: FastStream's.
        prefix: what stands before event names; the configuration's or the default if None.
    """

    def __init__(
        self, broker: Any, client: KafkaClient, config: BrokerConfig, prefix: str | None
    ) -> None:
        if config.stream is not None:
            raise ValueError("Kafka has no streams; each event name has a topic")
        self._broker = broker
        self._client = client
        self._config = config
        self._prefix = config.prefix or prefix or PREFIX
        self._link = KafkaConnection(client, config.publish_timeout)
        self._publisher = Publisher(client, self._link, self._prefix, config.publish_timeout)
        self._undertaker = Undertaker(client, self._link, config.group or "")
        self._feeds: dict[str, Feed] = {}
        self._patterns: dict[str, Callable[[str], object]] = {}
        self._making = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def capabilities(self) -> Capabilities:
        """What Kafka promises: events are in order of their key, not of their name."""
        return Capabilities(
            fan_out=False, durable=True, ordered=False, in_flight=IN_FLIGHT, max_size=MAX_SIZE
        )

    async def open(self, host: AdapterHost) -> None:
        """Connect."""
        self._making = asyncio.Lock()
        self._feeds.clear()
        self._patterns.clear()
        self._publisher.open()
        await self._link.open(host)
        create = asyncio.get_running_loop().create_task
        self._tasks = [create(self._link.watch()), create(self._look_after())]

    async def close(self) -> None:
        """Commit what is settled, leave the groups, and disconnect."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._undertaker.close()
        feeds, lost = [*self._feeds.values()], not self._link.is_up
        self._feeds.clear()
        self._publisher.close()
        try:
            await asyncio.gather(*(feed.stop(lost=lost, wait=False) for feed in feeds))
        finally:
            await self._link.close()

    # -- to us

    async def subscribe(self, names: Sequence[str]) -> None:
        """Join the consumer groups of names and patterns."""
        await self._link.ready()
        try:
            for name in names:
                if "*" in name:
                    self._patterns[name] = compile_pattern(name)
            wanted = {name: name for name in names if "*" not in name}
            await self._feed(wanted, new=False)
            if self._patterns:
                await self._discover(new=False)
        except DriverError:
            await self.unsubscribe(names)
            raise

    async def _discover(self, *, new: bool) -> None:
        """Read from the topics that match a pattern, and are not read from by it yet."""
        for topic in await self._client.topics():
            name = name_of(self._prefix, topic)
            if name is None:
                continue
            for pattern, test in [*self._patterns.items()]:
                if test(name) and not self._has(name, pattern):
                    await self._feed({name: pattern}, new=new)

    def _has(self, name: str, via: str) -> bool:
        return name in self._feeds and via in self._feeds[name].vias

    async def _feed(self, wanted: dict[str, str], *, new: bool) -> None:
        """Have feeds for names, by what they were subscribed to by.

        Args:
            new: they came up while the group was listening, so that it misses none.
        """
        async with self._making:
            made: list[Feed] = []
            for name, via in wanted.items():
                feed = self._feeds.get(name)
                if feed is None:
                    topic = await self._publisher.topic(name)
                    start = "earliest" if new else self._config.start
                    host = self._link.host
                    feed = Feed(self._broker, self._client, host, self._config, name, topic, start)
                    made.append(feed)
                    self._feeds[name] = feed
                feed.vias[via] = None
            await asyncio.gather(*(each.start() for each in made))

    async def unsubscribe(self, names: Sequence[str]) -> None:
        """Leave the consumer groups; what is committed stays."""
        async with self._making:
            gone: list[Feed] = []
            for name in names:
                self._patterns.pop(name, None)
            for feed in [*self._feeds.values()]:
                for name in names:
                    feed.vias.pop(name, None)
                if not feed.vias:
                    gone.append(self._feeds.pop(feed.name))
            lost = not self._link.is_up
            await asyncio.gather(*(feed.stop(lost=lost) for feed in gone))

    async def stop_receiving(self) -> None:
        """Hand over nothing more; the bus stays in its groups, to commit what listeners have."""
        self._patterns.clear()
        for feed in self._feeds.values():
            feed.halt()

    # -- to the brokers

    async def publish(self, burst: Sequence[Outgoing]) -> None:
        """Publish a burst."""
        await self._publisher.publish(burst)

    async def settle(self, decisions: Sequence[Decision]) -> None:
        """Settle, bring again, and bury."""
        await self._undertaker.settle(decisions)

    # -- what has to be looked after

    async def _look_after(self) -> None:
        """Look for new topics, and at what there is to do."""
        while True:
            await asyncio.sleep(DISCOVERY_PAUSE_SECONDS)
            try:
                if self._patterns:
                    await self._discover(new=True)
                for feed in [*self._feeds.values()]:
                    await feed.look()
            except DriverConnectionError:
                continue  # the link tells of it
            except DriverError as error:
                self._link.host.report(error)

    def backlogs(self) -> tuple[Backlog, ...]:
        """Return what there is to do with the partitions that this bus has, as last seen."""
        return tuple(feed.backlog() for feed in [*self._feeds.values()])
