"""The driver: a broker of FastStream, as the bus sees it.

`FastStreamDriver` implements the driver's contract. It finds the adapter of its broker in the table
of `_brokers`, and while a bus is open it passes every call on to the Trio side of the bridge.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import fields
from typing import Any, Self, TypeVar

import trio

from goevent import (
    BusForked,
    DriverConnectionError,
    DriverInUse,
    UnsupportedError,
    compile_pattern,
)
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
    check_url_options,
    group_required,
    read_driver_url,
)

from ._adapter.contract import (
    Adapter,
    ChecksBroker,
    Result,
    ShowsDeadLetters,
    TailsEvents,
    TellsLag,
)
from ._adapter.formats import Format, format_of
from ._bridge.trio_side import TrioSide
from ._brokers import (
    MAPPINGS,
    Mapping,
    load_adapter_module,
    mapping_for_broker,
    mapping_for_scheme,
    title_of_scheme,
)
from ._config import BrokerConfig, split_options
from ._description import describe

T = TypeVar("T")

INSPECTION_SECONDS = 30.0  # for the many requests of one question


class FastStreamDriver:
    """A driver that carries events through a broker of FastStream.

    The broker runs on an asyncio loop in a thread of its own, from `async with bus` until the bus
    has closed. The broker's middlewares run there around each publish and each message, and so do
    its own subscribers.

    Args:
        broker: FastStream's broker, configured as you like and not started. Only one driver may use
            it.
        config: The settings. With a group or an address, NATS means JetStream; with a group,
            RabbitMQ means durable queues.
        address: The broker's own description of the place of events, for example a `JStream`.
        format: The form of messages, by name or as a `Format`. None takes the one of `config`.
        mapping: The row of `MAPPINGS` to use. None takes the one for the broker's class.

    Raises:
        DriverError: The package for the broker is not installed.
        TypeError: The broker or the address has a class that is not supported.
        ValueError: The broker cannot honour a setting.

    Example:
        ::

            broker = NatsBroker("nats://localhost", middlewares=[Tracing])
            driver = FastStreamDriver(broker, BrokerConfig(group="billing"))
            async with GoEvent(Config(driver=driver)) as bus:
                await bus.dispatch(OrderPaid(order="7"))
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
        mapping.check(config)
        self._mapping = mapping
        self._address = address
        self._name = mapping.schemes[0]
        self._system = mapping.title.partition(" ")[0].lower()
        # FastStream keeps the URLs for its documentation, without the logins.
        specification = getattr(broker, "specification", None)
        self._urls: Sequence[str] = getattr(specification, "url", ())
        self._adapter: Adapter = load_adapter_module(mapping).make_adapter(broker, config, address)
        self._broker = broker
        self._config = config
        self._format: Format = format_of(config.format if format is None else format)
        self._trio_side: TrioSide | None = None
        self._is_forked = False

    @classmethod
    def from_url(cls, url: str) -> Self:
        """Return the driver for a URL.

        Args:
            url: Its scheme is one of `schemes`. Its options are the fields of `BrokerConfig`; the
                broker gets the other ones.

        Raises:
            DriverError: The package for the broker is not installed.
            ValueError: An option makes no sense.

        Example:
            ::

                driver = FastStreamDriver.from_url("kafka://localhost:9092?group=billing")
        """
        parsed = read_driver_url(
            url if "://" in url else f"{url}://localhost", broker=title_of_scheme(url)
        )
        broker_url, config = split_options(parsed)
        durable = config.group is not None or config.stream is not None
        mapping = mapping_for_scheme(parsed.scheme, durable=durable)
        settings = {field.name for field in fields(BrokerConfig)} - mapping.refused.keys()
        check_url_options(parsed, {*settings, *mapping.url_options}, mapping.refused)
        module = load_adapter_module(mapping)
        broker = module.make_broker(broker_url.text())
        return cls(broker, config, mapping=mapping)

    @property
    def capabilities(self) -> Capabilities:
        """The guarantees of the broker with this configuration."""
        return self._adapter.capabilities

    @property
    def config(self) -> BrokerConfig:
        """The settings of this bus."""
        return self._config

    @property
    def identity(self) -> BrokerIdentity:
        """The broker, as telemetry names it: the first one of its servers."""
        return BrokerIdentity.of_url(self._system, self._urls, self._config.group)

    @property
    def broker(self) -> object:
        """FastStream's broker. It belongs to the loop's thread while the bus is open."""
        return self._broker

    @property
    def dead_letters(self) -> DeadLetters:
        """The dead letters of the group, to list, replay and discard.

        Raises:
            UnsupportedError: The broker cannot show them, or the bus has no group.

        Example:
            ::

                for letter in await driver.dead_letters.list():
                    print(letter.event_name, letter.reason)
        """
        if not isinstance(self._adapter, ShowsDeadLetters):
            raise UnsupportedError(f"the driver for {self._name} shows no dead letters")
        if self._config.group is None:
            raise UnsupportedError("dead letters belong to a group, and this bus has none")
        return DeadLetters(self._adapter.dead_letters, self._call)

    # -- the inspection of the broker

    async def check(self, names: Sequence[str]) -> Sequence[Finding]:
        """Look for missing rights, and for settings that endanger the promises of the driver.

        Args:
            names: The names and patterns of the listeners and the event types of the program.

        Returns:
            The findings, errors first; none if all is well.

        Raises:
            UnsupportedError: The driver for this broker has no check.
            DriverError: The broker does not answer, or the bus is not open.
        """
        inspection = self._adapter.inspection
        if not isinstance(inspection, ChecksBroker):
            raise UnsupportedError(f"the driver for {self._name} cannot check its broker")
        found = await self._running().call(inspection.check, names, more_seconds=INSPECTION_SECONDS)
        return sorted(found, key=lambda finding: finding.severity)

    async def lag(self, group: str, names: Sequence[str] = ()) -> Sequence[Backlog]:
        """Return the backlog of a group for each event name that the broker knows it to read.

        Args:
            group: The consumer group; it may have no consumer at present.
            names: The names and patterns that it reads, for RabbitMQ, which does not list them.

        Raises:
            UnsupportedError: The broker has no groups, or cannot tell.
            DriverError: The broker does not answer, or the bus is not open.
        """
        inspection = self._adapter.inspection
        if not isinstance(inspection, TellsLag):
            raise UnsupportedError(
                f"the driver for {self._name} cannot tell the backlog of a group"
            )
        backlogs = await self._running().call(
            inspection.lag, group, names, more_seconds=INSPECTION_SECONDS
        )
        return sorted(backlogs, key=lambda backlog: backlog.event_name)

    def tail(
        self, pattern: str
    ) -> AbstractAsyncContextManager[trio.abc.ReceiveChannel[TailedEvent]]:
        """Show the events that are published from the entry of the block on, while it lasts.

        The channel has a bound. A slow reader holds back a broker that keeps events, and misses
        some of one that does not. When the bus closes, the channel ends. A cancelled `receive`
        loses nothing.

        Args:
            pattern: An event name or a pattern.

        Raises:
            UnsupportedError: The broker cannot show events without giving them to a group.
            ValueError: It is no pattern.
            DriverError: The broker refuses it, or the bus is not open. `receive` raises it if the
                broker shows no more.

        Example:
            ::

                async with driver.tail("order.*") as events:
                    async for event in events:
                        print(event.event_name, event.data)
        """
        compile_pattern(pattern)
        inspection = self._adapter.inspection
        if not isinstance(inspection, TailsEvents):
            raise UnsupportedError(f"the driver for {self._name} cannot show the events that pass")
        return self._running().tail(inspection, pattern)

    def describe(self, names: Sequence[str]) -> BrokerDescription:
        """Describe the servers and the places of events; see `goevent.drivers.Describes`."""
        return describe(self._mapping, self._broker, self._config, self._address, names)

    # -- the contract of drivers

    async def run(
        self, inbox: Inbox, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Connect, and stay connected until cancelled.

        Raises:
            DriverConnectionError: The broker cannot be reached, or refuses the login.
            DriverError: The client has given up, or the event loop has crashed.
            DriverInUse: Another open bus uses this driver.
        """
        if self._is_forked:
            raise BusForked
        if self._trio_side is not None:
            raise DriverInUse("a FastStreamDriver serves one bus at a time: give each its own")
        self._trio_side = TrioSide(self._adapter, self._name, inbox, self._config, self._format)
        try:
            await self._trio_side.run(task_status=task_status)
        finally:
            self._trio_side = None

    async def drain(self) -> None:
        """Stop receiving; waiting events are delivered, or released if the broker is durable."""
        if self._trio_side is not None:
            await self._trio_side.drain()

    async def subscribe(self, names: Sequence[str]) -> None:
        """Receive events of names and patterns; returns when the broker has confirmed it.

        Raises:
            UnsupportedError: The broker is durable, and the bus has no group.
            DriverError: The broker refuses it, or has not confirmed it in time.
        """
        if self.capabilities.durable and self._config.group is None:
            raise group_required(
                f"listening to {names[0]!r} needs one",
                f"{self._name}://...?group=the-service, or BrokerConfig(group=...)",
            )
        await self._running().subscribe(names)

    async def unsubscribe(self, names: Sequence[str]) -> None:
        """Stop receiving names and patterns; waiting events are not delivered."""
        await self._running().unsubscribe(names)

    async def publish(self, message: Message) -> Receipt | None:
        """Publish an event; returns when the broker has accepted it.

        The publish is tried for `BrokerConfig.publish_timeout` seconds while the broker cannot be
        reached. A cancelled publish may have been sent.
        """
        return await self._running().publish(message)

    def publish_nowait(self, message: Message, replied: Callable[[Result], None]) -> None:
        """Publish an event without a task that waits for the answer.

        Args:
            replied: Called once, in Trio's thread, with the receipt or the error.

        Raises:
            trio.WouldBlock: There is no connection.
        """
        if self._trio_side is None:
            raise trio.WouldBlock
        self._trio_side.publish_nowait(message, replied)

    def publish_many_nowait(self, messages: Sequence[Message], replied: BatchReplied) -> int:
        """Publish events in one burst: the client writes them together, and awaits all answers.

        Args:
            messages: The events.
            replied: Called in Trio's thread with the receipts and the errors.

        Returns:
            The number of the events that are taken: 0 if there is no connection.
        """
        if self._trio_side is None:
            return 0
        return self._trio_side.publish_many_nowait(messages, replied)

    # -- direct messages

    async def open_addresses(self, addresses: Sequence[str], take: TakeDirect) -> None:
        """Receive the direct messages to more addresses; see `goevent.drivers.SendsDirectly`.

        Raises:
            UnsupportedError: The driver for this broker has no direct messages.
            DriverError: The broker cannot be reached, or has refused.
        """
        await self._running().open_addresses(addresses, take)

    async def close_addresses(self, addresses: Sequence[str]) -> None:
        """Receive their direct messages no more."""
        await self._running().close_addresses(addresses)

    def send_directly(self, address: str, data: bytes, sent: DirectSent) -> None:
        """Send bytes to all buses that have opened an address, without waiting.

        Args:
            sent: Called once, in Trio's thread, with the number of buses, None if it is unknown,
                or the error. These brokers tell at most that there is no such bus.
        """
        if self._trio_side is None or self._is_forked:
            sent(DriverConnectionError("the FastStream driver does not run: open its bus first"))
        else:
            self._trio_side.send_directly(address, data, sent)

    def snapshot(self) -> DriverSnapshot:
        """Return the state of the connection and the group's work, which is up to a second old."""
        group = self._config.group or ""
        if self._trio_side is None:
            return DriverSnapshot(connected=False, group=group)
        return DriverSnapshot(
            connected=self._trio_side.connected, backlogs=self._adapter.backlogs(), group=group
        )

    def fork(self) -> None:
        """Refuse every request: in a fork of the process the loop has no thread."""
        self._is_forked = True
        if self._trio_side is not None:
            self._trio_side.fork()

    async def _call(self, work: Callable[..., Coroutine[Any, Any, T]], *args: object) -> T:
        return await self._running().call(work, *args)

    def _running(self) -> TrioSide:
        if self._is_forked:
            raise BusForked
        if self._trio_side is None:
            raise DriverConnectionError("the FastStream driver does not run: open its bus first")
        return self._trio_side
