"""The coders: an encoder and a decoder for each event class, prepared once.

A codec makes them for the classes that it meets. They know the facts that follow from the class
alone: the greatest depth of its events, and the values that need a look before or after msgspec.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from typing import Any

import msgspec

from .._events.event import AdHocEvent
from .._events.event_types import (
    PYDANTIC,
    SUPPORTED_CLASSES,
    EventTypeAdapter,
    adapter_of,
    describe_class,
)
from .._events.round_trip import check_same, check_same_model, is_complete
from .._events.type_check import TypeCheck, make_pydantic_type_check, make_type_check
from .._events.value_rules import (
    INT64_MAX,
    INT64_MIN,
    ValueRules,
    WireFormatError,
    to_json_values,
)
from .byte_bounds import has_int64_run, has_loose_datetime
from .envelope import Envelope, envelope_of

_DATETIME = re.compile(rb"-\d\dT\d\d:")
# Pydantic models and ad-hoc events have no annotations that msgspec can read.
_UNTYPED = ValueRules.of(dict[str, Any])


def _always(event: object) -> bool:
    """Be the type check of ad-hoc events, which have no annotations."""
    return True


def model_values(model: Any) -> dict[str, Any]:
    """Return the values of a pydantic model, one level deep, for msgspec to write."""
    values: dict[str, Any] = model.__dict__
    # Since pydantic 2.10, `model_fields` is a property, which takes ten times as long.
    cls: Any = model.__class__
    fields = getattr(cls, "__pydantic_fields__", None) or cls.model_fields
    # A cached property is kept there, too.
    return values if len(values) == len(fields) else {name: values[name] for name in fields}


class EventEncoder:
    """Prepares the events of one class for writing. A codec makes one for each class it meets.

    Attributes:
        rules: The rules for the values of the class.
        body: Returns the object to write for an event.
        native: True if this object is the event itself.
        single_pass: True if the events may be written without a look at each value first.
        is_direct: True if an event that passes the type check is within all limits but that of the
            size, and msgspec writes it as Go does.
        is_dated: True if the same holds for an event whose datetimes are in UTC and have a fraction
            without trailing zeros, or none.
        is_model: True for pydantic models. The values of one that passes the type check are written
            as they are.
        has_exact_types: The type check; see `_events/type_check`.

    Args:
        cls: The class.
        max_levels: The most levels of objects and lists that an event may have, its own included.
    """

    def __init__(self, cls: type[Any], *, max_levels: int = 0) -> None:
        adapter = adapter_of(cls)
        if adapter is None:
            raise WireFormatError(
                f"{describe_class(cls)} is not an event class; use {SUPPORTED_CLASSES}"
            )
        self.adapter: EventTypeAdapter = adapter
        self.body = adapter.body
        self.native = adapter.native
        self.rules = ValueRules.of(cls) if adapter.native else _UNTYPED
        self.has_exact_types: TypeCheck = _always
        if adapter is PYDANTIC:
            self.has_exact_types = make_pydantic_type_check(cls)
        elif adapter.native:
            self.has_exact_types = make_type_check(self.rules.root)
        self._nullable = self.rules.floats or self.rules.untyped
        self._direct_ints = self.rules.direct_ints or ()
        self._deep_ints = self.rules.direct_ints is None
        self._needs_scan = self._deep_ints or self._nullable
        # msgspec writes the trailing zeros of a fraction, which Go trims. So other datetimes take
        # the slow path.
        self.single_pass = not (adapter.native and self.rules.datetimes)
        levels = self.rules.levels
        is_bounded = adapter.native and levels is not None and levels <= max_levels
        self.is_direct = is_bounded and self.single_pass
        self.is_dated = is_bounded and not self.single_pass
        self.is_model = adapter is PYDANTIC

    def needs_check(self, event: Any, data: bytes) -> bool:
        """Tell whether the written bytes may contain a value that msgspec should have refused."""
        # The same loop as in `ValueRules.direct_ints_fit`, repeated on purpose: this is the hot
        # path of every publish, and a call would cost more than the loop.
        for name in self._direct_ints:
            # A dataclass need not have set the attribute.
            number = getattr(event, name, None)
            if isinstance(number, int) and not INT64_MIN <= number <= INT64_MAX:
                return True
        # msgspec writes NaN and the infinities as null.
        return self._needs_scan and (
            (self._deep_ints and has_int64_run(data))
            or (self._nullable and data.find(b"null") >= 0 and _may_have_nan(event))
            or (self.rules.untyped and _DATETIME.search(data) is not None)
        )

    def can_be_read(self, event: Any) -> bool:
        """Tell whether an event has a value for each field that readers require."""
        return not self.native or is_complete(self.rules.root, event)

    def check_same(self, event: Any, read: Any) -> None:
        """Compare an event with the one that was read from its bytes.

        Raises:
            WireFormatError: A value is not the same.
        """
        if self.native:
            check_same(self.rules.root, event, read)
        else:
            check_same_model(event, read)

    def checked_body(self, event: Any, *, kept: tuple[type[Any], ...] = (datetime,)) -> Any:
        """Return built-in values for an event, after a look at each of them.

        Args:
            event: The event.
            kept: The types that are passed through in addition to the JSON types. The format has
                them, or they are converted here.

        Raises:
            WireFormatError: The event has a value that cannot be written.
        """
        body = self.body(event)
        text_only = bytes not in kept
        try:
            plain = msgspec.to_builtins(body, builtin_types=kept, str_keys=text_only)
        except TypeError:
            if self.adapter is not PYDANTIC:
                raise
            # Only pydantic can write some of its values, such as its URLs.
            to_json_values(body)
            plain = event.model_dump(mode="json", by_alias=True)
        return to_json_values(plain)


class EventDecoder:
    """Reads the events of one class. A JSON codec makes one for each class it meets.

    Attributes:
        decode_envelope: Reads an envelope with such an event in one call. For an ad-hoc event, the
            event in the envelope is a dict.
        direct_ints: The attributes whose integers have to be within int64.
        has_rules: True if `may_break_rules` has to be asked.
    """

    def __init__(self, cls: type[Any]) -> None:
        kind: Any = dict[str, Any] if cls is AdHocEvent else cls
        self.decode_envelope: Callable[[bytes], Envelope]
        if adapter_of(cls) is PYDANTIC:
            self._rules = _UNTYPED
            self._decode = _pydantic_decoder(cls)
            self.decode_envelope = _pydantic_envelope_decoder(cls)
        else:
            self.decode_envelope = msgspec.json.Decoder(envelope_of(kind)).decode
            self._rules = ValueRules.of(kind)
            self._decode = msgspec.json.Decoder(kind).decode
        self.direct_ints = self._rules.direct_ints or ()
        self._deep_ints = self._rules.direct_ints is None
        self.has_rules = self._deep_ints or self._rules.datetimes

    def may_break_rules(self, data: bytes) -> bool:
        """Tell whether a message may have an integer or a datetime that Go would refuse."""
        return (self._deep_ints and has_int64_run(data)) or (
            self._rules.datetimes and has_loose_datetime(data)
        )

    def decode_event(self, raw: bytes) -> Any:
        """Return the event in the bytes."""
        event, rules = self._decode(raw), self._rules
        if (rules.ints and has_int64_run(raw)) or (rules.datetimes and has_loose_datetime(raw)):
            rules.check(msgspec.json.decode(raw))
        return event


def _check_numbers(raw: bytes) -> None:
    """Refuse the numbers that pydantic accepts and msgspec does not: NaN and 1e400."""
    msgspec.json.decode(raw, type=dict[str, Any])


def _pydantic_decoder(cls: Any) -> Callable[[bytes], Any]:
    def decode(raw: bytes) -> Any:
        _check_numbers(raw)
        return cls.model_validate_json(raw)

    return decode


def _pydantic_envelope_decoder(cls: Any) -> Callable[[bytes], Envelope]:
    # The event data is skipped, but it must be JSON. So NaN is refused.
    decode_raw = msgspec.json.Decoder(envelope_of(msgspec.Raw)).decode
    has_exact_types = make_pydantic_type_check(cls)
    validate: Callable[[bytes], Any] = cls.model_validate_json

    def decode_envelope(data: bytes) -> Envelope:
        envelope: Envelope = decode_raw(data)
        raw = bytes(envelope.event)
        event = validate(raw)
        # The model is not validated twice, because a validator may have effects.
        if not has_exact_types(event):
            _check_numbers(raw)
        msgspec.structs.force_setattr(envelope, "event", event)
        return envelope

    return decode_envelope


def _may_have_nan(event: Any) -> bool:
    """Tell whether an event may have a float that JSON does not have, at any depth."""
    try:
        data = msgspec.msgpack.encode(event)
    except Exception:  # noqa: BLE001 - such as an integer that MessagePack does not have
        return True
    # A float begins with CB. The next bits of NaN and the infinities are ones, apart from the sign.
    # In UTF-8, neither byte can follow a CB.
    return data.find(b"\xcb\x7f") >= 0 or data.find(b"\xcb\xff") >= 0
