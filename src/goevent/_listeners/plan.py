"""Builds the actor for a listener: what its options ask for, put together once and for all.

What a run of a listener consists of is decided here, at registration, so a listener pays for
nothing that it has not asked for.
"""

from __future__ import annotations

from contextvars import copy_context
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import trio

from .._errors import EventError, UnsupportedError, describe
from .._events.event import AdHocEvent
from .._events.patterns import is_pattern
from .._kernel.actor import DEFAULT_DISPATCH_OPTIONS, Actor, DispatchOptions
from .._kernel.mailbox import KeyedMailbox, SharedMailbox
from .._kernel.recovery import Recovery
from .._options.middleware import hooks_of
from .._options.options import DEFAULT_KEYED_CONCURRENCY, DEFAULT_MAILBOX_EVENTS, resolve
from .._options.signature import (
    allow_interrupt,
    check_annotation,
    event_name_of,
    frame_above,
    handler_name,
    is_async,
)
from .._options.supervision import Supervision
from .threaded import run_in_thread
from .wrappers import around, as_async, limited, timed, within_context

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .._config import Config
    from .._kernel.scheduler import Scheduler
    from .._kernel.supervisor import Supervisor
    from .._options.middleware import Hook
    from .._options.options import ListenerOptions
    from ..drivers.contract import Capabilities
    from .listeners import Listeners

RESUME = Supervision()


