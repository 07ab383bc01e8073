"""The round trip: an event that is written must be read back as an equal event.

Python does not check annotations, so an event may hold a text where its class says `int`. Every
reader would refuse such an event, far away from the mistake. The codecs ask here for each event
that they write, and refuse it on the side of the sender.

Theory of operation. There are two tests. The *type check* is a function that is made for each class
and looks at the types of the values: `type(event.order) is int`. If all of them are exactly those
of the annotations, the event will be read back as it is, and the check was the only price. An
integer in place of a `float` passes, too. The check may be wrong in one direction only: a value of
another type may be fine, such as a tuple for a `list`. Only then the codec reads what it has
written, and `check_same` compares the two events. A reader makes a list of each array, so a tuple
in place of a list counts as equal.

Some classes get no type check, because to write and to read them runs code of the user, such as
`__post_init__`, or because the types do not tell enough, such as a union of structs with a
`dict`. Their events are always read back.
"""

from __future__ import annotations

import builtins
import dataclasses
import enum
import re
from collections.abc import Callable, Collection, Mapping, Set as AbstractSet
from datetime import date, datetime
from decimal import Decimal
from keyword import iskeyword
from math import isfinite
from typing import Any, TypeGuard, Union, cast
from uuid import UUID

from msgspec import UNSET, ValidationError, convert, inspect

from .value_rules import INT64_MAX, INT64_MIN, WireFormatError

TypeCheck = Callable[[Any], bool]

MAX_EXACT = 2**53
"""The largest integer up to which every one is a float of the same value."""

_SCALARS = (str, int, float, bool, bytes, type(None), UUID, datetime, date, Decimal, enum.Enum)
# No value of these types has a rule of its own.
_EXACT_TYPES: dict[type[inspect.Type], type] = {
    inspect.BoolType: bool,
    inspect.DateType: date,
    inspect.UUIDType: UUID,
}
_ARRAYS: dict[type[inspect.Type], type] = {
    inspect.ListType: list,
    inspect.VarTupleType: tuple,
    inspect.SetType: set,
    inspect.FrozenSetType: frozenset,
}
# `msgspec.convert` refuses values of other types than these.
_CONVERTED_TYPES: tuple[tuple[inspect.Type, Any], ...] = (
    (inspect.StrType(), str),
    (inspect.IntType(), int),
    (inspect.BoolType(), bool),
    (inspect.NoneType(), None),
)
_PYDANTIC_NODES = (
    inspect.IntType,
    inspect.FloatType,
    inspect.StrType,
    inspect.BoolType,
    inspect.NoneType,
    inspect.UnionType,
)
_PYDANTIC_OVERRIDES = (
    "__init__",
    "model_dump",
    "model_post_init",
    "model_validate",
    "model_validate_json",
)
# They change neither the written nor the read event.
_PYDANTIC_SETTINGS = {"frozen", "extra", "title", "validate_assignment"}
# They run when an event is read, and may change it or refuse it.
_INITIALISERS = ("__post_init__", "__attrs_pre_init__", "__attrs_post_init__")


class _NoTypeCheck(Exception):
    """The types of the values do not tell whether the event is read back as it is."""


def never(event: object) -> bool:
    """Be the type check of a class whose events are always read back."""
    return False


def make_type_check(root: inspect.Type) -> TypeCheck:
    """Return the type check of a class that msgspec supports.

    The check returns True if an event is certainly read back as it is: its values have exactly the
    types of the annotations, its integers outside of lists and dicts are within int64, and its
    floats are finite. It does not look at values in untyped fields.
    """
    try:
        return _TypeCheckSource().compile(_fields_of(root))
    except _NoTypeCheck:
        return never


def make_pydantic_type_check(cls: Any) -> TypeCheck:
    """Return the type check of a pydantic model; only plain models of plain values have one."""
    if _changes_values(cls):
        return never
    fields: list[tuple[str, inspect.Type]] = []
    try:
        for name, info in cls.model_fields.items():
            aliases = (info.alias, info.validation_alias, info.serialization_alias)
            if info.metadata or info.exclude or any(alias is not None for alias in aliases):
                return never
            fields.append((name, inspect.type_info(info.annotation)))
        source = _TypeCheckSource(_PYDANTIC_NODES)
        return source.compile([*fields], "not event.__pydantic_extra__")
    except Exception:  # noqa: BLE001 - msgspec does not know every annotation of pydantic
        return never


def _changes_values(cls: Any) -> bool:
    """Tell whether a pydantic model has validators, serializers or settings that change values."""
    decorators: Any = cls.__pydantic_decorators__
    if any(getattr(decorators, field.name) for field in dataclasses.fields(decorators)):
        return True
    for base in cls.__mro__:
        own = base.__module__.partition(".")[0] != "pydantic"
        if own and any(name in vars(base) for name in _PYDANTIC_OVERRIDES):
            return base is not object
    return bool(cls.model_config.keys() - _PYDANTIC_SETTINGS)


