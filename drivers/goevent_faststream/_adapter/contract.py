"""The contract between the bridge and the adapter of one broker.

An `Adapter` runs on the loop side: each of its coroutines runs on the asyncio loop and may use
FastStream's broker there. It turns event names into the broker's own names, delivers messages to
its `AdapterHost`, and carries out each `Decision` at the broker. It knows no Trio, no listeners,
no retry policy and no envelopes. The loop side of the bridge implements `AdapterHost`; the Trio
side makes the decisions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from goevent import DriverError
from goevent.drivers import (
    Backlog,
    Capabilities,
    DeadLetterStore,
    DirectSent,
    Finding,
    Receipt,
    TailedEvent,
    TakeDirect,
    Verdict,
)

Result = Receipt | Exception | None

# The events that a bus has published and the broker has not confirmed, for brokers without a limit.
MAX_IN_FLIGHT_EVENTS = 1000


@dataclass(slots=True, eq=False)
class Outgoing:
    """One event on its way to the broker.

    Attributes:
        name: The event name.
        body: The bytes of the message.
        headers: Headers of the format. They travel as the broker's own headers; a broker that has
            a property for `content-type` or `correlation_id` uses that property instead.
        id: The id of the handle. A broker may use it to drop an event that it has already.
        key: The key of the event, or None. Events with the same key stay in order.
        replied: Called on Trio's side with the result.
        answer: Called on the loop side with this object when the result is known.
        result: The receipt or the error, once `done` was called.
    """

    name: str
    body: bytes
    headers: Mapping[str, str]
    id: str
    key: str | None
    replied: Callable[[Result], None]
    answer: Callable[[Outgoing], None]
    result: Result = None
    is_done: bool = False

    def done(self, result: Result) -> None:
        """Take the receipt or the error; the adapter calls this exactly once, on the loop side."""
        self.is_done = True
        self.result = result
        self.answer(self)


@dataclass(slots=True, eq=False)
class Arrival:
    """One message from the broker, until it is settled.

    Attributes:
        name: The event name.
        via: The name or pattern, as it was subscribed to, that brought the message. Empty if the
            message comes once for all that it matches; then any that is left suffices.
        body: The bytes of the message.
        headers: The broker's headers as text. `content-type` and `correlation_id` are among them,
            even if the broker has properties for them.
        deliveries: The number of deliveries, including this one; 1 if the broker does not count.
        id: The broker's id of the message.
        raw: The adapter's own data, which it needs to settle the message.
        is_repeat: Whether the message may have been delivered before without being counted. Its
            listeners see it as redelivered, and `deliveries` alone decides when it is given up.
    """

    name: str
    via: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    deliveries: int = 1
    id: str = ""
    raw: Any = None
    is_repeat: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """The verdict on one arrival."""

    arrival: Arrival
    verdict: Verdict


@dataclass(slots=True, eq=False)
class OutgoingDirect:
    """One direct message on its way to the broker.

    Attributes:
        address: The address.
        data: The bytes.
        sent: Called on Trio's side with the result.
        answer: Called on the loop side with this object when the result is known.
        result: The number of buses that got it, None if unknown, or the error; once `done` was
            called.
    """

    address: str
    data: bytes
    sent: DirectSent
    answer: Callable[[OutgoingDirect], None]
    result: int | DriverError | None = None
    is_done: bool = False

    def done(self, result: int | DriverError | None) -> None:
        """Take the result; the adapter calls this on the loop side, and only the first counts."""
        if not self.is_done:
            self.is_done = True
            self.result = result
            self.answer(self)


class AdapterHost(Protocol):
    """The bridge, as an adapter sees it; every method is called on the loop side."""

    async def deliver(self, arrival: Arrival) -> None:
        """Deliver an arrival to the bus; waits while the bus holds enough of them.

        Enough are `prefetch` arrivals, or `prefetch_bytes` of their bodies. This wait is the
        back-pressure: an adapter must not receive more while it lasts. Sequential calls keep their
        order.
        """
        ...

    def deliver_nowait(self, arrival: Arrival) -> None:
        """Deliver an arrival at once, beyond the bound if need be: its wait had to end."""
        ...

    def capacity(self) -> int:
        """Return how many arrivals can be delivered without waiting."""
        ...

    async def wait_for_capacity(self) -> None:
        """Wait until one more arrival can be delivered without waiting."""
        ...

    def report(self, error: Exception, event_name: str = "") -> None:
        """Report an error or a loss to the supervisor."""
        ...

    def connection_changed(self, connected: bool, reason: str = "") -> None:
        """Report that the connection is lost or back; a repeated state is reported once."""
        ...

    def fail(self, error: DriverError) -> None:
        """Close the bus with an error: the client has given up."""
        ...


class Adapter(Protocol):
    """The adapter of one broker.

    A method that fails raises a `DriverError`: the adapter maps the errors of its client. All
    methods but `open` and `close` may run concurrently.

    A refusal by the broker goes to the request that it answers: to `done` of the event, or out of
    `subscribe` as its error. A refusal that no call waits for any more, as that of a subscription
    which the adapter renews, is one report to the host, with its reason and the event name. The
    adapter repeats no request that can only be refused again, and goes on with the others.
    """

    @property
    def inspection(self) -> object:
        """The object that answers the questions of operators, as far as the broker can.

        It has the methods of `ChecksBroker`, `TellsLag` and `TailsEvents` that the broker allows.
        """
        ...

    @property
    def capabilities(self) -> Capabilities:
        """The guarantees of the broker with this configuration; also read before `open`."""
        ...

    async def open(self, host: AdapterHost) -> None:
        """Connect, without subscriptions; within `CONNECT_TIMEOUT_SECONDS`.

        From here on the adapter keeps the connection up and reports when it is lost.

        Raises:
            DriverConnectionError: The broker cannot be reached, or refuses the login.
        """
        ...

    async def close(self) -> None:
        """Disconnect and release everything, even if `open` has failed or the loop crashed."""
        ...

    async def subscribe(self, names: Sequence[str]) -> None:
        """Receive events of names and patterns; returns when the broker has confirmed it.

        A message that matches several of them is delivered once. If this fails, no subscription
        of this call remains.
        """
        ...

    async def unsubscribe(self, names: Sequence[str]) -> None:
        """Stop receiving names and patterns. The bridge releases messages that still arrive."""
        ...

    async def stop_receiving(self) -> None:
        """Stop receiving; returns when every message that has arrived is delivered."""
        ...

    async def publish(self, burst: Sequence[Outgoing]) -> None:
        """Publish a burst in order and call `done` of each event.

        It raises nothing. If it does, the events that are not done fail with the exception.

        The next call may come while this one waits for the broker's answers, but not before all
        events of this burst are on their way.
        """
        ...

    async def settle(self, decisions: Sequence[Decision]) -> None:
        """Carry out decisions; called only if `capabilities.durable`.

        Calls do not overlap. Without a connection a verdict is lost, and the broker redelivers
        the event. A dead letter is written before it is acknowledged.
        """
        ...

    def backlogs(self) -> tuple[Backlog, ...]:
        """Return the group's work as last seen; called from Trio's thread, so it does no I/O."""
        ...


@runtime_checkable
class ShowsDeadLetters(Protocol):
    """An adapter whose broker can list the dead letters of the group."""

    @property
    def dead_letters(self) -> DeadLetterStore:
        """The store; its methods run on the loop side."""
        ...


class DirectMessages(Protocol):
    """The direct messages of one broker; its methods run on the loop side.

    They use the connection of the adapter. They are open after `stop_receiving`, too, and until
    `Adapter.close`.
    """

    async def open_addresses(self, addresses: Sequence[str], take: TakeDirect) -> None:
        """Receive the messages to more addresses; returns when the broker has confirmed it.

        Args:
            addresses: Those that are open already are confirmed, and no more.
            take: Takes a message on the loop side. It does not wait.

        Raises:
            DriverError: The broker cannot be reached, or has refused. None of them is open then.
        """
        ...

    async def close_addresses(self, addresses: Sequence[str]) -> None:
        """Receive their messages no more.

        Raises:
            DriverError: The broker has refused.
        """
        ...

    def send(self, burst: Sequence[OutgoingDirect]) -> None:
        """Send messages in order, and call `done` of each when its result is known.

        It does not wait. Messages that wait for the broker do not wait for events. The bridge
        bounds their bytes, and answers those that are not done at the end.
        """
        ...


@runtime_checkable
class CarriesDirectMessages(Protocol):
    """An adapter with the capability `replies`."""

    @property
    def direct(self) -> DirectMessages:
        """The direct messages of the bus."""
        ...


ShowEvent = Callable[[TailedEvent], Coroutine[Any, Any, None]]
"""Takes one event of a tail; it waits while the reader is slow."""


@runtime_checkable
class ChecksBroker(Protocol):
    """An inspection that answers `check` of `goevent.drivers.Inspects`; runs on the loop side."""

    async def check(self, names: Sequence[str]) -> Sequence[Finding]:
        """Look for missing rights, and for settings that endanger the adapter's promises."""
        ...


