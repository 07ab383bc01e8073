"""The kinds of event classes, each with a function that makes a class from a list of fields.

So one list of fields gives the same event as a subclass of `Event`, a struct, a dataclass, an attrs
class and a pydantic model.
"""

import dataclasses
import types
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import attrs
import msgspec
import pydantic

from goevent import Event, EventRegistry

EVENT_NAME = "bench.codec"

Fields: TypeAlias = Mapping[str, Any]
"""The annotation of each field."""

MakeClass: TypeAlias = Callable[[str, Fields], Any]
"""Returns a class with a name and with fields that are all required."""


def struct(name: str, fields: Fields) -> Any:
    """Make a struct of msgspec."""
    return msgspec.defstruct(name, list(fields.items()))


def dataclass(name: str, fields: Fields) -> Any:
    """Make a dataclass."""
    return dataclasses.make_dataclass(name, list(fields.items()))


def attrs_class(name: str, fields: Fields) -> Any:
    """Make an attrs class."""
    return attrs.make_class(name, {key: attrs.field(type=kind) for key, kind in fields.items()})


def pydantic_model(name: str, fields: Fields) -> Any:
    """Make a pydantic model."""
    required: dict[str, Any] = {key: (kind, ...) for key, kind in fields.items()}
    return pydantic.create_model(name, **required)


def event_class(name: str, fields: Fields) -> Any:
    """Make a subclass of `Event` in a registry of its own."""
    options = {"name": EVENT_NAME, "registry": EventRegistry()}
    return types.new_class(
        name, (Event,), options, lambda namespace: namespace.update(__annotations__=dict(fields))
    )


@dataclasses.dataclass(frozen=True)
class EventKind:
    """One kind of event classes.

    Attributes:
        title: Its name in the report.
        make_event: Makes the class of the event.
        make_part: Makes the classes of objects within the event.
    """

    title: str
    make_event: MakeClass
    make_part: MakeClass


EVENT = EventKind("Event", event_class, struct)
STRUCT = EventKind("Struct", struct, struct)
DATACLASS = EventKind("dataclass", dataclass, dataclass)
ATTRS = EventKind("attrs", attrs_class, attrs_class)
PYDANTIC = EventKind("pydantic", pydantic_model, pydantic_model)

KINDS = {kind.title: kind for kind in (EVENT, STRUCT, DATACLASS, ATTRS, PYDANTIC)}
AD_HOC = "ad hoc"
"""The title of events that are made by `Event(name, payload)` and have no class."""
