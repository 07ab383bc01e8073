"""The driver contract: the `Driver`, the `Inbox`, and the values that pass between them.

A driver carries events between this bus and its broker. The bus calls the `Driver`; the driver
calls the `Inbox` for each event that arrives, and for each report. A driver knows no listeners.

**Ordering.** The bus dispatches events in order, and calls `publish` or `publish_nowait` in that
order, with at most `Capabilities.in_flight` publishes under way. A driver that promises `ordered`
begins them in that order. In the other direction, a driver that awaits each `Inbox.deliver` before
the next one keeps the order of arrival. After `deliver_nowait` has returned False, no later event
may overtake that one.

**Cancellation.** Each method of a driver may be cancelled. A cancelled `publish` may or may not
have reached the broker. A cancelled `subscribe` counts as failed. When `run` is cancelled, it
releases the events that it holds, disconnects, and leaves no task behind. It may shield that work,
with a deadline.

**Settling once.** The bus calls the `settle` callback of a delivery exactly once: when every
listener is done with the event, or was cancelled, or never began. It does so even if `receive` or
`deliver` is cancelled or raises, and not later than the bus ends. The one exception is a
`deliver_nowait` that returns False: nothing has happened, and `settle` is not called. A settlement
can come after `run` has ended, too late to be acknowledged. The driver ignores it, and a durable
broker delivers the event again.
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
    """The promises of a driver. The bus refuses options that they do not cover.

    Attributes:
        alone: There are no other buses, and the bus calls no method of the driver.
        fan_out: Every other bus gets each event, and the dispatching bus calls its own listeners
            itself. Without it, an event goes through the broker only, and one bus of each group
            gets it.
        durable: An accepted event survives a restart of all buses and of the broker. It is
            delivered again if a bus ends before its listeners are done.
        ordered: Events of one name from one bus arrive in the order of dispatch. If events have
            keys, this holds among the events of one key.
        patterns: The driver can subscribe to patterns.
        headers: Headers arrive.
        counts_receivers: A `Receipt` tells how many other buses got the event.
        across_processes: The driver reaches buses of other processes, so events must be encodable.
        replay: The broker keeps published events, and the driver can deliver them again.
        replies: The driver carries direct messages between buses, so that `bus.request` and
            `wait(scope="all")` work; see `goevent.drivers.SendsDirectly`.
        lossless: An accepted event arrives at every bus that is subscribed at that time. Without
            it, events that a slow bus or an outage has lost are reported, if the driver can know of
            them.
        in_flight: How many publishes may be under way at once; they begin in order.
        max_size: The largest size of a message in bytes; `Message.encode` refuses a larger one.
            None for no limit but the codec's.
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
    replies: bool = False
    lossless: bool = True
    in_flight: int = 1
    max_size: int | None = None


# A struct: one is made for each event.
class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """The broker's answer for an event that it has accepted.

    Attributes:
        id: The broker's id of the event, or empty.
        receivers: The number of other buses that it went to; None if the broker does not tell.
    """

    id: str = ""
    receivers: int | None = None


@dataclass(frozen=True, slots=True)
class Settlement:
    """The end of a delivery: every listener is done with the event.

    A durable driver passes it to `goevent.drivers.verdict`.

    Attributes:
        errors: The errors of the listeners, in order. The `outcome` of an error tells whether the
            event failed, was dropped or was abandoned. Under `durable` an abandoned event has to
            be delivered again.
        started: False if no listener began with the event, so the delivery need not count. If there
            are no errors either, this bus has no listener for the event, and under `durable`
            another bus has to get it.
    """

    errors: tuple[EventError, ...] = ()
    started: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """The work that a durable broker holds for this bus's group, for one event name, as last seen.

    Attributes:
        event_name: The name.
        lag: The number of events that were not delivered to the group yet; None if the broker
            cannot tell.
        pending: The number of events that were delivered and not acknowledged.
        oldest_pending: Seconds since the oldest pending event was published; 0.0 without one.
        oldest_waiting: Seconds since the oldest event that was not delivered to the group yet was
            published; 0.0 without one, None if the broker cannot tell.
    """

    event_name: str
    lag: int | None = None
    pending: int = 0
    oldest_pending: float = 0.0
    oldest_waiting: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverSnapshot:
    """The state of a driver at one moment.

    Attributes:
        connected: False while the driver tries to reach the broker.
        backlogs: The backlog of each subscribed name, if the broker is durable.
        group: The consumer group that has these backlogs; empty without one.
    """

    connected: bool
    backlogs: tuple[Backlog, ...] = ()
    group: str = ""


