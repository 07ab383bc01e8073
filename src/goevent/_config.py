"""The settings of a bus.

`GoEvent` takes a `Config` and hands its parts to the kernel, the listeners and the ports.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ._events.registry import EventRegistry, check_registry, default_registry
from ._options.middleware import Middleware, check_middleware
from ._options.options import ListenerOptions
from ._options.retry import check_count, check_seconds
from ._suggestions import missing_members, suggest_options
from ._wire.codec import Codec
from ._wire.json_codec import JsonCodec
from .drivers.contract import Driver
from .drivers.discovery import check_driver

# Each level of nesting takes several frames of Python's stack, whose default limit is 1,000.
MAX_NESTING_LIMIT = 150


@partial(suggest_options, config=ListenerOptions, keyword="listener")
@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The settings of a bus, as Go's `goevent.Config`.

    Example:
        >>> config = Config(close_timeout=2.0, listener=ListenerOptions(timeout=5.0))
        >>> async with GoEvent(config) as bus:
        ...     handle = await bus.dispatch(Event("order.paid", {"order_id": 7}))

    Attributes:
        driver: The way to other buses: a URL (`"memory://"`), the name of an installed driver
            (`"memory"`), or a driver object.
        registry: The event types of the bus; by default the registry of the whole program.
        listener: The default options of listeners.
        codec: Turns events into bytes, for drivers that send bytes. The default is the JSON format
            of the Go library.
        close_timeout: The time in seconds that listeners have to finish when `async with bus` ends.
        max_nesting: The depth to which inline listeners may dispatch inside each other, at most
            150. A level with options or middleware counts as two, that of an inline `async def` as
            five.
        middleware: Middleware around dispatches, deliveries and runs, the outermost first.
        threads: The number of worker threads for listeners with `thread=True`.
        slow_after: The time in seconds after which a listener that lets no other task run is named
            in a warning; None for no warnings. It covers the inline listeners of `await
            bus.dispatch` and of deliveries, and the listeners with a mailbox.
            `ListenerOptions.slow_after` covers the others.

    Raises:
        TypeError: A value has the wrong type.
        ValueError: A value is out of range.
    """

    # Not shown in the repr: a URL may contain a password.
    driver: str | Driver = field(default="memory", repr=False)
    registry: EventRegistry = field(default_factory=lambda: default_registry)
    listener: ListenerOptions = ListenerOptions()  # noqa: RUF009 - frozen
    codec: Codec = field(default_factory=JsonCodec)
    close_timeout: float = 10.0
    max_nesting: int = 100
    middleware: tuple[Middleware, ...] = ()
    threads: int = 40
    slow_after: float | None = 0.1

    def __post_init__(self) -> None:
        check_driver(self.driver)
        check_registry(self.registry)
        if not isinstance(self.listener, ListenerOptions):
            raise TypeError(f"listener must be a ListenerOptions, not {self.listener!r}")
        check_codec(self.codec)
        check_close_timeout("close_timeout", self.close_timeout)
        check_count("max_nesting", self.max_nesting, at_least=1)
        if self.max_nesting > MAX_NESTING_LIMIT:
            raise ValueError(
                f"max_nesting must be from 1 to {MAX_NESTING_LIMIT}, not {self.max_nesting!r}"
            )
        check_count("threads", self.threads, at_least=1)
        if self.slow_after is not None:
            check_seconds("slow_after", self.slow_after, positive=True)
        object.__setattr__(self, "middleware", check_middleware(self.middleware))


def check_close_timeout(name: str, seconds: Any) -> None:
    """Refuse a close timeout that is not a number of at least 0; it may be infinite.

    Raises:
        TypeError: `seconds` is not a number.
        ValueError: `seconds` is negative or not a number of seconds.
    """
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise TypeError(f"{name} must be a number of seconds, not {seconds!r}")
    if not seconds >= 0:
        raise ValueError(f"{name} must be at least 0 seconds, not {seconds!r}")


def check_codec(codec: Any) -> None:
    """Refuse an object that cannot encode and decode.

    Raises:
        TypeError: It is a class, or it lacks a member of `Codec`.
    """
    if isinstance(codec, type):
        raise TypeError(f"codec must be an object: write {codec.__name__}()")
    if missing := missing_members(codec, Codec):
        raise TypeError(
            f"codec must have encode, decode and content_type; {codec!r} has no {missing}"
        )
