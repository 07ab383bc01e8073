"""Core NATS: every bus gets every event, at most once, and nothing is kept.

A publish has no reply in NATS. So one PING follows what was sent: its PONG says that the server has
taken it. At most one is under way; what is sent meanwhile is asked about by the next one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from faststream.middlewares import AckPolicy
from faststream.nats import NatsBroker
from nats import errors

from goevent import DriverConnectionError, DriverError
from goevent.drivers import Backlog, Capabilities

from .._adapter.contract import Adapter, AdapterHost, Arrival, Decision, Outgoing
from .._adapter.overlap import OverlapFilter
from .._adapter.subscribers import adopt_subscriber, undecoded
from .._config import BrokerConfig
from .connection import LOST, NatsLink, make_broker as make_broker, nats_broker, to_driver_error
from .subjects import wildcard

IN_FLIGHT = 1000  # publishes that wait for the PONG
MAX_SIZE = 1_000_000  # the server's default is 1 MiB, headers included


def make_adapter(broker: object, config: BrokerConfig, address: object) -> Adapter:
    """Return core NATS for a broker."""
    if address is not None:
        raise TypeError(f"core NATS has no addresses of events but subjects, not {address!r}")
    if config.group is not None or config.stream is not None:
        raise ValueError("core NATS has no groups and no streams: all buses get all events")
    return NatsAdapter(nats_broker(broker), config)


class NatsAdapter:
    """Core NATS, over one connection."""

    def __init__(self, broker: NatsBroker, config: BrokerConfig) -> None:
        self._broker = broker
        self._prefix = "goevent." if config.prefix is None else config.prefix
        self._link = NatsLink(broker, config.publish_timeout)
        self._overlap = OverlapFilter()
        self._subscriptions: dict[str, Any] = {}
        self._order = asyncio.Lock()
        self._sent: list[tuple[Outgoing, int]] = []  # and how many losses there had been
        self._confirming = False

    @property
    def capabilities(self) -> Capabilities:
        """What core NATS promises."""
        return Capabilities(lossless=False, in_flight=IN_FLIGHT, max_size=MAX_SIZE)

    async def open(self, host: AdapterHost) -> None:
        """Connect."""
        self._overlap = OverlapFilter()
        self._order = asyncio.Lock()
        self._subscriptions.clear()
        self._sent, self._confirming = [], False
        await self._link.open(host)

    async def close(self) -> None:
        """Disconnect."""
        self._subscriptions.clear()
        await self._link.close()

    # -- to us

    async def subscribe(self, names: Sequence[str]) -> None:
        """Subscribe to subjects and wildcards; returns when the server has confirmed it."""
        await self._link.ready()
        try:
            for name in names:
                await self._subscribe(name)
            await self._link.flush()
        except (errors.Error, OSError) as error:
            await self.unsubscribe(names)
            raise to_driver_error(error) from error

    async def _subscribe(self, via: str) -> None:
        copies, prefix, link = self._overlap, self._prefix, self._link

        async def came(raw: Any) -> None:
            name, body = raw.subject.removeprefix(prefix), raw.data
            if copies.is_first(via, name, body):
                await link.host.deliver(Arrival(name, via, body, raw.headers or {}))

        copies.add(via)
        subject = prefix + wildcard(via)
        if self._broker.middlewares:
            self._subscriptions[via] = await self._by_broker(subject, came)
        else:
            # FastStream's consume is many times the work of the rest, and does nothing here.
            self._subscriptions[via] = await link.client.subscribe(subject, cb=came)

    async def _by_broker(
        self, subject: str, came: Callable[[Any], Coroutine[Any, Any, None]]
    ) -> Any:
        """Subscribe so that messages pass the middlewares of the broker."""

        async def handed(message: Any) -> None:
            await came(message.raw_message)

        subscriber = self._broker.subscriber(
            subject,
            decoder=undecoded,
            ack_policy=AckPolicy.MANUAL,
            no_reply=True,
            persistent=False,
        )
        adopt_subscriber(self._broker, subscriber, handed)
        await subscriber.start()
        subscription, subscriber.subscription = subscriber.subscription, None
        return subscription

    async def unsubscribe(self, names: Sequence[str]) -> None:
        """Unsubscribe."""
        for name in names:
            self._overlap.remove(name)
            subscription = self._subscriptions.pop(name, None)
            if subscription is not None:
                try:
                    await subscription.unsubscribe()
                except (errors.Error, OSError) as error:
                    raise to_driver_error(error) from error

    async def stop_receiving(self) -> None:
        """Unsubscribe from everything, and hand over what has arrived."""
        for subscription in self._subscriptions.values():
            try:
                await self._link.unbroken(subscription.drain())
            except (errors.Error, OSError) as error:
                raise to_driver_error(error) from error
        self._subscriptions.clear()

    # -- to the server

    async def publish(self, burst: Sequence[Outgoing]) -> None:
        """Publish a burst; one PONG answers for all that was sent before its PING."""
        prefix, link = self._prefix, self._link
        # FastStream's publish is five times the work of the client's, which does the rest of it
        # when there is no middleware.
        by_broker = bool(self._broker.middlewares)
        async with self._order:
            for outgoing in burst:
                try:
                    if not link.is_up:
                        await link.ready()
                    if by_broker:
                        await self._send(outgoing)
                    else:
                        await link.client.publish(
                            prefix + outgoing.name,
                            outgoing.body,
                            headers={**outgoing.headers} if outgoing.headers else None,
                        )
                except DriverError as error:
                    outgoing.done(error)
                except Exception as error:  # noqa: BLE001 - the client's, or a middleware's own
                    outgoing.done(to_driver_error(error))
                else:
                    self._sent.append((outgoing, self._link.losses))
        if self._sent and not self._confirming:
            self._confirming = True
            try:
                while self._sent:
                    await self._confirm()
            finally:
                self._confirming = False

    async def _send(self, outgoing: Outgoing) -> None:
        await self._broker.publish(
            outgoing.body,
            self._prefix + outgoing.name,
            headers={**outgoing.headers},
            correlation_id=outgoing.id,
        )

    async def _confirm(self) -> None:
        """Ask whether the server has taken what was sent."""
        sent, self._sent = self._sent, []
        result: DriverError | None = None
        try:
            await self._link.flush()
        except DriverError as error:
            result = error
        except (errors.Error, OSError) as error:
            result = to_driver_error(error)
        for outgoing, losses in sent:
            # What was on its way when another connection was lost has not been asked about.
            lost = result is None and losses != self._link.losses
            outgoing.done(DriverConnectionError(LOST) if lost else result)

    async def settle(self, decisions: Sequence[Decision]) -> None:
        """Tell nothing: nothing is acknowledged."""

    def backlogs(self) -> tuple[Backlog, ...]:
        """Return none: nothing is kept."""
        return ()
