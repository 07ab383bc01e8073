"""The JSON codec: envelopes to bytes and back, in the Go library's format.

The messages and the inbox of an open bus call the codec, once for each event that leaves or enters
the process. A codec keeps a prepared encoder and decoder for each event class.

Theory of operation. One call of msgspec writes or reads a whole envelope. But msgspec accepts some
values that Go would refuse or change silently: integers beyond int64, datetimes without an offset,
and NaN, which it writes as null. It also sets no limit to the size of a message, to its depth and
to the length of its numbers, so hostile input could be slow to parse. To look at every value in
Python would cost more than all of msgspec's work.

So each check comes twice: a cheap bound, and an exact test. A bound may be wrong in one direction
only: it may suspect a message that is fine, but it never passes one that is not. Only a suspected
message pays for the exact test.

Encoding: the values of most events have exactly the annotated types (see `round_trip`). Then the
class is the bound: it tells how deep the event can be, and that its numbers are short. Such an
event is written as it is (`EventEncoder.is_direct`). For the others, `EventEncoder.needs_check`
looks for signs of values that Go would refuse, and the slow path converts the event to built-in
values, checks each of them and writes them.

Decoding: a message may have keys that the class does not have, so the bounds are over the bytes.
They use operations that run in C (`len`, `replace`, `translate`, `find`):

- Size: `len` is exact.
- Depth: the number of opening brackets is at least the depth. Only if there are more than
  `max_depth` of them is the nesting computed, without the brackets in strings.
- Digits: a number beyond int64 has 19 digits in a row, after all digits are made alike. A long
  number has a third of its digits in a row, because it has at most three parts: integer, fraction
  and exponent. A look at every nth byte finds the candidates.
- Datetimes: a regular expression finds a day and an hour, as in `-05 12:`, that are not a part of
  an RFC 3339 datetime with an offset. Another one finds escapes that could hide them.

The envelope and the event are read in one call if the event has the registered class of its
channel; otherwise in steps, which also find the exact reason of a refusal.
"""

# `template_of` is no method, because users should not see it.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from typing import Any, Protocol

import msgspec

from .._errors import DecodeError, EncodeError
from .._events.event import AdHocEvent, Event
from .._events.event_types import (
    PYDANTIC,
    SUPPORTED_CLASSES,
    EventTypeAdapter,
    adapter_of,
    describe_class,
)
from .._events.registry import EventRegistry
from .._events.round_trip import (
    TypeCheck,
    check_same,
    check_same_model,
    is_complete,
    make_pydantic_type_check,
    make_type_check,
)
from .._events.value_rules import (
    INT64_MAX,
    INT64_MIN,
    ValueRules,
    WireFormatError,
    to_json_values,
)
from .._suggestions import suggest_options
from .envelope import (
    Envelope,
    RawEnvelope,
    check_key_case,
    envelope_of,
    from_wire,
    resolve_event_type,
    to_wire,
    untyped_class,
)
from .template import MessageTemplate

MAX_MESSAGE_BYTES = 1 << 20
MAX_DEPTH_LEVELS = 64
MAX_NUMBER_DIGITS = 400
MAX_EXCERPT_CHARS = 120

# All digits are made alike. To find bytes by `find` is faster than by `in`, which first takes them
# for a number.
_DIGITS_TO_ZERO = bytes.maketrans(b"123456789", b"000000000")
# The shortest number that can be beyond int64. Of so many bytes in a row, three are every sixth.
_INT64_DIGITS = b"0" * 19
_THREE_DIGITS = b"000"
# The metadata at the end of an envelope, such as the origin, have many digits by nature.
_MIN_SLICED_BYTES = 512
_TAIL_BYTES = 256
# A number has at most three parts of digits: integer, fraction and exponent.
_MAX_PARTS = 3
# The longest numbers in typed fields are floats, such as -2.2250738585072014e-308.
_MAX_TYPED_DIGITS = 24

# If the closing quote is missing, a string extends to the end of the data. So no part of a hostile
# input is scanned twice.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_NUMBER = re.compile(rb"[-+.0-9eE]++")
_NOT_BRACKETS_OR_QUOTES = bytes(set(range(256)) - set(b'[]{}"'))
_BRACES_TO_BRACKETS = bytes.maketrans(b"{}", b"[]")

