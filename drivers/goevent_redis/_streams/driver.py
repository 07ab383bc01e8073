"""The driver for Redis Streams: durable, at least once, one bus of each group gets each event.

It owns the link, the pool, the publisher and the consumer of one open bus, and starts and ends
them. The bus calls it through the `Driver` contract of `goevent.drivers`.
"""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime
from typing import Any, Self

import trio
from redis import exceptions as redis_errors

from goevent import BusForked, DriverConnectionError, DriverError, DriverInUse, UnsupportedError
from goevent.drivers import (
    Backlog,
    BatchReplied,
    BrokerDescription,
    BrokerIdentity,
    Capabilities,
    DeadLetters,
    DirectSent,
    DriverSnapshot,
    Finding,
    Inbox,
    Message,
    Receipt,
    TailedEvent,
    TakeDirect,
    group_required,
    running_tail,
)

from .._description import describe
from .._direct import RedisDirectMessages, driver_not_open
from .._identity import server_identity
from .._link.client import RedisClient
from .._link.config import RedisConfig
from .._link.connectivity import Connected
from .._link.conversation import Conversation
from .._link.errors import RedisLinkError, shown_cause
from .._link.link import Link
from .._link.pool import Pool
from .._link.server import usable_event_size
from .._link.service import ConnectionReports, running_link_and_pool
from .config import StreamsConfig, read_url
from .consumer import StreamConsumer
from .context import ConsumerContext
from .dead_letters import StreamDeadLetters
from .faults import StreamFaults, refusal
from .findings import find_faults
from .held_entries import HeldEntries
from .keys import StreamKeys
from .lag import read_lag
from .monitor import warn_of_memory_only
from .partitions.publisher import PartitionPublisher
from .publisher import Replied, StreamPublisher
from .replay import replay
from .tail import StreamTail

MAX_IN_FLIGHT_PUBLISHES = 1000
MIN_SERVER_VERSION = (7, 0)
LEAVE_SECONDS = 1.0
"""How long a bus that ends may take to release the entries that it still holds."""


