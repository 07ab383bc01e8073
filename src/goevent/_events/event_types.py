"""The kinds of class that can be an event type, told apart without importing their libraries.

`Event` is recognised by its two names, pydantic models and attrs classes by the attributes their
libraries put on them: so nothing here depends on `_event`, and pydantic is never imported.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

ACCEPTED = (
    "a subclass of Event, a dataclass, an attrs class, a msgspec.Struct or a pydantic (v2) model"
)


@dataclasses.dataclass(frozen=True, slots=True)
class Kind:
    """How to treat the instances of one kind of event class.

    Attributes:
        fields: the field names of a class, as Python spells them.
        payload: the fields of an instance, one level deep, under their Python names.
        body: what an encoder is given for the instance.
        native: msgspec encodes and validates the class by itself.
    """

    fields: Callable[[Any], tuple[str, ...]]
    payload: Callable[[Any], dict[str, Any]]
    body: Callable[[Any], Any]
    native: bool


def _itself(event: Any) -> Any:
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


EVENT = Kind(_struct_fields, _own_payload, _itself, native=True)
AD_HOC = Kind(lambda cls: (), _own_payload, _own_payload, native=False)
STRUCT = Kind(_struct_fields, msgspec.structs.asdict, _itself, native=True)
DATACLASS = Kind(
    _dataclass_fields,
    lambda event: {name: getattr(event, name) for name in _dataclass_fields(type(event))},
    _itself,
    native=True,
)
ATTRS = Kind(
    _attrs_fields,
    lambda event: {name: getattr(event, name) for name in _attrs_fields(type(event))},
    _itself,
    native=True,
)
# Iterating over a model gives its (name, value) pairs, extra fields included.
PYDANTIC = Kind(lambda cls: tuple(cls.model_fields), dict, _pydantic_body, native=False)


def kind_of(cls: type[Any]) -> Kind | None:
    """Return the kind of an event class, or None if it cannot be one."""
    if issubclass(cls, msgspec.Struct):
        if not is_event_type(cls):
            return STRUCT
        # Only the ad-hoc event carries its name in the instance.
        return AD_HOC if "event_name" in cls.__struct_fields__ else EVENT
    if callable(getattr(cls, "model_validate", None)) and hasattr(cls, "model_fields"):
        return PYDANTIC
    if dataclasses.is_dataclass(cls):
        return DATACLASS
    if "__attrs_attrs__" in vars(cls):
        return ATTRS
    return None


def is_event_type(cls: type[Any]) -> bool:
    """Tell whether a class has the two names of `Event`; a *field* called payload is no method."""
    return hasattr(cls, "event_name") and callable(getattr(cls, "payload", None))


def own_name(cls: type[Any]) -> str:
    """Return the event name that a class states for itself, or the empty string."""
    name = getattr(cls, "event_name", "")
    return name if isinstance(name, str) else ""


def python_to_wire(cls: type[Any], payload: Mapping[str, Any]) -> dict[str, Any]:
    """Return the payload with the Python names of renamed Struct fields put as on the wire."""
    renamed = dict(payload)
    if issubclass(cls, msgspec.Struct):
        for ours, theirs in zip(cls.__struct_fields__, cls.__struct_encode_fields__, strict=True):
            if ours != theirs and ours in renamed and ours not in cls.__struct_encode_fields__:
                renamed.setdefault(theirs, renamed.pop(ours))
    return renamed


def describe(cls: type[Any]) -> str:
    """Return the module and qualified name of a class."""
    return f"{cls.__module__}.{cls.__qualname__}"
