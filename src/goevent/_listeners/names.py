"""The names of listeners in errors and snapshots: short, and one for each function.

Middleware keeps its state by the name of the listener, so two functions must not share one.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from .._events.event_types import short_name
from .._options.signature import named_part


class ListenerNames:
    """Names the listeners of one bus.

    A function is called by its own name. If another function has that name already, it is called
    with the functions around it, and then with its module. The same function has the same name each
    time.
    """

    def __init__(self) -> None:
        self._owners: dict[str, str] = {}  # the full name of the function that has a name

    def of(self, handler: Callable[..., Any]) -> str:
        """Return the name of a function, or of a class of listeners, without an explicit name."""
        *names, full = candidates(handler)
        for name in names:
            if self._owners.setdefault(name, full) == full:
                # Thousands of listeners of one function share one text.
                return sys.intern(name)
        return full

    def find(self, handler: Callable[..., Any]) -> str:
        """Return the name that `of` has returned for a handler, or would return."""
        *names, full = candidates(handler)
        for name in names:
            if self._owners.get(name, full) == full:
                return name
        return full


def candidates(handler: Callable[..., Any]) -> tuple[str, ...]:
    """Return the possible names of a handler, the shortest first; the last one is its own."""
    named: Any = named_part(handler)
    outer = str(named.__qualname__).replace(".<locals>", "")
    return short_name(named), outer, f"{named.__module__}.{outer}"
