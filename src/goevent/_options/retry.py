"""How often a failed event is tried again, and after how long a pause."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

Kinds = type[Exception] | tuple[type[Exception], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """Run a listener again for an event on which it failed.

    The pause doubles from attempt to attempt. While it lasts, a listener with one event at a time
    takes no other, since order is the default; with `concurrency` or `ordering_key` only one of its
    events pauses. A drain waits for pauses, and the end of the bus cuts them short.

    Attributes:
        attempts: how often the listener runs at most, the first time included.
        backoff: seconds of the first pause.
        max_backoff: seconds that a pause never exceeds.
        jitter: the part of each pause that is drawn by chance, from 0 (none of it) to 1 (all), so
            that listeners which failed together do not come back together.
        on: the exceptions that are worth another attempt, or a function that tells.
        not_on: exceptions that are not, though `on` covers them.
    """

    attempts: int = 3
    backoff: float = 0.1
    max_backoff: float = 30.0
    jitter: float = 0.5
    on: Kinds | Callable[[Exception], object] = Exception
    not_on: Kinds = ()

    def __post_init__(self) -> None:
        check_count("attempts", self.attempts, at_least=2)
        check_seconds("backoff", self.backoff)
        check_seconds("max_backoff", self.max_backoff)
        if self.max_backoff < self.backoff:
            raise ValueError(
                f"max_backoff ({self.max_backoff}) is shorter than backoff ({self.backoff})"
            )
        if not 0 <= self.jitter <= 1:
            raise ValueError(f"jitter is a part from 0 to 1, not {self.jitter!r}")
        if not (are_exceptions(self.on) or callable(self.on)):
            raise TypeError(f"retry on exception classes or a function, not {self.on!r}")
        if not are_exceptions(self.not_on):
            raise TypeError(f"not_on takes exception classes, not {self.not_on!r}")

    def covers(self, error: Exception) -> bool:
        """Tell whether another attempt may help; raises what a function given as `on` raises."""
        if isinstance(error, self.not_on):
            return False
        on: Any = self.on
        return isinstance(error, on) if are_exceptions(on) else bool(on(error))

    def pause(self, failures: int) -> float:
        """Return the seconds to wait after so many failures."""
        return drawn(self.backoff, self.max_backoff, self.jitter, failures)


def drawn(backoff: float, max_backoff: float, jitter: float, failures: int) -> float:
    """Return an exponential pause, shortened by chance."""
    full = min(max_backoff, backoff * 2.0 ** min(failures - 1, 1000))
    return full * (1 - jitter * random.random())  # noqa: S311 - not a secret


def are_exceptions(kinds: object) -> bool:
    """Tell whether something can stand behind `except` and catches only Exceptions."""
    members = cast("tuple[object, ...]", kinds) if isinstance(kinds, tuple) else (kinds,)
    return all(isinstance(kind, type) and issubclass(kind, Exception) for kind in members)


def check_count(name: str, value: Any, *, at_least: int | None) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} is a number, not {value!r}")
    if at_least is not None and value < at_least:
        raise ValueError(f"{name} is at least {at_least}, not {value}")


def check_seconds(name: str, value: Any, *, positive: bool = False) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} is a number of seconds, not {value!r}")
    if not 0 <= value < float("inf") or (positive and not value):
        raise ValueError(f"{name} is {'more than' if positive else 'at least'} 0, not {value!r}")
