"""The registry: maps event names to classes, and old versions of events to new ones.

`Event` registers its subclasses here when they are defined, `register_event_type` registers other
classes. The dispatcher asks for the name of an event's class, and the codecs ask for the class of a
name. The registry recognises event classes by their attributes (see `event_types`), so it does not
depend on `Event`.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar, overload

import msgspec

from .._errors import DecodeError, GoEventError
from .._suggestions import did_you_mean, suggest_options
from .event_types import (
    AD_HOC,
    PYDANTIC,
    SUPPORTED_CLASSES,
    EventTypeAdapter,
    adapter_of,
    describe_class,
    is_event_class,
    own_name,
    python_to_wire,
)
from .names import not_a_name, validate_name
from .value_rules import ValueRules, convert

MAX_EXCERPT_CHARS = 120

T = TypeVar("T")
Old = TypeVar("Old")
New = TypeVar("New")


class UnknownEventError(GoEventError, LookupError):
    """No class is registered under the event name."""


@suggest_options
class EventRegistry:
    """Maps event names to classes.

    A name belongs to one class. If the same class is defined again (by a reload, a notebook cell or
    a function that is called twice), the new definition replaces the old one silently. Two classes
    are the same if their module and qualified name are equal. The old definition keeps its name, so
    its live instances can still be dispatched.

    An event whose name has no class is an ad-hoc event: a name and a dict. A strict registry
    refuses such events, where they are dispatched and where they arrive.

    The registry is not locked. Register classes at import time or on the thread of the bus.

    Args:
        strict: True to refuse events whose name has no class.

    Example:
        >>> registry = EventRegistry()
        >>> class OrderPaid(Event, name="order.paid", registry=registry):
        ...     order_id: int
        >>> registry.create("order.paid", {"order_id": 7})
        OrderPaid(order_id=7)
    """

    def __init__(self, *, strict: bool = False) -> None:
        self._strict = strict
        self._types: dict[str, type[Any]] = {}
        self._names: dict[type[Any], str] = {}
        self._keys: dict[type[Any], str] = {}
        self._adapters: dict[type[Any], EventTypeAdapter] = {}
        self._rules: dict[type[Any], ValueRules] = {}
        self._upcasts: dict[type[Any], tuple[type[Any], Callable[[Any], Any]]] = {}
        # An attribute, because the codecs ask for each event.
        self.has_upcasts = False
        self.redefined: int = 0  # how often a name got another class than before

    def register(self, cls: type[T]) -> type[T]:
        """Register a class under the name in its attribute `event_name`, and return the class.

        Raises:
            TypeError: The class has no event name, or cannot be an event type.
            ValueError: The name belongs to a different class.
        """
        _require_adapter(cls)
        name = own_name(cls)
        if not name:
            raise TypeError(
                f"{describe_class(cls)} has no event_name; register it under a name with "
                "register_as(name, cls)"
            )
        return self.register_as(name, cls)

    def register_as(self, name: str, cls: type[T], *, key: str | None = None) -> type[T]:
        """Register a class under a name, and return the class.

        A class may have several names. Its instances are dispatched under the first one, which
        `name_of` returns; the others are used for decoding only. So a listener of another name has
        to listen to the first one, too.

        Args:
            name: The event name.
            cls: The class.
            key: The field that orders and partitions events of this class.

        Raises:
            TypeError: The class cannot be an event type, or has no field called `key`.
            ValueError: The name is not an event name, or belongs to a different class.
        """
        validate_name(name)
        adapter = _require_adapter(cls)
        if key is not None and key not in adapter.fields(cls):
            hint = did_you_mean(key, adapter.fields(cls))
            raise TypeError(f"{describe_class(cls)} has no field {key!r} to be its key{hint}")
        # The same module and qualified name mean that the class was defined again.
        taken = self._types.get(name)
        if taken is not None and taken is not cls and describe_class(taken) != describe_class(cls):
            raise ValueError(
                f"event name {name!r} belongs to {describe_class(taken)}, "
                f"not to {describe_class(cls)}"
            )
        if is_event_class(cls) and not own_name(cls):
            _name_abstract(cls, name)
        self.redefined += taken is not None and taken is not cls
        self._types[name] = cls
        # A further name of an `Event` class is for decoding only. Its instances have their own
        # name.
        self._names.setdefault(cls, (is_event_class(cls) and own_name(cls)) or name)
        self._adapters[cls] = adapter
        if key is not None:
            self._keys[cls] = key
        return cls

    @property
    def strict(self) -> bool:
        """True if the registry refuses events whose name has no class."""
        return self._strict

    def is_registered(self, name: str) -> bool:
        """Tell whether a class is registered under a name."""
        return name in self._types

    def type_of(self, name: str) -> type[Any] | None:
        """Return the class that is registered under a name, or None."""
        return self._types.get(name)

    def name_of(self, cls: type[Any]) -> str | None:
        """Return the event name of exactly this class, or None. Base classes do not count."""
        return self._names.get(cls)

    def key_of(self, cls: type[Any]) -> str | None:
        """Return the key field of exactly this class, or None. Base classes do not count."""
        return self._keys.get(cls)

    def names(self) -> tuple[str, ...]:
        """Return the registered names in the order of registration."""
        return tuple(self._types)

    def __contains__(self, name: object) -> bool:
        return name in self._types

    def __len__(self) -> int:
        return len(self._types)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def create(self, name: str, payload: Mapping[str, Any] | None = None) -> Any:
        """Return a validated instance of the class that is registered under a name.

        The payload may use the Python names of the fields or their names on the wire. An old
        version of an event is not upcast; call `upgrade` for that.

        Raises:
            UnknownEventError: No class is registered under the name (a LookupError).
            DecodeError: The payload does not fit the class.
        """
        cls = self._class_of(name)
        data: Mapping[str, Any] = {} if payload is None else payload
        if not isinstance(data, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise DecodeError(name, f"the payload is a {type(data).__name__}, not a mapping")
        try:
            # msgspec does not know pydantic models, and pydantic has rules of its own.
            if self._adapters[cls] is PYDANTIC:
                return cls.model_validate(dict(data))
            rules = self._rules.get(cls)
            if rules is None:
                rules = self._rules[cls] = ValueRules.of(cls)
            return convert(python_to_wire(cls, data), cls, rules)
        except Exception as error:
            excerpt = ascii(reprlib.repr(data))[1:-1][:MAX_EXCERPT_CHARS]
            raise DecodeError(name, str(error) or type(error).__name__, excerpt=excerpt) from error

    def unknown(self, name: str) -> UnknownEventError:
        """Return the error for an event name without a class."""
        hint = did_you_mean(name, self._types)
        return UnknownEventError(f"no event type is registered as {name!r}{hint}")

    def payload_of(self, event: object) -> dict[str, Any]:
        """Return the fields of an event under their Python names, one level deep.

        This works for all supported classes. Values are not copied.

        Raises:
            TypeError: The class of the object cannot be an event type.
        """
        cls = type(event)
        # `_require_adapter` refuses the class of ad-hoc events, which does have a payload.
        adapter = self._adapters.get(cls) or adapter_of(cls) or _require_adapter(cls)
        return adapter.payload(event)

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
        """Register the decorated function as the conversion from an old version to a new one.

        When a codec decodes an event of the old version, the listeners get the newest version. If
        the two classes have different event names, the listeners of the *new* name get it.

        Example:
            >>> registry = EventRegistry()
            >>> class PaidV1(Event, name="order.paid", registry=registry):
            ...     total: int
            >>> class PaidV2(Event, name="order.paid.v2", registry=registry):
            ...     cents: int
            >>> @registry.upcast(PaidV1, to=PaidV2)
            ... def to_v2(old: PaidV1) -> PaidV2:
            ...     return PaidV2(cents=100 * old.total)
            >>> registry.upgrade(PaidV1(total=3))
            PaidV2(cents=300)

        Args:
            old: The class of the old version, or its registered name.
            to: The class of the new version.

        Raises:
            LookupError: `old` is a name that is not registered.
            ValueError: The upcasts would form a cycle, or `old` has another successor already.
        """
        cls = self._class_of(old) if isinstance(old, str) else old
        _require_adapter(cls)
        _require_adapter(to)

        def register(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
            if not callable(function):
                raise TypeError(f"an upcast is a function of the old event, not {function!r}")
            self._refuse_cycle(cls, to)
            known = self._upcasts.get(cls)
            if known is not None and describe_class(known[0]) != describe_class(to):
                raise ValueError(
                    f"{describe_class(cls)} is already upcast to {describe_class(known[0])}"
                )
            self._upcasts[cls] = (to, function)
            self.has_upcasts = True
            return function

        return register

    def upgrade(self, event: Any) -> Any:
        """Return the newest version of an event, by applying the upcasts one after another.

        An event without an upcast is returned as it is. An exception of an upcast is not wrapped.

        Raises:
            TypeError: An upcast returned an object that is not of its target class.
        """
        # `upcast` has refused cycles, so this ends.
        upcasts = self._upcasts
        while (step := upcasts.get(event.__class__)) is not None:
            to, function = step
            upgraded = function(event)
            cls: Any = event.__class__
            if not isinstance(upgraded, to) or type(upgraded) is cls:
                raise TypeError(
                    f"the upcast of {describe_class(cls)} returned a "
                    f"{type(upgraded).__name__}, not a {describe_class(to)}"
                )
            event = upgraded
        return event

    def _class_of(self, name: str) -> type[Any]:
        """Return the class that is registered under a name.

        Raises:
            TypeError: The name is not a str.
            UnknownEventError: There is none.
        """
        if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise not_a_name(name)
        cls = self._types.get(name)
        if cls is None:
            raise self.unknown(name)
        return cls

    def _refuse_cycle(self, old: type[Any], new: type[Any]) -> None:
        path = [old]
        following: type[Any] | None = new
        while following is not None:
            path.append(following)
            if following is old:
                cycle = " -> ".join(describe_class(cls) for cls in path)
                raise ValueError(f"the upcasts would form a cycle: {cycle}")
            step = self._upcasts.get(following)
            following = None if step is None else step[0]


def check_registry(registry: EventRegistry) -> EventRegistry:
    """Return a registry.

    Raises:
        TypeError: It is another object.
    """
    if not isinstance(registry, EventRegistry):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"registry must be an EventRegistry, not {registry!r}")
    return registry


def _name_abstract(cls: type[Any], name: str) -> None:
    if cls.__mro__[1] is msgspec.Struct:
        raise TypeError(f"{describe_class(cls)} is the base class of events, not an event type")
    cls.event_name = name


def _require_adapter(cls: type[Any]) -> EventTypeAdapter:
    adapter = adapter_of(cls) if isinstance(cls, type) else None  # pyright: ignore[reportUnnecessaryIsInstance]
    if adapter is None or adapter is AD_HOC:
        shown = describe_class(cls) if isinstance(cls, type) else repr(cls)  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"{shown} cannot be an event type; use {SUPPORTED_CLASSES}")
    config = getattr(cls, "__struct_config__", None)
    if config is not None and config.array_like:
        raise TypeError(f"{describe_class(cls)} is array_like; an event is an object on the wire")
    return adapter


# The one global object of the package. Events are registered when their module is imported, which
# is before any bus exists.
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


@suggest_options
def register_event_type(
    cls: type[T] | None = None,
    *,
    name: str | None = None,
    key: str | None = None,
    registry: EventRegistry | None = None,
) -> type[T] | Callable[[type[T]], type[T]]:
    """Register a class as an event type, directly or as a decorator, as Go's RegisterEventTypeAs.

    Use it for dataclasses, attrs classes, msgspec structs and pydantic models. Subclasses of
    `Event` register themselves.

    Example:
        >>> @register_event_type(name="user.renamed", key="user_id")
        ... @dataclass(frozen=True)
        ... class UserRenamed:
        ...     user_id: int
        ...     new_name: str

    Args:
        cls: The class; without it, the call returns a decorator.
        name: The event name, if the class has no attribute `event_name`.
        key: The field that orders and partitions events of this class.
        registry: The registry to use in place of the default one.

    Raises:
        TypeError: The class cannot be an event type, has no name, or has no field called `key`.
        ValueError: The name is not an event name, or belongs to a different class.
    """
    target = default_registry if registry is None else check_registry(registry)
    if isinstance(cls, str):
        raise TypeError(f"write register_event_type(name={cls!r}): the name goes by keyword")

    def register(cls: type[T]) -> type[T]:
        if name is None and key is None:
            return target.register(cls)
        known = own_name(cls) if name is None else name
        if not known:
            raise TypeError(f"{describe_class(cls)} has no event_name; register it with name=")
        return target.register_as(known, cls, key=key)

    return register if cls is None else register(cls)


@overload
def upcast(
    old: type[Old], *, to: type[New]
) -> Callable[[Callable[[Old], New]], Callable[[Old], New]]: ...


@overload
def upcast(
    old: str, *, to: type[New]
) -> Callable[[Callable[[Any], New]], Callable[[Any], New]]: ...


@suggest_options
def upcast(
    old: type[Any] | str, *, to: type[Any]
) -> Callable[[Callable[[Any], Any]], Callable[[Any], Any]]:
    """Register the decorated function as an upcast in the default registry.

    Example:
        >>> class Moved(Event, name="user.moved"):
        ...     town: str
        >>> class MovedV2(Event, name="user.moved.v2"):
        ...     address: str
        >>> @upcast(Moved, to=MovedV2)
        ... def moved_to_v2(old: Moved) -> MovedV2:
        ...     return MovedV2(address=old.town)

    Args:
        old: The class of the old version, or its registered name.
        to: The class of the new version.

    Raises:
        LookupError: `old` is a name that is not registered.
        ValueError: The upcasts would form a cycle, or `old` has another successor already.
    """
    return default_registry.upcast(old, to=to)
