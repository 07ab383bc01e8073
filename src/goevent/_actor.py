"""A listener as an actor: its mailbox, what it is doing, and what became of its events.

Owned by the bus from registration to unregistering. The dispatcher appends to `mail`; a worker of
the crew takes from it, one event at a time. An inline listener is an actor too, one without a
mailbox: its turn runs on the task that dispatches.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._errors import EventError
    from ._handle import DispatchHandle
    from ._options import Overflow
    from ._room import RoomWait


class Actor:
    """One registered listener."""

    __slots__ = (
        "abandoned",
        "active",
        "call",
        "capacity",
        "dropped",
        "event_names",
        "failed",
        "folded",
        "hand",
        "inline",
        "last_error",
        "limit",
        "mail",
        "name",
        "overflow",
        "queue",
        "scheduled",
        "suspends",
    )

    def __init__(
        self,
        name: str,
        event_names: tuple[str, ...],
        call: Callable[[Any], Any],
        *,
        inline: bool,
        capacity: int = 0,
        overflow: Overflow = "block",
    ) -> None:
        self.name: str = name
        self.event_names: tuple[str, ...] = event_names
        self.call: Callable[[Any], Any] = call
        self.inline: bool = inline
        self.active: bool = True

        self.mail: deque[DispatchHandle] = NO_MAIL if inline else deque()
        self.capacity: int = capacity
        self.overflow: Overflow = overflow
        # What the dispatcher compares with: 0 while dispatches queue for room, so that a newcomer
        # cannot overtake them and the common case needs one comparison.
        self.limit: int = capacity
        self.queue: deque[RoomWait] | None = None

        self.hand: DispatchHandle | None = None  # the event in the listener's hands
        self.scheduled: bool = False  # a worker has it, or it is queued for one
        self.suspends: bool = False  # it suspended when it last ran

        self.folded: int = 0  # deliveries counted by routes that are no more
        self.failed: int = 0
        self.dropped: int = 0
        self.abandoned: int = 0
        self.last_error: EventError | None = None

    @property
    def blocked(self) -> bool:
        """True if a dispatch under `overflow="block"` has to wait for this mailbox."""
        return self.overflow == "block" and (bool(self.queue) or len(self.mail) >= self.capacity)

    @property
    def unsettled(self) -> int:
        return len(self.mail) + (self.hand is not None)

    def enqueue(self, waiter: RoomWait) -> None:
        """Let a dispatch queue for room in this mailbox."""
        if self.queue is None:
            self.queue = deque()
        self.queue.append(waiter)
        self.limit = 0

    def dequeue(self, waiter: RoomWait) -> None:
        if self.queue is not None and waiter in self.queue:
            self.queue.remove(waiter)
            if not self.queue:
                self.queue = None
                self.limit = self.capacity

    def holds(self, handle: DispatchHandle) -> bool:
        return self.hand is handle or any(queued is handle for queued in self.mail)

    def __repr__(self) -> str:
        return f"<Actor {self.name!r} of {', '.join(self.event_names)}>"


NO_MAIL: deque[DispatchHandle] = deque(maxlen=0)