Settle = Callable[[Settlement], None]
"""The callback of a delivery, which the bus calls once."""


class BatchReplied(Protocol):
    """The callback of a batch of messages; see `Driver.publish_many_nowait`."""

    def __call__(self, results: Sequence[Receipt | Exception | None], first: int = 0) -> None:
        """Take the results of some messages, in a row.

        Args:
            results: For each message, its `Receipt` or the error of `publish`.
            first: The place of the first of these messages in the batch.
        """
        ...


Replay = Callable[[str, str | datetime, str | datetime | None, str | None], Awaitable[int]]


class Message(Protocol):
    """One event on its way to the broker."""

    @property
    def event_name(self) -> str:
        """The name under which the event was dispatched."""
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
        """The headers of the event."""
        ...

    @property
    def key(self) -> str | None:
        """The key of the event: events with the same key stay in order; None without one."""
        ...

    def encode(self, *, origin: str | None = None, seq: int | None = None) -> bytes:
        """Return the envelope as bytes.

        Args:
            origin: The origin of the sender; that of the bus if None.
            seq: A number with which receivers detect gaps.

        Raises:
            EncodeError: The event cannot be encoded, or is too large.
        """
        ...

    def envelope(self) -> Envelope:
        """Return the envelope, for a driver that passes objects on without encoding them."""
        ...


class Inbox(Protocol):
    """The bus, as a driver sees it while `Driver.run` runs.

    All methods belong to Trio's thread; a driver with threads returns to it first.
    """

    @property
    def origin(self) -> str:
        """The id by which other buses know this one; 32 lower hex digits."""
        ...

    def renew_origin(self) -> str:
        """Draw a new origin after a lost connection; the old one still marks own envelopes."""
        ...

    def is_own(self, envelope: Envelope) -> bool:
        """Tell whether this bus sent an envelope."""
        ...

    async def receive(
        self, name: str, data: bytes, settle: Settle | None = None, *, deliveries: int = 1
    ) -> None:
        """Deliver an encoded event to the listeners.

        Returns when the event is in the mailboxes and the inline listeners have run. A full mailbox
        makes this wait, so a driver that awaits it keeps the order and is held back. Bytes that
        cannot be decoded are reported. Under `fan_out` the bus ignores its own events. The bus
        calls `settle` exactly once in each of these cases, even if this is cancelled, and not later
        than the bus ends. That may be after `Driver.run` has ended, when nothing can be
        acknowledged any more.

        Args:
            name: The name of the event, even if it was subscribed to by a pattern.
            data: The bytes of its envelope.
            settle: Called when every listener is done.
            deliveries: How often the broker has delivered the event, this time included.
        """
        ...

    async def deliver(
        self, envelope: Envelope, settle: Settle | None = None, *, deliveries: int = 1
    ) -> None:
        """Deliver a decoded event to the listeners, as `receive` does."""
        ...

    def deliver_nowait(
        self, envelope: Envelope, settle: Settle | None = None, *, deliveries: int = 1
    ) -> bool:
        """Deliver a decoded event to the listeners at once, as `deliver` does.

        Returns:
            False if that would have to wait, for room in a mailbox or for an inline `async`
            listener. Then nothing has happened, `settle` is not called, and the driver calls
            `deliver` instead. Later events must not overtake that one.
        """
        ...

    def decode(self, name: str, data: bytes) -> Envelope:
        """Return the envelope in the bytes.

        Raises:
            DecodeError: The bytes hold no envelope, or one with another name.
        """
        ...

    def report(self, error: Exception, event_name: str = "") -> None:
        """Report to the supervisor that something failed, or that an event was lost."""
        ...

    def lost(self, event_name: str) -> object:
        """Report an event that arrived and cannot be delivered because the bus ends."""
        ...