class RedisStreamsDriver:
    """Carries events over Redis Streams: an event that the server has accepted is not lost.

    Delivery is at least once. An event comes again if its listener fails, if its bus dies, or if
    it is unknown whether it was finished; `current_delivery().redelivered` tells. Events of a
    group have no order, unless their names have partitions.

    Args:
        config: The server, or its URL, which may also have the options of `StreamsConfig`.
        streams: The settings of the bus for durable events.

    Example:
        >>> driver = RedisStreamsDriver("redis+streams://localhost?group=billing")
        >>> driver.streams.group
        'billing'
        >>> bus = GoEvent(Config(driver=driver))
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
                raise ValueError("the options of streams are in the URL and in `streams`, too")
            streams = streams or said
        self._config = config or RedisConfig()
        self._streams = streams or StreamsConfig()
        partitions = self._streams.partitions
        self._keys = StreamKeys(self._config.channel_prefix, self._streams.group or "", partitions)
        self._pool = Pool(self._config)
        self._link: Link | None = None
        self._consumer: StreamConsumer | None = None
        self._publisher: StreamPublisher | None = None
        self._direct: RedisDirectMessages | None = None
        self._in_use = False
        self._max_size = self._config.max_event_size
        self._is_forked = False

    @classmethod
    def from_url(cls, url: str) -> Self:
        """Return the driver for `redis+streams://`, `rediss+streams://` or `unix+streams://`.

        The options of the URL are the fields of `StreamsConfig`, and those of `RedisConfig.url`.

        Raises:
            ValueError: An option makes no sense.
        """
        return cls(url if "://" in url else f"{url}://")

    @property
    def capabilities(self) -> Capabilities:
        """The capabilities of Redis Streams."""
        return Capabilities(
            fan_out=False,
            durable=True,
            ordered=self._streams.partitions > 1,
            replay=True,
            replies=True,
            in_flight=MAX_IN_FLIGHT_PUBLISHES,
            max_size=self._max_size,
        )

    @property
    def config(self) -> RedisConfig:
        """The server and its limits."""
        return self._config

    @property
    def identity(self) -> BrokerIdentity:
        """The server, as telemetry names it."""
        return server_identity(self._config, self._streams.group)

    @property
    def streams(self) -> StreamsConfig:
        """The settings of this bus as a consumer."""
        return self._streams

    def describe(self, names: Sequence[str]) -> BrokerDescription:
        """Describe the server and the streams of events; see `goevent.drivers.Describes`."""
        streams = {name: self._keys.stream(name) for name in names}
        return describe(self._config, streams, self._streams.group)

    @property
    def client(self) -> RedisClient:
        """A client for other commands, over the connection of the open bus.

        Raises:
            DriverConnectionError: The bus is not open.
        """
        return RedisClient(self._open_link(), self._pool)

    @property
    def dead_letters(self) -> DeadLetters:
        """The dead letters of the group: list, inspect, replay and discard them.

        Raises:
            UnsupportedError: This bus belongs to no group.
        """
        self._required_group("dead letters belong to a group")
        return DeadLetters(StreamDeadLetters(self._open_link, self._keys))

    # -- the contract

    async def run(
        self, inbox: Inbox, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Connect, and stay connected until cancelled.

        Raises:
            DriverConnectionError: The server cannot be reached, or refuses the login.
            DriverError: The server is too old.
            DriverInUse: Another open bus uses this driver.
        """
        if self._is_forked:
            raise BusForked
        if self._in_use:
            raise DriverInUse("a RedisStreamsDriver serves one bus at a time: give each its own")
        self._in_use = True
        try:
            await self._run(inbox, task_status)
        finally:
            self._in_use = False

    async def _run(self, inbox: Inbox, task_status: trio.TaskStatus[None]) -> None:
        reports = ConnectionReports(lambda text: inbox.report(DriverConnectionError(text)))

        def connected(event: Connected) -> None:
            reports.connected(event)
            self._pool.renew()

        self._direct = direct = RedisDirectMessages(
            self._config.channel_prefix, lambda error: inbox.report(error)
        )

        link = Link(
            self._config,
            on_connect=_check_master,
            on_connected=connected,
            on_disconnected=reports.disconnected,
        )
        try:
            async with running_link_and_pool(link, self._pool):
                await self._check_server(link)
                self._max_size = await usable_event_size(self._config, link.execute)
                direct.start(link, self._max_size, shares_link=False)
                async with self._serving(link, inbox, direct):
                    task_status.started()
                    await trio.sleep_forever()
        except (RedisLinkError, redis_errors.RedisError) as error:
            raise refusal(error, "start this bus") from shown_cause(error)
        finally:
            self._link = self._consumer = self._publisher = self._direct = None

    @asynccontextmanager
    async def _serving(
        self, link: Link, inbox: Inbox, direct: RedisDirectMessages
    ) -> AsyncGenerator[None]:
        streams = self._streams
        faults = StreamFaults(link, inbox, self._keys, streams)
        name = streams.consumer or f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        consumer = StreamConsumer(
            ConsumerContext(
                link=link,
                pool=self._pool,
                inbox=inbox,
                keys=self._keys,
                config=streams,
                consumer=_printable(name),
                held=HeldEntries(streams.prefetch, streams.prefetch_bytes),
                faults=faults,
            )
        )
        # Before the consumer starts: its listeners may publish at once.
        publisher_class = PartitionPublisher if streams.partitions > 1 else StreamPublisher
        self._publisher = publisher_class(link, self._keys, streams, faults)
        self._link, self._consumer = link, consumer
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._publisher.run)
                nursery.start_soon(direct.run)
                if streams.group is not None:
                    consumer.start(nursery)
                yield
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + LEAVE_SECONDS):
                await consumer.leave()
                await direct.finish(link)

    async def drain(self) -> None:
        """Read no more, and release the entries that no listener has got."""
        if self._consumer is not None:
            await self._consumer.stop()

    async def subscribe(self, names: Sequence[str]) -> None:
        """Read the streams of names and patterns; returns when the groups exist.

        While there is no connection, it waits.
        """
        self._open_link()
        self._required_group(f"listening to {names[0]!r} needs one")
        if self._consumer is not None:
            await self._consumer.subscribe(names)

    async def unsubscribe(self, names: Sequence[str]) -> None:
        """Read them no more, and release the entries that no listener has got."""
        self._open_link()
        if self._consumer is not None:
            await self._consumer.unsubscribe(names)

    async def publish(self, message: Message) -> Receipt:
        """Put an event into its stream; returns when the server has it.

        While the server cannot be reached, it tries again, for `StreamsConfig.publish_timeout`.
        """
        self._open_link()
        if self._publisher is None:
            raise RuntimeError("the driver runs without a publisher")
        return await self._publisher.publish(message)

    def publish_nowait(self, message: Message, replied: Replied) -> None:
        """Put an event into its stream without a task that waits for the reply.

        Raises:
            trio.WouldBlock: There is no connection, or too much waits to be sent.
        """
        if self._publisher is None:
            raise trio.WouldBlock
        self._publisher.publish_nowait(message, replied)

    def publish_many_nowait(self, messages: Sequence[Message], replied: BatchReplied) -> int:
        """Put events into their streams with one write, and return how many are taken now.

        Each event is sent again by itself if that may help, as after `publish_nowait`.
        """
        if self._publisher is None:
            return 0
        return self._publisher.publish_many_nowait(messages, replied)

    async def replay(
        self, name: str, start: str | datetime, end: str | datetime | None, group: str | None
    ) -> int:
        """Deliver events to a group again, as `bus.replay`."""
        if group is None:
            group = self._required_group("replay needs the group that gets the events")
        if "*" in name:
            raise UnsupportedError("a pattern cannot be replayed: name the events")
        # Refuses a text that cannot be the name of a group.
        StreamsConfig(group=group)
        return await replay(self._open_link(), self._keys, name, start, end, group)

    def snapshot(self) -> DriverSnapshot:
        """Return the state of the connection and the backlogs, which are up to a second old."""
        direct = self._direct
        connected = self._link is not None and self._link.connected
        return DriverSnapshot(
            connected=connected and (direct is None or direct.connected),
            backlogs=() if self._consumer is None else self._consumer.backlogs(),
            group=self._streams.group or "",
        )

    # -- direct messages

    async def open_addresses(self, addresses: Sequence[str], take: TakeDirect) -> None:
        """Receive the direct messages to more addresses; see `goevent.drivers.SendsDirectly`.

        If the connection is lost, it waits for the next one, at most 5 seconds.
        """
        await self._open_direct().open(addresses, take)

    async def close_addresses(self, addresses: Sequence[str]) -> None:
        """Receive their direct messages no more."""
        await self._open_direct().close(addresses)

    def send_directly(self, address: str, data: bytes, sent: DirectSent) -> None:
        """Send a direct message; `sent` gets the number of buses that have opened the address.

        Without a connection, it waits for the next one, at most 5 seconds.
        """
        direct = self._direct
        if direct is None:
            sent(driver_not_open())
        else:
            direct.send(address, data, sent)

    # -- the questions of operators

    async def check(self, names: Sequence[str]) -> Sequence[Finding]:
        """Look for missing rights, and for settings of the server that endanger events.

        Nothing is executed for this: the server tells which commands it would refuse.
        """
        link = self._open_link()
        return await find_faults(link, self._keys, self._streams, names, max_size=self._max_size)

    async def lag(self, group: str, names: Sequence[str] = ()) -> Sequence[Backlog]:
        """Return the backlog of a group for each name that it reads, replayed events included."""
        # Refuses a text that cannot be the name of a group.
        StreamsConfig(group=group)
        return await read_lag(self._open_link(), self._config.channel_prefix, group)

    def tail(
        self, pattern: str
    ) -> AbstractAsyncContextManager[trio.abc.ReceiveChannel[TailedEvent]]:
        """Show the events that are published from now on, without a group.

        The server keeps the events for a slow reader, as long as their streams are not trimmed. A
        new stream is found within half a second. Replayed events are not shown: they are not
        published.
        """
        prefix = self._config.channel_prefix
        tail = StreamTail(self._open_link(), self._pool, prefix, pattern)
        return running_tail(tail.show_events)

    # -- the connection

    def fork(self) -> None:
        """Refuse every request: this process is a fork of the one that owns the connection."""
        self._is_forked = True
        if self._link is not None:
            self._link.fork()
        if self._direct is not None:
            self._direct.fork()
        self._pool.fork()

    def _open_link(self) -> Link:
        if self._is_forked:
            raise BusForked
        if self._link is None:
            raise driver_not_open()
        return self._link

    def _open_direct(self) -> RedisDirectMessages:
        self._open_link()
        if self._direct is None:
            raise RuntimeError("the driver runs without direct messages")
        return self._direct

    def _required_group(self, purpose: str) -> str:
        if self._streams.group is None:
            raise group_required(
                purpose, "redis+streams://...?group=the-service, or StreamsConfig(group=...)"
            )
        return self._streams.group

    async def _check_server(self, link: Link) -> None:
        try:
            said: Any = await link.execute("INFO", "server")
        except redis_errors.NoPermissionError:
            # The version stays unknown.
            said = b""
        for line in bytes(said).decode(errors="replace").splitlines():
            name, _, version = line.partition(":")
            if name == "redis_version":
                numbers = [int(part) for part in version.split(".")[:2] if part.isdigit()]
                if tuple(numbers) < MIN_SERVER_VERSION:
                    raise DriverError(
                        f"durable events need Redis 7.0 or Valkey, and {self._config.where()} "
                        f"has {version}"
                    )
        await warn_of_memory_only(link)


async def _check_master(conversation: Conversation) -> None:
    conversation.check_master()


def _printable(name: str) -> str:
    """Return the name of a host as part of a consumer's name: ASCII without spaces."""
    return "".join(c if c.isascii() and c.isprintable() and c != " " else "_" for c in name)
