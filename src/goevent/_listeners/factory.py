"""Listeners that are made by a factory, and made again when their supervision restarts them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, cast

from .._options.signature import Listener


def made(factory: Callable[[], Any]) -> Listener:
    """Have a factory make a listener."""
    listener = factory()
    if isinstance(listener, type) or not isinstance(listener, Listener):
        raise no_listener(listener)
    return listener


def needs_nothing(given: object) -> bool:
    """Tell whether something can be called without arguments, as a factory can."""
    try:
        inspect.signature(cast("Callable[..., Any]", given)).bind()
    except (TypeError, ValueError):
        return False
    return True


def handler_of(factory: Callable[[], Listener]) -> Callable[[Any], Any]:
    return factory().on_event


def no_listener(given: object) -> TypeError:
    if isinstance(given, type) and isinstance(given, Listener):
        return TypeError(
            f"{given.__qualname__} cannot be made without arguments: register an object, or a "
            "function that makes one"
        )
    return TypeError(
        f"a listener is an object with event_name and on_event, or a class of such: {given!r}"
    )
