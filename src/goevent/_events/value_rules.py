"""The wire's rules for values that go beyond what msgspec checks, collected per class.

The wire format is read by Go programs. There an integer in a typed field is an int64, and a
datetime is RFC 3339 with an offset. msgspec accepts larger integers and looser datetimes, so the
codecs apply these rules in addition. `EventRegistry.create` applies them too.

Theory of operation. The rules are checked on built-in values (dict, list, str, int, ...) whose keys
are those of the wire: on the parsed JSON when an event is read, and on the body when it is written.
The annotations of a class form a tree of msgspec's `inspect.Type` nodes, or a graph if the class
refers to itself. `ValueRules.of` walks this graph once per class and notes which nodes have neither
integers nor datetimes below them; `check` walks value and nodes in parallel and skips these nodes.

Most events need no such walk. The codecs first look at the bytes for signs of a violation (see
`byte_bounds`), and `direct_ints_fit` answers for the common class whose few integers are direct
attributes. Only if these tests cannot rule a violation out is the value checked in full.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Collection, Mapping, Sequence, Set as AbstractSet
from datetime import UTC, datetime
from typing import Any, TypeGuard, TypeVar, get_origin

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
)
_UNTYPED_NODES = (inspect.AnyType, inspect.CustomType, inspect.RawType, inspect.ExtType)

# Up to this many integer attributes, it is faster to compare each one than to scan the bytes.
MAX_DIRECT_INTS = 4

# A longer key of a mapping with integer keys is not converted to be compared.
MAX_KEY_DIGITS = 400

T = TypeVar("T")


class WireFormatError(ValueError):
    """A value or a message breaks a rule of the wire format that msgspec does not check.

    The text becomes the reason of the `DecodeError` or `EncodeError`.
    """


class ValueRules(msgspec.Struct, frozen=True):
    """The extra rules of one class.

    Attributes:
        root: The annotations of the class, as msgspec represents them.
        skipped: The ids of the nodes under `root` that have neither integers nor datetimes below.
        ints: True if a typed field holds integers.
        datetimes: True if a typed field holds datetimes.
        floats: True if a typed field holds floats.
        untyped: True if a field may hold any value.
        levels: The levels of objects and lists that an event may have, its own included. None if
            there is no limit: a field is untyped, a class refers to itself, or an attrs class has
            further slots.
        direct_ints: The attributes that together hold all integers of an event. None if there are
            more than `MAX_DIRECT_INTS`, or if integers may stand deeper than in an attribute.
    """

    root: inspect.Type
    skipped: frozenset[int]
    ints: bool
    datetimes: bool
    floats: bool
    untyped: bool
    levels: int | None
    direct_ints: tuple[str, ...] | None

    @classmethod
    def of(cls, event_type: Any) -> ValueRules:
        """Return the rules that follow from the annotations of a class.

        Raises:
            Exception: An annotation could not be resolved, for example with a `NameError`.
        """
        root = inspect.type_info(event_type)
        nodes: dict[int, inspect.Type] = {}
        _collect(root, nodes)
        kinds = {type(node) for node in nodes.values()}
        return cls(
            root=root,
            skipped=frozenset(key for key, node in nodes.items() if _has_no_rules(node)),
            ints=inspect.IntType in kinds,
            datetimes=inspect.DateTimeType in kinds,
            floats=inspect.FloatType in kinds,
            untyped=not kinds.isdisjoint((inspect.AnyType, inspect.CustomType)),
            levels=_levels(root, {}),
            direct_ints=_direct_ints(root) if inspect.IntType in kinds else (),
        )

    def direct_ints_fit(self, event: object) -> bool:
        """Tell whether all typed integers fit into int64, by a look at the direct attributes.

        Returns False if an integer does not fit, and also if integers may stand elsewhere.
        """
        if self.direct_ints is None:
            return False
        for name in self.direct_ints:
            # A dataclass need not have set the attribute.
            number = getattr(event, name, None)
            if isinstance(number, int) and not INT64_MIN <= number <= INT64_MAX:
                return False
        return True

    def check(self, value: object) -> None:
        """Check built-in values against the rules.

        Raises:
            WireFormatError: An integer is beyond int64, or a datetime is not RFC 3339 with an
                offset.
        """
        if self.ints or self.datetimes:
            _check(self.root, value, "$", self.skipped)


def convert(data: dict[str, Any], cls: type[T], rules: ValueRules) -> T:
    """Convert built-in values into a validated instance of a class that msgspec supports.

    Raises:
        Exception: A `WireFormatError`, an error of msgspec, or an error that the initialiser of the
            class raised.
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
    # `DictType`, and the mapping nodes of newer versions of msgspec.
    if (key := getattr(node, "key_type", None)) is not None:
        return (key, node.value_type)  # type: ignore[attr-defined]  # pyright: ignore
    return ()