# The time of day in a datetime that is not RFC 3339 with an offset.
_LOOSE_DATETIME = re.compile(
    rb'-\d\d(?!T\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)")[Tt ]\d\d:', re.ASCII
)
# An escaped character of a datetime: + - . : digits, T or t.
_ESCAPED_DATETIME = re.compile(rb"\\u00(?:2[0bBdDeE]|3[0-9aA]|5[4aA]|7[4aA])")
_DATETIME = re.compile(rb"-\d\dT\d\d:")

# Pydantic models and ad-hoc events have no annotations that msgspec can read.
_UNTYPED = ValueRules.of(dict[str, Any])


class Codec(Protocol):
    """Turns envelopes into bytes and back.

    JSON is the default (`JsonCodec`). Any class with these three members can be `Config.codec`.

    Example:
        >>> import zlib
        >>> class CompressedCodec:
        ...     content_type = "application/zlib"
        ...     json = JsonCodec()
        ...     def encode(self, envelope):
        ...         return zlib.compress(self.json.encode(envelope))
        ...     def decode(self, data, *, event_name, registry):
        ...         try:
        ...             text = zlib.decompress(data)
        ...         except zlib.error as error:
        ...             raise DecodeError(event_name, "not compressed") from error
        ...         return self.json.decode(text, event_name=event_name, registry=registry)
        >>> config = Config(codec=CompressedCodec())
    """

    @property
    def content_type(self) -> str:
        """The media type of the bytes."""
        ...

    def encode(self, envelope: Envelope) -> bytes:
        """Return the bytes of an envelope.

        Raises:
            EncodeError: The envelope cannot be written. All other exceptions are wrapped in it.
        """
        ...

    def decode(self, data: bytes, *, event_name: str, registry: EventRegistry) -> Envelope:
        """Return the envelope in the bytes, with its event validated against the registered class.

        Args:
            data: The bytes of one message.
            event_name: The event name of the channel. The envelope must have the same one.
            registry: The registry that knows the class.

        Raises:
            DecodeError: The bytes are not such an envelope. All other exceptions are wrapped in it.
        """
        ...


def _always(event: object) -> bool:
    """Be the type check of ad-hoc events, which have no annotations."""
    return True


def _model_values(model: Any) -> dict[str, Any]:
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
        has_exact_types: The type check; see `round_trip`.

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
            (self._deep_ints and _has_int64_run(data))
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
            self.decode_envelope = _pydantic_envelope_decoder(cls, self._decode)
        else:
            self.decode_envelope = msgspec.json.Decoder(envelope_of(kind)).decode
            self._rules = ValueRules.of(kind)
            self._decode = msgspec.json.Decoder(kind).decode
        self.direct_ints = self._rules.direct_ints or ()
        self._deep_ints = self._rules.direct_ints is None
        self.has_rules = self._deep_ints or self._rules.datetimes

    def may_break_rules(self, data: bytes) -> bool:
        """Tell whether a message may have an integer or a datetime that Go would refuse."""
        return (self._deep_ints and _has_int64_run(data)) or (
            self._rules.datetimes and _has_loose_datetime(data)
        )

    def decode_event(self, raw: bytes) -> Any:
        """Return the event in the bytes."""
        event, rules = self._decode(raw), self._rules
        if (rules.ints and _has_int64_run(raw)) or (rules.datetimes and _has_loose_datetime(raw)):
            rules.check(msgspec.json.decode(raw))
        return event


def _pydantic_decoder(cls: Any) -> Callable[[bytes], Any]:
    def decode(raw: bytes) -> Any:
        # msgspec first: pydantic's parser accepts NaN and reads 1e400 as infinity.
        msgspec.json.decode(raw, type=dict[str, Any])
        return cls.model_validate_json(raw)

    return decode


def _pydantic_envelope_decoder(
    cls: Any, decode: Callable[[bytes], Any]
) -> Callable[[bytes], Envelope]:
    # The event data is skipped, but it must be JSON. So NaN is refused.
    decode_raw = msgspec.json.Decoder(envelope_of(msgspec.Raw)).decode
    has_exact_types = make_pydantic_type_check(cls)
    validate: Callable[[bytes], Any] = cls.model_validate_json

    def decode_envelope(data: bytes) -> Envelope:
        envelope: Envelope = decode_raw(data)
        raw = bytes(envelope.event)
        event = validate(raw)
        # Otherwise it may have a number that pydantic has read as infinity.
        if not has_exact_types(event):
            event = decode(raw)
        msgspec.structs.force_setattr(envelope, "event", event)
        return envelope

    return decode_envelope


