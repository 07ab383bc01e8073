"""The plan of a listener: all decisions made once, at registration, and the actor made of it.

`GoEvent` calls `ListenerPlanner.build` for each registration. It checks the request against the
registry, the driver and the options, makes a `ListenerPlan` of it, and builds the actor.

A run of a listener consists of the handler and of wrappers around it: a timeout, middleware, a
context. They are composed here, from the inside out, and only those that the options ask for. So a
listener pays nothing per event for an option that it does not use.
"""

from __future__ import annotations

from contextvars import copy_context
from dataclasses import dataclass, replace
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Protocol, cast

import trio

from .._errors import EventError, UnsupportedError
from .._events.event import AdHocEvent
from .._events.patterns import is_pattern
from .._events.type_index import TypeIndex
from .._foreign import describe
from .._kernel.actor import DEFAULT_DISPATCH_OPTIONS, Actor, DispatchOptions
from .._kernel.mailbox import KeyedMailbox, SharedMailbox
from .._kernel.recovery import Recovery
from .._options.callables import is_async, refuse_generator
from .._options.middleware import hooks_of
from .._options.mistakes import check_events, check_handler, check_owner
from .._options.options import (
    DEFAULT_KEYED_CONCURRENCY,
    DEFAULT_MAILBOX_EVENTS,
    NO_OPTIONS,
    asks_for_key,
    resolve,
)
from .._options.signature import (
    allow_interrupt,
    check_annotation,
    check_further_names,
    event_name_of,
    frame_above,
)
from .._options.supervision import Supervision
from .names import ListenerNames
from .threaded import run_in_thread
from .wrappers import as_async, with_context, with_middleware, with_slow_warning, with_timeout

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from .._config import Config
    from .._kernel.scheduler import Scheduler
    from .._kernel.supervisor import Supervisor
    from .._options.middleware import Hook
    from .._options.options import ListenerKind, ListenerOptions
    from ..drivers.contract import Capabilities
    from .listeners import Listeners
    from .wrappers import Call

    # Makes the handler of a listener anew.
    HandlerFactory = Callable[[], Call]

RESUME = Supervision()