@runtime_checkable
class TellsLag(Protocol):
    """An inspection that answers `lag` of `goevent.drivers.Inspects`; runs on the loop side."""

    async def lag(self, group: str, names: Sequence[str] = ()) -> Sequence[Backlog]:
        """Return the backlog of a group for each event name that the broker knows it to read."""
        ...


@runtime_checkable
class TailsEvents(Protocol):
    """An inspection that answers `tail` of `goevent.drivers.Inspects`; runs on the loop side."""

    async def tail(
        self,
        pattern: str,
        show: ShowEvent,
        started: Callable[[], None],
    ) -> None:
        """Show the events that are published from now on, until cancelled.

        Args:
            pattern: An event name or a pattern.
            show: Takes one event; it waits while the reader is slow.
            started: Called once, when the broker has confirmed.

        Raises:
            UnsupportedError: The broker cannot show events without giving them to a group.
            DriverError: The broker refuses it.
        """
        ...


def failed_publish(error: Exception) -> DriverError:
    """Return the result of an event whose publish has raised an exception that is not mapped."""
    failure = DriverError(f"the client failed to publish: {error!r}")
    failure.__cause__ = error
    return failure


async def publish_each(
    burst: Sequence[Outgoing], publish: Callable[[Outgoing], Coroutine[Any, Any, Result]]
) -> None:
    """Publish each event of a burst in a task of its own; the tasks start in order."""

    async def one(outgoing: Outgoing) -> None:
        result: Result
        try:
            result = await publish(outgoing)
        except DriverError as error:
            result = error
        except Exception as error:  # noqa: BLE001 - the event fails with it, and no other one
            result = failed_publish(error)
        except asyncio.CancelledError:
            # Each event is answered, even at the end of the bus.
            outgoing.done(DriverError("the bus has ended before the broker replied"))
            raise
        outgoing.done(result)

    async with asyncio.TaskGroup() as tasks:
        for outgoing in burst:
            tasks.create_task(one(outgoing))