def _has_int64_run(data: bytes) -> bool:
    """Tell whether the data may contain a number beyond int64."""
    if len(data) > _MIN_SLICED_BYTES and (
        data[:-_TAIL_BYTES:6].translate(_DIGITS_TO_ZERO).find(_THREE_DIGITS) < 0
    ):
        # Together with the digits before it that may belong to the same number.
        data = data[-_TAIL_BYTES - len(_INT64_DIGITS) :]
    return data.translate(_DIGITS_TO_ZERO).find(_INT64_DIGITS) >= 0


def _may_have_nan(event: Any) -> bool:
    """Tell whether an event may have a float that JSON does not have, at any depth."""
    try:
        data = msgspec.msgpack.encode(event)
    except Exception:  # noqa: BLE001 - such as an integer that MessagePack does not have
        return True
    # A float begins with CB. The next bits of NaN and the infinities are ones, apart from the sign.
    # In UTF-8, neither byte can follow a CB.
    return data.find(b"\xcb\x7f") >= 0 or data.find(b"\xcb\xff") >= 0


def _has_only_utc(data: bytes) -> bool:
    """Tell whether all datetimes in the data are RFC 3339 in UTC; False if it is not certain."""
    # Without its digits, such a datetime is `--T::Z` or `--T::.Z`.
    rest = data.translate(None, b"0123456789")
    in_utc = rest.count(b'--T::Z"') + rest.count(b'--T::.Z"')
    return rest.count(b"--T:") == in_utc and rest.find(b"-- :") < 0 and rest.find(b"--t:") < 0


def _has_zeros(data: bytes) -> bool:
    """Tell whether the data may contain a datetime in UTC whose fraction ends with a zero."""
    # A zero before the Z is that of a fraction, unless it is the second digit of the seconds.
    return any(each[-2:-1] != b":" for each in data.split(b'0Z"')[:-1])


def _has_loose_datetime(data: bytes) -> bool:
    """Tell whether the data may contain a datetime that is not RFC 3339 with an offset."""
    if len(data) > _MIN_SLICED_BYTES and data.find(b"\\") < 0 and _has_only_utc(data):
        return False
    return _LOOSE_DATETIME.search(data) is not None or (
        b"\\" in data and _ESCAPED_DATETIME.search(data) is not None
    )


