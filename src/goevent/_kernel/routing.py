"""The router: finds the route of an event by its class or its name.

`Listeners` adds and removes actors; the dispatcher and the inbox look routes up; the session
connects the publisher of a driver to all of them.

Theory of operation. A registration drops the routes that it concerns, and the next dispatch of
their names builds them anew. So a thousand registrations in a row build one route, and each takes
the same time, however many listeners there are. A dispatch under way keeps its own route to the
end. A dropped route is kept until its counters are folded into its listeners. That happens when no
dispatch is under way, because a dispatch may still count on it.

The listeners of each name and of each pattern are one `NameListeners`, which knows the routes that
lead to it. Only the first listener of a pattern concerns routes that are not known to it. To find
them would take a look at every route, so the router empties `by_type` and starts a new *generation*
of patterns. The next look-up of each route asks the trie which patterns match, and keeps the route
if they are those that it was built from.

Routes of names that have neither a listener nor a class are kept too, the newest
`MAX_UNREGISTERED_ROUTES` of them: so ad-hoc events are found by one look-up, and hostile names
cannot fill the memory.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Protocol

from .._events.event import AdHocEvent
from .._events.patterns import PatternTrie, is_pattern
from .._handle import DispatchKernel
from .._options.mistakes import not_an_event
from .._options.results import refuse_unrun
from .._suggestions import did_you_mean
from .route import EventCounter, NameListeners, Route

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from .._events.registry import EventRegistry
    from .actor import Actor
    from .route import RoutePublisher

# A name, the names of its listeners, and its counters of dispatched and of arrived events.
EventRow = tuple[str, tuple[str, ...], EventCounter, EventCounter]

MAX_UNREGISTERED_ROUTES = 10_000
# Names may come from outside, so only so many are logged as unheard and remembered.
MAX_UNHEARD_NAMES = 1_000
MAX_COUNTED_UNREGISTERED_NAMES = 1_000
"""The names without a listener of their own and without a class whose events are counted."""

logger = logging.getLogger("goevent")


class RoutingKernel(DispatchKernel, Protocol):
    """The part of a bus that its router uses: one property more than its handles use."""

    @property
    def busy(self) -> bool:
        """True while a dispatch is under way."""
        ...


class Interest(Protocol):
    """Is told which names and patterns have listeners, so that the driver subscribes to them."""

    def want(self, name: str) -> None: ...
    def forget(self, name: str) -> None: ...
    async def ready(self, names: Iterable[str] | None = None) -> None: ...


class Observer(Protocol):
    """Sees every dispatch and every run of a listener; for test kits."""

    def note_dispatched(self, event: Any) -> None:
        """Note an event that this bus dispatches, before its inline listeners run."""
        ...

    def note_arrived(self, event: Any) -> None:
        """Note an event that the driver has brought, before its inline listeners run."""
        ...

    def watch(
        self, listener: str, call: Callable[[Any], Any], inline: bool
    ) -> Callable[[Any], Any]:
        """Return the function to call in place of a listener's."""
        ...


