"""The router: finds the route of an event by its class or its name.

`Listeners` adds and removes actors; the dispatcher and the inbox look routes up; the session
connects the publisher of a driver to all of them.

Theory of operation. A registration replaces the routes that it concerns, so a dispatch under way
keeps its own route to the end. A replaced route is kept until its counters are folded into its
listeners. That happens when no dispatch is under way, because a dispatch may still count on it.

Routes of names that have neither a listener nor a class are kept too, the newest
`MAX_UNREGISTERED_ROUTES` of them: so ad-hoc events are found by one look-up, and hostile names
cannot fill the memory.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Protocol

from .._events.event import AdHocEvent
from .._events.patterns import PatternTrie, compile_pattern, is_pattern
from .._handle import DispatchKernel
from .._options.signature import explain_unregistered
from .route import Route

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from .._events.registry import EventRegistry
    from .actor import Actor
    from .route import RoutePublisher

MAX_UNREGISTERED_ROUTES = 10_000


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

    def note(self, event: Any) -> None:
        """Note an event, before its inline listeners run."""
        ...

    def watch(
        self, listener: str, call: Callable[[Any], Any], inline: bool
    ) -> Callable[[Any], Any]:
        """Return the function to call in place of a listener's."""
        ...


class Router:
    """The routes of one bus.

    Attributes:
        by_name: The routes of names that have a listener or a class.
        by_type: The routes of classes, without special routes: the table of the hot path.
        publisher: The publisher on every route; None without a driver.
        interest: Is told which names have listeners here, so that the driver subscribes to them.
    """

    def __init__(
        self, kernel: RoutingKernel, registry: EventRegistry, *, special: bool = False
    ) -> None:
        self.by_name: dict[str, Route] = {}
        self.by_type: dict[type, Route] = {}
        self.publisher: RoutePublisher | None = None
        self.interest: Interest | None = None
        self._kernel = kernel
        self._registry = registry
        self._special = special  # every route is special: the bus has middleware
        self._patterns: PatternTrie[Actor] = PatternTrie()
        self._pattern_actors: dict[Actor, None] = {}
        self._registrations = 0
        # True once the order of registration is not enough to tell the order of the listeners.
        self._sorted = False
        self._retired: list[Route] = []
        self._observer: Observer | None = None
        self._observing_actor: Actor | None = None  # the first listener of every route
        # False if the driver brings events back to the bus that has dispatched them.
        self._fan_out = True
        self._unregistered: OrderedDict[str, Route] = OrderedDict()

    # -- listeners

    def add(self, actor: Actor) -> None:
        """Put the actor on the routes of its events, after the listeners that are there already."""
        self._registrations += 1
        actor.order = self._registrations
        actor.call = self.watched(actor)
        self._sorted = self._sorted or bool(actor.options.priority)
        for name in actor.event_names:
            if is_pattern(name):
                self._sorted = True
                self._pattern_actors[actor] = None
                self._patterns.add(name, actor)
                self._rebuild(name)
            else:
                self._replace(name, (*self.registered_for(name), actor))
            if self.interest is not None:
                self.interest.want(name)

    def remove(self, actor: Actor, names: Iterable[str] | None = None) -> None:
        """Take the actor off its routes; a route that loses its last listener goes.

        Args:
            actor: The actor.
            names: The names and patterns to take it off; None for all.
        """
        removed = actor.event_names if names is None else tuple(names)
        # All patterns first: a route may lead to the actor by several of them.
        for name in filter(is_pattern, removed):
            self._patterns.remove(name, actor)
        if names is None:
            self._pattern_actors.pop(actor, None)
        for name in removed:
            for each in self._routed_names(name):
                rest = self.registered_for(each)
                self._replace(each, [a for a in rest if a is not actor or each not in removed])
        if self.interest is not None:
            for name in removed:
                if all(other is actor for other in self.registered_for(name)):
                    self.interest.forget(name)

    def renew(self, actor: Actor) -> None:
        """Build the actor's routes anew, because its call has changed."""
        for name in actor.event_names:
            self._rebuild(name)

    def listeners(self) -> list[Actor]:
        """Return every listener once, in the order of registration."""
        exact = (actor for name in self.by_name for actor in self.registered_for(name))
        return sorted(dict.fromkeys((*exact, *self._pattern_actors)), key=by_order)

    def registered_for(self, name: str) -> list[Actor]:
        """Return the listeners that were registered for exactly this name or pattern."""
        if is_pattern(name):
            return [actor for actor in self._pattern_actors if name in actor.event_names]
        route = self.by_name.get(name)
        if route is None:
            return []
        return [actor for actor in route.local.listeners if name in actor.event_names]

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
        """
        if isinstance(event, AdHocEvent):
            name = event.event_name
            if not self._registry.is_registered(name):
                return self.named(name), event
            event = self._registry.create(name, event.payload())
        known = self._registry.name_of(type(event))
        if known is None:
            raise TypeError(explain_unregistered(type(event)))
        cached = self.by_type.get(type(event))
        return cached or self._cache(type(event), known), event

    def named(self, name: str) -> Route:
        """Return the route of a name, made now if there is none."""
        if route := self.by_name.get(name) or self._unregistered.get(name):
            return route
        self._unregistered[name] = route = self._build(name, ())
        if len(self._unregistered) > MAX_UNREGISTERED_ROUTES:
            self._forget_unregistered(next(iter(self._unregistered)))
            if len(self._retired) > MAX_UNREGISTERED_ROUTES and not self._kernel.busy:
                self.fold()
        return route

    def _cache(self, cls: type, name: str) -> Route:
        """Return the route for events of a class, found by class from now on."""
        route = self.by_name.get(name)
        if route is None:
            self._forget_unregistered(name)
            self.by_name[name] = route = self._build(name, ())
        if cls not in route.types:
            route.types = (*route.types, cls)
        if not route.special:
            self.by_type[cls] = route
        return route

    # -- building routes

    def _build(self, name: str, exact: Sequence[Actor]) -> Route:
        observing = () if self._observing_actor is None else (self._observing_actor,)
        if self._sorted:
            matching = self._patterns.match(name)
            exact = sorted(dict.fromkeys((*exact, *matching)), key=by_priority)
        listeners = (*observing, *exact)
        local = Route(name, self._kernel, listeners, special=self._special)
        if self.publisher is None:
            return local
        route = Route(
            name,
            self._kernel,
            listeners if self._fan_out else observing,
            publisher=self.publisher,
            special=self._special,
        )
        route.local_only = local
        local.exclusive = route.exclusive = False
        return route

    def _rebuild(self, name: str) -> None:
        """Build the route of a name, or the routes of the names that match a pattern, anew."""
        for each in self._routed_names(name):
            self._replace(each, self.registered_for(each))

    def _routed_names(self, name: str) -> list[str]:
        """Return a name, or the names that have routes and match a pattern."""
        if is_pattern(name):
            return list(filter(compile_pattern(name), (*self.by_name, *self._unregistered)))
        return [name]

    def _replace(self, name: str, exact: Sequence[Actor]) -> None:
        self._forget_unregistered(name)
        old = self.by_name.pop(name, None)
        types: tuple[type, ...] = ()
        if old is not None:
            types = old.types
            self._retire(old)
        if not types and not exact:
            return
        self.by_name[name] = new = self._build(name, exact)
        new.types = types
        for cls in types:
            if new.special:
                self.by_type.pop(cls, None)
            else:
                self.by_type[cls] = new

    def _forget_unregistered(self, name: str) -> None:
        if (route := self._unregistered.pop(name, None)) is not None:
            self._retire(route)

    def _retire(self, route: Route) -> None:
        self._retired += {id(each): each for each in (route, route.local)}.values()

    # -- the observer and the publisher

    def observe(self, observer: Observer, actor: Actor) -> None:
        """Show every dispatch and every run of a listener to an observer from now on.

        Args:
            observer: The observer.
            actor: An inline listener that notes the events for it, before all other listeners.

        Raises:
            RuntimeError: The bus is observed already.
        """
        if self._observer is not None:
            raise RuntimeError("this bus is observed already")
        self._observer = observer
        for listener in self.listeners():
            listener.call = self.watched(listener)
        self._observing_actor = actor
        self._rebuild_all()

    def watched(self, actor: Actor) -> Callable[[Any], Any]:
        """Return the actor's call, wrapped so that the observer sees it."""
        if self._observer is None:
            return actor.call
        return self._observer.watch(
            actor.name, actor.call, actor.inline and not actor.options.awaited
        )

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
            for actor in self.listeners():
                for name in actor.event_names:
                    interest.want(name)
        self._rebuild_all()

    def _rebuild_all(self) -> None:
        for name in [*self.by_name, *self._unregistered]:
            self._replace(name, self.registered_for(name))

    # -- counters

    def fold(self) -> None:
        """Move the counts of replaced routes to their listeners, while no dispatch is under way."""
        for route in self._retired:
            route.fold()
        self._retired.clear()

    def fold_all(self) -> None:
        """Move the counts of all routes to their listeners, while no dispatch is under way."""
        for route in self._routes():
            route.fold()
        self._retired.clear()

    def counts(self) -> dict[Actor, int]:
        """Return the deliveries that are not folded yet, by listener."""
        counts: dict[Actor, int] = {}
        for route in self._routes():
            for actor in route.inline:
                counts[actor] = counts.get(actor, 0) + route.called
            for actor in route.actors:
                counts[actor] = counts.get(actor, 0) + route.mailed
        return counts

    def _routes(self) -> Iterator[Route]:
        for route in (*self.by_name.values(), *self._unregistered.values()):
            yield route
            if route.local is not route:
                yield route.local
        yield from self._retired


def by_order(actor: Actor) -> int:
    return actor.order


def by_priority(actor: Actor) -> tuple[int, int]:
    return (-actor.options.priority, actor.order)
