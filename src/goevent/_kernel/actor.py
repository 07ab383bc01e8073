"""The actor: one registered listener with its mailbox, its current events and its counters.

The bus owns an actor from the registration of the listener until it is unregistered. The dispatcher
appends to `mail`; a worker of the scheduler takes events from it, one at a time. A listener with
`concurrency=n` has n lanes: several workers then run the one listener, each by a lane of its own.
An inline listener is an actor too. It has no mailbox: it runs on the task that dispatches.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .._events.patterns import compile_pattern, is_pattern
from .mailbox import KeyedMailbox

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .._errors import EventError
    from .._handle import DispatchHandle
    from .._options.middleware import Hook
    from .._options.options import ListenerKind, ListenerOptions, Overflow
    from .mailbox import SharedMailbox
    from .recovery import Recovery


MAX_NAMES_IN_TUPLE = 8
MAX_NAMES_IN_TEXT = 5
"""The listeners that a message names, because a route may have thousands."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DispatchOptions:
    """The options of a listener that dispatch has to respect.

    Attributes:
        priority: Listeners with a higher one come first.
        awaited: The listener is an `async def` that runs inline.
        contextual: The listener runs in the context of its dispatcher.
        once: The listener is unregistered with its first event.
        timeout: Seconds that a run of an awaited listener may take.
        when: The predicate that selects events.
        hooks: The middleware around the runs of an inline listener.
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
        """True if the listener's events need more than a call or an append to a mailbox."""
        return bool(
            self.awaited or self.contextual or self.once or self.hooks or self.when is not None
        )


DEFAULT_DISPATCH_OPTIONS = DispatchOptions()


class Actor:
    """One registered listener.

    Attributes:
        names: The event names and patterns that the listener is registered for.
        order: The number of the registration; set by the router.
        recovery: The retries and the supervision; None if the listener goes on after a failure.
        mail: The mailbox. The scheduler's loop is fastest with a plain deque.
        capacity: The number of events that the mailbox takes; 0 for an inline listener.
        shared: The mailbox, if lanes run the listener; otherwise None.
        limit: The capacity that dispatch compares with; 0 while dispatches wait for room.
        current: The event that the listener runs with; None for a listener with lanes.
        attempt: The number of the current run of that event, from 1.
        state: The reason of a pause of the listener, or empty.
        scheduled: True while a worker has the actor, or the actor is queued for one.
        suspends: True if the listener suspended when it last ran.
        resolved: The kind and the effective options, for tools; listeners without options share one
            tuple. None for an actor that is not a listener of the user.
        pending_inline: Runs of an inline listener that special dispatch has not ended yet.
        accepted: Deliveries, without those that routes still count.
        stray_threads: Threads that run on after their timeout.
        last_error: The newest failure, or its text once a snapshot has shown it.
        settles_on_arrival: True if a delivery ends when the event is in the mailbox.
    """

    settles_on_arrival = False

    __slots__ = (
        "_lanes",
        "abandoned",
        "accepted",
        "active",
        "attempt",
        "call",
        "capacity",
        "current",
        "dropped",
        "failed",
        "inline",
        "last_error",
        "limit",
        "mail",
        "name",
        "names",
        "options",
        "order",
        "overflow",
        "pending_inline",
        "recovery",
        "resolved",
        "scheduled",
        "shared",
        "state",
        "stray_threads",
        "suspends",
    )

    def __init__(
        self,
        name: str,
        event_names: tuple[str, ...],
        call: Callable[[Any], Any],
        *,
        capacity: int = 0,
        overflow: Overflow = "block",
        options: DispatchOptions = DEFAULT_DISPATCH_OPTIONS,
    ) -> None:
        self.name: str = name
        # A dict finds one of many names in one step, and keeps their order. For few names, a tuple
        # is as fast and takes a third of the memory.
        self.names: tuple[str, ...] | dict[str, None] = (
            dict.fromkeys(event_names) if len(event_names) > MAX_NAMES_IN_TUPLE else event_names
        )
        self.call: Callable[[Any], Any] = call
        self.inline: bool = not capacity
        self.options: DispatchOptions = options
        self.active: bool = True
        self.order: int = 0
        self.recovery: Recovery | None = None
        self.resolved: tuple[ListenerKind, ListenerOptions] | None = None

        self.mail: Any = deque() if capacity else NO_MAIL
        self.capacity: int = capacity
        self.overflow: Overflow = overflow
        # Back-pressure sets this to 0 while dispatches queue for room. So a newcomer cannot
        # overtake them, and the common case of a dispatch needs one comparison.
        self.limit: int = capacity
        self._lanes: tuple[Lane, ...] = ()
        self.shared: SharedMailbox[Lane] | KeyedMailbox[Lane] | None = None

        self.current: DispatchHandle | None = None
        self.attempt: int = 1
        self.state: str = ""
        self.scheduled: bool = False
        self.suspends: bool = False

        self.pending_inline: int = 0
        self.accepted: int = 0
        self.failed: int = 0
        self.dropped: int = 0
        self.abandoned: int = 0
        self.stray_threads: int = 0
        self.last_error: EventError | str | None = None

    # -- lanes

    def make_lanes(self, concurrency: int) -> tuple[Lane, ...]:
        """Return new lanes, which a new mailbox needs."""
        return tuple(Lane(self) for _ in range(concurrency))

    def share(self, mail: SharedMailbox[Lane] | KeyedMailbox[Lane]) -> None:
        """Have the lanes of a mailbox run the listener; the mailbox schedules them itself."""
        self.mail = self.shared = mail
        self._lanes = mail.lanes
        self.scheduled = True
        for lane in mail.lanes:
            lane.read(mail)

    @property
    def listener(self) -> Actor:
        """The actor itself, as `Lane.listener` is the actor of a lane."""
        return self

    @property
    def lanes(self) -> tuple[Actor | Lane, ...]:
        """The lanes that run the listener; an actor without lanes is its own single lane."""
        return self._lanes or (self,)

    # -- the mailbox

    def has_room(self, ahead: int = 0) -> bool:
        """Tell whether the mailbox takes one more event, after `ahead` others."""
        return len(self.mail) + ahead < self.capacity

    @property
    def blocks_dispatch(self) -> bool:
        """True if a dispatch under `overflow="block"` has to wait for this mailbox."""
        return self.overflow == "block" and len(self.mail) >= self.limit

    @property
    def in_flight(self) -> list[DispatchHandle]:
        """The events that the listener works on."""
        if self.shared is not None:
            return self.shared.in_flight
        return [] if self.current is None else [self.current]

    @property
    def unsettled(self) -> int:
        """How many deliveries have not ended yet."""
        return len(self.mail) + len(self.in_flight) + self.pending_inline

    def retain(self, handles: Iterable[DispatchHandle]) -> None:
        """Keep only the given ones of the queued events; they are in the order of the mailbox."""
        if self.shared is not None:
            self.shared.retain(handles)
        else:
            self.mail.clear()
            self.mail.extend(handles)

    # -- events

    @property
    def event_names(self) -> tuple[str, ...]:
        """The event names and patterns, as users see them."""
        return tuple(self.names)

    @property
    def exclusive(self) -> bool:
        """True if only one route leads to the actor."""
        return len(self.names) == 1 and not any(map(is_pattern, self.names))

    def forget_name(self, name: str) -> None:
        """Listen to a name or pattern no more."""
        if isinstance(self.names, dict):
            del self.names[name]
        else:
            self.names = tuple(other for other in self.names if other != name)

    def listens_to(self, name: str) -> bool:
        """Tell whether the listener gets the events of a name."""
        return self.active and (
            name in self.names or any(compile_pattern(p)(name) for p in self.names if is_pattern(p))
        )

    # -- waits

    @property
    def needed_for_room(self) -> tuple[Actor | Lane, ...]:
        """The lanes that can make room in the mailbox; one of them has to proceed."""
        return (self,) if self.shared is None else self.shared.needed_for_room

    def needed_for_event(self, handle: DispatchHandle) -> Iterable[Actor | Lane]:
        """Return the lanes that can finish an event; one of them has to proceed.

        There are none if the listener does not have the event, or has a free lane for it.
        """
        for lane in self.lanes:
            if lane.current is handle:
                return (lane,)
        if any(queued is handle for queued in self.mail):
            return (self,) if self.shared is None else self.shared.needed_for_event(handle)
        return ()

    def __repr__(self) -> str:
        return f"<Actor {self.name!r} of {', '.join(self.names)}>"


