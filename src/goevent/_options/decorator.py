"""The types of `@bus.listener(...)`: what it accepts as a handler, for type checkers.

An event class accepts handlers of that class only. A name cannot be checked before it runs, so it
accepts any handler of one argument; the annotation is then checked at registration.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar

E = TypeVar("E")
R = TypeVar("R", bound=Awaitable[None] | None)
F = TypeVar("F", bound=Callable[[Any], Awaitable[None] | None])


class ListenerDecorator(Protocol[E]):
    """Registers a handler of events of type `E`, and returns it as it was."""

    def __call__(self, handler: Callable[[E], R], /) -> Callable[[E], R]: ...


class NameDecorator(Protocol):
    """Registers a handler, and returns it as it was."""

    def __call__(self, handler: F, /) -> F: ...