@suggest_options
class JsonCodec:
    """Writes and reads the JSON format of the Go library.

    A codec belongs to one thread, because it keeps an encoder and a decoder for each class.

    Example:
        >>> class Renamed(Event, name="user.renamed.json"):
        ...     user_id: int
        >>> codec = JsonCodec(max_size=65_536)
        >>> data = codec.encode(Envelope(event_name="user.renamed.json", event=Renamed(user_id=7)))
        >>> codec.decode(data, event_name="user.renamed.json", registry=default_registry).event
        Renamed(user_id=7)

    Args:
        max_size: The largest message in bytes, on send and on receive.
        max_depth: The deepest nesting of objects and lists, the levels of the envelope included.
        max_digits: The largest number of digits in a number.
        accept_go_type_names: Accept a Go type ("*main.UserCreated") as the event type of the
            channel.
        upgrade: Apply the upcasts of the registry, so that listeners get the newest version.

    Raises:
        ValueError: A limit is below 1.
    """

    content_type = "application/json"

    def __init__(
        self,
        *,
        max_size: int = MAX_MESSAGE_BYTES,
        max_depth: int = MAX_DEPTH_LEVELS,
        max_digits: int = MAX_NUMBER_DIGITS,
        accept_go_type_names: bool = False,
        upgrade: bool = True,
    ) -> None:
        check_limits(max_size=max_size, max_depth=max_depth, max_digits=max_digits)
        check_flags(accept_go_type_names=accept_go_type_names, upgrade=upgrade)
        self._max_size = max_size
        self._max_depth = max_depth
        self._max_digits = max_digits
        # One part of a longer number has at least so many digits. If one looks at every nth byte,
        # at least three of them are in the part.
        self._min_part = max_digits // _MAX_PARTS + 1
        self._digit_step = max(1, self._min_part // 3)
        self._spaced_digits = b"0" * min(3, self._min_part)
        self._min_deep_brackets = max_depth + 1
        self._too_deep = f"nested deeper than {max_depth} levels"
        self._min_deep_bytes, self._min_deep_place = 5 * max_depth, 4 * max_depth
        self._accept_go_type_names = accept_go_type_names
        self._upgrade = upgrade
        # An event whose values have the annotated types has no longer numbers, so its class tells
        # whether it is within the limits of depth and digits. The envelope adds one level.
        self._max_levels = max_depth - 1 if max_digits >= _MAX_TYPED_DIGITS else -1
        self._write = msgspec.json.Encoder().encode
        self._write_model = msgspec.json.Encoder(enc_hook=_model_values).encode
        self._read = msgspec.json.Decoder(RawEnvelope).decode
        self._encoders: dict[type[Any], EventEncoder] = {}
        self._decoders: dict[type[Any], EventDecoder] = {}

    def encode(self, envelope: Envelope) -> bytes:
        """Return the compact JSON of an envelope, with the keys in Go's order.

        Raises:
            EncodeError: The message is too large or too deep, or the event has a value that JSON or
                Go does not have: NaN, a naive datetime, an integer beyond int64 in a typed field, a
                lone surrogate, or an arbitrary object.
        """
        event: object = envelope.event
        try:
            cls = type(event)
            encoder = self._encoders.get(cls) or self._encoder_of(cls)
            # CPython 3.11 looks an attribute up slowly if it is called at once.
            has_exact_types, write = encoder.has_exact_types, self._write
            exact = has_exact_types(event)
            data: bytes | None
            if exact and encoder.is_direct:
                data = write(to_wire(envelope, event))
                if len(data) <= self._max_size:
                    return data
            if exact and encoder.is_dated:
                data = write(to_wire(envelope, event))
                if len(data) <= self._max_size and _has_only_utc(data) and not _has_zeros(data):
                    return data
            if exact and encoder.is_model:
                data = self._write_model(to_wire(envelope, event))
                self._check_limits(data)
                return data
            data = None
            if encoder.single_pass:
                try:
                    body = event if encoder.native else encoder.body(event)
                    data = self._write(to_wire(envelope, body))
                except TypeError:
                    # Perhaps pydantic can write it. If not, the slow path raises the exact reason.
                    pass
                else:
                    self._check_limits(data)
                    if encoder.needs_check(event, data):
                        data = None
            if data is None:
                data = self._encode_checked(envelope, encoder)
            if not exact and encoder.can_be_read(event):
                self._read_back(encoder, event, data)
        except Exception as error:
            raise EncodeError(envelope.event_name, reason_of(error)) from error
        return data

    def _encode_checked(self, envelope: Envelope, encoder: EventEncoder) -> bytes:
        body = encoder.checked_body(envelope.event)
        data = self._write(to_wire(envelope, body))
        self._check_limits(data)
        if _has_int64_run(data):
            encoder.rules.check(body)
        return data

    def _read_back(self, encoder: EventEncoder, event: Any, data: bytes) -> None:
        """Refuse an event that a reader would refuse, or would get as another one."""
        cls: Any = event.__class__
        raw: Any = self._read(data).event_data
        encoder.check_same(event, self._decoder_of(cls).decode_event(bytes(raw)))

    def decode(self, data: bytes, *, event_name: str, registry: EventRegistry) -> Envelope:
        """Return the envelope in the bytes, with its event validated; see `Codec.decode`.

        Raises:
            DecodeError: The bytes are not an envelope of this event name, or break a limit or a
                rule of the wire format.
        """
        try:
            if not data.isascii():
                _check_encoding(data)
            # The limits come first: they bound the work of all that follows.
            size, envelope = len(data), None
            if size > self._max_size:
                self._check_size(data)
            cls = registry.type_of(event_name) or untyped_class(registry)
            # Without lists, each level takes five bytes, as in `{"":{}}`, and four up to its brace.
            if (
                data.replace(b"[", b"", 1) is not data
                or (size > self._min_deep_bytes and data.rfind(b"{") >= self._min_deep_place)
            ) and self._has_many_brackets(data):
                envelope = self._read_as_written(data, cls)
                if envelope is None and _is_deeper(data, self._max_depth):
                    raise WireFormatError(self._too_deep)
            if size > self._max_digits and (
                data[:: self._digit_step].translate(_DIGITS_TO_ZERO).find(self._spaced_digits) >= 0
            ):
                self._check_digits(data)
            if cls is not None:
                try:
                    decoder = self._decoders.get(cls) or self._decoder_of(cls)
                    # CPython 3.11 looks an attribute up slowly if it is called at once.
                    decode_envelope = decoder.decode_envelope
                    envelope = envelope or decode_envelope(data)
                    if decoder.has_rules and decoder.may_break_rules(data):
                        envelope = None
                    else:
                        event = envelope.event
                        for name in decoder.direct_ints:
                            # A dataclass need not have set the attribute.
                            number = getattr(event, name, 0)
                            if type(number) is int and not INT64_MIN <= number <= INT64_MAX:
                                envelope = None
                except Exception:  # noqa: BLE001 - it may have another class
                    envelope = None
            # The usual form was read in one call. All others are read in steps, which also tell the
            # reason of a refusal.
            if envelope is None or not event_name == envelope.event_name == envelope.event_type:
                envelope = self._decode_in_steps(data, event_name, registry)
            elif cls is AdHocEvent:
                msgspec.structs.force_setattr(envelope, "event", Event(event_name, envelope.event))
            if self._upgrade and registry.has_upcasts:
                event = registry.upgrade(envelope.event)
                if event is not envelope.event:
                    envelope = msgspec.structs.replace(envelope, event=event)
        except Exception as error:
            raise DecodeError(event_name, reason_of(error), excerpt=excerpt_of(data)) from error
        return envelope

    def _read_as_written(self, data: bytes, cls: type[Any] | None) -> Envelope | None:
        """Return the envelope if this codec writes the same bytes for it; otherwise None.

        Then the message is not deeper than its class. If there are escapes in its strings, to write
        it again is cheaper than to look for the brackets outside of strings.
        """
        if cls is None or data.find(b"\\") < 0 or not self._encoder_of(cls).is_direct:
            return None
        try:
            self._check_digits(data)
            envelope = self._decoder_of(cls).decode_envelope(data)
            return envelope if self._write(envelope) == data else None
        except Exception:  # noqa: BLE001 - the checks that follow find the reason
            return None

    def _decode_in_steps(self, data: bytes, event_name: str, registry: EventRegistry) -> Envelope:
        check_key_case(msgspec.json.decode(data, type=dict[str, msgspec.Raw]))
        wire = self._read(data)
        event_type, cls = resolve_event_type(
            wire, event_name, registry, accept_go_type_names=self._accept_go_type_names
        )
        if wire.event_data is msgspec.UNSET:
            raise WireFormatError("event_data is missing")
        raw = bytes(wire.event_data)
        # As in Go, null data is read as an object without keys.
        event = self._decoder_of(cls).decode_event(b"{}" if raw == b"null" else raw)
        if cls is AdHocEvent:
            event = Event(event_name, event)
        return from_wire(wire, event_type, event)

    def _encoder_of(self, cls: type[Any]) -> EventEncoder:
        encoder = self._encoders.get(cls)
        if encoder is None:
            encoder = self._encoders[cls] = EventEncoder(cls, max_levels=self._max_levels)
        return encoder

    def _decoder_of(self, cls: type[Any]) -> EventDecoder:
        decoder = self._decoders.get(cls)
        if decoder is None:
            decoder = self._decoders[cls] = EventDecoder(cls)
        return decoder

    def _check_size(self, data: bytes) -> None:
        if len(data) > self._max_size:
            raise WireFormatError(f"{len(data)} bytes are above the limit of {self._max_size}")

    def _check_limits(self, data: bytes) -> None:
        """Refuse a message that is too large, too deep or has a number that is too long."""
        self._check_size(data)
        self._check_depth(data)
        self._check_digits(data)

    def _check_depth(self, data: bytes) -> None:
        if self._has_many_brackets(data) and _is_deeper(data, self._max_depth):
            raise WireFormatError(self._too_deep)

    def _has_many_brackets(self, data: bytes) -> bool:
        """Tell whether there are more opening brackets than levels allowed."""
        most = self._min_deep_brackets
        # Counting brackets by removing them is three times as fast as `bytes.count`.
        others = len(data.replace(b"{", b"", most)) + len(data.replace(b"[", b"", most))
        return 2 * len(data) - others >= most

    def _check_digits(self, data: bytes) -> None:
        if (
            len(data) > self._max_digits
            and data[:: self._digit_step].translate(_DIGITS_TO_ZERO).find(self._spaced_digits) >= 0
            and data.translate(_DIGITS_TO_ZERO).find(b"0" * self._min_part) >= 0
            and _most_digits(data) > self._max_digits
        ):
            raise WireFormatError(f"a number of more than {self._max_digits} digits")


def _check_encoding(data: bytes) -> None:
    if data.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        raise WireFormatError("a byte order mark; the format is UTF-8 without one")
    data.decode()


def _is_deeper(data: bytes, limit: int) -> bool:
    """Tell whether the brackets outside of strings nest deeper than a limit."""
    if b"\\" in data:
        # Without the escapes, a quote begins or ends a string. The escaped backslashes come first,
        # because a quote after one of them is not escaped.
        data = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    brackets = data.translate(_BRACES_TO_BRACKETS, _NOT_BRACKETS_OR_QUOTES)
    # A bracket is in a string if the number of quotes before it is odd. Without a pair of quotes it
    # is odd or even as before. Often no quotes are left: there is no bracket in any string.
    brackets = brackets.replace(b'""', b"")
    if b'"' in brackets:
        brackets = b"".join(brackets.split(b'"')[::2])
    if b"[" * (limit + 1) in brackets:
        return True
    # Each round removes the innermost pairs. A mismatch of braces and brackets does not matter
    # here; the parser refuses it.
    for _ in range(limit):
        before = len(brackets)
        brackets = brackets.replace(b"[]", b"")
        if len(brackets) == before:
            return False
    return b"[]" in brackets


def _most_digits(data: bytes) -> int:
    numbers = _NUMBER.findall(_STRING.sub(b"", data))
    return max(
        (len(each) - len(each.translate(None, b"0123456789")) for each in numbers), default=0
    )


def reason_of(error: Exception) -> str:
    """Return the reason of a refusal in one sentence."""
    if isinstance(error, UnicodeError):
        return f"not UTF-8: {error}"
    if isinstance(error, RecursionError):
        return "nested too deep"
    text = str(error)
    return text if isinstance(error, ValueError) and text else f"{type(error).__name__}: {text}"


def excerpt_of(data: bytes) -> str:
    """Return the first bytes of a message, escaped, in at most `MAX_EXCERPT_CHARS` characters."""
    shown_bytes = MAX_EXCERPT_CHARS - 2
    shown = ascii(bytes(data[:shown_bytes]))[2:-1]
    if len(shown) <= MAX_EXCERPT_CHARS and len(data) <= shown_bytes:
        return shown
    return f"{shown[: MAX_EXCERPT_CHARS - 3]}..."


def template_of(
    codec: JsonCodec, cls: type[Any], event_name: str, origin: str, max_size: int | None
) -> MessageTemplate | None:
    """Return a template for the messages of a class; None if the codec has to look at each event.

    Args:
        codec: The codec.
        cls: The class.
        event_name: The event name of the messages.
        origin: Their origin.
        max_size: The largest message in bytes, if that is less than the codec's own limit.
    """
    encoder = codec._encoder_of(cls)
    if not encoder.is_direct:
        return None
    return MessageTemplate(
        event_name,
        origin,
        can_write=encoder.has_exact_types,
        write=codec._write,
        max_size=codec._max_size if max_size is None else min(max_size, codec._max_size),
    )


def check_limits(**limits: Any) -> None:
    """Refuse a limit of a codec that is not an integer of at least 1.

    Raises:
        TypeError: A limit is not an int.
        ValueError: A limit is below 1.
    """
    for name, limit in limits.items():
        if isinstance(limit, bool) or not isinstance(limit, int):
            raise TypeError(f"{name} must be an int, not {limit!r}")
        if limit < 1:
            raise ValueError(f"{name} must be at least 1, not {limit}")


def check_flags(**flags: Any) -> None:
    """Refuse a switch of a codec that is neither True nor False.

    Raises:
        TypeError: A switch is another object.
    """
    for name, flag in flags.items():
        if not isinstance(flag, bool):
            raise TypeError(f"{name} must be True or False, not {flag!r}")