class ListenerPlanner:
    """Builds the actors of one bus."""

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
        self._default = config.listener
        self._hooks = hooks_of(config.middleware, "around_call")
        self._scheduler = scheduler
        self._supervisor = supervisor
        self._listeners = listeners
        self._threads = trio.CapacityLimiter(config.threads)

    def build(
        self,
        handler: Callable[[Any], Any],
        events: Iterable[str | type],
        asked: ListenerOptions,
        depth: int,
        factory: Callable[[], Callable[[Any], Any]] | None = None,
    ) -> Actor:
        """Return the actor for a handler, after checking all that can be checked now.

        `depth` tells how many frames up the user's code is, whose local names annotations may use;
        `factory` makes the handler anew when the listener is restarted.
        """
        names = tuple(dict.fromkeys(event_name_of(event, self._registry) for event in events))
        if not names:
            raise TypeError("a listener needs at least one event name or event class")
        if isinstance(handler, type) or not callable(handler):
            raise TypeError(f"a listener is a function or has one, not {handler!r}")
        name = asked.name or self._default.name or handler_name(handler)
        if not self._capabilities.patterns and (wide := next(filter(is_pattern, names), None)):
            raise UnsupportedError(
                f"{name} listens to the pattern {wide!r}, but the driver of this bus cannot "
                "subscribe to patterns: list the names instead"
            )
        check_annotation(handler, name, names, self._registry, frame_above(depth + 1))
        suspends = is_async(handler)
        kind, options = resolve(asked, self._default, suspends=suspends, listener=name)
        hooks = self._hooks + hooks_of(options.middleware or (), "around_call")
        for hook in hooks:
            allow_interrupt(hook.function)
            if hook.suspends and kind == "inline":
                raise ValueError(
                    f"{hook.name}.around_call is async and cannot stand around {name}, which runs "
                    "inline; async_=True would give it a mailbox"
                )
        if options.when is not None:
            allow_interrupt(options.when)
        inline = kind in ("inline", "inline_async")
        actor = Actor(
            name,
            names,
            handler,
            inline=inline,
            capacity=0 if inline else options.mailbox or DEFAULT_MAILBOX_EVENTS,
            overflow=options.overflow or "block",
            options=dispatch_options(options, kind, hooks),
        )
        compose = partial(self._compose, actor, kind, options, hooks)
        actor.call = compose(handler)
        self._share(actor, options)
        self._supervise(actor, options, compose, factory)
        return actor

    # -- a run of a listener, from the inside out

    def _compose(
        self,
        actor: Actor,
        kind: str,
        options: ListenerOptions,
        hooks: tuple[Hook, ...],
        handler: Callable[[Any], Any],
    ) -> Callable[[Any], Any]:
        allow_interrupt(handler)
        if kind == "inline_async":
            return handler
        if kind == "inline":
            if options.slow_after is not None:
                return timed(
                    handler, options.slow_after, partial(self._scheduler.warn_slow, actor.name)
                )
            return handler
        if kind == "threaded":
            call = run_in_thread(handler, actor, self._scheduler, self._threads, options.timeout)
        elif kind == "sync_mailbox":
            call = as_async(handler)
        else:
            call = handler
        if options.timeout is not None and kind == "async_mailbox":
            call = limited(call, options.timeout, actor.name, self._scheduler)
        if hooks:
            call = around(call, hooks, self._scheduler)
        if hooks or options.context:
            call = within_context(call, self._scheduler)
        return call

    def _share(self, actor: Actor, options: ListenerOptions) -> None:
        """Give the actor lanes, if it is to work on several events at once."""
        concurrency = options.concurrency or (
            DEFAULT_KEYED_CONCURRENCY if options.ordering_key else 1
        )
        if actor.inline or concurrency == 1:
            return
        key_of = self._key_of(options.ordering_key, actor.event_names)
        lanes, schedule = actor.make_lanes(concurrency), self._scheduler.ready.append
        if key_of is None:
            actor.share(SharedMailbox(lanes, schedule))
        else:
            refuse = partial(self._scheduler.failures.ordering_key_raised, actor)
            actor.share(KeyedMailbox(lanes, schedule, key_of, refuse))

    def _key_of(
        self, asked: str | Callable[[Any], Any] | bool | None, names: tuple[str, ...]
    ) -> Callable[[Any], Any] | None:
        """Return the function that gives the key of an event; None if there is no order."""
        if asked is False:
            return None
        if isinstance(asked, str):
            return attribute(asked)
        if callable(asked):
            return asked
        types = [None if is_pattern(name) else self._registry.type_of(name) for name in names]
        if all(cls is not None and self._registry.key_of(cls) is None for cls in types):
            return None
        return self._own_key

    def _own_key(self, event: object) -> object:
        """Return the key that the event's class has chosen; without one, it is in no order."""
        key = self._registry.key_of(type(event))
        return object() if key is None else getattr(event, key)

    # -- what follows a failure

    def _supervise(
        self,
        actor: Actor,
        options: ListenerOptions,
        compose: Callable[[Callable[[Any], Any]], Callable[[Any], Any]],
        factory: Callable[[], Callable[[Any], Any]] | None,
    ) -> None:
        supervision = options.supervision or RESUME
        if options.retry is None and supervision.strategy == "resume":
            return

        def rebuild() -> EventError | None:
            if factory is None:
                return None
            try:
                # In a context of its own, or the listener would be blamed for what it sets there.
                handler = copy_context().run(factory)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is reported
                reason = f"it could not be built anew: {describe(error)}"
                failure = EventError(actor.event_names[0], actor.name, error, reason=reason)
                self._supervisor.record_loose(failure)
                return failure
            self._listeners.rebuilt(actor, compose(handler))
            return None

        def escalate(error: EventError) -> None:
            if self._scheduler.escalate(error):
                self._supervisor.mark_raised(error)

        actor.recovery = Recovery(
            options.retry,
            supervision,
            lambda: self._scheduler.clock(),
            rebuild=rebuild,
            stop=partial(self._listeners.stop, actor),
            escalate=escalate,
        )


def dispatch_options(
    options: ListenerOptions, kind: str, hooks: tuple[Hook, ...]
) -> DispatchOptions:
    """Return what dispatch has to know of a listener."""
    inline = kind in ("inline", "inline_async")
    chosen = DispatchOptions(
        priority=options.priority or 0,
        awaited=kind == "inline_async",
        contextual=bool(options.context),
        once=bool(options.once),
        timeout=options.timeout if options.timeout and inline else DEFAULT_DISPATCH_OPTIONS.timeout,
        when=options.when,
        hooks=hooks if inline else (),
    )
    return DEFAULT_DISPATCH_OPTIONS if chosen == DEFAULT_DISPATCH_OPTIONS else chosen


def attribute(name: str) -> Callable[[Any], Any]:
    """Return the function that gets an attribute of an event, or a value of an ad-hoc payload."""
    get = attrgetter(name)

    def key_of(event: Any) -> Any:
        return event.payload()[name] if isinstance(event, AdHocEvent) else get(event)

    return key_of
