"""What a user hands over as a listener, and the check that it fits the events it asks for."""

from __future__ import annotations

import inspect
import types
import typing
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, get_type_hints, runtime_checkable

from trio.lowlevel import disable_ki_protection

from .._events.event import Event
from .._events.names import validate_name
from .._events.patterns import compile_pattern, is_pattern, validate_pattern

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._events.registry import EventRegistry


@runtime_checkable
class Listener(Protocol):
    """An object that listens, as Go's `goevent.Listener`.

    It may also have an attribute `options`, a `ListenerOptions`.

    Attributes:
        event_name: the event it listens to.
    """

    @property
    def event_name(self) -> str: ...

    def on_event(self, event: Any, /) -> Any:
        """Handle one event; a `def` runs inline, an `async def` in its own mailbox."""
        ...


def event_name_of(event: str | type, registry: EventRegistry) -> str:
    """Return the name or the pattern under which a listener is registered."""
    if isinstance(event, str):
        return validate_pattern(event) if is_pattern(event) else validate_name(event)
    if isinstance(event, type):
        name = registry.name_of(event)
        if name is None:
            raise TypeError(no_event_type(event))
        return name
    raise TypeError(f"a listener listens to event names and event classes, not to {event!r}")


def no_event_type(cls: type[Any]) -> str:
    """Say what is missing to a class that the bus's registry does not know."""
    if name := getattr(cls, "event_name", None):
        return (
            f"{cls.__qualname__} ({name!r}) is not in the registry of this bus: register it there, "
            "or give the bus that registry (`Config(registry=...)`)"
        )
    return (
        f"{cls.__qualname__} is no event type: give the class a name "
        '(`class X(Event, name="...")`) or use register_event_type'
    )


def name_of(handler: Callable[[Any], Any]) -> str:
    """Return what errors and snapshots call a listener that has no name of its own."""
    named = inner(handler)
    return getattr(named, "__qualname__", None) or type(named).__qualname__


def is_async(handler: Callable[[Any], Any]) -> bool:
    handler = inner(handler)
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(
        getattr(handler, "__call__", None)  # noqa: B004 - its kind is asked for, not its presence
    )


def inner(handler: Callable[[Any], Any]) -> Callable[[Any], Any]:
    while isinstance(handler, partial):
        handler = handler.func
    return handler


def let_interrupt(handler: Callable[[Any], Any]) -> None:
    """Let Ctrl-C interrupt a user's function anywhere, unlike the kernel that calls it.

    Trio keeps that permission with the function's code, so it costs nothing per call.
    """
    handler = inner(handler)
    if not isinstance(handler, types.FunctionType | types.MethodType):
        handler = getattr(type(handler), "__call__", handler)  # noqa: B004
    function = getattr(handler, "__func__", handler)
    if not isinstance(function, types.FunctionType):
        return
    # Another bus's `dispatch_nowait` is a fine listener, and keeps its protection.
    if not (function.__module__ or "").startswith("goevent."):
        disable_ki_protection(function)


def check_annotation(
    handler: Callable[[Any], Any],
    listener: str,
    names: tuple[str, ...],
    registry: EventRegistry,
    frame: types.FrameType,
) -> None:
    """Refuse a handler whose parameter cannot be one of the events it asks for."""
    accepted = accepted_types(handler, listener, frame)
    if accepted is None:
        return
    for name in names:
        if is_pattern(name):
            check_pattern(accepted, listener, name, registry)
            continue
        known = registry.type_of(name)
        if known is None:
            fresh = [cls for cls in accepted if registry.name_of(cls) is None]
            if len(names) == len(accepted) == len(fresh) == 1 and not issubclass(fresh[0], Event):
                registry.register_as(name, fresh[0])
                continue
        elif issubclass(known, accepted):
            continue
        wanted = " | ".join(registry.name_of(cls) or cls.__qualname__ for cls in accepted)
        raise TypeError(
            f"{listener} is registered for {name!r} ({title(known)}), but its parameter is "
            f"annotated as {wanted!r} ({' | '.join(title(cls) for cls in accepted)})"
        )


def check_pattern(
    accepted: tuple[type[Any], ...], listener: str, pattern: str, registry: EventRegistry
) -> None:
    """Refuse a handler if an event type that is known now matches its pattern and does not fit."""
    matches = compile_pattern(pattern)
    for name in registry.names():
        known = registry.type_of(name)
        if known is not None and matches(name) and not issubclass(known, accepted):
            raise TypeError(
                f"{listener} is registered for {pattern!r}, which {name!r} ({title(known)}) "
                f"matches, but its parameter is annotated as "
                f"{' | '.join(title(cls) for cls in accepted)}"
            )


def title(cls: type[Any] | None) -> str:
    return cls.__qualname__ if cls is not None else "a name without a type"


def accepted_types(
    handler: Callable[[Any], Any], listener: str, frame: types.FrameType
) -> tuple[type[Any], ...] | None:
    """Return the event classes that the first parameter is annotated with; None if any will do."""
    try:
        signature = inspect.signature(handler)
    except (ValueError, TypeError):  # a builtin
        return None
    try:
        signature.bind(None)
    except TypeError as error:
        raise TypeError(f"{listener} cannot be called with one event: {error}") from None
    parameter = next(iter(signature.parameters.values()))
    annotation = parameter.annotation
    if isinstance(annotation, str):
        function = inner(handler)
        if not isinstance(function, types.FunctionType | types.MethodType):
            function = type(function).__call__
        try:
            annotation = get_type_hints(function, localns=dict(frame.f_locals)).get(
                parameter.name, Any
            )
        except NameError:  # imported for type checkers only: they will check it
            return None
    members = typing.get_args(annotation) if is_union(annotation) else (annotation,)
    if any(
        not isinstance(cls, type) or cls in (parameter.empty, object, Event, Any) for cls in members
    ):
        return None
    return tuple(members)


def frame_above(depth: int) -> types.FrameType:
    frame = inspect.currentframe()
    for _ in range(depth + 1):
        frame = frame.f_back if frame is not None else None
    if frame is None:
        raise ValueError("the stack is not that deep")
    return frame


def is_union(annotation: Any) -> bool:
    return typing.get_origin(annotation) in (typing.Union, types.UnionType)
