"""`Event`, the frozen base class of events, and the ad-hoc event.

`Event` reserves two names, `event_name` and `payload`; all other names are free for fields. A named
subclass registers itself with `registry`, which in turn does not depend on this module.

Three metaclasses share the work. `EventMeta` belongs to `Event` itself: calling `Event(...)` makes
an ad-hoc event, and subclassing it makes an event type. `_SubclassMeta` belongs to all event types:
it restores the constructor of msgspec, which is written in C, so that making an event runs no
Python code. `_AdHocMeta` belongs to the one class of ad-hoc events and validates their arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Union, overload

import msgspec
from typing_extensions import dataclass_transform

from .._suggestions import did_you_mean
from .event_types import AttrsEvent, DataclassEvent, PydanticEvent
from .names import validate_name
from .registry import EventRegistry, check_registry, default_registry

RESERVED_NAMES = ("event_name", "payload")
MISSING: Any = object()
CLASS_OPTIONS = (
    *("name", "key", "registry", "kw_only", "rename", "omit_defaults", "forbid_unknown_fields"),
    *("order", "gc", "weakref", "dict", "cache_hash", "repr_omit_defaults"),
)
REFUSED_OPTIONS = {"frozen", "array_like", "tag", "tag_field", "eq"}


@dataclass_transform(frozen_default=True, field_specifiers=(msgspec.field,))
class EventMeta(msgspec.StructMeta):
    """The metaclass of `Event`. It makes the subclasses as frozen structs with an event name."""

    # Type checkers take the class arguments from this signature, and the constructors from
    # dataclass_transform. A visible `__call__` would hide these constructors from them.
    if TYPE_CHECKING:

        def __new__(
            mcls,
            class_name: str,
            bases: tuple[type, ...],
            namespace: dict[str, Any],
            /,
            *,
            name: str | None = None,
            key: str | None = None,
            registry: EventRegistry | None = None,
            kw_only: bool = False,
            rename: str | Callable[[str], str | None] | Mapping[str, str] | None = None,
            omit_defaults: bool = False,
            forbid_unknown_fields: bool = False,
            order: bool = False,
            gc: bool = True,
            weakref: bool = False,
            cache_hash: bool = False,
            repr_omit_defaults: bool = False,
        ) -> type[Any]: ...

    else:

        def __new__(mcls, class_name, bases, namespace, /, **options):
            if bases == (msgspec.Struct,):
                return super().__new__(mcls, class_name, bases, namespace, frozen=True)
            return _new_event_type(class_name, bases, namespace, **options)

        def __call__(cls, event_name=MISSING, payload=None, /, **fields):  # noqa: N805 - a metaclass
            if event_name is MISSING or fields:
                raise TypeError(
                    'Event takes a name and a payload: Event("order.paid", {"order_id": 7})'
                )
            return AdHocEvent(event_name, payload)


class _SubclassMeta(EventMeta):
    if not TYPE_CHECKING:
        # Making an event must not run Python code, as the inherited `EventMeta.__call__` would.
        __call__ = msgspec.StructMeta.__call__


class _AdHocMeta(_SubclassMeta):
    if not TYPE_CHECKING:

        def __new__(mcls, name, bases, namespace, /):
            return msgspec.StructMeta.__new__(mcls, name, bases, namespace, frozen=True)

        def __call__(cls, event_name, payload=None, /):  # noqa: N805 - ruff sees no metaclass
            return super().__call__(validate_name(event_name), _checked_payload(payload))


def _new_event_type(
    class_name: str,
    bases: tuple[type, ...],
    namespace: dict[str, Any],
    *,
    name: str | None = None,
    key: str | None = None,
    registry: EventRegistry | None = None,
    **options: Any,
) -> type[Any]:
    if refused := options.keys() & REFUSED_OPTIONS:
        raise TypeError(f"{class_name}: an event class has no option {min(refused)!r}")
    if unknown := options.keys() - CLASS_OPTIONS:
        option = min(unknown)
        hint = did_you_mean(option, CLASS_OPTIONS)
        raise TypeError(f"{class_name}: an event class has no option {option!r}{hint}")
    for reserved in RESERVED_NAMES:
        if reserved in namespace:
            raise TypeError(_explain_reserved(class_name, reserved))
    namespace["event_name"] = "" if name is None else validate_name(name)
    cls: type[Any] = msgspec.StructMeta.__new__(
        _SubclassMeta, class_name, bases, namespace, frozen=True, **options
    )
    for reserved in RESERVED_NAMES:
        if reserved in cls.__struct_fields__:
            raise TypeError(_explain_reserved(class_name, reserved))
    if name is None:
        if key is not None:
            raise TypeError(f"{class_name}: an event class without a name has no key")
    else:
        target = default_registry if registry is None else check_registry(registry)
        target.register_as(name, cls, key=key)
    return cls


def _explain_reserved(class_name: str, field: str) -> str:
    return (
        f"{class_name}: the name {field!r} is reserved by Event; give the field another name "
        f'and alias it on the wire: {field}_: ... = msgspec.field(name="{field}")'
    )


def _checked_payload(payload: Mapping[str, Any] | None) -> dict[str, Any]:
    if payload is None:
        return {}
    if not isinstance(payload, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"the payload of an event is a mapping, not {type(payload).__name__}")
    for name in payload:
        if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"the keys of a payload are str, not {name!r}")
    return dict(payload)


# The transform is repeated for mypy, which does not look for it on a metaclass here.
@dataclass_transform(frozen_default=True, field_specifiers=(msgspec.field,))
class Event(msgspec.Struct, metaclass=EventMeta):
    """The base class of event types: frozen, typed values that are compared by their fields.

    Derive a class with `name=` to define an event type. A subclass without `name=` is abstract: its
    subclasses inherit its fields, its `event_name` is empty, and the bus refuses to dispatch it.
    All names except `event_name` and `payload` may be fields.

    `Event` itself can be called with a name and a payload. This makes an ad-hoc event. If a type is
    registered under the name, the bus validates the payload into that type when the event is
    dispatched.

    Example:
        >>> class UserCreated(Event, name="user.created", key="user_id"):
        ...     user_id: int
        >>> UserCreated(user_id=7).payload()
        {'user_id': 7}
        >>> Event("user.created", {"user_id": 7}).event_name
        'user.created'

    Class arguments:
        name: The event name. The class is registered under it.
        key: The field that orders and partitions events of this type.
        registry: The registry to use in place of the default one.
        kw_only, rename, omit_defaults, forbid_unknown_fields, order, gc, weakref, cache_hash,
            repr_omit_defaults: As in `msgspec.Struct`.

    Raises:
        TypeError: A field has a reserved name, `key` is not a field, or the payload of an ad-hoc
            event is not a mapping.
        ValueError: The name is not an event name, or belongs to a different class.
    """

    event_name: ClassVar[str] = ""

    if TYPE_CHECKING:
        # The signature of calling `Event` itself. Subclasses get theirs from dataclass_transform,
        # except that mypy gives none to a class without fields: the first overload is for these.
        @overload
        def __init__(self) -> None: ...

        @overload
        def __init__(
            self, event_name: str, payload: Mapping[str, Any] | None = None, /
        ) -> None: ...

        def __init__(self, *args: Any) -> None: ...

    def payload(self) -> dict[str, Any]:
        """Return the fields under their Python names, one level deep. Values are not copied."""
        return msgspec.structs.asdict(self)


class AdHocEvent(Event, metaclass=_AdHocMeta):
    """An event made by `Event(name, payload)`. It has no own type, only a name and a dict."""

    if not TYPE_CHECKING:
        event_name: str
        fields: dict[str, Any]

    def payload(self) -> dict[str, Any]:
        """Return a copy of the payload, one level deep."""
        fields: dict[str, Any] = getattr(self, "fields")  # noqa: B009 - hidden from type checkers
        return fields.copy()


AnyEvent = Union[Event, msgspec.Struct, DataclassEvent, AttrsEvent, PydanticEvent]  # noqa: UP007
"""The type of the objects that can be dispatched: instances of all kinds of event classes.

Type checkers refuse names, classes and other values by it. They cannot see whether the class of an
event is registered; the bus checks that.
"""
