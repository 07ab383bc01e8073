"""The registry: which class stands behind an event name, and how old versions become new ones.

It recognises event classes by what they have (see `_kinds`), so it knows nothing of `Event`.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar, overload

import msgspec

from .._errors import DecodeError, GoEventError
from .event_types import (
    ACCEPTED,
    AD_HOC,
    PYDANTIC,
    Kind,
    describe,
    is_event_type,
    kind_of,
    own_name,
    python_to_wire,
)
from .names import validate_name
from .value_rules import Rules, convert

T = TypeVar("T")
Old = TypeVar("Old")
New = TypeVar("New")


class UnknownEventError(GoEventError, LookupError):
    """No class is registered under the event name."""


class EventRegistry:
    """Maps event names to classes.

    A name belongs to one class. The same class defined again (a reload, a notebook cell, a function
    called twice: the same module and qualified name) replaces the older one silently; the older one
    keeps its name, so that its live instances can still be dispatched.

    Not locked: registration belongs to import time, or to the thread of the bus.
    """

    def __init__(self) -> None:
        self._types: dict[str, type[Any]] = {}
        self._names: dict[type[Any], str] = {}
        self._keys: dict[type[Any], str] = {}
        self._kinds: dict[type[Any], Kind] = {}
        self._rules: dict[type[Any], Rules] = {}
        self._upcasts: dict[type[Any], tuple[type[Any], Callable[[Any], Any]]] = {}

    def register(self, cls: type[T]) -> type[T]:
        """Register a class under the `event_name` it states.

        Raises:
            TypeError: the class states no event name, or cannot be an event type.
            ValueError: the name belongs to a different class.
        """
        name = own_name(cls)
        if not name:
            raise TypeError(f"{describe(cls)} states no event_name; register it as one by name")
        return self.register_as(name, cls)

    def register_as(self, name: str, cls: type[T], *, key: str | None = None) -> type[T]:
        """Register a class under a name; a class may have several, its first one is `name_of`.

        Args:
            key: the field that orders and partitions events of this type.

        Raises:
            TypeError: the class cannot be an event type, or has no field called `key`.
            ValueError: the name is not an event name, or belongs to a different class.
        """
        validate_name(name)
        kind = _accepted(cls)
        if key is not None and key not in kind.fields(cls):
            raise TypeError(f"{describe(cls)} has no field {key!r} that could be its key")
        taken = self._types.get(name)
        if taken is not None and taken is not cls and describe(taken) != describe(cls):
            raise ValueError(
                f"event name {name!r} belongs to {describe(taken)}, not to {describe(cls)}"
            )
        if is_event_type(cls) and not own_name(cls):
            _name_abstract(cls, name)
        self._types[name] = cls
        # An alias of an event class is for decoding; its instances go by their own name.
        self._names.setdefault(cls, (is_event_type(cls) and own_name(cls)) or name)
        self._kinds[cls] = kind
        if key is not None:
            self._keys[cls] = key
        return cls

    def is_registered(self, name: str) -> bool:
        """Tell whether a class stands behind the name."""
        return name in self._types

    def type_of(self, name: str) -> type[Any] | None:
        """Return the class behind a name."""
        return self._types.get(name)

    def name_of(self, cls: type[Any]) -> str | None:
        """Return the event name of exactly this class, not of its bases."""
        return self._names.get(cls)

    def key_of(self, cls: type[Any]) -> str | None:
        """Return the field that orders and partitions events of exactly this class."""
        return self._keys.get(cls)

    def names(self) -> tuple[str, ...]:
        """Return the registered names, oldest first."""
        return tuple(self._types)

    def __contains__(self, name: object) -> bool:
        return name in self._types

    def __len__(self) -> int:
        return len(self._types)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def create(self, name: str, payload: Mapping[str, Any] | None = None) -> Any:
        """Return a validated instance of the class behind a name.

        The payload may use Python names or the names on the wire. An old version stays what it is;
        `upgrade` makes the newest of it.

        Raises:
            UnknownEventError: nothing is registered under the name (a LookupError).
            DecodeError: the payload does not fit the class.
        """
        cls = self._types.get(name)
        if cls is None:
            raise UnknownEventError(f"no event type is registered as {name!r}")
        data: Mapping[str, Any] = {} if payload is None else payload
        if not isinstance(data, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise DecodeError(name, f"the payload is {type(data).__name__}, not a mapping")
        try:
            if self._kinds[cls] is PYDANTIC:
                return cls.model_validate(dict(data))
            rules = self._rules.get(cls)
            if rules is None:
                rules = self._rules[cls] = Rules.of(cls)
            return convert(python_to_wire(cls, data), cls, rules)
        except Exception as error:
            seen = ascii(reprlib.repr(data))[1:-1][:120]
            raise DecodeError(name, str(error) or type(error).__name__, excerpt=seen) from error

    def payload_of(self, event: object) -> dict[str, Any]:
        """Return the fields of any supported event under their Python names, one level deep.

        Raises:
            TypeError: the object is not of a kind that can be an event.
        """
        cls = type(event)
        return (self._kinds.get(cls) or kind_of(cls) or _accepted(cls)).payload(event)

    @overload
    def upcast(
        self, old: type[Old], *, to: type[New]
    ) -> Callable[[Callable[[Old], New]], Callable[[Old], New]]: ...

    @overload
    def upcast(
        self, old: str, *, to: type[New]
    ) -> Callable[[Callable[[Any], New]], Callable[[Any], New]]: ...

    def upcast(
        self, old: type[Any] | str, *, to: type[Any]
    ) -> Callable[[Callable[[Any], Any]], Callable[[Any], Any]]:
        """Register, as a decorator, the function that makes a new version of an old event.

        What a decoder reads as the old version reaches listeners as the newest one, under the
        *new* class's event name if the two differ: to listeners it is an event of the new class.

        Raises:
            LookupError: `old` is a name that nobody registered.
            ValueError: the versions would go round in a circle, or `old` has another successor.
        """
        if isinstance(old, str):
            cls = self._types.get(old)
            if cls is None:
                raise UnknownEventError(f"no event type is registered as {old!r}")
        else:
            cls = old
        _accepted(cls)
        _accepted(to)

        def register(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
            self._refuse_circle(cls, to)
            known = self._upcasts.get(cls)
            if known is not None and describe(known[0]) != describe(to):
                raise ValueError(f"{describe(cls)} is already upcast to {describe(known[0])}")
            self._upcasts[cls] = (to, function)
            return function

        return register

    def upgrade(self, event: Any) -> Any:
        """Return the newest version of an event, by every upcast in turn; often the event itself.

        Raises:
            TypeError: an upcast returned something else than it promised. What an upcast raises
                leaves as itself.
        """
        upcasts = self._upcasts
        while (step := upcasts.get(event.__class__)) is not None:
            to, function = step
            upgraded = function(event)
            cls: Any = event.__class__
            if not isinstance(upgraded, to) or type(upgraded) is cls:
                raise TypeError(
                    f"the upcast of {describe(cls)} returned a "
                    f"{type(upgraded).__name__}, not a {describe(to)}"
                )
            event = upgraded
        return event

    def _refuse_circle(self, old: type[Any], new: type[Any]) -> None:
        path = [old]
        following: type[Any] | None = new
        while following is not None:
            path.append(following)
            if following is old:
                circle = " -> ".join(describe(cls) for cls in path)
                raise ValueError(f"upcasts would go round in a circle: {circle}")
            step = self._upcasts.get(following)
            following = None if step is None else step[0]


def _name_abstract(cls: type[Any], name: str) -> None:
    if cls.__mro__[1] is msgspec.Struct:
        raise TypeError(f"{describe(cls)} is what events derive from, not an event type")
    cls.event_name = name


def _accepted(cls: type[Any]) -> Kind:
    kind = kind_of(cls) if isinstance(cls, type) else None  # pyright: ignore[reportUnnecessaryIsInstance]
    if kind is None or kind is AD_HOC:
        shown = describe(cls) if isinstance(cls, type) else repr(cls)  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"{shown} cannot be an event type: it takes {ACCEPTED}")
    config = getattr(cls, "__struct_config__", None)
    if config is not None and config.array_like:
        raise TypeError(f"{describe(cls)} is array_like; an event is an object on the wire")
    return kind


# The one global: events register when their module is imported, long before there is a bus.
default_registry: EventRegistry = EventRegistry()


@overload
def register_event_type(
    cls: type[T],
    *,
    name: str | None = None,
    key: str | None = None,
    registry: EventRegistry | None = None,
) -> type[T]: ...


@overload
def register_event_type(
    *, name: str | None = None, key: str | None = None, registry: EventRegistry | None = None
) -> Callable[[type[T]], type[T]]: ...


def register_event_type(
    cls: type[T] | None = None,
    *,
    name: str | None = None,
    key: str | None = None,
    registry: EventRegistry | None = None,
) -> type[T] | Callable[[type[T]], type[T]]:
    """Make a class an event type, directly or as a decorator, as Go's RegisterEventTypeAs.

    Args:
        name: the event name, if the class states none in `event_name`.
        key: the field that orders and partitions events of this type.

    Raises:
        TypeError: the class cannot be an event type, or has no name, or no field called `key`.
        ValueError: the name is not an event name, or belongs to a different class.
    """
    into = default_registry if registry is None else registry

    def register(cls: type[T]) -> type[T]:
        if name is None and key is None:
            return into.register(cls)
        known = own_name(cls) if name is None else name
        if not known:
            raise TypeError(f"{describe(cls)} states no event_name; register it with name=")
        return into.register_as(known, cls, key=key)

    return register if cls is None else register(cls)


@overload
def upcast(
    old: type[Old], *, to: type[New]
) -> Callable[[Callable[[Old], New]], Callable[[Old], New]]: ...


@overload
def upcast(
    old: str, *, to: type[New]
) -> Callable[[Callable[[Any], New]], Callable[[Any], New]]: ...


def upcast(
    old: type[Any] | str, *, to: type[Any]
) -> Callable[[Callable[[Any], Any]], Callable[[Any], Any]]:
    """Register an upcast in the default registry; see `EventRegistry.upcast`."""
    return default_registry.upcast(old, to=to)