def _collect(node: inspect.Type, nodes: dict[int, inspect.Type]) -> None:
    # A class that refers to itself makes a cycle of nodes.
    if id(node) not in nodes:
        nodes[id(node)] = node
        for child in _children(node):
            _collect(child, nodes)


def _has_no_rules(node: inspect.Type) -> bool:
    below: dict[int, inspect.Type] = {}
    _collect(node, below)
    return not any(isinstance(n, inspect.IntType | inspect.DateTimeType) for n in below.values())


def _levels(node: inspect.Type, known: dict[int, int | None]) -> int | None:
    if isinstance(node, _SCALARS):
        return 0
    if isinstance(node, _UNTYPED_NODES) or (
        isinstance(node, inspect.DataclassType) and _may_have_more(node.cls)
    ):
        return None
    if id(node) not in known:
        # Until its levels are known, a node has no limit, because only a cycle leads back to it.
        known[id(node)] = None
        below = [_levels(child, known) for child in _children(node)]
        if None not in below:
            own = not isinstance(node, inspect.Metadata | inspect.UnionType)
            known[id(node)] = own + max(filter(None, below), default=0)
    return known[id(node)]


def _may_have_more(cls: Any) -> bool:
    """Tell whether an attrs class has slots besides its fields, such as that of a cached property.

    msgspec writes them, too. The type check looks for further attributes in a `__dict__`.
    """
    origin: Any = get_origin(cls) or cls
    attributes: Any = getattr(origin, "__attrs_attrs__", None)
    if attributes is None or dataclasses.is_dataclass(origin):
        return False
    slots: set[str] = set()
    bases: tuple[Any, ...] = origin.__mro__
    for base in bases:
        own: Any = base.__dict__.get("__slots__", ())
        slots.update([own] if isinstance(own, str) else own)
    public = {name for name in slots if not name.startswith("_")}
    return not public.issubset(each.name for each in attributes)


def _direct_ints(root: inspect.Type) -> tuple[str, ...] | None:
    if not isinstance(root, inspect.StructType | inspect.DataclassType):
        return None
    if hasattr(root.cls, "__post_init__") or hasattr(root.cls, "__attrs_post_init__"):
        # The initialiser may have stored other values in the attributes than those that were read.
        return None
    names: list[str] = []
    for field in root.fields:
        # `int`, `int | None` and constrained integers are direct. `list[int]`, or a struct with
        # integers, needs the full walk.
        kind = field.type.type if isinstance(field.type, inspect.Metadata) else field.type
        members = kind.types if isinstance(kind, inspect.UnionType) else (kind,)
        if any(isinstance(member, inspect.IntType) for member in members):
            names.append(field.name)
        if not all(isinstance(m, inspect.IntType) or _has_no_rules(m) for m in members):
            return None
    return tuple(names) if len(names) <= MAX_DIRECT_INTS else None


def _is_mapping(value: object) -> TypeGuard[Mapping[object, object]]:
    return isinstance(value, Mapping)


def _is_collection(value: object) -> TypeGuard[Collection[object]]:
    return isinstance(value, Sequence | AbstractSet) and not isinstance(value, str | bytes)


