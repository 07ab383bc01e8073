"""The registered listener, as tools see it: its options and the way in which it runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from .._events.names import requested_name
from .._options.options import ListenerOptions

if TYPE_CHECKING:
    from .._kernel.actor import Actor


@dataclass(frozen=True, slots=True)
class RegisteredListener:
    """A listener of a bus, as it was registered; `bus.registered_listeners()` returns them.

    Attributes:
        name: Its name in errors and snapshots.
        event_names: The event names and patterns that it listens to; for a responder, the reserved
            name of requests.
        kind: The way in which it runs. `"inline"` is a `def` that dispatch calls, `"inline_async"`
            an `async def` that dispatch awaits. The others have a mailbox: `"async_mailbox"` is an
            `async def`, `"sync_mailbox"` a `def`, and `"threaded"` a `def` in a worker thread.
        options: Its effective options: its own, then those of `Config.listener`. An option that
            neither sets is None.
        answer: The class of the answers of a responder; None if it was registered without one, and
            for any other listener.
    """

    name: str
    event_names: tuple[str, ...]
    kind: Literal["inline", "inline_async", "async_mailbox", "sync_mailbox", "threaded"]
    options: ListenerOptions
    answer: type[Any] | None = None

    @property
    def responds_to(self) -> str:
        """The event whose requests the listener answers; empty for one that is no responder."""
        return requested_name(self.event_names[0]) if self.event_names else ""

    @classmethod
    def of(cls, actor: Actor, answer: type[Any] | None = None) -> RegisteredListener:
        """Return the listener of an actor that the planner has built."""
        assert actor.resolved is not None  # noqa: S101
        kind, options = actor.resolved
        return cls(actor.name, actor.event_names, kind, options, answer)
