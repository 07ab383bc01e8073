"""The registration: lets users unregister listeners and wait until their events arrive."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .._kernel.actor import Actor
    from .listeners import Listeners


class Registration:
    """One or more listeners that were registered together.

    Example:
        >>> def log(event: Event) -> None:
        ...     print(event)
        >>> bus = GoEvent()
        >>> registration = bus.subscribe(log, "order.paid")
        >>> registration.unregister()
        >>> registration.active
        False
    """

    __slots__ = ("_actors", "_listeners")

    def __init__(self, listeners: Listeners, actors: tuple[Actor, ...]) -> None:
        self._listeners = listeners
        self._actors = actors

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the listeners, as in errors and snapshots."""
        return tuple(actor.name for actor in self._actors)

    @property
    def event_names(self) -> tuple[str, ...]:
        """The event names and patterns that they listen to."""
        return tuple(dict.fromkeys(name for actor in self._actors for name in actor.event_names))

    @property
    def active(self) -> bool:
        """True while at least one of the listeners is registered."""
        return any(actor.active for actor in self._actors)

    async def ready(self) -> None:
        """Wait until the broker has confirmed that events of other buses arrive here.

        Always a checkpoint. Without a driver that reaches other buses it returns at once.
        Cancelling the wait changes nothing.

        Raises:
            DriverError: The broker has refused a name. The bus tries again later.
            BusClosed: The bus was closed before the broker confirmed.
        """
        await self._listeners.ready(self.event_names)

    def unregister(self) -> None:
        """Unregister the listeners. A second call has no effect.

        Events in the mailbox are dropped, and their handles report it. A listener finishes the
        event that it is processing. It may be called inside a listener.

        Raises:
            RuntimeError: The bus is open on another thread.
        """
        for actor in self._actors:
            self._listeners.remove(actor)

    def __repr__(self) -> str:
        return f"<Registration of {', '.join(self.names)} for {', '.join(self.event_names)}>"
