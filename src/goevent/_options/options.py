"""What a listener may ask for, and the check that it makes sense."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Literal, TypedDict

from .middleware import Middleware, check_middleware
from .retry import Retry, check_count, check_seconds
from .supervision import Supervision

Overflow = Literal["block", "error", "drop_new", "drop_old"]
OVERFLOWS = ("block", "error", "drop_new", "drop_old")
OrderingKey = str | Callable[[Any], Any] | Literal[False]
DEFAULT_MAILBOX = 1024
DEFAULT_CONCURRENCY = 100  # of a listener that asks for an order per key only


class ListenerKeywords(TypedDict, total=False):
    """The options of `ListenerOptions` as keywords of `@bus.listener`."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerOptions:
    """How one listener is run, as Go's `goevent.ListenerOptions`; None means the default.

    Attributes:
        async_: True gives the listener a mailbox and runs it after `dispatch` has returned; False
            runs it inline, before. The default is what the function is: `def` runs inline,
            `async def` has a mailbox. An inline `async def` is awaited by `dispatch`, and
            `dispatch_nowait` refuses its events.
        thread: True runs a `def` in a worker thread, so that it may block; it has a mailbox then.
            How many threads a bus has at once is `Config.threads`.
        mailbox: how many events may wait for the listener; 1024 by default.
        overflow: what a dispatch meets at a full mailbox. `"block"` (default) waits for room, first
            come, first served; `"error"` raises `MailboxFull` and delivers to nobody; `"drop_new"`
            and `"drop_old"` drop the new or the oldest event and report it on that event's handle.
        concurrency: how many events the listener works on at once; 1 by default, 100 with an
            `ordering_key`.
        ordering_key: what events have in common that must stay in order: the name of an attribute,
            or a function of the event. Events of one key run one after another, in the order of
            dispatch; different keys do not wait for each other. With `concurrency`, the default is
            the `key` of the event's class; False asks for no order.
        context: True runs the listener in a copy of the context variables of its dispatcher.
        timeout: seconds after which a run of an `async def` is cancelled and fails with
            `ListenerTimeout`. A thread cannot be stopped: the event fails, but the thread runs on.
        retry: how a failed event is tried again.
        supervision: what is done about the listener when an event has failed for good.
        middleware: what stands around the listener's runs, inside the middleware of the bus.
        priority: inline listeners of an event run by priority, the highest first, then in the order
            of registration; 0 by default.
        slow_after: seconds after which a run of an inline `def` is warned of, also in
            `dispatch_nowait`. Elsewhere `Config.slow_after` says so.
        when: only events for which this returns true are delivered, and counted, at all. It is
            asked during dispatch, before the mailbox, so it has to be quick.
        once: True unregisters the listener with its first event.
        name: how errors and snapshots call the listener; its qualified name by default.
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
            check_kind(option, getattr(self, option), bool, "True or False")
        if self.mailbox is not None:
            if isinstance(self.mailbox, bool) or not isinstance(self.mailbox, int):
                raise TypeError(f"mailbox is a number of events, not {self.mailbox!r}")
            if self.mailbox < 1:
                raise ValueError(f"mailbox must hold at least 1 event, not {self.mailbox}")
        for option, least in (("concurrency", 1), ("priority", None)):
            if getattr(self, option) is not None:
                check_count(option, getattr(self, option), at_least=least)
        if self.overflow is not None and self.overflow not in OVERFLOWS:
            raise ValueError(f"overflow is one of {', '.join(OVERFLOWS)}, not {self.overflow!r}")
        if self.ordering_key is not None and self.ordering_key is not False:
            if not isinstance(self.ordering_key, str):
                check_function("ordering_key", self.ordering_key, "an attribute's name or a")
            elif not self.ordering_key:
                raise ValueError("ordering_key is the name of an attribute, and not empty")
        for option in ("timeout", "slow_after"):
            if getattr(self, option) is not None:
                check_seconds(option, getattr(self, option), positive=True)
        check_kind("retry", self.retry, Retry, "a Retry")
        check_kind("supervision", self.supervision, Supervision, "a Supervision")
        check_kind("name", self.name, str, "text")
        if self.name == "":
            raise ValueError("name is not empty; without one, a listener is called by its function")
        if self.when is not None:
            check_function("when", self.when, "a")
        if self.middleware is not None:
            object.__setattr__(self, "middleware", check_middleware(self.middleware))
            for each in self.middleware:
                if not hasattr(each, "around_call"):
                    raise TypeError(
                        f"{type(each).__qualname__} has no around_call; middleware around dispatch "
                        "or delivery belongs into Config.middleware"
                    )
        self._check_together()

    def _check_together(self) -> None:
        """Refuse options that contradict each other whatever the listener is."""
        if self.async_ is False and (self.mailbox is not None or self.overflow is not None):
            raise ValueError("an inline listener (async_=False) has no mailbox and no overflow")
        if self.async_ is False and self.thread:
            raise ValueError("thread=True needs a mailbox, which async_=False rules out")
        if self.concurrency == 1 and self.ordering_key:
            raise ValueError("ordering_key needs a concurrency above 1: one at a time is in order")
        if self.once and (self.concurrency or self.ordering_key):
            raise ValueError(
                "once=True takes one event: concurrency and ordering_key are senseless"
            )

    def over(self, default: ListenerOptions) -> ListenerOptions:
        """Return these options with what they leave open filled from `default`."""
        return ListenerOptions(**{**given(default), **given(self)})


def check_kind(option: str, value: object, kind: type, what: str) -> None:
    if value is not None and not isinstance(value, kind):
        raise TypeError(f"{option} is {what}, not {value!r}")


def check_function(option: str, value: Any, what: str) -> None:
    """Refuse what cannot be called with an event, or would have to be awaited."""
    if not callable(value):
        raise TypeError(f"{option} is {what} function of the event, not {value!r}")
    called = value if isinstance(value, type) else value.__call__
    if inspect.iscoroutinefunction(value) or inspect.iscoroutinefunction(called):
        raise TypeError(f"{option} is asked during dispatch and cannot be async: {value!r}")


def given(options: ListenerOptions) -> dict[str, Any]:
    """Return the options that are not left open."""
    values = {field.name: getattr(options, field.name) for field in fields(options)}
    return {name: value for name, value in values.items() if value is not None}


# What each kind of listener has no use for, and why.
MISFITS: dict[str, dict[tuple[str, ...], str]] = {
    "inline": {
        ("mailbox", "overflow", "concurrency", "ordering_key"): (
            "runs inline and has no mailbox; async_=True would give it one"
        ),
        ("context",): "runs inline, in its dispatcher's context anyway",
        ("timeout",): "is a `def` that runs inline, which nothing can stop; thread=True might help",
        ("retry",): "runs inline, and dispatch does not wait for another attempt; use async_=True",
    },
    "awaited": {
        ("mailbox", "overflow", "concurrency", "ordering_key"): (
            "runs inline and has no mailbox; async_=True would give it one"
        ),
        ("context",): "runs inline, in its dispatcher's context anyway",
        ("slow_after",): "is an `async def`; slow_after times an inline `def`",
    },
    "mailbox": {
        ("priority",): "has a mailbox; only inline listeners run one after another by priority",
        ("slow_after",): "has a mailbox; Config.slow_after is about such listeners",
    },
    "blocking": {
        ("priority",): "has a mailbox; only inline listeners run one after another by priority",
        ("slow_after",): "has a mailbox; Config.slow_after is about such listeners",
        ("timeout",): "is a `def`, which nothing can stop; thread=True might help",
    },
    "threaded": {
        ("priority",): "has a mailbox; only inline listeners run one after another by priority",
        ("slow_after",): "runs in a thread and holds up nobody",
    },
}


def resolve(
    asked: ListenerOptions, default: ListenerOptions, *, suspends: bool, listener: str
) -> tuple[str, ListenerOptions]:
    """Return the kind of a listener and its options; defaults that do not fit it are left out.

    Raises:
        ValueError: it asks for something that makes no sense for its kind.
    """
    own = given(asked)
    merged = {**given(default), **own}
    kind = kind_of(merged, suspends)
    if (asked.async_ is False and asked.thread is None) or misfit(kind, own):
        # The defaults may have made it another kind than the one that it asks for.
        freed: dict[str, Any] = {**merged, "async_": asked.async_, "thread": asked.thread}
        if not misfit(kind_of(freed, suspends), own):
            merged = freed
    if suspends and merged.get("thread"):
        if asked.thread:
            raise ValueError(f"{listener} is an `async def`; only a `def` can run in a thread")
        merged["thread"] = None
    kind = kind_of(merged, suspends)
    if found := misfit(kind, own):
        raise ValueError(f"{listener} {found[1]} ({found[0]}=)")
    for options in MISFITS[kind]:
        for option in options:
            merged.pop(option, None)
    if kind == "threaded" and asked.async_ is None:
        merged["async_"] = None
    settle(merged, asked)
    if kind == "inline" and asked.middleware is None:
        around: tuple[Any, ...] = default.middleware or ()
        merged["middleware"] = tuple(
            each for each in around if not inspect.isasyncgenfunction(each.around_call)
        )
    return kind, ListenerOptions(**merged)


def misfit(kind: str, asked: dict[str, Any]) -> tuple[str, str] | None:
    """Return the first option that makes no sense for a kind of listener, and why."""
    for options, why in MISFITS[kind].items():
        for option in options:
            if asked.get(option, False) is not False:
                return option, why
    return None


def settle(merged: dict[str, Any], asked: ListenerOptions) -> None:
    """Leave out the defaults that contradict what a listener asks for."""
    if asked.once:
        merged["concurrency"] = merged["ordering_key"] = None
    elif asked.concurrency or asked.ordering_key:
        merged["once"] = asked.once
    if asked.concurrency == 1 and not asked.ordering_key:
        merged["ordering_key"] = None
    elif asked.ordering_key and asked.concurrency is None and merged.get("concurrency") == 1:
        merged["concurrency"] = None


def kind_of(options: dict[str, Any], suspends: bool) -> str:
    if options.get("thread"):
        return "threaded"
    if suspends:
        return "awaited" if options.get("async_") is False else "mailbox"
    return "blocking" if options.get("async_") else "inline"
