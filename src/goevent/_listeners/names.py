"""The names of listeners in errors and snapshots: short, and one for each function.

Middleware keeps its state by the name of the listener, so two functions must not share one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .._events.event_types import short_name
from .._options.signature import named_part


class ListenerNames:
    """Names the listeners of one bus.

    A function in another function is called by its own name. If another function has that name
    already, it is called with the functions around it, and with its module. The same function has
    the same name each time.
    """

    def __init__(self) -> None:
        self._owners: dict[str, str] = {}  # the full name of the function that has a name

    def of(self, handler: Callable[[Any], Any]) -> str:
        """Return the name of a listener without an explicit name."""
        named: Any = named_part(handler)
        path, module = str(named.__qualname__), str(named.__module__)
        full = f"{module}.{path}"
        if "<locals>" not in path:
            self._owners.setdefault(path, full)
            return path
        outer = path.replace(".<locals>", "")
        for name in (short_name(named), outer):
            if self._owners.setdefault(name, full) == full:
                return name
        return f"{module}.{outer}"
