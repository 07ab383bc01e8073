"""The delivery: information that a listener can get about the event it processes.

The kernel makes a `Delivery` for each run with middleware and for each call of `current_delivery`.
"""

# The internals of handles are for the kernel and the ports, not for users.
# pyright: reportPrivateUsage=false

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._errors import EventError
    from ._handle import DispatchHandle


class Delivery:
    """One event at one listener.

    Attributes:
        listener: The name of the listener, as in errors and snapshots.
        handle: The handle of the event's dispatch. A listener must not wait for it, because that
            would be a wait for itself.
        attempt: The number of the attempt: 1 for the first run with the event, 2 for the first
            retry, and so on.
    """

    __slots__ = ("attempt", "handle", "listener")

    def __init__(self, listener: str, handle: DispatchHandle, attempt: int = 1) -> None:
        self.listener: str = listener
        self.handle: DispatchHandle = handle
        self.attempt: int = attempt

    @property
    def event(self) -> object:
        """The event."""
        return self.handle.event

    @property
    def event_name(self) -> str:
        """The name under which the event was dispatched."""
        return self.handle.event_name

    @property
    def id(self) -> str:
        """The id of the event, as `DispatchHandle.id`."""
        return self.handle.id

    @property
    def correlation_id(self) -> str:
        """The id of the first event of the chain, as `DispatchHandle.correlation_id`."""
        return self.handle.correlation_id

    @property
    def causation_id(self) -> str:
        """The id of the event that has caused this one, as `DispatchHandle.causation_id`."""
        return self.handle.causation_id

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers of the event: those of its causes, and those that middleware has added."""
        return self.handle.headers

    @property
    def deliveries(self) -> int:
        """The number of times that the broker has delivered the event; 1 without a broker."""
        details = self.handle._details
        return getattr(details, "deliveries", 1)

    @property
    def redelivered(self) -> bool:
        """True if the event was delivered before. An earlier run may have done part of the work."""
        return self.deliveries > 1

    def __repr__(self) -> str:
        return f"<Delivery of {self.event_name!r} to {self.listener}, attempt {self.attempt}>"


class SettledEvent:
    """An event of a durable broker with which all listeners are done; for `around_settle`.

    Attributes:
        handle: The handle of the event on this bus.
        errors: The errors of the listeners, in order, as in `Settlement.errors`.
        started: False if no listener began with the event.
    """

    __slots__ = ("errors", "handle", "started")

    def __init__(
        self, handle: DispatchHandle, errors: tuple[EventError, ...], *, started: bool
    ) -> None:
        self.handle: DispatchHandle = handle
        self.errors: tuple[EventError, ...] = errors
        self.started: bool = started

    def __repr__(self) -> str:
        return f"<SettledEvent {self.handle.event_name!r}, {len(self.errors)} error(s)>"


# Finds the delivery of the current task or thread. All workers of a scheduler have the same
# function in their context, which looks up the worker when it is called. So it costs nothing per
# event.
finder: ContextVar[Callable[[], Delivery | None]] = ContextVar("goevent.delivery")


def current_delivery() -> Delivery:
    """Return the delivery of the listener that is running.

    It also works in the tasks and threads that the listener has started. An inline `def` has a
    delivery only with middleware around it, because `dispatch` calls it directly.

    Example:
        >>> bus = GoEvent()
        >>> @bus.listener("order.paid")
        ... async def invoice(event: Event) -> None:
        ...     print("attempt", current_delivery().attempt)
        >>> async with bus:
        ...     handle = await bus.dispatch(Event("order.paid"))
        attempt 1

    Raises:
        RuntimeError: No listener is running here, or an inline `def` without middleware is.
    """
    find = finder.get(None)
    delivery = find() if find is not None else None
    if delivery is None:
        raise RuntimeError(
            "there is no current delivery: no listener is running here, or only an inline `def`"
        )
    return delivery
