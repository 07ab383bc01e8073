"""Mistakes: the error messages for objects that are no listener, no event and no event name.

Registration and dispatch call this module once they know that an object is wrong. It finds out
which mistake led there, and names the correct call.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Awaitable, Mapping
from typing import TYPE_CHECKING, Any, cast

from .._events.event import Event
from .._events.event_types import is_event_class, own_name, short_name
from .._events.names import is_name
from .._foreign import describe_value

if TYPE_CHECKING:
    from .._events.registry import EventRegistry

EXAMPLE = 'Event("order.paid", {"order_id": 7})'
HOW_TO_LISTEN = 'write @bus.listener("event.name") or @bus.listener(EventClass)'
LISTENER_MEMBERS = ("event_name", "on_event")


def is_class(candidate: object) -> bool:
    """Tell whether an object is a class, without asking the object."""
    return issubclass(type(candidate), type)


# -- event names


def not_an_event_name(event: object, registry: EventRegistry) -> TypeError:
    """Return the error for an object that is given in place of an event name or event class."""
    cls = type(event)
    if registry.name_of(cls) is not None or issubclass(cls, Event):
        name = short_name(cls)
        return TypeError(f"give the class of an event and not an event: {name}, not {name}(...)")
    return TypeError(
        f"an event is given by its name or by its class, not by {describe_value(event)}"
    )


def check_events(events: tuple[object, ...], registry: EventRegistry) -> None:
    """Refuse the events of a registration if there is none, or one is neither a name nor a class.

    Raises:
        TypeError: The message shows how to register a listener.
    """
    if not events:
        raise TypeError(f"a listener needs an event: {HOW_TO_LISTEN}")
    for event in events:
        if not isinstance(event, str | type):
            raise TypeError(f"{not_an_event_name(event, registry)}; {HOW_TO_LISTEN}")


def unregistered(cls: type[Any], registry: EventRegistry) -> TypeError:
    """Return the error for a class that the registry of the bus does not know."""
    name = short_name(cls)
    if hasattr(cls, "on_event"):
        return TypeError(
            f"{name} is not an event type; a class of listeners is registered with "
            f"bus.register_listener({name})"
        )
    if own := own_name(cls):
        return TypeError(
            f"{name} ({own!r}) is not in the registry of this bus: register it there, or give the "
            "bus that registry (`Config(registry=...)`)"
        )
    base = next((base for base in cls.__mro__[1:] if registry.name_of(base) is not None), None)
    if base is not None:
        return TypeError(
            f"{name} is not an event type: its base class {short_name(base)} is one, but a "
            f'subclass needs a name of its own (`class {name}({short_name(base)}, name="...")`)'
            if is_event_class(cls)
            else f"{name} is not an event type: its base class {short_name(base)} is one, but a "
            "subclass needs a name of its own; give it one with register_event_type"
        )
    return TypeError(
        f"{name} is not an event type: give the class a name "
        f'(`class {name}(Event, name="...")`) or use register_event_type'
    )


# -- events


def not_an_event(event: object, registry: EventRegistry) -> TypeError:
    """Return the error for an object that cannot be dispatched."""
    cls = type(event)
    kind: str = cls.__name__
    if is_class(event):
        name = short_name(cast("type", event))
        call = EXAMPLE if event is Event else f"{name}(...)"
        return not_an_event_type(f"type[{name}]", f"this is the class itself; write {call}")
    if issubclass(cls, str):
        call = f"Event({event!r}, {{...}})" if is_name(event) else EXAMPLE
        return not_an_event_type(kind, f"this is only a name; write {call}")
    if issubclass(cls, Mapping):
        return not_an_event_type(kind, f"this is only a payload; write {EXAMPLE}")
    if issubclass(cls, Awaitable):
        return not_an_event_type(kind, "await it, and dispatch its result")
    if issubclass(cls, types.FunctionType | types.MethodType | types.BuiltinFunctionType):
        return not_an_event_type(kind, "call it, and dispatch its result")
    if cls in (list, tuple, set, frozenset):
        return not_an_event_type(kind, "dispatch takes one event; dispatch them in turn")
    if cls.__module__ == "builtins":
        return not_an_event_type(kind, f"dispatch takes an event such as {EXAMPLE}")
    return unregistered(cls, registry)


def not_an_event_type(kind: str, hint: str) -> TypeError:
    """Return the error for an object whose type has nothing to do with events."""
    return TypeError(f"{kind} is not an event type: {hint}")


# -- listeners


def check_handler(handler: object, events: tuple[object, ...]) -> None:
    """Refuse an object that cannot be the function of a listener.

    Raises:
        TypeError: It cannot be called, or is a class.
    """
    if callable(handler) and not is_class(handler):
        return
    hint = ""
    if events and callable(events[0]) and not is_class(events[0]):
        shown = short_name(cast("type", handler)) if is_class(handler) else describe_value(handler)
        hint = f"; the function comes first: bus.subscribe(function, {shown})"
    elif all(hasattr(handler, member) for member in LISTENER_MEMBERS):
        hint = "; register listener objects and their classes with bus.register_listener"
    elif isinstance(handler, classmethod):
        raise method_without_object(cast("Any", handler).__func__, "cls", events)
    elif inspect.iscoroutine(handler):
        handler.close()
        hint = "; leave out the (), which call the function"
    elif handler is None:
        hint = "; leave out the () if they call the function"
    raise TypeError(f"a listener must be a function, not {describe_value(handler)}{hint}")


def check_owner(handler: object, events: tuple[object, ...]) -> None:
    """Refuse a function in the body of a class that would be called without an object.

    Raises:
        TypeError: The first parameter is `self` or `cls`, and nothing is bound to it.
    """
    if not isinstance(handler, types.FunctionType):
        return
    owner, _, _ = handler.__qualname__.rpartition(".")
    if not owner or owner.endswith("<locals>"):
        return
    try:
        # Of the function below, if a decorator has wrapped it with `functools.wraps`.
        first = next(iter(inspect.signature(handler).parameters), "")
    except Exception:  # noqa: BLE001 - `inspect` reads attributes, which may have code
        return
    if first in ("self", "cls"):
        raise method_without_object(handler, first, events)


def method_without_object(function: Any, owner: str, events: tuple[object, ...]) -> TypeError:
    """Return the error for a method that is registered without its object or class."""
    names = ", ".join(
        short_name(cast("type", event)) if is_class(event) else repr(event) for event in events
    )
    kind = "object" if owner == "self" else "class"
    return TypeError(
        f"{short_name(function)} is a method, and nothing says of which {kind}: register it where "
        f"there is one, bus.subscribe({owner}.{function.__name__}, {names})"
    )


def not_a_listener(candidate: object) -> TypeError:
    """Return the error for an object that is neither a listener nor a factory of listeners."""
    missing = [member for member in LISTENER_MEMBERS if not hasattr(candidate, member)]
    if is_class(candidate):
        name = short_name(cast("type", candidate))
        if not missing:
            return TypeError(
                f"{name} needs arguments: register an object of it, or a function without "
                "arguments that makes one"
            )
    elif isinstance(candidate, types.FunctionType | types.BuiltinFunctionType):
        return function_as_object(short_name(candidate), short_name(candidate))
    elif isinstance(candidate, types.MethodType):
        owner = "cls" if is_class(candidate.__self__) else "self"
        return function_as_object(short_name(candidate), f"{owner}.{candidate.__name__}")
    elif len(missing) == len(LISTENER_MEMBERS) and callable(candidate):
        return function_as_object(f"an object of {short_name(type(candidate))}", "it")
    else:
        cls = type(candidate)
        name = f"the {cls.__name__}" if cls.__module__ == "builtins" else short_name(cls)
        if candidate is None:
            name = "None"
    return TypeError(
        "a listener must be an object with event_name and on_event, or a class of such objects; "
        f"{name} has no {' and no '.join(missing) or 'such object'}"
    )


def function_as_object(name: str, argument: str) -> TypeError:
    """Return the error for a function that is given in place of a listener object."""
    return TypeError(
        f"a listener must be an object with event_name and on_event, and {name} is a function: "
        f"register it with bus.subscribe({argument}, ...) or @bus.listener(...)"
    )


def check_listener(name: str, listener: Any) -> None:
    """Refuse a listener whose attributes have the wrong types.

    Raises:
        TypeError: `event_name` or `on_event` has the wrong type.
    """
    if not isinstance(listener.event_name, str | type):
        raise TypeError(f"{name}.event_name must be an event name, not {listener.event_name!r}")
    if not callable(listener.on_event):
        raise TypeError(f"{name}.on_event must be a method, not {listener.on_event!r}")


# -- callbacks


def check_callback(callback: object) -> None:
    """Refuse an object that cannot be called with one `EventError`.

    Raises:
        TypeError: It cannot be called, or not with one argument.
    """
    if not callable(callback):
        raise TypeError(
            f"on_error takes a function of one EventError, not {describe_value(callback)}"
        )
    try:
        signature = inspect.signature(callback)
    except Exception:  # noqa: BLE001 - `inspect` reads attributes, which may have code
        return  # some builtins have no signature, either
    try:
        signature.bind(None)
    except TypeError as error:
        raise TypeError(
            f"the on_error function cannot be called with one EventError: {error}"
        ) from None
