"""The kinds of classes that can be event types, told apart without an import of their libraries.

The registry and the codecs ask `adapter_of` how to treat the instances of a class. `Event` is
recognised by its two reserved names; pydantic models and attrs classes are recognised by the
attributes that their libraries give them. So this module does not depend on `event`, and pydantic
is never imported here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any, ClassVar, Protocol

import msgspec

SUPPORTED_CLASSES = (
    "a subclass of Event, a dataclass, an attrs class, a msgspec.Struct or a pydantic (v2) model"
)


class DataclassEvent(Protocol):
    """An object of a dataclass."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]


class AttrsEvent(Protocol):
    """An object of an attrs class."""

    __attrs_attrs__: ClassVar[Any]


class PydanticEvent(Protocol):
    """An object of a pydantic model."""

    def model_dump(self) -> dict[str, Any]: ...


@dataclasses.dataclass(frozen=True, slots=True)
class EventTypeAdapter:
    """The operations on one kind of event class.

    Attributes:
        fields: Returns the field names of a class, as Python spells them.
        payload: Returns the fields of an instance, one level deep, under their Python names.
        body: Returns the object that an encoder is given for an instance.
        native: True if msgspec encodes and validates the class itself.
    """

    fields: Callable[[Any], tuple[str, ...]]
    payload: Callable[[Any], dict[str, Any]]
    body: Callable[[Any], Any]
    native: bool


def _identity(event: Any) -> Any:
    return event


def _own_payload(event: Any) -> dict[str, Any]:
    payload: dict[str, Any] = event.payload()
    return payload


def _struct_fields(cls: Any) -> tuple[str, ...]:
    fields: tuple[str, ...] = cls.__struct_fields__
    return fields


def _dataclass_fields(cls: Any) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(cls))


def _attrs_fields(cls: Any) -> tuple[str, ...]:
    return tuple(field.name for field in cls.__attrs_attrs__)


def _pydantic_body(event: Any) -> Any:
    return event.model_dump(by_alias=True)


EVENT = EventTypeAdapter(_struct_fields, _own_payload, _identity, native=True)
AD_HOC = EventTypeAdapter(lambda cls: (), _own_payload, attrgetter("fields"), native=False)
STRUCT = EventTypeAdapter(_struct_fields, msgspec.structs.asdict, _identity, native=True)
DATACLASS = EventTypeAdapter(
    _dataclass_fields,
    lambda event: {name: getattr(event, name) for name in _dataclass_fields(type(event))},
    _identity,
    native=True,
)
ATTRS = EventTypeAdapter(
    _attrs_fields,
    lambda event: {name: getattr(event, name) for name in _attrs_fields(type(event))},
    _identity,
    native=True,
)
# Iterating over a model gives its (name, value) pairs, extra fields included.
PYDANTIC = EventTypeAdapter(lambda cls: tuple(cls.model_fields), dict, _pydantic_body, native=False)


def adapter_of(cls: type[Any]) -> EventTypeAdapter | None:
    """Return the adapter for a class, or None if the class cannot be an event type."""
    if not isinstance(cls, type):  # pyright: ignore[reportUnnecessaryIsInstance] - int | None
        return None
    if issubclass(cls, msgspec.Struct):
        if not is_event_class(cls):
            return STRUCT
        # Only the ad-hoc event stores its name in the instance.
        return AD_HOC if "event_name" in cls.__struct_fields__ else EVENT
    if callable(getattr(cls, "model_validate", None)) and hasattr(cls, "model_fields"):
        return PYDANTIC
    if dataclasses.is_dataclass(cls):
        return DATACLASS
    # The class itself must be decorated: an undecorated subclass inherits the attribute, but its
    # own annotations are not fields.
    if "__attrs_attrs__" in vars(cls):
        return ATTRS
    return None


def is_event_class(cls: type[Any]) -> bool:
    """Tell whether a class has the two reserved names of `Event`.

    `payload` must be a method: a struct may have a field of that name.
    """
    return hasattr(cls, "event_name") and callable(getattr(cls, "payload", None))


def own_name(cls: type[Any]) -> str:
    """Return the event name in the class attribute `event_name`, or an empty string."""
    name = getattr(cls, "event_name", "")
    return name if isinstance(name, str) else ""


def python_to_wire(cls: type[Any], payload: Mapping[str, Any]) -> dict[str, Any]:
    """Return a payload with the Python names of renamed struct fields changed to wire names."""
    renamed = dict(payload)
    if issubclass(cls, msgspec.Struct):
        for ours, theirs in zip(cls.__struct_fields__, cls.__struct_encode_fields__, strict=True):
            # A Python name that is another field's wire name is left alone: it may be either.
            if ours != theirs and ours in renamed and ours not in cls.__struct_encode_fields__:
                renamed.setdefault(theirs, renamed.pop(ours))
    return renamed


def short_name(named: Any) -> str:
    """Return the name of a class or a function without the functions around it.

    A lambda has no name of its own and keeps that of the innermost function around it.
    """
    path = str(named.__qualname__).split(".<locals>.")
    if path[-1] == "<lambda>":
        return ".".join(path[-2:])
    return path[-1]


def describe_class(cls: type[Any]) -> str:
    """Return the module and the qualified name of a class."""
    return f"{cls.__module__}.{cls.__qualname__}"