def _check(node: inspect.Type, value: object, path: str, skipped: frozenset[int]) -> None:
    if id(node) in skipped:
        return
    match node:
        case inspect.IntType():
            if isinstance(value, int) and not INT64_MIN <= value <= INT64_MAX:
                raise WireFormatError(f"an integer beyond int64 - at `{path}`")
        case inspect.DateTimeType():
            _check_datetime(value, path)
        case inspect.Metadata():
            _check(node.type, value, path, skipped)
        case inspect.UnionType():
            # The value is checked against all members. msgspec allows only one mapping and one
            # sequence in a union, apart from tagged structs, so at most one check applies.
            for member in node.types:
                if not isinstance(member, inspect.StructType) or _is_tagged_as(member, value):
                    _check(member, value, path, skipped)
        case inspect.CollectionType():
            if _is_collection(value):
                for item in value:
                    _check(node.item_type, item, f"{path}[...]", skipped)
        case inspect.TupleType() | inspect.NamedTupleType():
            types = _children(node)
            if _is_collection(value):
                for item_type, item in zip(types, value, strict=False):
                    _check(item_type, item, f"{path}[...]", skipped)
        case inspect.StructType() if node.array_like:
            if _is_collection(value):
                # A tagged array begins with its tag.
                items = list(value)[1:] if node.tag is not None else value
                for field, item in zip(node.fields, items, strict=False):
                    _check(field.type, item, f"{path}[...]", skipped)
        case inspect.StructType() | inspect.DataclassType() | inspect.TypedDictType():
            if _is_mapping(value):
                for field in node.fields:
                    name = field.encode_name
                    if id(field.type) not in skipped and name in value:
                        _check(field.type, value[name], f"{path}.{name}", skipped)
        case _:
            children = _children(node)
            if len(children) == 2 and _is_mapping(value):
                for key, item in value.items():
                    _check_key(children[0], key, path, skipped)
                    _check(children[1], item, f"{path}[...]", skipped)


def _is_tagged_as(node: inspect.StructType, value: object) -> bool:
    if node.tag is None or node.tag_field is None:
        return True
    if _is_mapping(value):
        return bool(value.get(node.tag_field) == node.tag)
    return isinstance(value, list) and value[:1] == [node.tag]


def _check_key(node: inspect.Type, key: object, path: str, skipped: frozenset[int]) -> None:
    # The keys of a JSON object are strings even if the annotation says int.
    if isinstance(key, str) and inspect.IntType in {type(node), *map(type, _children(node))}:
        digits = key.removeprefix("-")
        if digits.isdecimal() and len(digits) < MAX_KEY_DIGITS:
            key = int(key)
    _check(node, key, f"key of {path}", skipped)


def _check_datetime(value: object, path: str) -> None:
    if isinstance(value, str):
        if not _RFC3339.fullmatch(value):
            raise WireFormatError(f"a datetime that is not RFC 3339 with an offset - at `{path}`")
    elif isinstance(value, datetime) and value.utcoffset() is None:
        raise WireFormatError(f"a datetime without an offset - at `{path}`")


def to_json_values(value: Any) -> Any:
    """Return built-in values with each datetime replaced by its text.

    Raises:
        WireFormatError: A number is not finite, or a datetime has no offset.
    """
    kind: Any = value.__class__
    if kind is str or kind is int or value is None or kind is bool:
        return value
    if kind is dict:
        return {key: to_json_values(item) for key, item in value.items()}
    if kind is list or kind is tuple:
        return [to_json_values(item) for item in value]
    if kind is datetime:
        return format_rfc3339(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise WireFormatError(f"JSON has no number {value}")
    elif isinstance(value, datetime):
        return format_rfc3339(value)
    return value


def format_rfc3339(moment: datetime) -> str:
    """Return an aware datetime as Go writes it: RFC 3339 without trailing zeros of the fraction.

    Raises:
        WireFormatError: The datetime has no offset.
    """
    if moment.tzinfo is UTC:
        text = moment.isoformat()[: -len("+00:00")]
        return (text.rstrip("0") if moment.microsecond else text) + "Z"
    offset = moment.utcoffset()
    if offset is None:
        raise WireFormatError(f"the datetime {moment.isoformat()} has no offset")
    if offset.seconds % 60 or offset.microseconds:
        # RFC 3339 has no seconds in an offset. Historical local times do, so they are moved to UTC.
        moment, offset = moment.astimezone(UTC), UTC.utcoffset(None)
    text = moment.replace(tzinfo=None).isoformat()
    if moment.microsecond:
        text = text.rstrip("0")
    if not offset:
        return text + "Z"
    minutes = (offset.days * 86400 + offset.seconds) // 60
    hours, minutes = divmod(abs(minutes), 60)
    return f"{text}{'-' if offset.days < 0 else '+'}{hours:02}:{minutes:02}"
