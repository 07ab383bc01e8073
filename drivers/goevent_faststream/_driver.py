"""Any broker of FastStream as a driver."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Self, TypeVar

import trio

from goevent import DriverConnectionError, UnsupportedError
from goevent.drivers import Capabilities, DeadLetters, DriverSnapshot, Inbox, Message, Receipt

from ._adapter.contract import Adapter, Result, ShowsDeadLetters
from ._adapter.formats import Format, format_of
from ._bridge.trio_side import TrioSide
from ._brokers import MAPPINGS, Mapping, load_adapter_module, mapping_for_broker, mapping_for_scheme
from ._config import BrokerConfig, read_url

T = TypeVar("T")


class FastStreamDriver:
    """Takes events through a broker of FastStream, which runs on an asyncio loop of its own.

    The loop lives in a thread from `async with bus` until the bus has closed. The middlewares of
    the broker run there, around each publish and each message; its own subscribers run, too.

    Args:
        broker: FastStream's broker, configured as you like and not started. Give it to one driver
            only.
        config: how to take part. With a group, or an address, NATS means JetStream; with a group,
            RabbitMQ means durable queues.
        address: the broker's own description of where events are, for instance a `JStream`.
        format: what messages look like, by name or as a `Format`; None for what `config` says.
        mapping: the row of `MAPPINGS` to go by; None for the one of the broker's class.
    """

    schemes: tuple[str, ...] = tuple({s: None for mapping in MAPPINGS for s in mapping.schemes})

    def __init__(
        self,
        broker: object,
        config: BrokerConfig | None = None,
        *,
        address: object = None,
        format: Format | str | None = None,  # noqa: A002
        mapping: Mapping | None = None,
    ) -> None:
        config = config or BrokerConfig()
        if mapping is None:
            durable = config.group is not None or config.stream is not None or address is not None
            mapping = mapping_for_broker(broker, durable=durable)
        self._name = mapping.schemes[0]
        self._adapter: Adapter = load_adapter_module(mapping).make_adapter(broker, config, address)
        self._broker = broker
        self._config = config
        self._format: Format = format_of(config.format if format is None else format)
        self._trio_side: TrioSide | None = None

    @classmethod
    def from_url(cls, url: str) -> Self:
        """Return the driver for a URL with one of `schemes`.

        Its options are the fields of `BrokerConfig`; what is left is for the broker.
        """
        scheme, _, _ = url.partition("://")
        plain, config = read_url(url if "://" in url else f"{url}://localhost")
        durable = config.group is not None or config.stream is not None
        mapping = mapping_for_scheme(scheme.lower(), durable=durable)
        module = load_adapter_module(mapping)
        broker = module.make_broker(plain)
        return cls(broker, config, mapping=mapping)

    @property
    def capabilities(self) -> Capabilities:
        """What the broker promises."""
        return self._adapter.capabilities

    @property
    def config(self) -> BrokerConfig:
        """How this bus takes part."""
        return self._config

    @property
    def broker(self) -> object:
        """FastStream's broker; it belongs to the loop in the driver's thread."""
        return self._broker

    @property
    def dead_letters(self) -> DeadLetters:
        """The dead letters of the group: list, inspect, replay and discard them.

        Raises:
            UnsupportedError: this driver has none that it could show.
        """
        if not isinstance(self._adapter, ShowsDeadLetters):
            raise UnsupportedError(f"the driver for {self._name} shows no dead letters")
        if self._config.group is None:
            raise UnsupportedError("dead letters belong to a group, and this bus has none")
        return DeadLetters(self._adapter.dead_letters, self._call)

    # -- the contract

    async def run(
        self, inbox: Inbox, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Connect, and stay connected until cancelled.

        Raises:
            DriverConnectionError: the broker cannot be reached, or does not let us in.
            DriverError: its client has given up, or the event loop has crashed.
        """
        self._trio_side = TrioSide(self._adapter, self._name, inbox, self._config, self._format)
        try:
            await self._trio_side.run(task_status=task_status)
        finally:
            self._trio_side = None

    async def drain(self) -> None:
        """Receive no more; what no listener has got yet is handed over, or back if durable."""
        if self._trio_side is not None:
            await self._trio_side.drain()

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
        if self._trio_side is None:
            raise trio.WouldBlock
        self._trio_side.publish_nowait(message, replied)

    def snapshot(self) -> DriverSnapshot:
        """Tell whether there is a connection, and what the group has to do; a second old."""
        if self._trio_side is None:
            return DriverSnapshot(connected=False)
        return DriverSnapshot(
            connected=self._trio_side.connected, backlogs=self._adapter.backlogs()
        )

    async def _call(self, work: Callable[..., Coroutine[Any, Any, T]], *args: object) -> T:
        return await self._running().call(work, *args)

    def _running(self) -> TrioSide:
        if self._trio_side is None:
            raise DriverConnectionError("the FastStream driver does not run: open its bus first")
        return self._trio_side
