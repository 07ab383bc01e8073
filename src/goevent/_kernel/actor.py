"""A listener as an actor: its mailbox, what it is doing, and what became of its events.

Owned by the bus from registration to unregistering. The dispatcher appends to `mail`; a worker of
the scheduler takes from it, one event at a time, or several workers by the listener's lanes. An inline
listener is an actor too, one without a mailbox: its turn runs on the task that dispatches.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .._events.patterns import compile_pattern, is_pattern
from .mailbox import KeyedMailbox, SharedMailbox

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .._errors import EventError
    from .._handle import DispatchHandle
    from .._options.middleware import Hook
    from .._options.options import Overflow
    from .backpressure import RoomWait
    from .mailbox import Lane, Mail
    from .recovery import Recovery


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """What dispatch has to know of a listener besides its call and its mailbox.

    Attributes:
        awaited: it is an `async def` that runs inline.
        hooks: what stands around its runs, if they are inline.
        contextual: it runs in its dispatcher's context.
    """

    priority: int = 0
    awaited: bool = False
    contextual: bool = False
    once: bool = False
    timeout: float = float("inf")
    when: Callable[[Any], object] | None = None
    hooks: tuple[Hook, ...] = ()

    @property
    def special(self) -> bool:
        """True if it takes more than a call or a mailbox to bring it an event."""
        return bool(
            self.awaited or self.contextual or self.once or self.hooks or self.when is not None
        )


PLAIN = Traits()


class Actor:
    """One registered listener."""

    __slots__ = (
        "abandoned",
        "active",
        "attempt",
        "call",
        "capacity",
        "dropped",
        "due",
        "event_names",
        "failed",
        "folded",
        "hand",
        "inline",
        "last_error",
        "limit",
        "mail",
        "name",
        "order",
        "overflow",
        "queue",
        "recovery",
        "scheduled",
        "state",
        "strays",
        "suspends",
        "traits",
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
        traits: Traits = PLAIN,
    ) -> None:
        self.name: str = name
        self.event_names: tuple[str, ...] = event_names
        self.call: Callable[[Any], Any] = call
        self.inline: bool = inline
        self.traits: Traits = traits
        self.active: bool = True
        self.order: int = 0  # of registration; the router's
        self.recovery: Recovery | None = None  # what follows a failure; None: the next event

        self.mail: Any = (
            NO_MAIL if inline else deque()
        )  # a Mail; the scheduler's loop wants a deque
        self.capacity: int = capacity
        self.overflow: Overflow = overflow
        # What the dispatcher compares with: 0 while dispatches queue for room, so that a newcomer
        # cannot overtake them and the common case needs one comparison.
        self.limit: int = capacity
        self.queue: deque[RoomWait] | None = None

        self.hand: DispatchHandle | None = None  # the event in the listener's hands
        self.attempt: int = 1
        self.state: str = ""  # why it pauses, if it does
        self.scheduled: bool = False  # a worker has it, or it is queued for one
        self.suspends: bool = False  # it suspended when it last ran

        self.due: int = (
            0  # runs that the special_dispatch still has to make or to end, if it is inline
        )
        self.folded: int = 0  # deliveries counted by routes that are no more
        self.failed: int = 0
        self.dropped: int = 0
        self.abandoned: int = 0
        self.strays: int = 0  # threads that run on after their timeout
        self.last_error: EventError | None = None

    def share(self, mail: SharedMailbox | KeyedMailbox) -> None:
        """Have lanes read the mailbox, which schedules them itself."""
        self.mail = mail
        self.scheduled = True

    @property
    def listener(self) -> Actor:
        """The listener whose lane this is: itself, with one lane only."""
        return self

    @property
    def _shared(self) -> SharedMailbox | KeyedMailbox | None:
        """The mailbox, if lanes read it."""
        mail: Mail = self.mail
        return mail if isinstance(mail, SharedMailbox | KeyedMailbox) else None

    @property
    def lanes(self) -> tuple[Actor | Lane, ...]:
        """By which it works on events: itself, or one for each event at once."""
        shared = self._shared
        return (self,) if shared is None else shared.lanes

    @property
    def outlets(self) -> tuple[Actor | Lane, ...]:
        """The lanes of which one has to get on before there is room in the mailbox."""
        shared = self._shared
        return (self,) if shared is None else shared.outlets

    @property
    def in_hand(self) -> list[DispatchHandle]:
        """The events it works on."""
        if (shared := self._shared) is not None:
            return shared.held
        return [] if self.hand is None else [self.hand]

    @property
    def blocked(self) -> bool:
        """True if a dispatch under `overflow="block"` has to wait for this mailbox."""
        return self.overflow == "block" and (bool(self.queue) or len(self.mail) >= self.capacity)

    @property
    def unsettled(self) -> int:
        return len(self.mail) + len(self.in_hand) + self.due

    @property
    def exclusive(self) -> bool:
        """True if only one route leads to it."""
        return len(self.event_names) == 1 and not is_pattern(self.event_names[0])

    def covers(self, name: str) -> bool:
        """Tell whether it listens to an event."""
        return self.active and (
            name in self.event_names
            or any(compile_pattern(p)(name) for p in self.event_names if is_pattern(p))
        )

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

    def before(self, handle: DispatchHandle) -> Iterable[Actor | Lane]:
        """Return the lanes that have to get on before the listener is done with an event.

        Of several, one has to; none if it does not hold the event or has a lane to spare.
        """
        for lane in self.lanes:
            if lane.hand is handle:
                return (lane,)
        if any(queued is handle for queued in self.mail):
            shared = self._shared
            return (self,) if shared is None else shared.before(handle)
        return ()

    def __repr__(self) -> str:
        return f"<Actor {self.name!r} of {', '.join(self.event_names)}>"


NO_MAIL: deque[DispatchHandle] = deque(maxlen=0)
