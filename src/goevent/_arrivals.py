"""What drivers bring: events of other buses, taken to the listeners of this one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio.lowlevel import checkpoint_if_cancelled

from ._conductor import begun
from ._errors import EventAbandoned, EventError, GoEventError
from ._room import NoRoom

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ._dispatcher import Dispatcher
    from ._registry import EventRegistry
    from ._supervisor import Supervisor


class Arrivals:
    """What arrives at one bus."""

    def __init__(
        self, dispatcher: Dispatcher, registry: EventRegistry, supervisor: Supervisor
    ) -> None:
        self._dispatcher = dispatcher
        self._registry = registry
        self._supervisor = supervisor

    async def deliver(self, event: object, headers: Mapping[str, str]) -> None:
        """Take an event of another bus to the listeners of this one; it goes no further."""
        dispatcher = self._dispatcher
        try:
            await checkpoint_if_cancelled()
            route, event = dispatcher.find(event)
            if route.special or dispatcher.conductor.arrival_hooks:
                await dispatcher.conductor.conduct(route, event, headers)
                return
            handle = begun(route.local, event)
            if headers:
                handle.headers.update(headers)
            full = False
            try:
                dispatcher.mailboxes.commit(route.local, handle)
            except NoRoom:
                full = True
            # Not inside the handler, or it would be the context of what listeners raise.
            if full:
                await dispatcher.finish(route.local, handle, arrived=True)
            else:
                dispatcher.run_inline(route.local, handle)
        except (GoEventError, TypeError) as error:
            self._supervisor.report_loose(EventError(self._name_of(event), "driver", error))

    def lost(self, event: object) -> None:
        """Report an event of another bus that came too late."""
        reason = "the bus ended before it could be delivered"
        self._supervisor.report_loose(EventAbandoned(self._name_of(event), "driver", reason=reason))

    def _name_of(self, event: object) -> str:
        known = self._registry.name_of(type(event))
        return known or getattr(event, "event_name", "") or type(event).__qualname__
