"""The route of an event name: the plan for the dispatch of an event to all its listeners.

The router makes routes. Dispatch carries a route out without further decisions: it makes the inline
calls, appends to the mailboxes and posts to the publisher. A route is immutable except for its
counters and the router's notes. The counters are on the route because one increment there counts an
event for all its listeners.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from .._events.names import requested_name
from .._handle import DispatchKernel
from .actor import DEFAULT_DISPATCH_OPTIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from .._batch_handle import PostedEvents
    from .._handle import DispatchHandle
    from .actor import Actor


MAX_LISTENERS_IN_TUPLE = 8


class RoutePublisher(Protocol):
    """Takes events to the driver: the third kind of entry in a route."""

    @property
    def actor(self) -> Actor:
        """The actor of the driver; its mailbox holds the events that wait to be published."""
        ...

    @property
    def posted(self) -> Iterable[DispatchHandle]:
        """The events that the driver has taken and the broker has not confirmed yet."""
        ...

    @property
    def holds(self) -> bool:
        """True while events are held back, to be handed over as one batch."""
        ...

    def post(self, handle: DispatchHandle) -> None:
        """Take an event; never waits."""
        ...

    @property
    def batch_room(self) -> int:
        """The number of events that the driver may get in one call now; 0 if they have to wait."""
        ...

    def post_events(self, events: PostedEvents) -> None:
        """Take events without handles, no more than `batch_room`."""
        ...

    def hold(self) -> None:
        """Hold back the events that are posted from now on, until `release` is called."""
        ...

    def release(self) -> None:
        """Hand over the events that were held back, as one batch; none may be held back."""
        ...


class NameListeners:
    """The listeners that are registered for one name or one pattern.

    Attributes:
        actors: The listeners, in the order of registration.
        routed: For a pattern, the names of the routes that were built from them; None for a name,
            because it has one route at most.
    """

    __slots__ = ("actors", "routed")

    def __init__(self, *, pattern: bool) -> None:
        # A dict in place of a set keeps the order, and finds one of many listeners in one step. A
        # tuple of a few takes a quarter of the memory, and most names have a few.
        self.actors: tuple[Actor, ...] | dict[Actor, None] = ()
        self.routed: dict[str, None] | None = {} if pattern else None

    def add(self, actor: Actor) -> None:
        if isinstance(self.actors, tuple):
            if len(self.actors) < MAX_LISTENERS_IN_TUPLE:
                self.actors = (*self.actors, actor)
                return
            self.actors = dict.fromkeys(self.actors)
        self.actors[actor] = None

    def remove(self, actor: Actor) -> None:
        if isinstance(self.actors, dict):
            self.actors.pop(actor, None)
        else:
            self.actors = tuple(other for other in self.actors if other is not actor)


class EventCounter:
    """Counts the events of one name, for all routes of that name that there have been.

    Attributes:
        count: The events, without those that routes still count.
    """

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count: int = 0


class Route:
    """The entries of one event name: inline calls, mailboxes and a publisher.

    Attributes:
        name: The event name; a reserved one for requests.
        event_name: The event name that users see.
        kernel: The bus, for handles.
        inline: The listeners that run inline.
        calls: The calls of these listeners.
        mailboxes: The listeners that have a mailbox.
        publisher: The publisher of the driver; None without one.
        actors: All actors that need room for an event: `mailboxes`, and the actor of the publisher.
        special: True if events need more than calls, appends and a post; see `special_dispatch`.
        once: The listeners that take one event only.
        awaits: 1 if dispatch awaits inline listeners, which the handle counts as one; otherwise 0.
        unheard: True if the route has no entry.
        types: The classes under which the router has cached the route.
        built_from: The listeners of the names and patterns that the route was built from, for the
            router; empty once the router has dropped the route.
        generation: The generation of the router's patterns that the route is valid for.
        local_only: The same route without the publisher, for events that a driver brought; None if
            there is no publisher.
        free: The number of events that are sure to fit into all mailboxes; 0 if not counted yet.
        exclusive: True if no other route fills the same mailboxes, so that `free` stays right.
        counter: Counts the events that took the route.
        mailed: The events that went into the mailboxes, since the counters were folded.
        called: The events that went through all inline calls, even if there are none, since the
            counters were folded. Those of special dispatch are on `counter` at once.
    """

    __slots__ = (
        "actors",
        "awaits",
        "built_from",
        "called",
        "calls",
        "counter",
        "event_name",
        "exclusive",
        "free",
        "generation",
        "inline",
        "kernel",
        "local_only",
        "mailboxes",
        "mailed",
        "name",
        "once",
        "publisher",
        "special",
        "types",
        "unheard",
    )

    def __init__(
        self,
        name: str,
        kernel: DispatchKernel,
        listeners: Sequence[Actor],
        *,
        publisher: RoutePublisher | None = None,
        special: bool = False,
        counter: EventCounter | None = None,
    ) -> None:
        self.name: str = name
        self.event_name: str = requested_name(name) or name
        self.kernel: DispatchKernel = kernel
        self.unheard: bool = not listeners and publisher is None
        self.types: tuple[type, ...] = ()
        self.built_from: tuple[NameListeners, ...] = ()
        self.generation: int = 0
        self.inline: tuple[Actor, ...] = tuple([actor for actor in listeners if actor.inline])
        self.calls: tuple[Callable[[Any], Any], ...] = distinct_calls(self.inline)
        self.mailboxes: tuple[Actor, ...] = tuple([each for each in listeners if not each.inline])
        self.publisher: RoutePublisher | None = publisher
        self.actors: tuple[Actor, ...] = self.mailboxes
        if publisher is not None:
            self.actors = (*self.mailboxes, publisher.actor)
        self.local_only: Route | None = None
        # Most listeners have no options of their own, and a route may have thousands of them.
        chosen = [each for each in listeners if each.options is not DEFAULT_DISPATCH_OPTIONS]
        self.special: bool = special or any(each.options.special for each in chosen)
        self.once: tuple[Actor, ...] = tuple([each for each in chosen if each.options.once])
        self.awaits: int = int(any(each.options.awaited for each in chosen))
        self.free: int = 0
        only = (name,)
        shared = [each for each in self.mailboxes if each.names != only]
        self.exclusive: bool = publisher is None and not shared
        self.counter: EventCounter = counter or EventCounter()
        self.mailed: int = 0
        self.called: int = 0

    @property
    def local(self) -> Route:
        """The route for events of other buses, which must not be published again."""
        return self.local_only or self

    @property
    def listeners(self) -> tuple[Actor, ...]:
        """All listeners, in the order in which dispatch reaches them."""
        return self.inline + self.mailboxes

    @property
    def listener_count(self) -> int:
        """The number of listeners of this bus; an observer is not registered, and not counted."""
        return sum(1 for actor in self.listeners if actor.order)

    def with_listeners(self, listeners: Sequence[Actor]) -> Route:
        """Return a route to some of the listeners, for one event."""
        return Route(
            self.name,
            self.kernel,
            listeners,
            publisher=self.publisher,
            special=True,
            counter=self.counter,
        )

    def room(self) -> int:
        """Return how many events fit into all mailboxes."""
        actors = self.actors
        if len(actors) == 1:
            return actors[0].limit - len(actors[0].mail)
        return min([actor.limit - len(actor.mail) for actor in actors])

    def fold(self) -> None:
        """Move the counts of the route to its listeners, and to the counter of its name."""
        if self.called:
            self.counter.count += self.called
            for actor in self.inline:
                actor.accepted += self.called
        if self.mailed:
            for actor in self.actors:
                actor.accepted += self.mailed
        self.called = self.mailed = 0


def distinct_calls(listeners: Sequence[Actor]) -> tuple[Callable[[Any], Any], ...]:
    """Return the calls of inline listeners, each a different object: so a failed one can be found.

    A function that is registered again gets a wrapper, once for all routes.
    """
    calls = [actor.call for actor in listeners]
    if len(set(map(id, calls))) < len(calls):
        seen: set[int] = set()
        for index, actor in enumerate(listeners):
            if id(actor.call) in seen:
                calls[index] = actor.call = partial(actor.call)
            seen.add(id(calls[index]))
    return tuple(calls)
