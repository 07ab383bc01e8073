"""The inspection of a broker: the questions of operators, which change nothing there.

A driver may have each of the three methods of `Inspects`, and needs none of them. They are called
while the driver runs in an open bus, and that bus may have no listeners, belong to no group and
subscribe to nothing. So no question takes an event from anybody, joins a group or moves an offset.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, Protocol, cast

import trio

from .._errors import UnsupportedError
from .contract import Backlog, Driver


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something at the broker that endangers a promise of the driver, or makes it fail.

    Attributes:
        severity: `"error"` if events cannot be published or received; `"warning"` if they can, and
            the driver cannot keep all of its promises.
        text: The fault and its remedy, in one line, without secrets.
    """

    severity: Literal["warning", "error"]
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TailedEvent:
    """An event that passed through the broker, seen without taking it from anybody.

    Attributes:
        event_name: The name of the event.
        data: The bytes of its message. They may be anything.
        id: The broker's id of the event; empty if it has none.
        headers: The broker's headers of the message, as text.
        time: When the event was published; None if the broker does not tell.
        missed: How many events before this one were not shown, because the reader was too slow. It
            stays 0 where the broker keeps events and waits, and where it drops them untold, as
            RabbitMQ does beyond a limit.
    """

    event_name: str
    data: bytes
    id: str = ""
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    time: datetime | None = None
    missed: int = 0


class Inspects(Protocol):
    """The three questions. Each method raises a `DriverError` if the broker cannot be asked.

    A method that the driver has may still raise `UnsupportedError`, if the answer depends on its
    configuration.
    """

    async def check(self, names: Sequence[str]) -> Sequence[Finding]:
        """Look for missing rights, and for settings that endanger the promises of the driver.

        Args:
            names: The names and patterns of the listeners and the event types of the program.

        Returns:
            The findings, errors first; none if all is well. A question that the broker forbids is
            no finding, unless the answer is needed for the promise.
        """
        ...

    async def lag(self, group: str, names: Sequence[str] = ()) -> Sequence[Backlog]:
        """Return the backlog of a group for each event name that the broker knows it to read.

        Args:
            group: The consumer group; it may have no consumer at present.
            names: Names and patterns that the group is known to read. Only a broker that cannot
                list what a group reads needs them.

        Returns:
            The backlogs in the order of their names; none if the broker knows no such group.

        Raises:
            UnsupportedError: The broker cannot tell.
        """
        ...

    def tail(
        self, pattern: str
    ) -> AbstractAsyncContextManager[trio.abc.ReceiveChannel[TailedEvent]]:
        """Show the events that are published from the entry of the block on, while it lasts.

        The block is entered when the broker has confirmed. The events come in the order of the
        broker, and an event that comes twice there may be shown twice. A reader that is slow is
        held back where the broker keeps events; where it does not, events are left out and counted
        in `TailedEvent.missed`. If the connection is lost, the channel goes on once it is back. If
        the tail cannot go on, `receive` raises a `DriverError`. The block has to end before the
        bus does. `running_tail` has the parts that every driver needs for this.

        Args:
            pattern: An event name or a pattern.

        Raises:
            UnsupportedError: The broker cannot show events without giving them to a group.
            DriverError: The broker refuses it.
            ValueError: The pattern makes no sense.
        """
        ...


def inspected(driver: Driver, question: Literal["check", "lag", "tail"]) -> Inspects:
    """Return a driver as one that answers a question.

    Raises:
        UnsupportedError: It has no method for it.
    """
    if not hasattr(driver, question):
        purpose = {
            "check": "check its broker",
            "lag": "tell the backlog of a group",
            "tail": "show the events that pass",
        }[question]
        raise UnsupportedError(f"{type(driver).__qualname__} cannot {purpose}")
    return cast("Inspects", driver)
