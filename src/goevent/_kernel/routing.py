"""Who listens to what: one immutable route per event name, found by the event's class or name.

A route is a plan that dispatch runs without asking anything: the calls to make inline and the
mailboxes to fill. It is replaced, never changed, so a dispatch that is under way keeps its own; the
counters of a replaced route are folded into its listeners when no dispatch is under way.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from .._events.event import AdHocEvent
from .._events.patterns import PatternTrie, compile_pattern, is_pattern
from .._handle import DispatchKernel
from .._options.signature import explain_unregistered

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from .._events.registry import EventRegistry
    from .actor import Actor

KEPT_ROUTES = 10_000  # of names that no listener and no class is registered for


class Route:
    """The listeners of one event name, and how often they were reached."""

    __slots__ = (
        "actors",
        "awaits",
        "calls",
        "exclusive",
        "free",
        "inline",
        "inner",
        "kernel",
        "name",
        "once",
        "posted",
        "ran",
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
        special: bool = False,
    ) -> None:
        self.name: str = name
        self.kernel: DispatchKernel = kernel
        self.unheard: bool = not listeners
        self.types: tuple[type, ...] = ()  # the classes for which the router has cached this route
        self.inline: tuple[Actor, ...] = tuple(actor for actor in listeners if actor.inline)
        self.actors: tuple[Actor, ...] = tuple(actor for actor in listeners if not actor.inline)
        self.calls: tuple[Callable[[Any], Any], ...] = unique(actor.call for actor in self.inline)
        self.inner: Route | None = None  # its twin without the way to other buses
        # It takes more than calls and mailboxes: the special_dispatch brings events along it.
        self.special: bool = special or any(actor.options.special for actor in listeners)
        self.once: tuple[Actor, ...] = tuple(actor for actor in listeners if actor.options.once)
        # 1 if dispatch awaits listeners, and an event is not done before them.
        self.awaits: int = int(any(actor.options.awaited for actor in listeners))
        # Events that surely fit into all mailboxes, if no other route fills them too.
        self.free: int = 0
        self.exclusive: bool = all(actor.exclusive for actor in self.actors)
        self.posted: int = 0  # events put into the mailboxes of `actors`
        self.ran: int = 0  # events that went through all of `calls`

    @property
    def local(self) -> Route:
        """The route for events that come from other buses, and must not go back to them."""
        return self.inner or self

    @property
    def listeners(self) -> tuple[Actor, ...]:
        return self.inline + self.actors

    def without(self, actor: Actor) -> Route:
        """Return a route to all of the listeners but one, for one event."""
        rest = [other for other in self.listeners if other is not actor]
        return Route(self.name, self.kernel, rest, special=True)

    def room(self) -> int:
        """Return how many events fit into all mailboxes."""
        actors = self.actors
        if len(actors) == 1:
            return actors[0].limit - len(actors[0].mail)
        return min([actor.limit - len(actor.mail) for actor in actors])

    def fold(self) -> None:
        """Hand the counters over to the listeners."""
        for actor in self.inline:
            actor.accepted += self.ran
        for actor in self.actors:
            actor.accepted += self.posted
        self.ran = self.posted = 0


def unique(calls: Iterable[Callable[[Any], Any]]) -> tuple[Callable[[Any], Any], ...]:
    """Return the calls, each a different object, so that a failed one can be found again."""
    chosen: dict[int, Callable[[Any], Any]] = {}
    for call in calls:
        one = partial(call) if id(call) in chosen else call
        chosen[id(one)] = one
    return tuple(chosen.values())


class Dispatches(DispatchKernel, Protocol):
    """What the router needs of the dispatcher, besides what handles need."""

    @property
    def busy(self) -> bool:
        """True while a dispatch is under way."""
        ...


class Interest(Protocol):
    """Is told which names and patterns have listeners."""

    def want(self, name: str) -> None: ...
    def forget(self, name: str) -> None: ...
    async def ready(self, names: Iterable[str] | None = None) -> None: ...


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

    def __init__(
        self, kernel: Dispatches, registry: EventRegistry, *, special: bool = False
    ) -> None:
        self._kernel = kernel
        self._registry = registry
        self._special = special  # every route is, as the bus has middleware
        self._patterns: PatternTrie[Actor] = PatternTrie()
        self._wide: dict[Actor, None] = {}  # who listens to patterns
        self._count = 0
        self._ranked = False  # the order of registration is not all there is to it
        self._retired: list[Route] = []
        self._observer: Observer | None = None
        self._spy: Actor | None = None  # the observer, as the first listener of every route
        self._outbox: Actor | None = None  # the way to other buses, likewise the last
        self.interest: Interest | None = None  # in what other buses dispatch
        self._fan_out = True  # the bus brings events to its own listeners, besides
        self.by_name: dict[str, Route] = {}
        self.by_type: dict[type, Route] = {}  # without special ones
        self._passing: OrderedDict[str, Route] = OrderedDict()  # of other names, the newest

    # -- listeners

    def add(self, actor: Actor) -> None:
        """Route the actor's events to it, behind the listeners that were there before."""
        self._count += 1
        actor.order = self._count
        actor.call = self.watched(actor)
        self._ranked = self._ranked or bool(actor.options.priority)
        for name in actor.event_names:
            if is_pattern(name):
                self._ranked = True
                self._wide[actor] = None
                self._patterns.add(name, actor)
                self._renew(name)
            else:
                self._replace(name, (*self.registered_for(name), actor))
            if self.interest is not None:
                self.interest.want(name)

    def remove(self, actor: Actor, names: Iterable[str] | None = None) -> None:
        """Take the actor off its routes; a route that loses its last listener goes."""
        gone = actor.event_names if names is None else tuple(names)
        for name in filter(is_pattern, gone):  # all first: a route may lead to it in several ways
            self._patterns.remove(name, actor)
        if names is None:
            self._wide.pop(actor, None)
        for name in gone:
            for each in self._known(name):
                rest = self.registered_for(each)
                self._replace(each, [a for a in rest if a is not actor or each not in gone])
        if self.interest is not None:
            for name in gone:
                if all(other is actor for other in self.registered_for(name)):
                    self.interest.forget(name)

    def renew(self, actor: Actor) -> None:
        """Build the actor's routes anew, as its call is another one."""
        for name in actor.event_names:
            self._renew(name)

    def listeners(self) -> list[Actor]:
        """Return every listener once, in the order of registration."""
        exact = (actor for name in self.by_name for actor in self.registered_for(name))
        return sorted(dict.fromkeys((*exact, *self._wide)), key=by_order)

    def registered_for(self, name: str) -> list[Actor]:
        """Return who was registered for a name, or a pattern, as such."""
        if is_pattern(name):
            return [actor for actor in self._wide if name in actor.event_names]
        route = self.by_name.get(name)
        if route is None:
            return []
        return [actor for actor in route.local.listeners if name in actor.event_names]

    def actors(self) -> list[Actor]:
        """Return the listeners and the kernel's own actors on the routes."""
        return [*self.listeners(), *([self._outbox] if self._outbox is not None else [])]

    # -- routes

    def find(self, event: object) -> tuple[Route, object]:
        """Return the route of an event whose class is not in the table, and the event.

        An ad-hoc event whose name has a registered type becomes an event of that type.

        Raises:
            DecodeError: The payload of the ad-hoc event is not that of the type.
            TypeError: The object is no event.
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
        return cached or self.cache(type(event), known), event

    def cache(self, cls: type, name: str) -> Route:
        """Return the route for events of class `cls`, found by class from now on."""
        route = self.by_name.get(name)
        if route is None:
            self._forget_passing(name)
            self.by_name[name] = route = self._build(name, ())
        if cls not in route.types:
            route.types = (*route.types, cls)
        if not route.special:
            self.by_type[cls] = route
        return route

    def named(self, name: str) -> Route:
        """Return the route of a name; of names that nobody has registered, the newest are kept."""
        if route := self.by_name.get(name) or self._passing.get(name):
            return route
        self._passing[name] = route = self._build(name, ())
        if len(self._passing) > KEPT_ROUTES:
            self._forget_passing(next(iter(self._passing)))
            if len(self._retired) > KEPT_ROUTES and not self._kernel.busy:
                self.fold()
        return route

    def chosen(self, route: Route, listeners: Sequence[Actor]) -> Route:
        """Return a route to some of a route's listeners, for one event."""
        return Route(route.name, self._kernel, listeners, special=True)

    def _build(self, name: str, exact: Sequence[Actor]) -> Route:
        spies = () if self._spy is None else (self._spy,)
        if self._ranked:
            matching = self._patterns.match(name)
            exact = sorted(dict.fromkeys((*exact, *matching)), key=by_priority)
        listeners = (*spies, *exact)
        route = Route(name, self._kernel, listeners, special=self._special)
        if self._outbox is not None:
            whole = (*listeners, self._outbox) if self._fan_out else (*spies, self._outbox)
            local, route = route, Route(name, self._kernel, whole, special=self._special)
            route.inner = local
            local.exclusive = route.exclusive = False
        return route

    def _renew(self, name: str) -> None:
        """Build anew the routes to which a name or a pattern leads."""
        for each in self._known(name):
            self._replace(each, self.registered_for(each))

    def _known(self, name: str) -> list[str]:
        """Return a name, or the names that have routes and match a pattern."""
        if is_pattern(name):
            return list(filter(compile_pattern(name), (*self.by_name, *self._passing)))
        return [name]

    def _replace(self, name: str, exact: Sequence[Actor]) -> None:
        self._forget_passing(name)
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

    def _forget_passing(self, name: str) -> None:
        if (route := self._passing.pop(name, None)) is not None:
            self._retire(route)

    def _retire(self, route: Route) -> None:
        self._retired += {id(each): each for each in (route, route.local)}.values()

    # -- the kernel's own actors

    def observe(self, observer: Observer, spy: Actor) -> None:
        """Let an observer see everything from now on."""
        if self._observer is not None:
            raise RuntimeError("this bus is observed already")
        self._observer = observer
        for actor in self.listeners():
            actor.call = self.watched(actor)
        self._put_on_routes(spy, self._outbox)

    def watched(self, actor: Actor) -> Callable[[Any], Any]:
        """Return what is to be called for an actor so that the observer sees it."""
        if self._observer is None:
            return actor.call
        return self._observer.watch(
            actor.name, actor.call, actor.inline and not actor.options.awaited
        )

    def connect(
        self, outbox: Actor | None, *, interest: Interest | None = None, fan_out: bool = True
    ) -> None:
        """Put the way to other buses on every route, or take it off.

        Without `fan_out` it is the only way to the bus's own listeners, too. `interest` is told
        which names have listeners.
        """
        self._fan_out = fan_out
        self.interest = interest
        if interest is not None:
            for actor in self.listeners():
                for name in actor.event_names:
                    interest.want(name)
        self._put_on_routes(self._spy, outbox)

    def _put_on_routes(self, spy: Actor | None, outbox: Actor | None) -> None:
        self._spy, self._outbox = spy, outbox
        for name in [*self.by_name, *self._passing]:
            self._replace(name, self.registered_for(name))

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

    def counts(self) -> dict[Actor, int]:
        """Return deliveries that are not folded yet, by listener."""
        counts: dict[Actor, int] = {}
        for route in self._routes():
            for actor in route.inline:
                counts[actor] = counts.get(actor, 0) + route.ran
            for actor in route.actors:
                counts[actor] = counts.get(actor, 0) + route.posted
        return counts

    def _routes(self) -> Iterator[Route]:
        for route in (*self.by_name.values(), *self._passing.values()):
            yield route
            if route.local is not route:
                yield route.local
        yield from self._retired


def by_order(actor: Actor) -> int:
    return actor.order


def by_priority(actor: Actor) -> tuple[int, int]:
    return (-actor.options.priority, actor.order)
