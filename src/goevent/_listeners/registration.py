"""The receipt for registered listeners."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .._kernel.actor import Actor
    from .listeners import Listeners


class Registration:
    """One or more listeners that were registered together."""

    __slots__ = ("_actors", "_listeners")

    def __init__(self, listeners: Listeners, actors: tuple[Actor, ...]) -> None:
        self._listeners = listeners
        self._actors = actors

    @property
    def names(self) -> tuple[str, ...]:
        """What errors and snapshots call the listeners."""
        return tuple(actor.name for actor in self._actors)

    @property
    def event_names(self) -> tuple[str, ...]:
        """The events they listen to."""
        return tuple(dict.fromkeys(name for actor in self._actors for name in actor.event_names))

    @property
    def active(self) -> bool:
        """False once all of them are unregistered."""
        return any(actor.active for actor in self._actors)

    async def ready(self) -> None:
        """Wait until the broker has confirmed that events of other buses arrive.

        Always a checkpoint. Without a driver that reaches other buses there is nothing to wait for.

        Raises:
            DriverError: the broker has refused; the bus goes on trying.
        """
        await self._listeners.ready(self.event_names)

    def unregister(self) -> None:
        """Stop listening; may be called more than once, also from inside a listener.

        Events that wait in the mailbox are dropped, and their handles say so; the one that the
        listener works on it finishes.
        """
        for actor in self._actors:
            self._listeners.remove(actor)

    def __repr__(self) -> str:
        return f"<Registration of {', '.join(self.names)} for {', '.join(self.event_names)}>"
