"""The ways in which a bus runs a listener, for tests that hold for all of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

from goevent import Delivery, GoEvent, ListenerOptions, Retry, Supervision
from tests.support.checks import always
from tests.support.events import Ping

Handler = Callable[[Any], Any]


class Passing:
    """Middleware with a sync hook that does nothing."""

    def around_call(self, delivery: Delivery) -> Iterator[None]:
        yield


class PassingAsync:
    """Middleware with an async hook that does nothing."""

    async def around_call(self, delivery: Delivery) -> AsyncIterator[None]:
        yield


class Owner:
    """A listener object around a function."""

    event_name = "test.ping"

    def __init__(self, handler: Handler, options: ListenerOptions) -> None:
        self.handler = handler
        self.options = options

    def on_event(self, event: Any) -> Any:
        return self.handler(event)


@dataclass(frozen=True)
class Way:
    """One way in which a listener runs.

    Attributes:
        options: The options of the listener.
        suspends: True if the function is put into an `async def`.
        event: The event or the pattern that the listener is registered for.
        kind: How the listener is registered: as a "function", an "object" or by a "factory".
        attempts: How often the function is called with an event on which it fails.
    """

    options: dict[str, Any]
    suspends: bool = False
    event: type | str = Ping
    kind: str = "function"
    attempts: int = 1

    def register(self, bus: GoEvent, handler: Handler, name: str = "listener") -> None:
        """Have a bus run a function in this way."""
        run = handler

        async def run_async(event: Any) -> Any:
            return handler(event)

        if self.suspends:
            run = run_async
        options: dict[str, Any] = {"name": name, **self.options}
        if self.kind == "function":
            bus.subscribe(run, self.event, **options)
        elif self.kind == "object":
            bus.register_listener(Owner(run, ListenerOptions(**options)))
        else:
            bus.register_listener(lambda: Owner(run, ListenerOptions(**options)))


RESTART = Supervision("restart", backoff=0.0)
QUICK_RETRY = Retry(attempts=2, backoff=0.0)
WAYS = {
    "inline": Way({}),
    "inline, slow_after": Way({"slow_after": 60.0}),
    "inline, once": Way({"once": True}),
    "inline, when": Way({"when": always}),
    "inline, pattern": Way({}, event="test.*"),
    "inline, middleware": Way({"middleware": (Passing(),)}),
    "inline, restart": Way({"supervision": RESTART}, kind="factory"),
    "inline, stop": Way({"supervision": Supervision("stop")}),
    "inline, object": Way({}, kind="object"),
    "inline async": Way({"async_": False}, suspends=True),
    "inline async, timeout": Way({"async_": False, "timeout": 60.0}, suspends=True),
    "inline async, middleware": Way(
        {"async_": False, "middleware": (Passing(), PassingAsync())}, suspends=True
    ),
    "inline async, retry": Way({"async_": False, "retry": QUICK_RETRY}, suspends=True, attempts=2),
    "mailbox": Way({"async_": True}),
    "mailbox, once": Way({"async_": True, "once": True}),
    "mailbox, pattern": Way({"async_": True}, event="**"),
    "mailbox, concurrency": Way({"async_": True, "concurrency": 3}),
    "mailbox, ordering_key": Way({"async_": True, "ordering_key": "n"}),
    "mailbox, context": Way({"async_": True, "context": True}),
    "mailbox, middleware": Way({"async_": True, "middleware": (Passing(), PassingAsync())}),
    "mailbox, retry": Way({"async_": True, "retry": QUICK_RETRY}, attempts=2),
    "mailbox, restart": Way({"async_": True, "supervision": RESTART}, kind="factory"),
    "mailbox, stop": Way({"async_": True, "supervision": Supervision("stop")}),
    "async": Way({}, suspends=True),
    "async, timeout": Way({"timeout": 60.0}, suspends=True),
    "async, everything": Way(
        {
            "timeout": 60.0,
            "middleware": (Passing(), PassingAsync()),
            "context": True,
            "retry": QUICK_RETRY,
            "supervision": RESTART,
        },
        suspends=True,
        attempts=2,
    ),
    "thread": Way({"thread": True}),
    "thread, timeout": Way({"thread": True, "timeout": 60.0}),
    "thread, middleware": Way({"thread": True, "middleware": (Passing(), PassingAsync())}),
    "thread, retry": Way({"thread": True, "retry": QUICK_RETRY}, attempts=2),
}
