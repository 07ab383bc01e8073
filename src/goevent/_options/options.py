"""Listener options, and the rules that decide which of them fit a listener.

`ListenerOptions` checks each value and the pairs that contradict each other. `resolve` runs once,
at registration: it decides from the function and the options which kind of listener it is, merges
the options with the defaults of the bus, and refuses an explicit option that the kind does not
support. A default that does not fit is left out silently, because it was meant for other listeners.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Literal, TypedDict

from .._events.event_types import short_name
from .._foreign import describe_value
from .._suggestions import suggest_options
from .callables import refuse_suspending
from .middleware import Middleware, check_middleware
from .retry import Retry, check_choice, check_count, check_seconds
from .supervision import Supervision

Overflow = Literal["block", "error", "drop_new", "drop_old"]
OVERFLOWS = ("block", "error", "drop_new", "drop_old")
OrderingKey = str | Callable[[Any], Any] | Literal[False]
DEFAULT_MAILBOX_EVENTS = 1024
# The concurrency of a listener that asks for an ordering_key only.
DEFAULT_KEYED_CONCURRENCY = 100

# inline: a `def` that dispatch calls. inline_async: an `async def` that dispatch awaits.
# async_mailbox: an `async def` with a mailbox. sync_mailbox: a `def` with a mailbox, which a worker
# task calls. threaded: a `def` with a mailbox, which a worker thread calls.
ListenerKind = Literal["inline", "inline_async", "async_mailbox", "sync_mailbox", "threaded"]


class ListenerKeywords(TypedDict, total=False):
    """The options of `ListenerOptions`, as keyword arguments of `@bus.listener`."""

    async_: bool | None
    thread: bool | None
    mailbox: int | None
    overflow: Overflow | None
    concurrency: int | None
    ordering_key: OrderingKey | None
    context: bool | None
    timeout: float | None
    retry: Retry | None
    supervision: Supervision | None
    middleware: tuple[Middleware, ...] | None
    priority: int | None
    slow_after: float | None
    when: Callable[[Any], object] | None
    once: bool | None
    name: str | None


@suggest_options
@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerOptions:
    """The options of one listener, as Go's `goevent.ListenerOptions`. None means the default.

    The same options are keyword arguments of `@bus.listener` and `bus.subscribe`. An option that is
    None has the default of `Config.listener`, or else the one given here.

    Example:
        >>> bus = GoEvent(Config(listener=ListenerOptions(timeout=5.0)))
        >>> @bus.listener("order.*", concurrency=10, ordering_key="order_id", timeout=1.0)
        ... async def charge(event: Event) -> None: ...

    Attributes:
        async_: True gives the listener a mailbox, so that it runs after `dispatch` has returned.
            False runs it inline, before `dispatch` returns. By default a `def` runs inline and an
            `async def` has a mailbox. An inline `async def` is awaited by `dispatch`, and
            `dispatch_nowait` refuses its events.
        thread: True runs a `def` in a worker thread, so that it may block. It then has a mailbox.
            `Config.threads` limits the threads of a bus.
        mailbox: The number of events that may wait for the listener; 1024 by default.
        overflow: The policy for a full mailbox. `"block"` (default) makes `dispatch` wait for room;
            waiting dispatches are served in order. `"error"` raises `MailboxFull`, and no listener
            gets the event. `"drop_new"` drops the new event and `"drop_old"` the oldest one; the
            loss is reported on the handle of the dropped event.
        concurrency: The number of events that the listener processes at the same time; 1 by
            default, 100 with an `ordering_key`.
        ordering_key: The key by which events are kept in order: the name of an attribute, or a
            function of the event. Events with equal keys run one after another, in the order of
            dispatch; events with different keys do not wait for each other. With `concurrency`, the
            default is the `key` of the event class; False asks for no order.
        context: True runs the listener in a copy of its dispatcher's context variables.
        timeout: The time limit in seconds for one run. A run of an `async def` is cancelled at the
            limit and fails with `ListenerTimeout`. A thread cannot be stopped: its event fails, but
            the thread runs on.
        retry: The retries of a failed event; none by default.
        supervision: The reaction when all attempts for an event have failed.
        middleware: Middleware around the runs of this listener, inside the middleware of the bus.
        priority: Inline listeners of an event run in the order of descending priority, and with
            equal priority in the order of registration; 0 by default.
        slow_after: The time in seconds after which a run of an inline `def` is logged as slow, in
            `dispatch_nowait` too. For other listeners, `Config.slow_after` decides.
        when: A filter: the listener gets only the events for which this function returns true.
            Others are not counted. It runs during dispatch, before the mailbox, so it must be
            quick.
        once: True unregisters the listener with its first event.
        name: The name of the listener in errors and snapshots; its own name by default.

    Raises:
        TypeError: An option has the wrong type.
        ValueError: An option is out of range, or two options contradict each other.
    """

    async_: bool | None = None
    thread: bool | None = None
    mailbox: int | None = None
    overflow: Overflow | None = None
    concurrency: int | None = None
    ordering_key: OrderingKey | None = None
    context: bool | None = None
    timeout: float | None = None
    retry: Retry | None = None
    supervision: Supervision | None = None
    middleware: tuple[Middleware, ...] | None = None
    priority: int | None = None
    slow_after: float | None = None
    when: Callable[[Any], object] | None = None
    once: bool | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        for option in ("async_", "thread", "context", "once"):
            check_type(option, getattr(self, option), bool, "True or False")
        for option, least in (("mailbox", 1), ("concurrency", 1), ("priority", None)):
            if getattr(self, option) is not None:
                check_count(option, getattr(self, option), at_least=least)
        if self.overflow is not None:
            check_choice("overflow", self.overflow, OVERFLOWS)
        if self.ordering_key is not None and self.ordering_key is not False:
            if not isinstance(self.ordering_key, str):
                check_function("ordering_key", self.ordering_key, "the name of an attribute or a")
            elif not self.ordering_key:
                raise ValueError("ordering_key must be the name of an attribute, not empty")
        for option in ("timeout", "slow_after"):
            if getattr(self, option) is not None:
                check_seconds(option, getattr(self, option), positive=True)
        check_type("retry", self.retry, Retry, "a Retry")
        check_type("supervision", self.supervision, Supervision, "a Supervision")
        check_type("name", self.name, str, "a str")
        if self.name == "":
            raise ValueError("name must not be empty; leave it out to use the function's name")
        if self.when is not None:
            check_function("when", self.when, "a")
        if self.middleware is not None:
            object.__setattr__(self, "middleware", check_middleware(self.middleware))
            for each in self.middleware:
                if not hasattr(each, "around_call"):
                    raise TypeError(
                        f"{short_name(type(each))} has no around_call; middleware around dispatch "
                        "or delivery belongs in Config.middleware"
                    )
        self._check_combinations()

    def _check_combinations(self) -> None:
        """Refuse options that contradict each other for every kind of listener."""
        if self.async_ is False and (self.mailbox is not None or self.overflow is not None):
            raise ValueError("an inline listener (async_=False) has no mailbox and no overflow")
        if self.async_ is False and self.thread:
            raise ValueError("thread=True needs a mailbox, and async_=False gives none")
        keyed = asks_for_key(self.ordering_key)
        if self.concurrency == 1 and keyed:
            raise ValueError(
                "ordering_key needs a concurrency above 1: a concurrency of 1 keeps all in order"
            )
        if self.once and (self.concurrency or keyed):
            raise ValueError(
                "once=True accepts one event, so concurrency and ordering_key have no effect"
            )

    def over(self, default: ListenerOptions) -> ListenerOptions:
        """Return these options, with each one that is None replaced by that of `default`."""
        return ListenerOptions(**{**explicit(default), **explicit(self)})


def asks_for_key(key: OrderingKey | None) -> bool:
    """Tell whether an `ordering_key` asks for an order; not by the truth of a callable object."""
    return key is not None and key is not False


def check_type(option: str, value: object, cls: type, expected: str) -> None:
    """Refuse an option that is neither None nor of a type.

    Raises:
        TypeError: The option has another type. The message uses `expected` as the type's name.
    """
    if value is not None and not isinstance(value, cls):
        raise TypeError(f"{option} must be {expected}, not {describe_value(value)}")


def check_function(option: str, value: Any, expected: str) -> None:
    """Refuse an option that is not a sync function of an event.

    Raises:
        TypeError: The option cannot be called, is async, or is a generator function.
    """
    if not callable(value):
        shown = describe_value(value)
        raise TypeError(f"{option} must be {expected} function of the event, not {shown}")
    refuse_suspending(option, value)


def explicit(options: ListenerOptions) -> dict[str, Any]:
    """Return the options that are not None."""
    values = {field.name: getattr(options, field.name) for field in fields(options)}
    return {name: value for name, value in values.items() if value is not None}


NO_OPTIONS = ListenerOptions()
"""The options of a listener that asks for none: one object for all of them."""

Reasons = dict[tuple[str, ...], str]

_NO_MAILBOX: Reasons = {
    ("mailbox", "overflow", "concurrency", "ordering_key"): (
        "runs inline and has no mailbox; async_=True would give it one"
    ),
    ("context",): "runs inline, in its dispatcher's context anyway",
}
_NO_PRIORITY: Reasons = {
    ("priority",): "has a mailbox; priority is the order of inline listeners",
}
_NO_SLOW_AFTER: Reasons = {
    ("slow_after",): "has a mailbox; use Config.slow_after for such listeners",
}

# The options that each kind of listener does not support, with the reason.
UNSUPPORTED_OPTIONS: dict[ListenerKind, Reasons] = {
    "inline": {
        **_NO_MAILBOX,
        ("timeout",): "is an inline `def`, which cannot be stopped; thread=True might help",
        ("retry",): "runs inline, and dispatch does not wait for another attempt; use async_=True",
    },
    "inline_async": {
        **_NO_MAILBOX,
        ("slow_after",): "is an `async def`; slow_after measures an inline `def`",
    },
    "async_mailbox": {**_NO_PRIORITY, **_NO_SLOW_AFTER},
    "sync_mailbox": {
        **_NO_PRIORITY,
        **_NO_SLOW_AFTER,
        ("timeout",): "is a `def`, which cannot be stopped; thread=True might help",
    },
    "threaded": {
        **_NO_PRIORITY,
        ("slow_after",): "runs in a thread, where it delays no other task",
    },
}


def resolve(
    asked: ListenerOptions, default: ListenerOptions, *, suspends: bool, listener: str
) -> tuple[ListenerKind, ListenerOptions]:
    """Return the kind of a listener and its effective options.

    Args:
        asked: The explicit options of the listener.
        default: The options of `Config.listener`. Those that do not fit the listener are left out.
        suspends: True if the handler is an `async def`.
        listener: The name of the listener, for error messages.

    Raises:
        ValueError: The listener asks for an option that its kind does not support.
    """
    own = explicit(asked)
    merged = {**explicit(default), **own}
    kind = listener_kind(merged, suspends)
    if (asked.async_ is False and asked.thread is None) or unsupported_option(kind, own):
        # The defaults may have made the listener another kind than the one that its own options
        # need. If its options fit without these defaults, the defaults lose.
        without_default_kind: dict[str, Any] = {
            **merged,
            "async_": asked.async_,
            "thread": asked.thread,
        }
        if not unsupported_option(listener_kind(without_default_kind, suspends), own):
            merged = without_default_kind
    if suspends and merged.get("thread"):
        if asked.thread:
            raise ValueError(f"{listener} is an `async def`; only a `def` can run in a thread")
        merged["thread"] = None
    kind = listener_kind(merged, suspends)
    if found := unsupported_option(kind, own):
        raise ValueError(f"{listener} {found[1]} ({found[0]}=)")
    # From here on, only defaults can be unfit.
    for options in UNSUPPORTED_OPTIONS[kind]:
        for option in options:
            merged.pop(option, None)
    # A default of async_=False would contradict the explicit thread=True.
    if kind == "threaded" and asked.async_ is None:
        merged["async_"] = None
    drop_conflicting_defaults(merged, asked)
    # Async middleware among the defaults cannot run around an inline `def`.
    if kind == "inline" and asked.middleware is None:
        around: tuple[Any, ...] = default.middleware or ()
        merged["middleware"] = tuple(
            each for each in around if not inspect.isasyncgenfunction(each.around_call)
        )
    return kind, ListenerOptions(**merged)


def unsupported_option(kind: ListenerKind, asked: dict[str, Any]) -> tuple[str, str] | None:
    """Return the first option that a kind of listener does not support, with the reason."""
    for options, reason in UNSUPPORTED_OPTIONS[kind].items():
        for option in options:
            if asked.get(option, False) is not False:
                return option, reason
    return None


def drop_conflicting_defaults(merged: dict[str, Any], asked: ListenerOptions) -> None:
    """Remove the defaults that contradict the explicit options of a listener."""
    keyed = asks_for_key(asked.ordering_key)
    if asked.once:
        merged["concurrency"] = merged["ordering_key"] = None
    elif asked.concurrency or keyed:
        merged["once"] = asked.once
    if asked.concurrency == 1 and not keyed:
        merged["ordering_key"] = None
    elif keyed and asked.concurrency is None and merged.get("concurrency") == 1:
        merged["concurrency"] = None


def listener_kind(options: dict[str, Any], suspends: bool) -> ListenerKind:
    """Return the kind of a listener with these options; `suspends` is true for an `async def`."""
    if options.get("thread"):
        return "threaded"
    if suspends:
        return "inline_async" if options.get("async_") is False else "async_mailbox"
    return "sync_mailbox" if options.get("async_") else "inline"
