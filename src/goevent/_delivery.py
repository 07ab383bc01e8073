"""What a listener may know of the event it works on, besides the event."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._handle import DispatchHandle


class Delivery:
    """One event at one listener.

    Attributes:
        listener: what errors and snapshots call the listener.
        handle: the handle of the event's dispatch. A listener that waits for it waits for itself.
        attempt: 1 when the event runs for the first time, 2 when it is tried again, and so on.
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
        """The name under which it was dispatched."""
        return self.handle.event_name

    @property
    def headers(self) -> Mapping[str, str]:
        """What middleware has put on the event on its way."""
        return self.handle.headers

    @property
    def deliveries(self) -> int:
        """How often the broker has handed the event out, this time included; 1 without one."""
        details = self.handle.details
        return getattr(details, "deliveries", 1)

    @property
    def redelivered(self) -> bool:
        """True if the event came before, to a listener that may have got as far as you."""
        return self.deliveries > 1

    def __repr__(self) -> str:
        return f"<Delivery of {self.event_name!r} to {self.listener}, attempt {self.attempt}>"


# How to find the delivery that the current task or thread is about: a scheduler's workers all have the
# same function here, so it costs nothing per event.
finder: ContextVar[Callable[[], Delivery | None]] = ContextVar("goevent.delivery")


def current_delivery() -> Delivery:
    """Return the delivery inside whose listener the caller runs, also in its tasks and threads.

    An inline `def` has none unless middleware stands around it: `dispatch` calls it straight away.

    Raises:
        RuntimeError: no listener runs here, or just an inline one.
    """
    find = finder.get(None)
    delivery = find() if find is not None else None
    if delivery is None:
        raise RuntimeError("no delivery here: this is no listener, or one that runs inline")
    return delivery
