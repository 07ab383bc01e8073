"""The types of `@bus.listener(...)`, with which type checkers check the decorated function.

An event class accepts only handlers of that class. An event name says nothing to a type checker, so
it accepts any handler of one argument; the annotation is checked at registration instead.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar

E = TypeVar("E")
R = TypeVar("R", bound=Awaitable[None] | None)
F = TypeVar("F", bound=Callable[[Any], Awaitable[None] | None])


class ListenerDecorator(Protocol[E]):
    """A decorator that registers a handler of events of type `E` and returns it unchanged."""

    def __call__(self, handler: Callable[[E], R], /) -> Callable[[E], R]: ...


class NameDecorator(Protocol):
    """A decorator that registers a handler of named events and returns it unchanged."""

    def __call__(self, handler: F, /) -> F: ...
