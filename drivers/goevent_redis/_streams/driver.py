"""Redis Streams as a driver: durable, at least once, one bus of each group gets each event."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, Self

import trio
from redis import exceptions as redis_errors

from goevent import DriverConnectionError, DriverError, UnsupportedError
from goevent.drivers import Capabilities, DriverSnapshot, Inbox, Message, Receipt

from .._link.client import RedisClient
from .._link.config import RedisConfig
from .._link.errors import RedisLinkError
from .._link.link import Link
from .._link.pool import Pool
from .._link.service import ConnectionReports, running_link_and_pool
from .config import StreamsConfig, read_url
from .consumer import Service
from .dead_letters import DeadLetters
from .faults import Troubles, refusal
from .keys import Keys
from .monitor import warn_of_memory_only
from .partitions.publisher import OrderedPublisher
from .publisher import Publisher, Replied
from .replay import replay

IN_FLIGHT = 1000  # publishes that wait for their replies
LEAST_VERSION = (7, 0)
FAREWELL = 1.0  # seconds to hand back what nobody has begun with, as the bus ends


class RedisStreamsDriver:
    """Takes events through Redis Streams: what the server has accepted is not lost.

    At least once: an event comes again if its listener fails, if its bus dies, or if nobody can
    know whether it was finished; `current_delivery().redelivered` tells. Within a group there is
    no order among events, unless their names have partitions.

    Args:
        config: where the server is; a URL will do, also one with the options of the streams.
        streams: how to take part; see `StreamsConfig`.
    """

    schemes: tuple[str, ...] = ("redis+streams", "rediss+streams", "unix+streams")

    def __init__(
        self,
        config: RedisConfig | str | None = None,
        streams: StreamsConfig | None = None,
    ) -> None:
        if isinstance(config, str):
            config, said = read_url(config)
            if streams is not None and said != StreamsConfig():
                raise ValueError("the URL has options of the streams, and they are given, too")
            streams = streams or said
        self._config = config or RedisConfig()
        self._streams = streams or StreamsConfig()
        partitions = self._streams.partitions
        self._keys = Keys(self._config.channel_prefix, self._streams.group or "", partitions)
        self._pool = Pool(self._config)
        self._link: Link | None = None
        self._service: Service | None = None
        self._publisher: Publisher | None = None

    @classmethod
    def from_url(cls, url: str) -> Self:
        """Return the driver for `redis+streams://`, `rediss+streams://` or `unix+streams://`.

        Its options are the fields of `StreamsConfig`, and those of `RedisConfig.url`.
        """
        return cls(url if "://" in url else f"{url}://")

    @property
    def capabilities(self) -> Capabilities:
        """What Redis Streams promise."""
        return Capabilities(
            fan_out=False,
            durable=True,
            ordered=self._streams.partitions > 1,
            replay=True,
            in_flight=IN_FLIGHT,
            max_size=self._config.max_event_size,
        )

    @property
    def config(self) -> RedisConfig:
        """Where the server is, and the limits."""
        return self._config

    @property
    def streams(self) -> StreamsConfig:
        """How this bus takes part."""
        return self._streams

    @property
    def client(self) -> RedisClient:
        """A client for other commands, over the connection of the open bus.

        Raises:
            DriverConnectionError: the bus is not open.
        """
        return RedisClient(self._running(), self._pool)

    @property
    def dead_letters(self) -> DeadLetters:
        """The events that the group has given up.

        Raises:
            UnsupportedError: this bus belongs to no group.
        """
        self._grouped("dead letters belong to a group")
        return DeadLetters(self._running, self._keys)

    # -- the contract

    async def run(
        self, inbox: Inbox, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Connect, and stay connected until cancelled.

        Raises:
            DriverConnectionError: the server cannot be reached, or does not let us in.
            DriverError: it is too old.
        """
        reports = ConnectionReports(lambda text: inbox.report(DriverConnectionError(text)))
        link = Link(
            self._config,
            on_connected=reports.connected,
            on_disconnected=reports.disconnected,
        )
        try:
            async with running_link_and_pool(link, self._pool):
                await self._check_server(link)
                async with self._serving(link, inbox):
                    task_status.started()
                    await trio.sleep_forever()
        except (RedisLinkError, redis_errors.RedisError) as error:
            raise refusal(error, "let us begin") from error
        finally:
            self._link = self._service = self._publisher = None

    @asynccontextmanager
    async def _serving(self, link: Link, inbox: Inbox) -> AsyncGenerator[None]:
        streams = self._streams
        troubles = Troubles(link, inbox, self._keys, streams)
        name = streams.consumer or f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        service = Service(link, self._pool, inbox, self._keys, streams, _spelled(name), troubles)
        kind = OrderedPublisher if streams.partitions > 1 else Publisher
        self._publisher = kind(link, self._keys, streams, troubles)
        self._link, self._service = link, service
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._publisher.run)
                if streams.group is not None:
                    service.start(nursery)
                yield
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + FAREWELL):
                await service.leave()

    async def drain(self) -> None:
        """Read no more; what no listener has got yet is handed back."""
        if self._service is not None:
            await self._service.stop()

    async def subscribe(self, names: Sequence[str]) -> None:
        """Read the streams of names and patterns; returns when the groups exist.

        While the connection is down it waits for it.
        """
        self._running()
        self._grouped(f"listening to {names[0]!r} needs one")
        if self._service is not None:
            await self._service.names.add(names)

    async def unsubscribe(self, names: Sequence[str]) -> None:
        """Read them no more; what no listener has got yet is handed back."""
        self._running()
        if self._service is not None:
            await self._service.drop(names)

    async def publish(self, message: Message) -> Receipt:
        """Put an event into its stream; returns when the server has it.

        While the server cannot be reached it tries again, for `StreamsConfig.publish_timeout`.
        """
        self._running()
        if self._publisher is None:
            raise RuntimeError("a driver that runs has a publisher")
        return await self._publisher.publish(message)

    def publish_nowait(self, message: Message, replied: Replied) -> None:
        """Put an event into its stream without a task that waits for the reply.

        Raises:
            trio.WouldBlock: there is no connection, or much waits to be sent.
        """
        if self._publisher is None:
            raise trio.WouldBlock
        self._publisher.publish_nowait(message, replied)

    async def replay(
        self, name: str, start: str | datetime, end: str | datetime | None, group: str | None
    ) -> int:
        """Have a group get events again, as `bus.replay`."""
        if group is None:
            group = self._grouped("replay needs the group that is to get the events")
        if "*" in name:
            raise UnsupportedError("a pattern cannot be replayed: name the events")
        StreamsConfig(group=group)  # refuses what is no name of a group
        return await replay(self._running(), self._keys, name, start, end, group)

    def snapshot(self) -> DriverSnapshot:
        """Tell whether there is a connection, and what the group has to do; a second old."""
        return DriverSnapshot(
            connected=self._link is not None and self._link.connected,
            backlogs=() if self._service is None else self._service.backlogs(),
        )

    # -- the connection

    def _running(self) -> Link:
        if self._link is None:
            raise DriverConnectionError("the Redis driver does not run: open its bus first")
        return self._link

    def _grouped(self, why: str) -> str:
        if self._streams.group is None:
            raise UnsupportedError(
                f"this bus belongs to no group of consumers, and {why}: "
                "redis+streams://...?group=the-service, or StreamsConfig(group=...)"
            )
        return self._streams.group

    async def _check_server(self, link: Link) -> None:
        try:
            said: Any = await link.execute("INFO", "server")
        except redis_errors.NoPermissionError:
            said = b""
        for line in bytes(said).decode(errors="replace").splitlines():
            name, _, version = line.partition(":")
            if name == "redis_version":
                numbers = [int(part) for part in version.split(".")[:2] if part.isdigit()]
                if tuple(numbers) < LEAST_VERSION:
                    raise DriverError(
                        f"durable events need Redis 7.0 or Valkey, and {self._config.where()} "
                        f"has {version}"
                    )
        await warn_of_memory_only(link)


def _spelled(name: str) -> str:
    return "".join(c if c.isascii() and c.isprintable() and c != " " else "_" for c in name)
