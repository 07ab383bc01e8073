"""The dialect: all that the driver asks of one broker, and what it gives it for that.

A dialect lives on the island: each of its coroutines runs on the asyncio loop, and it may use the
FastStream broker there as it likes. It knows no Trio, no listeners, no retries and no envelopes: it
turns event names into the broker's own, hands over what arrives, and does with each arrival what a
verdict says.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol

from goevent import DriverError
from goevent.drivers import Backlog, Capabilities, Receipt

Result = Receipt | Exception | None


@dataclass(slots=True, eq=False)
class Outgoing:
    """One event on its way to the broker.

    Attributes:
        name: the event's name.
        body: the bytes.
        headers: what the format wants beside them; the broker's own headers take them. Where it
            has a place of its own for `content-type` or `correlation_id`, that takes it.
        id: the handle's id, which the broker may use to tell what it has got twice.
        key: what events have in common that must stay in order.
        replied: what Trio is to be told by.
        answer: where the answer goes to.
        result: the answer.
    """

    name: str
    body: bytes
    headers: Mapping[str, str]
    id: str
    key: str | None
    replied: Callable[[Result], None]
    answer: Callable[[Outgoing], None]
    result: Result = None

    def done(self, result: Result) -> None:
        """Take the broker's answer, a receipt or an error; called on the island, exactly once."""
        self.result = result
        self.answer(self)


@dataclass(slots=True, eq=False)
class Arrival:
    """One message that has arrived, until it is settled.

    Attributes:
        name: the event's name.
        via: the name or pattern, as it was subscribed to, by which it has come.
        body: the bytes.
        headers: the broker's own headers, as text, with `content-type` and `correlation_id`,
            wherever the broker has them.
        deliveries: how often it was handed out, this time included; 1 if the broker cannot tell.
        id: what the broker calls it.
        raw: the dialect's own: what it needs to carry out the verdict.
    """

    name: str
    via: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    deliveries: int = 1
    id: str = ""
    raw: Any = None


class Fate(Enum):
    """What is to become of an arrival.

    DONE: it is acknowledged.
    AGAIN: its listeners failed; it comes again after the pause.
    BACK: nobody has begun with it, or the bus ends; it is for others, at once, and if nobody has
        begun, and the broker can be told so, it does not count as delivered.
    DEAD: it is put among the dead letters, and then, not before, acknowledged.
    """

    DONE = "done"
    AGAIN = "again"
    BACK = "back"
    DEAD = "dead"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to become of one arrival.

    Attributes:
        pause: seconds until it comes again.
        reason: why it is a dead letter, in one line.
        details: the end of the traceback, if a listener failed on it.
        reported: the supervisor knows of the reason.
        begun: a listener has begun with it, so that it was delivered, whatever becomes of it.
    """

    arrival: Arrival
    fate: Fate = Fate.DONE
    pause: float = 0.0
    reason: str = ""
    details: str = ""
    reported: bool = False
    begun: bool = False


class Shore(Protocol):
    """The driver, as a dialect sees it; every method is called on the island."""

    async def arrived(self, arrival: Arrival) -> None:
        """Hand an arrival over; waits while the bus holds as many as it may.

        That wait is what has to reach the broker: receive no more while it lasts. Calls one after
        the other keep the order.
        """
        ...

    def room(self) -> int:
        """Return how many more may be handed over without waiting."""
        ...

    async def vacancy(self) -> None:
        """Wait until there is room for one more."""
        ...

    def report(self, error: Exception, event_name: str = "") -> None:
        """Tell the supervisor of what went wrong, or was lost."""
        ...

    def is_connected(self, connected: bool, reason: str = "") -> None:
        """Tell that the connection was lost, or is back; each change is reported, once."""
        ...

    def end(self, error: DriverError) -> None:
        """End the bus: the broker's client has given up."""
        ...


class Dialect(Protocol):
    """One broker.

    A method that fails raises a `DriverError`; the driver maps nothing. They may run at the same
    time, but for `open` and `close`.
    """

    @property
    def capabilities(self) -> Capabilities:
        """What the broker can do, as it is configured; asked for before `open`, too."""
        ...

    async def open(self, shore: Shore) -> None:
        """Connect, without subscriptions; within `CONNECT_TIMEOUT`.

        From here on the dialect keeps the connection up by itself, and tells of its loss.

        Raises:
            DriverConnectionError: the broker cannot be reached, or does not let us in.
        """
        ...

    async def close(self) -> None:
        """Disconnect and leave nothing behind; also if `open` has failed, or the loop crashed."""
        ...

    async def subscribe(self, names: Sequence[str]) -> None:
        """Receive events of names and patterns; returns when the broker has confirmed it.

        Each message arrives once, however many of them match it. If it fails, none counts.
        """
        ...

    async def unsubscribe(self, names: Sequence[str]) -> None:
        """Receive them no more. What arrives nevertheless is given back by the driver."""
        ...

    async def stop_receiving(self) -> None:
        """Receive nothing more, and return when all that has arrived is handed over."""
        ...

    async def publish(self, burst: Sequence[Outgoing]) -> None:
        """Publish a burst in order, and call `done` of each; raises nothing.

        It is not called again before it has begun with the whole burst, but while it waits for the
        broker's answers.
        """
        ...

    async def settle(self, verdicts: Sequence[Verdict]) -> None:
        """Tell the broker what became of arrivals; only if `capabilities.durable`.

        One call after the other. What cannot be told, for want of a connection or otherwise, comes
        again; a dead letter is written before the broker is told that it is done.
        """
        ...

    def backlogs(self) -> tuple[Backlog, ...]:
        """Return what the group has to do, as last seen; called by Trio, so it only looks."""
        ...


async def each_alone(
    burst: Sequence[Outgoing], publish: Callable[[Outgoing], Coroutine[Any, Any, Result]]
) -> None:
    """Publish each event of a burst by a task of its own, begun in order."""

    async def one(outgoing: Outgoing) -> None:
        result: Result
        try:
            result = await publish(outgoing)
        except DriverError as error:
            result = error
        except asyncio.CancelledError:
            outgoing.done(DriverError("the bus has ended before the broker replied"))
            raise
        outgoing.done(result)

    async with asyncio.TaskGroup() as tasks:
        for outgoing in burst:
            tasks.create_task(one(outgoing))