def _fields_of(node: inspect.Type) -> list[tuple[str, inspect.Type]]:
    """Return the attributes of a struct, a dataclass or an attrs class, with their nodes."""
    cls: Any = getattr(node, "cls", None)
    if not isinstance(node, inspect.StructType | inspect.DataclassType):
        raise _NoTypeCheck
    if not isinstance(cls, type) or any(hasattr(cls, name) for name in _INITIALISERS):
        raise _NoTypeCheck
    attributes: Any = getattr(cls, "__attrs_attrs__", ())
    if any(attribute.validator is not None for attribute in attributes):
        raise _NoTypeCheck
    return [(field.name, field.type) for field in node.fields]


class _TypeCheckSource:
    """The source of one type check: an expression, and functions for nested types.

    Args:
        allowed: The nodes that the class may have; empty for all.
    """

    def __init__(self, allowed: tuple[type[inspect.Type], ...] = ()) -> None:
        self._allowed = allowed
        self._functions: list[str] = []
        # The names of the functions, by the kind of test and the id of the node.
        self._names: dict[tuple[str, int], str] = {}
        self._globals: dict[str, Any] = {
            "ValidationError": ValidationError,
            "convert": convert,
            "isfinite": isfinite,
        }

    def compile(self, fields: list[tuple[str, inspect.Type]], condition: str = "") -> TypeCheck:
        """Return a function that tests the attributes of an event."""
        tests = [self._test_attribute("event", name, node) for name, node in fields]
        source = [
            *self._functions,
            "def has_exact_types(event):",
            "    try:",
            f"        return {both(*tests, condition)}",
            # The attribute of a dataclass may never have been set.
            "    except (AttributeError, ValidationError):",
            "        return False",
        ]
        # Of the user's text it has only the names of attributes, which are identifiers.
        exec("\n".join(source), self._globals)  # noqa: S102
        return cast("TypeCheck", self._globals["has_exact_types"])

    def _test_attribute(self, owner: str, name: str, node: inspect.Type) -> str:
        if not name.isidentifier() or iskeyword(name):
            raise _NoTypeCheck
        # The attribute is read once. The first mention of a value in a test is evaluated first.
        test, value = self._test(node, "@"), f"{owner}.{name}"
        if test.count("@") == 1:
            return test.replace("@", value)
        return test.replace("@", f"(v := {value})", 1).replace("@", "v")

    def _constant(self, value: object) -> str:
        name = f"constant_{len(self._globals)}"
        self._globals[name] = value
        return name

    def _function(self, purpose: str, node: inspect.Type, test: Callable[[], str]) -> str:
        """Return the name of a function that tests `value`, made now if there is none."""
        key = purpose, id(node)
        name = self._names.get(key)
        if name is None:
            # The name comes first, because a class may refer to itself.
            name = self._names[key] = f"check_{len(self._names)}"
            self._functions.append(f"def {name}(value): return {both(test())}")
        return name

    def _test(self, node: inspect.Type, value: str) -> str:
        """Return an expression that tests a value against a node; empty if every value fits."""
        if self._allowed and not isinstance(node, self._allowed):
            raise _NoTypeCheck
        match node:
            case inspect.AnyType():
                return ""
            case inspect.Metadata():
                return self._test(node.type, value)
            case inspect.UnionType():
                return self._test_union(node, value)
            case inspect.NoneType():
                return f"{value} is None"
            case inspect.IntType() if node.multiple_of is None:
                within = f"{INT64_MIN} <= {value} <= {INT64_MAX}"
                return both(self._is_exactly(int, value), within, *self._bounds(node, value))
            case inspect.FloatType() if node.multiple_of is None:
                finite = f"{self._is_exactly(float, value)} and -1e999 < {value} < 1e999"
                # An integer is read as a float. Up to this limit the two are equal.
                whole = f"{self._is_exactly(int, value)} and -{MAX_EXACT} <= {value} <= {MAX_EXACT}"
                return both(f"({finite} or {whole})", *self._bounds(node, value))
            case inspect.StrType():
                tests = [self._is_exactly(str, value), *lengths(node, value)]
                if node.pattern is not None:
                    search = self._constant(re.compile(node.pattern).search)
                    tests.append(f"{search}({value}) is not None")
                return both(*tests)
            case inspect.BytesType():
                return both(self._is_exactly(bytes, value), *lengths(node, value))
            case inspect.DateTimeType() if node.tz is not False:
                # The codecs refuse one without an offset.
                return self._is_exactly(datetime, value)
            case inspect.DecimalType():
                return both(self._is_exactly(Decimal, value), f"{value}.is_finite()")
            case inspect.EnumType() if not issubclass(node.cls, enum.Flag):
                return self._is_exactly(node.cls, value)
            case inspect.LiteralType() if len({type(each) for each in node.values}) == 1:
                # In a set of several types, True would be found as 1.
                values = self._constant(frozenset(node.values))
                return both(self._is_exactly(type(node.values[0]), value), f"{value} in {values}")
            case inspect.StructType() | inspect.DataclassType():
                check = self._function("fields", node, lambda: self._test_fields(node))
                return both(self._is_exactly(node.cls, value), f"{check}({value})")
            case inspect.DictType():
                return self._test_dict(node, value)
            case inspect.TupleType():
                items = [
                    self._test(item, f"{value}[{n}]") for n, item in enumerate(node.item_types)
                ]
                length = f"len({value}) == {len(items)}"
                return both(self._is_exactly(tuple, value), length, *items)
            case _:
                pass
        if (array := _ARRAYS.get(type(node))) is not None:
            return self._test_array(cast("inspect.CollectionType", node), array, value)
        if (exact := _EXACT_TYPES.get(type(node))) is not None:
            return self._is_exactly(exact, value)
        raise _NoTypeCheck

    def _test_fields(self, node: inspect.Type) -> str:
        tests = [self._test_attribute("value", name, each) for name, each in _fields_of(node)]
        return both(*tests)

    def _is_exactly(self, cls: type, value: str) -> str:
        name = cls.__name__ if vars(builtins).get(cls.__name__) is cls else self._constant(cls)
        return f"type({value}) is {name}"

    def _bounds(self, node: Any, value: str) -> list[str]:
        signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
        return [
            f"{value} {sign} {self._constant(bound)}"
            for name, sign in signs.items()
            if (bound := getattr(node, name)) is not None
        ]

    def _test_union(self, node: inspect.UnionType, value: str) -> str:
        # `None` comes last: it is the rarest value.
        members = sorted(node.types, key=lambda member: isinstance(member, inspect.NoneType))
        tests = [self._test(member, value) for member in members]
        return f"({' or '.join(f'({test})' for test in tests)})" if all(tests) else ""

    def _test_array(self, node: inspect.CollectionType, cls: type, value: str) -> str:
        generic: Any = cls
        tests = [self._is_exactly(cls, value), *lengths(node, value)]
        item = converted_type(node.item_type)
        if item is not NO_TYPE:
            kind = generic[item, ...] if cls is tuple else generic[item]
            tests.append(f"convert({value}, {self._constant(kind)}) is not None")
        else:
            tests.append(self._test_each(node.item_type, value))
        return both(*tests)

    def _test_dict(self, node: inspect.DictType, value: str) -> str:
        tests = [self._is_exactly(dict, value), *lengths(node, value)]
        kind: Any = dict
        key, item = converted_type(node.key_type), converted_type(node.value_type)
        if isinstance(node.key_type, inspect.AnyType):
            tests.append(self._test_each(node.value_type, f"{value}.values()"))
        elif key is not str:
            # Other keys are written as text.
            raise _NoTypeCheck
        elif item is not NO_TYPE:
            tests.append(f"convert({value}, {self._constant(kind[str, item])}) is not None")
        else:
            tests.append(f"convert({value}, {self._constant(kind[str, Any])}) is not None")
            tests.append(self._test_each(node.value_type, f"{value}.values()"))
        return both(*tests)

    def _test_each(self, node: inspect.Type, values: str) -> str:
        """Return an expression that tests several values against one node."""
        if isinstance(node, inspect.AnyType):
            return ""
        check = self._function("item", node, lambda: self._test(node, "value"))
        if node == inspect.FloatType():
            types = self._constant({float})
            quick = f"{types}.issuperset(map(type, {values})) and all(map(isfinite, {values}))"
            return f"({quick} or all(map({check}, {values})))"
        return f"all(map({check}, {values}))"


# No type that `msgspec.convert` would be asked about; None is one.
NO_TYPE: Any = object()


def converted_type(node: inspect.Type) -> Any:
    """Return the annotation of a node whose values `msgspec.convert` takes as they are."""
    members = node.types if isinstance(node, inspect.UnionType) else (node,)
    found = [cls for member in members for other, cls in _CONVERTED_TYPES if member == other]
    if len(found) < len(members):
        return NO_TYPE
    return Union[tuple(found)]  # noqa: UP007


def lengths(node: Any, value: str) -> list[str]:
    """Return the tests for the length of a value."""
    tests: list[str] = []
    if node.min_length is not None:
        tests.append(f"len({value}) >= {node.min_length}")
    if node.max_length is not None:
        tests.append(f"len({value}) <= {node.max_length}")
    return tests


def both(*tests: str) -> str:
    """Return an expression that is true if all tests are."""
    return " and ".join(filter(None, tests)) or "True"


# -- events that were read back


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
