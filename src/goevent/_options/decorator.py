"""The types of `@bus.listener(...)`, with which type checkers check the decorated function.

An event class accepts only handlers of that class. An event name says nothing to a type checker, so
it accepts any handler of one argument; the annotation is checked at registration instead.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar, overload

E = TypeVar("E")
A = TypeVar("A")
# The classes of one registration. More of them, and those in a list, are checked at registration.
E1 = TypeVar("E1")
E2 = TypeVar("E2")
E3 = TypeVar("E3")
E4 = TypeVar("E4")
E5 = TypeVar("E5")
E6 = TypeVar("E6")
E7 = TypeVar("E7")
E8 = TypeVar("E8")
R = TypeVar("R", bound=Awaitable[None] | None)
F = TypeVar("F", bound=Callable[[Any], Awaitable[None] | None])


class ListenerDecorator(Protocol[E]):
    """A decorator that registers a handler of events of type `E` and returns it unchanged."""

    def __call__(self, handler: Callable[[E], R], /) -> Callable[[E], R]: ...


class ResponderDecorator(Protocol[E, A]):
    """A decorator that registers a responder to events of type `E`, whose answer is an `A`."""

    @overload
    def __call__(self, handler: Callable[[E], Awaitable[A]], /) -> Callable[[E], Awaitable[A]]: ...
    @overload
    def __call__(self, handler: Callable[[E], A], /) -> Callable[[E], A]: ...


class NameDecorator(Protocol):
    """A decorator that registers a handler of named events and returns it unchanged."""

    def __call__(self, handler: F, /) -> F: ...
