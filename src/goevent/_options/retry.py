"""Retries: how often a failed event is tried again, and the pauses between the attempts.

The kernel's recovery asks a `Retry` after each failure. Drivers and supervision share the formula
of the pauses, `jittered_pause`.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from .._suggestions import did_you_mean, suggest_options
from .callables import refuse_suspending
from .results import AS_DEF, refuse_unrun

ExceptionTypes = type[Exception] | tuple[type[Exception], ...]

MAX_DOUBLINGS = 1000  # 2.0 ** 1024 would overflow a float


@suggest_options
@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """Run a listener again for an event on which it failed.

    The pause doubles after each attempt. During a pause, a listener that takes one event at a time
    starts no other event, because order is the default. With `concurrency` or `ordering_key`, only
    one of its events pauses. `bus.wait()` and the drain of a closing bus wait for pauses; the end
    of the bus cuts them short.

    Example:
        >>> bus = GoEvent()
        >>> @bus.listener("order.paid", retry=Retry(attempts=5, on=ConnectionError))
        ... async def send_invoice(event: Event) -> None: ...

    Attributes:
        attempts: The largest number of runs for one event, the first one included.
        backoff: The first pause in seconds.
        max_backoff: The longest pause in seconds.
        jitter: The part of each pause that is random, from 0 (none) to 1 (all). It keeps listeners
            that failed together from trying again together.
        on: The exception classes that deserve another attempt, or a function that returns true for
            such an exception.
        not_on: Exception classes that do not deserve one although `on` covers them.

    Raises:
        TypeError: A value has the wrong type.
        ValueError: A value is out of range.
    """

    attempts: int = 3
    backoff: float = 0.1
    max_backoff: float = 30.0
    jitter: float = 0.5
    on: ExceptionTypes | Callable[[Exception], object] = Exception
    not_on: ExceptionTypes = ()

    def __post_init__(self) -> None:
        check_count("attempts", self.attempts, at_least=2)
        check_backoff(self.backoff, self.max_backoff, self.jitter)
        if not are_exceptions(self.on):
            # A class that is no Exception would be called as a function, and always return true.
            if isinstance(self.on, type) or not callable(self.on):
                raise TypeError(
                    f"on must be Exception classes in a tuple, or a function, not {self.on!r}"
                )
            refuse_suspending("on", self.on)
        if not are_exceptions(self.not_on):
            raise TypeError(f"not_on must be Exception classes in a tuple, not {self.not_on!r}")

    def covers(self, error: Exception) -> bool:
        """Tell whether an exception deserves another attempt.

        Raises:
            Exception: The function given as `on` raised it.
        """
        if is_one_of(error, self.not_on):
            return False
        on: Any = self.on
        if are_exceptions(on):
            return is_one_of(error, on)
        answer = on(error)
        refuse_unrun(answer, "it", AS_DEF)
        return bool(answer)

    def pause(self, failures: int) -> float:
        """Return the pause in seconds after the given number of failures of one event."""
        return jittered_pause(self.backoff, self.max_backoff, self.jitter, failures)


def jittered_pause(backoff: float, max_backoff: float, jitter: float, failures: int) -> float:
    """Return an exponential pause in seconds, shortened by a random part.

    Args:
        backoff: The first pause in seconds.
        max_backoff: The longest pause in seconds.
        jitter: The part of the pause that is random, from 0 to 1.
        failures: The number of failures so far, at least 1.
    """
    full = min(max_backoff, backoff * 2.0 ** min(failures - 1, MAX_DOUBLINGS))
    return full * (1 - jitter * random.random())  # noqa: S311 - not a secret


def is_one_of(error: Exception, types: ExceptionTypes) -> bool:
    """Tell whether an exception is of some classes, without running code of its own class."""
    if issubclass(type(error), types):
        return True
    try:
        # Differs only if a metaclass, or the `__class__` of the exception, has code for it.
        return isinstance(error, types)
    except Exception:  # noqa: BLE001 - raised by that code
        return False


def are_exceptions(types: object) -> bool:
    """Tell whether an object is an `Exception` class or a tuple of such classes."""
    members = cast("tuple[object, ...]", types) if isinstance(types, tuple) else (types,)
    return all(isinstance(cls, type) and issubclass(cls, Exception) for cls in members)


def check_count(name: str, value: Any, *, at_least: int | None) -> None:
    """Refuse an option that is not an integer, or is below its minimum.

    Raises:
        TypeError: `value` is not an int.
        ValueError: `value` is below `at_least`.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, not {value!r}")
    if at_least is not None and value < at_least:
        raise ValueError(f"{name} must be at least {at_least}, not {value}")


def check_seconds(name: str, value: Any, *, positive: bool = False) -> None:
    """Refuse an option that is not a finite number of seconds.

    Raises:
        TypeError: `value` is not a number.
        ValueError: `value` is negative or not finite; or it is 0 and `positive` is true.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number of seconds, not {value!r}")
    # No float is as large as the largest integers, and no clock can add them.
    if not 0 <= value <= sys.float_info.max or (positive and not value):
        raise ValueError(
            f"{name} must be {'more than' if positive else 'at least'} 0, not {value!r}"
        )


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Refuse an option that is none of some texts.

    Raises:
        TypeError: `value` is not a str.
        ValueError: `value` is another str.
    """
    if value in choices:
        return
    error = ValueError if isinstance(value, str) else TypeError
    hint = did_you_mean(value, choices)
    raise error(f"{name} must be one of {', '.join(choices)}, not {value!r}{hint}")


def check_backoff(backoff: float, max_backoff: float, jitter: float) -> None:
    """Refuse settings of `jittered_pause` that make no sense.

    Raises:
        TypeError: A pause is not a number.
        ValueError: A value is out of range.
    """
    check_seconds("backoff", backoff)
    check_seconds("max_backoff", max_backoff)
    if max_backoff < backoff:
        raise ValueError(f"max_backoff ({max_backoff}) is shorter than backoff ({backoff})")
    if isinstance(jitter, bool) or not isinstance(jitter, int | float):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"jitter must be a number from 0 to 1, not {jitter!r}")
    if not 0 <= jitter <= 1:
        raise ValueError(f"jitter must be from 0 to 1, not {jitter!r}")
