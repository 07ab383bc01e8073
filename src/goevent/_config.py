"""The settings of a bus."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ._options import ListenerOptions
from ._registry import EventRegistry, default_registry

if TYPE_CHECKING:
    from ._driver import Driver


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Bus-wide settings, as Go's `goevent.Config`.

    Attributes:
        driver: how events reach other buses: a URL (`"memory://"`), the name of an installed
            driver (`"memory"`), or a driver object.
        registry: the event types the bus knows; all of the program's by default.
        listener: options for listeners that do not say otherwise.
        close_timeout: seconds that leaving `async with bus` gives listeners to finish.
        max_nesting: how deep inline listeners may dispatch inside each other, at most 150.
    """

    driver: str | Driver = "memory"
    registry: EventRegistry = field(default_factory=lambda: default_registry)
    listener: ListenerOptions = ListenerOptions()  # noqa: RUF009 - frozen
    close_timeout: float = 10.0
    max_nesting: int = 100

    def __post_init__(self) -> None:
        if not self.close_timeout >= 0:
            raise ValueError(f"close_timeout is seconds from 0 up, not {self.close_timeout!r}")
        if not 1 <= self.max_nesting <= 150:
            raise ValueError(f"max_nesting is from 1 to 150, not {self.max_nesting!r}")
