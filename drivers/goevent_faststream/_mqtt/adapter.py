"""MQTT: every bus gets every event, or, with a group, one bus of each group; at most once.

Events travel with QoS 1 both ways: the server has taken a publish when it says so, and a message
is acknowledged when it is with the bus. Not later: MQTT has no way to give a message back, and what
a member of a group has got and not acknowledged, the server drops when the member goes away. A
listener that may fail has its `retry`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import zmqtt
from faststream.middlewares import AckPolicy
from faststream.mqtt import MQTTBroker

from goevent import DriverError, compile_pattern
from goevent.drivers import Backlog, Capabilities

from .._adapter.contract import Adapter, AdapterHost, Arrival, Decision, Outgoing
from .._adapter.middlewares import MiddlewareChain
from .._adapter.properties import merge_headers
from .._adapter.subscribers import undecoded
from .._config import BrokerConfig
from .connection import CLIENT, MqttLink, make_broker as make_broker, mqtt_broker, to_driver_error
from .publisher import QOS, Publisher
from .subscription import Buffer, Feed, key_of
from .topics import cover, name_of, topic

IN_FLIGHT = 1000  # publishes that wait for their PUBACK
PREFIX = "goevent."
BUFFER = 1000  # messages of QoS 0 that may wait
LINGER = 1.0  # seconds for which copies may come of two filters, one of which is gone


def make_adapter(broker: object, config: BrokerConfig, address: object) -> Adapter:
    """Return MQTT for a broker."""
    if address is not None:
        raise TypeError(f"MQTT has no addresses of events but topics, not {address!r}")
    if config.stream is not None:
        raise ValueError("MQTT has no streams: it keeps nothing")
    return MqttAdapter(mqtt_broker(broker), config)


class MqttAdapter:
    """MQTT, over one connection."""

    def __init__(self, broker: MQTTBroker, config: BrokerConfig) -> None:
        self._broker = broker
        self._group = config.group
        self._prefetch = config.prefetch
        self._prefix = topic(PREFIX if config.prefix is None else config.prefix)
        # In a group, others get what comes while this bus is away.
        remembered = 0.0 if config.group else config.claim_idle
        self._link = MqttLink(
            broker, config.publish_timeout, prefetch=config.prefetch, remembered=remembered
        )
        self._link.set_up, self._link.on_lost = self._set_up, self._lost
        self._publisher = Publisher(broker, self._link, self._prefix)
        self._middlewares = MiddlewareChain()
        self._tests: dict[str, Callable[[str], object]] = {}
        self._feeds: dict[str, Feed] = {}
        self._order = asyncio.Lock()
        self._twice: set[int] | None = None

    @property
    def capabilities(self) -> Capabilities:
        """What MQTT promises."""
        # Mosquitto does not keep the order of what waits for a window that is full.
        return Capabilities(
            fan_out=self._group is None, lossless=False, ordered=False, in_flight=IN_FLIGHT
        )

    async def open(self, host: AdapterHost) -> None:
        """Connect."""
        self._tests.clear()
        self._feeds.clear()
        self._order = asyncio.Lock()
        self._twice = None
        self._publisher.open()
        await self._link.open(host)
        await self._middlewares.open(self._broker, self._subscriber)

    def _subscriber(self) -> Any:
        subscriber: Any = self._broker.subscriber(
            "goevent",
            decoder=undecoded,
            ack_policy=AckPolicy.MANUAL,
            no_reply=True,
            persistent=False,
        )
        subscriber._parser = subscriber._build_parser().parse_message
        return subscriber

    async def close(self) -> None:
        """Disconnect."""
        for feed in self._feeds.values():
            feed.task.cancel()
        await self._link.close()
        self._tests.clear()
        self._feeds.clear()

    # -- to us

    async def subscribe(self, names: Sequence[str]) -> None:
        """Subscribe to names and patterns; returns when the server has confirmed it."""
        await self._link.ready()
        before = {*self._tests}
        for name in names:
            self._tests[name] = compile_pattern(name)
        try:
            await self._change()
        except (DriverError, *CLIENT) as error:
            for name in {*names} - before:
                self._tests.pop(name, None)
            raise to_driver_error(error) from error

    async def unsubscribe(self, names: Sequence[str]) -> None:
        """Unsubscribe from them."""
        for name in names:
            self._tests.pop(name, None)
        if self._link.is_up:
            try:
                await self._change()
            except CLIENT as error:
                raise to_driver_error(error) from error

    async def _change(self) -> None:
        """Have those filters that there should be; what goes, goes when its successor is there."""
        async with self._order:
            wanted = cover(self._tests)
            gone = self._feeds.keys() - wanted
            if gone and wanted - self._feeds.keys():
                self._twice = set()
            for each in sorted(wanted - self._feeds.keys()):
                self._feeds[each] = feed = Feed(self._prefetch)
                try:
                    await self._start(each, feed)
                except BaseException:
                    del self._feeds[each]
                    raise
            for each in sorted(gone):
                await self._stop(self._feeds.pop(each))
            if self._twice is not None:
                asyncio.get_running_loop().call_later(LINGER, self._settle_down)

    def _settle_down(self) -> None:
        if not self._order.locked():
            self._twice = None

    async def _start(self, filter_: str, feed: Feed) -> None:
        options: dict[str, Any] = {}
        if self._link.is_modern:  # what was kept for newcomers is no event of now
            options["retain_handling"] = zmqtt.RetainHandling.DO_NOT_SEND
        share = f"$share/{self._group}/" if self._group is not None else ""
        subscription = self._link.client.subscribe(
            f"{share}{self._prefix}{filter_}",
            qos=QOS,
            auto_ack=False,
            **options,
        )
        feed.subscription = subscription
        subscription._queue = Buffer(max(BUFFER, self._prefetch), self._dropped)
        await subscription.start()
        feed.task = self._link.do(self._receive(feed))

    def _dropped(self, message: zmqtt.Message) -> None:
        text = f"MQTT: messages of {message.topic!r} are lost, as too many wait already"
        self._link.host.report(DriverError(text))

    async def _stop(self, feed: Feed) -> None:
        """Unsubscribe; what has come is handed over by the feed's task, which then ends."""
        await feed.subscription.stop()
        feed.subscription._queue.put_nowait(None)

    async def stop_receiving(self) -> None:
        """Unsubscribe from everything, and hand over what has come."""
        async with self._order:
            feeds = [*self._feeds.values()]
            self._feeds.clear()
            for feed in feeds:
                await self._stop(feed)
        if feeds:
            await asyncio.wait({feed.task for feed in feeds})

    async def _set_up(self) -> None:
        for filter_, feed in self._feeds.items():
            await self._start(filter_, feed)

    def _lost(self) -> None:
        for feed in self._feeds.values():
            feed.lose()

    async def _receive(self, feed: Feed) -> None:
        """Hand over what comes, and only then have the server send more."""
        # As `get_message` does it, without a task and a wait for each message: when the connection
        # ends, so does this.
        queue: asyncio.Queue[Any] = feed.subscription._queue
        inbound = self._link.client._protocol.inbound
        while (message := await queue.get()) is not None:
            await self._came(feed, message)
            await inbound.drain()

    async def _came(self, feed: Feed, message: Any) -> None:
        name = ""
        if message.topic.startswith(self._prefix):  # `goevent/#` has `goevent`, too
            name = name_of(message.topic.removeprefix(self._prefix))
        via = next((via for via, test in self._tests.items() if name and test(name)), None)
        if via is not None and not message.retain and not self._is_copy(feed, message):
            arrival = Arrival(name, via, message.payload, _headers(message), raw=message)
            if self._middlewares.is_active:
                await self._pass(message, arrival)
            else:
                await self._link.host.deliver(arrival)
        feed.handed(message)
        with suppress(*CLIENT):  # the connection is lost, and it comes again
            await message.ack()

    def _is_copy(self, feed: Feed, message: zmqtt.Message) -> bool:
        if feed.is_known(message):
            return True
        if self._twice is not None:
            key = key_of(message)
            if key in self._twice:
                self._twice.discard(key)
                return True
            self._twice.add(key)
        return False

    async def _pass(self, message: Any, arrival: Arrival) -> None:
        arrived: list[Arrival] = []
        try:
            await self._middlewares.run(message, partial(arrived.append, arrival))
        except Exception as error:  # noqa: BLE001 - a middleware's own
            self._link.host.report(error, arrival.name)
        for each in arrived:
            await self._link.host.deliver(each)

    # -- to the server

    async def publish(self, burst: Sequence[Outgoing]) -> None:
        """Publish a burst; the server confirms each event, also one that nobody listens to."""
        await self._publisher.publish(burst)

    async def settle(self, decisions: Sequence[Decision]) -> None:
        """Tell nothing: nothing is given back."""

    def backlogs(self) -> tuple[Backlog, ...]:
        """Return none: nothing is kept."""
        return ()


def _headers(message: Any) -> Mapping[str, str]:
    given = message.properties
    if given is None:
        return {}
    correlation = given.correlation_data
    return merge_headers(
        dict(given.user_properties),
        given.content_type,
        None if correlation is None else correlation.decode(errors="replace"),
    )