class Router:
    """The routes of one bus.

    Attributes:
        by_name: The routes of names that have a listener or a class, of those that were dispatched.
        by_type: The routes of classes, without special routes: the table of the hot path.
        special_by_type: The special routes of classes.
        publisher: The publisher on every route; None without a driver.
        interest: Is told which names have listeners here, so that the driver subscribes to them.
    """

    def __init__(
        self,
        kernel: RoutingKernel,
        registry: EventRegistry,
        *,
        special: bool = False,
        special_arrivals: bool = False,
    ) -> None:
        self.by_name: dict[str, Route] = {}
        self.by_type: dict[type, Route] = {}
        self.special_by_type: dict[type, Route] = {}
        self.publisher: RoutePublisher | None = None
        self.interest: Interest | None = None
        self._kernel = kernel
        self._registry = registry
        # The bus has middleware: every route is special, or at least those of arrived events.
        self._special = special
        self._special_arrivals = special or special_arrivals
        self._registered: dict[str, NameListeners] = {}  # by name or pattern
        self._patterns: PatternTrie[NameListeners] = PatternTrie()
        self._generation = 0  # of the patterns; see above
        self._registrations = 0
        # The listeners in the order of registration; None if they have changed since.
        self._ordered: tuple[Actor, ...] | None = None
        # True once the order of registration is not enough to tell the order of the listeners.
        self._sorted = False
        self._retired: list[Route] = []
        self._unheard_names: set[str] = set()  # those that were logged
        self._observer: Observer | None = None
        # The first listeners of every route: for dispatched events, and for those of the driver.
        self._observing_dispatch: tuple[Actor, ...] = ()
        self._observing_arrivals: tuple[Actor, ...] = ()
        # False if the driver brings events back to the bus that has dispatched them.
        self._fan_out = True
        self._unregistered: OrderedDict[str, Route] = OrderedDict()
        # For each name, the counters of the events that are dispatched and that arrive.
        self._counters: dict[str, tuple[EventCounter, EventCounter]] = {}
        self._counted_unregistered: set[str] = set()
        # The names with their listeners and counters, for snapshots; None if they have changed.
        self._event_rows: list[EventRow] | None = None

    # -- listeners

    def add(self, actor: Actor) -> None:
        """Put the actor on the routes of its events, after the listeners that are there already."""
        self._registrations += 1
        self._ordered = None
        actor.order = self._registrations
        actor.call = self.watched(actor)
        self._sorted = self._sorted or bool(actor.options.priority)
        for name in actor.names:
            listeners = self._registered.get(name)
            if listeners is None:
                listeners = self._register_name(name)
            listeners.add(actor)
            self._drop_routes(name, listeners)

    def _register_name(self, name: str) -> NameListeners:
        """Return the listeners of a name or pattern that had none."""
        pattern = is_pattern(name)
        self._registered[name] = listeners = NameListeners(pattern=pattern)
        if pattern:
            self._sorted = True
            self._patterns.add(name, listeners)
            self._generation += 1
            self.by_type.clear()
            self.special_by_type.clear()
        if self.interest is not None:
            self.interest.want(name)
        return listeners

    def remove(self, actor: Actor, names: Iterable[str] | None = None) -> None:
        """Take the actor off its routes; a route that loses its last listener goes.

        Args:
            actor: The actor.
            names: The names and patterns to take it off; None for all.
        """
        self._ordered = None
        for name in actor.names if names is None else names:
            listeners = self._registered.get(name)
            if listeners is None:
                continue
            listeners.remove(actor)
            self._drop_routes(name, listeners)
            if not listeners.actors:
                del self._registered[name]
                if is_pattern(name):
                    self._patterns.remove(name, listeners)
                else:
                    self._bound_counters(name)
                if self.interest is not None:
                    self.interest.forget(name)

    def renew(self, actor: Actor) -> None:
        """Have the actor's routes built anew, because its call has changed."""
        for name in actor.names:
            self._drop_routes(name, self._registered[name])

    def listeners(self) -> tuple[Actor, ...]:
        """Return every listener once, in the order of registration."""
        if self._ordered is None:
            found = {actor: None for each in self._registered.values() for actor in each.actors}
            self._ordered = tuple(sorted(found, key=by_order))
        return self._ordered

    def registered_for(self, name: str) -> list[Actor]:
        """Return the listeners that were registered for exactly this name or pattern."""
        listeners = self._registered.get(name)
        return [] if listeners is None else [*listeners.actors]

    def actors(self) -> list[Actor]:
        """Return the listeners, and the actor of the publisher."""
        return [*self.listeners(), *([self.publisher.actor] if self.publisher is not None else [])]

    # -- look-ups

    def find(self, event: object) -> tuple[Route, object]:
        """Return the route of an event that is not in `by_type`, and the event.

        If a type is registered for the name of an ad-hoc event, the event becomes one of that type.

        Raises:
            DecodeError: The payload of the ad-hoc event is not that of the type.
            TypeError: The object is not an event.
            UnknownEventError: The name of the ad-hoc event has no type, and the registry is strict.
        """
        route = self.special_by_type.get(type(event))
        if route is not None:
            return route, event
        if isinstance(event, AdHocEvent):
            name = event.event_name
            if not self._registry.is_registered(name):
                if self._registry.strict:
                    raise self._registry.unknown(name)
                return self.named(name), event
            event = self._registry.create(name, event.payload())
        known = self._registry.name_of(type(event))
        if known is None:
            raise not_an_event(event, self._registry)
        cls = type(event)
        cached = self.by_type.get(cls) or self.special_by_type.get(cls)
        return cached or self._cache(cls, known), event

    def named(self, name: str) -> Route:
        """Return the route of a name, built now if there is none."""
        # Special dispatch asks for each event, so the usual case comes first, here and in `_cache`.
        route = self.by_name.get(name)
        if route is not None and route.generation == self._generation:
            return route
        route = self._valid_route(name)
        if route is not None:
            return route
        route = self._build(name)
        if name in self._registered:
            self.by_name[name] = route
            return route
        self._unregistered[name] = route
        if len(self._unregistered) > MAX_UNREGISTERED_ROUTES:
            self._drop(next(iter(self._unregistered)))
            if len(self._retired) > MAX_UNREGISTERED_ROUTES and not self._kernel.busy:
                self.fold()
        return route

    def _cache(self, cls: type, name: str) -> Route:
        """Return the route for events of a class, found by class from now on."""
        route = self.by_name.get(name)
        if route is None or route.generation != self._generation:
            route = self._valid_route(name) or self._build(name)
            self._unregistered.pop(name, None)
            self.by_name[name] = route
        if cls not in route.types:
            route.types = (*route.types, cls)
        table = self.special_by_type if route.special else self.by_type
        table[cls] = route
        return route

    def _valid_route(self, name: str) -> Route | None:
        """Return the route of a name, if there is one that leads to all its listeners."""
        route = self.by_name.get(name) or self._unregistered.get(name)
        if route is None or route.generation == self._generation:
            return route
        if route.built_from != self._listeners_of(name):
            self._drop(name)
            return None
        route.generation = self._generation
        return route

    # -- building routes

    def _listeners_of(self, name: str) -> tuple[NameListeners, ...]:
        """Return the listeners of a name: its own, and those of each pattern that matches."""
        own = self._registered.get(name)
        matching = self._patterns.match(name)
        return tuple(matching) if own is None else (own, *matching)

    def _in_order(self, built_from: tuple[NameListeners, ...]) -> Collection[Actor]:
        """Return the listeners of a name in the order in which they get its events."""
        chosen: Collection[Actor] = ()
        if len(built_from) == 1:
            chosen = built_from[0].actors
        elif built_from:
            chosen = dict.fromkeys([actor for one in built_from for actor in one.actors])
        return sorted(chosen, key=by_priority) if self._sorted else chosen

    def _build(self, name: str) -> Route:
        built_from = self._listeners_of(name)
        chosen = self._in_order(built_from)
        dispatched, arrived = self._counters.get(name) or self._add_counters(name)
        if not chosen and self.publisher is None:
            self._log_unheard(name)
        listeners = (*self._observing_dispatch, *chosen)
        if self.publisher is None:
            route = local = Route(
                name, self._kernel, listeners, special=self._special, counter=dispatched
            )
        else:
            arriving = (*self._observing_arrivals, *chosen)
            local = Route(
                name, self._kernel, arriving, special=self._special_arrivals, counter=arrived
            )
            route = Route(
                name,
                self._kernel,
                listeners if self._fan_out else self._observing_dispatch,
                publisher=self.publisher,
                special=self._special,
                counter=dispatched,
            )
            route.local_only = local
            local.exclusive = route.exclusive = False
        route.generation = self._generation
        route.built_from = built_from
        for one in built_from:
            if one.routed is not None:
                one.routed[name] = None
        return route

    def _log_unheard(self, name: str) -> None:
        """Log at DEBUG, once for each name, that nobody listens to it."""
        if not logger.isEnabledFor(logging.DEBUG) or name in self._unheard_names:
            return
        if len(self._unheard_names) < MAX_UNHEARD_NAMES:
            self._unheard_names.add(name)
            heard = (known for known in self._registered if not is_pattern(known))
            logger.debug("nobody listens to %r%s", name, did_you_mean(name, heard))

    def _drop_routes(self, name: str, listeners: NameListeners) -> None:
        """Drop the routes of a name or pattern, because its listeners have changed."""
        self._event_rows = None
        for routed in (name,) if listeners.routed is None else [*listeners.routed]:
            self._drop(routed)

    def _drop(self, name: str) -> None:
        """Drop the route of a name; the next dispatch builds another one."""
        route = self.by_name.pop(name, None) or self._unregistered.pop(name, None)
        if route is None:
            return
        for cls in route.types:
            self.by_type.pop(cls, None)
            self.special_by_type.pop(cls, None)
        for one in route.built_from:
            if one.routed is not None:
                one.routed.pop(name, None)
        route.built_from = ()
        self._retired += {id(each): each for each in (route, route.local)}.values()

    def _drop_all(self) -> None:
        for name in [*self.by_name, *self._unregistered]:
            self._drop(name)

    # -- the observer and the publisher

    def observe(self, observer: Observer, dispatch: Actor, arrivals: Actor) -> None:
        """Show every dispatch and every run of a listener to an observer from now on.

        Args:
            observer: The observer.
            dispatch: An inline listener that notes the dispatched events for it, before all other
                listeners.
            arrivals: The same for the events that the driver brings.

        Raises:
            RuntimeError: The bus is observed already.
        """
        if self._observer is not None:
            raise RuntimeError("this bus is observed already")
        self._observer = observer
        for listener in self.listeners():
            listener.call = self.watched(listener)
        self._observing_dispatch, self._observing_arrivals = (dispatch,), (arrivals,)
        self._drop_all()

    def watched(self, actor: Actor) -> Callable[[Any], Any]:
        """Return the actor's call, wrapped so that the observer sees it."""
        if self._observer is None:
            return actor.call
        inline = actor.inline and not actor.options.awaited
        checked = with_check(actor.call) if inline else with_async_check(actor.call)
        return self._observer.watch(actor.name, checked, inline)

    def connect(
        self,
        publisher: RoutePublisher | None,
        *,
        interest: Interest | None = None,
        fan_out: bool = True,
    ) -> None:
        """Put the publisher of a driver on every route, or take it off.

        Args:
            publisher: The publisher; None to take it off.
            interest: Is told which names have listeners, now and from now on.
            fan_out: True if dispatch reaches the bus's own listeners directly. False if the driver
                brings the event to them, so that the publisher is the only entry.
        """
        self.publisher = publisher
        self._fan_out = fan_out
        self.interest = interest
        if interest is not None:
            for name in self._registered:
                interest.want(name)
        self._drop_all()

    # -- counters

    @property
    def has_retired(self) -> bool:
        """True if there are replaced routes whose counts are not folded."""
        return bool(self._retired)

    def fold(self) -> None:
        """Move the counts of replaced routes to their listeners, while no dispatch is under way."""
        for route in self._retired:
            route.fold()
        self._retired.clear()

    def fold_counts(self) -> None:
        """Move the counts of all routes to their listeners.

        A dispatch that is under way counts on its route when its inline calls have ended, and that
        count is moved the next time. So all routes stay, even the replaced ones.
        """
        for route in self._routes():
            if route.called or route.mailed:
                route.fold()
            local = route.local_only
            if local is not None and (local.called or local.mailed):
                local.fold()

    def _add_counters(self, name: str) -> tuple[EventCounter, EventCounter]:
        """Return new counters for a name; past the limit nobody reads them."""
        counters = (EventCounter(), EventCounter())
        if not (name in self._registered or self._registry.is_registered(name)):
            if len(self._counted_unregistered) >= MAX_COUNTED_UNREGISTERED_NAMES:
                return counters
            self._counted_unregistered.add(name)
        self._counters[name] = counters
        self._event_rows = None
        return counters

    def _bound_counters(self, name: str) -> None:
        """Count a name that has lost its last listener among the unregistered ones, or forget it.

        A program may listen to a new name for each request.
        """
        if name not in self._counters or self._registry.is_registered(name):
            return
        if len(self._counted_unregistered) < MAX_COUNTED_UNREGISTERED_NAMES:
            self._counted_unregistered.add(name)
        elif name not in self._counted_unregistered:
            del self._counters[name]

    def event_rows(self) -> list[EventRow]:
        """Return the event names that are counted, those with a listener of their own first."""
        if self._event_rows is None:
            self._event_rows = self._make_event_rows()
        return self._event_rows

    def _make_event_rows(self) -> list[EventRow]:
        # Without a call for each name: there may be thousands, and this holds the event loop.
        registered = [name for name, each in self._registered.items() if each.routed is None]
        # Many names may lead to the same many listeners, by a pattern.
        known: dict[tuple[NameListeners, ...], tuple[str, ...]] = {}
        rows: list[EventRow] = []
        for name in dict.fromkeys([*registered, *self._counters]):
            route = self.by_name.get(name)
            if route is not None and route.generation == self._generation:
                built_from = route.built_from
            else:
                built_from = self._listeners_of(name)
            listeners = known.get(built_from)
            if listeners is None:
                if len(built_from) == 1 and not self._sorted:
                    listeners = tuple(map(by_name, built_from[0].actors))
                else:
                    listeners = tuple(map(by_name, self._in_order(built_from)))
                known[built_from] = listeners
            counters = self._counters.get(name) or (EventCounter(), EventCounter())
            rows.append((name, listeners, *counters))
        return rows

    def _routes(self) -> tuple[Route, ...]:
        """Return all routes; one without a publisher may belong to another one."""
        return (*self.by_name.values(), *self._unregistered.values(), *self._retired)


def with_check(call: Callable[[Any], Any]) -> Callable[[Any], None]:
    """Return a call that checks its result, so that an observer around it sees the failure."""

    def checked(event: Any) -> None:
        if (result := call(event)) is not None:
            refuse_unrun(result)

    return checked


def with_async_check(call: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return an async call that does the same as `with_check`."""

    async def checked(event: Any) -> None:
        if (result := await call(event)) is not None:
            refuse_unrun(result)

    return checked


by_order = attrgetter("order")
by_name: Callable[[Actor], str] = attrgetter("name")


def by_priority(actor: Actor) -> tuple[int, int]:
    return (-actor.options.priority, actor.order)
