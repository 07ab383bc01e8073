"""What the wire demands of a value beyond what msgspec checks, per class.

Integers in typed fields stay within int64 and datetimes are aware RFC 3339, as Go's reader wants.
Checks run on built-in values keyed as on the wire: on what was parsed, or on what will be written.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence, Set as AbstractSet
from datetime import UTC, datetime
from typing import Any, TypeGuard, TypeVar

import msgspec
from msgspec import inspect

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1

_RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)", re.ASCII)

_SCALARS = (
    inspect.NoneType,
    inspect.BoolType,
    inspect.IntType,
    inspect.FloatType,
    inspect.StrType,
    inspect.BytesType,
    inspect.DateTimeType,
    inspect.DateType,
    inspect.TimeType,
    inspect.TimeDeltaType,
    inspect.UUIDType,
    inspect.DecimalType,
    inspect.EnumType,
    inspect.LiteralType,
    inspect.Metadata,
    inspect.UnionType,
)

FEW = 4  # integers of an event that are sooner looked at than searched for

T = TypeVar("T")


class Refusal(ValueError):
    """Something that msgspec let pass; the text is the reason of the DecodeError or EncodeError."""


class Rules(msgspec.Struct, frozen=True):
    """The extra rules of one class.

    Attributes:
        root: the annotations of the class, as msgspec sees them.
        dull: ids of the nodes under `root` that hold neither integers nor datetimes.
        ints: some typed field holds integers.
        datetimes: some typed field holds datetimes.
        floats: some typed field holds floats.
        few_ints: the attributes that hold all integers, if these are few; None if one has to look
            deeper.
        untyped: some field may hold anything.
        flat: no field may hold objects or lists.
    """

    root: inspect.Type
    dull: frozenset[int]
    ints: bool
    datetimes: bool
    floats: bool
    untyped: bool
    flat: bool
    few_ints: tuple[str, ...] | None

    @classmethod
    def of(cls, event_type: Any) -> Rules:
        """Read the rules from the annotations of a class.

        Raises:
            Exception: whatever resolving the annotations raises, as NameError.
        """
        root = inspect.type_info(event_type)
        nodes: dict[int, inspect.Type] = {}
        _collect(root, nodes)
        kinds = {type(node) for node in nodes.values()}
        return cls(
            root=root,
            dull=frozenset(key for key, node in nodes.items() if _is_dull(node)),
            ints=inspect.IntType in kinds,
            datetimes=inspect.DateTimeType in kinds,
            floats=inspect.FloatType in kinds,
            untyped=not kinds.isdisjoint((inspect.AnyType, inspect.CustomType)),
            flat=_is_flat(root),
            few_ints=_few_ints(root) if inspect.IntType in kinds else (),
        )

    def surely_int64(self, event: object) -> bool:
        """Tell whether no typed integer is beyond int64; False if it is hard to say."""
        if self.few_ints is None:
            return False
        for name in self.few_ints:
            number = getattr(event, name, None)  # a dataclass need not have set it
            if isinstance(number, int) and not INT64_MIN <= number <= INT64_MAX:
                return False
        return True

    def check(self, value: object) -> None:
        """Check a parsed value.

        Raises:
            Refusal: an integer beyond int64 or a datetime that is not aware RFC 3339.
        """
        if self.ints or self.datetimes:
            _check(self.root, value, "$", self.dull)


def convert(data: dict[str, Any], cls: type[T], rules: Rules) -> T:
    """Validate built-in values into an instance of a class that msgspec knows.

    Raises:
        Exception: a Refusal, msgspec's error, or what the class's own initialiser raises.
    """
    rules.check(data)
    return msgspec.convert(data, cls)


def _children(node: inspect.Type) -> Sequence[inspect.Type]:
    match node:
        case inspect.Metadata():
            return (node.type,)
        case inspect.UnionType():
            return node.types
        case inspect.CollectionType():
            return (node.item_type,)
        case inspect.TupleType():
            return node.item_types
        case (
            inspect.StructType()
            | inspect.DataclassType()
            | inspect.TypedDictType()
            | inspect.NamedTupleType()
        ):
            return [field.type for field in node.fields]
        case _:
            pass
    if (key := getattr(node, "key_type", None)) is not None:  # dict, and newer mapping nodes
        return (key, node.value_type)  # type: ignore[attr-defined]  # pyright: ignore
    return ()


def _collect(node: inspect.Type, nodes: dict[int, inspect.Type]) -> None:
    # Classes that refer to themselves make circular nodes.
    if id(node) not in nodes:
        nodes[id(node)] = node
        for child in _children(node):
            _collect(child, nodes)


def _is_dull(node: inspect.Type) -> bool:
    below: dict[int, inspect.Type] = {}
    _collect(node, below)
    return not any(isinstance(n, inspect.IntType | inspect.DateTimeType) for n in below.values())


def _is_flat(root: inspect.Type) -> bool:
    if not isinstance(root, inspect.StructType | inspect.DataclassType):
        return False
    below: dict[int, inspect.Type] = {}
    for field in root.fields:
        _collect(field.type, below)
    return all(isinstance(node, _SCALARS) for node in below.values())


def _few_ints(root: inspect.Type) -> tuple[str, ...] | None:
    if not isinstance(root, inspect.StructType | inspect.DataclassType):
        return None
    if hasattr(root.cls, "__post_init__") or hasattr(root.cls, "__attrs_post_init__"):
        return None  # what the attributes hold need not be what was read
    names: list[str] = []
    for field in root.fields:
        kind = field.type.type if isinstance(field.type, inspect.Metadata) else field.type
        members = kind.types if isinstance(kind, inspect.UnionType) else (kind,)
        if any(isinstance(member, inspect.IntType) for member in members):
            names.append(field.name)
        if not all(isinstance(m, inspect.IntType) or _is_dull(m) for m in members):
            return None
    return tuple(names) if len(names) <= FEW else None


def _is_mapping(value: object) -> TypeGuard[Mapping[object, object]]:
    return isinstance(value, Mapping)


def _is_collection(value: object) -> TypeGuard[Collection[object]]:
    return isinstance(value, Sequence | AbstractSet) and not isinstance(value, str | bytes)


def _check(node: inspect.Type, value: object, path: str, dull: frozenset[int]) -> None:
    if id(node) in dull:
        return
    match node:
        case inspect.IntType():
            if isinstance(value, int) and not INT64_MIN <= value <= INT64_MAX:
                raise Refusal(f"an integer beyond int64 - at `{path}`")
        case inspect.DateTimeType():
            _check_datetime(value, path)
        case inspect.Metadata():
            _check(node.type, value, path, dull)
        case inspect.UnionType():
            for member in node.types:
                if not isinstance(member, inspect.StructType) or _is_tagged_as(member, value):
                    _check(member, value, path, dull)
        case inspect.CollectionType():
            if _is_collection(value):
                for item in value:
                    _check(node.item_type, item, f"{path}[...]", dull)
        case inspect.TupleType() | inspect.NamedTupleType():
            types = _children(node)
            if _is_collection(value):
                for item_type, item in zip(types, value, strict=False):
                    _check(item_type, item, f"{path}[...]", dull)
        case inspect.StructType() if node.array_like:
            if _is_collection(value):
                # A tagged array starts with its tag.
                items = list(value)[1:] if node.tag is not None else value
                for field, item in zip(node.fields, items, strict=False):
                    _check(field.type, item, f"{path}[...]", dull)
        case inspect.StructType() | inspect.DataclassType() | inspect.TypedDictType():
            if _is_mapping(value):
                for field in node.fields:
                    name = field.encode_name
                    if id(field.type) not in dull and name in value:
                        _check(field.type, value[name], f"{path}.{name}", dull)
        case _:
            children = _children(node)
            if len(children) == 2 and _is_mapping(value):
                for key, item in value.items():
                    _check_key(children[0], key, path, dull)
                    _check(children[1], item, f"{path}[...]", dull)


def _is_tagged_as(node: inspect.StructType, value: object) -> bool:
    if node.tag is None or node.tag_field is None:
        return True
    if _is_mapping(value):
        return bool(value.get(node.tag_field) == node.tag)
    return isinstance(value, list) and value[:1] == [node.tag]


def _check_key(node: inspect.Type, key: object, path: str, dull: frozenset[int]) -> None:
    # The keys of a JSON object are strings, whatever the annotation says.
    if isinstance(key, str) and inspect.IntType in {type(node), *map(type, _children(node))}:
        digits = key.removeprefix("-")
        if digits.isdecimal() and len(digits) < 400:
            key = int(key)
    _check(node, key, f"key of {path}", dull)


def _check_datetime(value: object, path: str) -> None:
    if isinstance(value, str):
        if not _RFC3339.fullmatch(value):
            raise Refusal(f"a datetime that is not RFC 3339 with an offset - at `{path}`")
    elif isinstance(value, datetime) and value.utcoffset() is None:
        raise Refusal(f"a datetime without an offset - at `{path}`")


def presentable(value: Any) -> Any:
    """Return built-in values with datetimes as text, ready to be written.

    Raises:
        Refusal: a number that is not finite, or a datetime without an offset.
    """
    kind: Any = value.__class__
    if kind is str or kind is int or value is None or kind is bool:
        return value
    if kind is dict:
        return {key: presentable(item) for key, item in value.items()}
    if kind is list or kind is tuple:
        return [presentable(item) for item in value]
    if isinstance(value, float):
        if not math.isfinite(value):
            raise Refusal(f"{value} is not a number that JSON has")
    elif isinstance(value, datetime):
        return rfc3339(value)
    return value


def rfc3339(moment: datetime) -> str:
    """Return an aware datetime as Go writes it: RFC 3339, trailing zeros of the fraction trimmed.

    Raises:
        Refusal: the datetime has no offset.
    """
    offset = moment.utcoffset()
    if offset is None:
        raise Refusal(f"the datetime {moment.isoformat()} has no offset")
    if offset.seconds % 60 or offset.microseconds:
        # RFC 3339 has no seconds in an offset; those of historical local times do.
        moment, offset = moment.astimezone(UTC), UTC.utcoffset(None)
    text = moment.replace(tzinfo=None).isoformat()
    if moment.microsecond:
        text = text.rstrip("0")
    if not offset:
        return text + "Z"
    minutes = (offset.days * 86400 + offset.seconds) // 60
    hours, minutes = divmod(abs(minutes), 60)
    return f"{text}{'-' if offset.days < 0 else '+'}{hours:02}:{minutes:02}"
