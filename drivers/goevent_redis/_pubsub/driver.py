"""Redis pub/sub as a driver: every bus gets every event, at most once, and says what it missed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self

import trio
from redis import exceptions as redis_errors

from goevent import DriverConnectionError, DriverError
from goevent.drivers import Capabilities, DriverSnapshot, Inbox, Message, Receipt

from .._link.client import RedisClient
from .._link.config import RedisConfig
from .._link.connectivity import Connected, Disconnected
from .._link.conversation import Conversation
from .._link.errors import LinkClosed, NotConnected, RedisLinkError
from .._link.link import Link
from .._link.pool import Pool
from .._link.resp import pack_prefix
from .channels import Channels
from .receiver import MARKS, Inbound
from .sequencer import Tally

AT_ONCE = 1000  # channels in one SUBSCRIBE
IN_FLIGHT = 1000  # publishes that wait for their replies
PATIENCE = 5.0  # seconds that a lost connection is waited for
Replied = Callable[[Receipt | Exception], None]

FAREWELL = 0.5  # seconds to tell the last numbers, as the bus ends


class RedisDriver:
    """Takes events to other buses by Redis pub/sub; compatible with the Go library.

    At most once: what is dispatched while a bus is not connected does not reach it, and what is
    lost on the way is reported as `GapDetected`. One connection serves all event names.

    The receivers of a publish are counted as Redis counts them: once for each subscription that
    matches, so another bus with a name and a pattern for it counts twice.

    Args:
        config: where the server is; a URL will do.
    """

    schemes: tuple[str, ...] = ("redis", "rediss", "unix")

    def __init__(self, config: RedisConfig | str | None = None) -> None:
        if isinstance(config, str):
            config = RedisConfig(url=config)
        self._config = config or RedisConfig()
        self._wanted = Channels(self._config.channel_prefix)
        self._held = Channels(self._config.channel_prefix)
        self._marks_channel = self._wanted.channel(MARKS)
        self._link: Link | None = None
        self._pool = Pool(self._config)
        self._inbound: Inbound | None = None
        self._tally: Tally | None = None
        self._inbox: Inbox | None = None
        self._draining = False
        self._told: type[Exception] | None = None  # why dials fail, as far as reported

    @classmethod
    def from_url(cls, url: str) -> Self:
        """Return the driver for `redis://`, `rediss://` or `unix://`; see `RedisConfig.url`."""
        return cls(RedisConfig(url=url if "://" in url else f"{url}://"))

    @property
    def capabilities(self) -> Capabilities:
        """What pub/sub promises."""
        return Capabilities(
            counts_receivers=True,
            lossless=False,
            in_flight=IN_FLIGHT,
            max_size=self._config.max_event_size,
        )

    @property
    def config(self) -> RedisConfig:
        """Where the server is, and the limits."""
        return self._config

    @property
    def client(self) -> RedisClient:
        """A client for other commands, over the connection of the open bus.

        Blocking commands take further connections, at most `RedisConfig.pool_size`.

        Raises:
            DriverConnectionError: the bus is not open.
        """
        return RedisClient(self._running(), self._pool)

    # -- the contract

    async def run(
        self, inbox: Inbox, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Connect, and stay connected until cancelled.

        Raises:
            DriverConnectionError: the server cannot be reached, or does not let us in.
            DriverError: it lets us in, but not subscribe.
        """
        failure: DriverError | None = None
        prefix = self._config.channel_prefix
        self._wanted, self._held = Channels(prefix), Channels(prefix)
        self._inbox = inbox
        self._tally = Tally(inbox, self._marks_channel, self._head, self._answer)
        self._told, self._draining = None, False
        limit = self._config.max_event_size
        self._inbound = Inbound(
            self._wanted, self._held, Channels(prefix), inbox, max_event_size=limit
        )
        link = Link(
            self._config,
            on_push=self._inbound.push,
            on_connect=self._prepare,
            on_connected=self._connected,
            on_disconnected=self._disconnected,
        )
        link_scope = trio.CancelScope()

        async def stay_connected(task_status: trio.TaskStatus[None]) -> None:
            with link_scope:
                await link.run(task_status=task_status)

        try:
            async with trio.open_nursery() as nursery:
                try:
                    await nursery.start(stay_connected)
                    await nursery.start(self._pool.run)
                except (RedisLinkError, redis_errors.RedisError) as error:
                    failure = self._mapped(error)
                    nursery.cancel_scope.cancel()
                else:
                    link_scope.shield = True  # the last numbers are to be told when all else ends
                    try:
                        await self._serve(link, task_status)
                    finally:
                        link_scope.shield = False
                        nursery.cancel_scope.cancel()
        finally:
            self._link = None
        if failure is not None:
            raise failure

    async def _serve(self, link: Link, task_status: trio.TaskStatus[None]) -> None:
        if self._inbound is None or self._tally is None:
            raise RuntimeError("serving is a part of run")
        self._link = link
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._inbound.run)
                nursery.start_soon(self._tally.run, link)
                task_status.started()
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + FAREWELL):
                await self._tally.tell(link)

    async def drain(self) -> None:
        """Receive no more, and return when all that has arrived is handed over."""
        link, inbound = self._link, self._inbound
        if link is None or inbound is None:
            return
        self._draining = True
        channels, globs = self._wanted.all()
        if link.connected:
            try:
                await self._ask(link, "UNSUBSCRIBE", [*channels, self._marks_channel])
                await self._ask(link, "PUNSUBSCRIBE", globs)
            except redis_errors.RedisError:
                pass  # it is down: nothing arrives either
        inbound.stop()
        await inbound.reach_end()

    async def subscribe(self, names: Sequence[str]) -> None:
        """Subscribe to channels and globs; returns when the server has confirmed all of them.

        While the connection is down it waits for it, for at most 5 seconds.
        """
        self._running()
        channels, globs = self._wanted.split(names)
        self._wanted.add(names)
        try:
            await self._insist("SUBSCRIBE", channels)
            await self._insist("PSUBSCRIBE", globs)
        except redis_errors.RedisError as error:
            # Or a new connection would be refused for it.
            self._wanted.remove(names)
            raise self._mapped(error) from error

    async def unsubscribe(self, names: Sequence[str]) -> None:
        """Unsubscribe; what has arrived and waits for listeners is not handed over."""
        self._running()
        gone = list(names)
        channels, globs = self._wanted.split(gone)
        self._wanted.remove(gone)
        shared = [glob for glob in globs if self._wanted.patterns(glob)]
        try:
            await self._insist("UNSUBSCRIBE", channels)
            await self._insist("PUNSUBSCRIBE", [glob for glob in globs if glob not in shared])
            # What such a glob stands for changes with a confirmation, too: its place in the stream
            # is between two messages, and not between two copies of one.
            await self._insist("PSUBSCRIBE", shared)
        except NotConnected:
            pass  # the next connection begins without them
        except redis_errors.RedisError as error:
            raise self._mapped(error) from error
        if self._inbound is not None:
            self._inbound.forget(gone)

    async def publish(self, message: Message) -> Receipt:
        """Publish an event; returns when the server has replied.

        While the connection is down it waits for it, until it has been down for 5 seconds.
        """
        link, tally = self._running(), self._tally
        if tally is None:
            raise RuntimeError("a driver that runs has a tally")
        name = message.event_name
        publish = tally.publish(message)
        try:
            receivers = await link.execute(
                "PUBLISH",
                self._wanted.channel(name),
                extend=publish.last,
                patience=PATIENCE - link.down_for,
            )
        except redis_errors.RedisError as error:
            raise self._mapped(error) from error
        publish.accepted()
        return self._receipt(name, receivers)

    def publish_nowait(self, message: Message, replied: Replied) -> None:
        """Publish an event without a task that waits for the reply.

        Raises:
            trio.WouldBlock: there is no connection, or much waits to be sent.
        """
        link, tally = self._link, self._tally
        if link is None or tally is None or (conversation := link.writable()) is None:
            raise trio.WouldBlock
        tally.post(conversation, message, replied)

    def _head(self, name: str) -> bytes:
        return pack_prefix("PUBLISH", self._wanted.channel(name))

    def _answer(self, name: str, reply: Any) -> Receipt | Exception:
        return self._mapped(reply) if isinstance(reply, Exception) else self._receipt(name, reply)

    def _receipt(self, name: str, receivers: int) -> Receipt:
        """Return what is told of a reply: our own subscriptions do not count."""
        if receivers:
            receivers = max(0, receivers - self._held.copies(name))
        return Receipt(receivers=receivers)

    def snapshot(self) -> DriverSnapshot:
        """Tell whether there is a connection."""
        return DriverSnapshot(connected=self._link is not None and self._link.connected)

    # -- the connection

    def _running(self) -> Link:
        if self._link is None:
            raise DriverConnectionError("the Redis driver does not run: open its bus first")
        return self._link

    async def _ask(self, link: Link | Conversation, command: str, channels: list[str]) -> None:
        for start in range(0, len(channels), AT_ONCE):
            await link.subscribe(command, *channels[start : start + AT_ONCE])

    async def _insist(self, command: str, channels: list[str]) -> None:
        """Have the server confirm it, on the next connection if this one breaks."""
        while channels:
            link = self._running()
            try:
                with trio.move_on_after(PATIENCE) as waiting:
                    await link.ready()
                if waiting.cancelled_caught:
                    raise NotConnected(f"there is no connection to {self._config.where()}")
                await self._ask(link, command, channels)
            except (LinkClosed, NotConnected):
                raise
            except RedisLinkError:
                continue  # its loss is reported
            return

    async def _prepare(self, conversation: Conversation) -> None:
        """Prepare a new connection: other buses must not take its numbers for a gap."""
        if self._inbound is None or self._tally is None:
            raise RuntimeError("connecting is a part of run")
        self._tally.renew()
        self._inbound.begin()
        if self._draining:
            return
        channels, globs = self._wanted.all()
        await self._ask(conversation, "SUBSCRIBE", [self._marks_channel, *channels])
        await self._ask(conversation, "PSUBSCRIBE", globs)

    def _connected(self, event: Connected) -> None:
        self._told = None
        if event.count > 1:
            self._report(
                f"connected to Redis again after {event.downtime:.1f} s; what other buses "
                "dispatched meanwhile has not arrived"
            )

    def _disconnected(self, event: Disconnected) -> None:
        if event.dials == 0:
            self._report(f"the connection to Redis is lost: {event.reason}")
        elif self._told is not type(event.reason):
            self._told = type(event.reason)
            self._report(f"there is no connection to Redis: {event.reason}")

    def _report(self, text: str) -> None:
        if self._inbox is not None:
            self._inbox.report(DriverConnectionError(text))

    def _mapped(self, error: Exception) -> DriverError:
        """Return the error of the contract for one of the link or of the server."""
        mapped: DriverError
        if isinstance(error, RedisLinkError):
            mapped = DriverConnectionError(f"Redis: {error}")
        elif isinstance(error, redis_errors.NoPermissionError):
            mapped = DriverError(
                f"Redis: {error}; the user needs SUBSCRIBE, PSUBSCRIBE, UNSUBSCRIBE, PUNSUBSCRIBE "
                f"and PUBLISH for the channels {self._config.channel_prefix}*, and each pattern "
                "that is listened to as a right of its own"
            )
        else:
            mapped = DriverError(f"Redis: {error}")
        mapped.__cause__ = error
        return mapped
