"""The type check: a function, made for each event class, that looks at the types of the values.

Python does not check annotations, so an event may hold a text where its class says `int`. The
coders of `_wire` call the check for each event that they write.

Theory of operation. The check compares types: `type(event.order) is int`. If all of them are
exactly those of the annotations, the event will be read back as it is, and the check was the only
price. An integer in place of a `float` passes, too. The check may be wrong in one direction only: a
value of another type may be fine, such as a tuple for a `list`. Only then the codec reads what it
has written, and compares; see `round_trip`.

A type check is an expression of Python, which is faster than any call for a few values. Lists are
tested by one call of `msgspec.convert`. The objects in a list become rows of their attributes,
which are tested by one call, too.

Some classes get no type check, because to write and to read them runs code of the user, such as
`__post_init__`, or because the types do not tell enough, such as a union of structs with a
`dict`. Their events are always read back.
"""

from __future__ import annotations

import builtins
import dataclasses
import enum
import re
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from keyword import iskeyword
from operator import attrgetter, itemgetter
from sys import float_info
from types import UnionType
from typing import Annotated, Any, TypeAlias, Union, cast, get_args, get_origin
from uuid import UUID

from msgspec import Meta, ValidationError, convert, defstruct, inspect, structs

from .value_rules import INT64_MAX, INT64_MIN

TypeCheck = Callable[[Any], bool]

