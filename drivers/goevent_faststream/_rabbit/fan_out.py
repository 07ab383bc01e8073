"""RabbitMQ without a group: every bus gets every event, at most once.

A bus has a queue of its own, which goes with its connection, bound to the exchange that the groups
of other buses are bound to, too. A message that several bindings match comes to it once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from faststream.rabbit import ExchangeType, RabbitBroker, RabbitExchange

from goevent import DriverError, compile_pattern
from goevent.drivers import Backlog, Capabilities

from .._adapter.contract import Adapter, AdapterHost, Arrival, Decision, Outgoing
from .._config import BrokerConfig
from .connection import (
    CLIENT,
    RabbitLink,
    make_broker as make_broker,
    rabbit_broker,
    to_driver_error,
)
from .names import binding
from .publisher import LONGEST, Publisher
from .receiver import Line, Raw, Receiver

IN_FLIGHT = 1000  # publishes that wait for their confirm
EXCHANGE = "goevent"


def make_adapter(broker: object, config: BrokerConfig, address: object) -> Adapter:
    """Return RabbitMQ without a group for a broker."""
    return RabbitFanOutAdapter(rabbit_broker(broker), config, exchange_of(config, address))


def exchange_of(config: BrokerConfig, address: object) -> RabbitExchange:
    """Return the exchange that events go to.

    Raises:
        TypeError: the address is not one.
        ValueError: it does not route by patterns.
    """
    if address is None:
        name = config.stream or EXCHANGE
        return RabbitExchange(name, type=ExchangeType.TOPIC, durable=True)
    if not isinstance(address, RabbitExchange):
        raise TypeError(f"the address of events in RabbitMQ is a RabbitExchange, not {address!r}")
    if address.type is not ExchangeType.TOPIC:
        raise ValueError(f"events need a topic exchange, and {address.name!r} is none")
    return address


async def declare(channel: Any, exchange: RabbitExchange) -> None:
    """Have the exchange exist."""
    await channel.exchange_declare(
        exchange.name,
        exchange_type=exchange.type.value,
        passive=not exchange.declare,
        durable=bool(exchange.durable),
        auto_delete=exchange.auto_delete,
        arguments=exchange.arguments,
    )


class RabbitFanOutAdapter:
    """RabbitMQ without a group, over one connection."""

    def __init__(self, broker: RabbitBroker, config: BrokerConfig, exchange: RabbitExchange):
        self._exchange = exchange
        self._prefix = config.prefix or ""
        self._prefetch = config.prefetch
        self._link = RabbitLink(broker, config.publish_timeout)
        self._link.set_up = self._set_up
        self._publisher = Publisher(broker, self._link, exchange.name, self._prefix)
        self._line = Line(self._link, self._handed_over)
        self._receiver = Receiver(
            broker, self._prefix, came=_any, handed=self._take, kept=self._kept
        )
        self._vias: dict[str, Callable[[str], object]] = {}
        self._queue = ""
        self._tag = ""

    @property
    def capabilities(self) -> Capabilities:
        """What it promises."""
        return Capabilities(lossless=False, in_flight=IN_FLIGHT)

    async def open(self, host: AdapterHost) -> None:
        """Connect."""
        self._vias.clear()
        self._line.begin()
        await self._link.open(host)
        await self._receiver.open()

    async def _set_up(self) -> None:
        channel = self._link.consuming
        self._line.clear()
        await declare(channel, self._exchange)
        self._queue = (await channel.queue_declare("", exclusive=True, auto_delete=True)).queue
        for via in self._vias:
            await self._bind(via)
        await channel.basic_qos(prefetch_count=self._prefetch)
        came = self._receiver.consumer(self._queue)
        self._tag = (await channel.basic_consume(self._queue, came)).consumer_tag

    async def close(self) -> None:
        """Disconnect."""
        self._vias.clear()
        await self._link.close()

    # -- to us

    async def subscribe(self, names: Sequence[str]) -> None:
        """Bind the queue to names and patterns; returns when the server has confirmed it."""
        await self._link.unbroken(self._begin(names))

    async def _begin(self, names: Sequence[str]) -> None:
        await self._link.ready()
        try:
            for name in names:
                if len(self._prefix) + len(name) > LONGEST:
                    raise DriverError(f"RabbitMQ: a binding key has at most {LONGEST} bytes")
                self._vias[name] = compile_pattern(name)
                await self._bind(name)
        except CLIENT as error:
            await self._end(names)
            raise to_driver_error(error) from error

    async def _bind(self, via: str) -> None:
        await self._link.consuming.queue_bind(
            self._queue, self._exchange.name, self._prefix + binding(via)
        )

    async def unsubscribe(self, names: Sequence[str]) -> None:
        """Unbind it from them."""
        await self._link.unbroken(self._end(names))

    async def _end(self, names: Sequence[str]) -> None:
        for name in names:
            if self._vias.pop(name, None) is not None and self._link.is_up:
                try:
                    await self._link.consuming.queue_unbind(
                        self._queue, self._exchange.name, self._prefix + binding(name)
                    )
                except CLIENT as error:
                    raise to_driver_error(error) from error

    async def stop_receiving(self) -> None:
        """Consume no more, and hand over what has come."""
        await self._link.unbroken(self._end_all())

    async def _end_all(self) -> None:
        if self._link.is_up:
            try:
                await self._link.consuming.basic_cancel(self._tag)
            except CLIENT as error:
                raise to_driver_error(error) from error
            # What came before the answer is with tasks that have not begun yet.
            await asyncio.sleep(0)
        await self._line.empty()

    def _take(self, arrival: Arrival) -> None:
        via = next((via for via, test in self._vias.items() if test(arrival.name)), None)
        if via is None:
            self._link.do(self._acknowledge(arrival))
            return
        arrival.via = via
        self._line.add(arrival)

    async def _kept(self, arrival: Arrival, error: Exception | None) -> None:
        if error is not None:
            self._link.host.report(error, arrival.name)
        await self._acknowledge(arrival)

    def _handed_over(self, arrival: Arrival) -> None:
        """Have the server send more; in groups, as one acknowledgement serves for all before."""
        waiting = self._line.waiting
        if not waiting or self._link.host.capacity() == 0 or len(waiting) % 64 == 0:
            self._link.do(self._acknowledge(arrival, all_before=True))

    async def _acknowledge(self, arrival: Arrival, *, all_before: bool = False) -> None:
        raw: Raw = arrival.raw
        if raw.channel is self._link.consuming and self._link.is_up:
            with suppress(*CLIENT):  # the connection is lost, and the queue with it
                await raw.channel.basic_ack(raw.tag, multiple=all_before, wait=False)

    # -- to the server

    async def publish(self, burst: Sequence[Outgoing]) -> None:
        """Publish a burst; the server confirms each event, also one that no queue is bound to."""
        await self._publisher.publish(burst)

    async def settle(self, decisions: Sequence[Decision]) -> None:
        """Tell nothing: nothing is given back."""

    def backlogs(self) -> tuple[Backlog, ...]:
        """Return none: nothing is kept."""
        return ()


def _any(_: Arrival) -> bool:
    """Let everything come on: nothing is given back, so nothing comes again."""
    return True
