"""Signatures: the functions and objects that users hand over as listeners, and their checks.

`ListenerPlanner` calls this module at registration. It finds the event names, and refuses a handler
whose annotation does not fit its events.
"""

from __future__ import annotations

import inspect
import re
import types
import typing
from typing import TYPE_CHECKING, Any, Protocol, get_type_hints, runtime_checkable

from trio.lowlevel import disable_ki_protection

from .._events.event import Event
from .._events.event_types import short_name
from .._events.names import validate_name
from .._events.patterns import compile_pattern, is_pattern, validate_pattern
from .callables import unwrap_partial
from .mistakes import not_an_event_name, unregistered

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._events.registry import EventRegistry
    from .._events.type_index import TypeIndex


IDENTIFIER = re.compile(r"\w+")


@runtime_checkable
class Listener(Protocol):
    """An object that listens to an event, as Go's `goevent.Listener`.

    It may also have an attribute `options`, a `ListenerOptions`.

    Example:
        >>> class Invoices:
        ...     event_name = "order.paid"
        ...     def on_event(self, event):
        ...         print("invoice for", event.payload())
        >>> bus = GoEvent()
        >>> registration = bus.register_listener(Invoices())

    Attributes:
        event_name: The name or pattern of the events that it listens to.
    """

    @property
    def event_name(self) -> str: ...

    def on_event(self, event: Any, /) -> Any:
        """Handle one event. A `def` runs inline, an `async def` has a mailbox."""
        ...


def event_name_of(event: str | type, registry: EventRegistry) -> str:
    """Return the name or the pattern for the first argument of a registration.

    Raises:
        TypeError: `event` is a class that is not registered, or neither a str nor a class.
        ValueError: `event` is neither an event name nor an event pattern.
    """
    if isinstance(event, str):
        return validate_pattern(event) if is_pattern(event) else validate_name(event)
    if isinstance(event, type):
        name = registry.name_of(event)
        if name is None:
            raise unregistered(event, registry)
        return name
    raise not_an_event_name(event, registry)


def named_part(handler: Callable[[Any], Any]) -> Any:
    """Return the function or the class that gives a listener its name."""
    named = unwrap_partial(handler)
    try:
        if isinstance(named.__qualname__, str) and isinstance(named.__module__, str | None):
            return named
    except Exception:  # noqa: BLE001, S110 - code of the application; its class has a name, too
        pass
    return type(named)


def handler_name(handler: Callable[[Any], Any]) -> str:
    """Return the name of a user's function in error messages."""
    return short_name(named_part(handler))


def allow_interrupt(handler: Callable[[Any], Any]) -> None:
    """Let Ctrl-C interrupt a user's function at any point, unlike the kernel that calls it.

    Trio stores this permission with the code of the function, so it costs nothing per call.
    """
    handler = unwrap_partial(handler)
    if not isinstance(handler, types.FunctionType | types.MethodType):
        handler = getattr(type(handler), "__call__", handler)  # noqa: B004
    function = getattr(handler, "__func__", handler)
    if not isinstance(function, types.FunctionType):
        return
    # The `dispatch_nowait` of another bus is a valid listener. It must keep its protection.
    if (function.__module__ or "").partition(".")[0] != "goevent":
        disable_ki_protection(function)


def check_further_names(listener: str, names: tuple[str, ...], registry: EventRegistry) -> None:
    """Refuse a further name of a class without the name under which its events are dispatched.

    A message under the further name is decoded to the class, and goes to the listeners of the
    class's own name. A listener of the further name alone would get nothing.

    Raises:
        ValueError: One of the names is such a name.
    """
    for name in names:
        known = registry.type_of(name)
        own = None if known is None else registry.name_of(known)
        if known is None or own is None or own == name:
            continue
        if not any(own == each or compile_pattern(each)(own) for each in names):
            raise ValueError(
                f"{listener} is registered for {name!r}, a further name of {class_title(known)}, "
                f"whose events are dispatched as {own!r}: listen to that name, too"
            )


def check_annotation(
    handler: Callable[[Any], Any],
    listener: str,
    names: tuple[str, ...],
    registry: EventRegistry,
    type_index: TypeIndex,
    frame: types.FrameType,
) -> None:
    """Check that the annotation of a handler's parameter fits all events of the listener.

    If a plain class is the only annotation and neither it nor the only name is registered, the
    class is registered under the name.

    Args:
        handler: The function.
        listener: The name of the listener, for error messages.
        names: The event names and patterns.
        registry: The registry of the bus.
        type_index: The types in the registry.
        frame: The frame of the user's code; annotations may use its local names.

    Raises:
        TypeError: The handler cannot be called with one event, or its annotation does not fit.
    """
    accepted = accepted_types(handler, listener, frame)
    if accepted is None:
        return
    for name in names:
        if is_pattern(name):
            check_pattern(accepted, listener, name, type_index, registry)
            continue
        known = registry.type_of(name)
        if known is None:
            unnamed = [cls for cls in accepted if registry.name_of(cls) is None]
            # With one name and one plain class there is no doubt which belongs to which.
            only_one = len(names) == len(accepted) == len(unnamed) == 1
            if only_one and not issubclass(unnamed[0], Event):
                registry.register_as(name, unnamed[0])
                continue
        elif issubclass(known, accepted):
            continue
        wanted = " | ".join(registry.name_of(cls) or short_name(cls) for cls in accepted)
        raise TypeError(
            f"{listener} is registered for {name!r} ({class_title(known)}), but its parameter is "
            f"annotated as {wanted!r} ({' | '.join(class_title(cls) for cls in accepted)})"
        )


