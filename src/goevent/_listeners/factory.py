"""Listener factories: make a listener object at registration, and again when it is restarted.

`GoEvent.register_listener` accepts listener objects and factories, and uses these functions to tell
them apart.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, cast

from .._options.mistakes import not_a_listener
from .._options.results import AS_DEF, refuse_unrun
from .._options.signature import Listener


def make_listener(factory: Callable[[], Any]) -> Listener:
    """Return a new listener made by a factory.

    Raises:
        TypeError: The factory returned an object that is not a listener.
    """
    listener = factory()
    refuse_unrun(listener, "the factory of the listener", AS_DEF)
    if isinstance(listener, type) or not isinstance(listener, Listener):
        raise not_a_listener(listener)
    return listener


def takes_no_arguments(candidate: object) -> bool:
    """Tell whether an object can be called without arguments, as a factory must be."""
    try:
        inspect.signature(cast("Callable[..., Any]", candidate)).bind()
    except Exception:  # noqa: BLE001 - `inspect` reads attributes, which may have code
        return False
    return True


def make_handler(make: Callable[[], Listener]) -> Callable[[Any], Any]:
    """Return the `on_event` of a new listener."""
    return make().on_event
