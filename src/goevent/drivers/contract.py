"""The driver contract: how a broker takes events to other buses, and brings theirs.

A driver is a class that declares what its broker can do and knows how to talk to it. It does not
know listeners: it hands over what arrives, and hears once of each delivery that all of them are
done with it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol, Self, cast, runtime_checkable

import msgspec
import trio

from .._errors import EventError, UnsupportedError
from .._wire.envelope import Envelope


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a driver promises, and so what a bus may ask of it.

    Attributes:
        alone: there are no other buses, and nothing of the driver is ever called.
        fan_out: every other bus gets each event, and the dispatching bus brings it to its own
            listeners itself. Without it an event goes through the broker only, and one bus of each
            group gets it.
        durable: an event that was accepted survives a restart of everybody, and is delivered again
            if a bus ends before its listeners are done.
        ordered: events of one name from one bus arrive in the order of dispatch; if they have keys,
            those of one key.
        patterns: the driver can subscribe to patterns.
        headers: headers arrive.
        counts_receivers: a `Receipt` tells how many others got the event.
        across_processes: buses of other processes are reached, so events have to be encodable.
        replay: the broker keeps what was published, and the driver can bring it again.
        lossless: what a publish has accepted arrives at every bus that is subscribed then. Without
            it, what a slow bus or an outage has lost is reported, if the driver can know of it.
        in_flight: how many publishes may be under way at once; they are begun in order.
        max_size: most bytes of a message, above which `Message.encode` refuses it; None for no
            limit but the codec's.
    """

    alone: bool = False
    fan_out: bool = True
    durable: bool = False
    ordered: bool = True
    patterns: bool = True
    headers: bool = True
    counts_receivers: bool = False
    across_processes: bool = True
    replay: bool = False
    lossless: bool = True
    in_flight: int = 1
    max_size: int | None = None


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """What a broker says of an event that it has accepted. A struct, as one is made for each event.

    Attributes:
        id: the broker's name for it, or empty.
        receivers: how many others it went to, None if the broker does not tell.
    """

    id: str = ""
    receivers: int | None = None


@dataclass(frozen=True, slots=True)
class Settlement:
    """The end of a delivery: every listener is done with the event.

    Attributes:
        errors: what failed, was dropped or was abandoned, in order; their `outcome` tells which. An
            event that was abandoned has to come again under `durable`.
        started: False if it was abandoned before any listener began with it, so that handing it
            out need not count. Without errors: nobody listens to it here, or not any more, and
            under `durable` another bus has to get it.
    """

    errors: tuple[EventError, ...] = ()
    started: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """What a durable broker holds of one event name for this bus's group, when last asked.

    Attributes:
        lag: events that nobody of the group has got yet; None if the broker cannot tell.
        pending: events that somebody of the group has got and not acknowledged.
        oldest_pending: seconds since the oldest of those was published; 0.0 if there is none.
    """

    event_name: str
    lag: int | None = None
    pending: int = 0
    oldest_pending: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverSnapshot:
    """A driver at one moment.

    Attributes:
        connected: False while it tries to reach the broker.
        backlogs: of each subscription, if the broker keeps what is not acknowledged.
    """

    connected: bool
    backlogs: tuple[Backlog, ...] = ()


Settle = Callable[[Settlement], None]
Replay = Callable[[str, str | datetime, str | datetime | None, str | None], Awaitable[int]]


