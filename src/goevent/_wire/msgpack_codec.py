"""The MessagePack codec: the envelope of the JSON codec as a map with built-in values.

The messages and the inbox of an open bus call the codec.

Theory of operation. An event that passes its type check (see `type_check`), and whose class bounds
its depth, is written by msgspec as it is. All other events are converted to built-in values, which
are looked at one by one. A received message is decoded into the class, written again and compared:
if the bytes are the same, it has no other values than the annotated ones. Otherwise it is read as
built-in values, and each of them is checked.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import datetime
from typing import Any

import msgspec

from .._errors import DecodeError, EncodeError
from .._events.event import AdHocEvent, Event
from .._events.event_types import PYDANTIC, adapter_of
from .._events.registry import EventRegistry
from .._events.value_rules import ValueRules, WireFormatError, convert
from .._suggestions import suggest_options
from .codec import (
    MAX_DEPTH_LEVELS,
    MAX_MESSAGE_BYTES,
    check_flags,
    check_limits,
    excerpt_of,
    reason_of,
)
from .envelope import (
    Envelope,
    RawEnvelope,
    check_key_case,
    envelope_of,
    from_wire,
    resolve_event_type,
    to_wire,
)
from .event_coders import EventEncoder

_KEPT_TYPES = (datetime, bytes, bytearray, memoryview)
_MISSING = object()
# The event data is one level below the envelope.
_ENVELOPE_LEVEL = 1
_DATA_LEVEL = 2


@suggest_options
class MsgpackCodec:
    """Writes and reads envelopes as MessagePack. Datetimes are RFC 3339 text, as in JSON.

    An integer in an untyped field must be within uint64, the largest integer of MessagePack. Apart
    from that, the arguments and the refused values are those of `JsonCodec`.

    Example:
        >>> config = Config(codec=MsgpackCodec())

    Args:
        max_size: The largest message in bytes, on send and on receive.
        max_depth: The deepest nesting of maps and arrays, the levels of the envelope included.
        accept_go_type_names: Accept a Go type ("*main.UserCreated") as the event type of the
            channel.
        upgrade: Apply the upcasts of the registry, so that listeners get the newest version.

    Raises:
        ValueError: A limit is below 1.
    """

    content_type = "application/msgpack"

    def __init__(
        self,
        *,
        max_size: int = MAX_MESSAGE_BYTES,
        max_depth: int = MAX_DEPTH_LEVELS,
        accept_go_type_names: bool = False,
        upgrade: bool = True,
    ) -> None:
        check_limits(max_size=max_size, max_depth=max_depth)
        check_flags(accept_go_type_names=accept_go_type_names, upgrade=upgrade)
        self._max_size = max_size
        self._max_depth = max_depth
        self._accept_go_type_names = accept_go_type_names
        self._upgrade = upgrade
        self._write = msgspec.msgpack.Encoder().encode
        self._read = msgspec.msgpack.Decoder().decode
        self._encoders: dict[type[Any], EventEncoder] = {}
        self._envelope_decoders: dict[type[Any], Callable[[bytes], Envelope]] = {}
        self._rules: dict[type[Any], ValueRules] = {}

    def encode(self, envelope: Envelope) -> bytes:
        """Return an envelope as MessagePack; see `Codec.encode`.

        Raises:
            EncodeError: The message is too large or too deep, or the event has a value that
                MessagePack or Go does not have.
        """
        event: object = envelope.event
        try:
            cls = type(event)
            encoder = self._encoders.get(cls) or self._encoder_of(cls)
            exact = encoder.has_exact_types(event)
            if exact and encoder.is_direct:
                data = self._write(to_wire(envelope, event))
                if len(data) <= self._max_size:
                    return data
            body = encoder.checked_body(event, kept=_KEPT_TYPES)
            self._check_values(body, _DATA_LEVEL)
            encoder.rules.check(body)
            if not exact and encoder.can_be_read(event):
                fields = self._read(self._write(body))
                encoder.check_same(event, self._event(cls, envelope.event_type, fields))
            data = self._write(to_wire(envelope, body))
            if len(data) > self._max_size:
                raise WireFormatError(f"{len(data)} bytes are above the limit of {self._max_size}")
        except Exception as error:
            raise EncodeError(envelope.event_name, reason_of(error)) from error
        return data

    def decode(self, data: bytes, *, event_name: str, registry: EventRegistry) -> Envelope:
        """Return the envelope in the bytes, with its event validated; see `Codec.decode`.

        Raises:
            DecodeError: The bytes are not an envelope of this event name, or break a limit or a
                rule of the wire format.
        """
        try:
            if len(data) > self._max_size:
                raise WireFormatError(f"{len(data)} bytes are above the limit of {self._max_size}")
            usual = self._decode_usual(data, event_name, registry)
            if usual is not None:
                return usual
            found: Any = self._read(data)
            self._check_values(found, _ENVELOPE_LEVEL)
            fields = msgspec.convert(found, dict[str, Any])
            check_key_case(fields)
            body = fields.pop("event_data", _MISSING)
            wire = msgspec.convert(fields, RawEnvelope)
            event_type, cls = resolve_event_type(
                wire, event_name, registry, accept_go_type_names=self._accept_go_type_names
            )
            if body is _MISSING:
                raise WireFormatError("event_data is missing")
            event = self._event(cls, event_type, {} if body is None else body)
            if self._upgrade:
                event = registry.upgrade(event)
            return from_wire(wire, event_type, event)
        except Exception as error:
            raise DecodeError(event_name, reason_of(error), excerpt=excerpt_of(data)) from error

    def _decode_usual(
        self, data: bytes, event_name: str, registry: EventRegistry
    ) -> Envelope | None:
        """Return the envelope if this codec writes the same bytes without a look at its values.

        Then its depth is that of its class, and it has no other values than the annotated ones.
        """
        cls = registry.type_of(event_name)
        if cls is None or registry.has_upcasts:
            return None
        try:
            encoder = self._encoders.get(cls) or self._encoder_of(cls)
            if not encoder.is_direct:
                return None
            envelope = self._envelope_decoders[cls](data)
            if (
                event_name == envelope.event_name == envelope.event_type
                and encoder.has_exact_types(envelope.event)
                and self._write(envelope) == data
            ):
                return envelope
        except Exception:  # noqa: BLE001 - it has another form; if it is wrong, the steps tell why
            return None
        return None

    def _encoder_of(self, cls: type[Any]) -> EventEncoder:
        encoder = EventEncoder(cls, max_levels=self._max_depth - _ENVELOPE_LEVEL)
        if encoder.is_direct:
            self._envelope_decoders[cls] = msgspec.msgpack.Decoder(envelope_of(cls)).decode
        self._encoders[cls] = encoder
        return encoder

    def _event(self, cls: type[Any], event_type: str, body: object) -> Any:
        if not isinstance(body, dict):
            raise WireFormatError(f"event_data is a {type(body).__name__}, not a map")
        fields = msgspec.convert(body, dict[str, Any])
        if cls is AdHocEvent:
            return Event(event_type, fields)
        if adapter_of(cls) is PYDANTIC:
            return cls.model_validate(fields)
        rules = self._rules.get(cls)
        if rules is None:
            rules = self._rules[cls] = ValueRules.of(cls)
        return convert(fields, cls, rules)

    def _check_values(self, value: Any, level: int) -> None:
        """Refuse values that JSON does not have, and nesting beyond the limit."""
        if isinstance(value, dict | list | tuple):
            if level > self._max_depth:
                raise WireFormatError(f"nested deeper than {self._max_depth} levels")
            items: Any = value  # pyright: ignore[reportUnknownVariableType]
            for item in (*items, *items.values()) if isinstance(value, dict) else items:
                self._check_values(item, level + 1)
        elif isinstance(value, float) and not math.isfinite(value):
            raise WireFormatError(f"{value} is not a finite number")
        elif isinstance(value, msgspec.msgpack.Ext):
            raise WireFormatError(f"an extension type with code {value.code}")
