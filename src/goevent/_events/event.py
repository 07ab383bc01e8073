"""`Event`, the frozen value class that events derive from, and the ad-hoc event.

An event reserves two names, `event_name` and `payload`; every other one is free for fields.
Import direction: this module registers its classes with `_registry`, which does not know it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, overload

import msgspec
from typing_extensions import dataclass_transform

from .names import validate_name
from .registry import EventRegistry, default_registry

RESERVED = ("event_name", "payload")


@dataclass_transform(frozen_default=True, field_specifiers=(msgspec.field,))
class EventMeta(msgspec.StructMeta):
    """Makes `Event` and its subclasses: frozen structs that know their event name."""

    # Type checkers read the class arguments here, and the constructors from dataclass_transform;
    # a __call__ that they saw would hide those.
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

        def __call__(cls, event_name, payload=None, /):  # noqa: N805 - ruff sees no metaclass
            return AdHocEvent(event_name, payload)


class _SubclassMeta(EventMeta):
    if not TYPE_CHECKING:
        # Creating an event must not run Python code; inheriting EventMeta.__call__ would.
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
    if refused := options.keys() & {"frozen", "array_like", "tag", "tag_field", "eq"}:
        raise TypeError(f"{class_name}: an event class takes no option {min(refused)!r}")
    for reserved in RESERVED:
        if reserved in namespace:
            raise TypeError(_reserved(class_name, reserved))
    namespace["event_name"] = "" if name is None else validate_name(name)
    cls: type[Any] = msgspec.StructMeta.__new__(
        _SubclassMeta, class_name, bases, namespace, frozen=True, **options
    )
    for reserved in RESERVED:
        if reserved in cls.__struct_fields__:
            raise TypeError(_reserved(class_name, reserved))
    if name is None:
        if key is not None:
            raise TypeError(f"{class_name}: an event class without a name has no key")
    else:
        into = default_registry if registry is None else registry
        into.register_as(name, cls, key=key)
    return cls


def _reserved(class_name: str, field: str) -> str:
    return (
        f"{class_name}: the name {field!r} is reserved by Event; call the field something else "
        f'and alias it on the wire: {field}_: ... = msgspec.field(name="{field}")'
    )


def _checked_payload(payload: Mapping[str, Any] | None) -> dict[str, Any]:
    if payload is None:
        return {}
    if not isinstance(payload, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"the payload of an event is a mapping, not {type(payload).__name__}")
    for name in payload:
        if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"a payload has str keys, not {name!r}")
    return dict(payload)


# Again, for mypy: it does not look for the transform on the metaclass of a base class of msgspec.
@dataclass_transform(frozen_default=True, field_specifiers=(msgspec.field,))
class Event(msgspec.Struct, metaclass=EventMeta):
    """Derive an event type: a frozen, typed value, compared by its fields.

    ```python
    class UserCreated(Event, name="user.created", key="user_id"):
        user_id: int
    ```

    A subclass without `name=` is abstract: it lends its fields to others, its `event_name` is empty
    and the bus refuses to dispatch it. Only `event_name` and `payload` cannot be fields.
    Called itself, `Event("user.created", {"user_id": 7})` makes an ad-hoc event, which the bus
    validates into the registered type, if there is one, when it is dispatched.

    Class arguments:
        name: the event name; the class is registered under it.
        key: the field that orders and partitions events of this type.
        registry: where to register instead of the default registry.
        Further ones are those of msgspec.Struct: `kw_only`, `rename`, `omit_defaults`,
        `forbid_unknown_fields`, `order`, `gc`, `weakref`, `cache_hash`, `repr_omit_defaults`.

    Raises:
        TypeError: a field has a reserved name; `key` is no field; the ad-hoc payload is no mapping.
        ValueError: the name is not an event name, or belongs to a different class.
    """

    event_name: ClassVar[str] = ""

    if TYPE_CHECKING:
        # What calling Event itself takes; subclasses get theirs from dataclass_transform, save that
        # mypy gives none to a class without fields: the first form is theirs.
        @overload
        def __init__(self) -> None: ...

        @overload
        def __init__(
            self, event_name: str, payload: Mapping[str, Any] | None = None, /
        ) -> None: ...

        def __init__(self, *args: Any) -> None: ...

    def payload(self) -> dict[str, Any]:
        """Return the fields under their Python names, one level deep: values are not copied."""
        return msgspec.structs.asdict(self)


class AdHocEvent(Event, metaclass=_AdHocMeta):
    """The event that `Event(name, payload)` makes: no type of its own, only a name and a dict."""

    if not TYPE_CHECKING:
        event_name: str
        fields: dict[str, Any]

    def payload(self) -> dict[str, Any]:
        """Return a copy of the payload, one level deep."""
        fields: dict[str, Any] = getattr(self, "fields")  # noqa: B009 - hidden from type checkers
        return fields.copy()