def check_pattern(
    accepted: tuple[type[Any], ...],
    listener: str,
    pattern: str,
    type_index: TypeIndex,
    registry: EventRegistry,
) -> None:
    """Check that all event types registered now that match a pattern fit the annotation.

    Raises:
        TypeError: One of them does not fit.
    """
    name = type_index.find_misfit(pattern, accepted)
    if name is not None:
        raise TypeError(
            f"{listener} is registered for {pattern!r}, which {name!r} "
            f"({class_title(registry.type_of(name))}) matches, but its parameter is annotated as "
            f"{' | '.join(class_title(cls) for cls in accepted)}"
        )


def class_title(cls: type[Any] | None) -> str:
    """Return the name of a class for an error message; None stands for a name without a class."""
    return short_name(cls) if cls is not None else "a name without a type"


def accepted_types(
    handler: Callable[[Any], Any], listener: str, frame: types.FrameType
) -> tuple[type[Any], ...] | None:
    """Return the classes in the annotation of the first parameter, or None if any event fits.

    Raises:
        TypeError: The handler cannot be called with one event.
    """
    parameter = first_parameter(handler, listener)
    if parameter is None:
        return None
    name, annotation = parameter
    if isinstance(annotation, str):
        function = unwrap_partial(handler)
        if not isinstance(function, types.FunctionType | types.MethodType):
            function = type(function).__call__
        try:
            hints = get_type_hints(function, localns=locals_for(function, frame))
            annotation = hints.get(name, Any)
        except NameError:
            # The name was imported for type checkers only, and they will check it.
            return None
    members = typing.get_args(annotation) if is_union(annotation) else (annotation,)
    # Generic aliases, protocols of type variables and the like are left to type checkers.
    any_event = (inspect.Parameter.empty, object, Event, Any)
    if any(not isinstance(cls, type) or cls in any_event for cls in members):
        return None
    return tuple(members)


def first_parameter(handler: Callable[[Any], Any], listener: str) -> tuple[str, Any] | None:
    """Return the name and the annotation of the first parameter.

    Returns:
        None if the handler does not tell its parameters, as some builtins do not.

    Raises:
        TypeError: The handler cannot be called with one event.
    """
    try:
        # `inspect.signature` tells the same, but takes half of a registration. A function with
        # attributes may be a wrapper, or have a signature of its own.
        if type(handler) is types.FunctionType and not handler.__dict__:
            code = handler.__code__
            if code.co_argcount == 1 and not code.co_kwonlyargcount:
                name = code.co_varnames[0]
                return name, handler.__annotations__.get(name, inspect.Parameter.empty)
        signature = inspect.signature(handler)
    except Exception:  # noqa: BLE001 - `inspect` reads attributes, which may have code
        return None
    try:
        signature.bind(None)
    except TypeError as error:
        raise TypeError(f"{listener} cannot be called with one event: {error}") from None
    first = next(iter(signature.parameters.values()))
    return first.name, first.annotation


def locals_for(function: Any, frame: types.FrameType) -> dict[str, Any]:
    """Return the local variables of a frame, if the annotations of a function name one of them.

    Reading them makes Python keep a copy of all of them, for as long as the frame runs. That of the
    main function runs as long as the program, and would keep every listener object alive.
    """
    code = frame.f_code
    annotations: dict[str, Any] = getattr(function, "__annotations__", {})
    named = {name for each in annotations.values() for name in IDENTIFIER.findall(str(each))}
    local = {*code.co_varnames, *code.co_cellvars, *code.co_freevars}
    if code.co_flags & inspect.CO_OPTIMIZED and not named & local:
        return {}
    return {**frame.f_locals}


def frame_above(depth: int) -> types.FrameType:
    """Return the frame that is `depth` frames above the caller.

    Raises:
        ValueError: The stack has fewer frames.
    """
    frame = inspect.currentframe()
    for _ in range(depth + 1):
        frame = frame.f_back if frame is not None else None
    if frame is None:
        raise ValueError("the stack has fewer frames")
    return frame


def is_union(annotation: Any) -> bool:
    """Tell whether an annotation is `A | B` or `Union[A, B]`."""
    return typing.get_origin(annotation) in (typing.Union, types.UnionType)