class Message(Protocol):
    """One event on its way out."""

    @property
    def event_name(self) -> str:
        """The name under which it was dispatched."""
        ...

    @property
    def event(self) -> Any:
        """The event."""
        ...

    @property
    def handle_id(self) -> str:
        """The id of the dispatch; 16 lower hex digits."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """What travels with it."""
        ...

    @property
    def key(self) -> str | None:
        """What events have in common that must stay in order; None if nothing."""
        ...

    def encode(self, *, origin: str | None = None, seq: int | None = None) -> bytes:
        """Return the envelope as bytes, with the origin of the bus unless another one is given.

        Raises:
            EncodeError: the event cannot be written, or is too large.
        """
        ...

    def envelope(self) -> Envelope:
        """Return the envelope, for a driver that hands over objects."""
        ...


class Inbox(Protocol):
    """The bus, as the driver sees it while it runs."""

    @property
    def origin(self) -> str:
        """The id under which other buses see this one; 32 lower hex digits."""
        ...

    def renew_origin(self) -> str:
        """Draw another origin, for a connection that was lost; echoes of the old one stay ours."""
        ...

    def is_own(self, envelope: Envelope) -> bool:
        """Tell whether an envelope comes from this bus."""
        ...

    async def receive(
        self, name: str, data: bytes, settle: Settle | None = None, *, deliveries: int = 1
    ) -> None:
        """Bring bytes that arrived under a name to the listeners.

        Returns when they are in the mailboxes and the inline listeners have run; a full mailbox
        holds the driver back, so one that awaits this keeps the order. Bytes that cannot be decoded
        are reported; this bus's own are ignored under `fan_out`. Whatever becomes of them, also if
        this is cancelled, `settle` is called exactly once, and not later than the bus ends. That
        may be after `run` has ended, when nothing can be acknowledged any more.

        Args:
            name: the event's name, also if it was subscribed to by a pattern.
            deliveries: how often the broker has handed it out, this time included.
        """
        ...

    async def deliver(
        self, envelope: Envelope, settle: Settle | None = None, *, deliveries: int = 1
    ) -> None:
        """Bring a decoded event to the listeners, as `receive` does."""
        ...

    def deliver_nowait(
        self, envelope: Envelope, settle: Settle | None = None, *, deliveries: int = 1
    ) -> bool:
        """Bring a decoded event to the listeners at once, as `deliver` does.

        Returns False if that would have to wait, for room in a mailbox or for a listener that
        dispatch awaits; then nothing has happened, and `deliver` is to be called. Events that wait
        for it already must not be overtaken.
        """
        ...

    def decode(self, name: str, data: bytes) -> Envelope:
        """Return the envelope in the bytes.

        Raises:
            DecodeError: they are none, or belong to another name.
        """
        ...

    def report(self, error: Exception, event_name: str = "") -> None:
        """Tell the supervisor of something that went wrong, or was lost."""
        ...

    def lost(self, event_name: str) -> object:
        """Report an event that has arrived and cannot be delivered, as the bus ends."""
        ...


@runtime_checkable
class Driver(Protocol):
    """Takes events to other buses and brings theirs.

    The bus runs `run` as a task. While it runs, the other methods may be called, also at the same
    time, and may be cancelled. One that fails raises a `DriverError`; another exception ends the
    bus. A driver object serves one bus at a time, which may open and close many times.

    It may also have an `async def drain(self)`, for the end of the bus: receive no more, and return
    when all that has arrived is handed over. Without it the bus unsubscribes from everything.
    After it, listeners go on and may publish, until `run` is cancelled. It may have a
    `def snapshot(self) -> DriverSnapshot`, which `bus.snapshot()` shows; it must not wait. And with
    the capability `replay` it has an `async def replay(self, name, start, end, group) -> int`,
    which is `bus.replay`.

    For speed it may have a `def publish_nowait(self, message, replied)`, by which publishing takes
    no task: it sends the message, or raises `trio.WouldBlock` if it cannot now, and `publish` is
    called instead. Once the broker has answered, or never will, it calls `replied` with what
    `publish` would return or raise. Until then the event counts as one of `in_flight`.

    Attributes:
        schemes: the URL schemes that it answers to, each an entry point of its package in the group
            `goevent.drivers`.
    """

    schemes: tuple[str, ...]

    @property
    def capabilities(self) -> Capabilities:
        """What this driver can do, as it is configured."""
        ...

    @classmethod
    def from_url(cls, url: str) -> Self:
        """Return the driver that a URL stands for, or the bare name of a scheme: all defaults.

        Raises:
            ValueError: the URL asks for something that makes no sense.
        """
        ...

    async def run(self, inbox: Inbox, *, task_status: trio.TaskStatus[None]) -> None:
        """Connect, then receive until cancelled; started when the driver can be used.

        It begins without subscriptions, and leaves no task behind. A lost connection is reported
        to the inbox and made again, with the subscriptions of before. If it returns or raises, the
        bus ends.

        Raises:
            DriverError: the broker cannot be reached, or not any more.
        """
        ...

    async def subscribe(self, names: Sequence[str]) -> None:
        """Receive events of these names and patterns; returns when the broker has confirmed it.

        An event is handed over once, also if several of them match it; `compile_pattern` tells
        whether a pattern does. If it fails, none of them counts as subscribed to, and the bus
        tries again.
        """
        ...

    async def unsubscribe(self, names: Sequence[str]) -> None:
        """Receive them no more; after it, none is handed over."""
        ...

    async def publish(self, message: Message) -> Receipt | None:
        """Take an event to the other buses; returns when the broker has accepted it.

        Raises:
            DriverError: the broker cannot be reached, or has refused it.
            EncodeError: from `Message.encode`, to be passed on.
        """
        ...


def replayer(driver: Driver) -> Replay:
    """Return how a driver brings events again.

    Raises:
        UnsupportedError: it cannot.
    """
    if not driver.capabilities.replay:
        kind = type(driver).__qualname__
        raise UnsupportedError(f"{kind} keeps no events that could be replayed")
    return cast("Replay", getattr(driver, "replay"))  # noqa: B009
