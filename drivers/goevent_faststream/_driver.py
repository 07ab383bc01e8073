"""Any broker of FastStream as a driver."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Self

import trio

from goevent import (
    Capabilities,
    DriverConnectionError,
    DriverSnapshot,
    Inbox,
    Message,
    Receipt,
    UnsupportedError,
)

from ._config import BrokerConfig, read_url
from ._dialect import Dialect, Result
from ._format import EnvelopeFormat, Format
from ._mappings import MAPPINGS, dialects, of_broker, of_scheme
from ._session import Session


class FastStreamDriver:
    """Takes events through a broker of FastStream, which runs on an asyncio loop of its own.

    The loop lives in a thread from `async with bus` until the bus has closed. The middlewares of
    the broker run there, around each publish and each message; its own subscribers run, too.

    Args:
        broker: FastStream's broker, configured as you like and not started. Give it to one driver
            only.
        config: how to take part. With a group, or an address, NATS means JetStream.
        address: the broker's own description of where events are, for instance a `JStream`.
        format: how events are written; goevent's own JSON envelope if None.
        broker_name: what reports call the broker.
    """

    schemes: tuple[str, ...] = tuple(s for mapping in MAPPINGS for s in mapping.schemes)

    def __init__(
        self,
        broker: object,
        config: BrokerConfig | None = None,
        *,
        address: object = None,
        format: Format | None = None,  # noqa: A002
        broker_name: str | None = None,
    ) -> None:
        config = config or BrokerConfig()
        durable = config.group is not None or config.stream is not None or address is not None
        mapping = of_broker(broker, durable=durable)
        self._name = broker_name or mapping.schemes[0]
        self._dialect: Dialect = dialects(mapping).dialect(broker, config, address)
        self._broker = broker
        self._config = config
        self._format: Format = format or EnvelopeFormat()
        self._session: Session | None = None

    @classmethod
    def from_url(cls, url: str) -> Self:
        """Return the driver for a URL with one of `schemes`.

        Its options are the fields of `BrokerConfig`; what is left is for the broker.
        """
        scheme, _, _ = url.partition("://")
        mapping = of_scheme(scheme.lower())
        plain, config = read_url(url if "://" in url else f"{url}://localhost")
        module = dialects(mapping)
        broker = module.broker_at(plain)
        if not mapping.durable and (config.group is not None or config.stream is not None):
            raise ValueError(f"{scheme}:// has no groups and no streams: all buses get all")
        if "{stream}" in mapping.prefix and config.stream is None:
            config = replace(config, stream="goevent-js")
        return cls(broker, config, broker_name=mapping.schemes[0])

    @property
    def capabilities(self) -> Capabilities:
        """What the broker promises."""
        return self._dialect.capabilities

    @property
    def config(self) -> BrokerConfig:
        """How this bus takes part."""
        return self._config

    @property
    def broker(self) -> object:
        """FastStream's broker; it belongs to the loop in the driver's thread."""
        return self._broker

    # -- the contract

    async def run(
        self, inbox: Inbox, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Connect, and stay connected until cancelled.

        Raises:
            DriverConnectionError: the broker cannot be reached, or does not let us in.
            DriverError: its client has given up, or the event loop has crashed.
        """
        self._session = Session(self._dialect, self._name, inbox, self._config, self._format)
        try:
            await self._session.run(task_status=task_status)
        finally:
            self._session = None

    async def drain(self) -> None:
        """Receive no more; what no listener has got yet is handed over, or back if durable."""
        if self._session is not None:
            await self._session.drain()

    async def subscribe(self, names: Sequence[str]) -> None:
        """Receive events of names and patterns; returns when the broker has confirmed it."""
        if self.capabilities.durable and self._config.group is None:
            raise UnsupportedError(
                f"this bus belongs to no group of consumers, and listening to {names[0]!r} needs "
                f"one: {self._name}://...?group=the-service, or BrokerConfig(group=...)"
            )
        await self._running().subscribe(names)

    async def unsubscribe(self, names: Sequence[str]) -> None:
        """Receive them no more; what has arrived and waits is not handed over."""
        await self._running().unsubscribe(names)

    async def publish(self, message: Message) -> Receipt | None:
        """Publish an event; returns when the broker has accepted it.

        While it cannot be reached it is tried again, for `BrokerConfig.publish_timeout`.
        """
        return await self._running().publish(message)

    def publish_nowait(self, message: Message, replied: Callable[[Result], None]) -> None:
        """Publish an event without a task that waits for the answer.

        Raises:
            trio.WouldBlock: there is no connection.
        """
        if self._session is None:
            raise trio.WouldBlock
        self._session.publish_nowait(message, replied)

    def snapshot(self) -> DriverSnapshot:
        """Tell whether there is a connection, and what the group has to do; a second old."""
        if self._session is None:
            return DriverSnapshot(connected=False)
        return DriverSnapshot(connected=self._session.connected, backlogs=self._dialect.backlogs())

    def _running(self) -> Session:
        if self._session is None:
            raise DriverConnectionError("the FastStream driver does not run: open its bus first")
        return self._session