class RunWrapper(Protocol):
    """Changes the runs of a listener that is more than a listener: a responder."""

    def event_names(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """Return the names under which the listener is registered."""
        ...

    def run_async(self, handler: Call, scheduler: Scheduler) -> Call:
        """Return the call of the mailbox for an `async def`."""
        ...

    def run_sync(self, handler: Call) -> Call:
        """Return the call of the mailbox for a `def`."""
        ...

    def run_threaded(self, handler: Call, in_thread: Callable[[Call], Call]) -> Call:
        """Return the call of the mailbox for a `def` in a thread.

        Args:
            handler: The `def`.
            in_thread: Returns the call that runs a `def` in a thread.
        """
        ...


@dataclass(frozen=True, slots=True)
class ListenerPlan:
    """The decisions about one listener.

    Attributes:
        name: The name of the listener in errors and snapshots.
        event_names: The event names and patterns that it listens to.
        resolved: The way in which it runs, and its effective options: those of the listener, then
            those of the bus.
        hooks: The middleware around its runs, the outermost first.
        wrapper: Changes its runs; None for an ordinary listener.
    """

    name: str
    event_names: tuple[str, ...]
    resolved: tuple[ListenerKind, ListenerOptions]
    hooks: tuple[Hook, ...]
    wrapper: RunWrapper | None = None

    @property
    def kind(self) -> ListenerKind:
        """The way in which the listener runs."""
        return self.resolved[0]

    @property
    def options(self) -> ListenerOptions:
        """The effective options."""
        return self.resolved[1]

    @property
    def inline(self) -> bool:
        """True if the listener runs inside dispatch and has no mailbox."""
        return self.kind in ("inline", "inline_async")

    @property
    def mailbox_events(self) -> int:
        """The capacity of the mailbox."""
        return 0 if self.inline else self.options.mailbox or DEFAULT_MAILBOX_EVENTS

    @property
    def concurrency(self) -> int:
        """The number of events that the listener may process at the same time."""
        if self.inline:
            return 1
        keyed = asks_for_key(self.options.ordering_key)
        default = DEFAULT_KEYED_CONCURRENCY if keyed else 1
        return self.options.concurrency or default

    @property
    def dispatch_options(self) -> DispatchOptions:
        """The part of the options that dispatch needs for each event."""
        options = self.options
        plain = not (
            options.priority or options.context or options.once or options.when is not None
        )
        # Most listeners have no such option. They share one object.
        if plain and (not self.inline or (self.kind == "inline" and not self.hooks)):
            return DEFAULT_DISPATCH_OPTIONS
        timeout = options.timeout if options.timeout and self.inline else None
        return DispatchOptions(
            priority=options.priority or 0,
            awaited=self.kind == "inline_async",
            contextual=bool(options.context),
            once=bool(options.once),
            timeout=DEFAULT_DISPATCH_OPTIONS.timeout if timeout is None else timeout,
            when=options.when,
            hooks=self.hooks if self.inline else (),
        )


class ListenerPlanner:
    """Builds the actors of one bus.

    Attributes:
        names: The names of the listeners.
    """

    def __init__(
        self,
        config: Config,
        capabilities: Capabilities,
        scheduler: Scheduler,
        supervisor: Supervisor,
        listeners: Listeners,
    ) -> None:
        self._capabilities = capabilities
        self._registry = config.registry
        self._type_index = TypeIndex(config.registry)
        self._default = config.listener
        # The kind and the options of listeners that ask for none, by `suspends` of `resolve`.
        self._without_options: dict[bool, tuple[ListenerKind, ListenerOptions]] = {}
        self.names: ListenerNames = ListenerNames()
        self._hooks = hooks_of(config.middleware, "around_call")
        self._scheduler = scheduler
        self._supervisor = supervisor
        self._listeners = listeners
        self._threads = trio.CapacityLimiter(config.threads)

    def build(
        self,
        handler: Call,
        events: tuple[str | type, ...],
        asked: ListenerOptions,
        depth: int,
        factory: HandlerFactory | None = None,
        wrapper: RunWrapper | None = None,
    ) -> Actor:
        """Return the actor for a handler. It is not registered yet.

        Args:
            handler: The function of the user.
            events: The event names, patterns and event classes.
            asked: The explicit options.
            depth: The number of frames between the caller of this method and the user's code.
                Annotations may use the local names there.
            factory: Makes the handler anew when the supervision restarts the listener.
            wrapper: Changes the runs of a listener with a mailbox.

        Raises:
            TypeError: The handler or its annotation does not fit the events.
            ValueError: A name is not an event name, or the options make no sense.
            UnsupportedError: The driver cannot subscribe to a pattern.
        """
        plan = self._plan(handler, events, asked, frame_above(depth + 1))
        names = plan.event_names
        if wrapper is not None:
            plan, names = replace(plan, wrapper=wrapper), wrapper.event_names(names)
        actor = Actor(
            plan.name,
            names,
            handler,
            capacity=plan.mailbox_events,
            overflow=plan.options.overflow or "block",
            options=plan.dispatch_options,
        )
        actor.resolved = plan.resolved
        actor.call = self._compose(actor, plan, handler)
        if plan.concurrency > 1:
            self._add_lanes(actor, plan)
        self._add_recovery(actor, plan, factory)
        return actor

    # -- checks

    def event_names(self, events: tuple[str | type, ...]) -> tuple[str, ...]:
        """Return the names and patterns of the events of a registration, each once.

        Raises:
            TypeError: There is no event, or one is neither a name nor an event class.
            ValueError: A name is neither an event name nor an event pattern.
        """
        check_events(events, self._registry)
        return tuple(dict.fromkeys(event_name_of(event, self._registry) for event in events))

    def stream_names(self, events: tuple[str | type, ...]) -> tuple[str, ...]:
        """Return the names and patterns of a stream, as `event_names` does.

        Raises:
            UnsupportedError: The driver cannot subscribe to a pattern.
        """
        names = self.event_names(events)
        self._check_patterns("the stream", names)
        return names

    def _check_patterns(self, listener: str, names: tuple[str, ...]) -> None:
        pattern = next(filter(is_pattern, names), None)
        if pattern is not None and not self._capabilities.patterns:
            raise UnsupportedError(
                f"{listener} listens to the pattern {pattern!r}, but the driver of this bus cannot "
                "subscribe to patterns: list the names instead"
            )

    def _plan(
        self,
        handler: Call,
        events: tuple[str | type, ...],
        asked: ListenerOptions,
        frame: FrameType,
    ) -> ListenerPlan:
        check_handler(handler, events)
        names = self.event_names(events)
        check_owner(handler, events)
        name = asked.name or self._default.name or self.names.of(handler)
        self._check_patterns(name, names)
        refuse_generator(handler, name)
        check_annotation(handler, name, names, self._registry, self._type_index, frame)
        check_further_names(name, names, self._registry)
        suspends = is_async(handler)
        kind, options = resolved = self._resolve(asked, suspends, name)
        hooks = self._hooks + hooks_of(options.middleware or (), "around_call")
        for hook in hooks:
            allow_interrupt(hook.function)
            if hook.suspends and kind == "inline":
                raise ValueError(
                    f"{hook.name}.around_call is async and cannot run around {name}, which runs "
                    "inline; async_=True would give it a mailbox"
                )
        if options.when is not None:
            allow_interrupt(options.when)
        return ListenerPlan(name, names, resolved, hooks)

    def _resolve(
        self, asked: ListenerOptions, suspends: bool, listener: str
    ) -> tuple[ListenerKind, ListenerOptions]:
        """Return the kind of a listener and its effective options, as `resolve` does."""
        if asked is not NO_OPTIONS:
            return resolve(asked, self._default, suspends=suspends, listener=listener)
        known = self._without_options.get(suspends)
        if known is None:
            known = resolve(asked, self._default, suspends=suspends, listener=listener)
            self._without_options[suspends] = known
        return known

    # -- a run of a listener, from the inside out

    def _compose(self, actor: Actor, plan: ListenerPlan, handler: Call) -> Call:
        """Return the function that runs the listener for one event."""
        options, scheduler = plan.options, self._scheduler
        allow_interrupt(handler)
        if plan.kind == "inline_async":
            # Special dispatch adds the middleware, the timeout and the context of these.
            return handler
        if plan.kind == "inline":
            if options.slow_after is None:
                return handler
            warn = partial(scheduler.warn_slow, plan.name)
            return with_slow_warning(handler, options.slow_after, warn)
        call = self._mailbox_call(actor, plan, handler)
        if options.timeout is not None and plan.kind == "async_mailbox":
            call = with_timeout(call, options.timeout, plan.name, scheduler)
        if plan.hooks:
            call = with_middleware(call, plan.hooks, scheduler)
        # Middleware may set context variables. A worker is shared, so they must not stay in its own
        # context.
        if plan.hooks or options.context:
            call = with_context(call, scheduler)
        return call

    def _mailbox_call(self, actor: Actor, plan: ListenerPlan, handler: Call) -> Call:
        """Return the function that runs a listener with a mailbox, without its options."""
        scheduler, wrapper = self._scheduler, plan.wrapper
        if plan.kind == "threaded":
            # The timeout of a thread is special, because a thread cannot be cancelled.
            timeout = plan.options.timeout

            def in_thread(handler: Call) -> Call:
                return run_in_thread(handler, actor, scheduler, self._threads, timeout)

            return (
                in_thread(handler) if wrapper is None else wrapper.run_threaded(handler, in_thread)
            )
        if plan.kind == "sync_mailbox":
            return as_async(handler) if wrapper is None else wrapper.run_sync(handler)
        return handler if wrapper is None else wrapper.run_async(handler, scheduler)

    # -- several events at the same time

    def _add_lanes(self, actor: Actor, plan: ListenerPlan) -> None:
        """Give the actor lanes, which process several events at the same time."""
        key_of = self._key_function(plan)
        lanes, schedule = actor.make_lanes(plan.concurrency), self._scheduler.ready.append
        if key_of is None:
            actor.share(SharedMailbox(lanes, schedule))
        else:
            refuse = partial(self._scheduler.failures.ordering_key_raised, actor)
            actor.share(KeyedMailbox(lanes, schedule, key_of, refuse))

    def _key_function(self, plan: ListenerPlan) -> Call | None:
        """Return the function that gives the key of an event, or None if no order is kept."""
        asked: Any = plan.options.ordering_key
        if asked is False:
            return None
        if isinstance(asked, str):
            return field_getter(asked)
        if callable(asked):
            return cast("Call", asked)
        types = [self._registry.type_of(name) for name in plan.event_names if not is_pattern(name)]
        known = len(types) == len(plan.event_names)
        # If all classes are known now and none has a key, no event will ever have one.
        if known and all(cls is not None and self._registry.key_of(cls) is None for cls in types):
            return None
        return self._class_key

    def _class_key(self, event: object) -> object:
        """Return the key that the event's class declares. An event without one keeps no order."""
        key = self._registry.key_of(type(event))
        return object() if key is None else getattr(event, key)

    # -- failures

    def _add_recovery(
        self, actor: Actor, plan: ListenerPlan, factory: HandlerFactory | None
    ) -> None:
        """Give the actor its retries and its supervision, if the options ask for any."""
        supervision = plan.options.supervision or RESUME
        if plan.options.retry is None and supervision.strategy == "resume":
            return

        def rebuild() -> EventError | None:
            if factory is None:
                return None
            try:
                # In a context of its own: the factory runs on a worker, whose context must stay
                # unchanged.
                handler = copy_context().run(factory)
            except Exception as error:  # noqa: BLE001 - reported
                reason = f"the factory of the listener failed: {describe(error)}"
                failure = EventError(actor.event_names[0], actor.name, error, reason=reason)
                self._supervisor.record_loose(failure)
                return failure
            self._listeners.replace_call(actor, self._compose(actor, plan, handler))
            return None

        def escalate(error: EventError) -> None:
            if self._scheduler.escalate(error):
                self._supervisor.mark_raised(error)

        actor.recovery = Recovery(
            plan.options.retry,
            supervision,
            # Not the bound attribute: the scheduler chooses its clock when it is opened.
            lambda: self._scheduler.clock(),
            rebuild=rebuild,
            stop=partial(self._listeners.stop, actor),
            escalate=escalate,
        )


def field_getter(name: str) -> Call:
    """Return the function that gets an attribute of an event, or a field of an ad-hoc payload."""
    get = attrgetter(name)

    def key_of(event: Any) -> Any:
        return event.payload()[name] if isinstance(event, AdHocEvent) else get(event)

    return key_of