@runtime_checkable
class Driver(Protocol):
    """Carries events to other buses, and delivers theirs.

    The bus runs `run` as a task. While it runs, the bus calls the other methods, several at the
    same time, and may cancel each of them. A driver object serves one bus at a time, which may open
    and close many times.

    A method that fails raises a `DriverError` with the reason. A refusal by the broker goes to the
    request that it answers: a refused publish is the error of `publish`, a refused subscription
    that of `subscribe`. If no call waits for the answer any more, as after a reconnection, the
    driver reports the refusal once. It repeats no request that can only be refused again. Any other
    exception of a method becomes a `DriverError`, with the exception as its cause.

    Six more methods are optional:

    - `async def drain(self)`: The bus ends. Receive no more, and return when all events that have
      arrived are delivered, or released if the driver is durable. Afterwards listeners go on and
      may publish, until `run` is cancelled. Without this method the bus unsubscribes from
      everything.
    - `def fork(self) -> None`: This process is a fork of the one that runs the driver. The bus
      calls it in the child, before any other code, and calls nothing else there. From now on the
      driver's own methods and clients raise `BusForked`. It touches no socket, thread or lock.
    - `def snapshot(self) -> DriverSnapshot`: The state of the driver, which `bus.snapshot()` shows.
    - `async def replay(self, name, start, end, group) -> int`: The work of `bus.replay`; needed
      for the capability `replay`.
    - `def publish_nowait(self, message, replied)`: Publish without a task, for speed. It sends the
      message; or it raises `trio.WouldBlock` if it cannot now, and the bus calls `publish` instead.
      When the broker has answered, or never will, it calls `replied` with the `Receipt` or the
      error of `publish`. Until then the event counts as one of `in_flight`.
    - `def publish_many_nowait(self, messages, replied) -> int`: Publish a batch without a task, in
      one write if possible. It sends the first messages, in order, as many as it can now, and
      returns their number; the bus calls `publish` for the others. For the messages that it has
      taken it calls `replied`, a `BatchReplied`, as often as it likes: once for each is enough. If
      `Message.encode` raises for one of them, that error is the result of this message only.

    The methods of `goevent.drivers.SendsDirectly` are needed for the capability `replies`. The
    questions of operators, `check`, `lag` and `tail`, are optional, too; see
    `goevent.drivers.Inspects`. So is the attribute `identity`, a `goevent.drivers.BrokerIdentity`,
    from which telemetry has the name and the address of the broker, and the method `describe`, from
    which AsyncAPI documents have the servers and the places of events; see
    `goevent.drivers.Describes`.

    Attributes:
        schemes: The URL schemes of the driver, each an entry point of its package in the group
            `goevent.drivers`.
    """

    schemes: tuple[str, ...]

    @property
    def capabilities(self) -> Capabilities:
        """The promises of this driver, as it is configured."""
        ...

    @classmethod
    def from_url(cls, url: str) -> Self:
        """Return the driver for a URL, or for the bare name of a scheme: all defaults.

        Raises:
            ValueError: The URL makes no sense.
        """
        ...

    async def run(self, inbox: Inbox, *, task_status: trio.TaskStatus[None]) -> None:
        """Connect, then receive until cancelled; started when the driver can be used.

        It begins without subscriptions, and leaves no task behind. If the connection is lost, the
        driver reports it to the inbox, connects again and renews the subscriptions. If this returns
        or raises, the bus ends.

        Raises:
            DriverError: The broker cannot be reached, or no longer.
        """
        ...

    async def subscribe(self, names: Sequence[str]) -> None:
        """Receive events of these names and patterns; returns when the broker has confirmed it.

        An event is delivered once, even if several names and patterns match it; `compile_pattern`
        tells whether a pattern does. If this fails, none of them is subscribed to, and the bus
        tries again.
        """
        ...

    async def unsubscribe(self, names: Sequence[str]) -> None:
        """Receive them no more; afterwards no event of them is delivered."""
        ...

    async def publish(self, message: Message) -> Receipt | None:
        """Publish an event; returns when the broker has accepted it.

        Raises:
            DriverError: The broker cannot be reached, or has refused the event.
            EncodeError: From `Message.encode`; the driver lets it pass.
        """
        ...


def replayer(driver: Driver) -> Replay:
    """Return the `replay` method of a driver.

    Raises:
        UnsupportedError: The driver has none.
    """
    if not driver.capabilities.replay:
        kind = type(driver).__qualname__
        raise UnsupportedError(f"{kind} keeps no events that could be replayed")
    return cast("Replay", getattr(driver, "replay"))  # noqa: B009
