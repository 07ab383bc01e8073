"""JetStream: durable, at least once, one bus of each group gets each event.

One stream holds all event names; a group has a durable pull consumer for each name that it listens
to, which all its buses share. A pattern stands for the names that match it: those that the stream
has, and those that a plain subscription to the wildcard sees for the first time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from faststream.nats import JStream, NatsBroker
from nats import errors
from nats.js import api, errors as js_errors

from goevent import DriverError, compile_pattern
from goevent.drivers import Backlog, Capabilities

from .._adapter.contract import Adapter, AdapterHost, Decision, Outgoing
from .._config import BrokerConfig
from .connection import NatsLink, make_broker as make_broker, nats_broker, to_driver_error
from .dead_letters import JetStreamDeadLetters
from .publisher import Publisher
from .pull_consumer import Feed
from .released import Returns
from .settler import settle
from .subjects import wildcard

IN_FLIGHT = 1000  # publishes that wait for their acknowledgement
MAX_SIZE = 1_000_000  # the server's default is 1 MiB, headers included
STREAM = "goevent-js"
LOOK = 1.0  # seconds between two looks at what the group has to do


def make_adapter(broker: object, config: BrokerConfig, address: object) -> Adapter:
    """Return JetStream for a broker."""
    if address is not None and not isinstance(address, JStream):
        raise TypeError(f"the address of events in JetStream is a JStream, not {address!r}")
    return JetStreamAdapter(nats_broker(broker), config, address)


class JetStreamAdapter:
    """JetStream, over one connection."""

    def __init__(self, broker: NatsBroker, config: BrokerConfig, address: JStream | None) -> None:
        self._broker = broker
        self._config = config
        self._address = address
        self._stream = config.stream or STREAM
        self._prefix = f"{self._stream}." if config.prefix is None else config.prefix
        if address is not None:
            self._stream = address.name
            if config.prefix is None:
                self._prefix = _prefix_of(address)
        elif not self._prefix:
            raise ValueError("JetStream without a prefix needs an address: a JStream that exists")
        self._link = NatsLink(broker, config.publish_timeout)
        self._feeds: dict[str, Feed] = {}
        self._patterns: dict[str, Any] = {}
        self._making = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []
        self._publisher = Publisher(
            broker, self._link, self._stream, self._prefix, config.publish_timeout
        )
        self._dead = JetStreamDeadLetters(
            self._link, self._stream, self._prefix, config.group or ""
        )
        self._returns = Returns(self._link, self._stream)

    @property
    def capabilities(self) -> Capabilities:
        """What JetStream promises."""
        return Capabilities(
            fan_out=False, durable=True, ordered=False, in_flight=IN_FLIGHT, max_size=MAX_SIZE
        )

    @property
    def dead_letters(self) -> JetStreamDeadLetters:
        """Those of the group."""
        return self._dead

    @property
    def _js(self) -> Any:
        return self._link.client.jetstream()

    async def open(self, host: AdapterHost) -> None:
        """Connect, and see to it that the stream exists."""
        self._making = asyncio.Lock()
        self._feeds.clear()
        self._patterns.clear()
        self._link.on_lost, self._link.on_back = self._lost, self._back
        await self._link.open(host)
        try:
            await self._ensure_stream()
            await self._publisher.open()
        except js_errors.ServiceUnavailableError as error:
            raise DriverError("NATS: this server has no JetStream; start it with -js") from error
        except (errors.Error, OSError) as error:
            raise to_driver_error(error) from error
        self._tasks = [asyncio.get_running_loop().create_task(self._look_after())]

    async def _ensure_stream(self) -> None:
        js, given = self._js, self._address
        try:
            await js.stream_info(self._stream)
        except js_errors.NotFoundError:
            if given is None:
                subjects, config = [f"{self._prefix}>"], api.StreamConfig(name=self._stream)
            elif given.declare:
                subjects, config = [*given.subjects] or [f"{self._prefix}>"], given.config
            else:
                raise
            await js.add_stream(config, subjects=subjects)

    async def close(self) -> None:
        """Disconnect."""
        for task in [*self._tasks, *(feed.task for feed in self._feeds.values())]:
            task.cancel()
        self._tasks.clear()
        self._feeds.clear()
        await self._link.close()

    # -- to us

    async def subscribe(self, names: Sequence[str]) -> None:
        """Consume names and patterns; returns when the consumers exist."""
        await self._link.ready()
        try:
            for name in names:
                if "*" in name:
                    await self._subscribe_pattern(name)
                else:
                    await self._feed(name, name)
        except (errors.Error, OSError) as error:
            await self.unsubscribe(names)
            raise to_driver_error(error) from error

    async def _subscribe_pattern(self, pattern: str) -> None:
        test = compile_pattern(pattern)

        async def seen(message: Any) -> None:
            name = message.subject.removeprefix(self._prefix)
            if test(name) and not self._has(name, pattern) and pattern in self._patterns:
                try:
                    await self._feed(name, pattern, new=True)
                except (errors.Error, OSError) as error:
                    # The next event of that name is another occasion, and so is a reconnect.
                    self._link.host.report(to_driver_error(error), name)

        subject = self._prefix + wildcard(pattern)
        self._patterns[pattern] = await self._link.client.subscribe(subject, cb=seen)
        await self._link.flush()
        await self._discover(pattern, test)

    async def _discover(self, pattern: str, test: Callable[[str], object]) -> None:
        subject = self._prefix + wildcard(pattern)
        info = await self._js.stream_info(self._stream, subjects_filter=subject)
        subjects: dict[str, int] = info.state.subjects or {}
        for found in subjects:
            name = found.removeprefix(self._prefix)
            if test(name):
                await self._feed(name, pattern)

    def _has(self, name: str, via: str) -> bool:
        return name in self._feeds and via in self._feeds[name].vias

    async def _feed(self, name: str, via: str, *, new: bool = False) -> None:
        async with self._making:
            feed = self._feeds.get(name)
            if feed is None:
                feed = Feed(
                    self._broker,
                    self._link,
                    self._config,
                    self._stream,
                    self._prefix,
                    name,
                    self._returns,
                )
                await feed.start(self._share, new=new)
                self._feeds[name] = feed
            feed.vias[via] = None

    def _share(self) -> int:
        """Return how many events one feed may ask for."""
        return max(1, self._link.host.capacity() // max(1, len(self._feeds)))

    async def unsubscribe(self, names: Sequence[str]) -> None:
        """Consume them no more; the consumers stay, and gather what comes."""
        try:
            for name in names:
                watch = self._patterns.pop(name, None)
                if watch is not None:
                    await watch.unsubscribe()
            async with self._making:
                for feed in [*self._feeds.values()]:
                    for name in names:
                        feed.vias.pop(name, None)
                    if not feed.vias:
                        del self._feeds[feed.name]
                        await feed.stop()
        except (errors.Error, OSError) as error:
            raise to_driver_error(error) from error

    async def stop_receiving(self) -> None:
        """Pull no more, and hand over what the server has sent."""
        try:
            for watch in self._patterns.values():
                await watch.unsubscribe()
            self._patterns.clear()
            for feed in self._feeds.values():
                await feed.stop()
        except (errors.Error, OSError) as error:
            raise to_driver_error(error) from error

    # -- to the server

    async def publish(self, burst: Sequence[Outgoing]) -> None:
        """Publish a burst; each event has an acknowledgement of its own."""
        await self._publisher.publish(burst)

    async def settle(self, decisions: Sequence[Decision]) -> None:
        """Acknowledge, give back, and bury."""
        await settle(decisions, self._dead, self._returns, self._link)

    # -- what has to be looked after

    async def _look_after(self) -> None:
        """Tell the server that what is held is worked on, and look at what there is to do."""
        while True:
            await asyncio.sleep(min(LOOK, self._config.claim_idle / 3))
            await self._link.ready(patience=float("inf"))
            for feed in [*self._feeds.values()]:
                # If the consumer is gone, who pulls from it makes it again, and that is reported.
                with suppress(errors.Error, OSError, DriverError):
                    await feed.look_after()

    def backlogs(self) -> tuple[Backlog, ...]:
        """Return what the group has to do, as last seen."""
        return tuple(feed.backlog() for feed in [*self._feeds.values()])

    def _lost(self) -> None:
        self._publisher.lost()
        for feed in self._feeds.values():
            feed.nudge()

    def _back(self) -> None:
        task = asyncio.get_running_loop().create_task(self._look_again())
        self._tasks.append(task)
        task.add_done_callback(self._tasks.remove)

    async def _look_again(self) -> None:
        """Look for names that came up while there was no connection."""
        for pattern in [*self._patterns]:
            try:
                await self._discover(pattern, compile_pattern(pattern))
            except (errors.Error, OSError) as error:
                self._link.host.report(to_driver_error(error), pattern)


def _prefix_of(stream: JStream) -> str:
    for subject in stream.subjects:
        if subject.endswith(".>"):
            return str(subject).removesuffix(">")
    return f"{stream.name}."
