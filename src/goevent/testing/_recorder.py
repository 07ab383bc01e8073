"""The recorder: lists of the events of a bus and of the runs of its listeners."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import trio

from .. import GoEvent, Ledger
from .._errors import require_trio
from .._options.signature import handler_name
from .._suggestions import did_you_mean

E = TypeVar("E")


@dataclass(frozen=True, slots=True)
class Run:
    """One call of a listener.

    Attributes:
        listener: The name of the listener.
        event: The event.
        error: The exception that the listener raised, or None.
    """

    listener: str
    event: Any
    error: BaseException | None = None


@dataclass(slots=True)
class Recorder:
    """The events that a bus dispatched or got from its driver, and the runs of its listeners.

    Example:
        >>> bus = GoEvent()
        >>> recorder = record(bus)
        >>> async with bus:
        ...     handle = await bus.dispatch(Event("order.paid", {"order_id": 7}))
        >>> [event.event_name for event in recorder.dispatched]
        ['order.paid']

    Attributes:
        dispatched: All events that this bus dispatched, in the order of dispatch, including those
            without listeners.
        arrived: All events that the driver brought to this bus, in the order of arrival. An event
            that a driver of competing consumers brings back to its own bus is in both lists.
        runs: All calls of listeners, in the order in which they ended.
    """

    dispatched: list[Any] = field(default_factory=list[Any])
    runs: list[Run] = field(default_factory=list[Run])
    arrived: list[Any] = field(default_factory=list[Any])
    _listeners: dict[str, None] = field(default_factory=dict[str, None], repr=False, compare=False)
    _name_of: Callable[[Callable[..., Any]], str] = field(
        default=handler_name, repr=False, compare=False
    )

    def events(self, event_type: type[E]) -> list[E]:
        """Return the dispatched events of one class, in order."""
        return [event for event in self.dispatched if isinstance(event, event_type)]

    def ran(self, listener: str | Callable[..., Any]) -> list[Any]:
        """Return the events of the runs of one listener, in order.

        Args:
            listener: The name of the listener, or its function.

        Raises:
            ValueError: The bus never had a listener of this name while it was recorded.
        """
        name = listener if isinstance(listener, str) else self._name_of(listener)
        events = [run.event for run in self.runs if run.listener == name]
        if not events and name not in self._listeners:
            known = ", ".join(map(repr, self._listeners)) or "none"
            hint = did_you_mean(name, self._listeners) or f"; its listeners: {known}"
            raise ValueError(f"the bus never had a listener named {name!r}{hint}")
        return events

    def clear(self) -> None:
        """Empty all lists."""
        self.dispatched.clear()
        self.arrived.clear()
        self.runs.clear()

    # -- the observer's side, which the bus calls

    def note_dispatched(self, event: Any) -> None:
        """Record a dispatch."""
        self.dispatched.append(event)

    def note_arrived(self, event: Any) -> None:
        """Record an event that the driver has brought."""
        self.arrived.append(event)

    def watch(
        self, listener: str, call: Callable[[Any], Any], inline: bool
    ) -> Callable[[Any], Any]:
        """Return a call that does the same as `call` and records its end."""
        self._listeners[listener] = None

        @contextmanager
        def recorded(event: Any) -> Generator[None]:
            try:
                yield
            except BaseException as error:
                self.runs.append(Run(listener, event, error))
                raise
            self.runs.append(Run(listener, event))

        def run(event: Any) -> Any:
            with recorded(event):
                return call(event)

        async def run_async(event: Any) -> None:
            with recorded(event):
                await call(event)

        return run if inline else run_async


def record(bus: GoEvent) -> Recorder:
    """Return a recorder that records a bus from now on. A bus can have one recorder.

    Example:
        >>> bus = GoEvent()
        >>> recorder = record(bus)

    Raises:
        RuntimeError: The bus has a recorder already.
    """
    check_bus("record", bus)
    recorder = Recorder(_name_of=bus._listener_name)  # pyright: ignore[reportPrivateUsage]
    bus._observe(recorder)  # pyright: ignore[reportPrivateUsage]
    return recorder


async def wait_idle(bus: GoEvent) -> None:
    """Wait until a bus is idle: all events are done, and those that listeners dispatch meanwhile.

    `bus.wait()` waits only for the events that were dispatched before the call. If listeners
    dispatch events for each other without end, `wait_idle` never returns. Always a checkpoint.

    Example:
        >>> async with GoEvent() as bus:
        ...     handle = await bus.dispatch(Event("order.paid"))
        ...     await wait_idle(bus)
    """
    require_trio()
    check_bus("wait_idle", bus)
    await trio.lowlevel.checkpoint()
    while unsettled(bus.snapshot().ledger):
        await bus.wait()


def check_bus(function: str, bus: object) -> None:
    """Refuse an object that is not a bus.

    Raises:
        TypeError: It is another object.
    """
    if not isinstance(bus, GoEvent):
        raise TypeError(f"{function} takes a bus, not {bus!r}")


def unsettled(ledger: Ledger) -> int:
    """Return the number of unfinished deliveries, including those to unregistered listeners."""
    lost = ledger.failed + ledger.dropped + ledger.abandoned
    return ledger.accepted - ledger.completed - lost
