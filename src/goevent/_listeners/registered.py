"""The registered listener, as tools see it: its options and the way in which it runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from .._options.options import ListenerOptions

if TYPE_CHECKING:
    from .._kernel.actor import Actor


@dataclass(frozen=True, slots=True)
class RegisteredListener:
    """A listener of a bus, as it was registered; `bus.registered_listeners()` returns them.

    Attributes:
        name: Its name in errors and snapshots.
        event_names: The event names and patterns that it listens to.
        kind: The way in which it runs. `"inline"` is a `def` that dispatch calls, `"inline_async"`
            an `async def` that dispatch awaits. The others have a mailbox: `"async_mailbox"` is an
            `async def`, `"sync_mailbox"` a `def`, and `"threaded"` a `def` in a worker thread.
        options: Its effective options: its own, then those of `Config.listener`. An option that
            neither sets is None.
    """

    name: str
    event_names: tuple[str, ...]
    kind: Literal["inline", "inline_async", "async_mailbox", "sync_mailbox", "threaded"]
    options: ListenerOptions

    @classmethod
    def of(cls, actor: Actor) -> RegisteredListener:
        """Return the listener of an actor that the planner has built."""
        assert actor.resolved is not None  # noqa: S101
        kind, options = actor.resolved
        return cls(actor.name, actor.event_names, kind, options)
