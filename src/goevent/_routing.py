"""Who listens to what: one immutable route per event name, found by the event's class or name.

A route is a plan that dispatch runs without asking anything: the calls to make inline and the
mailboxes to fill. It is replaced, never changed, so a dispatch that is under way keeps its own; the
counters of a replaced route are folded into its listeners when no dispatch is under way.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from ._actor import Actor
    from ._handle import Kernel


class Route:
    """The listeners of one event name, and how often they were reached."""

    __slots__ = (
        "actors",
        "calls",
        "exclusive",
        "free",
        "inline",
        "inner",
        "kernel",
        "name",
        "posted",
        "ran",
        "types",
    )

    def __init__(self, name: str, kernel: Kernel, listeners: Sequence[Actor]) -> None:
        self.name: str = name
        self.kernel: Kernel = kernel
        self.types: tuple[type, ...] = ()  # the classes for which the router has cached this route
        self.inline: tuple[Actor, ...] = tuple(actor for actor in listeners if actor.inline)
        self.actors: tuple[Actor, ...] = tuple(actor for actor in listeners if not actor.inline)
        self.calls: tuple[Callable[[Any], Any], ...] = unique(actor.call for actor in self.inline)
        self.inner: Route | None = None  # its twin without the way to other buses
        # Events that surely fit into all mailboxes, if no other route fills them too.
        self.free: int = 0
        self.exclusive: bool = all(len(actor.event_names) == 1 for actor in self.actors)
        self.posted: int = 0  # events put into the mailboxes of `actors`
        self.ran: int = 0  # events that went through all of `calls`

    @property
    def local(self) -> Route:
        """The route for events that come from other buses, and must not go back to them."""
        return self.inner or self

    @property
    def listeners(self) -> tuple[Actor, ...]:
        return self.inline + self.actors

    def room(self) -> int:
        """Return how many events fit into all mailboxes."""
        return min([actor.limit - len(actor.mail) for actor in self.actors])

    def fold(self) -> None:
        """Hand the counters over to the listeners."""
        for actor in self.inline:
            actor.folded += self.ran
        for actor in self.actors:
            actor.folded += self.posted
        self.ran = self.posted = 0


def unique(calls: Iterable[Callable[[Any], Any]]) -> tuple[Callable[[Any], Any], ...]:
    """Return the calls, each a different object, so that a failed one can be found again."""
    chosen: dict[int, Callable[[Any], Any]] = {}
    for call in calls:
        one = partial(call) if id(call) in chosen else call
        chosen[id(one)] = one
    return tuple(chosen.values())


class Observer(Protocol):
    """Sees every dispatch and every run of a listener; for test kits."""

    def note(self, event: Any) -> None:
        """Take note of an event, before its inline listeners run."""
        ...

    def watch(
        self, listener: str, call: Callable[[Any], Any], inline: bool
    ) -> Callable[[Any], Any]:
        """Return what is to be called instead of a listener."""
        ...


class Router:
    """The routes of one bus."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._retired: list[Route] = []
        self._observer: Observer | None = None
        self._spy: Actor | None = None  # the observer, as the first listener of every route
        self._outbox: Actor | None = None  # the way to other buses, likewise the last
        self.by_name: dict[str, Route] = {}
        self.by_type: dict[type, Route] = {}

    # -- listeners

    def add(self, actor: Actor) -> None:
        """Route the actor's events to it, behind the listeners that were there before."""
        if self._observer is not None:
            actor.call = self._observer.watch(actor.name, actor.call, actor.inline)
        for name in actor.event_names:
            self._replace(name, (*self._listeners_of(name), actor))

    def remove(self, actor: Actor, names: Iterable[str] | None = None) -> None:
        """Take the actor off its routes; a route that loses its last listener goes."""
        for name in actor.event_names if names is None else names:
            self._replace(name, [other for other in self._listeners_of(name) if other is not actor])

    def listeners(self) -> list[Actor]:
        """Return every listener once, in the order of registration within each name."""
        found = {id(a): a for name in self.by_name for a in self._listeners_of(name)}
        return list(found.values())

    def actors(self) -> list[Actor]:
        """Return the listeners and the kernel's own actors on the routes."""
        return [*self.listeners(), *([self._outbox] if self._outbox is not None else [])]

    def _listeners_of(self, name: str) -> list[Actor]:
        route = self.by_name.get(name)
        own = (self._spy, self._outbox)
        return [actor for actor in route.listeners if actor not in own] if route else []

    # -- routes

    def cache(self, cls: type, name: str) -> Route:
        """Return the route for events of class `cls`, found by class from now on."""
        route = self.by_name.get(name)
        if route is None:
            self.by_name[name] = route = self._build(name, ())
        route.types = (*route.types, cls)
        self.by_type[cls] = route
        return route

    def named(self, name: str) -> Route:
        """Return the route of a name that may have no listeners, and then is not remembered."""
        return self.by_name.get(name) or self._build(name, ())

    def _build(self, name: str, listeners: Iterable[Actor]) -> Route:
        spies = () if self._spy is None else (self._spy,)
        route = Route(name, self._kernel, (*spies, *listeners))
        if self._outbox is not None:
            local, route = route, Route(name, self._kernel, (*route.listeners, self._outbox))
            route.inner = local
            local.exclusive = route.exclusive = False
        return route

    def _replace(self, name: str, listeners: Sequence[Actor]) -> None:
        old = self.by_name.pop(name, None)
        new = self._build(name, listeners)
        if old is not None:
            new.types = old.types
            self._retired += {id(route): route for route in (old, old.local)}.values()
        for cls in new.types:
            self.by_type[cls] = new
        if new.types or listeners:
            self.by_name[name] = new

    # -- the kernel's own actors

    def observe(self, observer: Observer, spy: Actor) -> None:
        """Let an observer see everything from now on."""
        if self._observer is not None:
            raise RuntimeError("this bus is observed already")
        for actor in self.listeners():
            actor.call = observer.watch(actor.name, actor.call, actor.inline)
        self._observer = observer
        self._put_on_routes(spy, self._outbox)

    def connect(self, outbox: Actor | None) -> None:
        """Put the way to other buses on every route, or take it off."""
        self._put_on_routes(self._spy, outbox)

    def _put_on_routes(self, spy: Actor | None, outbox: Actor | None) -> None:
        listeners = {name: self._listeners_of(name) for name in self.by_name}
        self._spy, self._outbox = spy, outbox
        for name, own in listeners.items():
            self._replace(name, own)

    # -- counters

    def fold(self) -> None:
        """Make `folded` of every listener complete; only while no dispatch is under way."""
        for route in self._retired:
            route.fold()
        self._retired.clear()

    def fold_all(self) -> None:
        for route in self._routes():
            route.fold()
        self._retired.clear()

    def counts(self) -> dict[int, int]:
        """Return deliveries that are not folded yet, by the id of the listener."""
        counts: dict[int, int] = {}
        for route in self._routes():
            for actor in route.inline:
                counts[id(actor)] = counts.get(id(actor), 0) + route.ran
            for actor in route.actors:
                counts[id(actor)] = counts.get(id(actor), 0) + route.posted
        return counts

    def _routes(self) -> Iterator[Route]:
        for route in self.by_name.values():
            yield route
            if route.local is not route:
                yield route.local
        yield from self._retired
