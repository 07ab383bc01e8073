"""The settings of a bus."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ._events.registry import EventRegistry, default_registry
from ._options.middleware import Middleware, check_middleware
from ._options.options import ListenerOptions
from ._options.retry import check_count, check_seconds
from ._wire.json_codec import Codec, JsonCodec

if TYPE_CHECKING:
    from .drivers.contract import Driver


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Bus-wide settings, as Go's `goevent.Config`.

    Attributes:
        driver: how events reach other buses: a URL (`"memory://"`), the name of an installed
            driver (`"memory"`), or a driver object.
        registry: the event types the bus knows; all of the program's by default.
        listener: options for listeners that do not say otherwise.
        codec: how events become bytes for drivers that need bytes; JSON as the Go library writes
            it by default.
        close_timeout: seconds that leaving `async with bus` gives listeners to finish.
        max_nesting: how deep inline listeners may dispatch inside each other, at most 150. A level
            with options or middleware counts as two, that of an inline `async def` as five.
        middleware: what stands around dispatches, deliveries and runs, the outermost first.
        threads: how many listeners with `thread=True` run at once.
        slow_after: seconds after which a warning names a listener that has not let other tasks
            run; None for no warnings. It finds the listeners of `await bus.dispatch`, of deliveries
            and those with a mailbox; `ListenerOptions.slow_after` finds the others.
    """

    driver: str | Driver = field(default="memory", repr=False)  # it may hold a password
    registry: EventRegistry = field(default_factory=lambda: default_registry)
    listener: ListenerOptions = ListenerOptions()  # noqa: RUF009 - frozen
    codec: Codec = field(default_factory=JsonCodec)
    close_timeout: float = 10.0
    max_nesting: int = 100
    middleware: tuple[Middleware, ...] = ()
    threads: int = 40
    slow_after: float | None = 0.1

    def __post_init__(self) -> None:
        if not isinstance(self.listener, ListenerOptions):
            raise TypeError(f"listener is a ListenerOptions, not {self.listener!r}")
        if not self.close_timeout >= 0:
            raise ValueError(f"close_timeout is seconds from 0 up, not {self.close_timeout!r}")
        check_count("max_nesting", self.max_nesting, at_least=1)
        if self.max_nesting > 150:
            raise ValueError(f"max_nesting is from 1 to 150, not {self.max_nesting!r}")
        check_count("threads", self.threads, at_least=1)
        if self.slow_after is not None:
            check_seconds("slow_after", self.slow_after, positive=True)
        object.__setattr__(self, "middleware", check_middleware(self.middleware))
