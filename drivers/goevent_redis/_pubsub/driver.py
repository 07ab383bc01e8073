"""Redis pub/sub as a driver: every bus gets every event, at most once, and reports its losses.

The bus runs `RedisDriver`. While it runs, it owns a link, a receiver for the messages that arrive,
and a sequencer that numbers the messages it publishes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import fields
from typing import Any, Self

import trio
from redis import exceptions as redis_errors

from goevent import BusForked, DriverConnectionError, DriverError, DriverInUse
from goevent.drivers import (
    BatchReplied,
    BrokerDescription,
    BrokerIdentity,
    Capabilities,
    DirectSent,
    DriverSnapshot,
    DurableConfig,
    Finding,
    Inbox,
    Message,
    Receipt,
    TailChannel,
    TailedEvent,
    TakeDirect,
    check_url_options,
    read_driver_url,
    running_tail,
)

from .._description import describe
from .._direct import RedisDirectMessages, driver_not_open
from .._identity import server_identity
from .._link.client import RedisClient
from .._link.config import RedisConfig
from .._link.connectivity import Connected
from .._link.conversation import Conversation
from .._link.errors import NotConnected, RedisLinkError, WrongServer, shown_cause
from .._link.link import Link
from .._link.pool import Pool
from .._link.replies import whole_text
from .._link.resp import pack_prefix
from .._link.server import ServerIdentity, check_identity, usable_event_size
from .._link.service import ConnectionReports, running_link_and_pool
from .._link.subscription import confirm_all, subscribe_all
from .._tls import REDIS_URL_OPTIONS, config_of_url, connection_error
from .channels import Channels
from .findings import find_faults
from .marks import MARKS_CHANNEL_NAME
from .receiver import PubSubReceiver
from .sequencer import PublishSequencer
from .tail import PubSubTail

MAX_IN_FLIGHT_PUBLISHES = 1000
"""The number of publishes that may wait for their replies."""

MAX_DOWNTIME_SECONDS = 5.0
"""How long a publish or a subscription waits for a new connection."""

MASTER_CHECK_SECONDS = 2.0
"""How often the driver checks that its server is still a master."""

FINAL_MARKS_SECONDS = 0.5
"""The time to announce the last sequence numbers when the bus closes."""

_STREAMS_ONLY = (
    *(field.name for field in fields(DurableConfig) if field.name != "prefetch_bytes"),
    *("consumer", "deduplicate", "maxlen", "max_age", "ordered", "partitions", "retention"),
)
REFUSED_OPTIONS = {
    **dict.fromkeys(
        _STREAMS_ONLY,
        "Redis pub/sub keeps no events, and every bus gets each of them; redis+streams:// has it",
    ),
    "format": "events in Redis are goevent's envelope",
    "stream": "each event name has a channel of its own, under the option prefix",
}
"""The options of a URL that need durable events."""

Replied = Callable[[Receipt | Exception], None]


class RedisDriver:
    """Takes events to other buses by Redis pub/sub; compatible with the Go library.

    At most once: events that are dispatched while a bus is not connected do not reach it, and
    events that are lost on the way are reported as `GapDetected`. One connection serves all event
    names.

    The receivers of a publish are counted as Redis counts them, once for each subscription that
    matches. So another bus with a name and a pattern for it counts twice.

    Example:
        ```python
        async with GoEvent(RedisDriver("redis://localhost:6379")) as bus:
            await bus.dispatch(Event("user.created", {"user_id": 7}))
        ```

    Args:
        config: The configuration of the connection, or a URL.
    """

    schemes: tuple[str, ...] = ("redis", "rediss", "unix")

    def __init__(self, config: RedisConfig | str | None = None) -> None:
        if isinstance(config, str):
            config = _config_of(config)
        self._config = config or RedisConfig()
        self._wanted = Channels(self._config.channel_prefix)
        self._held = Channels(self._config.channel_prefix)
        self._marks_channel = self._wanted.channel(MARKS_CHANNEL_NAME)
        self._link: Link | None = None
        self._pool = Pool(self._config)
        self._receiver: PubSubReceiver | None = None
        self._sequencer: PublishSequencer | None = None
        self._direct: RedisDirectMessages | None = None
        self._draining = False
        self._in_use = False
        self._max_size = self._config.max_event_size
        self._is_forked = False
        # Their tasks are the callers', so they go on in a fork.
        self._tails: set[PubSubTail] = set()
        self._inbox: Inbox | None = None
        # The channels and globs that the server has refused after a lost connection.
        self._refused: set[str] = set()

    @classmethod
    def from_url(cls, url: str) -> Self:
        """Return the driver for `redis://`, `rediss://` or `unix://`; see `RedisConfig.url`.

        Raises:
            ValueError: The URL cannot be read, or an option makes no sense.
            UnsupportedError: An option needs durable events.
        """
        return cls(url)

    @property
    def capabilities(self) -> Capabilities:
        """The guarantees and limits of pub/sub."""
        return Capabilities(
            counts_receivers=True,
            replies=True,
            lossless=False,
            in_flight=MAX_IN_FLIGHT_PUBLISHES,
            max_size=self._max_size,
        )

    @property
    def config(self) -> RedisConfig:
        """The configuration of the connection."""
        return self._config

    def describe(self, names: Sequence[str]) -> BrokerDescription:
        """Describe the server and the channels of events; see `goevent.drivers.Describes`."""
        return describe(self._config, {name: self._wanted.channel(name) for name in names})

    @property
    def identity(self) -> BrokerIdentity:
        """The server, as telemetry names it."""
        return server_identity(self._config)

    @property
    def client(self) -> RedisClient:
        """A client for other commands, over the connection of the open bus.

        Blocking commands take further connections, at most `RedisConfig.pool_size`.

        Raises:
            DriverConnectionError: The bus is not open.
        """
        return RedisClient(self._open_link(), self._pool)

    # -- the contract of drivers

    async def run(
        self, inbox: Inbox, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Connect, and stay connected until cancelled.

        Raises:
            DriverConnectionError: The server cannot be reached, or refuses the login.
            DriverError: The server refuses the subscriptions.
            DriverInUse: Another open bus uses this driver.
        """
        if self._is_forked:
            raise BusForked
        if self._in_use:
            raise DriverInUse("a RedisDriver serves one bus at a time: give each its own")
        self._in_use = True
        try:
            await self._run(inbox, task_status)
        finally:
            self._in_use = False

    async def _run(self, inbox: Inbox, task_status: trio.TaskStatus[None]) -> None:
        prefix = self._config.channel_prefix
        self._wanted, self._held = Channels(prefix), Channels(prefix)
        self._draining = False
        self._inbox = inbox
        self._refused.clear()
        self._sequencer = sequencer = PublishSequencer(
            inbox, self._marks_channel, self._command_prefix, self._to_receipt
        )
        self._direct = direct = RedisDirectMessages(prefix, lambda error: inbox.report(error))
        self._receiver = receiver = PubSubReceiver(
            self._wanted,
            self._held,
            Channels(prefix),
            inbox,
            on_question=sequencer.asked,
            on_direct=direct.receive,
            max_queued_bytes=self._config.prefetch_bytes,
            max_event_size=self._config.max_event_size,
        )
        reports = ConnectionReports(
            lambda text: inbox.report(DriverConnectionError(text)),
            "; events that other buses dispatched meanwhile have not arrived",
        )

        def connected(event: Connected) -> None:
            reports.connected(event)
            self._pool.renew()
            if event.count > 1:
                sequencer.connected_again()

        link = Link(
            self._config,
            on_push=receiver.push,
            on_connect=self._prepare,
            on_connected=connected,
            on_disconnected=reports.disconnected,
        )
        try:
            async with running_link_and_pool(link, self._pool):
                self._max_size = await usable_event_size(self._config, link.execute)
                direct.start(link, self._max_size, shares_link=True)
                self._link = link
                # The receiver and the sequencer end at a cancellation. The link goes on, for the
                # last marks.
                try:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(receiver.run)
                        nursery.start_soon(sequencer.run, link)
                        nursery.start_soon(sequencer.answer, link)
                        nursery.start_soon(direct.run)
                        nursery.start_soon(self._watch_master, link)
                        task_status.started()
                finally:
                    deadline = trio.current_time() + FINAL_MARKS_SECONDS
                    with trio.CancelScope(shield=True, deadline=deadline):
                        await sequencer.announce_all(link)
                        await direct.finish(link)
        except redis_errors.RedisError as error:
            raise self._to_driver_error(error) from shown_cause(error)
        finally:
            self._link = self._direct = None

    async def drain(self) -> None:
        """Receive no more, and return when all events that have arrived are handed over."""
        link, receiver = self._link, self._receiver
        if link is None or receiver is None:
            return
        # A connection that is made from now on subscribes to nothing.
        self._draining = True
        channels, globs = self._wanted.all()
        if link.connected:
            try:
                await subscribe_all(link, "UNSUBSCRIBE", [*channels, self._marks_channel])
                await subscribe_all(link, "PUNSUBSCRIBE", globs)
            except redis_errors.RedisError:
                pass  # the connection is lost, so nothing more arrives
        receiver.stop()
        await receiver.reach_end()

    async def subscribe(self, names: Sequence[str]) -> None:
        """Subscribe to channels and globs; returns when the server has confirmed all of them.

        If the connection is lost, it waits for the next one, at most 5 seconds.
        """
        self._open_link()
        channels, globs = self._wanted.split(names)
        # Before the first command: a connection that is made meanwhile subscribes to them, and the
        # confirmation of a glob has to know its patterns.
        self._wanted.add(names)
        try:
            await self._confirm("SUBSCRIBE", channels)
            await self._confirm("PSUBSCRIBE", globs)
        except redis_errors.RedisError as error:
            # Otherwise the server would also refuse these channels on the next connection, and the
            # link would never be up again.
            self._wanted.remove(names)
            raise self._to_driver_error(error) from error

    async def unsubscribe(self, names: Sequence[str]) -> None:
        """Unsubscribe; queued messages of these names are not handed over."""
        self._open_link()
        gone = list(names)
        channels, globs = self._wanted.split(gone)
        self._wanted.remove(gone)
        shared = [glob for glob in globs if self._wanted.patterns(glob)]
        try:
            await self._confirm("UNSUBSCRIBE", channels)
            await self._confirm("PUNSUBSCRIBE", [glob for glob in globs if glob not in shared])
            # A shared glob keeps its subscription, and has fewer patterns from now on. Subscribing
            # again brings a confirmation; the receiver applies the change to the messages behind
            # it.
            await self._confirm("PSUBSCRIBE", shared)
        except NotConnected:
            pass  # the next connection does not subscribe to them
        except redis_errors.RedisError as error:
            raise self._to_driver_error(error) from error
        # After the confirmation, so that the note stands behind the last message of these names.
        if self._receiver is not None:
            self._receiver.forget(gone)

    async def publish(self, message: Message) -> Receipt:
        """Publish an event; returns when the server has replied.

        If the connection is lost, it waits for the next one, up to 5 seconds after the loss.
        """
        link, sequencer = self._open_link(), self._sequencer
        if sequencer is None:
            raise RuntimeError("the driver runs without a sequencer")
        name = message.event_name
        publish = sequencer.publish(message)
        try:
            receivers = await link.execute(
                "PUBLISH",
                self._wanted.channel(name),
                extend=publish.last_argument,
                patience=MAX_DOWNTIME_SECONDS - link.down_for,
            )
        except redis_errors.RedisError as error:
            raise self._to_driver_error(error) from error
        publish.accept()
        return self._receipt(name, receivers)

    def publish_nowait(self, message: Message, replied: Replied) -> None:
        """Publish an event without a task that waits for the reply.

        Raises:
            trio.WouldBlock: There is no connection, or the write buffer is full.
        """
        link, sequencer = self._link, self._sequencer
        if link is None or sequencer is None or (conversation := link.writable()) is None:
            raise trio.WouldBlock
        sequencer.post(conversation, message, replied)

    def publish_many_nowait(self, messages: Sequence[Message], replied: BatchReplied) -> int:
        """Publish events with one write, and return how many are taken now."""
        link, sequencer = self._link, self._sequencer
        if link is None or sequencer is None or (conversation := link.writable()) is None:
            return 0
        return sequencer.post_many(conversation, messages, replied, link.writable_bytes)

    def _command_prefix(self, name: str) -> bytes:
        return pack_prefix("PUBLISH", self._wanted.channel(name))

    def _to_receipt(self, name: str, reply: Any) -> Receipt | Exception:
        if isinstance(reply, Exception):
            return self._to_driver_error(reply)
        return self._receipt(name, reply)

    def _receipt(self, name: str, receivers: int) -> Receipt:
        """Return the receipt for a reply, without the driver's own subscriptions."""
        if receivers:
            receivers = max(0, receivers - self._held.matching_subscriptions(name))
        return Receipt(receivers=receivers)

    def matching_subscriptions(self, name: str) -> int:
        """Return for how many receivers of an event the server counts this bus."""
        return self._held.matching_subscriptions(name)

    def snapshot(self) -> DriverSnapshot:
        """Return whether there is a connection."""
        return DriverSnapshot(connected=self._link is not None and self._link.connected)

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
        """Look for missing rights, and for settings of the server that lose events.

        Nothing is executed for this: the server tells which commands it would refuse.
        """
        try:
            return await find_faults(self._open_link(), names, max_size=self._max_size)
        except redis_errors.RedisError as error:
            raise self._to_driver_error(error) from error

    def tail(
        self, pattern: str
    ) -> AbstractAsyncContextManager[trio.abc.ReceiveChannel[TailedEvent]]:
        """Show the events that are published from now on, by a subscription of its own.

        The server keeps no events: those during an outage are not shown, and those that a slow
        reader has missed are counted.
        """
        self._open_link()
        tail = PubSubTail(self._config, pattern)

        async def show(channel: TailChannel, started: Callable[[], None]) -> None:
            self._tails.add(tail)
            try:
                await tail.show_events(channel, started)
            except redis_errors.RedisError as error:
                raise self._to_driver_error(error) from error
            finally:
                self._tails.discard(tail)

        return running_tail(show)

    # -- the connection

    def fork(self) -> None:
        """Refuse every request: this process is a fork of the one that owns the connection."""
        self._is_forked = True
        if self._link is not None:
            self._link.fork()
        if self._direct is not None:
            self._direct.fork()
        self._pool.fork()
        for tail in self._tails:
            tail.fork()

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

    async def _confirm(self, command: str, channels: list[str]) -> None:
        """Send a command until the server has confirmed it."""
        await confirm_all(self._open_link(), command, channels, patience=MAX_DOWNTIME_SECONDS)

    async def _prepare(self, conversation: Conversation) -> None:
        """Prepare a new connection: start new numbers, and subscribe again."""
        if self._receiver is None or self._sequencer is None or self._direct is None:
            raise RuntimeError("the driver connects without a receiver or a sequencer")
        conversation.check_master()
        # Before anything is sent: messages of this connection must have its origin, and no
        # confirmation of it may come before the note of its beginning.
        self._sequencer.start_connection()
        self._receiver.start_connection()
        if not self._draining:
            channels, globs = self._wanted.all()
            await self._subscribe_again(conversation, "SUBSCRIBE", [self._marks_channel, *channels])
            await self._subscribe_again(conversation, "PSUBSCRIBE", globs)
        await self._direct.subscribe_again(conversation)

    async def _subscribe_again(
        self, conversation: Conversation, command: str, channels: list[str]
    ) -> None:
        """Subscribe on a new connection; a channel that is refused by now costs no other one.

        Raises:
            redis.exceptions.NoPermissionError: This is the first connection of the bus.
        """
        try:
            await subscribe_all(conversation, command, channels)
            self._refused.difference_update(channels)
        except redis_errors.NoPermissionError:
            if self._link is None:
                raise
            for channel in channels:
                await self._subscribe_alone(conversation, command, channel)

    async def _subscribe_alone(
        self, conversation: Conversation, command: str, channel: str
    ) -> None:
        try:
            await subscribe_all(conversation, command, [channel])
            self._refused.discard(channel)
        except redis_errors.NoPermissionError as error:
            # The refusal is reported once, and every new connection tries again.
            if channel in self._refused or self._inbox is None:
                return
            self._refused.add(channel)
            names = self._wanted.patterns(channel) or [self._wanted.name(channel) or channel]
            for name in names:
                event_name = "" if channel == self._marks_channel else name
                self._inbox.report(self._to_driver_error(error), event_name)

    async def _watch_master(self, link: Link) -> None:
        """Give up a connection whose server has become a replica, until cancelled.

        A replica accepts PUBLISH and brings the message to its own subscribers only, so no reply
        shows the change.
        """
        while True:
            await trio.sleep(MASTER_CHECK_SECONDS)
            try:
                # Without arguments, HELLO only describes the server.
                hello = await link.execute("HELLO")
                check_identity(ServerIdentity.from_hello(hello), self._config.where())
            except WrongServer as error:
                link.renew(error)
            except RedisLinkError:
                await link.ready()
            except redis_errors.RedisError:
                return  # this user may not ask

    def _to_driver_error(self, error: Exception) -> DriverError:
        """Return the error of the contract for an error of the link or of the server."""
        driver_error: DriverError
        if isinstance(error, RedisLinkError):
            driver_error = connection_error(error)
        elif isinstance(error, redis_errors.NoPermissionError):
            driver_error = DriverError(
                f"Redis: {error}; the user needs SUBSCRIBE, PSUBSCRIBE, UNSUBSCRIBE, PUNSUBSCRIBE "
                f"and PUBLISH for the channels {self._config.channel_prefix}*, and a right of its "
                "own for each pattern of a listener"
            )
        else:
            driver_error = DriverError(f"Redis: {whole_text(error)}")
        driver_error.__cause__ = error
        return driver_error


def _config_of(url: str) -> RedisConfig:
    parsed = read_driver_url(url)
    check_url_options(parsed, REDIS_URL_OPTIONS, REFUSED_OPTIONS)
    return config_of_url(parsed)