class Lane:
    """Runs a listener with `concurrency` for one event at a time, beside the other lanes of it.

    The scheduler runs a lane as it runs an actor without lanes, and sees no difference.
    """

    __slots__ = (
        "_current",
        "_finished",
        "_scheduled",
        "attempt",
        "listener",
        "mail",
        "state",
        "suspends",
    )

    mail: SharedMailbox[Lane]

    def __init__(self, listener: Actor) -> None:
        self.listener: Actor = listener
        self.suspends: bool = False
        self.attempt: int = 1
        self.state: str = ""
        self._finished: Callable[[DispatchHandle], None] | None = None
        self._current: DispatchHandle | None = None
        self._scheduled = False

    def read(self, mail: SharedMailbox[Lane] | KeyedMailbox[Lane]) -> None:
        """Take events from a mailbox from now on."""
        if isinstance(mail, KeyedMailbox):
            self.mail = mail.runnable
            self._finished = mail.finished
        else:
            self.mail = mail

    @property
    def name(self) -> str:
        return self.listener.name

    def call(self, event: Any) -> Any:
        """Run the listener as it is now: another lane may have restarted it."""
        return self.listener.call(event)

    @property
    def limit(self) -> int:
        return self.listener.limit

    @property
    def current(self) -> DispatchHandle | None:
        """The event that the lane works on. Setting another one finishes the previous one."""
        return self._current

    @current.setter
    def current(self, handle: DispatchHandle | None) -> None:
        done, self._current = self._current, handle
        if done is not None and self._finished is not None:
            self._finished(done)

    @property
    def scheduled(self) -> bool:
        """True while a worker has the lane or will have it; otherwise the lane is free."""
        return self._scheduled

    @scheduled.setter
    def scheduled(self, scheduled: bool) -> None:
        if self._scheduled and not scheduled:
            self.mail.free.append(self)
        self._scheduled = scheduled

    def __repr__(self) -> str:
        return f"<Lane of {self.listener.name!r}>"


NO_MAIL: deque[DispatchHandle] = deque(maxlen=0)


def names_of(actors: Iterable[Actor], separator: str) -> str:
    """Return the names of listeners for a message; of many, the first ones and the number."""
    names = [actor.name for actor in actors]
    if len(names) > MAX_NAMES_IN_TEXT:
        others = len(names) - MAX_NAMES_IN_TEXT
        names[MAX_NAMES_IN_TEXT:] = [f"{others} other{'s' if others > 1 else ''}"]
    return separator.join(names)