MAX_EXACT = 2**53
"""The largest integer up to which every one is a float of the same value."""

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
# The name and the annotation of each attribute.
_Fields: TypeAlias = list[tuple[str, inspect.Type]]
# A node with attributes below it.
_ObjectNode: TypeAlias = inspect.StructType | inspect.DataclassType | inspect.CustomType
_MAX_FLOAT = float_info.max
_Int64 = Annotated[int, Meta(ge=INT64_MIN, le=INT64_MAX)]
_FiniteFloat = Annotated[float, Meta(ge=-_MAX_FLOAT, le=_MAX_FLOAT)]
_ExactInt = Annotated[int, Meta(ge=-MAX_EXACT, le=MAX_EXACT)]
# `msgspec.convert` refuses values of other types than these.
_CONVERTED_TYPES: tuple[tuple[inspect.Type, Any], ...] = (
    (inspect.StrType(), str),
    (inspect.IntType(), _Int64),
    (inspect.BoolType(), bool),
    (inspect.NoneType(), None),
)
# So many nested classes are tested in place; a call of a function costs more than the test itself.
_MAX_TESTS_IN_PLACE = 16
# To test this many objects at once is faster than one after another.
_MIN_ROWS = 4
_ROWS_PER_CALL = 128
_PYDANTIC_NODES = (
    inspect.IntType,
    inspect.FloatType,
    inspect.StrType,
    inspect.BoolType,
    inspect.NoneType,
    inspect.UnionType,
    inspect.ListType,
    inspect.DictType,
    # A pydantic model, which msgspec does not know.
    inspect.CustomType,
)
# The extra values of a pydantic model have no annotation.
_NO_EXTRA = "not {}.__pydantic_extra__"
_PYDANTIC_OVERRIDES = (
    "__get_pydantic_core_schema__",
    "__init__",
    "model_dump",
    "model_post_init",
    "model_validate",
    "model_validate_json",
)
_PLAIN_ORIGINS = (list, dict, Union, UnionType)
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
    types of the annotations, its integers are within int64, and its floats are finite. It does not
    look at values in untyped fields.
    """
    try:
        return _TypeCheckSource().compile(cast("_ObjectNode", root))
    except _NoTypeCheck:
        return never


def make_pydantic_type_check(cls: Any) -> TypeCheck:
    """Return the type check of a pydantic model; only plain models of plain values have one."""
    try:
        return _TypeCheckSource(_PYDANTIC_NODES).compile(inspect.CustomType(cls))
    except Exception:  # noqa: BLE001 - msgspec does not know every annotation of pydantic
        return never


def _model_fields(cls: Any) -> _Fields:
    """Return the attributes of a pydantic model, with their nodes."""
    found: Mapping[str, Any] | None = getattr(cls, "model_fields", None)
    if found is None or _changes_values(cls):
        raise _NoTypeCheck
    fields: _Fields = []
    for name, info in found.items():
        aliases = (info.alias, info.validation_alias, info.serialization_alias)
        excluded = info.exclude or getattr(info, "exclude_if", None)
        if info.metadata or excluded or any(alias is not None for alias in aliases):
            raise _NoTypeCheck
        if not _is_plain(info.annotation):
            raise _NoTypeCheck
        fields.append((name, inspect.type_info(info.annotation)))
    return fields


def _is_plain(annotation: Any) -> bool:
    """Tell whether an annotation consists of classes, without settings in an `Annotated`."""
    origin = get_origin(annotation)
    if origin is None:
        return annotation is None or isinstance(annotation, type)
    return origin in _PLAIN_ORIGINS and all(map(_is_plain, get_args(annotation)))


def _changes_values(cls: Any) -> bool:
    """Tell whether a pydantic model has validators, serializers or settings that change values."""
    decorators: Any = cls.__pydantic_decorators__
    # A root model is written as the value in it.
    if cls.__pydantic_root_model__ or any(
        getattr(decorators, field.name) for field in dataclasses.fields(decorators)
    ):
        return True
    for base in cls.__mro__:
        own = base.__module__.partition(".")[0] != "pydantic"
        if own and any(name in vars(base) for name in _PYDANTIC_OVERRIDES):
            return base is not object
    return bool(cls.model_config.keys() - _PYDANTIC_SETTINGS)


def _attributes_of(node: _ObjectNode) -> _Fields:
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


def has_whole_minutes(moment: datetime) -> bool:
    """Tell whether the offset of a datetime consists of whole minutes, or is missing.

    RFC 3339 has no seconds in an offset: the codecs move other datetimes to UTC, and msgspec rounds
    their offsets.
    """
    offset = moment.utcoffset()
    return offset is None or not (offset.seconds % 60 or offset.microseconds)


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
        # The classes whose attributes are being tested in place, and how many there have been.
        self._open: set[int] = set()
        self._in_place = 0
        self._value_count = 0
        self._fields: dict[int, _Fields] = {}
        self._globals: dict[str, Any] = {"ValidationError": ValidationError, "convert": convert}

    def compile(self, root: _ObjectNode) -> TypeCheck:
        """Return a function that tests the attributes of an event."""
        test = self._test_fields(root, "event")
        source = [
            *self._functions,
            "def has_exact_types(event):",
            "    try:",
            f"        return {test}",
            # The attribute of a dataclass may never have been set. `_adds` raises the TypeError.
            "    except (AttributeError, ValidationError, TypeError):",
            "        return False",
        ]
        # Of the user's text it has only the names of attributes, which are identifiers.
        exec("\n".join(source), self._globals)  # noqa: S102
        return cast("TypeCheck", self._globals["has_exact_types"])

    def _test_attribute(self, owner: str, name: str, node: inspect.Type) -> str:
        # The attribute is read once. The first mention of a value in a test is evaluated first.
        self._value_count += 1
        mark, variable, value = f"@{self._value_count}@", f"v{self._value_count}", f"{owner}.{name}"
        test = self._test(node, mark)
        if test.count(mark) == 1:
            return test.replace(mark, value)
        return test.replace(mark, f"({variable} := {value})", 1).replace(mark, variable)

    def _constant(self, value: object) -> str:
        name = f"constant_{len(self._globals)}"
        self._globals[name] = value
        return name

    def _converts(self, value: str, kind: Any) -> str:
        """Return an expression that is true, or raises a `ValidationError`."""
        # msgspec prepares a struct once, and any other type in each call, which takes microseconds.
        box = defstruct("Box", [("value", kind)], array_like=True, gc=False)
        return f"convert(({value},), {self._constant(box)}) is not None"

    def _adds(self, values: str) -> str:
        """Return an expression that is true, or raises a `TypeError` if a float is a `Decimal`.

        `convert` makes a float of a `Decimal`, and the codecs write it as text. The fastest test is
        to add all values up, because Python does not add the two.
        """
        return f"sum({values}, 0.0) is not None"

    def _function(self, purpose: str, node: inspect.Type, test: Callable[[], str]) -> str:
        """Return the name of a function that tests `value`, made now if there is none."""
        key = purpose, _id_of(node)
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
                return both(self._is_exactly(datetime, value), self._has_whole_minutes(value))
            case inspect.DecimalType():
                return both(self._is_exactly(Decimal, value), f"{value}.is_finite()")
            case inspect.EnumType() if not issubclass(node.cls, enum.Flag):
                return self._is_exactly(node.cls, value)
            case inspect.LiteralType() if len({type(each) for each in node.values}) == 1:
                # In a set of several types, True would be found as 1.
                values = self._constant(frozenset(node.values))
                return both(self._is_exactly(type(node.values[0]), value), f"{value} in {values}")
            case inspect.StructType() | inspect.DataclassType() | inspect.CustomType():
                return self._test_object(node, value)
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

    def _test_object(self, node: _ObjectNode, value: str) -> str:
        """Return an expression that tests the class and the attributes of an object."""
        # First of all, because it refuses classes that have no type check.
        self._fields_of(node)
        is_exact = self._is_exactly(node.cls, value)
        key = _id_of(node)
        if key in self._open or self._in_place >= _MAX_TESTS_IN_PLACE:
            check = self._function("fields", node, lambda: self._test_fields(node, "value"))
            return both(is_exact, f"{check}({value})")
        self._in_place += 1
        self._open.add(key)
        test = self._test_fields(node, value)
        self._open.remove(key)
        return both(is_exact, test)

    def _test_fields(self, node: _ObjectNode, value: str) -> str:
        fields = self._fields_of(node)
        tests = [self._test_attribute(value, name, each) for name, each in fields]
        if own := _own_attributes(node):
            tests.append(f"len({value}.__dict__) == {own}")
        return both(*tests, _NO_EXTRA.format(value) if _has_extra(node) else "")

    def _fields_of(self, node: _ObjectNode) -> _Fields:
        """Return the attributes of an object, with their nodes."""
        fields = self._fields.get(_id_of(node))
        if fields is None:
            fields = _model_fields(node.cls) if self._allowed else _attributes_of(node)
            if not all(name.isidentifier() and not iskeyword(name) for name, _ in fields):
                raise _NoTypeCheck
            self._fields[_id_of(node)] = fields
        return fields

    def _is_exactly(self, cls: type, value: str) -> str:
        name = cls.__name__ if vars(builtins).get(cls.__name__) is cls else self._constant(cls)
        return f"type({value}) is {name}"

    def _has_whole_minutes(self, value: str) -> str:
        utc, has_whole = self._constant(UTC), self._constant(has_whole_minutes)
        return f"({value}.tzinfo is {utc} or {has_whole}({value}))"

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
            # Many lists are empty.
            adds = self._adds(value) if node.item_type == inspect.FloatType() else ""
            tests.append(f"(not {value} or {both(self._converts(value, kind), adds)})")
        else:
            sequence = value if cls in (list, tuple) else f"[*{value}]"
            each = self._test_each(node.item_type, sequence)
            tests.append(each and f"(not {value} or {each})")
        return both(*tests)

    def _test_dict(self, node: inspect.DictType, value: str) -> str:
        tests = [self._is_exactly(dict, value), *lengths(node, value)]
        kind: Any = dict
        key, item = converted_type(node.key_type), converted_type(node.value_type)
        if isinstance(node.key_type, inspect.AnyType):
            tests.append(self._test_each(node.value_type, f"[*{value}.values()]"))
        elif key is not str:
            # Other keys are written as text.
            raise _NoTypeCheck
        elif item is not NO_TYPE:
            tests.append(self._converts(value, kind[str, item]))
            if node.value_type == inspect.FloatType():
                tests.append(self._adds(f"{value}.values()"))
        else:
            tests.append(self._converts(value, kind[str, Any]))
            tests.append(self._test_each(node.value_type, f"[*{value}.values()]"))
        return both(*tests)

    def _test_each(self, node: inspect.Type, values: str) -> str:
        """Return an expression that tests the values in a list or tuple against one node."""
        while isinstance(node, inspect.Metadata):
            node = node.type
        if isinstance(node, inspect.AnyType):
            return ""
        if isinstance(node, inspect.DateTimeType):
            datetimes = self._function("datetimes", node, self._test_datetimes)
            return f"{datetimes}({values})" if node.tz is not False else "False"
        exact = _EXACT_TYPES.get(type(node))
        if exact is not None and self._test(node, "@") == self._is_exactly(exact, "@"):
            return f"{self._constant(frozenset([exact]))}.issuperset(map(type, {values}))"
        check = self._function("item", node, lambda: self._test(node, "value"))
        each = f"all(map({check}, {values}))"
        if not isinstance(node, _ObjectNode):
            return each
        rows = self._function("rows", node, lambda: self._test_rows(node))
        return f"({each} if len({values}) < {_MIN_ROWS} else {rows}({values}))"

    def _test_values(self, rows: str, kind: Any, fields: _Fields) -> str:
        """Return an expression that tests the values in rows that `_row_getter` has returned."""
        floats = [n for n, (_, each) in enumerate(fields) if each == inspect.FloatType()]
        if not floats:
            return self._converts(rows, kind)
        columns = [f"map({self._constant(itemgetter(n))}, rows)" for n in floats]
        tests = [self._adds(column if len(fields) > 1 else "rows") for column in columns]
        return f"({both(self._converts(f'(rows := {rows})', kind), *tests)})"

    def _test_datetimes(self) -> str:
        """Return an expression that tests the datetimes in `value`."""
        exact = self._constant(frozenset([datetime]))
        each = self._has_whole_minutes("each")
        return both(f"{exact}.issuperset(map(type, value))", f"all([{each} for each in value])")

    def _test_rows(self, node: _ObjectNode) -> str:
        """Return an expression that tests the objects in `value`, all of one class.

        A loop in C reads the attributes of all objects, and one call of `convert` tests them.
        """
        fields = self._fields_of(node)
        names = tuple(name for name, _ in fields)
        exact = self._constant(frozenset([node.cls]))
        tests = [f"{exact}.issuperset(map(type, value))"]
        types = [converted_type(each) for _, each in fields]
        if any(each is not NO_TYPE for each in types):
            get = self._constant(_row_getter(node.cls, names))
            kind = _rows_type(types)
            whole = self._test_values(f"[*map({get}, value)]", kind, fields)
            # In small parts, so that the rows stay in the cache of the CPU and cause no garbage
            # collection.
            part = f"[*map({get}, value[start : start + {_ROWS_PER_CALL}])]"
            part = self._test_values(part, kind, fields)
            parts = f"all([{part} for start in range(0, len(value), {_ROWS_PER_CALL})])"
            tests.append(f"({whole} if len(value) <= {_ROWS_PER_CALL} else {parts})")
        for (name, each), converted in zip(fields, types, strict=True):
            if converted is NO_TYPE:
                get = self._constant(attrgetter(name))
                tests.append(self._test_each(each, f"[*map({get}, value)]"))
        if own := _own_attributes(node):
            get = self._constant(attrgetter("__dict__"))
            tests.append(f"sum(map(len, map({get}, value))) == {own} * len(value)")
        if _has_extra(node):
            tests.append(f"all([{_NO_EXTRA.format('each')} for each in value])")
        return both(*tests)


def _has_extra(node: _ObjectNode) -> bool:
    """Tell whether an object may have values without an annotation, as a pydantic model may."""
    config: Mapping[str, object] = getattr(node.cls, "model_config", {})
    return isinstance(node, inspect.CustomType) and config.get("extra") == "allow"


def _own_attributes(node: _ObjectNode) -> int:
    """Return the size of the `__dict__` of an attrs object that has its fields only; 0 for others.

    msgspec writes all attributes of such an object, such as a cached property.
    """
    cls: Any = node.cls
    attributes: Any = getattr(cls, "__attrs_attrs__", ())
    return len(attributes) if cls.__dictoffset__ and not dataclasses.is_dataclass(cls) else 0


def _id_of(node: inspect.Type) -> int:
    """Return the key of a node: its id, or that of its class if msgspec makes a node each time."""
    return id(node.cls if isinstance(node, inspect.CustomType) else node)


def _row_getter(cls: Any, names: tuple[str, ...]) -> Callable[[Any], Any]:
    """Return a function that returns the attributes of an object: a tuple if there are several."""
    if len(names) > 1 and getattr(cls, "__struct_fields__", ()) == names:
        return structs.astuple
    return attrgetter(*names)


def _rows_type(types: list[Any]) -> Any:
    """Return the type of the rows that `_row_getter` returns for a list of objects."""
    known = [Any if each is NO_TYPE else each for each in types]
    rows: Any = list
    row: Any = tuple
    return rows[row[tuple(known)] if len(known) > 1 else known[0]]


# No type that `msgspec.convert` would be asked about; None is one.
NO_TYPE: Any = object()


def converted_type(node: inspect.Type) -> Any:
    """Return the annotation of a node whose values `msgspec.convert` takes as they are.

    In place of a list it takes a tuple or a set, too. They are written as a list is, and the event
    that is read counts as equal.
    """
    if node == inspect.FloatType():
        return _FiniteFloat | _ExactInt
    members = node.types if isinstance(node, inspect.UnionType) else (node,)
    array: Any = list
    found: list[Any] = []
    for member in members:
        if isinstance(member, inspect.ListType) and not lengths(member, ""):
            # See `_adds`: only the values of one list can be added up.
            is_float = isinstance(member.item_type, inspect.FloatType)
            item = NO_TYPE if is_float else converted_type(member.item_type)
            found.append(NO_TYPE if item is NO_TYPE else array[item])
        else:
            found.append(next((cls for each, cls in _CONVERTED_TYPES if member == each), NO_TYPE))
    return NO_TYPE if NO_TYPE in found else Union[tuple(found)]  # noqa: UP007


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
