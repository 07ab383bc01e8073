"""The round trip: an event that is written must be read back as an equal event.

Every reader would refuse an event with a value of a wrong type, far away from the mistake. So the
codecs refuse it on the side of the sender. An event that passes its `type_check` needs nothing
else. A codec reads back the others from the bytes that it has written, and asks here whether the
two events are the same. A reader makes a list of each array, so a tuple in place of a list counts
as equal.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Mapping, Set as AbstractSet
from datetime import date, datetime
from decimal import Decimal
from typing import Any, TypeGuard, cast
from uuid import UUID

from msgspec import UNSET, inspect

from .value_rules import WireFormatError

_SCALARS = (str, int, float, bool, bytes, type(None), UUID, datetime, date, Decimal, enum.Enum)


def is_complete(node: inspect.Type, event: object) -> bool:
    """Tell whether all attributes without a default are set.

    A dataclass with `field(init=False)` may leave one out. Nothing is written for it, so the event
    cannot be read back, and is written as it is.
    """
    return not isinstance(node, inspect.DataclassType) or all(
        hasattr(event, field.name) for field in node.fields if field.required
    )


def check_same(node: inspect.Type, event: Any, read: Any) -> None:
    """Compare an event with the one that was read from its bytes.

    Args:
        node: The annotations of the class.
        event: The event that was written.
        read: The event that was read.

    Raises:
        WireFormatError: A value is not the same.
    """
    _compare(node, event, read, "$")


def check_same_model(event: Any, read: Any) -> None:
    """Compare a pydantic model with the one that was read from its bytes.

    Raises:
        WireFormatError: The value of a field with a plain type is not the same.
    """
    cls = cast("Any", type(event))
    for name, info in cls.model_fields.items():
        value, other = getattr(event, name, UNSET), getattr(read, name)
        typed = info.annotation is not Any and info.annotation is not object
        # Pydantic reads a bool as an integer, and the two are equal.
        equal = value == other and isinstance(value, bool) is isinstance(other, bool)
        if typed and not info.exclude and isinstance(other, _SCALARS) and not equal:
            raise _different(value, other, f"$.{name}")


def _compare(node: inspect.Type, value: Any, read: Any, path: str) -> None:
    while isinstance(node, inspect.Metadata):
        node = node.type
    if isinstance(node, inspect.AnyType | inspect.CustomType | inspect.RawType | inspect.ExtType):
        return
    if isinstance(node, inspect.UnionType):
        for member in node.types:
            if _fits(member, read):
                _compare(member, value, read, path)
                return
        node = inspect.NoneType()  # a scalar
    if _is_array(read):
        _compare_arrays(node, value, read, path)
    elif _is_mapping(read):
        _compare_mappings(node, value, read, path)
    elif isinstance(node, inspect.StructType | inspect.DataclassType):
        if not isinstance(value, type(read)):
            raise _different(value, read, path)
        for field in node.fields:
            # An attribute of a dataclass may never have been set, and nothing is written for UNSET.
            written = getattr(value, field.name, UNSET)
            if written is not UNSET:
                _compare(field.type, written, getattr(read, field.name), f"{path}.{field.name}")
    elif value != read:
        raise _different(value, read, path)


def _fits(node: inspect.Type, read: Any) -> bool:
    """Tell whether a value that was read can be that of a member of a union."""
    match node:
        case inspect.Metadata():
            return _fits(node.type, read)
        case inspect.StructType() | inspect.DataclassType() | inspect.NamedTupleType():
            return isinstance(read, getattr(node.cls, "__origin__", node.cls))
        case inspect.CollectionType() | inspect.TupleType():
            return _is_array(read)
        case inspect.DictType() | inspect.TypedDictType():
            return _is_mapping(read)
        case _:
            return False


def _compare_arrays(node: inspect.Type, value: object, read: Any, path: str) -> None:
    if not _is_array(value):
        raise _different(value, read, path)
    if any(isinstance(each, AbstractSet) for each in (value, read)):
        # The order of a set is not defined, so its items cannot be compared one by one.
        if {*value} != {*read}:
            raise _different(value, read, path)
        return
    if len(value) != len(read):
        raise _different(value, read, path)
    for place, (one, other) in enumerate(zip(value, read, strict=True)):
        _compare(_item_node(node, place), one, other, f"{path}[...]")


def _is_array(value: object) -> TypeGuard[Collection[Any]]:
    return isinstance(value, list | tuple | AbstractSet)


def _is_mapping(value: object) -> TypeGuard[Mapping[Any, Any]]:
    return isinstance(value, Mapping)


def _item_node(node: inspect.Type, place: int) -> inspect.Type:
    match node:
        case inspect.CollectionType():
            return node.item_type
        case inspect.TupleType():
            return node.item_types[place]
        case inspect.NamedTupleType():
            return node.fields[place].type
        case _:
            return inspect.AnyType()


def _compare_mappings(node: inspect.Type, value: object, read: Any, path: str) -> None:
    if not _is_mapping(value):
        raise _different(value, read, path)
    if isinstance(node, inspect.TypedDictType):
        for field in node.fields:
            if field.encode_name in value:
                inner = f"{path}.{field.name}"
                _compare(field.type, value[field.encode_name], read[field.encode_name], inner)
    # An untyped key is read as text.
    elif isinstance(node, inspect.DictType) and not isinstance(node.key_type, inspect.AnyType):
        for key, item in value.items():
            if key not in read:
                raise _different(key, next(iter(read), None), f"key of {path}")
            _compare(node.value_type, item, read[key], f"{path}[...]")


def _different(value: object, read: object, path: str) -> WireFormatError:
    expected, found = type(read).__name__, type(value).__name__
    if expected == found:
        return WireFormatError(f"a {found} that is read back as another value - at `{path}`")
    return WireFormatError(f"Expected `{expected}`, got `{found}` - at `{path}`")
